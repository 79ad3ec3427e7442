"""Segments: rows of a replay that will never change, so that checkpoints can share their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_SMALLEST, _MOST = 4 * 2**20, 64


@dataclass
class Segment:
    """Rows that a checkpoint keeps in a file of their own.

    Attributes:
        name: of the file, without its ending.
        arrays: gives the rows; of rows that are no longer live, whatever stands there now.
        file: where a checkpoint has it already.
        fingerprint: of that file: its size and hash.
        identity: of that file: another may have taken its place.
    """

    name: str
    arrays: Callable[[], dict[str, np.ndarray]] = field(compare=False)
    file: Path | None = field(default=None, compare=False)
    fingerprint: dict[str, Any] | None = field(default=None, compare=False)
    identity: tuple[int, int] | None = field(default=None, compare=False)

    @classmethod
    def of_file(
        cls, file: Path, arrays: Callable[[], dict[str, np.ndarray]], fingerprint: dict[str, Any]
    ) -> Segment:
        """One that a checkpoint holds."""
        made = cls(file.stem, arrays)
        made.is_at(file, fingerprint)
        return made

    def is_at(self, file: Path, fingerprint: dict[str, Any]) -> None:
        """A checkpoint has it in this file from now on."""
        self.file, self.fingerprint, self.identity = file, fingerprint, _identity(file)

    @property
    def is_there(self) -> bool:
        """Whether the file that a checkpoint had it in is still that one."""
        try:
            return self.file is not None and _identity(self.file) == self.identity
        except OSError:
            return False


def _identity(file: Path) -> tuple[int, int]:
    """What a file shares with its hard links alone."""
    found = file.stat()
    return found.st_ino, found.st_mtime_ns


def segment_rows(rows: int, size: int) -> int:
    """How many of the `rows` of a ring of `size` bytes make a segment: there are at most 64, of 4
    MiB and more."""
    count = max(1, min(_MOST, size // _SMALLEST, rows))
    return -(-rows // count)
