"""A study: the trials of a search, who proposes them and what came of them.

runs/<experiment>/
    study.json         the search
    study.db           Optuna's database, for its dashboard; made anew from the trials
    trial_00000/       trial.json: what was proposed and what came of it. With one seed, the folder
                       is the run's, too;
        seed_0/        with several, each has a run folder there,
        held_out_0/    and so have those that confirm a winner
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from poise.config.registry import registered_algorithm
from poise.config.resolve import resolve
from poise.config.run import RunOptions
from poise.envs.changes import sendable
from poise.envs.make import own_spec, registered_env
from poise.errors import ConfigError, RunError, writing
from poise.files import make_folder, read_json, write_json
from poise.models.catalog import find_model, find_preprocessor
from poise.tracking.folder import RunFolder
from poise.training.checkpoint import checkpoints
from poise.tuning.search import HELD_OUT, Search
from poise.tuning.space import Fixed, Primitive, sample
from poise.tuning.storage import Settled, Storage

MAX_DEATHS = 3
"""A trial has failed once so many processes have died under it without a checkpoint between."""
ENOUGH = 4
"""Trials that must have had as many seeds before one can be in the worse half of them."""


@dataclass
class Trial:
    """One configuration and its runs.

    Attributes:
        number: counted from 0.
        params: what was proposed, by its place in the configuration.
        state: `running`, `finished`, `pruned` or `failed`; a search that was ended leaves it
            `running`.
        results: the last result of each of its runs that has ended, by seed.
        held_out: the same of those that confirm it.
        error: one sentence, if it failed.
        deaths: processes that have died under it.
        vain: those of them, of late, between which it got no further.
        died_at: the run and the checkpoint at which the last of them died.
        reports: what it was compared by on its way, each with the per cent of its limit that it had
            used.
        lineage: in a population, where it went on from which member and with what.
        settings: its whole configuration.
        path: its folder.
        latest: the latest result of the run that is underway.
    """

    number: int
    params: dict[str, Primitive]
    state: str = "running"
    results: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    deaths: int = 0
    vain: int = 0
    died_at: str = ""
    reports: list[tuple[int, float]] = field(default_factory=list)
    lineage: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    path: Path = Path()
    latest: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def result(self) -> dict[str, Any]:
        """The latest result of its latest run."""
        return self.latest or (self.results[-1] if self.results else {})

    def value(self, search: Search, seeds: int | None = None) -> float:
        """The mean over its runs (its first `seeds`) of what they are compared by."""
        values = [search.value(result) for result in self.results[:seeds]]
        return statistics.fmean(values) if values else math.nan

    def confirmed(self, search: Search) -> float:
        """The same over the seeds that confirm it; NaN where there are none."""
        values = [search.value(result) for result in self.held_out]
        return statistics.fmean(values) if values else math.nan

    def write(self) -> None:
        """Keeps it in its folder."""
        known = asdict(self)
        for name in ("settings", "path", "latest"):  # they follow from the rest
            del known[name]
        with writing(self.path):
            make_folder(self.path)
        write_json(self.path / "trial.json", known)

    @classmethod
    def read(cls, file: Path) -> Trial:
        """What `write` left.

        Raises:
            RunError: it cannot be read.
        """
        try:
            known = read_json(file)
            found = cls(**known, path=file.parent)
            lists = dict.fromkeys(("results", "held_out", "lineage", "reports"), list)
            kinds = {"number": int, "params": dict, "deaths": int, "error": str, **lists}
            kinds |= {"vain": int, "died_at": str}
            if known.get("state") not in ("running", "finished", "pruned", "failed"):
                raise ValueError
            if not all(isinstance(vars(found)[name], kind) for name, kind in kinds.items()):
                raise ValueError
            for row in (*found.results, *found.held_out):
                if not isinstance(row, dict) or not isinstance(row.get("stop_reason"), str):
                    raise ValueError
            if not all(isinstance(part, (int, float)) for pair in found.reports for part in pair):
                raise ValueError
            return found
        except (OSError, ValueError, TypeError):
            raise RunError(
                f"The trial {file.parent} is damaged: its {file.name} cannot be read."
            ) from None


def ranked(trials: Sequence[Trial], search: Search) -> list[Trial]:
    """The trials that have finished with a finite value, the best first.

    One that has missed its goal has none.
    """
    known = [t for t in trials if t.state == "finished" and math.isfinite(t.value(search))]
    return sorted(known, key=lambda trial: trial.value(search), reverse=search.mode == "max")


def registered(algorithm: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a run needs of that which was registered or changed in this process alone.

    It goes to the worker with the job.
    """
    env, model = settings.get("env"), settings.get("model.custom_model")
    preprocessor = settings.get("model.custom_preprocessor")
    return {
        "algorithm": registered_algorithm(algorithm),
        "changes": sendable(),
        "specs": [spec] if isinstance(env, str) and (spec := own_spec(env)) else [],
        "envs": {env: creator} if isinstance(env, str) and (creator := registered_env(env)) else {},
        "models": {model: find_model(model)} if model else {},
        "preprocessors": {preprocessor: find_preprocessor(preprocessor)} if preprocessor else {},
    }


