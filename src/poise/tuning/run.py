"""Searching: `poise.tune.run` and `poise tune` are this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from poise.config.algorithms import algorithm_spec
from poise.config.base import env_name
from poise.config.resolve import build, canonical
from poise.config.types import available_cores, coerce
from poise.errors import ConfigError, RunError
from poise.training.stopping import check_keys
from poise.tuning.analysis import Analysis
from poise.tuning.pool import Pool
from poise.tuning.search import DEFAULT_LIMIT, FILE, Search
from poise.tuning.study import Study
from poise.tuning.table import Board

LOOK_S = 0.2
"""Seconds between two looks of the board."""


def search(
    what: Search,
    folder: Path,
    *,
    parallel: int | None = None,
    callbacks: Sequence[Any] = (),
    quiet: bool = False,
    resume: bool = False,
) -> Analysis:
    """Runs all trials of a search that have not ended yet.

    Args:
        what: the search.
        folder: of its study.
        parallel: trials at a time; None takes as many as there are cores for.
        callbacks: of every trial's run.
        quiet: shows nothing.
        resume: goes on with a study that is there.

    Raises:
        RunError: there is a study already, or none to go on with.
        ConfigError: what is to be searched cannot be.
    """
    if not resume and (folder / FILE).exists():
        raise RunError(f"There is a study at {folder} already: go on with it by `poise tune --resume {folder}`.")
    limited = what.limited()
    if limited is not what and not quiet:
        print(f"No limit was given for a trial: each ends after {DEFAULT_LIMIT:,} steps at the latest.", flush=True)
    study = Study(limited, folder, callbacks)
    limited.write(folder)
    size = parallel or default_parallel(limited)
    interrupted = False
    with Board(study, quiet=quiet) as board, Pool(study, size) as pool:
        while True:
            try:
                if pool.wait(LOOK_S):
                    break
                with pool.changed:
                    board.update()
                if limited.time_budget_s is not None and study.seconds > limited.time_budget_s:
                    pool.stop("the time of the search is over")
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                pool.stop("interrupted")
    return Analysis(study, interrupted=interrupted)


def run(
    algorithm: str,
    *,
    config: Mapping[str, Any] | None = None,
    stop: Mapping[str, float] | None = None,
    num_samples: int = 1,
    metric: str = "episode_reward_mean",
    mode: str = "max",
    sampler: str = "tpe",
    pruner: str = "none",
    seed: int = 0,
    parallel: int | None = None,
    time_budget_s: float | None = None,
    preset: str | None = "auto",
    folder: str | Path = "runs",
    experiment: str | None = None,
    callbacks: Sequence[Any] = (),
    resume: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Analysis:
    """Searches for settings: `num_samples` trials, or the whole grid so many times.

        analysis = poise.tune.run("PPO", config={"env": "CartPole-v1", "lr": poise.tune.loguniform(1e-5, 1e-2)},
                                  stop={"episode_reward_mean": 475}, num_samples=10, metric="timesteps_total", mode="min")
        analysis.best_config

    Args:
        algorithm: its name.
        config: settings, with searches (`uniform`, `choice`, `grid_search`, ...) in the place of some.
        stop: when each trial ends.
        num_samples, metric, mode, sampler, pruner, seed, time_budget_s, preset: see `Search`.
        parallel: trials at a time; None takes as many as there are cores for.
        folder, experiment: the study is `folder/experiment`, which is named after algorithm and environment unless given.
        callbacks: of every trial's run; they are copied to the processes that run them.
        resume: goes on with the study that is there, with no trial lost.
        quiet: shows nothing.
        options: what each trial's run keeps; see `RunOptions`.

    Raises:
        ConfigError: a setting or a search that is not allowed.
        RunError: there is a study already, or none to go on with.
    """
    name, spec = algorithm_spec(algorithm)
    settings = canonical(spec.config, dict(config or {}))
    if settings.get("env") is None:
        raise ConfigError("There is no environment to search in: give config={'env': ...}.")
    given = {
        "algorithm": name, "config": settings, "stop": dict(stop or {}), "num_samples": num_samples, "metric": metric,
        "mode": mode, "sampler": sampler, "pruner": pruner, "seed": seed, "time_budget_s": time_budget_s,
        "preset": preset, "options": options,
    }  # fmt: skip
    label = env_name(settings["env"]).replace("/", "-").replace(":", "-")
    path = Path(folder) / (experiment or f"tune_{name}_{label}")
    return search(checked(given), path, parallel=parallel, callbacks=callbacks, quiet=quiet, resume=resume)


def checked(given: Mapping[str, Any]) -> Search:
    """A search whose values are of their types.

    Raises:
        ConfigError: one is not, or the stop rule names a result that there is not.
    """
    types = field_types(Search)
    made = Search(**{key: coerce(types[key], value, key) for key, value in given.items()})
    spec = algorithm_spec(made.algorithm)[1]
    plain = {key: value for key, value in made.config.items() if not any(searches(value))}
    check_keys(made.stop, build(spec.config, plain))
    RunOptions(**made.options)
    return made


def default_parallel(what: Search) -> int:
    """As many trials as there are cores for: one each, and one for every thread or process that samples beside it."""
    spec = algorithm_spec(what.algorithm)[1]
    workers = what.config.get("num_workers", 0)
    beside = spec.config.sampling_threads + (workers if isinstance(workers, int) else 1)
    return max(1, available_cores() // (1 + beside))
