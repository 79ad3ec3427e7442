"""Segments: rows of a replay that will never change, so that checkpoints can share their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_SMALLEST, _MOST = 4 * 2**20, 64  # bytes of a segment, and how many segments a replay has


@dataclass
class Segment:
    """Rows that a checkpoint keeps in a file of their own.

    Attributes:
        name: of the file, without its suffix.
        arrays: returns the rows; those that are overwritten already as whatever is there now.
        file: where a checkpoint has it already.
        fingerprint: the size and hash of that file.
        identity: by which to tell whether another file has taken its place.
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
        """Makes a segment that a checkpoint holds in a file."""
        made = cls(file.stem, arrays)
        made.is_at(file, fingerprint)
        return made

    def is_at(self, file: Path, fingerprint: dict[str, Any]) -> None:
        """Notes that a checkpoint has it in this file from now on."""
        self.file, self.fingerprint, self.identity = file, fingerprint, _identity(file)

    @property
    def is_there(self) -> bool:
        """Whether the file is still there, and still the same one."""
        try:
            return self.file is not None and _identity(self.file) == self.identity
        except OSError:
            return False


def _identity(file: Path) -> tuple[int, int]:
    """Inode and time of change, which a file shares with its hard links alone."""
    found = file.stat()
    return found.st_ino, found.st_mtime_ns


def segment_rows(rows: int, size: int) -> int:
    """How many of the `rows` of a ring of `size` bytes make a segment.

    There are at most 64 segments, and each has 4 MiB or more.
    """
    count = max(1, min(_MOST, size // _SMALLEST, rows))
    return -(-rows // count)
