"""The trials of a search as a table: live in a terminal, a line for each that ends elsewhere."""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from poise.errors import shown
from poise.tracking.chart import rounded
from poise.tuning.study import Study, Trial

ROWS = 20
"""Trials that are shown at once: those that run, then the latest."""
EVERY_S = 30.0
"""Seconds between two lines that say how far the runs are, where there is no table."""
_RESULTS = {"reward": "episode_reward_mean", "steps": "timesteps_total", "s": "time_total_s"}
_GAP = 2


class Board:
    """Shows a study while it runs: as a table that changes, or in lines where there is no terminal.

    Args:
        study: whose trials.
        parallel: runs at a time.
        quiet: shows nothing.
    """

    def __init__(self, study: Study, parallel: int, *, quiet: bool = False) -> None:
        self.study, self.parallel, self.quiet = study, parallel, quiet
        self.console = Console(highlight=False, markup=False)
        self._told = {trial.number for trial in study.trials if trial.state != "running"}
        self._times: Counter[str] = Counter()
        self._next = EVERY_S
        live = sys.stdout.isatty() and not quiet
        self._live = Live(console=self.console, auto_refresh=False) if live else None

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        else:
            trials = f"{self.study.total} {self.study.noun}{'s' * (self.study.total > 1)}"
            self._say(f"{trials}, {self.parallel} at a time, in {self.study.folder}")
        return self

    def __exit__(self, *_: Any) -> None:
        self.update()
        if self._live is not None:
            self._live.stop()

    def update(self) -> None:
        """Shows what has changed."""
        for sentence in [text for text in list(self.study.said) if not self._times[text]]:
            self._times[sentence] += 1
            self._say(sentence)
        for trial in self.study.trials:
            if trial.state != "running" and trial.number not in self._told:
                self._told.add(trial.number)
                if trial.state == "failed":
                    self._say(self._failure(trial))
                elif self._live is None:
                    self._say(line(trial, self.study))
        if self._live is not None:
            rows = min(ROWS, max(self.console.height - 8, 3))
            parts = (*table(self.study, self.console.width, rows), self._summary())
            self._live.update(Group(*parts), refresh=True)
        elif self.study.seconds > self._next:
            self._next = self.study.seconds + EVERY_S
            self._say(self._progress())

    def _say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(Text(shown(text, lines=True)), soft_wrap=True)

    def _failure(self, trial: Trial) -> str:
        """How a trial failed: a reason is told whole once, and then counted."""
        self._times[trial.error] += 1
        first = f"{self.study.noun} {self.study.label(trial)} failed{_params(trial)}"
        times = self._times[trial.error]
        if times == 1:
            return f"{first}: {trial.error}"
        return f"{first} for the same reason ({times} so far)"

    def _progress(self) -> str:
        """How far those are that run."""
        study = self.study
        ended = sum(trial.state != "running" for trial in study.trials)
        lines = [f"{ended} of {study.total} {study.noun}s have ended, {study.seconds:.0f} s"]
        for trial in study.trials:
            if trial.state == "running" and trial.latest:
                latest = {title: trial.latest.get(key) for title, key in _RESULTS.items()}
                found = ", ".join(f"{title} {_short(value)}" for title, value in latest.items())
                lines.append(f"  {study.noun} {study.label(trial)}: {found}")
        return "\n".join(lines)

    def _summary(self) -> Text:
        study, search = self.study, self.study.search
        ended = sum(trial.state != "running" for trial in study.trials)
        trials = f"{ended} of {study.total} {study.noun}s"
        text = f"{trials}, {self.parallel} at a time, {study.seconds:.0f} s"
        best = study.best
        if best is not None:
            value = f"{search.metric} {best.value(search):,.6g}"
            text += f"; the best is {study.noun} {study.label(best)} with {value}"
        return Text(shown(text))


def line(trial: Trial, study: Study) -> str:
    """How a trial ended."""
    search, last = study.search, trial.result
    ended = f"{study.noun} {study.label(trial)} {trial.state}"
    if trial.state != "pruned" and all(map(search.missed, trial.results)):
        ended += ", missed its goal"
    values = [result.get(search.metric) for result in trial.results]
    found = [value for value in values if value is not None]
    mean = f"{statistics.fmean(found):,.6g}" if found else "nothing"
    took = f"{last['timesteps_total']:,} steps, {last['time_total_s']:.1f} s"
    return f"{ended}: {search.metric} {mean} after {took}{_params(trial)}"


def table(study: Study, width: int, rows: int | None = None) -> list[Table | Text]:
    """The trials as a table that fits into so many characters.

    What a trial is and has reached stands whole. Settings take the room that is left, and those for
    which there is none are named below the table.

    Args:
        study: whose trials.
        width: characters of a line.
        rows: of many trials, so many are shown: those that run, then the latest that ended.
    """
    order = sorted(study.trials, key=lambda trial: (trial.state == "running", trial.number))
    some = order if rows is None else order[-rows:]
    columns = {
        study.noun: [study.label(trial) for trial in some],
        "state": [trial.state for trial in some],
    }
    if study.search.seeds > 1:
        columns["seeds"] = [f"{len(trial.results)}+{len(trial.held_out)}" for trial in some]
    for title, key in _RESULTS.items():
        columns[title] = [_short(trial.result.get(key)) for trial in some]
    # Wide enough from the start, so that nothing jumps.
    least = {study.noun: 5, "state": len("finished"), "reward": 9, "steps": 10, "s": 7}
    widths = {
        title: max(least.get(title, 0), *map(len, (title, *cells)))
        for title, cells in columns.items()
    }
    left, dropped = width - sum(widths.values()) - _GAP * (len(widths) - 1), list[str]()
    places = dict.fromkeys(name for trial in some for name in trial.params)
    for place in places if study.noun == "trial" else ():
        # A long name stands in several lines.
        title = shown(place.rpartition(".")[2]).replace("_", "_\n")
        cells = [shown(_short(trial.params.get(place, ""))) for trial in some]
        needed = max(map(cell_len, (*title.split("\n"), *cells)))
        if needed + _GAP > left or dropped or place in columns:
            dropped.append(shown(place))
        else:
            left -= needed + _GAP
            columns[place], widths[place] = cells, needed
            columns[place].insert(0, title)
    made = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for title, cells in columns.items():
        head = cells.pop(0) if len(cells) > len(some) else title
        side: Any = "right" if title in (*_RESULTS, study.noun) else "left"
        made.add_column(Text(head), width=widths[title], no_wrap=True, justify=side)
    best = study.best
    for trial, row in zip(some, zip(*columns.values(), strict=True), strict=True):
        style = "bold" if trial is best else "red" if trial.state == "failed" else None
        made.add_row(*map(Text, row), style=style)
    rest = [Text(f"+{len(dropped)} settings: {', '.join(dropped)}", "dim")] if dropped else []
    return [made, *rest]


def _params(trial: Trial) -> str:
    """What was proposed for a trial, as the end of a sentence; its seed is its name already."""
    listed = [f"{name}={_short(value)}" for name, value in trial.params.items() if name != "seed"]
    return f" ({', '.join(listed)})" if listed else ""


def _short(value: Any) -> str:
    if isinstance(value, float):
        return rounded(value, 4)
    return "" if value is None else f"{value:,}" if type(value) is int else str(value)
