"""`tune.run`: a run, a search over an algorithm's settings, or trials of a function."""

from __future__ import annotations

import inspect
import signal
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from poise.compat.cluster import say
from poise.compat.raytune import functions
from poise.compat.raytune.analysis import ExperimentAnalysis, Trial, old_path
from poise.compat.raytune.schedulers import create_scheduler, create_searcher, mutated
from poise.compat.raytune.stoppers import Asked, Restoring, rules_of
from poise.compat.rllib.registry import of_name
from poise.compat.rllib.results import key_of
from poise.compat.translate import best_preset, settled, translated
from poise.config.algorithms import algorithm_spec
from poise.config.base import env_label
from poise.config.resolve import resolve
from poise.config.run import RunOptions
from poise.config.types import a_path
from poise.errors import PoiseWarning, RunError, nearest
from poise.files import time_stamp
from poise.startup import ENDING
from poise.tracking.folder import RunFolder
from poise.tracking.launch import Run, start
from poise.tracking.launch import resume as go_on
from poise.tuning.population import FIXED
from poise.tuning.run import run as search
from poise.tuning.search import LIMITS
from poise.tuning.space import Choice, is_search, searches

WITHOUT_EFFECT = {
    "callbacks", "checkpoint_at_end", "checkpoint_score_attr", "checkpoint_keep_all_ranks",
    "chdir_to_trial_dir", "checkpoint_config", "checkpoint_upload_from_workers", "durable",
    "export_formats", "fail_fast", "global_checkpoint_period", "log_to_file", "loggers",
    "max_failures", "progress_reporter", "queue_trials", "raise_on_failed_trial", "ray_auto_init",
    "resources_per_trial", "reuse_actors", "run_errored_only", "server_port", "sync_config",
    "sync_on_checkpoint", "sync_to_cloud", "sync_to_driver", "trial_dirname_creator",
    "trial_executor", "trial_name_creator", "upload_dir", "with_server",
}  # fmt: skip
"""Arguments of `run` that say how Ray does its work, or ask for what is always done."""


class Experiment:
    """What `run_experiments` runs.

    Args:
        name: of its folder.
        run: as for `run`.
        how: arguments of `run`.
    """

    def __init__(self, name: str, run: Any, **how: Any) -> None:
        self.name, self.run, self.how = name, run, how


