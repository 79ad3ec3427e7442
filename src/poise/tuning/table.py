"""The trials of a search as a table: live in a terminal, a line for each that ends elsewhere."""

from __future__ import annotations

import statistics
import sys
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from poise.tuning.search import Search
from poise.tuning.study import Study, Trial

ROWS = 20
"""Trials that are shown at once: those that run, then the latest."""
_RESULTS = {
    "iter": "training_iteration",
    "steps": "timesteps_total",
    "reward": "episode_reward_mean",
    "s": "time_total_s",
}


class Board:
    """Shows a study while it runs.

    Args:
        study: whose trials.
        parallel: runs at a time.
        quiet: shows nothing.
    """

    def __init__(self, study: Study, parallel: int, *, quiet: bool = False) -> None:
        self.study, self.parallel, self.quiet = study, parallel, quiet
        self.console = Console(highlight=False)
        self._told: set[int] = {trial.number for trial in study.trials if trial.state != "running"}
        self._live = Live(console=self.console, auto_refresh=False) if sys.stdout.isatty() and not quiet else None

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        elif not self.quiet:
            trials = f"{self.study.total} trial{'s' * (self.study.total > 1)}"
            self.console.print(f"{trials}, {self.parallel} at a time, in {self.study.folder}", soft_wrap=True)
        return self

    def __exit__(self, *_: Any) -> None:
        self.update()
        if self._live is not None:
            self._live.stop()

    def update(self) -> None:
        """Shows what has changed."""
        if self._live is not None:
            self._live.update(Group(table(self.study, ROWS), self._summary()), refresh=True)
            return
        for trial in self.study.trials:
            if trial.state != "running" and trial.number not in self._told:
                self._told.add(trial.number)
                if not self.quiet:
                    self.console.print(line(trial, self.study.search), soft_wrap=True)

    def _summary(self) -> Text:
        study, search = self.study, self.study.search
        ended = sum(trial.state != "running" for trial in study.trials)
        text = f"{ended} of {study.total} trials, {self.parallel} at a time, {study.seconds:.0f} s"
        best = study.best
        if best is not None:
            text += f"; the best is trial {best.number} with {search.metric} {best.value(search):,.6g}"
        return Text(text)


def line(trial: Trial, search: Search) -> str:
    """How a trial ended."""
    params = ", ".join(f"{name}={_short(value)}" for name, value in trial.params.items())
    if trial.state == "failed":
        return f"trial {trial.number} failed ({params}): {trial.error}"
    missed = "" if trial.state == "pruned" or not all(map(search.missed, trial.results)) else ", missed its goal"
    found = [result[search.metric] for result in trial.results if result.get(search.metric) is not None]
    value = f"{statistics.fmean(found):,.6g}" if found else "nothing"
    return f"trial {trial.number} {trial.state}{missed}: {search.metric} {value} ({params})"


def table(study: Study, rows: int | None = None) -> Table:
    """The trials as a table; of many, those that run and the latest that ended."""
    names = list(dict.fromkeys(name for trial in study.trials for name in trial.params))
    several = ["seeds"] if study.search.seeds > 1 else []
    made = Table("trial", "state", *(name.rpartition(".")[2] for name in names), *several, *_RESULTS)
    order = sorted(study.trials, key=lambda trial: (trial.state == "running", trial.number))
    best = study.best
    for trial in order if rows is None else order[-rows:]:
        done = [f"{len(trial.results)}+{len(trial.held_out)}"] if several else []
        made.add_row(
            str(trial.number),
            trial.state,
            *(_short(trial.params.get(name, "")) for name in names),
            *done,
            *(_short(trial.result.get(key)) for key in _RESULTS.values()),
            style="bold" if trial is best else "red" if trial.state == "failed" else None,
        )
    return made


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
    return "" if value is None else f"{value:,}" if type(value) is int else str(value)
