"""Trials of a function or of a `Trainable`: what it reports is kept, compared and stopped by.

They run one after another in this process; searches of an algorithm's settings are parallel.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from poise.compat.cluster import say
from poise.compat.raytune.analysis import Checkpoint, ExperimentAnalysis, Trial
from poise.config.base import plain
from poise.envs.raised import own_traceback
from poise.errors import RunError
from poise.files import make_folder, read_json
from poise.tracking.folder import json_line
from poise.tuning.space import Fixed, grid, sample, searches
from poise.tuning.storage import optuna_module

RETURNED = "returned.json"
"""In a checkpoint of a `Trainable`, what its `save_checkpoint` returned."""
_trainables: dict[str, Any] = {}
_current: list[Reporting] = []


class EndTrial(BaseException):
    """A trial has come to its end; no function's `except Exception` may hold it up."""


class Trainable:
    """Tune's class of what can be tuned: derive, with `setup(config)` and `step()`.

    Attributes:
        config, iteration, trial_id, logdir: of the trial.
    """

    iteration, training_iteration, trial_id, logdir = 0, 0, "default", "."

    def __init__(self, config: dict[str, Any] | None = None, *_: Any, **__: Any) -> None:
        self.config = config or {}
        (getattr(self, "_setup", None) or self.setup)(self.config)

    def setup(self, config: dict[str, Any]) -> None:
        """Begins."""

    def step(self) -> dict[str, Any]:
        """An iteration; returns what is reported."""
        raise NotImplementedError

    def train(self) -> dict[str, Any]:
        """An iteration."""
        found: dict[str, Any] = (getattr(self, "_train", None) or self.step)()
        self.iteration = self.training_iteration = self.iteration + 1
        return {"training_iteration": self.iteration, **found}

    def save_checkpoint(self, checkpoint_dir: str) -> Any:
        """Writes itself into a folder."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Takes what `save_checkpoint` wrote or returned."""

    def save(self, checkpoint_dir: str | None = None) -> str:
        """Writes itself into a folder, and returns that."""
        folder = checkpoint_dir or tempfile.mkdtemp(prefix="poise_trial_")
        make_folder(Path(folder))
        found = (getattr(self, "_save", None) or self.save_checkpoint)(folder)
        inside = Path(found).name if isinstance(found, str) and Path(found) != Path(folder) else ""
        kept = {"file": inside, "values": found if isinstance(found, dict) else None}
        try:
            (Path(folder) / RETURNED).write_text(json.dumps(kept))
        except TypeError as error:
            raise RunError(
                f"save_checkpoint returned a dict with what JSON does not hold ({error}): write it "
                "into the folder that it is given."
            ) from error
        return folder

    def restore(self, path: Any) -> None:
        """Takes what `save` returned."""
        folder = Path(str(path))
        kept = read_json(folder / RETURNED) if (folder / RETURNED).exists() else {}
        meant = kept.get("values") or str(folder / kept.get("file", ""))
        (getattr(self, "_restore", None) or self.load_checkpoint)(meant)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Whether it can go on with other settings."""
        return False

    def cleanup(self) -> None:
        """Gives its resources back."""

    def stop(self) -> None:
        """Ends it."""
        (getattr(self, "_stop", None) or self.cleanup)()


class Reporting:
    """The trial that is underway.

    Args:
        trial: takes what is reported.
        ends: says of a result whether the trial ends with it.
        restored: the checkpoint that it begins from.
    """

    def __init__(self, trial: Trial, ends: Callable[[dict[str, Any]], bool], restored: Any) -> None:
        self.trial, self.ends, self.restored = trial, ends, restored
        self.begun = time.monotonic()

    def __call__(self, given: Mapping[str, Any]) -> None:
        row = {
            "training_iteration": len(self.trial.rows) + 1,
            "time_total_s": time.monotonic() - self.begun, "trial_id": self.trial.trial_id,
            "done": False, **given,
        }  # fmt: skip
        self.trial.rows.append(row)
        with (Path(self.trial.logdir) / "metrics.jsonl").open("a") as file:
            file.write(json_line({k: v for k, v in plain(row).items() if k != "config"}))
        if row["done"] or self.ends(row):
            raise EndTrial


def report(_metrics: Mapping[str, Any] | None = None, *, checkpoint: Any = None,
           **metrics: Any) -> None:  # fmt: skip
    """Reports results of the trial that is underway; outside of one, it prints them.

    A trial may end here, by its stop rule or its scheduler.
    """
    given = {**(_metrics or {}), **metrics}
    if not _current:
        print(given, flush=True)
        return
    if checkpoint is not None:
        number = len(_current[-1].trial.rows) + 1
        kept = Path(_current[-1].trial.logdir) / f"checkpoint_{number:06d}"
        if Path(str(checkpoint)) != kept:
            shutil.copytree(str(checkpoint), kept, dirs_exist_ok=True)
    _current[-1](given)


@contextmanager
def checkpoint_dir(step: int) -> Iterator[str]:
    """A folder for a checkpoint of the trial that is underway."""
    folder = Path(get_trial_dir()) / f"checkpoint_{step:06d}"
    make_folder(folder)
    yield str(folder)


def get_trial_dir() -> str:
    """The folder of the trial that is underway."""
    return _current[-1].trial.logdir if _current else "."


def get_trial_id() -> str:
    """Its name."""
    return _current[-1].trial.trial_id if _current else "default"


get_trial_name = get_trial_id


def get_checkpoint() -> Any:
    """The checkpoint that it begins from; None without one."""
    path = _current[-1].restored if _current else None
    return Checkpoint(path) if path else None


def get_context() -> Any:
    """The trial that is underway, by the methods of Ray's contexts."""
    return SimpleNamespace(
        get_trial_dir=get_trial_dir, get_trial_id=get_trial_id, get_trial_name=get_trial_name,
        get_world_size=lambda: 1, get_world_rank=lambda: 0, get_local_rank=lambda: 0,
        get_experiment_name=lambda: Path(get_trial_dir()).parent.name,
        get_trial_resources=lambda: None, get_storage=lambda: None,
    )  # fmt: skip


