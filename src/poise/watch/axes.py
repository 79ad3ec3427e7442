"""The horizontal axes, and where a number of steps is on each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from poise.watch.rows import number, short

X = {"steps": "timesteps_total", "time": "time_total_s", "episodes": "episodes_total"}
"""What may be at the horizontal axis, and the result that it is."""


def axes_of(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """Where the results stand, `[3, results]`: in steps, seconds and episodes."""
    return np.array([[number(r.get(key)) or 0 for r in rows] for key in X.values()]).reshape(3, -1)


def at_steps(steps: float, axes: np.ndarray) -> dict[str, Any]:
    """A place on all horizontal axes."""
    if not axes.shape[1]:
        return dict.fromkeys(X, steps)
    return dict(zip(X, short(float(np.interp(steps, axes[0], axis)) for axis in axes), strict=True))
