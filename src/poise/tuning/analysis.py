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
    """The trials of a study, and the best of them.

    The best is by the metric and the mode of the search, unless a method is given others.

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
        """The best trial that finished.

        Where the best were run again with other seeds to confirm them, it is the best by those.

        Raises:
            RunError: no trial finished with a number for the metric, or none reached the goal that
                it is timed to.
        """
        search, best = self.study.search, self.study.best
        if metric is not None or mode is not None:
            types = field_types(Search)
            given = {"metric": metric or search.metric, "mode": mode or search.mode}
            checked = {key: coerce(types[key], value, key) for key, value in given.items()}
            search = dataclasses.replace(search, **checked)
            best = next(iter(ranked(self.trials, search)), None)
        if best is None:
            raise RunError(
                f"No trial of {self.path} has finished with a {search.metric} that counts."
            )
        return best

    def get_best_config(self, metric: str | None = None, mode: str | None = None) -> dict[str, Any]:
        """The settings of the best trial, as `config` takes them, without those of a preset."""
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
        """The intact checkpoint of a trial that was best when it was written.

        Of equals, it is the newer. By a metric that only grows, such as `timesteps_total`, it is
        the newest: the one that the run came to.

        Args:
            trial: itself or its folder; the best one unless given.
            metric, mode: by which it is the best; those of the search unless given.

        Raises:
            RunError: it has none, or none whose iteration has a number for the metric.
        """
        chosen = trial if trial is not None else self.get_best_trial(metric, mode)
        run = RunFolder(_run_folder(chosen) if isinstance(chosen, Trial) else Path(chosen))
        key = metric or self.study.search.metric
        sign = -1.0 if (mode or self.study.search.mode) == "min" else 1.0
        found, problems = newest(run.checkpoints)
        if found is None:
            why = f": {problems[0]}" if problems else "."
            raise RunError(f"{run.path} has no intact checkpoint{why}")
        if key in LIMITS:
            return found
        rows = {row["training_iteration"]: row.get(key, math.nan) for row in run.metrics()}
        known = []
        for path in checkpoints(run.checkpoints):
            value = sign * rows.get(int(path.name), math.nan)
            if not math.isnan(value):
                known.append((value, int(path.name), path))
        for _, _, path in sorted(known, reverse=True):
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
        """Each trial as a flat mapping.

        It has the trial's state, its value, its last result, and `config/<place>` of what was
        searched.
        """
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
    """A trial's own folder, or that of its first run, where it has several."""
    return trial.path if RunFolder(trial.path).exists() else trial.path / "seed_0"


def _row(trial: Trial, search: Search) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": trial.state,
        "value": trial.value(search),
        **({"held_out": trial.confirmed(search)} if trial.held_out else {}),
        **trial.result,
        **{f"config/{name}": value for name, value in trial.params.items()},
        "logdir": str(trial.path),
    }
