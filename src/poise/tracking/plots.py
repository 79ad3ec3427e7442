"""Pictures of runs, as matplotlib figures. Needs the extra `plot`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from poise.config.types import a_path
from poise.errors import ConfigError, PoiseError, shown, writing
from poise.install import install
from poise.tracking.curves import BANDS, Panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS = 2000
"""Episodes that a picture shows one by one at most, so that it stays light: of more, every n-th."""


def episode_figure(panels: Sequence[Panel]) -> Figure:
    """Curves as a picture, one panel over the other.

    Returns:
        A matplotlib figure, which notebooks show (also those without pyplot);
        `figure.savefig(path)` keeps it.

    Raises:
        PoiseError: matplotlib is not installed.
    """
    kind = type("EpisodeFigure", (figure_class(),), {"_repr_png_": _png})
    figure = kind(figsize=(7, 1.2 + 2.8 * len(panels)), layout="constrained")
    column = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(column, panels, strict=True):
        _draw(axes, panel)
        axes.set_ylabel(literal(panel.y_label))
        axes.grid(alpha=0.3)
        axes.label_outer()
    figure.axes[0].set_title(literal(panels[0].title))
    figure.axes[-1].set_xlabel(panels[-1].x_label)
    _explain(figure.axes[0], panels[0])
    return cast("Figure", figure)


def _draw(axes: Any, panel: Panel) -> None:
    for number, curve in enumerate(panel.curves):
        colour = f"C{number % 10}"
        if curve.single is not None:
            x, y = curve.single
            every = -(-len(x) // DOTS)
            dots = {"color": colour, "markersize": 4, "alpha": 0.4, "mew": 0}
            axes.plot(x[::every], y[::every], ".", label="one episode", **dots)
        if curve.low is not None:
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
        for x, y in curve.runs:
            axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.4)
        axes.plot(curve.x, curve.y, color=colour, linewidth=1.8, label=literal(curve.label))


def _explain(axes: Any, panel: Panel) -> None:
    """A legend that says what the lines are."""
    mean = panel.explanation
    banded = any(curve.low is not None for curve in panel.curves)
    lines, labels = axes.get_legend_handles_labels()
    look = {"loc": "upper left", "frameon": False}
    if len(panel.curves) == 1 and not banded:  # the title says what it is of
        axes.legend(lines, [*labels[:-1], mean], **look)
    else:
        title = f"{mean}\nband: {BANDS[panel.band]}" if banded else mean
        axes.legend(lines, labels, title=title, alignment="left", **look)


def literal(text: object) -> str:
    """Foreign text for a picture: matplotlib would read `$...$` in it as a formula."""
    return shown(text).replace("$", r"\$")


def figure_class() -> type[Figure]:
    """Matplotlib's figure.

    Raises:
        PoiseError: it is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise PoiseError(f"Plots need matplotlib: {install('plot')}") from None
    return Figure


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes a figure in the format that the name ends in (PNG, as a rule), making its folder."""
    target = a_path(path)
    known = figure.canvas.get_supported_filetypes()
    if target.suffix[1:].lower() not in known:
        raise ConfigError(
            f"path={str(path)!r} is not allowed: its name must end in .png, .pdf or .svg."
        )
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=120)
    return target
