"""Values that change with the number of steps sampled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

Points = Sequence[tuple[int, float]]
"""A piecewise linear schedule, `[(timestep, value), ...]`."""


def schedule_value(schedule: float | Points, timestep: int) -> float:
    """The value of a constant, or of a piecewise linear schedule at `timestep`.

    Before the first point and after the last, the value is that of the point.
    """
    if isinstance(schedule, (int, float)):
        return float(schedule)
    # Two points at the same step are a jump, and stay in the order that they were given in.
    points = sorted(schedule, key=lambda point: point[0])
    if timestep <= points[0][0]:
        return float(points[0][1])
    for (start, low), (end, high) in pairwise(points):
        if timestep <= end:
            return low + (high - low) * (timestep - start) / max(end - start, 1)
    return float(points[-1][1])


def falling(shape: str, first: float, steps: int) -> list[tuple[int, float]]:
    """A schedule that falls from `first` to 0 within the steps: `linear`, or half a `cosine`."""
    shares = [i / 32 for i in range(33)]
    left = [1 - s if shape == "linear" else (1 + math.cos(math.pi * s)) / 2 for s in shares]
    return [(int(steps * s), first * x) for s, x in zip(shares, left, strict=True)]


def decay(start: float, end: float, share: float, shape: str) -> float:
    """A value on its way from `start` to `end`.

    Args:
        start, end: the two values.
        share: how much of the way has been gone; 1 is all of it.
        shape: `"linear"` is a straight line, which ends at 1. `"exponential"` is
            end + (start - end) exp(-share), which never quite arrives.
    """
    if shape == "exponential":
        return end + (start - end) * math.exp(-share)
    return start + (end - start) * min(share, 1.0)
