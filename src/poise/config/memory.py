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
"""Bytes of a step beside its observation: action, log_prob, reward, valid; three flags, and what an
action has more."""
EPISODE = 150
"""Bytes that a finished episode is remembered by, at least."""


def machine_memory() -> int | None:
    """Bytes of memory that this machine, or the container that this process is in, has; None where
    it does not say."""
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
        raise ConfigError(
            f"{what} takes {readable(size)} of memory, and {readable(free)} are free.{advice}"
        )


def require_sizes(config: AlgorithmConfig, observation: int = 0) -> None:
    """Refuses settings whose rollouts, minibatches or window of episodes would not fit into memory.

    It is asked before environments are made, and again once it is known what they show. (A replay
    fills slowly: see DQN.)

    Args:
        config: complete.
        observation: bytes of one; 0 where that is not known yet.

    Raises:
        ConfigError: it names the setting.
    """
    steps, envs, queue = (
        config.rollout_fragment_length or 1,
        config.num_envs,
        getattr(config, "learner_queue_size", 0),
    )
    rollout = (steps + 1) * envs * (observation + STEP)
    require(
        rollout,
        f"A rollout of {steps:,} steps in {envs:,} environments",
        "Give a smaller train_batch_size.",
    )
    layers = 0 if config.model.custom_model else 4 * sum(config.model.fcnet_hiddens)
    learnt = "sgd_minibatch_size" if hasattr(config, "sgd_minibatch_size") else "train_batch_size"
    takes = {
        "learner_queue_size": (queue + 2) * rollout,  # two more are filled and learnt from
        learnt: (getattr(config, learnt) or 1) * (observation + STEP + layers),
        "metrics_smoothing_episodes": config.metrics_smoothing_episodes * EPISODE,
    }
    for key, size in takes.items():
        require(size, f"{key}={getattr(config, key, 0)}", "Give a smaller one.")


def one_by_one(count: int, of: int, what: str) -> Iterator[int]:
    """Counts things that are made one by one, and ends where the first of them show that all would
    not fit.

    Args:
        count: how many are made here.
        of: how many there are to be, in all processes.
        what: they are, in a sentence.

    Raises:
        ConfigError: they would not.
    """
    began = 0
    for made in range(count):
        if made >= 8 and not made & (made - 1) and (pages := _number("/proc/self/statm", 1)):
            began = began or pages  # the first ones bring what is loaded once
            took = (pages - began) * os.sysconf("SC_PAGE_SIZE")
            if took > 2**25:
                cure = f"Make fewer {what}."
                require(
                    took * (of - made) // (made - 8),
                    f"Making {of:,} {what}, after the first {made:,},",
                    cure,
                )
        yield made


def readable(size: float) -> str:
    """Bytes in the unit that fits: `'26.3 GiB'`."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def _number(file: str, word: int = 0) -> int | None:
    """What a file of the system says; None where there is none, or it says `max`."""
    try:
        return int(Path(file).read_text().split()[word])
    except (OSError, ValueError, IndexError):
        return None
