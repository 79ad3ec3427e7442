"""Processor time of a process and all that came of it, for each side's own environment."""

from __future__ import annotations

import psutil  # Ray brings one, once it is imported


def processor_s() -> float:
    """Seconds of this process and of its living descendants."""
    me = psutil.Process()
    total = 0.0
    for process in [me, *me.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
