"""What a study found."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from poise.errors import PoiseError, RunError
from poise.training.checkpoint import newest
from poise.tuning.study import Study, Trial, best_of


class Analysis:
    """The trials of a study and the best of them, by the metric and mode of the search or by others.

    Attributes:
        study: what it is of.
        trials: all that have begun.
        path: the study's folder.
        interrupted: whether the search was ended before its last trial.
    """

    def __init__(self, study: Study, *, interrupted: bool = False) -> None:
        self.study, self.trials, self.path, self.interrupted = study, study.trials, study.folder, interrupted

    def __repr__(self) -> str:
        ended = sum(trial.state != "running" for trial in self.trials)
        return f"<study {self.path}: {ended} of {self.study.total} trials>"

    def get_best_trial(self, metric: str | None = None, mode: str | None = None) -> Trial:
        """The best trial that finished.

        Raises:
            RunError: no trial finished with a number for the metric, or none reached the goal that it is timed to.
        """
        search = dataclasses.replace(
            self.study.search, metric=metric or self.study.search.metric, mode=mode or self.study.search.mode  # type: ignore[arg-type]
        )
        best = best_of([trial for trial in self.trials if trial.state == "finished"], search)
        if best is None:
            raise RunError(f"No trial of {self.path} has finished with a {search.metric} that counts.")
        return best

    def get_best_config(self, metric: str | None = None, mode: str | None = None) -> dict[str, Any]:
        """The settings of the best trial."""
        return self.get_best_trial(metric, mode).settings

    def get_best_logdir(self, metric: str | None = None, mode: str | None = None) -> Path:
        """The run folder of the best trial."""
        return self.get_best_trial(metric, mode).path

    def get_best_checkpoint(
        self, trial: Trial | Path | str | None = None, metric: str | None = None, mode: str | None = None
    ) -> Path:
        """The newest intact checkpoint of the best trial, or of the one that is given."""
        chosen = trial if trial is not None else self.get_best_trial(metric, mode)
        folder = chosen.path if isinstance(chosen, Trial) else Path(chosen)
        found, problems = newest(folder / "checkpoints")
        if found is None:
            raise RunError(f"{folder} has no intact checkpoint{f': {problems[0]}' if problems else '.'}")
        return found

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

    def dataframe(self) -> Any:
        """One row a trial, as a pandas data frame: state, last result, and what was searched as `config/<place>`.

        Raises:
            PoiseError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise PoiseError('Data frames need pandas: pip install "poise[tune]".') from None
        return pandas.DataFrame([row(trial) for trial in self.trials])


def row(trial: Trial) -> dict[str, Any]:
    """A trial as one row of a table."""
    searched = {f"config/{name}": value for name, value in trial.params.items()}
    about = {"trial": trial.number, "state": trial.state, "reached": trial.reached, "logdir": str(trial.path)}
    return {**about, **trial.result, **searched}
