"""Starting a run that is kept on disk, and going on with one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from threading import Thread
from typing import Any

from poise.advice.greedy import Greedy
from poise.advice.stuck import Stuck
from poise.config.algorithms import algorithm_spec
from poise.config.base import AlgorithmConfig, env_label, env_name, plain
from poise.config.registry import home_of
from poise.config.resolve import canonical, field_types, resolve
from poise.config.run import RunOptions
from poise.config.types import brief, coerce
from poise.envs.changes import changes, lacking
from poise.envs.make import admit_env
from poise.envs.video import make_filmed_env
from poise.errors import ConfigError, RunError, nearest, writing
from poise.files import near
from poise.sampling.episodes import Finished
from poise.tracking.about import note_session
from poise.tracking.curves import History, panels
from poise.tracking.find import named_folder, new_folder
from poise.tracking.folder import RunFolder
from poise.tracking.log import Log
from poise.tracking.logger import Logger
from poise.tracking.loggers import Loggers, loggers_of, sorted_out
from poise.tracking.plots import episode_figure, figure_class, save_figure
from poise.tracking.progress import Progress
from poise.tracking.recorder import RunRecorder
from poise.training.callbacks import Callback
from poise.training.checkpoint import checkpoints, set_aside
from poise.training.checkpoint import read as read_checkpoint
from poise.training.loading import (
    choose,
    declared_layouts,
    load,
    new_trainer,
    override,
    restore,
    take_env,
)
from poise.training.names import bring_algorithm, from_file, homes
from poise.training.recording import record
from poise.training.stopping import StopRule, check_keys, default_stop
from poise.training.trainer import Trainer
from poise.training.unused import unused


class Run:
    """A finished (or stopped) run: its trainer, its folder, its last result.

    Attributes:
        trainer: ready to act, or to train on.
        path: the run folder.
        result: the last result dict, with `stop_reason`.
        unsaved: a sentence, if the end could not be saved (the disk is full); `trainer.save` may
            find another place.
    """

    unsaved: str | None = None

    def __init__(self, trainer: Trainer, folder: RunFolder, result: dict[str, Any]) -> None:
        self.trainer, self.folder, self.path, self.result = trainer, folder, folder.path, result

    def __repr__(self) -> str:
        return f"<Run {self.path}: {repr(self.trainer)[1:-1]}; {self.result.get('stop_reason')}>"


def start(
    algorithm: str,
    env: Any = None,
    settings: Mapping[str, Any] | None = None,
    *,
    stop: Mapping[str, float] | Callable[[dict[str, Any]], bool] | None = None,
    preset: str | None = "auto",
    root: str | Path = "runs",
    experiment: str | None = None,
    name: str | None = None,
    options: RunOptions | None = None,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    signals: tuple[Any, ...] = (),
    quiet: bool = False,
    resume_if_exists: bool = False,
) -> Run:
    """Trains with everything kept on disk; `poise train` is this.

    Args:
        algorithm, env, settings, preset: as for `resolve`.
        stop: stop rules. Without any, a run ends at the environment's own reward threshold or after
            a million steps.
        root, experiment, name: the folder `root/experiment/name`; the experiment is named after
            algorithm and environment, and the run after the time, unless given.
        options: checkpoints, videos, plots.
        callbacks: beside those that record and show.
        loggers: beside those that the options name.
        signals: signals that end the run cleanly at the next boundary, beside SIGINT.
        quiet: prints nothing.
        resume_if_exists: goes on with the run of that `name`, where there is one; an ended one
            stays as it is. Its own settings count, and those asked for that are others are said; a
            stop rule that is given counts.

    Raises:
        PoiseError: the user's to mend; one clear sentence. No folder is left behind by a run that
            never started.
    """

    def check(config: AlgorithmConfig) -> None:
        if config.env is None:
            raise RunError(
                "There is no environment to train in: give one, for example --env CartPole-v1."
            )
        if not callbacks:  # they may add the keys that a stop rule names
            check_keys(stop, config)

    if resume_if_exists:
        if name is None:
            raise ConfigError(
                "resume_if_exists (--resume-if-exists) needs a name, "
                "by which each call finds the run."
            )
        asked, _ = resolve(algorithm, env, dict(settings or {}), preset=preset, stop=stop)
        of = algorithm_spec(algorithm)[0]
        own = f"{of}_{env_label(asked.env)}"
        folder = named_folder(root, own if experiment is None else experiment, name)
        chosen_settings = canonical(type(asked), dict(settings or {}))
        rest = {"callbacks": callbacks, "loggers": loggers, "signals": signals, "quiet": quiet}
        if run := _again(folder, of, asked, chosen_settings, stop=stop, **rest):
            return run

    trainer = new_trainer(
        algorithm, env, settings or {}, preset=preset, stop=stop, callbacks=callbacks, check=check
    )
    config, used = trainer.config, trainer.preset
    defaults = default_stop(config) if stop is None else None
    rules = defaults if stop is None else stop
    StopRule(rules, config)  # a mistake is said before there is a folder
    keeping = run_options(asdict(options or RunOptions()))
    if keeping.video:
        make_filmed_env(config.env, config.env_config).close()
    if keeping.plot:
        figure_class()
    named = loggers_of(keeping)
    own = f"{trainer.name}_{env_label(config.env)}"
    folder = new_folder(root, own if experiment is None else experiment, name)
    folder.claim()
    changed = [str(change) for change in changes()]
    try:
        home = home_of(trainer.name)
        folder.write_config(
            {
                "algorithm": trainer.name,
                "preset": used,
                "stop": dict(rules) if isinstance(rules, Mapping) else None,
                "options": asdict(keeping),
                **({"home": home} if home else {}),
                "names": homes(config),
                "changed": changed,
                "auto_workers": config.auto_workers,
                "config": config.to_dict(),
            }
        )
        log = Log(folder.path / "log.txt", quiet=quiet)
        from_preset = f", preset {used}" if used else ""
        log(f"{trainer.name} on {env_name(config.env)}, seed {config.seed}{from_preset}")
        script = [f"{name} is the script's own." for name in changed]
        for note in (*trainer.notes, *unused(trainer, rules), *script):
            log(note)
        if defaults is not None:
            goals = " or ".join(f"{key}={value:g}" for key, value in defaults.items())
            log(f"No stop rule was given; stopping at {goals}.")
        return _run(trainer, folder, rules, keeping, log, [*named, *loggers], signals, first=True)
    finally:
        folder.release()


def _again(
    folder: RunFolder,
    algorithm: str,
    config: AlgorithmConfig,
    chosen: dict[str, Any],
    *,
    stop: Any,
    **rest: Any,
) -> Run | None:
    """Goes on with a run that was asked for again, or leaves it as it ended.

    Args:
        folder: where it would be.
        algorithm, config: what is asked for.
        chosen: the settings that were given.
        stop, rest: as for `resume`.

    Returns:
        The run; None where it is yet to begin. One that died before its first checkpoint is cleared
        away for that.
    """
    log = Log(folder.path / "log.txt", quiet=rest["quiet"])
    if not checkpoints(folder.checkpoints):
        if folder.exists():
            folder.claim()
            folder.trim(0, 0)
            (folder.path / "config.json").unlink(missing_ok=True)
            folder.release()
            log(f"The run {near(folder.path)} died before its first checkpoint: it begins anew.")
        return None
    saved = folder.config()
    runs = [(saved["algorithm"], saved["config"]["env"]), (algorithm, env_name(config.env))]
    if runs[0] != runs[1]:
        raise RunError(
            f"The run {folder.path} is one of {' on '.join(runs[0])}, "
            f"not of {' on '.join(runs[1])}."
        )
    own, asked = (canonical(type(config), each) for each in (saved["config"], config.to_dict()))
    if asked["num_workers"] == "auto":  # which share the environments
        del asked["num_envs_per_worker"]
    others = [
        f"{key}={brief(own.get(key))} (asked for: {brief(asked[key])})"
        for key in sorted(chosen.keys() & asked.keys())
        if asked[key] not in (own.get(key), "auto")
    ]
    if others:
        listed = ", ".join(others)
        log(f"The run goes on with its own settings: {listed}. `poise resume` takes others.")
    status = folder.status()
    reason = status.get("reason")
    same_stop = not isinstance(stop, Mapping) or dict(stop) == saved["stop"]
    if status.get("state") == "finished" and same_stop:
        trainer = load(folder.path, env=config.env)
        log(f"The run {near(folder.path)} has ended: {reason}.")
        return Run(trainer, folder, {**(folder.last_result() or {}), "stop_reason": reason})
    given = config.env_config if plain(config.env_config) == saved["config"]["env_config"] else None
    return resume(folder, stop=stop, env=config.env, env_config=given, **rest)


def resume(
    folder: RunFolder,
    *,
    stop: Mapping[str, float] | Callable[[dict[str, Any]], bool] | None = None,
    env: Any = None,
    env_config: dict[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    which: str | int = "latest",
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[str | Logger] = (),
    signals: tuple[Any, ...] = (),
    quiet: bool = False,
    trust: bool = False,
) -> Run:
    """Goes on with a run from its newest intact checkpoint.

    Args:
        folder: the run's.
        stop: new stop rules; its own unless given.
        env, env_config: the environment, where a file could keep only its name.
        overrides: other settings to go on with; the run's config.json records them.
        which: another checkpoint to go on from: `"best"` or an iteration. Later ones are kept under
            another name, and later results as `metrics-N.jsonl` and `episodes-N.csv`.
        callbacks, signals, quiet: as for `start`.
        loggers: beside its own, by name or as objects; the run records the names.
        trust: lets it run the code that it names.

    Raises:
        ConfigError: a setting that is none, or that a checkpoint cannot go on with.
        RunError: there is no run, or it is in use.
        CheckpointError: it has no intact checkpoint.
        TrustError: it names code that this machine has not used before.
    """
    saved = folder.config()
    bring_algorithm(saved, folder.path, trusted=trust)
    more, objects = sorted_out(loggers)
    options = run_options(saved["options"])
    if more:
        # What is asked for now must be there.
        loggers_of(replace(options, loggers=more, tensorboard=options.tensorboard and None))
        options.loggers = list(dict.fromkeys([*options.loggers, *more]))
    rules = stop if stop is not None else saved["stop"]
    if rules is None:
        raise RunError(
            f"The run {folder.path} stopped by a function of its script: "
            "give a stop rule to resume it."
        )
    auto = bool(saved.get("auto_workers"))
    config = override(saved["algorithm"], saved["config"], overrides or {}, auto_workers=auto)
    from_file(config, folder.path, saved.get("names"), trusted=trust, own=overrides or ())
    given = take_env(config, env, env_config, saved["config"]["env"])
    if not callbacks:
        check_keys(rules, config)
    StopRule(rules, config)
    folder.claim()
    try:
        log = Log(folder.path / "log.txt", quiet=quiet)
        with warnings.catch_warnings(record=True) as damaged:
            warnings.simplefilter("always")
            path = choose(folder.path, which)
        for warning in damaged:
            log(f"Warning: {warning.message}")
        if "rebuilt" in saved:
            log(
                f"Warning: its config.json {saved.pop('rebuilt')}; "
                "settings and stop rule are the checkpoint's."
            )
            folder.write_config({key: value for key, value in saved.items() if key in CONFIG_KEYS})
        manifest, policies, state = read_checkpoint(path)
        declared_layouts(path, manifest, config, policies)
        admit_env(config.env, config.env_config)
        module, colon, _ = str(config.env).partition(":")
        if module and colon:
            log(f"Importing {module} for the environment {config.env}.")
        preset = saved.get("preset")
        trainer = Trainer(saved["algorithm"], config, callbacks=callbacks, preset=preset)
        changed = restore(trainer, manifest, policies, state, path, given)
        _ = trainer.samplers  # an environment that cannot begin changes nothing
        with writing(folder.path):
            for newer in checkpoints(folder.checkpoints):
                if path.parent == folder.checkpoints and int(newer.name) > int(path.name):
                    set_aside(newer, "damaged" if which == "latest" else "left")
            if which != "latest":
                folder.keep_results(trainer.iteration)
            if given_rule := isinstance(stop, Mapping) and dict(stop) != saved["stop"]:
                saved["stop"] = dict(stop)  # what it goes on towards when it is resumed once more
            if changed:
                saved["config"] = trainer.config.to_dict()
                saved["auto_workers"] = trainer.config.auto_workers
                change = {"training_iteration": trainer.iteration, **changed}
                saved["changed_settings"] = [*saved.get("changed_settings", []), change]
            if more:
                saved["options"] = asdict(options)
            if changed or given_rule or more:
                folder.write_config(saved)
            folder.trim(trainer.iteration, trainer.algorithm.timesteps)
        if "env" not in changed:
            trainer.history.extend(folder.metrics()[-1:])
        trainer.metrics.finished.extend(Finished(*episode) for episode in folder.episodes())
        if missing := lacking(saved.get("changed")):
            log(f"Warning: {missing}")
        grade = "statistical" if trainer.environments.lost or missing else manifest["resume_grade"]
        log(f"Resuming from iteration {trainer.iteration} ({near(path)}); grade: {grade}.")
        for note in (*trainer.notes, *unused(trainer, rules)):
            log(note)
        every = [*loggers_of(options, say=log), *objects]
        return _run(trainer, folder, rules, options, log, every, signals, first=False)
    finally:
        folder.release()


CONFIG_KEYS = (
    *("algorithm", "preset", "stop", "options", "names", "changed", "auto_workers", "config"),
)
"""What a run's config.json has."""


