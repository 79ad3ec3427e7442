"""What has come of sampling: episodes that ended, steps taken, and where the time went."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Episode:
    """An episode that ended while sampling.

    Attributes:
        reward: its return, undiscounted, as the environment gave it.
        length: its steps.
        slot: where it ran.
        info: numbers that the environment reported with its last step.
        row: the row that it ended in, counted since episodes were last taken; what orders them in
            time.
    """

    reward: float
    length: int
    slot: int
    info: dict[str, float]
    row: int = 0

    @classmethod
    def from_json(cls, values: Any) -> Episode:
        """From the list of its values that a checkpoint holds.

        Raises:
            ValueError, TypeError, OverflowError: it is none.
        """
        reward, length, slot, info, *row = values
        numbers = {str(key): float(number) for key, number in dict(info).items()}
        if not math.isfinite(float(reward)):
            raise ValueError(f"an episode has a return of {reward}")
        return cls(float(reward), int(length), int(slot), numbers, *map(int, row))

    def to_json(self) -> list[Any]:
        """Its values."""
        return [self.reward, self.length, self.slot, self.info, self.row]


STAGES = ("env", "inference", "waiting")
"""What sampling spends time on."""


@dataclass
class Harvest:
    """What has come of sampling since it was last asked.

    Attributes:
        episodes: those that ended, in the order of their ends.
        rows: steps that each slot has taken.
        seconds: spent on each of `STAGES`.
    """

    episodes: list[Episode]
    rows: int
    seconds: dict[str, float]


def episode_info(info: dict[str, Any], slot: int) -> dict[str, float]:
    """The numbers in a vector environment's info that belong to `slot`."""
    numbers = {}
    for key, value in info.items():
        mask = info.get(f"_{key}")
        if (
            key.startswith("_")
            or mask is None
            or not mask[slot]
            or not isinstance(value, np.ndarray)
        ):
            continue
        item = value[slot]
        if isinstance(
            item, (bool, int, float, np.bool_, np.integer, np.floating)
        ) and math.isfinite(item):
            numbers[key] = float(item)
    return numbers