session = SimpleNamespace(
    report=report, get_checkpoint=get_checkpoint, get_trial_dir=get_trial_dir,
    get_trial_id=get_trial_id, get_trial_name=get_trial_name, get_world_size=lambda: 1,
    get_world_rank=lambda: 0, get_local_rank=lambda: 0,
)  # fmt: skip


track = SimpleNamespace(log=report, trial_dir=get_trial_dir)


def with_parameters(trainable: Any, **known: Any) -> Any:
    """A function or a class of trials with more arguments."""
    if isinstance(trainable, type):
        own: Any = trainable

        class With(own):  # type: ignore[misc]
            """A class of trials whose setup gets more arguments."""

            def setup(self, config: dict[str, Any]) -> None:
                super().setup(config, **known)

        With.__name__ = trainable.__name__
        return With
    return functools.partial(trainable, **known)


def with_resources(trainable: Any, *_: Any, **__: Any) -> Any:
    """Itself: what a trial needs is what there is."""
    return trainable


def register_trainable(name: str, trainable: Any) -> None:
    """Makes a function or a class known by a name."""
    _trainables[name] = trainable


def registered(trainable: Any) -> Any:
    """What is known by a name; everything else as it is."""
    return _trainables.get(trainable, trainable) if isinstance(trainable, str) else trainable


def run(
    trainable: Any, config: Mapping[str, Any], rules: Mapping[str, float] | None, asked: Any, *,
    num_samples: int, metric: str, mode: str, scheduler: Any, sampler: str, path: Path,
    seconds: float | None, quiet: bool, restore: Any,
) -> ExperimentAnalysis:  # fmt: skip
    """Runs trials of a function or a class, one after another.

    Raises:
        RunError: all have failed.
    """
    limits, begun = {**scheduler.limit, **(rules or {})}, time.monotonic()
    points = grid(config) * num_samples
    study = _study(sampler, scheduler.name, mode) if any(searches(config)) else None

    def ends(trial: Trial, row: dict[str, Any]) -> bool:
        over = any(row.get(k) is not None and row[k] >= v for k, v in limits.items())
        said = asked is not None and bool(asked(trial.trial_id, row))
        return over or said or (seconds is not None and time.monotonic() - begun >= seconds)

    trials: list[Trial] = []
    proposals: list[Any] = []
    for number, point in enumerate(points):
        if study is not None and point:
            study.enqueue_trial(point)
        proposals.append(study.ask() if study is not None else Fixed({}))
        settings = sample(config, proposals[-1])
        folder = path / f"{getattr(trainable, '__name__', 'trial')}_{number:05d}"
        make_folder(folder)
        (folder / "params.json").write_text(json.dumps(plain(settings)))
        trials.append(Trial(f"{number:05d}", settings, folder, [], "RUNNING"))
        if scheduler.name == "pbt":
            continue
        pruned = _judge(proposals[-1], metric, study)
        if seconds is not None and time.monotonic() - begun >= seconds:
            say(f"The time of the search is over: {len(points) - number} trials were not begun.")
            break
        segment(trainable, trials[-1], lambda t, row, p=pruned: ends(t, row) or p(row), restore)
        _tell(study, proposals[-1], trials[-1], metric)
    if scheduler.name == "pbt":
        population(trainable, trials, ends, scheduler, metric, mode)
    for trial in trials if not quiet else ():
        shown = f"{metric} {trial.value(metric, 'last'):g}"
        print(f"Trial {trial.trial_id} {plain(trial.config)}: {trial.error or shown}", flush=True)
    if trials and all(trial.error for trial in trials):
        raise RunError(f"All {len(trials)} trials of {path} failed: {trials[0].error}")
    return ExperimentAnalysis(trials, metric, mode, path)


