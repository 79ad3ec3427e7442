"""Searching: `poise.tune.run` and `poise tune` are this."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from poise.config.algorithms import algorithm_spec
from poise.config.base import env_label
from poise.config.registry import home_of
from poise.config.resolve import build, canonical, field_types
from poise.config.run import RunOptions
from poise.config.types import Positive, PositiveInt, a_path, coerce
from poise.envs.trust import Foreign, address_label, is_elsewhere, remember
from poise.errors import ConfigError, RunError, nearest, writing
from poise.files import folder_name, make_folder, write_whole
from poise.stepping.advice import cores_of_run, parallel_runs
from poise.tracking.find import BEST, find_study
from poise.tracking.links import refuse_links
from poise.training.names import admit, bring_algorithm, portable
from poise.training.signals import stopping_on
from poise.training.stopping import RESULT_KEYS, StopRule, check_keys
from poise.tuning.analysis import Analysis
from poise.tuning.going_on import goes_on
from poise.tuning.pool import Here, Pool
from poise.tuning.population import Population
from poise.tuning.process import Guest
from poise.tuning.search import DEFAULT_LIMIT, Search, unwritten
from poise.tuning.space import is_search, parse, searches
from poise.tuning.storage import check_installed
from poise.tuning.study import Seeds, Study
from poise.tuning.table import Board

MAX_PARALLEL = 1_000
AS_BEFORE = ""
"""Where a study goes on, unless it is told otherwise."""
CLUSTER = ("ray_address", "num_cpus_per_worker", "cluster_timeout_s")
"""Settings that say where trials run."""
LOOK_S = 0.2
"""Seconds between two looks of the board."""


def run(
    algorithm: str,
    *,
    config: Mapping[str, Any] | None = None,
    stop: Mapping[str, float] | None = None,
    num_samples: int = 1,
    metric: str = "episode_reward_mean",
    mode: str = "max",
    sampler: str = "tpe",
    scheduler: str = "none",
    generations: int = 10,
    seeds: int = 1,
    winners: int | None = None,
    seed: int = 0,
    parallel: int | None = None,
    ray_address: str | None = None,
    time_budget_s: float | None = None,
    preset: str | None = "auto",
    folder: str | Path = "runs",
    experiment: str | None = None,
    callbacks: Sequence[Any] = (),
    resume: bool = False,
    quiet: bool = False,
    signals: tuple[signal.Signals, ...] = (),
    **options: Any,
) -> Analysis:
    """Searches for settings: `num_samples` trials, or the whole grid so many times.

        space = {"env": "CartPole-v1", "lr": poise.tune.loguniform(1e-5, 1e-2)}
        goal = {"episode_reward_mean": 475}
        analysis = poise.tune.run("PPO", config=space, stop=goal, num_samples=20)
        analysis.best_config

    Args:
        algorithm: its name.
        config: settings, with searches (`uniform`, `choice`, `grid_search`, ... or texts such as
            `"uniform(0, 1)"`) in the place of some.
        stop: when each run ends; without a limit, after 500,000 steps at the latest.
        num_samples, metric, mode, sampler, scheduler, generations, seeds, winners, seed,
            time_budget_s, preset: see `Search`.
        parallel: runs at a time; None takes as many as there are cores for.
        ray_address: a Ray cluster (`local`, `auto`, `HOST:PORT`) on which the trials run, each with
            `num_cpus_per_worker` CPUs for each of its processes; None runs them in processes here.
        folder, experiment: the study is `folder/experiment`, named after algorithm and environment
            unless given.
        callbacks: of every run; they are copied to the processes that run them.
        resume: goes on with the study that is there, with no trial lost.
        quiet: shows nothing.
        signals: end the search as Ctrl-C does: those underway leave a checkpoint, and `resume` goes
            on.
        options: what each run keeps; see `RunOptions`.

    Raises:
        ConfigError: a setting or a search that is not allowed.
        RunError: there is a study already, or none to go on with.
    """
    name, spec = algorithm_spec(algorithm)
    settings = canonical(spec.config, parse(dict(config or {})))
    settings |= {"ray_address": ray_address} if ray_address is not None else {}
    if callable(stop):
        raise ConfigError(
            "stop of a search must be a mapping of result keys to numbers, not a function."
        )
    if settings.get("env") is None:
        raise ConfigError("There is no environment to search in: give config={'env': ...}.")
    if is_search(settings["env"]):
        raise ConfigError(
            "env cannot be searched: what is learnt in one environment says nothing about another."
        )
    given = {
        "algorithm": name, "config": settings, "stop": dict(stop or {}),
        "num_samples": num_samples, "metric": metric, "mode": mode,
        "sampler": sampler, "scheduler": scheduler, "generations": generations,
        "seeds": seeds, "winners": winners, "seed": seed,
        "time_budget_s": time_budget_s, "preset": preset, "options": options,
        "home": home_of(name),
    }  # fmt: skip
    own = experiment or f"tune_{name}_{env_label(settings['env'])}"
    path = a_path(folder, "folder") / folder_name("experiment", own)
    return begin(given, path, parallel, callbacks, signals, resume=resume, quiet=quiet)


def begin(
    given: Mapping[str, Any],
    path: Path,
    parallel: Any,
    callbacks: Sequence[Any],
    signals: Any,
    *,
    resume: bool,
    quiet: bool,
) -> Analysis:
    """Runs a search that the user's own script or command describes.

    Args:
        given: the fields of a `Search`, not checked yet.
        path: the study's folder.
        parallel, callbacks, signals, resume, quiet: as for `run`.

    Raises:
        ConfigError: a value of it is not allowed.
        RunError: it may not `resume`, and there are runs already; or what is there is another
            search.
    """
    begun = find_study(path) is not None
    if not resume and (begun or any(path.glob("*/config.json"))):
        go_on = f"go on with them by `poise resume {shlex.quote(str(path))}`, or " if begun else ""
        raise RunError(f"There are runs in {path} already: {go_on}give another experiment.")
    config, cluster = dict(given["config"]), dict[str, Any]()
    if config.get("ray_address") is not None:  # it is the search's own, and not its trials'
        cluster = _place(given["algorithm"], config)
        config = {key: value for key, value in config.items() if key not in CLUSTER}
    search = checked({**given, "config": config, "cluster": cluster})
    admit(portable(search.config), path, trusted=True)
    _before(search, path, trusted=True)
    if begun:
        _same(search, Search.read(path), path)
    return conduct(search, path, parallel, callbacks, signals, quiet=quiet)


def _place(algorithm: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Where trials run, out of settings; what a trial needs there is known also while it is here.

    Raises:
        ConfigError: a value of it is not allowed.
    """
    types = field_types(algorithm_spec(algorithm)[1].config)
    return {key: coerce(types[key], known[key], key) for key in CLUSTER if key in known}


