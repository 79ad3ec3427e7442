"""What `import poise` offers, in one place. See `poise/__init__.py` for why it is loaded late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from poise.config.resolve import resolve
from poise.config.run import RunOptions
from poise.errors import ConfigError
from poise.tracking.folder import RunFolder
from poise.tracking.launch import Run
from poise.tracking.launch import resume as _resume
from poise.tracking.launch import start as _start
from poise.tracking.plots import reward_figure
from poise.tracking.progress import Progress, where
from poise.training.callbacks import Callback
from poise.training.trainer import Trainer


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
    both = set(config or {}) & set(settings)
    if both:
        raise ConfigError(f"{min(both)!r} is given in config and as a keyword: give it once.")
    resolved, used = resolve(algorithm, env, {**(config or {}), **settings}, preset=preset)
    if resolved.env is None:
        raise ConfigError(f"{algorithm} needs an environment: poise.{algorithm}('CartPole-v1').")
    trainer = Trainer(algorithm, resolved, callbacks=callbacks, preset=used)
    if progress or (progress is None and where() != "lines"):
        trainer.callbacks.append(Progress())
    return trainer


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
    video: bool = False,
    plot: bool = False,
    tensorboard: bool | None = None,
    **settings: Any,
) -> Run:
    """Trains with everything kept in a run folder, as `poise train` does; see `RunOptions` for what is kept."""
    options = RunOptions(checkpoint_interval_s, checkpoint_freq, keep_checkpoints_num, video, plot, tensorboard)
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
        quiet=quiet,
    )


def resume(path: str | Path, *, stop: Any = None, callbacks: Sequence[Callback] = (), quiet: bool = False) -> Run:
    """Goes on with the run in a folder, as `poise resume` does."""
    return _resume(RunFolder(path), stop=stop, callbacks=callbacks, quiet=quiet)


def plot(what: Trainer | Run | str | Path, *, x: str = "timesteps_total") -> Any:
    """The reward curve of a trainer, a run or a run folder, as a matplotlib figure (notebooks show it)."""
    if isinstance(what, Trainer):
        return reward_figure(what.history, title=repr(what).strip("<>"), x=x)
    folder = what.folder if isinstance(what, Run) else RunFolder(what)
    saved = folder.config()
    return reward_figure(folder.metrics(), title=f"{saved['algorithm']} on {saved['config']['env']}", x=x)
