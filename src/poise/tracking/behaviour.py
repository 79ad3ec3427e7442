"""What a policy does while it trains, as a sample now and then: its actions, and how episodes end.

The end of the latest rollout, or of the replay, is looked at, which costs no step of an
environment; a line each time goes to the run's `behaviour.jsonl`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from poise.training.trainer import Trainer

EVERY_S = 0.5
"""Seconds between two looks;"""
SHARE = 0.01
"""in long runs, this share of their time, so that the file stays small."""
STEPS = 1_000
"""So many of the latest steps are looked at."""
PARTS = ("action", "valid", "terminated", "truncated")
BINS = 15
"""Equal parts of the range of a number."""
CHOICES, NUMBERS = 64, 8
"""Actions with more choices are not counted; of more numbers, only the first are."""


def look(trainer: Trainer) -> dict[str, Any] | None:
    """The latest steps in numbers; None where they are elsewhere, as on a cluster.

    Returns:
        `steps` that were looked at, how many of them `terminated` or `truncated` an episode, and
        `actions`: how often each choice was taken, or for each number how often it was in each of
        `BINS` parts of its range. Actions of other kinds are left out.
    """
    latest = _latest(trainer)
    if latest is None:
        return None
    action, valid, terminated, truncated = latest
    space = trainer.policy.action_layout.space
    seen: dict[str, Any] = {
        "timesteps_total": trainer.algorithm.timesteps,
        "steps": int(valid.sum()),
        "terminated": int((terminated & valid).sum()),
        "truncated": int((truncated & valid & ~terminated).sum()),
    }
    if isinstance(space, spaces.Discrete) and space.n <= CHOICES:
        taken = _taken(trainer, action[valid]).ravel() - int(space.start)
        seen["actions"] = [np.bincount(taken.astype(int), minlength=int(space.n)).tolist()]
    elif isinstance(space, spaces.Box):
        taken = _taken(trainer, action[valid]).reshape(seen["steps"], -1)[:, :NUMBERS]
        ends = zip(space.low.ravel(), space.high.ravel(), taken.T, strict=False)
        seen["actions"] = [
            np.histogram(np.clip(column, low, high), BINS, (low, high))[0].tolist()
            for low, high, column in ends
            if np.isfinite([low, high]).all() and low < high
        ]
    return seen


def _latest(trainer: Trainer) -> tuple[np.ndarray, ...] | None:
    """Actions `[N, ...]` of the latest steps, which of them count, and which ended an episode."""
    if (replay := getattr(trainer.algorithm, "replay", None)) is not None:
        rows = max(1, STEPS // replay.slots)
        at = replay.index(max(replay.tail, replay.head - rows), replay.head)
        return tuple(part[at] for part in map(vars(replay).__getitem__, PARTS))
    samplers: Any = trainer.environments.samplers
    if not (members := getattr(samplers, "members", ())):
        return None
    rows = max(1, STEPS // samplers.slots)
    action, valid, *ends = (
        np.concatenate([getattr(m.rollout, name)[-rows:].flatten(0, 1).numpy() for m in members])
        for name in PARTS
    )
    return action, valid > 0, *ends


def _taken(trainer: Trainer, action: np.ndarray) -> np.ndarray:
    """Actions as environments get them, `[N, ...]`."""
    with torch.no_grad():
        return np.asarray(trainer.policy.env_action(torch.as_tensor(action)))
