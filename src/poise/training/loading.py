"""Making a trainer: from what a person wrote, or from a checkpoint."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from poise.config.algorithms import algorithm_spec
from poise.config.base import WRAPPERS, AlgorithmConfig, env_name, plain
from poise.config.resolve import build, canonical, resolve
from poise.config.types import a_path, brief
from poise.envs.changes import lacking
from poise.envs.raised import telling_interrupts
from poise.envs.trust import Foreign
from poise.errors import CheckpointError, ConfigError, PoiseWarning
from poise.spaces.layout import Layout
from poise.stepping.given import EnvCountError
from poise.training import checkpoint
from poise.training.callbacks import Callback
from poise.training.declared import check_sizes
from poise.training.names import bring_algorithm, from_file
from poise.training.trainer import Trainer
from poise.training.unused import unused


def config_from_dict(algorithm: str, settings: dict[str, Any]) -> AlgorithmConfig:
    """A resolved configuration from its JSON form."""
    spec = algorithm_spec(algorithm)[1]
    return build(spec.config, canonical(spec.config, settings))


def override(
    algorithm: str,
    settings: dict[str, Any],
    overrides: Mapping[str, Any],
    *,
    auto_workers: bool = False,
) -> AlgorithmConfig:
    """A resolved configuration from its JSON form, with other settings over it.

    Another number of workers shares the environments that there were, and what follows from the
    size of a batch is derived again.

    Args:
        algorithm: its name.
        settings: the JSON form.
        overrides: the other settings.
        auto_workers: whether the number of workers was chosen; for another cluster, or for none, it
            is chosen anew.

    Raises:
        ConfigError: an override that is none, contradicts others, or would make another network or
            environment.
    """
    before = config_from_dict(algorithm, settings)
    before.__dict__["auto_workers"] = auto_workers
    if not overrides:
        return before
    kind = type(before)
    chosen = canonical(kind, dict(overrides))
    for key, value in chosen.items():
        if key.startswith("model.") or key in ("env", "env_config", "wrappers"):
            what = "network" if key.startswith("model.") else "environment"
            raise ConfigError(
                f"{key}={brief(value)} cannot go on from a checkpoint: its {what} stays as it is."
            )
    config = build(kind, {**canonical(kind, settings), **chosen})
    explicit = {*chosen, "num_envs_per_worker"}
    if "ray_address" not in chosen:
        explicit.add("num_workers")  # which were chosen on that cluster
    elif auto_workers and "num_workers" not in chosen:
        config.num_workers = "auto"
    config.__dict__["auto_workers"] = auto_workers and "num_workers" not in chosen
    config.__dict__["continued"] = True
    config.choose_workers(explicit)
    if before.own_batch and config.on_cluster:
        explicit.add("train_batch_size")
    elif "num_envs_per_worker" not in chosen:
        groups = config.num_envs // config.num_envs_per_worker  # of which each worker has one
        config.num_envs_per_worker = max(1, before.num_envs // groups)
        if {"train_batch_size", "rollout_fragment_length"} <= explicit:
            explicit.remove("num_envs_per_worker")
    if "num_learners" not in chosen and not config.on_cluster:
        config.num_learners = 1
    if "sgd_minibatch_size" not in chosen and _derived_minibatch(before):
        config.sgd_minibatch_size = None  # type: ignore[attr-defined]
    config.derive(explicit)
    return config


def _derived_minibatch(config: AlgorithmConfig) -> bool:
    """Whether the size of its minibatches is the one that follows from its batch."""
    if not hasattr(config, "sgd_minibatch_size"):
        return False
    again = dataclasses.replace(config, sgd_minibatch_size=None)  # type: ignore[call-arg]
    again.derive({"num_envs_per_worker"})
    return bool(again.sgd_minibatch_size == config.sgd_minibatch_size)  # type: ignore[attr-defined]


SAMPLING = {
    "num_workers", "num_envs_per_worker", "rollout_fragment_length", "exploration_correlation",
    "opponents",
}  # fmt: skip
"""With another value of these, or on a cluster instead of here, episodes under way and steps not
yet learnt from cannot go on."""
REPLAY = {"buffer_size", "frame_stack", "prioritized_replay", "her"}
"""With another value of these, or another number of environments, a replay cannot go on."""
SEQUENCES = {"rollout_fragment_length", "burn_in", "n_step"}
"""Nor with another value of these, one whose policy has a memory."""

Given = tuple[bool, str]
"""Whether an environment is another one than a checkpoint's, and what to say of it."""