def run_options(saved: Mapping[str, Any]) -> RunOptions:
    """The options of what a run keeps, as a caller or a config.json has them, checked.

    Raises:
        ConfigError: a value of another type, or a key that there is not.
    """
    types = field_types(RunOptions)
    for key in saved:
        if key not in types:
            raise ConfigError(f"There is no run option {key!r}.{nearest(str(key), types)}")
    return RunOptions(**{key: coerce(types[key], value, key) for key, value in saved.items()})


def _run(
    trainer: Trainer,
    folder: RunFolder,
    stop: Any,
    options: RunOptions,
    log: Log,
    loggers: Sequence[Logger],
    signals: tuple[Any, ...],
    *,
    first: bool,
) -> Run:
    """Trains, with all that records and shows a run; `first` where it did not go on."""
    recorder = RunRecorder(
        folder,
        interval_s=options.checkpoint_interval_s,
        every=options.checkpoint_freq,
        keep=options.keep_checkpoints_num,
        say=log,
    )
    greedy = Greedy(say=log)
    logging = Loggers(loggers, folder, log, checkpoints=options.log_checkpoints)
    trainer.callbacks += [recorder, logging, Stuck(say=log), greedy]
    if not log.quiet:
        trainer.callbacks.append(Progress(say=log, log=log.write))
    with logging.during(trainer):
        if options.video and first:
            log(f"Filmed before training: {_film(trainer, folder, 'before', logging)}")
        comparing = _note(trainer, folder, log)
        try:
            result = trainer.learn(stop=stop, confirm=options.confirm, signals=signals)
        finally:
            if comparing is not None:
                comparing.join()
        ended = result["stop_reason"] not in ("interrupted", "preempted")
        if ended:
            greedy.look(trainer, result)
        if options.plot and trainer.metrics.finished:
            figure = episode_figure(panels([History.of_folder(folder)]))
            log(f"Plot of the episodes: {save_figure(figure, folder.plot)}")
        if options.video and ended:
            log(f"Filmed after training: {_film(trainer, folder, 'after', logging)}")
    run = Run(trainer, folder, result)
    run.unsaved = recorder.unsaved(trainer)
    if trainer.underway:
        log(
            f"{trainer.underway} steps of iteration {trainer.iteration + 1} are kept: "
            "`poise resume` goes on amid it."
        )
    log(f"Stopped: {result['stop_reason']}. {run.unsaved or f'The run is in {near(folder.path)}'}")
    return run


def _note(trainer: Trainer, folder: RunFolder, log: Log) -> Thread | None:
    """Notes what the run is made with; a thread that is still at it, if there is one."""
    try:
        return note_session(
            folder, gpu=bool(trainer.config.num_gpus), steps=trainer.algorithm.timesteps
        )
    except RunError as error:
        log(f"Warning: {error} What the run was made with is not kept.")
        return None


def _film(trainer: Trainer, folder: RunFolder, name: str, loggers: Loggers) -> str:
    """Films an episode; says where the film is, and what was earned in it."""
    filmed = record(trainer, folder.path / "videos" / f"{name}.mp4")
    loggers.film(filmed["path"], trainer.algorithm.timesteps)
    rewards = filmed["episode_reward"]
    return f"{filmed['path']} (reward {rewards[0]:.0f})" if rewards else filmed["path"]
