"""Starting fast (PyTorch's import makes a million objects, and none of them is garbage), and ending
in order."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What a process is sent before it is ended: by a cluster, and by a terminal that closes."""


@contextmanager
def without_collection(*, freeze: bool = False) -> Iterator[None]:
    """Runs a block (imports) without garbage collection, which would walk every new object several
    times.

    Args:
        freeze: what exists at the end is never walked again. For processes of our own, not in a
            user's.
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
