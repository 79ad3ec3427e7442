"""A plot in a notebook that is drawn anew while a trainer trains."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from typing import Any

from poise.errors import PoiseWarning
from poise.tracking.curves import History, axes, panels
from poise.tracking.plots import episode_figure, figure_class
from poise.tracking.progress import where
from poise.training.callbacks import Callback
from poise.training.trainer import Trainer

REDRAW_S = 1.0
SHARE = 0.1
"""Drawing may take this share of the time: a picture that takes long is drawn less often."""


class LivePlot(Callback):
    """Shows return and length of the episodes in a notebook, in place, at most about once a second.

    Args:
        x: `steps`, `episodes` or `time`.
        y: `return`, `length`, keys of the results, or None for return and length.

    Raises:
        ConfigError: an axis is unknown.
        PoiseError: matplotlib is not installed.
    """

    def __init__(self, *, x: str = "steps", y: str | Sequence[str] | None = None) -> None:
        axes(x, y)
        self.x, self.y = x, y
        self._due = -math.inf
        self._handle: Any = None
        self._live = where() == "notebook"
        if self._live:
            figure_class()
        else:
            warnings.warn(
                "Live plots need a notebook; here, training goes on without one.",
                PoiseWarning,
                stacklevel=2,
            )

    def on_run_start(self, trainer: Trainer) -> None:
        self._due, self._handle = -math.inf, None  # every `learn` has a picture of its own

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        if time.monotonic() >= self._due:
            self._draw(trainer)

    def on_run_end(self, trainer: Trainer, reason: str) -> None:
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        if not (self._live and trainer.metrics.finished):
            return
        from IPython.display import display

        start = time.monotonic()
        figure = episode_figure(panels([History.of_trainer(trainer)], self.x, self.y))
        if self._handle is None:
            self._handle = display(figure, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(figure)
        now = time.monotonic()
        self._due = now + max(REDRAW_S, (now - start) / SHARE)
