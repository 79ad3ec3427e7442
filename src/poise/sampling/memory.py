"""How much memory there is, and how much of it a number of bytes is."""

from __future__ import annotations

import os
from pathlib import Path

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> int | None:
    """Bytes of memory that this machine, or the container that this process is in, has; None where it does not say."""
    known = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in map(Path, _LIMITS):
        try:
            known.append(int(file.read_text()))
        except (OSError, ValueError):  # there is none, or it says `max`
            continue
    return min(known, default=None)


def readable(size: float) -> str:
    """Bytes in the unit that fits: `'26.3 GiB'`."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
