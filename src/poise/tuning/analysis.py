"""What a study found."""

from __future__ import annotations

import dataclasses
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from poise.config.base import env_name
from poise.config.resolve import field_types
from poise.config.types import coerce
from poise.errors import CheckpointError, PoiseError, RunError
from poise.install import install
from poise.tracking.folder import RunFolder
from poise.training.checkpoint import checkpoints, newest, verify
from poise.tuning.search import LIMITS, Search
from poise.tuning.study import Study, Trial, ranked


class Analysis:
    """The trials of a study and the best of them, by the metric and mode of the search or by
    others.

    Attributes:
        study: what it is of.
        trials: all that have begun.
        path: the study's folder.
        ended: the reason why the search ended before its last trial, if it did.
    """

    def __init__(self, study: Study, *, ended: str | None = None) -> None:
        self.study, self.trials, self.path, self.ended = study, study.trials, study.folder, ended

    def __repr__(self) -> str:
        search, best, of = self.study.search, self.study.best, self.study.total
        ended = sum(trial.state != "running" for trial in self.trials)
        found = f", best {search.metric} {best.value(search):,.6g}" if best else ""
        return (
            f"<{search.algorithm} on {env_name(search.config['env'])}{found}, {self.path}: "
            f"{ended} of {of} trials>"
        )

    def get_best_trial(self, metric: str | None = None, mode: str | None = None) -> Trial:
        """The best trial that finished; where the best were run again with other seeds, the best by
        those.

        Raises:
            RunError: no trial finished with a number for the metric, or none reached the goal that
                it is timed to.
        """
        search, best = self.study.search, self.study.best
        if metric is not None or mode is not None:
            given, types = (
                {"metric": metric or search.metric, "mode": mode or search.mode},
                field_types(Search),
            )
            checked = {key: coerce(types[key], value, key) for key, value in given.items()}
            search = dataclasses.replace(search, **checked)
            best = next(iter(ranked(self.trials, search)), None)
        if best is None:
            raise RunError(
                f"No trial of {self.path} has finished with a {search.metric} that counts."
            )
        return best

    def get_best_config(self, metric: str | None = None, mode: str | None = None) -> dict[str, Any]:
        """The settings of the best trial, as `config` takes them; what a preset sets is not among
        them."""
        nested: dict[str, Any] = {}
        for key, value in self.get_best_trial(metric, mode).settings.items():
            inside, dot, name = key.partition(".")
            (nested.setdefault(inside, {}) if dot else nested)[name or key] = value
        return nested

    def get_best_logdir(self, metric: str | None = None, mode: str | None = None) -> Path:
        """The run folder of the best trial; of several runs, of the first."""
        return _run_folder(self.get_best_trial(metric, mode))

    def get_best_checkpoint(
        self,
        trial: Trial | Path | str | None = None,
        metric: str | None = None,
        mode: str | None = None,
    ) -> Path:
        """The intact checkpoint of the best trial, or of the one that is given (itself or its
        folder), that was best when it was written, by the metric and mode of the search or by
        others; the newer of equals.

        By a metric that only grows, such as `timesteps_total`, it is the newest: the one that the
        run came to.

        Raises:
            RunError: it has none, or none whose iteration has a number for the metric.
        """
        chosen = trial if trial is not None else self.get_best_trial(metric, mode)
        run = RunFolder(_run_folder(chosen) if isinstance(chosen, Trial) else Path(chosen))
        key, sign = (
            metric or self.study.search.metric,
            -1.0 if (mode or self.study.search.mode) == "min" else 1.0,
        )
        found, problems = newest(run.checkpoints)
        if found is None:
            raise RunError(
                f"{run.path} has no intact checkpoint{f': {problems[0]}' if problems else '.'}"
            )
        if key in LIMITS:
            return found
        rows = {row["training_iteration"]: row.get(key, math.nan) for row in run.metrics()}
        values = {
            path: sign * rows.get(int(path.name), math.nan) for path in checkpoints(run.checkpoints)
        }
        known = {path: value for path, value in values.items() if not math.isnan(value)}
        for path in sorted(known, key=lambda path: (known[path], int(path.name)), reverse=True):
            with suppress(CheckpointError):  # a damaged one
                verify(path)
                return path
        raise RunError(
            f"No checkpoint of {run.path} was written with a {key}: name another metric."
        )

    @property
    def best_trial(self) -> Trial:
        """See `get_best_trial`."""
        return self.get_best_trial()

    @property
    def best_config(self) -> dict[str, Any]:
        """See `get_best_config`."""
        return self.get_best_config()

    @property
    def best_result(self) -> dict[str, Any]:
        """The last result of the best trial."""
        return self.get_best_trial().result

    @property
    def best_logdir(self) -> Path:
        """See `get_best_logdir`."""
        return self.get_best_logdir()

    @property
    def best_checkpoint(self) -> Path:
        """See `get_best_checkpoint`."""
        return self.get_best_checkpoint()

    @property
    def results(self) -> list[dict[str, Any]]:
        """Each trial as one flat mapping: its state, its value, its last result, and
        `config/<place>` of what was searched."""
        return [_row(trial, self.study.search) for trial in self.trials]

    def plot(self) -> Any:
        """The study as a matplotlib figure: see `study_figure`."""
        from poise.tuning.picture import study_figure

        return study_figure(self.study)

    def dataframe(self) -> Any:
        """`results` as a pandas data frame.

        Raises:
            PoiseError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise PoiseError(f"Data frames need pandas: {install('tune')}") from None
        return pandas.DataFrame(self.results)


def _run_folder(trial: Trial) -> Path:
    return trial.path if RunFolder(trial.path).exists() else trial.path / "seed_0"


def _row(trial: Trial, search: Search) -> dict[str, Any]:
    searched = {f"config/{name}": value for name, value in trial.params.items()}
    value = {
        "value": trial.value(search),
        **({"held_out": trial.confirmed(search)} if trial.held_out else {}),
    }
    return {
        "trial": trial.number,
        "state": trial.state,
        **value,
        **trial.result,
        **searched,
        "logdir": str(trial.path),
    }
