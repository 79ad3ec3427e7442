"""All runs below a folder, as they are now: what the page asks for, read from their files alone."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from poise.watch.inside import Found, look
from poise.watch.rows import identity, row, stamp
from poise.watch.story import Story

EVERY_S = 1.0
"""Seconds between two looks at the folder, however many pages ask."""
OPENED = 8
"""Runs whose numbers are kept in memory: those that were asked for last."""


class Library:
    """The runs below a folder.

    Args:
        root: the folder, or a run itself.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.RLock()
        self._found = Found()
        self._looked = -EVERY_S
        self._stamps: dict[str, tuple[Any, ...]] = {}
        self._rows: dict[str, dict[str, Any]] = {}
        self._opened: OrderedDict[str, Story] = OrderedDict()
        self._version = time.time_ns() // 1_000_000  # beyond those of a server before this one

    @property
    def notes(self) -> list[str]:
        """What was left out."""
        return self._found.notes

    @property
    def studies(self) -> dict[str, Path]:
        """Folders of searches by what they are called in addresses."""
        return {identity(name): folder for name, folder in self._found.studies.items()}

    def rows(self) -> dict[str, dict[str, Any]]:
        """A row for each run; each has the `version` at which it last changed."""
        with self._lock:
            if time.monotonic() - self._looked >= EVERY_S:
                self._found = look(self.root)
                self._looked = time.monotonic()
                self._update()
            return dict(self._rows)

    def _update(self) -> None:
        there = set()
        for name, folder in self._found.runs.items():
            there.add(known := identity(name))
            now = stamp(folder)
            if self._stamps.get(known) != now:
                self._version += 1
                self._stamps[known] = now
                self._rows[known] = {**row(name, folder), "version": self._version}
        for gone in self._rows.keys() - there:
            del self._rows[gone], self._stamps[gone]
            self._opened.pop(gone, None)

    def folder(self, known: str) -> Path | None:
        """The folder of a run, by what it is called in addresses; None for any other text."""
        self.rows()
        return next((f for name, f in self._found.runs.items() if identity(name) == known), None)

    def story(self, known: str) -> Story | None:
        """All that is shown of one run; None where there is none, or it is not read."""
        folder = self.folder(known)
        if folder is None or self._rows[known]["state"] in ("refused", "damaged"):
            return None
        with self._lock:
            if known not in self._opened:
                self._opened[known] = Story(folder)
            self._opened.move_to_end(known)
            while len(self._opened) > OPENED:
                self._opened.popitem(last=False)
            return self._opened[known]
