"""What Tune found: trials, their results and checkpoints, by the methods of all its eras."""

from __future__ import annotations

import math
import re
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from poise.errors import CheckpointError, PoiseError, RunError
from poise.install import install
from poise.tracking.folder import RunFolder
from poise.training.checkpoint import bring_back, checkpoints, newest

STATES = {"finished": "TERMINATED", "pruned": "TERMINATED", "failed": "ERROR"}


class Checkpoint:
    """A checkpoint on the disk.

    Attributes:
        path: its folder.
    """

    def __init__(self, path: Any) -> None:
        self.path = str(path)

    def __fspath__(self) -> str:
        return self.path

    __str__ = __fspath__

    def __repr__(self) -> str:
        return f"Checkpoint({self.path!r})"

    @classmethod
    def from_directory(cls, path: Any) -> Checkpoint:
        """That of a folder."""
        return cls(path)

    def to_directory(self, path: Any = None) -> str:
        """Its folder."""
        return self.path

    @contextmanager
    def as_directory(self) -> Iterator[str]:
        """Its folder."""
        yield self.path


def old_path(path: Any) -> str:
    """The checkpoint that a path means, which may be as RLlib wrote them.

    Raises:
        CheckpointError: it is RLlib's own.
    """
    own = getattr(path, "checkpoint", path)
    given = Path(str(getattr(own, "path", own)))
    found = re.fullmatch(r"checkpoint-?_?0*(\d+)", given.name)
    if given.is_file() or any((given / name).exists() for name in ("algorithm_state.pkl",
                              ".is_checkpoint", "rllib_checkpoint.json")):  # fmt: skip
        raise CheckpointError(
            f"{given} is RLlib's own checkpoint, which is pickled, and Poise unpickles nothing: "
            "train anew, or give its weights to set_weights of a policy."
        )
    if found and not given.exists():
        if re.fullmatch(r"checkpoint_\d+", given.parent.name):
            return old_path(given.parent)
        inside = given.parent / "checkpoints" / f"{int(found[1]):06d}"
        bring_back(inside.parent, inside.name) if inside.parent.exists() else None
        return str(inside if inside.exists() else given)
    return str(given)


class Trial:
    """A trial as Tune has it.

    Attributes:
        trial_id, config, logdir: its number, settings and folder.
        rows: all its results.
        status: `TERMINATED`, `ERROR`, or `RUNNING` where a search was ended before it.
        error: one sentence, if it failed.
    """

    def __init__(self, trial_id: str, config: dict[str, Any], logdir: Any,
                 rows: Sequence[dict[str, Any]], status: str, error: str = "") -> None:  # fmt: skip
        self.trial_id, self.config, self.logdir = trial_id, config, str(logdir)
        self.rows, self.status, self.error = list(rows), status, error

    def __repr__(self) -> str:
        return f"trial_{self.trial_id}"

    @property
    def last_result(self) -> dict[str, Any]:
        """Its last result, with RLlib's keys."""
        from poise.compat.rllib.results import layouts

        row = self.rows[-1] if self.rows else {}
        return {**layouts(row), **row, "config": self.config, "trial_id": self.trial_id}

    @property
    def metric_analysis(self) -> dict[str, dict[str, float]]:
        """Of each number in its results the largest, the least, their mean and the last."""
        columns: dict[str, list[float]] = {}
        for row in self.rows:
            for key, value in row.items():
                if isinstance(value, (int, float)) and value == value:
                    columns.setdefault(key, []).append(value)
        return {
            key: {"max": max(c), "min": min(c), "avg": statistics.fmean(c), "last": c[-1]}
            for key, c in columns.items()
        }

    @property
    def evaluated_params(self) -> dict[str, Any]:
        """Its settings."""
        return self.config

    @property
    def checkpoint(self) -> Checkpoint | None:
        """Its newest intact checkpoint."""
        found = self.checkpoints()
        return Checkpoint(found[-1][0]) if found else None

    local_path = path = property(lambda self: self.logdir)

    def checkpoints(self) -> list[tuple[str, dict[str, Any]]]:
        """Its checkpoints with the results at them, the newest last."""
        folder = Path(self.logdir)
        rows = {row.get("training_iteration"): row for row in self.rows}
        inside = [(str(path), int(path.name)) for path in checkpoints(folder / "checkpoints")]
        own = [
            (str(p), int(p.name.rpartition("_")[2])) for p in sorted(folder.glob("checkpoint_*"))
        ]
        return [(path, rows.get(number, {})) for path, number in sorted(inside + own, key=_second)]

    def value(self, metric: str, scope: str) -> float:
        """What it is compared by: NaN where it has no such result."""
        from poise.compat.rllib.results import flat

        known = [dict(flat(row)).get(metric) for row in self.rows]
        values = [float(each) for each in known if isinstance(each, (int, float)) and each == each]
        if not values:
            return math.nan
        if scope == "last" or scope.startswith("all"):
            return values[-1]
        last = re.fullmatch(r"last-(\d+)-avg", scope)
        if scope != "avg" and not last:
            raise RunError(f"scope={scope!r} is not allowed: last, all, avg or last-N-avg.")
        return statistics.fmean(values[-int(last[1]) :] if last else values)

    def best(self, metric: str, mode: str, scope: str) -> float:
        """The same, of all results the best where the scope is `all`."""
        from poise.compat.rllib.results import flat

        if scope != "all":
            return self.value(metric, scope)
        known = [dict(flat(row)).get(metric) for row in self.rows]
        values = [float(each) for each in known if isinstance(each, (int, float)) and each == each]
        return (max if mode == "max" else min)(values, default=math.nan)


