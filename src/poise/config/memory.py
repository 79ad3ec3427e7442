"""How much memory there is, and what is refused because it would not fit."""

from __future__ import annotations

import os
from pathlib import Path

from poise.errors import ConfigError

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")

TRAINED = 4
"""Numbers kept of each parameter: itself, its gradient, and the optimiser's two moments."""


def machine_memory() -> int | None:
    """Bytes of memory that this machine, or the container that this process is in, has; None where it does not say."""
    known = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    known += [limit for limit in map(_number, _LIMITS) if limit is not None]
    return min(known, default=None)


def free_memory() -> int | None:
    """Bytes that a process may still take without swapping; None where the system does not say."""
    known = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        known += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    for limit, used in zip(map(_number, _LIMITS), map(_number, _USED), strict=True):
        if limit is not None and used is not None:
            known.append(max(0, limit - used))
    return min(known, default=None)


def require(size: int, what: str, cure: str = "") -> None:
    """Refuses what would not fit into memory, before any of it is taken.

    Args:
        size: bytes that it takes at least.
        what: takes them, in words that name the setting and its value.
        cure: a sentence about what to do instead.

    Raises:
        ConfigError: there is less memory; the sentence says how much.
    """
    free = free_memory() if size > 2**24 else None  # what is small needs no look
    if free is not None and size > free:
        advice = f" {cure}" if cure else ""
        raise ConfigError(f"{what} takes {readable(size)} of memory, and {readable(free)} are free.{advice}")


def readable(size: float) -> str:
    """Bytes in the unit that fits: `'26.3 GiB'`."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def _number(file: str) -> int | None:
    """What a file of the system says; None where there is none, or it says `max`."""
    try:
        return int(Path(file).read_text())
    except (OSError, ValueError):
        return None
