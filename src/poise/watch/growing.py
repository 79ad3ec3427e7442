"""Files that a run writes while they are read: what was added since the last look, bounded.

A run of any length costs the same to show: results are thinned as they are read, and a file beyond
`MOST` is read from there on.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from poise.tracking.folder import episode_of, result_of

BLOCK = 4 * 2**20
"""Bytes that are read at once; a line as long as that is none that a run writes."""
MOST = 512 * 2**20
"""Bytes of a file that are read, its last ones."""
RESULTS = 1_500
"""Results that are kept, at least; twice as many at most."""
EVALUATED = b'"evaluation/'


class Growing:
    """The whole lines of a file, from where the last look ended.

    Attributes:
        size: of the file, in bytes, at the last look.
        left_out: bytes at the file's beginning that were not read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.left_out = path, 0, 0
        self._offset, self._file, self._torn = 0, -1, False

    def added(self) -> Iterator[bytes | None]:
        """Blocks of whole lines; None first where the file is another one than before."""
        try:
            file = self.path.open("rb")
        except OSError:
            return
        with file:
            size, number = file.seek(0, 2), self.path.stat().st_ino
            self.size = size
            if number != self._file or size < self._offset:  # new, or a resumed run has cut it
                self._file, self.left_out = number, max(size - MOST, 0)
                self._offset, self._torn = self.left_out, self.left_out > 0
                yield None
            file.seek(self._offset)
            while block := file.read(BLOCK):
                end = block.rfind(b"\n") + 1
                if not end:
                    if len(block) < BLOCK:
                        return  # half a line: the rest is still to come
                    end, self._torn = len(block), True
                elif self._torn:  # what is left of a line whose beginning was not read
                    self._torn = False
                    yield block[block.find(b"\n") + 1 : end]
                else:
                    yield block[:end]
                self._offset += end
                file.seek(self._offset)


def sampled(path: Path, points: int) -> list[dict[str, Any]]:
    """Results at so many places of a file, evenly spaced, and the last: as quick for a long run."""
    found: dict[int, dict[str, Any]] = {}
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            for i in range(points + 1):
                file.seek(max(0, size - 65_536) if i == points else size * i // points)
                lines = file.read(65_536 if i == points else 8_192).splitlines(keepends=True)
                whole = [line for line in lines[(i > 0) :] if line.endswith(b"\n")]
                if whole and (result := result_of(whole[-1 if i == points else 0])):
                    found[result["training_iteration"]] = result
    except OSError:
        return []
    return [found[iteration] for iteration in sorted(found)]


class Results:
    """A run's results: one in `stride`, so that there are at most `2 * RESULTS`, and all that
    evaluate (of these, too, no more).

    Attributes:
        rows: oldest first.
        evaluations: those that evaluated.
        count: results on disk.
        stride: `rows` has one in so many of them.
    """

    def __init__(self, path: Path) -> None:
        self.file = Growing(path)
        self._clear()

    def _clear(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.last: dict[str, Any] = {}
        self.count, self.stride, self._evaluated, self._every = 0, 1, 0, 1

    def read(self) -> None:
        """Takes in what was added."""
        for block in self.file.added():
            if block is None:
                self._clear()
                continue
            lines = block.splitlines()
            for line in lines:
                self._take(line)
            self.last = next(filter(None, map(result_of, reversed(lines[-3:]))), self.last)

    def _take(self, line: bytes) -> None:
        if not self.count:  # a long file is thinned from the start
            expected = self.file.size / (len(line) + 1)
            while expected / (2 * self.stride) > 1.25 * RESULTS:
                self.stride *= 2
        due = self.count % self.stride == 0
        self.count += 1
        evaluates = EVALUATED in line
        if evaluates:
            self._evaluated += 1
            evaluates = self._evaluated % self._every == 0
        if not (due or evaluates) or (result := result_of(line)) is None:
            return
        if due:
            self.rows.append(result)
            if len(self.rows) > 2 * RESULTS:
                self.rows, self.stride = self.rows[::2], 2 * self.stride
        if evaluates:
            self.evaluations.append(result)
            if len(self.evaluations) > 2 * RESULTS:
                self.evaluations, self._every = self.evaluations[::2], 2 * self._every


class Episodes:
    """A run's finished episodes as an array `[episodes, 4]`: steps, seconds, return, length."""

    def __init__(self, path: Path) -> None:
        self.file = Growing(path)
        self._blocks: list[np.ndarray] = []

    def read(self) -> np.ndarray:
        """All of them, with what was added."""
        for block in self.file.added():
            if block is None:
                self._blocks = []
            else:
                self._blocks.append(_episodes(block))
        if len(self._blocks) != 1:
            self._blocks = [np.concatenate([np.empty((0, 4)), *self._blocks])]
        return self._blocks[0]


def _episodes(block: bytes) -> np.ndarray:
    """Lines of the episodes' file: all at once where they are sound, else one by one."""
    body = block[block.find(b"\n") + 1 :] if block.startswith(b"steps") else block
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # how it says that a line is no number
        found = np.fromstring(body.replace(b"\n", b","), sep=",")
    if found.size == 4 * body.count(b"\n") and body.count(b",") == 3 * body.count(b"\n"):
        rows = found.reshape(-1, 4)
        if np.isfinite(rows[:, [0, 1, 3]]).all() and (np.diff(rows[:, 0]) >= 0).all():
            return rows
    sound = [episode for line in body.decode(errors="replace").splitlines()
             if (episode := episode_of(line)) is not None]  # fmt: skip
    return np.array(sound, np.float64).reshape(-1, 4)
