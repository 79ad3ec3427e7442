"""Values that change with the number of steps sampled."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Points = Sequence[tuple[int, float]]


def schedule_value(schedule: float | Points, timestep: int) -> float:
    """A constant's value, or that of a piecewise linear schedule `[(timestep, value), ...]` at `timestep`.

    Before the first point and after the last, the value is that of the point.
    """
    if isinstance(schedule, (int, float)):
        return float(schedule)
    points = sorted(schedule)
    if timestep <= points[0][0]:
        return float(points[0][1])
    for (start, low), (end, high) in pairwise(points):
        if timestep <= end:
            return low + (high - low) * (timestep - start) / max(end - start, 1)
    return float(points[-1][1])