def _folder(path: str | Path) -> Path:
    """A study's folder, which has a name even where it is `.`"""
    found = Path(path)
    return found if found.name not in ("", "..") else found.resolve()


def _same(search: Search, begun: Search, folder: Path) -> None:
    """A study goes on as it began; only how many trials there are may change."""
    if search.repeated != begun.repeated:
        kinds = ["a search", "several seeds of one configuration"]
        raise RunError(f"{folder} holds {kinds[begun.repeated]}, not {kinds[search.repeated]}.")
    for key in ("algorithm", "metric", "mode", "scheduler", "seeds", "stop"):
        was, now = getattr(begun, key), getattr(search.limited(), key)
        if was != now:
            raise RunError(f"The study {folder} was begun with {key}={was!r}, not {now!r}.")


def resume(
    path: str | Path,
    *,
    num_samples: int | None = None,
    parallel: int | None = None,
    ray_address: str | None = AS_BEFORE,
    time_budget_s: float | None = None,
    signals: tuple[signal.Signals, ...] = (),
    quiet: bool = False,
    trust: bool = False,
) -> Analysis:
    """Goes on with the study in a folder: runs that were underway continue from their checkpoints.

    Args:
        path: the folder.
        num_samples: as many as before, unless given.
        parallel, time_budget_s, signals, quiet: as for `run`.
        ray_address: another place for the trials; None is this machine.
        trust: lets it run the code that it names, and remembers the names.

    Raises:
        TrustError: it names code that this machine has not used before.
        RunError: there is none, or only the script that began it can go on (`poise.tune.run(...,
            resume=True)`).
    """
    search = Search.read(path := _folder(path))
    if missing := unwritten(search.config):
        raise RunError(
            f"The study {path} was begun by a script with {', '.join(missing)} as Python objects: "
            "go on with it there, by poise.tune.run(..., resume=True)."
        )
    bring_algorithm(vars(search), path, trusted=trust)
    search.config = canonical(algorithm_spec(search.algorithm)[1].config, search.config)
    admit(search.config, path, trusted=trust)
    asked = coerce(PositiveInt | None, num_samples, "num_samples")
    search.num_samples = asked or search.num_samples
    place = _before(search, path, trusted=trust)
    place = place if ray_address == AS_BEFORE else {"ray_address": ray_address}
    known = {**search.config, **search.cluster, **place}
    search.cluster = _place(search.algorithm, known)
    search.time_budget_s = coerce(Positive | None, time_budget_s, "time_budget_s")
    return conduct(search, path, parallel, (), signals, quiet=quiet)


def _before(search: Search, path: Path, *, trusted: bool) -> dict[str, Any]:
    """Where the study's trials ran; an address out of its file waits to be trusted."""
    address = str(search.cluster.get("ray_address") or "local")
    if not is_elsewhere(address):
        return search.cluster
    if trusted:
        remember(address_label(address))
        return search.cluster
    return {**search.cluster, "ray_address": Foreign(address, path)}


def load(path: str | Path) -> Analysis:
    """What a study has found so far.

    Raises:
        RunError: there is none.
    """
    search = Search.read(folder := _folder(path))
    return Analysis(_study(search)(search, folder))


