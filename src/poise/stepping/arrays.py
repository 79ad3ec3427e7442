"""The arrays that a batch of environments is stepped through, in private or in shared memory.

Shared memory has no name, only an open file: it is gone with the last process that has it open,
however that ends. (On Windows it has a name, and lives as long.)
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from poise.spaces.layout import Layout

_ALIGNMENT = 64  # bytes: a cache line, so that no two workers write to the same one


@dataclass
class StepArrays:
    """What goes into and comes out of a step of `B` environments.

    Attributes:
        observations, actions: leaves `[B, ...]`.
        reward: `[B]`, float64.
        terminated, truncated, lost, begun: `[B]`, bool; see `TolerantVectorEnv`.
        pulse: `[workers, 3]`, int64: a count that rises with every step of an environment, and a
            phase, by which a watcher tells slow from stuck; and the nanoseconds spent stepping.
    """

    observations: dict[str, np.ndarray]
    actions: dict[str, np.ndarray]
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    lost: np.ndarray
    begun: np.ndarray
    pulse: np.ndarray

    @classmethod
    def carve(
        cls, layouts: tuple[Layout, Layout], slots: int, workers: int = 1, buffer: Any = None
    ) -> StepArrays:
        """Lays the arrays out in `buffer`, of at least `size` bytes, or in memory of their own."""
        made: dict[str, Any] = {"observations": {}, "actions": {}}
        offset = 0
        for field, leaf, shape, dtype in _fields(layouts, slots, workers):
            if buffer is None:
                array = np.zeros(shape, dtype)
            else:
                array = np.ndarray(shape, dtype, buffer, offset)
                offset += _room(shape, dtype)
            made.update({field: {**made[field], leaf: array} if leaf else array})
        return cls(**made)

    @staticmethod
    def size(layouts: tuple[Layout, Layout], slots: int, workers: int = 1) -> int:
        """Bytes that `carve` needs."""
        return sum(_room(shape, dtype) for _, _, shape, dtype in _fields(layouts, slots, workers))

    def part(self, start: int, end: int, worker: int = 0) -> StepArrays:
        """Views of some of the environments, for one worker."""
        cut = slice(start, end)
        return StepArrays(
            {name: array[cut] for name, array in self.observations.items()},
            {name: array[cut] for name, array in self.actions.items()},
            self.reward[cut],
            self.terminated[cut],
            self.truncated[cut],
            self.lost[cut],
            self.begun[cut],
            self.pulse[worker : worker + 1],
        )


def _fields(
    layouts: tuple[Layout, Layout], slots: int, workers: int
) -> list[tuple[str, str, tuple[int, ...], np.dtype]]:
    """The arrays in their order: attribute, leaf (empty where there are none), shape and type."""
    found: list[tuple[str, str, tuple[int, ...], np.dtype]] = []
    for field, layout in zip(("observations", "actions"), layouts, strict=True):
        found += [(field, leaf.name, (slots, *leaf.shape), leaf.dtype) for leaf in layout.leaves]
    flags = ("terminated", "truncated", "lost", "begun")
    return [
        *found,
        ("reward", "", (slots,), np.dtype(np.float64)),
        *((flag, "", (slots,), np.dtype(bool)) for flag in flags),
        ("pulse", "", (workers, 3), np.dtype(np.int64)),
    ]


def _room(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Bytes that an array takes, rounded up to whole cache lines."""
    size = int(np.prod(shape)) * dtype.itemsize
    return -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT


class SharedMemory:
    """Memory that a driver makes and its worker processes map.

    Attributes:
        key: what `attach` needs. It is the number of a file descriptor that the child inherits, or
            on Windows a name.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        if sys.platform == "win32":
            self.key = f"poise-{os.getpid()}-{secrets.token_hex(8)}"
            return
        if hasattr(os, "memfd_create"):
            self._file = os.memfd_create("poise", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as unnamed:
                self._file = os.dup(unnamed.fileno())
        self.key = str(self._file)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """File descriptors that children must inherit."""
        return () if self._file is None else (self._file,)

    def map(self, size: int) -> mmap.mmap:
        """Gives the memory its size and maps it."""
        if self._file is not None:
            os.ftruncate(self._file, size)
        return self.attach(self.key, size)

    @staticmethod
    def attach(key: str, size: int) -> mmap.mmap:
        """Maps the memory that another process made."""
        if sys.platform == "win32":
            return mmap.mmap(-1, size, tagname=key)
        return mmap.mmap(int(key), size)

    def close(self) -> None:
        """Forgets the file; the memory goes with the last mapping of it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