class Study:
    """Hands out a search's runs and takes their results.

    Args:
        search: what is searched.
        folder: the study's.
        callbacks: of every run.

    Attributes:
        trials: those that have begun, by number.
        total: how many there will be.
        said: sentences for the user (settings that runs do not use, processes that died), each
            once, in the order in which they were first said.
        noun: what a trial is called.

    Raises:
        ConfigError: the search cannot be made.
        RunError: the folder holds a study that cannot be read, or one of another search.
    """

    noun = "trial"

    def __init__(self, search: Search, folder: Path, callbacks: Sequence[Any] = ()) -> None:
        self.search, self.folder, self.callbacks = search, folder, list(callbacks)
        self.points = search.points()
        self.total = search.num_samples * len(self.points)
        trials = map(Trial.read, folder.glob("*/trial.json"))
        self.trials = sorted(trials, key=lambda trial: trial.number)
        if (numbers := [trial.number for trial in self.trials]) != list(range(len(numbers))):
            raise RunError(
                f"The study {folder} is damaged: of its trials, only {numbers} are there."
            )
        for trial in self.trials:
            if trial.state != "failed":
                trial.settings = self._settings(trial)
        self._underway: set[tuple[int, str]] = set()
        self.said: dict[str, None] = {}
        self._since = time.monotonic()

    def label(self, trial: Trial) -> str:
        """How a trial is called among the others."""
        return str(trial.number)

    def _name(self, number: int) -> str:
        return f"trial_{number:05d}"

    def _settings(self, trial: Trial) -> dict[str, Any]:
        """What was proposed for a trial, put into the configuration."""
        try:
            settings = sample(self.search.config, proposed := Fixed(trial.params))
            if proposed.unused:
                raise ValueError(f"{sorted(proposed.unused)[0]!r} is not searched")
            return settings
        except ValueError as error:
            raise RunError(
                f"The study {self.folder} was begun with another search: {error}"
            ) from None

    @cached_property
    def storage(self) -> Storage:
        """Optuna's part, which knows what the trials know; who only reads a study needs none."""
        return Storage(self.search, self.folder, self.trials)

    @property
    def best(self) -> Trial | None:
        """The best trial that has finished, or was confirmed, if any were; None without one."""
        best, search = ranked(self.trials, self.search), self.search
        if confirmed := [trial for trial in best if len(trial.held_out) == search.seeds]:
            best = sorted(
                confirmed,
                key=lambda trial: trial.confirmed(search),
                reverse=search.mode == "max",
            )
        return best[0] if best else None

    @property
    def seconds(self) -> float:
        """Since the search began, or was taken up again."""
        return time.monotonic() - self._since

    @property
    def late(self) -> bool:
        """Whether its time is over."""
        return self.search.time_budget_s is not None and self.seconds > self.search.time_budget_s

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.late or (not self._underway and self._next() is None)

    def next_job(self) -> dict[str, Any] | None:
        """The next run: of trials that have begun, of a new one, or to confirm the best."""
        if self.late:
            return None
        _ = self.storage  # agrees with the trials before any of them goes on
        while len(self.trials) < self.total and self._next() is None:
            self._propose()
        found = self._next()
        if found is None:
            return None
        trial, name, seed = found
        self._underway.add((trial.number, name))
        return self._job(trial, name, seed)

    def _next(self) -> tuple[Trial, str, int] | None:
        """A run that could begin: its trial, its name and its seed."""
        search = self.search
        for trial in self.trials:
            if trial.state == "running" and not self._busy(trial):
                index = len(trial.results)
                repetition = 0 if search.seeds > 1 else trial.number // len(self.points)
                return trial, f"seed_{index}", search.seed + index + repetition
        if len(self.trials) < self.total or any(trial.state == "running" for trial in self.trials):
            return None
        for trial in ranked(self.trials, search)[: search.confirmed]:
            index = len(trial.held_out)
            if index < search.seeds and not self._busy(trial):
                return trial, f"held_out_{index}", search.seed + HELD_OUT + index
        return None

    def _busy(self, trial: Trial) -> bool:
        return any(number == trial.number for number, _ in self._underway)

    def _propose(self) -> None:
        """The next trial; one whose settings contradict each other has failed before it began."""
        number = len(self.trials)
        proposed = self.storage.ask(self.points[number % len(self.points)])
        trial = Trial(number, {}, path=self.folder / self._name(number))
        try:
            trial.settings = sample(self.search.config, proposed)
            resolve(self.search.algorithm, None, trial.settings, preset=self.search.preset)
        except ConfigError as error:
            trial.state, trial.error = "failed", str(error)
        trial.params = dict(proposed.params)
        self.trials.append(trial)
        trial.write()
        if trial.state == "failed":
            self.storage.tell(trial)

    def _job(self, trial: Trial, name: str, seed: int) -> dict[str, Any]:
        alone = self.search.seeds == 1 and name == "seed_0"
        settings = {**trial.settings, "seed": seed}
        if alone:  # the seed may be what is searched
            settings = {"seed": seed, **trial.settings}
        return {
            "trial": trial.number,
            "name": name,
            "folder": str(trial.path if alone else trial.path / name),
            "algorithm": self.search.algorithm,
            "settings": settings,
            "stop": dict(self.search.stop),
            "preset": self.search.preset,
            # Held-out seeds confirm the winners, not fresh episodes of each run.
            "options": RunOptions(**{"confirm": False, **self.search.options}),
            "callbacks": self.callbacks,
            "registered": registered(self.search.algorithm, trial.settings),
        }

    def report(self, job: dict[str, Any], result: dict[str, Any]) -> str | None:
        """Takes a result of a run that is underway.

        Returns:
            The reason to stop it, if its trial falls behind.
        """
        trial = self.trials[job["trial"]]
        trial.latest = result
        if self.search.scheduler in ("none", "pbt") or job["name"] != "seed_0":
            return None
        percent, value = self.search.percent(result), self.search.so_far(result)
        last = trial.reports[-1][0] if trial.reports else 0
        if percent <= last or percent == 100 or math.isnan(value):
            return None  # at 100 it ends by itself
        falls_behind = self.storage.prune(trial, percent, value)
        return f"pruned at {percent} % of its limit" if falls_behind else None

    def finish(self, job: dict[str, Any], end: dict[str, Any]) -> None:
        """Takes the end of a run.

        Args:
            job: the run.
            end: `{"done": result, "unused": sentences}`, `{"error": sentence}`, or `{"died": how}`,
                if its process did.
        """
        trial = self.trials[job["trial"]]
        self._underway.discard((trial.number, job["name"]))
        last, trial.latest = trial.latest, {}
        self.said |= dict.fromkeys(end.get("unused", ()))
        held_out = job["name"].startswith("held_out")
        if "died" in end and self._goes_on(trial, job, last, end["died"]):
            return
        if held_out and "done" not in end:  # the trial is what it was; its confirmation failed
            trial.held_out.append({"stop_reason": f"failed: {end.get('error') or end['died']}"})
            trial.write()
            return
        if "died" in end:
            trial.error = f"{trial.vain} processes died under it; of the last, {end['died']}."
        elif "error" in end:
            trial.error = end["error"]
        elif end["done"]["stop_reason"] in ("interrupted", "preempted"):
            trial.latest = end["done"]
            return
        else:
            (trial.held_out if held_out else trial.results).append(end["done"])
        if trial.error:
            trial.state = "failed"
        elif not held_out and "done" in end:
            self._ended(trial)
        trial.write()
        if trial.state != "running" and not held_out:
            self.storage.tell(trial)

    def _goes_on(self, trial: Trial, job: dict[str, Any], last: dict[str, Any], how: str) -> bool:
        """Counts a process that has died under a trial, and says so; whether the trial goes on.

        One that gets from checkpoint to checkpoint meanwhile goes on however often that happens: a
        machine may be lost many times in a long search.
        """
        folder = RunFolder(job["folder"]).checkpoints
        saved = max((int(path.name) for path in checkpoints(folder)), default=0)
        place = f"{job['name']} at {saved}"
        trial.deaths, trial.vain = trial.deaths + 1, trial.vain * (trial.died_at == place) + 1
        trial.died_at = place
        if trial.vain >= MAX_DEATHS:
            return False
        start = f"its checkpoint of iteration {saved}" if saved else "its beginning"
        lost = max(last.get("training_iteration", 0) - saved, 0)
        self.said[
            f"{self.noun} {self.label(trial)}: {how}. It goes on from {start}, and does {lost} "
            f"iteration{'s' * (lost != 1)} again ({trial.deaths} so far)."
        ] = None
        trial.write()
        return True

    def _ended(self, trial: Trial) -> None:
        """Settles a trial's state after one of its runs has ended well: that may be its last."""
        reason, had = trial.results[-1]["stop_reason"], len(trial.results)
        if reason.startswith("pruned") or (had < self.search.seeds and self._falls_behind(trial)):
            trial.state = "pruned"
        elif had == self.search.seeds or self.late:
            trial.state = "finished"

    def _falls_behind(self, trial: Trial) -> bool:
        """Whether it is in the worse half of those that have had as many seeds."""
        had = len(trial.results)
        values = [t.value(self.search, had) for t in self.trials if len(t.results) >= had]
        mine = trial.value(self.search)
        return len(values) >= ENOUGH and self.search.better(statistics.median(values), mine)


class Seeds(Study):
    """A study whose trials are runs of one configuration, each with a seed of its own."""

    noun = "seed"

    @cached_property
    def storage(self) -> Storage:
        """Nothing is proposed."""
        return Settled()

    def label(self, trial: Trial) -> str:
        """Its seed."""
        return str(self.points[trial.number]["seed"])

    def _name(self, number: int) -> str:
        return f"seed_{self.points[number]['seed']}"
