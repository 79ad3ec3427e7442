"""How a run is going, live: a bar in a terminal, one in a notebook, or plain lines elsewhere."""

from __future__ import annotations

import html
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from poise.training.callbacks import Callback
from poise.training.trainer import Trainer

REDRAW_S = 0.1
LINES_S = 5.0
"""Seconds between two lines where there is no bar; in long runs, a hundredth of their time."""
TIMED = ("timesteps_total", "training_iteration", "episodes_total", "time_total_s")
"""Goals that come nearer as time goes on, so that the time left can be told."""


class Progress(Callback):
    """Shows a run's progress wherever it runs.

    Args:
        say: takes plain lines, where no bar can be shown; None prints them.
        log: takes lines where a bar is shown.
        plain: always plain lines.
    """

    def __init__(
        self,
        *,
        say: Callable[[str], None] | None = None,
        log: Callable[[str], None] | None = None,
        plain: bool = False,
    ) -> None:
        self.say = say or (lambda text: print(text, flush=True))
        self.log = log
        self._evaluation: float | None = None
        self._logged = -math.inf
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
        if now - self._shown >= (seconds_between(result) if self._kind == "lines" else REDRAW_S):
            self._shown = now
            self._show(trainer, result)

    def on_evaluation(self, trainer: Trainer, evaluation: dict[str, float]) -> None:
        self._evaluation = evaluation["episode_reward_mean"]

    def on_run_end(self, trainer: Trainer, reason: str) -> None:
        unlogged = self._view is not None and self._logged > -math.inf
        if trainer.history and (unlogged or trainer.iteration != self._shown_iteration):
            self._logged = -math.inf
            self._show(trainer, trainer.history[-1])
        if self._view is not None:
            self._view.close()
            self._view = None

    def _show(self, trainer: Trainer, result: dict[str, Any]) -> None:
        self._shown_iteration = result["training_iteration"]
        text = line(result, trainer.goals, self._evaluation)
        if self._view is None:
            self.say(text)
            return
        self._view.update(fraction_done(trainer.goals, result), text)
        if self.log and time.monotonic() - self._logged >= seconds_between(result):
            self._logged = time.monotonic()
            self.log(text)


def seconds_between(result: Mapping[str, Any]) -> float:
    """Seconds from one line to the next."""
    return max(LINES_S, 0.01 * float(result["time_total_s"]))


def where() -> str:
    """What progress can be shown in here: `notebook`, `terminal` or `lines`."""
    shell = sys.modules.get("IPython")
    if shell is not None:
        current = shell.get_ipython()
        if current is not None and type(current).__name__ == "ZMQInteractiveShell":
            return "notebook"
    terminal = sys.stdout is not None and sys.stdout.isatty()
    bars = terminal and os.environ.get("TERM") not in ("dumb", "unknown")
    return "terminal" if bars else "lines"


def line(
    result: Mapping[str, Any],
    goals: Mapping[str, float] | None = None,
    evaluation: float | None = None,
) -> str:
    """A result in one line: reward (of self-play, the rating), steps, speed, time, what took most
    of it, the time left."""
    reward, failures = result["episode_reward_mean"], result.get("env_failures_total", 0)
    stages = ("env", "inference", "learning", "waiting")
    shares = {stage: result[f"perf/{stage}_share"] for stage in stages}
    busiest = max(shares, key=shares.__getitem__)
    shown = f"reward {reward:8.1f}" if reward == reward else "reward: no episode has ended yet"
    if (elo := result.get("selfplay/elo")) is not None:
        shown = f"Elo {elo:5.0f}"  # what one seat wins, another may lose
    parts = [
        shown,
        *([] if evaluation is None else [f"eval {evaluation:.1f}"]),
        f"{_short(result['timesteps_total'])} steps",
        f"{_short(result['perf/env_steps_per_s'])} steps/s",
        f"{result['time_total_s']:.1f} s",
        f"{shares[busiest]:.0%} {busiest}",
        *([f"{failures} failure{'s' * (failures > 1)}"] if failures else []),
    ]
    return "   ".join(parts) + time_left(goals or {}, result)


def time_left(goals: Mapping[str, float], result: Mapping[str, Any]) -> str:
    """How long it takes to reach the goals that can be timed, if they are in sight.

    With `at most`, if other goals may end the run before.
    """
    done = fraction_done({key: goal for key, goal in goals.items() if key in TIMED}, result)
    if not 0.005 < done < 1:
        return ""
    seconds = round(result["time_total_s"] * (1 - done) / done)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    clock = f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"
    return f"   {'at most ' * any(key not in TIMED for key in goals)}{clock} left"


def fraction_done(stop: Mapping[str, float], result: Mapping[str, Any]) -> float:
    """How near a run is to its nearest goal, from 0 to 1."""
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
        shown = f"<div>{bar} <code>{html.escape(text)}</code></div>"
        self._handle.update(self._html(shown))  # type: ignore[no-untyped-call]

    def close(self) -> None:
        pass