def run(
    run_or_experiment: Any,
    name: str | None = None,
    metric: str | None = None,
    mode: str | None = None,
    stop: Any = None,
    time_budget_s: Any = None,
    config: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 1,
    local_dir: str | None = None,
    storage_path: str | None = None,
    checkpoint_freq: int = 0,
    keep_checkpoints_num: int | None = None,
    verbose: int = 2,
    scheduler: Any = None,
    search_alg: Any = None,
    max_concurrent_trials: int | None = None,
    restore: Any = None,
    resume: Any = False,
    **others: Any,
) -> Any:
    """Trains until `stop`, or searches: `num_samples` trials, or the whole grid so many times.

    Args:
        run_or_experiment: the algorithm's name or trainer class; or a function, or a class of
            Tune's `Trainable`, whose trials run one after another in this process.
        config: settings by RLlib's names, with searches in the place of some.
        stop: result keys of any era and values, a function of the trial's name and the result, or
            a stopper.
        num_samples, metric, mode: of a search.
        time_budget_s: after which it ends.
        name, local_dir, storage_path: where it is kept: `local_dir/name`.
        checkpoint_freq, keep_checkpoints_num: as for `RunOptions`; there is a checkpoint at the end
            in any case.
        verbose: 0 shows nothing.
        scheduler, search_alg: Tune's objects, or names; unless given, proposals are random.
        max_concurrent_trials: trials at a time.
        restore: a checkpoint to begin from.
        resume: goes on with what is kept under that name.
        others: left out, with a warning where it makes a difference.
    """
    if isinstance(run_or_experiment, Experiment):
        own = {**run_or_experiment.how, "name": run_or_experiment.name}
        return run(run_or_experiment.run, **own, **others)
    _tell(others)
    seconds = getattr(time_budget_s, "total_seconds", lambda: time_budget_s)()
    plan = create_scheduler(scheduler or "fifo") if not _is_object(scheduler) else scheduler
    proposer = create_searcher(search_alg or "random") if not _is_object(search_alg) else search_alg
    given = {**(config or {}), **getattr(proposer, "space", {})}
    goal = key_of(metric or plan.metric or proposer.metric or "episode_reward_mean")
    how = mode or plan.mode or proposer.mode or "max"
    rules, asked = rules_of(stop)
    resume = resume not in (False, None) and str(resume).upper() not in ("PROMPT", "FALSE")
    folder = a_path(storage_path or local_dir or "runs", "local_dir")
    trainable = functions.registered(run_or_experiment)
    if not isinstance(trainable, str) and not hasattr(trainable, "algorithm"):
        path = Path(folder) / (name or _named(trainable))
        missing = {k: v for k, v in plan.mutations.items() if k not in given}
        return functions.run(
            trainable, mutated(given, missing), rules, asked, num_samples=num_samples,
            metric=goal, mode=how, scheduler=plan, sampler=proposer.sampler, path=path,
            seconds=seconds, quiet=verbose == 0, restore=restore,
        )  # fmt: skip
    label = getattr(trainable, "algorithm", trainable)
    algorithm = algorithm_spec(getattr(of_name(label), "algorithm", label))[0]
    settings, callbacks = translated(algorithm, mutated(given, _changing(plan, algorithm)))
    if plan.custom is not None:
        text = "custom_explore_fn is left out: populations of algorithms change their own settings."
        warnings.warn(text, PoiseWarning, stacklevel=2)
    for place in [each for each in settings if plan.name == "pbt" and each.startswith(FIXED)]:
        if is_search(own := settings[place]):
            settings[place] = own.options[0] if isinstance(own, Choice) else own.low
            text = f"{place}={settings[place]!r} for all: members of a population share it."
            warnings.warn(text, PoiseWarning, stacklevel=2)
    preset = best_preset(algorithm, settings)
    if restore is not None:
        callbacks.append(Restoring(old_path(restore)))
    kept: dict[str, Any] = {"checkpoint_freq": checkpoint_freq or None}
    if keep_checkpoints_num:
        kept["keep_checkpoints_num"] = keep_checkpoints_num
    if any(searches(settings)) or num_samples > 1:
        if resume and not name:
            raise RunError("resume=True needs the name of the search that is to go on.")
        rules = {**{key_of(k): v for k, v in plan.limit.items()}, **(rules or {})}
        generations = _generations(plan, rules)
        if plan.name == "pbt":
            rules = _in_steps(rules, algorithm, settings, preset)
        if asked is not None:
            callbacks.append(Asked(asked))
            rules = rules or {"training_iteration": 10**6}
        if plan.name != "none":
            rules = _limited(rules)
        found = search(
            algorithm,
            config=settings,
            stop=rules,
            num_samples=num_samples,
            metric=goal,
            mode=how,
            time_budget_s=seconds,
            scheduler=plan.name,
            sampler=proposer.sampler,
            parallel=max_concurrent_trials or getattr(proposer, "parallel", None),
            resume=resume,
            preset=preset,
            folder=folder,
            experiment=name or f"tune_{algorithm}_{env_label(settings['env'])}_{time_stamp()}",
            callbacks=callbacks,
            quiet=verbose == 0,
            signals=ENDING,
            **generations,
            **kept,
        )
        _end(found.ended)
        return _of_search(found, metric and goal, mode)
    if seconds is not None:
        rules = {**(rules or {}), "time_total_s": seconds}
    begun = sorted((Path(folder) / name).glob("*/config.json")) if name and resume else []
    if begun:
        done = go_on(RunFolder(begun[-1].parent), stop=rules, callbacks=callbacks, signals=ENDING,
                     quiet=verbose == 0)  # fmt: skip
    else:
        if resume:
            text = f"resume={resume!r}: there is nothing to go on with, so it begins."
            warnings.warn(text, PoiseWarning, stacklevel=2)
        done = start(
            algorithm,
            None,
            settings,
            stop=_asking(asked) if asked is not None else rules,
            preset=preset,
            root=folder,
            experiment=name,
            callbacks=callbacks,
            options=RunOptions(**kept),
            quiet=verbose == 0,
            signals=ENDING,
        )
    _end(done.result.get("stop_reason"))
    return _of_run(done, metric and goal, mode)


