"""Starting fast, and ending in order."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that ask a process to end: from a cluster, and from a terminal that closes."""


@contextmanager
def without_collection(*, freeze: bool = False) -> Iterator[None]:
    """Runs a block without garbage collection: for imports.

    PyTorch's import makes a million objects, none of which is garbage, and the collector would walk
    them several times.

    Args:
        freeze: whether what exists at the end is never walked again. Only for processes of our own,
            not for a user's.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if freeze:
            gc.freeze()
        if enabled:
            gc.enable()
