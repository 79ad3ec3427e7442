"""Pictures of runs. Needs `pip install "poise[plot]"`."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from poise.errors import ConfigError, PoiseError, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reward_figure(results: Iterable[Mapping[str, Any]], *, title: str = "", x: str = "timesteps_total") -> Figure:
    """The mean return of the last episodes, with its smallest and largest, against steps (or another result key).

    Args:
        results: result dicts, oldest first.
        title: over the picture.
        x: the key on the horizontal axis.

    Returns:
        A matplotlib figure, which notebooks show (also those without pyplot); `figure.savefig(path)` keeps it.

    Raises:
        PoiseError: matplotlib is not installed, or no episode has ended yet.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise PoiseError('Plots need matplotlib: pip install "poise[plot]"') from None
    rows = [r for r in results if not math.isnan(r["episode_reward_mean"])]
    if not rows:
        raise PoiseError("There is nothing to plot: no episode has ended yet.")
    figure = type("RewardFigure", (Figure,), {"_repr_png_": _png})(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = [r[x] for r in rows]
    low, high = ([r[f"episode_reward_{end}"] for r in rows] for end in ("min", "max"))
    axes.fill_between(steps, low, high, alpha=0.18, color="tab:blue", linewidth=0, label="smallest to largest")
    axes.plot(steps, [r["episode_reward_mean"] for r in rows], color="tab:blue", label="mean of the last episodes")
    axes.set_xlabel({"timesteps_total": "environment steps", "time_total_s": "seconds"}.get(x, x))
    axes.set_ylabel("episode reward")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", frameon=False)
    return cast("Figure", figure)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes a figure in the format that the name ends in (PNG, as a rule), making its folder."""
    target = Path(path)
    known = figure.canvas.get_supported_filetypes()
    if target.suffix[1:].lower() not in known:
        raise ConfigError(f"path={str(path)!r} is not allowed: its name must end in .png, .pdf or .svg.")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=120)
    return target
