"""`Tuner` and its configurations, of Ray since 2.0."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poise.compat.raytune.analysis import ResultGrid
from poise.compat.raytune.functions import register_trainable as register_trainable
from poise.compat.raytune.run import _of_search, run
from poise.errors import PoiseWarning
from poise.tracking.find import find_study
from poise.tuning.run import resume


@dataclass
class CheckpointConfig:
    """What is kept of a run. There is a checkpoint at its end in any case."""

    num_to_keep: int | None = None
    checkpoint_score_attribute: str | None = None
    checkpoint_score_order: str | None = "max"
    checkpoint_frequency: int | None = 0
    checkpoint_at_end: bool | None = None


class Idle:
    """What says how Ray does its work, and is without effect here; attributes are as given."""

    def __init__(self, *_: Any, **given: Any) -> None:
        self.__dict__.update(given)

    def add_metric_column(self, *_: Any, **__: Any) -> None:
        """There is nothing to do."""

    add_parameter_column = add_metric_column

    def to_json(self) -> str:
        """Nothing."""
        return "{}"


FailureConfig = SyncConfig = ScalingConfig = ResumeConfig = PlacementGroupFactory = Idle
CLIReporter = JupyterNotebookReporter = ProgressReporter = Idle


@dataclass
class RunConfig:
    """Where trials are kept, and when they end."""

    name: str | None = None
    storage_path: str | None = None
    local_dir: str | None = None
    stop: Any = None
    callbacks: Any = None
    checkpoint_config: CheckpointConfig | None = None
    failure_config: Any = None
    sync_config: Any = None
    progress_reporter: Any = None
    verbose: int = 2
    log_to_file: Any = False
    storage_filesystem: Any = None


@dataclass
class TuneConfig:
    """How settings are searched."""

    metric: str | None = None
    mode: str | None = None
    search_alg: Any = None
    scheduler: Any = None
    num_samples: int = 1
    max_concurrent_trials: int | None = None
    time_budget_s: Any = None
    reuse_actors: bool = False
    trial_name_creator: Any = None
    trial_dirname_creator: Any = None
    chdir_to_trial_dir: Any = None


class Tuner:
    """Trials of an algorithm, a function or a class.

    Args:
        trainable: as for `tune.run`.
        param_space: a configuration, with searches in the place of some settings.
        tune_config, run_config: as above.
    """

    def __init__(
        self, trainable: Any = None, *, param_space: Any = None,
        tune_config: TuneConfig | None = None, run_config: RunConfig | None = None, **_: Any,
    ) -> None:  # fmt: skip
        self.trainable, self.space = trainable, param_space
        self.tuning, self.running = tune_config or TuneConfig(), run_config or RunConfig()
        self.begun: Path | None = None

    @classmethod
    def restore(cls, path: Any, trainable: Any = None, param_space: Any = None, **_: Any) -> Tuner:
        """What goes on with the trials in a folder when it is fitted."""
        made = cls(trainable, param_space=param_space)
        made.begun = Path(str(path))
        return made

    @classmethod
    def can_restore(cls, path: Any, *_: Any) -> bool:
        """Whether there are trials in a folder."""
        return find_study(Path(str(path))) is not None or bool(
            [*Path(str(path)).glob("*/config.json")]
        )

    def fit(self) -> ResultGrid:
        """Runs all trials."""
        if self.begun is not None and find_study(self.begun) is not None:
            return ResultGrid(_of_search(resume(self.begun), None, None))
        run_, tune_ = self.running, self.tuning
        kept = run_.checkpoint_config or CheckpointConfig()
        place: dict[str, Any] = {"name": run_.name, "storage_path": run_.storage_path
                                 or run_.local_dir}  # fmt: skip
        if self.begun is not None:
            place = {"name": self.begun.name, "storage_path": str(self.begun.parent),
                     "resume": True}  # fmt: skip
        space = self.space
        if isinstance(space, Mapping) and "param_space" in space:
            space = space["param_space"]
        if run_.storage_filesystem is not None:
            text = "storage_filesystem is left out: runs are kept on this machine's disk."
            warnings.warn(text, PoiseWarning, stacklevel=2)
        return ResultGrid(run(
            self.trainable, config=space, stop=run_.stop, metric=tune_.metric, mode=tune_.mode,
            search_alg=tune_.search_alg, scheduler=tune_.scheduler, num_samples=tune_.num_samples,
            max_concurrent_trials=tune_.max_concurrent_trials, time_budget_s=tune_.time_budget_s,
            checkpoint_freq=kept.checkpoint_frequency or 0, keep_checkpoints_num=kept.num_to_keep,
            verbose=run_.verbose, **place,
        ))  # fmt: skip

    def get_results(self) -> ResultGrid:
        """See `fit`."""
        return self.fit()
