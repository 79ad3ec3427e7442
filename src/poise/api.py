"""What `import poise` offers, in one place. See `poise/__init__.py` for why it is loaded late."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from poise.advice.greedy import Greedy
from poise.advice.stuck import Stuck
from poise.config.base import AlgorithmConfig
from poise.config.run import RunOptions
from poise.config.types import a_path
from poise.errors import CheckpointError, ConfigError, PoiseWarning, RunError
from poise.tracking.curves import History, panels
from poise.tracking.find import find_run, find_runs, find_study
from poise.tracking.folder import RunFolder
from poise.tracking.launch import Run
from poise.tracking.launch import resume as _resume
from poise.tracking.launch import start as _start
from poise.tracking.live import LivePlot
from poise.tracking.logger import Logger
from poise.tracking.loggers import sorted_out
from poise.tracking.plots import episode_figure
from poise.tracking.progress import Progress, where
from poise.training.callbacks import Callback
from poise.training.checkpoint import bring_back
from poise.training.loading import load as _load
from poise.training.loading import new_trainer
from poise.training.trainer import Trainer
from poise.training.unused import unused


def make_trainer(
    algorithm: str,
    env: Any = None,
    *,
    config: Mapping[str, Any] | None = None,
    preset: str | None = "auto",
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    **settings: Any,
) -> Trainer:
    """A trainer by the algorithm's name; `poise.PPO(...)` and its siblings are this.

    Args:
        algorithm: its name.
        env: Gymnasium id, `module:Env-v0`, registered name, class or function of the env config.
        config: settings as a dict, where keyword arguments are not enough (`{"lambda": 0.9}`).
        preset: `"auto"` uses the settings tuned for this environment, `None` the plain defaults.
        callbacks: called in this order.
        progress: whether `learn` shows its progress; None shows it in terminals and notebooks.
        settings: configuration keys (`poise config PPO` lists them).

    Raises:
        ConfigError: an unknown key, a wrong type or range, or a contradiction.
        EnvError: the environment cannot be made.
    """
    if both := set(config or {}) & set(settings):
        raise ConfigError(f"{min(both)!r} is given in config and as a keyword: give it once.")

    def check(resolved: AlgorithmConfig) -> None:
        if resolved.env is None:
            raise ConfigError(
                f"{algorithm} needs an environment: poise.{algorithm}('CartPole-v1')."
            )

    trainer = new_trainer(
        algorithm,
        env,
        {**(config or {}), **settings},
        preset=preset,
        callbacks=callbacks,
        check=check,
    )
    for sentence in unused(trainer):
        warnings.warn(sentence, PoiseWarning, stacklevel=3)
    return _with_callbacks(trainer, progress)


def _with_callbacks(trainer: Trainer, progress: bool | None) -> Trainer:
    trainer.callbacks += [Stuck(), Greedy()]
    if progress or (progress is None and where() != "lines"):
        trainer.callbacks.append(Progress())
    return trainer


def load(
    path: str | Path,
    *,
    env: Any = None,
    env_config: dict[str, Any] | None = None,
    which: str | int = "latest",
    trust: bool = False,
    progress: bool | None = None,
    **overrides: Any,
) -> Trainer:
    """The trainer that a checkpoint was saved from, to act with, or to train on exactly from there.

    No environment is made before one is needed: the policy is rebuilt from the layouts of its
    spaces. What the checkpoint names as `module:Name` is imported only where it is harmless or
    known to this machine (docs/security.md).

    Args:
        path: a checkpoint folder, a run folder, or the name of a run in `runs`, or `latest`.
        env: the environment's class or function, where the checkpoint knows only its name; or
            another environment of the same spaces: then the episodes of the old one, and what is
            sampled of it, are left behind.
        env_config: its settings, where they held objects: a checkpoint knows only the names of
            their types.
        which: of a run's checkpoints: `"latest"` intact one, `"best"` (the highest score: the mean
            of an evaluation where there are some, else of a full window of training episodes), or
            an iteration.
        trust: lets it run the code that it names, and remembers the names.
        progress: as for `make_trainer`.
        overrides: other settings to go on with (`num_workers=2`, `lr=1e-4`); `notes` say what
            begins anew. Those that would make another network are refused.

    Raises:
        ConfigError: a setting that is none, or that it cannot go on with.
        CheckpointError: there is none, or it is damaged, of a future format, or not a checkpoint.
        TrustError: it needs a custom model of a module that this machine has not used before.
        ModelError: it needs a custom model that is not registered.
    """
    trainer = _load_at(path, env=env, env_config=env_config, which=which, trust=trust, **overrides)
    return _with_callbacks(trainer, progress)


def _load_at(path: str | Path, **settings: Any) -> Trainer:
    """The trainer of a checkpoint, or of a run by its folder or name."""
    meant = a_path(path)
    bring_back(meant.parent, meant.name)
    if not meant.exists() or find_study(path) is not None:
        try:
            meant = find_run(path).path
        except RunError as error:
            raise CheckpointError(f"There is no checkpoint at {path}. {error}") from None
    return _load(meant, **settings)


def export(
    what: Trainer | Run | str | Path,
    to: str,
    path: str | Path,
    *,
    policy: str | None = None,
    which: str | int = "latest",
    trust: bool = False,
    observations: int = 10_000,
) -> Any:
    """Writes a trained policy as a file that needs no Poise, as `poise export` does.

    It is compared with Poise on many observations before.

    Args:
        what: a trainer, a run, or what `load` takes.
        to: `onnx`, `torch`, `numpy` or `c`; see docs/export.md.
        path: the file, or the folder for `numpy`; one that is there is replaced.
        policy: which policy, where several agents have several.
        which, trust: as for `load`.
        observations: how many, drawn from the space, are compared.

    Returns:
        What was written, `path`, and how equal it is: `largest`, the largest difference of each
        output. Printed, it is a sentence.

    Raises:
        ConfigError: there is no such target or policy, or something else is at the path.
        ModelError: the model cannot be exported, or the exported one is not equal: then nothing is
            written.
        PoiseError: what the target needs is not installed.
    """
    from poise.exporting.export import export as write

    if isinstance(what, Run):
        what = what.trainer
    trainer = what if isinstance(what, Trainer) else _load_at(what, which=which, trust=trust)
    made = write(trainer, to, path, policy=policy, observations=observations)
    for note in made.notes:
        warnings.warn(note, PoiseWarning, stacklevel=2)
    return made


def run(
    algorithm: str,
    env: Any = None,
    *,
    config: Mapping[str, Any] | None = None,
    stop: Any = None,
    preset: str | None = "auto",
    folder: str | Path = "runs",
    experiment: str | None = None,
    name: str | None = None,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
    checkpoint_interval_s: float = 30.0,
    checkpoint_freq: int | None = None,
    keep_checkpoints_num: int = 3,
    confirm: bool = True,
    video: bool = False,
    plot: bool = False,
    tensorboard: bool | None = None,
    loggers: Sequence[str | Logger] = (),
    log_checkpoints: bool = False,
    resume_if_exists: bool = False,
    **settings: Any,
) -> Run:
    """Trains with everything kept in a run folder, as `poise train` does.

    Args:
        algorithm, env, config, preset, settings: as for `make_trainer`.
        stop: as for `Trainer.learn`.
        folder, experiment, name: the run is `folder/experiment/name`; the experiment is named after
            algorithm and environment, and the run after the time, unless given.
        callbacks: beside those that record and show.
        quiet: prints nothing.
        checkpoint_interval_s, checkpoint_freq, keep_checkpoints_num, confirm, video, plot,
            tensorboard, log_checkpoints: what is kept; see `RunOptions`.
        loggers: what gets the run beside its folder: names (`["wandb", "mlflow"]`), and objects
            of classes that derive from `poise.Logger`.
        resume_if_exists: a run of that `name` goes on where it was, or stays as it is where it has
            ended.
    """
    named, objects = sorted_out(loggers)
    options = RunOptions(
        checkpoint_interval_s,
        checkpoint_freq,
        keep_checkpoints_num,
        confirm,
        video,
        plot,
        tensorboard,
        named,
        log_checkpoints,
    )
    return _start(
        algorithm,
        env,
        {**(config or {}), **settings},
        stop=stop,
        preset=preset,
        root=folder,
        experiment=experiment,
        name=name,
        options=options,
        callbacks=callbacks,
        loggers=objects,
        quiet=quiet,
        resume_if_exists=resume_if_exists,
    )


def resume(
    path: str | Path,
    *,
    stop: Any = None,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[str | Logger] = (),
    quiet: bool = False,
    which: str | int = "latest",
    trust: bool = False,
    **overrides: Any,
) -> Run:
    """Goes on with a run, as `poise resume` does.

    Args:
        path: its folder, or its name in `runs`, or `latest`.
        stop: new stop rules instead of its own.
        callbacks: beside those that record and show.
        loggers: beside those that it names; objects must be given again.
        quiet: prints nothing.
        which: the checkpoint to go on from: `"latest"`, `"best"`, or an iteration.
        trust: lets it run the code that it names, and remembers the names.
        overrides: other settings to go on with (`num_workers=2`, `lr=1e-4`), which the run records.

    Raises:
        ConfigError: a setting that is none, or that it cannot go on with.
        RunError: there is no such run, or it is in use.
        CheckpointError: it has no such checkpoint.
    """
    named = RunFolder(path)
    folder = named if named.path.exists() else find_run(path)
    return _resume(
        folder,
        stop=stop,
        overrides=overrides,
        which=which,
        callbacks=callbacks,
        loggers=loggers,
        quiet=quiet,
        trust=trust,
    )


def plot(
    *what: Trainer | Run | str | Path,
    x: str = "steps",
    y: str | Sequence[str] | None = None,
    band: str = "minmax",
    live: bool = False,
) -> Any:
    """Return and length of episodes, and their means, as a matplotlib figure (notebooks show it).

    Args:
        what: trainers, runs, run folders, or names of runs or experiments in `runs`. Runs that
            differ by their seed alone become one curve with a band.
        x: `steps`, `episodes` or `time`.
        y: `return`, `length`, any key of the results (`learner/kl`), or several of these; None for
            return and length.
        band: of several seeds: `minmax` (lowest to highest), `sem` (standard error) or `ci` (95 %
            interval of the mean).
        live: of one trainer, in a notebook: `learn` shows the figure and redraws it in place while
            it trains.

    Returns:
        The figure; None if it is live.

    Raises:
        ConfigError: there is nothing named, or an axis is unknown.
        RunError: there is no such run.
        PoiseError: no episode has ended yet, or matplotlib is not installed.
    """
    if live:
        if len(what) != 1 or not isinstance(what[0], Trainer):
            raise ConfigError(
                "live=True follows one trainer while it trains: poise.plot(algo, live=True)."
            )
        trainer = what[0]
        trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, LivePlot)]
        trainer.callbacks.append(LivePlot(x=x, y=y))
        return None
    if not what:
        raise ConfigError("There is nothing named to plot: give a trainer, a run or a run folder.")
    histories: list[History] = []
    for each in what:
        if isinstance(each, Trainer):
            histories.append(History.of_trainer(each))
        else:
            folders = [each.folder] if isinstance(each, Run) else find_runs(each)
            histories += [History.of_folder(folder) for folder in folders]
    return episode_figure(panels(histories, x, y, band))