def conduct(
    search: Search,
    folder: Path,
    parallel: Any,
    callbacks: Sequence[Any],
    signals: tuple[Any, ...],
    *,
    quiet: bool,
) -> Analysis:
    """Runs all of a search that has not ended yet.

    Args:
        search: checked.
        folder: the study's.
        parallel, callbacks, signals, quiet: as for `run`.

    Raises:
        RunError: all trials have failed.
    """
    size = coerce(PositiveInt | None, parallel, "parallel")
    if (size or 1) > MAX_PARALLEL:
        raise ConfigError(
            f"parallel={size:,} is not allowed: each is a process, "
            f"and there are at most {MAX_PARALLEL}."
        )
    if not search.repeated:
        check_installed(search)
    limited = search.limited()
    given = isinstance(search.config.get("total_timesteps"), int)
    if limited is not search and not given and not quiet:
        end = f"each ends after {DEFAULT_LIMIT:,} steps at the latest"
        print(f"No limit was given for a run: {end}.", flush=True)
    with _claimed(folder):
        study = _study(limited)(limited, folder, callbacks)
        pool = Pool(study, _home(study, size), study.total)
        limited.write(folder)
        ending = (signal.SIGINT, *signals)
        with (
            Board(study, pool.size, quiet=quiet) as board,
            pool,
            stopping_on(ending, pool.stop),
        ):
            while not pool.wait(LOOK_S):
                board.parallel = pool.size
                with pool.changed:
                    board.update()
                if study.late:
                    pool.stop("the time of the search is over")
    failed = [trial for trial in study.trials if trial.state == "failed"]
    if len(failed) == len(study.trials) > 0:
        all_of = f"All {len(failed)} {study.noun}s" if failed[1:] else f"The only {study.noun}"
        raise RunError(f"{all_of} of {folder} failed: {failed[0].error}")
    analysis = Analysis(study, ended=pool.stopping)
    if study.best is not None:
        write_whole(folder / BEST, f"{analysis.best_logdir.relative_to(folder)}\n")
    return analysis


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Lets nobody else search there meanwhile.

    The lock ends with this process, however that ends.
    """
    refuse_links(folder)
    with writing(folder):
        make_folder(folder)
        lock = filelock.FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RunError(
                f"The study {folder} is in use by another process: wait for it, or stop it."
            ) from None
    try:
        yield
    except RunError as error:
        if isinstance(error.__cause__, OSError) and find_study(folder):  # a full disk, as a rule
            kept = f"What there is is kept: `poise resume {folder}` goes on."
            raise RunError(f"{error} {kept}") from error
        raise
    finally:
        lock.release()


def _study(search: Search) -> type[Study]:
    """The kind of study that a search is."""
    if search.repeated:
        return Seeds
    return Population if search.scheduler == "pbt" else Study


def checked(given: Mapping[str, Any]) -> Search:
    """A search whose values are of their types.

    Raises:
        ConfigError: one is not, or the stop rule names a result that there is not.
    """
    types = field_types(Search)
    made = Search(**{key: coerce(types[key], value, key) for key, value in given.items()})
    spec = algorithm_spec(made.algorithm)[1]
    plain = {key: value for key, value in made.config.items() if not any(searches(value))}
    known = build(spec.config, plain)
    check_keys(made.stop, known)
    StopRule(made.limited().stop, known)
    made.points()  # of which there may be too many
    if made.metric not in RESULT_KEYS and "/" not in made.metric:
        hint = nearest(made.metric, RESULT_KEYS)
        raise ConfigError(f"metric={made.metric!r} is not allowed: results have no such key.{hint}")
    wanted = field_types(RunOptions)
    unknown = [key for key in made.options if key not in wanted]
    if unknown:
        hint = nearest(unknown[0], [*types, *wanted])
        raise ConfigError(f"There is no argument {unknown[0]!r} of a search.{hint}")
    made.options = {key: coerce(wanted[key], value, key) for key, value in made.options.items()}
    return made


def _home(study: Study, size: int | None) -> Any:
    """Where the trials of a study run, so many at a time."""
    search = study.search
    threads = algorithm_spec(search.algorithm)[1].config.sampling_threads
    workers, gpus = search.config.get("num_workers", 0), search.config.get("num_gpus", 0)
    if (address := search.cluster.get("ray_address")) is None:
        return Here(min(size or parallel_runs(threads, workers), study.total))
    from poise.cluster.connect import ray_of

    ray_of(address)  # says what to install
    from poise.cluster.trials import RayTrials

    return RayTrials(
        address,
        cpus=cores_of_run(threads, workers) * search.cluster.get("num_cpus_per_worker", 1.0),
        gpus=gpus if isinstance(gpus, (int, float)) else 0,
        size=size,
        patience=search.cluster.get("cluster_timeout_s", 600.0),
        say=lambda sentence: study.said.update({sentence: None}),
        make=Guest,
        goes_on=goes_on,
    )