def segment(trainable: Any, trial: Trial, ends: Any, restored: Any) -> None:
    """A trial, or a part of one, from a checkpoint if there is one; an error is kept with it."""
    trial.status = "TERMINATED"
    _current.append(Reporting(trial, lambda row: ends(trial, row), restored))
    try:
        _play(trainable, trial.config)
    except EndTrial:
        pass
    except Exception as error:
        trial.status, trial.error = "ERROR", f"{type(error).__name__}: {error}"
        (Path(trial.logdir) / "error.txt").write_text(own_traceback(error))
        say(f"Trial {trial.trial_id} failed: {trial.error} (error.txt has the traceback)")
    finally:
        _current.pop()


def population(
    trainable: Any, trials: list[Trial], ends: Any, scheduler: Any, metric: str, mode: str
) -> None:
    """Population-based training: parts of all trials in turn, each from its last checkpoint.

    After each part, the worst quarter go on from where those of the best quarter are, with other
    settings.
    """
    random, part = np.random.default_rng(0), int(scheduler.interval or 5)
    alive, sign, size = list(trials), 1 if mode == "max" else -1, max(1, len(trials) // 4)
    while alive:
        for trial in list(alive):
            goal = len(trial.rows) + part
            segment(trainable, trial, lambda t, row, g=goal: ends(t, row) or len(t.rows) >= g,
                    trial.checkpoint)  # fmt: skip
            if trial.error or len(trial.rows) < goal or ends(trial, trial.rows[-1]):
                alive.remove(trial)
        ranked = sorted(alive, key=lambda t: sign * t.value(metric, "last"))
        for worse, better in zip(ranked[:size], reversed(ranked[-size:]), strict=False):
            if worse is not better and better.checkpoint is not None:
                number = f"checkpoint_{len(worse.rows):06d}"
                kept = Path(worse.logdir) / number
                shutil.copytree(better.checkpoint.path, kept, dirs_exist_ok=True)
                worse.config = scheduler.explored(better.config, random)
                say(f"Trial {worse.trial_id} goes on from {better.trial_id}.")


def _play(trainable: Any, settings: dict[str, Any]) -> None:
    """One trial, to its end."""
    reporting = _current[-1]
    if isinstance(trainable, type):
        made = trainable(settings)
        made.logdir, made.trial_id = reporting.trial.logdir, reporting.trial.trial_id
        if reporting.restored:
            made.restore(reporting.restored)
            made.iteration = made.training_iteration = len(reporting.trial.rows)
        try:
            while True:
                reporting(made.train())
        finally:
            made.save(str(Path(reporting.trial.logdir) / f"checkpoint_{made.iteration:06d}"))
            made.stop()
    takes = inspect.signature(trainable).parameters
    free = [p for p in takes.values() if p.default is p.empty and p.kind == p.POSITIONAL_OR_KEYWORD]
    known = {"checkpoint_dir": reporting.restored} if "checkpoint_dir" in takes else {}
    second = [report] if len(free) > 1 and free[1].name in ("reporter", "report", "r") else []
    found = trainable(settings, *second, **known)
    if inspect.isgenerator(found):
        for each in found:
            report(each if isinstance(each, Mapping) else {"_metric": each})
    elif found is not None:
        report(found if isinstance(found, Mapping) else {"_metric": found})


def _study(sampler: str, scheduler: str, mode: str) -> Any:
    """Optuna's study, in memory."""
    optuna = optuna_module()
    samplers = {"random": "RandomSampler", "tpe": "TPESampler", "gp": "GPSampler",
                "cmaes": "CmaEsSampler"}  # fmt: skip
    pruners = {"none": "NopPruner", "median": "MedianPruner", "hyperband": "HyperbandPruner",
               "asha": "SuccessiveHalvingPruner", "pbt": "NopPruner"}  # fmt: skip
    return optuna.create_study(
        direction=f"{mode}imize", sampler=getattr(optuna.samplers, samplers[sampler])(seed=0),
        pruner=getattr(optuna.pruners, pruners[scheduler])(),
    )  # fmt: skip


def _judge(proposed: Any, metric: str, study: Any) -> Callable[[dict[str, Any]], bool]:
    """Whether the scheduler ends a trial with a result."""

    def pruned(row: dict[str, Any]) -> bool:
        value = row.get(metric)
        if study is None or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        proposed.report(float(value), int(row["training_iteration"]))
        return bool(proposed.should_prune())

    return pruned


def _tell(study: Any, proposed: Any, trial: Trial, metric: str) -> None:
    trial.status = trial.status if trial.error else "TERMINATED"
    if study is None:
        return
    value = trial.value(metric, "last")
    failed = trial.error or not math.isfinite(value)
    study.tell(proposed, None if failed else value, state=None if not failed else _failed())


def _failed() -> Any:
    return optuna_module().trial.TrialState.FAIL
