"""The memory of a run that runs on this machine: of its process and of those that it started."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def memory(status: Mapping[str, Any]) -> dict[str, float | None]:
    """Megabytes and processes by a run's status; None where they are not known (on another
    machine, or without Linux's /proc)."""
    pid = status.get("pid")
    if status.get("state") != "running" or status.get("host") != socket.gethostname():
        return {"memory_mb": None, "processes": None}
    family = [pid, *_children(pid)] if isinstance(pid, int) and not isinstance(pid, bool) else []
    sizes = [size for each in family if (size := _resident(each)) is not None]
    return {"memory_mb": round(sum(sizes), 1) or None, "processes": len(sizes) or None}


def _children(pid: int) -> list[int]:
    """The processes that a process has started itself."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(each) for each in file.read().split()[:1_000]]
    except (OSError, ValueError):
        return []


def _resident(pid: int) -> float | None:
    """Megabytes of a process that are in memory; what it shares with others counts in each."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE / 1e6
    except (OSError, ValueError, IndexError):
        return None