def take_env(
    config: AlgorithmConfig, env: Any, env_config: Mapping[str, Any] | None, was: str
) -> Given:
    """Puts an environment that is given, or settings of it, in the place of what a file names.

    Its wrappers stay. Names decide whether it is another one than the file's. A lambda has no name,
    and a function inside another has only its own: where the file's has the same, or none either,
    they are taken for one. That is said unless both stand at the very same place.

    Args:
        config: from the file; is changed.
        env, env_config: what is given; None leaves the file's.
        was: the name in the file, which may be one that `poise.register_env` was given.

    Returns:
        Whether it is another one, and what to say of it; nothing, where it is the file's beyond
        doubt.
    """
    known, before = {was, env_name(config.env)}, plain(config.env_config)
    config.env = config.env if env is None else env
    if env_config is not None:
        wrappers = {k: v for k, v in config.env_config.items() if k == WRAPPERS}
        config.env_config = {**wrappers, **env_config}
        if isinstance(config.env, Foreign):
            config.env.own_config = True
    name = env_name(config.env)
    if plain(config.env_config) != before or _own_name(name) not in map(_own_name, known):
        return True, f"{was} is replaced by {name}"
    said = f"{name} is taken for the environment that there was, {was}: its episodes go on."
    return False, said if env is not None and "<" in name and name not in known else ""


def _own_name(name: str) -> str:
    """What is left of `module:outer.<locals>.inner` in another process, or after an edit."""
    return re.split("[:.]", name)[-1] if "<" in name else name


def restore(
    trainer: Trainer,
    manifest: dict[str, Any],
    policies: dict[str, Any],
    state: dict[str, Any],
    path: Path,
    given: Given,
) -> dict[str, tuple[Any, Any]]:
    """Loads a checkpoint into a trainer whose settings may be others than the checkpoint's.

    The trainer's `notes` say what begins anew.

    Args:
        trainer: made, and not trained yet.
        manifest, policies, state: what `checkpoint.read` returned; the state is changed.
        path: of the checkpoint, for sentences.
        given: what `take_env` returned.

    Returns:
        The settings that are others, with the checkpoint's value and the trainer's.

    Raises:
        CheckpointError: the checkpoint is damaged, or cannot go on with them.
    """
    before, after = manifest["config"], trainer.config.to_dict()
    comparable = before.keys() - {"env", "env_config", "wrappers", "model"}
    changed = {
        key: (before[key], value)
        for key, value in after.items()
        if key in comparable and before[key] != value
    }
    anew: list[str] = []
    found = state.get("algorithm")
    algorithm: dict[str, Any] = found if isinstance(found, dict) else {}
    on_cluster = before.get("ray_address") is not None and before.get("num_workers") != 0
    if SAMPLING & changed.keys() or on_cluster != trainer.config.on_cluster:
        anew.append("episodes under way")
        state |= {"samplers": None, "unfinished_s": 0.0}
        algorithm["start"] = None
        if isinstance(algorithm.get("rewards"), dict):
            algorithm["rewards"]["carry"] = None
    slots = (before.get("num_workers") or 1) * before["num_envs_per_worker"]
    fixed = REPLAY | SEQUENCES if trainer.policy.recurrent else REPLAY
    misfits = fixed & changed.keys() or slots != trainer.config.num_envs
    if misfits and algorithm.get("replay") is not None:
        anew.append("the replay")
        algorithm["replay"] = None
    try:
        trainer.load_state(policies, state, source=path)
    except CheckpointError as error:
        _, fits, reason = str(error).partition(" does not fit its own configuration: ")
        if not changed or not fits:
            raise
        raise CheckpointError(f"{path} cannot go on with {_shown(changed)}: {reason}") from None
    if changed:
        trainer.notes.append(f"Other settings than the checkpoint's: {_shown(changed)}.")
    if anew:
        begin = "begins" if anew == ["the replay"] else "begin"
        trainer.notes.append(
            f"{' and '.join(anew).capitalize()} {begin} anew; "
            "what was learnt and the counters go on."
        )
    if given[0]:
        trainer.leave_environment(given[1])
        changed["env"] = before["env"], after["env"]
    elif given[1]:
        trainer.notes.append(given[1])
    return changed