def _second(pair: tuple[Any, int]) -> int:
    return pair[1]


class ExperimentAnalysis:
    """What `tune.run` returns.

    Args:
        trials: all of them.
        metric, mode: by which they are compared, unless a method is given others.
        path: the folder of them all.
        found: Poise's own `Analysis` of a search, whose attributes are at hand, too.

    Attributes:
        trials, default_metric, default_mode, experiment_path: as above.
    """

    def __init__(self, trials: Sequence[Trial], metric: str | None, mode: str | None, path: Any,
                 found: Any = None) -> None:  # fmt: skip
        self.trials, self.default_metric, self.default_mode = list(trials), metric, mode
        self.experiment_path, self.found = str(path), found

    def __getattr__(self, name: str) -> Any:
        if name in ("study", "ended") and self.__dict__.get("found") is not None:
            return getattr(self.found, name)
        raise AttributeError(f"ExperimentAnalysis has no {name!r}.")

    def get_best_trial(
        self, metric: str | None = None, mode: str | None = None, scope: str = "last",
        filter_nan_and_inf: bool = True,
    ) -> Trial:  # fmt: skip
        """The best trial.

        Args:
            metric, mode: by which it is the best; those of `tune.run` unless given.
            scope: `last` results, `all` of them, their average (`avg`), or that of the last N
                (`last-N-avg`).
            filter_nan_and_inf: trials without a finite number are left out in any case.

        Raises:
            RunError: no trial has a number for the metric.
        """
        from poise.compat.rllib.results import key_of

        asked = metric or self.default_metric or "episode_reward_mean"
        how = mode or self.default_mode or "max"
        values = [(trial.best(key_of(asked), how, scope), trial) for trial in self.trials]
        values = [(value, trial) for value, trial in values if math.isfinite(value)]
        if not values:
            if len(self.trials) == 1:
                return self.trials[0]
            raise RunError(f"No trial of {self.experiment_path} has a number for {asked!r}.")
        return (max if how == "max" else min)(values, key=lambda pair: pair[0])[1]

    def get_best_config(self, *how: Any, **named: Any) -> dict[str, Any]:
        """The settings of the best trial; arguments as for `get_best_trial`."""
        return self.get_best_trial(*how, **named).config

    def get_best_logdir(self, *how: Any, **named: Any) -> str:
        """The folder of the best trial."""
        return self.get_best_trial(*how, **named).logdir

    def get_best_checkpoint(
        self, trial: Any = None, metric: str | None = None, mode: str | None = None, **_: Any
    ) -> str:
        """The path of a trial's checkpoint that was best when it was written.

        Args:
            trial: itself or its folder; the best one unless given.
            metric, mode: as for `get_best_trial`.

        Raises:
            RunError: there is none.
        """
        chosen = self._trial(trial) if trial is not None else self.get_best_trial(metric, mode)
        pairs = self.get_trial_checkpoints_paths(chosen, metric)
        known = [pair for pair in pairs if isinstance(pair[1], (int, float)) and pair[1] == pair[1]]
        if known:
            best = max if (mode or self.default_mode or "max") == "max" else min
            return str(best(reversed(known), key=lambda pair: pair[1])[0])
        return self.get_last_checkpoint(chosen)

    def get_trial_checkpoints_paths(self, trial: Any, metric: str | None = None) -> list[Any]:
        """The checkpoints of a trial, each with the metric's value then."""
        from poise.compat.rllib.results import key_of

        key = key_of(metric or self.default_metric or "training_iteration")
        return [(path, row.get(key)) for path, row in self._trial(trial).checkpoints()]

    def get_last_checkpoint(self, trial: Any = None, *_: Any, **__: Any) -> str:
        """The newest intact checkpoint of a trial.

        Raises:
            RunError: there is none.
        """
        chosen = self._trial(trial) if trial is not None else self.get_best_trial()
        found, problems = newest(RunFolder(chosen.logdir).checkpoints)
        path = found or (chosen.checkpoint.path if chosen.checkpoint else None)
        if path is None:
            why = f": {problems[0]}" if problems else "."
            raise RunError(f"{chosen.logdir} has no intact checkpoint{why}")
        return str(path)

    def _trial(self, given: Any) -> Trial:
        if isinstance(given, Trial):
            return given
        same = [t for t in self.trials if Path(t.logdir) == Path(str(given))]
        if not same:
            raise RunError(f"{given} is no trial of {self.experiment_path}.")
        return same[0]

    best_trial = property(lambda self: self.get_best_trial())
    best_config = property(lambda self: self.get_best_config())
    best_logdir = property(lambda self: self.get_best_logdir())
    best_checkpoint = property(lambda self: self.get_best_checkpoint())
    best_result = property(lambda self: self.get_best_trial().last_result)

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The last results, by the trials' names."""
        return {trial.trial_id: trial.last_result for trial in self.trials}

    @property
    def results_df(self) -> Any:
        """The last results as a pandas data frame."""
        return self.dataframe()

    def dataframe(self, metric: str | None = None, mode: str | None = None) -> Any:
        """One row for each trial: its last result, or the one that is best by the metric.

        Raises:
            PoiseError: pandas is not installed.
        """
        from poise.compat.rllib.results import flat, key_of

        rows = []
        for trial in self.trials:
            row = dict(trial.rows[-1]) if trial.rows else {}
            if metric is not None and mode is not None:
                key = key_of(metric)
                known = [each for each in trial.rows if isinstance(each.get(key), (int, float))]
                row = (max if mode == "max" else min)(known, key=lambda e: e[key], default=row)
            named = {f"config/{key}": value for key, value in flat(trial.config)}
            rows.append({**row, **named, "logdir": trial.logdir, "trial_id": trial.trial_id})
        frame = _pandas().DataFrame(rows)
        return frame

    @property
    def trial_dataframes(self) -> dict[str, Any]:
        """All results of each trial as a data frame, by its folder."""
        return {trial.logdir: _pandas().DataFrame(trial.rows) for trial in self.trials}

    @property
    def best_dataframe(self) -> Any:
        """All results of the best trial as a data frame."""
        return _pandas().DataFrame(self.get_best_trial().rows)

    def get_all_configs(self, *_: Any) -> dict[str, dict[str, Any]]:
        """The settings of each trial, by its folder."""
        return {trial.logdir: trial.config for trial in self.trials}

    def stats(self) -> dict[str, Any]:
        """How many trials there are of each status."""
        states = [trial.status for trial in self.trials]
        return {state: states.count(state) for state in set(states)}


