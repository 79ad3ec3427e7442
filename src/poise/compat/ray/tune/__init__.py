"""`ray.tune`: `run`, and what a configuration can search."""

from __future__ import annotations

import inspect
import signal
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from poise.compat.ray.tune import registry
from poise.compat.ray.tune.registry import register_env
from poise.compat.translate import best_preset, translated
from poise.config.algorithms import algorithm_spec
from poise.config.base import env_label
from poise.config.run import RunOptions
from poise.config.types import a_path
from poise.errors import PoiseWarning, RunError, nearest
from poise.files import time_stamp
from poise.startup import ENDING
from poise.tracking.folder import RunFolder
from poise.tracking.launch import Run, start
from poise.training.checkpoint import newest
from poise.tuning.run import run as search
from poise.tuning.space import (
    choice,
    grid_search,
    lograndint,
    loguniform,
    quniform,
    randint,
    sample_from,
    searches,
    uniform,
)

__all__ = [
    "ExperimentAnalysis", "choice", "grid_search", "lograndint", "loguniform", "quniform",
    "randint", "register_env", "registry", "run", "sample_from", "uniform",
]  # fmt: skip

WITHOUT_EFFECT = {
    "checkpoint_at_end", "checkpoint_score_attr", "export_formats", "fail_fast",
    "global_checkpoint_period", "loggers", "log_to_file", "max_failures", "progress_reporter",
    "queue_trials", "raise_on_failed_trial", "ray_auto_init", "reuse_actors", "server_port",
    "sync_config", "trial_dirname_creator", "trial_name_creator", "with_server",
}  # fmt: skip
"""Arguments of `run` that say how Ray does its work, or ask for what is always done."""


class ExperimentAnalysis:
    """What `run` returns for a configuration that searches nothing.

    For a search, it returns a `poise.tune.Analysis`.

    Attributes:
        best_config: all settings of the run.
        best_result: its last result.
        best_logdir: its folder.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.best_config: dict[str, Any] = run.trainer.config.to_dict()
        self.best_result, self.best_logdir = run.result, str(run.path)

    def get_best_logdir(
        self, metric: str | None = None, mode: str | None = None, scope: str = "last"
    ) -> str:
        """The run folder."""
        return self.best_logdir

    def get_best_config(
        self, metric: str | None = None, mode: str | None = None, scope: str = "last"
    ) -> dict[str, Any]:
        """All settings of the run."""
        return self.best_config

    def get_best_checkpoint(
        self, trial: Any = None, metric: str | None = None, mode: str | None = None
    ) -> str:
        """The newest intact checkpoint.

        Raises:
            RunError: there is none.
        """
        found, problems = newest(RunFolder(trial or self.best_logdir).checkpoints)
        if found is None:
            why = f": {problems[0]}" if problems else "."
            raise RunError(f"{trial} has no intact checkpoint{why}")
        return str(found)

    @property
    def best_checkpoint(self) -> str:
        """See `get_best_checkpoint`."""
        return self.get_best_checkpoint()

    def results_df(self) -> Any:
        """The results of all iterations as a pandas data frame."""
        import pandas

        return pandas.DataFrame(RunFolder(self.best_logdir).metrics())

    dataframe = results_df


def run(
    run_or_experiment: Any,
    *,
    config: Mapping[str, Any] | None = None,
    stop: Mapping[str, float] | Callable[[str, dict[str, Any]], bool] | None = None,
    num_samples: int = 1,
    metric: str | None = None,
    mode: str | None = None,
    name: str | None = None,
    local_dir: str | None = None,
    checkpoint_freq: int = 0,
    keep_checkpoints_num: int | None = None,
    verbose: int = 2,
    time_budget_s: float | None = None,
    scheduler: str | None = None,
    search_alg: str | None = None,
    max_concurrent_trials: int | None = None,
    resume: bool = False,
    **others: Any,
) -> Any:
    """Trains until `stop`, or searches: `num_samples` trials, or the whole grid so many times.

    Args:
        run_or_experiment: the algorithm's name or trainer class.
        config: settings by RLlib's names, with searches in the place of some.
        stop: result keys and values, or a function of the trial's name and the result.
        num_samples, metric, mode, time_budget_s: of a search.
        name, local_dir: where it is kept: `local_dir/name`.
        checkpoint_freq, keep_checkpoints_num: as for `RunOptions`; there is a checkpoint at the end
            in any case.
        verbose: 0 shows nothing.
        scheduler, search_alg: by name, as `poise.tune.run` has its `scheduler` and `sampler`.
        max_concurrent_trials, resume: of a search.
        others: left out, with a warning where it makes a difference.

    Returns:
        What was found, with `best_config`, `get_best_logdir(metric, mode)`,
        `get_best_checkpoint(trial, metric, mode)`.
    """
    _tell(others)
    algorithm = algorithm_spec(getattr(run_or_experiment, "algorithm", run_or_experiment))[0]
    settings, callbacks = translated(algorithm, config or {})
    preset = best_preset(algorithm, settings)
    label = env_label(settings["env"])
    folder = a_path(local_dir or "runs", "local_dir")
    kept: dict[str, Any] = {"checkpoint_freq": checkpoint_freq or None}
    if keep_checkpoints_num:
        kept["keep_checkpoints_num"] = keep_checkpoints_num
    if any(searches(settings)) or num_samples > 1:
        if resume and not name:
            raise RunError("resume=True needs the name of the search that is to go on.")
        found = search(
            algorithm,
            config=settings,
            stop=stop,  # type: ignore[arg-type]
            num_samples=num_samples,
            metric=metric or "episode_reward_mean",
            mode=mode or "max",
            time_budget_s=time_budget_s,
            scheduler=scheduler or "none",
            sampler=search_alg or "tpe",
            parallel=max_concurrent_trials,
            resume=resume,
            preset=preset,
            folder=folder,
            experiment=name or f"tune_{algorithm}_{label}_{time_stamp()}",
            callbacks=callbacks,
            quiet=verbose == 0,
            signals=ENDING,
            **kept,
        )
        _end(found.ended)
        return found
    if resume:
        text = "resume=True is left out: a run goes on by `poise resume RUN`."
        warnings.warn(text, PoiseWarning, stacklevel=2)
    rule = (lambda result: stop("", result)) if callable(stop) else stop
    done = start(
        algorithm,
        None,
        settings,
        stop=rule,
        preset=preset,
        root=folder,
        experiment=name,
        callbacks=callbacks,
        options=RunOptions(**kept),
        quiet=verbose == 0,
        signals=ENDING,
    )
    _end(done.result.get("stop_reason"))
    return ExperimentAnalysis(done)


def _end(reason: str | None) -> None:
    """Ends the script where a signal asked for it, now that there is a checkpoint."""
    if reason == "preempted":
        raise SystemExit(128 + signal.SIGTERM)


def _tell(others: Mapping[str, Any]) -> None:
    """Warns about arguments that are left out although they would have changed something."""
    known = list(inspect.signature(run).parameters)[:-1]
    for key, value in others.items():
        if key not in WITHOUT_EFFECT and value:
            hint = nearest(key, known)
            text = f"tune.run: {key}={value!r} has no equivalent here and is left out.{hint}"
            warnings.warn(text, PoiseWarning, stacklevel=3)