def _shown(changed: Mapping[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{k}={brief(new)} (was {brief(old)})" for k, (old, new) in changed.items())


def locate(path: str | Path) -> Path:
    """The checkpoint that `path` means: itself, or the newest intact one of a run folder.

    Newer ones that are damaged are skipped with a warning each.

    Raises:
        CheckpointError: there is none.
    """
    folder = a_path(path)
    inside = folder / "checkpoints"
    if not inside.is_dir():
        if (folder / "config.json").is_file():
            raise CheckpointError(f"The run {folder} has no checkpoint yet.")
        return folder
    found, problems = checkpoint.newest(inside)
    if found is None:
        raise CheckpointError(" ".join([f"The run {folder} has no intact checkpoint.", *problems]))
    for problem in problems:
        warnings.warn(f"{problem} {found.name} is used instead.", PoiseWarning, stacklevel=3)
    return found


@telling_interrupts()
def choose(path: str | Path, which: str | int = "latest") -> Path:
    """One of a run folder's checkpoints: the latest, the best, or that of an iteration.

    Raises:
        CheckpointError: there is none.
    """
    if which == "latest":
        return locate(path)
    folder = a_path(path)
    there = {int(found.name): found for found in checkpoint.checkpoints(folder / "checkpoints")}
    if which == "best":
        best = checkpoint.best(folder / "checkpoints")
        if best is None:
            raise CheckpointError(
                f"No checkpoint of {folder} knows its score: it had no evaluation, "
                "and no full window of episodes."
            )
        return best[1]
    if not str(which).isdecimal() or int(which) not in there:
        known = ", ".join(str(iteration) for iteration in sorted(there)) or "none"
        raise CheckpointError(
            f"The run {folder} has no checkpoint {str(which)!r}. It has: {known}; or best, latest."
        )
    return there[int(which)]


def new_trainer(
    algorithm: str,
    env: Any,
    settings: Mapping[str, Any],
    *,
    preset: str | None,
    stop: Any = None,
    callbacks: Sequence[Callback] = (),
    check: Callable[[AlgorithmConfig], None] = lambda config: None,
) -> Trainer:
    """A trainer that begins anew; a vector environment decides how many environments there are.

    Args:
        algorithm, env, settings, preset, stop: as for `resolve`.
        callbacks: see `Trainer`.
        check: looks at the configuration before environments are made.

    Raises:
        PoiseError: one sentence that says what to mend.
    """

    def begin(settings: Mapping[str, Any]) -> Trainer:
        config, used = resolve(algorithm, env, dict(settings), preset=preset, stop=stop)
        check(config)
        return Trainer(algorithm, config, callbacks=callbacks, preset=used)

    try:
        return begin(settings)
    except EnvCountError as error:
        count, aliases = error.count, algorithm_spec(algorithm)[1].config.aliases
    for key, value in settings.items():
        if aliases.get(key, key) == "num_envs_per_worker":
            raise ConfigError(
                f"{key}={value} contradicts the vector environment, "
                f"which has {count} environments: leave it out."
            )
    trainer = begin({**settings, "num_envs_per_worker": count})
    trainer.notes.append(f"num_envs_per_worker={count}: the vector environment has so many.")
    return trainer


@contextmanager
def _reading(path: object) -> Iterator[None]:
    """Turns what fails inside into an error that says how the manifest is damaged."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: its manifest lacks {error}.") from None
    except (ValueError, OverflowError, MemoryError, AssertionError) as error:
        raise CheckpointError(f"{path} is damaged: its manifest has {error}.") from None


def declared_layouts(
    path: object, manifest: dict[str, Any], config: AlgorithmConfig, policies: checkpoint.Policies
) -> tuple[Layout, Layout]:
    """The layouts of a checkpoint's observation and action space.

    It is checked first that they and the networks of `config` are no larger than its files.

    Raises:
        CheckpointError: they do not, or cannot be read.
    """
    own = manifest.get("config")
    if not isinstance(own, dict) or not isinstance(own.get("num_envs_per_worker"), int):
        raise CheckpointError(f"{path} is damaged: its manifest has no whole configuration.")
    with _reading(path):
        check_sizes(path, manifest, config, policies)
        observation, action = manifest["observation_space"], manifest["action_space"]
        return Layout.from_json(observation), Layout.from_json(action)


def load(
    path: str | Path,
    *,
    env: Any = None,
    env_config: dict[str, Any] | None = None,
    which: str | int = "latest",
    trust: bool = False,
    **overrides: Any,
) -> Trainer:
    """The trainer of a checkpoint, or of a run folder's.

    It is `poise.load` without names of runs and callbacks; arguments and errors are as there.
    """
    manifest, policies, state = checkpoint.read(choose(path, which))
    bring_algorithm(manifest, path, trusted=trust)
    with _reading(path):
        config = config_from_dict(manifest["algorithm"], manifest["config"])
    auto = bool(manifest.get("auto_workers"))
    config = override(manifest["algorithm"], manifest["config"], overrides, auto_workers=auto)
    layouts = declared_layouts(path, manifest, config, policies)
    from_file(config, path, manifest.get("names"), trusted=trust, own=overrides)
    given = take_env(config, env, env_config, str(manifest["config"].get("env")))
    if missing := lacking(manifest.get("changed")):
        warnings.warn(f"{path}: {missing}", PoiseWarning, stacklevel=2)
    known = (
        None if config.num_workers == "auto" else layouts
    )  # which environments must be there for
    trainer = Trainer(manifest["algorithm"], config, layouts=known, preset=manifest.get("preset"))
    restore(trainer, manifest, policies, state, Path(path), given)
    if (name := trainer.policy.overflown) is not None:
        # A warning, no error: whoever looks for why a run diverged wants to see it.
        what = (
            "holds numbers that are not finite: "
            "it may be looked at, but can neither act by them nor learn."
        )
        warnings.warn(f"{path}: the policy's parameter {name!r} {what}", PoiseWarning, stacklevel=2)
    trainer.notes += unused(trainer)
    return trainer
