"""How much memory there is, and what is refused because it would not fit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from poise.config.base import AlgorithmConfig
from poise.errors import ConfigError

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")

TRAINED = 4
"""Numbers kept of each parameter: itself, its gradient, and the optimiser's two moments."""
STEP = 20
"""Bytes of a step beside its observation.

They are its action, log_prob, reward, valid and three flags, and room for more than one action.
"""
EPISODE = 150
"""Bytes that a finished episode takes in the window of episode statistics, at least."""


def machine_memory() -> int | None:
    """Bytes of memory of this machine, or of this container; None where the system does not say."""
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
        what: what takes them, in words that name the setting and its value.
        cure: a sentence about what to do instead.

    Raises:
        ConfigError: there is less memory; the sentence says how much.
    """
    free = free_memory() if size > 2**24 else None  # what is small needs no look
    if free is not None and size > free:
        advice = f" {cure}" if cure else ""
        raise ConfigError(
            f"{what} takes {readable(size)} of memory, and {readable(free)} are free.{advice}"
        )


def require_sizes(config: AlgorithmConfig, observation: int = 0) -> None:
    """Refuses settings whose rollouts, minibatches or window of episodes would not fit into memory.

    It is called before environments are made, and again once it is known how large an observation
    is. (A replay fills slowly and is checked apart: see DQN.)

    Args:
        config: complete.
        observation: bytes of one; 0 where that is not known yet.

    Raises:
        ConfigError: it names the setting.
    """
    steps, envs = config.rollout_fragment_length or 1, config.num_envs
    queue = getattr(config, "learner_queue_size", 0)
    rollout = (steps + 1) * envs * (observation + STEP)
    what = f"A rollout of {steps:,} steps in {envs:,} environments"
    require(rollout, what, "Give a smaller train_batch_size.")
    layers = 0 if config.model.custom_model else 4 * sum(config.model.fcnet_hiddens)
    layers += 4 * 16 * config.model.lstm_cell_size if config.model.memory else 0
    learnt = "sgd_minibatch_size" if hasattr(config, "sgd_minibatch_size") else "train_batch_size"
    takes = {
        "learner_queue_size": (queue + 2) * rollout,  # two more are filled and learnt from
        learnt: (getattr(config, learnt) or 1) * (observation + STEP + layers),
        "metrics_smoothing_episodes": config.metrics_smoothing_episodes * EPISODE,
    }
    for key, size in takes.items():
        require(size, f"{key}={getattr(config, key, 0)}", "Give a smaller one.")


def one_by_one(count: int, total: int, what: str) -> Iterator[int]:
    """Counts things that are made one by one, and stops early if all of them would not fit.

    Args:
        count: how many are made here.
        total: how many there will be, in all processes.
        what: what they are, in a sentence.

    Raises:
        ConfigError: at the pace of the first ones, memory would not last for all.
    """
    began = 0
    for made in range(count):
        # Looked at 8, 16, 32, ... of them: from 8 on, since the first ones load what all share.
        if made >= 8 and not made & (made - 1) and (pages := _number("/proc/self/statm", 1)):
            began = began or pages
            took = (pages - began) * os.sysconf("SC_PAGE_SIZE")
            if took > 2**25:
                rest = took * (total - made) // (made - 8)
                making = f"Making {total:,} {what}, after the first {made:,},"
                require(rest, making, f"Make fewer {what}.")
        yield made


def readable(size: float) -> str:
    """Bytes in the unit that fits: `'26.3 GiB'`."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def _number(file: str, word: int = 0) -> int | None:
    """A number in a file of the system; None where there is no such file, or it says `max`."""
    try:
        return int(Path(file).read_text().split()[word])
    except (OSError, ValueError, IndexError):
        return None