Analysis = ExperimentAnalysis


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise PoiseError(f"Data frames need pandas: {install('tune')}") from None
    return pandas


class Result:
    """A trial as `Tuner.fit` returns it.

    Attributes:
        metrics, config: its last result and its settings.
        checkpoint: its newest; None where it has none.
        path, log_dir: its folder.
        error: what ended it, if it failed.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial, self.metrics, self.config = trial, trial.last_result, trial.config
        self.checkpoint, self.path, self.log_dir = trial.checkpoint, trial.logdir, trial.logdir
        self.error = RuntimeError(trial.error) if trial.error else None

    def __repr__(self) -> str:
        return f"Result(path={self.path!r}, error={self.error!r})"

    @property
    def metrics_dataframe(self) -> Any:
        """All its results as a data frame."""
        return _pandas().DataFrame(self.trial.rows)

    @property
    def best_checkpoints(self) -> list[Any]:
        """Its checkpoints, each with the result then."""
        return [(Checkpoint(path), row) for path, row in self.trial.checkpoints()]


class ResultGrid:
    """What `Tuner.fit` returns: a result for each trial.

    Args:
        analysis: the same as `tune.run` returns it.
    """

    def __init__(self, analysis: ExperimentAnalysis) -> None:
        self._experiment_analysis = analysis
        self._results = [Result(trial) for trial in analysis.trials]
        self.experiment_path = analysis.experiment_path

    def __len__(self) -> int:
        return len(self._results)

    def __getitem__(self, i: int) -> Result:
        return self._results[i]

    def __iter__(self) -> Iterator[Result]:
        return iter(self._results)

    def get_best_result(
        self, metric: str | None = None, mode: str | None = None, scope: str = "last", *_: Any,
        **__: Any,
    ) -> Result:  # fmt: skip
        """The best one; arguments as for `ExperimentAnalysis.get_best_trial`."""
        return Result(self._experiment_analysis.get_best_trial(metric, mode, scope))

    def get_dataframe(
        self, filter_metric: str | None = None, filter_mode: str | None = None
    ) -> Any:
        """One row for each trial."""
        return self._experiment_analysis.dataframe(filter_metric, filter_mode)

    @property
    def errors(self) -> list[Exception]:
        """What ended those that failed."""
        return [result.error for result in self._results if result.error]

    num_errors = property(lambda self: len(self.errors))
    num_terminated = property(lambda self: len(self) - len(self.errors))


def temporary() -> str:
    """A folder for what a trial keeps until it is reported."""
    return tempfile.mkdtemp(prefix="poise_trial_")
