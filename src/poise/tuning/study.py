"""A study: the trials of a search, who proposes them and what came of them.

runs/<experiment>/
    study.json         the search
    study.db           Optuna's storage, for its dashboard; made anew from the trials where it is missing
    trial_00000/       a run folder, with trial.json: what was proposed for it, and how it ended
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poise.config.resolve import resolve
from poise.config.run import RunOptions
from poise.errors import ConfigError, RunError, writing
from poise.tuning.search import LIMITS, Search
from poise.tuning.space import Primitive, grid, sample
from poise.tuning.storage import Storage

if TYPE_CHECKING:
    from optuna.trial import Trial as OptunaTrial

MAX_DEATHS = 3
"""Processes that may die under a trial before it counts as failed."""


@dataclass
class Trial:
    """One configuration and its run.

    Attributes:
        number: counted from 0.
        params: what was proposed, by its place in the configuration.
        state: `running`, `finished`, `pruned` or `failed`; a search that was ended leaves it `running`.
        reached: whether it got to the goals of the stop rule.
        result: its latest result.
        error: one sentence, if it failed.
        deaths: processes that have died under it.
        percent: of its limit, at which it was last compared with others.
        settings: its whole configuration.
        path: its run folder.
    """

    number: int
    params: dict[str, Primitive]
    state: str = "running"
    reached: bool = False
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    deaths: int = 0
    percent: int = 0
    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    path: Path = Path()

    def value(self, search: Search) -> float:
        """What it is compared by; infinitely bad where it missed the goal that others are timed to."""
        found = self.result.get(search.metric)
        worst = math.inf if search.mode == "min" else -math.inf
        if found is None or math.isnan(found) or (search.metric in LIMITS and search.goals and not self.reached):
            return worst
        return float(found)

    def write(self) -> None:
        """Keeps it in its folder."""
        known = asdict(self)
        del known["settings"], known["path"]
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            temporary = self.path / f".trial.{os.getpid()}"
            temporary.write_text(json.dumps(known, indent=2) + "\n")
            os.replace(temporary, self.path / "trial.json")


def best_of(trials: Sequence[Trial], search: Search) -> Trial | None:
    """The trial whose value is best, the first of equals; none that has missed its goal."""
    known = [trial for trial in trials if math.isfinite(trial.value(search))]
    return (max if search.mode == "max" else min)(known, key=lambda trial: trial.value(search), default=None)


class Study:
    """Hands out a search's trials and takes their results.

    Args:
        search: what is searched.
        folder: the study's.
        callbacks: of every trial's run.

    Attributes:
        trials: those that have begun, by number.

    Raises:
        ConfigError: the search cannot be made.
        RunError: the folder holds another study.
    """

    def __init__(self, search: Search, folder: Path, callbacks: Sequence[Any] = ()) -> None:
        self.search, self.folder, self.callbacks = search, folder, list(callbacks)
        self.points = grid(search.config)
        self.total = search.num_samples * len(self.points)
        self.trials: list[Trial] = []
        self.storage = Storage(search, folder)
        self._proposed: dict[int, OptunaTrial] = {}
        self._waiting: deque[Trial] = deque()
        self._since = time.monotonic()
        self._recall()

    @property
    def best(self) -> Trial | None:
        """The best of those that have finished; None as long as none is better than nothing."""
        finished = [trial for trial in self.trials if trial.state == "finished"]
        return best_of(finished, self.search)

    @property
    def seconds(self) -> float:
        """Since the search began, or was taken up again."""
        return time.monotonic() - self._since

    def _recall(self) -> None:
        """Takes up what is in the folder."""
        for file in sorted(self.folder.glob("trial_*/trial.json")):
            try:
                trial = Trial(**json.loads(file.read_text()))
            except (ValueError, TypeError):
                raise RunError(f"The trial {file.parent} is damaged: its trial.json cannot be read.") from None
            trial.path = file.parent
            self.trials.append(trial)
        self.storage.agree(self.trials, [trial.value(self.search) for trial in self.trials])
        for trial in self.trials:
            if trial.state == "running":
                self._waiting.append(trial)

    # --- the desk -----------------------------------------------------------------------------------------------

    def next_job(self) -> dict[str, Any] | None:
        budget = self.search.time_budget_s
        if budget is not None and self.seconds > budget:
            return None
        while self._waiting or len(self.trials) < self.total:
            trial = self._waiting.popleft() if self._waiting else self._propose()
            if trial.state == "running":
                return self._job(trial)
        return None

    def _propose(self) -> Trial:
        """The next trial; one whose settings contradict each other has failed before it began."""
        number = len(self.trials)
        proposed = self.storage.ask(self.points[number % len(self.points)])
        trial = Trial(number, {}, path=self.folder / f"trial_{number:05d}")
        self._proposed[number] = proposed
        try:
            trial.settings = sample(self.search.config, proposed)
            trial.settings.setdefault("seed", self.search.seed + number)
            resolve(self.search.algorithm, None, trial.settings, preset=self.search.preset)
        except ConfigError as error:
            trial.state, trial.error = "failed", str(error)
        trial.params = dict(proposed.params)
        self.trials.append(trial)
        trial.write()
        if trial.state == "failed":
            self.storage.tell(number, "failed", math.nan)
        return trial

    def _job(self, trial: Trial) -> dict[str, Any]:
        if trial.number not in self._proposed:
            self._proposed[trial.number] = self.storage.trial(trial.number)
        if not trial.settings:
            trial.settings = sample(self.search.config, self._proposed[trial.number])
            trial.settings.setdefault("seed", self.search.seed + trial.number)
        return {
            "number": trial.number,
            "folder": str(trial.path),
            "algorithm": self.search.algorithm,
            "settings": trial.settings,
            "stop": dict(self.search.stop),
            "preset": self.search.preset,
            "options": RunOptions(**self.search.options),
            "callbacks": self.callbacks,
        }

    def report(self, job: dict[str, Any], result: dict[str, Any]) -> str | None:
        trial = self.trials[job["number"]]
        trial.result = result
        if self.search.pruner == "none":
            return None
        percent, value = self.search.percent(result), self.search.intermediate(result)
        if percent <= trial.percent or math.isnan(value):
            return None
        trial.percent = percent
        pruned = self.storage.prune(trial.number, value, percent)
        return f"pruned at {percent} % of its limit" if pruned else None

    def finish(self, job: dict[str, Any], end: dict[str, Any]) -> None:
        trial = self.trials[job["number"]]
        if "died" in end:
            trial.deaths += 1
            if trial.deaths < MAX_DEATHS:
                trial.write()
                self._waiting.appendleft(trial)
                return
            trial.state, trial.error = "failed", f"{MAX_DEATHS} processes died under it; of the last, {end['died']}."
        elif "error" in end:
            trial.state, trial.error = "failed", end["error"]
        else:
            trial.result = end["done"]
            reason = str(trial.result["stop_reason"])
            if reason in ("interrupted", "preempted"):
                return
            trial.state = "pruned" if reason.startswith("pruned") else "finished"
            trial.reached = any(reason.startswith(f"{goal} ") for goal in self.search.goals)
        trial.write()
        self.storage.tell(trial.number, trial.state, trial.value(self.search))
