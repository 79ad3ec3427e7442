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
    """

    name: str
    arrays: Callable[[], dict[str, np.ndarray]] = field(compare=False)
    file: Path | None = field(default=None, compare=False)
    fingerprint: dict[str, Any] | None = field(default=None, compare=False)


def segment_rows(rows: int, size: int) -> int:
    """How many of the `rows` of a ring of `size` bytes make a segment: there are at most 64, of 4 MiB and more."""
    count = max(1, min(_MOST, size // _SMALLEST, rows))
    return -(-rows // count)