def run_experiments(experiments: Any, **how: Any) -> Any:
    """Runs what is described by name, `{"name": {"run": ..., "stop": ..., "config": ...}}`.

    Returns:
        The trials of all.
    """
    if isinstance(experiments, Experiment):
        experiments = [experiments]
    if isinstance(experiments, Mapping):
        experiments = [
            Experiment(name, **{k: v for k, v in spec.items() if k not in ("env",)}
                       | ({"config": {"env": spec["env"], **spec.get("config", {})}}
                          if "env" in spec else {}))
            for name, spec in experiments.items()
        ]  # fmt: skip
    return [trial for each in experiments for trial in run(each, **how).trials]


def _is_object(given: Any) -> bool:
    return given is not None and not isinstance(given, str)


def _named(trainable: Any) -> str:
    return f"{getattr(trainable, '__name__', 'trainable').strip('<>')}_{time_stamp()}"


def _asking(rule: Any) -> Callable[[dict[str, Any]], bool]:
    """A rule of Tune's as Poise asks one."""
    stop_all = getattr(rule, "stop_all", lambda: False)
    return lambda result: bool(rule("default", result)) or bool(stop_all())


def _generations(plan: Any, rules: Mapping[str, float]) -> dict[str, Any]:
    """How often a population is compared, as its interval says."""
    limit = rules.get(key_of(plan.time_attr))
    if plan.name != "pbt" or not plan.interval or not limit:
        return {}
    return {"generations": max(1, round(limit / plan.interval))}


def _changing(plan: Any, algorithm: str) -> dict[str, Any]:
    """The mutations of a population without those that cannot change while a policy learns."""
    aliases, kept = algorithm_spec(algorithm)[1].config.aliases, {}
    for key, given in plan.mutations.items():
        if plan.name == "pbt" and aliases.get(key, key).startswith(FIXED):
            text = f"The mutation of {key!r} is left out: it cannot change while a policy learns."
            warnings.warn(text, PoiseWarning, stacklevel=3)
        else:
            kept[key] = given
    return kept


def _in_steps(rules: dict[str, float], algorithm: str, settings: Any, preset: Any) -> Any:
    """Stop rules of a population, which is compared by steps of the environments."""
    iterations = rules.pop("training_iteration", None)
    for key in ("time_total_s", "episodes_total"):
        if key in rules:
            text = f"stop {key}={rules.pop(key)!r} is left out: populations are compared by steps."
            warnings.warn(text, PoiseWarning, stacklevel=3)
    if iterations is not None and "timesteps_total" not in rules:
        known: Any = resolve(algorithm, None, settled(settings), preset=preset)[0]
        steps = known.timesteps_per_iteration or known.train_batch_size
        rules["timesteps_total"] = iterations * steps
        say(f"training_iteration={iterations} becomes timesteps_total={iterations * steps}: "
            "populations are compared by steps.")  # fmt: skip
    return rules


def _limited(rules: dict[str, float]) -> dict[str, float]:
    """Stop rules with one limit alone, by which schedulers see how far a trial is."""
    limits = [key for key in rules if key in LIMITS]
    return {key: value for key, value in rules.items() if key not in limits[:-1]}


def _of_run(done: Run, metric: str | None, mode: str | None) -> ExperimentAnalysis:
    rows = RunFolder(done.path).metrics()
    own = Trial("00000", done.trainer.config.to_dict(), done.path, rows, "TERMINATED")
    return ExperimentAnalysis([own], metric, mode, done.path.parent)


def _of_search(found: Any, metric: str | None, mode: str | None) -> ExperimentAnalysis:
    trials = []
    states = {"failed": "ERROR", "running": "RUNNING"}
    for each in found.trials:
        folder = each.path if RunFolder(each.path).exists() else each.path / "seed_0"
        rows = RunFolder(folder).metrics() if RunFolder(folder).exists() else []
        nested: dict[str, Any] = {}
        for key, value in each.settings.items():
            inside, dot, last = key.partition(".")
            (nested.setdefault(inside, {}) if dot else nested)[last or key] = value
        state = states.get(each.state, "TERMINATED")
        trials.append(Trial(f"{each.number:05d}", nested, folder, rows, state, each.error))
    search_of = found.study.search
    return ExperimentAnalysis(
        trials, metric or search_of.metric, mode or search_of.mode, found.path, found
    )


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
