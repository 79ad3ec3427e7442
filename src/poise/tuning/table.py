"""The trials of a search as a table: live in a terminal, a line for each that ends elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from poise.tuning.study import Study, Trial

ROWS = 20
"""Trials that are shown at once: those that run, then the latest."""


class Board:
    """Shows a study while it runs.

    Args:
        study: whose trials.
        quiet: shows nothing.
    """

    def __init__(self, study: Study, *, quiet: bool = False) -> None:
        self.study, self.quiet = study, quiet
        self.console = Console(highlight=False)
        self._told: set[int] = {trial.number for trial in study.trials if trial.state != "running"}
        self._live = Live(console=self.console, auto_refresh=False) if sys.stdout.isatty() and not quiet else None

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
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
                    self.console.print(line(trial, self.study), soft_wrap=True)

    def _summary(self) -> Text:
        best, ended = self.study.best, sum(trial.state != "running" for trial in self.study.trials)
        text = f"{ended} of {self.study.total} trials, {self.study.seconds:.0f} s"
        if best is not None:
            text += f"; the best is {best.number} with {self.study.search.metric} {best.value(self.study.search):,.6g}"
        return Text(text)


def line(trial: Trial, study: Study) -> str:
    """How a trial ended."""
    params = ", ".join(f"{name}={_short(value)}" for name, value in trial.params.items())
    if trial.state == "failed":
        return f"trial {trial.number} failed ({params}): {trial.error}"
    missed = "" if trial.reached or trial.state == "pruned" or not study.search.goals else ", missed its goal"
    found = trial.result.get(study.search.metric)
    value = "nothing" if found is None else f"{found:,.6g}"
    return f"trial {trial.number} {trial.state}{missed}: {study.search.metric} {value} ({params})"


def table(study: Study, rows: int | None = None) -> Table:
    """The trials as a table; of many, those that run and the latest that ended."""
    names = list(dict.fromkeys(name for trial in study.trials for name in trial.params))
    made = Table("trial", "state", *(name.rpartition(".")[2] for name in names), "iter", "steps", "reward", "s")
    order = sorted(study.trials, key=lambda trial: (trial.state == "running", trial.number))
    best = study.best
    for trial in order if rows is None else order[-rows:]:
        found = trial.result
        reward = found.get("episode_reward_mean")
        made.add_row(
            str(trial.number),
            trial.state,
            *(_short(trial.params.get(name, "")) for name in names),
            str(found.get("training_iteration", "")),
            f"{found['timesteps_total']:,}" if "timesteps_total" in found else "",
            "" if reward is None else f"{reward:,.1f}",
            f"{found['time_total_s']:.1f}" if "time_total_s" in found else "",
            style="bold" if trial is best else "red" if trial.state == "failed" else None,
        )
    return made


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
