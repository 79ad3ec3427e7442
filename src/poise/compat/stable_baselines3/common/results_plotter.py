"""`stable_baselines3.common.results_plotter`: curves from `monitor.csv` files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from poise.compat.stable_baselines3.common.monitor import load_results

__all__ = [
    "X_EPISODES", "X_TIMESTEPS", "X_WALLTIME", "load_results", "plot_curves", "plot_results",
    "rolling_window", "ts2xy", "window_func",
]  # fmt: skip

X_TIMESTEPS, X_EPISODES, X_WALLTIME = "timesteps", "episodes", "walltime_hrs"
EPISODES_WINDOW = 100


def ts2xy(data_frame: Any, x_axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps, episodes or hours, and returns."""
    axes: dict[str, Callable[[], Any]] = {
        X_TIMESTEPS: lambda: np.cumsum(data_frame.l.values),
        X_EPISODES: lambda: np.arange(len(data_frame)),
        X_WALLTIME: lambda: data_frame.t.values / 3600.0,
    }
    if x_axis not in axes:
        raise NotImplementedError(f"x_axis={x_axis!r} is not allowed: use {', '.join(axes)}.")
    return axes[x_axis](), data_frame.r.values


def rolling_window(array: np.ndarray, window: int) -> np.ndarray:
    """All windows of so many values, `[N - window + 1, window]`."""
    return np.lib.stride_tricks.sliding_window_view(array, window)


def window_func(
    var_1: np.ndarray, var_2: np.ndarray, window: int, func: Callable[..., Any]
) -> tuple[np.ndarray, np.ndarray]:
    """A function of each window of `var_2`, at the places where the windows end."""
    return var_1[window - 1 :], func(rolling_window(var_2, window), axis=-1)


def plot_curves(xy_list: Any, x_axis: str, title: str, figsize: tuple[int, int] = (8, 2)) -> None:
    """Returns as points, and their mean over 100 episodes as a line."""
    from matplotlib import pyplot

    pyplot.figure(title, figsize=figsize)
    for x, y in xy_list:
        pyplot.scatter(x, y, s=2)
        if len(x) >= EPISODES_WINDOW:
            pyplot.plot(*window_func(x, y, EPISODES_WINDOW, np.mean))
    pyplot.title(title)
    pyplot.xlabel(x_axis)
    pyplot.ylabel("Episode Rewards")
    pyplot.tight_layout()


def plot_results(
    dirs: list[str],
    num_timesteps: int | None,
    x_axis: str,
    task_name: str,
    figsize: tuple[int, int] = (8, 2),
) -> None:
    """The curves of several folders."""
    frames = [load_results(folder) for folder in dirs]
    if num_timesteps is not None:
        frames = [frame[frame.l.cumsum() <= num_timesteps] for frame in frames]
    plot_curves([ts2xy(frame, x_axis) for frame in frames], x_axis, task_name, figsize)
