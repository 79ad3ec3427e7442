"""The by-products of sampling: episodes that ended, steps taken, and where the time went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np


@dataclass(frozen=True)
class Episode:
    """An episode that ended while sampling.

    Attributes:
        reward: its return: the undiscounted sum of the rewards that the environment gave.
        length: its number of steps.
        slot: where it ran.
        info: the numbers that the environment reported with its last step.
        row: the row that it ended in, counted since the last harvest; it orders episodes in time.
    """

    reward: float
    length: int
    slot: int
    info: dict[str, float]
    row: int = 0

    @classmethod
    def from_json(cls, values: Any) -> Episode:
        """Reads an episode from the list that `to_json` made, which a checkpoint holds.

        Raises:
            ValueError, TypeError, OverflowError: it is no such list.
        """
        # Older checkpoints end with `info`.
        reward, length, slot, info, *row = values
        numbers = {str(key): float(number) for key, number in dict(info).items()}
        if not math.isfinite(float(reward)):
            raise ValueError(f"an episode has a return of {reward}")
        return cls(float(reward), int(length), int(slot), numbers, *map(int, row))

    def to_json(self) -> list[Any]:
        """Its values as a list."""
        return [self.reward, self.length, self.slot, self.info, self.row]


class Finished(NamedTuple):
    """A finished episode; `steps` and `seconds` are those of the run when it ended."""

    steps: int
    seconds: float
    reward: float
    length: int


STAGES = ("env", "inference", "waiting")
"""What sampling spends time on: steps of the environments, the policy, waiting for workers."""


@dataclass
class Harvest:
    """What sampling brought since the last harvest, beside rollouts.

    Attributes:
        episodes: those that ended, in the order of their ends.
        rows: the steps that each slot has taken.
        seconds: the time spent on each of `STAGES`.
        numbers: what else is to be told of sampling, by the keys of the result.
    """

    episodes: list[Episode]
    rows: int
    seconds: dict[str, float]
    numbers: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Sequence[Harvest]) -> Harvest:
        """Of several samplers, as one.

        Where they have taken different numbers of steps, rows are stretched to the largest: what
        they tell is when in the iteration an episode ended.
        """
        rows = max((part.rows for part in parts), default=0)
        episodes = []
        for part in parts:
            for episode in part.episodes:
                if part.rows != rows:
                    row = -(-episode.row * rows // max(part.rows, 1))  # rounded up
                    episode = replace(episode, row=row)
                episodes.append(episode)
        seconds = {stage: sum(part.seconds[stage] for part in parts) for stage in STAGES}
        return cls(sorted(episodes, key=lambda episode: episode.row), rows, seconds)


def episode_info(info: dict[str, Any], slot: int) -> dict[str, float]:
    """The finite numbers in a vector environment's info that belong to `slot`.

    In Gymnasium's vector environments, `info["_key"]` says which slots `info["key"]` is about.
    """
    numbers = {}
    for key, value in info.items():
        mask = info.get(f"_{key}")
        if key.startswith("_") or mask is None or not isinstance(value, np.ndarray):
            continue
        if mask[slot] and isinstance(value[slot], _NUMBERS) and math.isfinite(value[slot]):
            numbers[key] = float(value[slot])
    return numbers


_NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)
