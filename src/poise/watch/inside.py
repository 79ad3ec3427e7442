"""What of a folder may be read: regular files that lie in it.

A run folder may come from somebody else. A link that leads out of it, or a pipe that never ends,
is refused before it is opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from poise.tracking.find import STUDIES

READ = (
    "config.json", "status.json", "metrics.jsonl", "episodes.csv", "about.json", "log.txt",
    "opponents.csv", "behaviour.jsonl", "checkpoints", "videos", *STUDIES, "trial.json",
)  # fmt: skip
"""What is read of a run or of a search."""
DEEPEST = 4
"""Folders in each other in which runs are looked for: experiment, trial, seed, and one more."""
MOST = 20_000
"""Folders that are looked into."""


def regular(path: Path, folder: Path) -> bool:
    """Whether a file is a regular one in a folder, also after all links."""
    try:
        real = os.path.realpath(path, strict=True)
        return stat.S_ISREG(os.stat(real).st_mode) and _below(real, folder)
    except (OSError, ValueError):  # the second for a name that none can have
        return False


def _below(real: str, folder: Path) -> bool:
    return real.startswith(os.path.realpath(folder) + os.sep)


def refusal(folder: Path) -> str | None:
    """Why a folder is not read, in one sentence; None where it may be."""
    for name in READ:
        path = folder / name
        try:
            mode = path.lstat().st_mode
        except OSError:
            continue
        if stat.S_ISLNK(mode) and not _below(os.path.realpath(path), folder):
            return f"{name} is a link that leads out of the run's folder: nothing of it is read."
        if not (path.is_file() or path.is_dir()):
            return f"{name} is no regular file: nothing of this run is read."
    return None


@dataclass
class Found:
    """What lies below a folder.

    Attributes:
        runs, studies: folders by their path below it.
        notes: what was left out, a sentence each.
    """

    runs: dict[str, Path] = field(default_factory=dict)
    studies: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def look(root: Path) -> Found:
    """Looks for runs and searches in a folder, and in those below it, without following links."""
    found, links, seen = Found(), 0, 0
    for folder, names, is_link in _walk(root):
        links += is_link
        seen += 1
        name = folder.relative_to(root).as_posix()
        if "config.json" in names or "checkpoints" in names:
            found.runs[name] = folder
        if names & {*STUDIES}:
            found.studies[name] = folder
    if links:
        were = "folder was" if links == 1 else "folders were"
        found.notes.append(f"{links} {were} left out: links, which are not followed.")
    if seen >= MOST:
        found.notes.append(f"Only the first {MOST:,} folders were looked into.")
    return found


def _walk(root: Path) -> Iterator[tuple[Path, set[str], bool]]:
    """Folders with the names of what is in them; of a link, only that it is one."""
    waiting, seen = [(root, 0)], 0
    while waiting and seen < MOST:
        folder, depth = waiting.pop()
        seen += 1
        try:
            with os.scandir(folder) as entries:
                inside = list(entries)
        except OSError:
            continue
        names = {entry.name for entry in inside}
        yield folder, names, False
        if "config.json" in names or "checkpoints" in names:
            continue  # a run has none inside it
        for entry in sorted(inside, key=lambda entry: entry.name, reverse=True):
            if entry.is_symlink():
                if entry.is_dir():
                    yield folder / entry.name, set(), True
            elif entry.is_dir() and depth < DEEPEST and not entry.name.startswith("."):
                waiting.append((folder / entry.name, depth + 1))
