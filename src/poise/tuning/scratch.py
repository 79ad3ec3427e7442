"""Temporary folders that go with their process, however that ends."""

from __future__ import annotations

import atexit
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import filelock

OLD_S = 60.0
"""Age in seconds from which on a folder that no process holds is removed."""


class Scratch:
    """A folder of this process's own, which holds it by a lock; those of its kind and its user
    whose process was killed are removed first.

    Args:
        kind: a part of its name.

    Attributes:
        path: the folder.
    """

    def __init__(self, kind: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"poise-{kind}-"))
        self._lock = filelock.FileLock(self.path / ".lock")
        self._lock.acquire()
        atexit.register(self.remove)
        for other in self.path.parent.glob(f"poise-{kind}-*"):
            with suppress(OSError, filelock.Timeout):
                self._remove_dead(other)

    def _remove_dead(self, other: Path) -> None:
        about, lock = other.lstat(), other / ".lock"
        ours = stat.S_ISDIR(about.st_mode) and about.st_uid == self.path.stat().st_uid
        if ours and time.time() - about.st_mtime > OLD_S and stat.S_ISREG(lock.lstat().st_mode):
            with filelock.FileLock(lock).acquire(timeout=0):
                shutil.rmtree(other, ignore_errors=True)

    def remove(self) -> None:
        """Removes it."""
        shutil.rmtree(self.path, ignore_errors=True)
