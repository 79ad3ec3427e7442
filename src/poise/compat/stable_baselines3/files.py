"""Models of `stable_baselines3` in files: Poise's checkpoints in one file each, or its own."""

from __future__ import annotations

import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

from poise.api import load as load_checkpoint
from poise.compat.sb3 import load_sb3
from poise.compat.stable_baselines3.common.env_util import as_vec_env
from poise.compat.stable_baselines3.common.vec_env import VecEnv
from poise.compat.stable_baselines3.settings import ARGUMENTS, gpus_on
from poise.compat.stable_baselines3.training import Played
from poise.config.types import a_path
from poise.errors import CheckpointError, PoiseWarning
from poise.training.trainer import Trainer

Self = TypeVar("Self", bound="Files")


class Files:
    """What a model keeps, and takes from files."""

    named: ClassVar[str]
    trainer: Trainer
    env: Any
    num_timesteps: int
    _functions: dict[str, Any]
    _begin: Any
    _own: Any

    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """Writes a checkpoint of Poise's as one file, `.zip`, without its replay.

        It holds no pickle. `exclude` and `include` are left out, with a warning.
        """
        for name, value in (("exclude", exclude), ("include", include)):
            if value is not None:
                text = f"save: {name}={value!r} has no equivalent here and is left out."
                warnings.warn(text, PoiseWarning, stacklevel=2)
        algorithm: Any = self.trainer.algorithm
        replay = getattr(algorithm, "replay", None)
        with tempfile.TemporaryDirectory() as folder:
            if replay is not None:
                algorithm.replay = None
            try:
                self.trainer.environments.pending = []
                saved = self.trainer.save(Path(folder) / "model")
            finally:
                self.trainer.environments.pending = None
                if replay is not None:
                    algorithm.replay = replay
            target = zip_path(path)
            if isinstance(target, Path):
                target.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(target, "w") as archive:
                for file in sorted(each for each in saved.rglob("*") if each.is_file()):
                    archive.write(file, str(file.relative_to(saved)))

    @classmethod
    def load(
        cls: type[Self],
        path: Any,
        env: Any = None,
        device: Any = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """A model from a file that `save` wrote, or Stable-Baselines3's own did.

        Args:
            path: the file, with or without its `.zip`.
            env: the environment; of Stable-Baselines3's own files it is needed.
            device: "cpu" or "cuda"; "auto" as it was trained.
            print_system_info, force_reset: without effect.
            custom_objects, kwargs: arguments to go on with, in place of those in the file.
        """
        model = cls.__new__(cls)
        model.env = None if env is None else as_vec_env(env)
        given = {**ARGUMENTS[cls.named], **(custom_objects or {}), **kwargs}
        model._begin(given)
        changed = {**(custom_objects or {}), **kwargs}
        if str(device) != "auto":
            changed["num_gpus"] = gpus_on(device)
        for key, name in (("learning_rate", "lr"), ("clip_range", "clip_param")):
            if callable(changed.get(key)):
                model._functions[name] = changed.pop(key)
        for key in ("verbose", "tensorboard_log", "seed", "lr_schedule", "exploration_fraction",
                    "policy_kwargs"):  # fmt: skip
            changed.pop(key, None)
        model._own(read_file(zip_path(path, reading=True), model, model.env, **changed))
        model.num_timesteps = model.trainer.algorithm.timesteps
        return model

    def get_parameters(self) -> dict[str, Any]:
        """Parameters by learner."""
        learners = self.trainer.algorithm.learners
        return {name: dict(each.module.state_dict()) for name, each in learners.items()}

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto"
    ) -> None:
        """Takes parameters of `get_parameters`, or of a file that `save` wrote."""
        given = load_path_or_dict
        if not isinstance(given, Mapping):
            other = type(self).load(given, self.env)
            given = other.get_parameters()
        for name, values in given.items():
            self.trainer.algorithm.learners[name].module.load_state_dict(values, strict=exact_match)

    def save_replay_buffer(self, path: Any) -> None:
        """Writes a whole checkpoint of Poise's, replay included, as a folder."""
        self.trainer.environments.pending = []
        self.trainer.save(a_path(path))
        self.trainer.environments.pending = None

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """Takes the replay of what `save_replay_buffer` wrote."""
        other: Any = load_checkpoint(a_path(path), progress=False).algorithm
        self.trainer.algorithm.replay = other.replay  # type: ignore[attr-defined]

    @property
    def replay_buffer(self) -> Any:
        """What there is of the replay: `size()`, the steps that it holds."""
        replay = getattr(self.trainer.algorithm, "replay", None)
        return SimpleNamespace(size=lambda: replay.steps if replay else 0, replay=replay)


def zip_path(path: Any, *, reading: bool = False) -> Any:
    """The file that a path means: with `.zip`, unless it has another ending."""
    if isinstance(path, io.IOBase):
        return path
    file = a_path(path)
    if reading and file.is_file():
        return file
    return file if file.suffix else file.with_name(f"{file.name}.zip")


def read_file(file: Any, model: Any, venv: VecEnv | None, **changed: Any) -> Trainer:
    """The trainer in a file of either library.

    Raises:
        CheckpointError: there is none.
    """
    try:
        archive = zipfile.ZipFile(file)
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{file} cannot be read: {error}.") from None
    with archive, tempfile.TemporaryDirectory() as folder:
        played = None if venv is None else Played(venv, model)
        if "manifest.json" not in archive.namelist():
            if played is None:
                raise CheckpointError(f"{file} is Stable-Baselines3's: give its env, too.")
            trainer = load_sb3(file, played, progress=False, **changed)
            steps = json.loads(archive.read("data")).get("num_timesteps")
            trainer.algorithm.timesteps = steps if isinstance(steps, int) else 0
            return trainer
        archive.extractall(folder)
        if venv is not None:
            changed["num_envs_per_worker"] = venv.num_envs
        trainer = load_checkpoint(folder, env=played, progress=False, **changed)
        trainer.environments.pending = None
        if played is not None and trainer.policy.recurrent:
            trainer.config.env = Played(venv, model, next_step=True)  # type: ignore[arg-type]
    return trainer
