"""Values that change with the number of steps sampled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

Points = Sequence[tuple[int, float]]


def schedule_value(schedule: float | Points, timestep: int) -> float:
    """A constant's value, or that of a piecewise linear schedule `[(timestep, value), ...]` at
    `timestep`.

    Before the first point and after the last, the value is that of the point.
    """
    if isinstance(schedule, (int, float)):
        return float(schedule)
    points = sorted(
        schedule, key=lambda point: point[0]
    )  # two at one step are a jump, in the order given
    if timestep <= points[0][0]:
        return float(points[0][1])
    for (start, low), (end, high) in pairwise(points):
        if timestep <= end:
            return low + (high - low) * (timestep - start) / max(end - start, 1)
    return float(points[-1][1])


def decay(start: float, end: float, share: float, shape: str) -> float:
    """A value that falls from `start` to `end`: in a straight line (`"linear"`), until a share of 1
    of the way has been gone, or as end + (start - end) exp(-share) (`"exponential"`), which never
    quite arrives."""
    if shape == "exponential":
        return end + (start - end) * math.exp(-share)
    return start + (end - start) * min(share, 1.0)
