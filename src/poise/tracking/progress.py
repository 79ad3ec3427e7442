"""How a run is going, live: a bar in a terminal, one in a notebook, or plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from poise.training.callbacks import Callback
from poise.training.trainer import Trainer

REDRAW_S = 0.1
LINES_S = 5.0


class Progress(Callback):
    """Shows a run's progress wherever it runs.

    Args:
        say: takes plain lines (a terminal that is not one, a log file); None prints them.
        plain: always plain lines.
    """

    def __init__(self, *, say: Callable[[str], None] | None = None, plain: bool = False) -> None:
        self.say = say or (lambda text: print(text, flush=True))
        self._kind = "lines" if plain else where()
        self._shown = -math.inf
        self._shown_iteration = 0
        self._view: Any = None

    def on_run_start(self, trainer: Trainer) -> None:
        self._shown_iteration = trainer.iteration
        if self._kind == "terminal":
            self._view = _TerminalBar()
        elif self._kind == "notebook":
            self._view = _NotebookBar()

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._shown >= (LINES_S if self._kind == "lines" else REDRAW_S):
            self._shown = now
            self._show(trainer, result)

    def on_run_end(self, trainer: Trainer, reason: str) -> None:
        if trainer.history and trainer.iteration != self._shown_iteration:
            self._show(trainer, trainer.history[-1])
        if self._view is not None:
            self._view.close()
            self._view = None

    def _show(self, trainer: Trainer, result: dict[str, Any]) -> None:
        self._shown_iteration = result["training_iteration"]
        text = line(result)
        if self._view is None:
            self.say(text)
        else:
            self._view.update(fraction_done(trainer.goals, result), text)


def where() -> str:
    """`notebook`, `terminal` or `lines`."""
    shell = sys.modules.get("IPython")
    if shell is not None:
        current = shell.get_ipython()
        if current is not None and type(current).__name__ == "ZMQInteractiveShell":
            return "notebook"
    return "terminal" if sys.stdout.isatty() else "lines"


def line(result: Mapping[str, Any]) -> str:
    """A result in one line: reward, steps, speed, time, and what the time went into."""
    reward = result["episode_reward_mean"]
    shown = f"reward {reward:8.1f}" if reward == reward else "reward: no episode has ended yet"
    shares = {name: result[f"perf/{name}_share"] for name in ("env", "inference", "learning", "waiting")}
    failures = result.get("env_failures_total", 0)
    busiest = max(shares, key=lambda name: shares[name])
    return (
        f"{shown}   {_short(result['timesteps_total'])} steps   "
        f"{_short(result['perf/env_steps_per_s'])} steps/s   {result['time_total_s']:.1f} s   "
        f"{shares[busiest]:.0%} {busiest}" + (f"   {failures} failure{'s' * (failures > 1)}" if failures else "")
    )


def fraction_done(stop: Mapping[str, float], result: Mapping[str, Any]) -> float:
    """How near a run is to its nearest goal, 0 to 1."""
    done = [0.0]
    for key, goal in stop.items():
        value = result.get(key)
        if isinstance(value, (int, float)) and value == value and goal > 0:
            done.append(min(max(value / goal, 0.0), 1.0))
    return max(done)


def _short(number: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


class _TerminalBar:
    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"))
        self._bar = Progress(*columns, refresh_per_second=8)
        self._task = self._bar.add_task("starting", total=1.0)
        self._bar.start()

    def update(self, fraction: float, text: str) -> None:
        self._bar.update(self._task, completed=fraction, description=text)

    def close(self) -> None:
        self._bar.stop()


class _NotebookBar:
    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html = HTML
        self._handle = display(HTML("starting"), display_id=True)  # type: ignore[no-untyped-call]

    def update(self, fraction: float, text: str) -> None:
        bar = f'<progress value="{fraction:.3f}" max="1" style="width: 16em"></progress>'
        self._handle.update(self._html(f"<div>{bar} <code>{text}</code></div>"))  # type: ignore[no-untyped-call]

    def close(self) -> None:
        pass
