"""Configurations of RLlib's dictionary years as Poise's settings, with a sentence about everything that is left out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from poise.compat.azureml.core import folder as run_folder
from poise.config.algorithms import algorithm_spec
from poise.config.resolve import canonical, field_types, resolve
from poise.envs.atari import is_atari
from poise.envs.make import call_creator
from poise.envs.old_gym import OldGymEnv, old_api_sentence
from poise.errors import ConfigError, nearest
from poise.training.callbacks import Callback
from poise.tuning.space import is_search, searches

WITHOUT_EFFECT = {
    "framework", "log_level", "eager_tracing", "log_sys_usage", "fake_sampler", "num_cpus_per_worker",
    "num_cpus_for_driver", "num_gpus_per_worker", "custom_resources_per_worker", "create_env_on_driver",
    "disable_env_checking", "ignore_worker_failures", "recreate_failed_workers", "simple_optimizer", "monitor",
    "batch_mode", "compress_observations", "preprocessor_pref", "placement_strategy", "tf_session_args",
    "local_tf_session_args", "_disable_preprocessor_api", "_fake_gpus", "render_env", "record_env",
    "num_data_loader_buffers", "minibatch_buffer_size", "max_sample_requests_in_flight_per_worker",
}  # fmt: skip
"""Settings that say how RLlib does its work, not what is learnt: nothing is lost without them."""

RENAMED = {
    "lr_schedule": "lr",
    "entropy_coeff_schedule": "entropy_coeff",
    "use_critic": None,
    "use_gae": None,
}
"""Old settings that another one took over; None where Poise always does what they ask for."""


def translated(algorithm: str, config: Mapping[str, Any], env: Any = None) -> tuple[dict[str, Any], list[Callback]]:
    """Settings and callbacks of a configuration of RLlib's.

    Args:
        algorithm: its name.
        config: as RLlib took it; it may hold searches.
        env: the environment, unless it is in the configuration.
    """
    given = dict(config)
    settings: dict[str, Any] = {"env": modern(env if env is not None else given.pop("env", None))}
    given.pop("env", None)
    callbacks = _callbacks(given.pop("callbacks", None))
    exploration = given.pop("exploration_config", None) or {}
    given.update({key: value for key, value in exploration.items() if key != "type"})
    if given.pop("observation_filter", "NoFilter") == "MeanStdFilter":
        settings["normalize_observations"] = True
    if (horizon := given.pop("horizon", None)) is not None:
        given["env_config"] = {**(given.get("env_config") or {}), "max_episode_steps": horizon}
    spec = algorithm_spec(algorithm)[1].config
    atari = isinstance(settings["env"], str) and is_atari(settings["env"])
    pictures: dict[str, Any] = {}
    for key, value in given.items():
        name = RENAMED.get(key, key)
        if key in WITHOUT_EFFECT or name is None or (key in RENAMED and value is None):
            continue
        if name == "num_workers" and isinstance(value, int) and value > 0:
            settings["num_workers"] = "auto"  # which measures how many are worth it, and says so
        elif name == "num_gpus" and isinstance(value, (int, float)) and value:
            settings["num_gpus"] = _gpus(value)
        elif name == "model" and isinstance(value, Mapping):
            settings["model"], pictures = _model(spec, value, atari=atari)
        elif _known(spec, name, value):
            settings[name] = value
    if pictures:
        settings["env_config"] = {**pictures, **settings.get("env_config", {})}
    return canonical(spec, settings), callbacks


def best_preset(algorithm: str, settings: Mapping[str, Any]) -> str | None:
    """`auto` where the environment's preset goes with these settings, and None where they contradict each other."""
    plain = {key: value for key, value in settings.items() if not any(searches(value))}
    try:
        resolve(algorithm, None, plain, preset="auto")
    except ConfigError:
        return None
    return "auto"


def _model(spec: Any, given: Mapping[str, Any], *, atari: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a model, and those of pictures, which RLlib had there: they belong to the environment."""
    model: dict[str, Any] = {}
    env_config: dict[str, Any] = {}
    for key, value in given.items():
        if atari and key == "dim":
            env_config["size"] = value
        elif atari and key == "framestack":
            env_config["stack"] = 4 if value else 1
        elif atari and key == "grayscale":
            env_config["grayscale"] = value
        elif _known(spec, key, value, "model."):
            model[key] = value
    return model, env_config


def _known(spec: Any, key: str, value: Any, prefix: str = "") -> bool:
    """Whether Poise has it; a warning says what comes nearest where it has not."""
    try:
        canonical(spec, {prefix + key: value})
    except ConfigError:
        names = [name.removeprefix(prefix) for name in (*field_types(spec), *spec.aliases) if name.startswith(prefix)]
        shown = "a search" if is_search(value) else repr(value)
        text = f"{prefix}{key}={shown} has no equivalent here and is left out.{nearest(key, names)}"
        warnings.warn(text, stacklevel=5)
        return False
    return True


def _gpus(wanted: float) -> float:
    import torch

    if torch.cuda.is_available():
        return wanted
    print(f"num_gpus={wanted:g}: there is no GPU, so it runs on the processor.", flush=True)
    return 0


# --- environments ---------------------------------------------------------------------------------------------------


def modern(env: Any) -> Any:
    """An environment as Poise takes it: classes and functions whose environments have Gym's old API are wrapped."""
    if env is None or isinstance(env, str) or not callable(env):
        return env

    def creator(config: dict[str, Any]) -> Any:
        made = call_creator(env, config)
        return OldGymEnv(made) if old_api_sentence(made) else made

    creator.__name__ = creator.__qualname__ = getattr(env, "__name__", type(env).__name__)
    return creator


# --- callbacks ------------------------------------------------------------------------------------------------------


class OldCallbacks(Callback):
    """Calls callbacks of RLlib's as it called them.

    Args:
        on_result: gets the trainer and the result dict.
        on_episode: gets an episode, with `total_reward` and `length`.
    """

    def __init__(
        self, on_result: Callable[[Any, dict[str, Any]], None] | None, on_episode: Callable[[Any], None] | None
    ) -> None:
        self.result, self.episode = on_result, on_episode

    def on_iteration(self, trainer: Any, result: dict[str, Any]) -> None:
        if self.result is not None:
            from poise.tracking.recorder import RunRecorder

            recorders = [c for c in trainer.callbacks if isinstance(c, RunRecorder)]
            token = run_folder.set(recorders[0].folder.path if recorders else None)
            try:
                self.result(trainer, result)
            finally:
                run_folder.reset(token)

    def on_episode_end(self, trainer: Any, episode: Any) -> None:
        if self.episode is not None:
            self.episode(OldEpisode(episode.reward, episode.length))


class OldEpisode:
    """An episode that has ended.

    Attributes:
        total_reward, length: of it.
        custom_metrics, user_data, hist_data: for the callback's own use: Poise takes metrics from infos.
    """

    def __init__(self, total_reward: float, length: int) -> None:
        self.total_reward, self.length = total_reward, length
        self.custom_metrics: dict[str, Any] = {}
        self.user_data: dict[str, Any] = {}
        self.hist_data: dict[str, Any] = {}


def _callbacks(given: Any) -> list[Callback]:
    if not given:
        return []
    if isinstance(given, Mapping):
        on_result, on_episode = given.get("on_train_result"), given.get("on_episode_end")
        others = sorted(set(given) - {"on_train_result", "on_episode_end"})
        made = OldCallbacks(
            on_result and (lambda trainer, result: on_result({"trainer": trainer, "result": result})),
            on_episode and (lambda episode: on_episode({"episode": episode})),
        )
    else:
        from poise.compat.ray.rllib.agents.callbacks import DefaultCallbacks

        own = given() if isinstance(given, type) else given
        changed = {name for name in vars(DefaultCallbacks) if name.startswith("on_")}
        changed = {name for name in changed if getattr(type(own), name) is not getattr(DefaultCallbacks, name)}
        others = sorted(changed - {"on_train_result", "on_episode_end"})
        nobody: dict[str, Any] = {"worker": None, "base_env": None, "policies": {}, "env_index": 0}
        made = OldCallbacks(
            (lambda trainer, result: own.on_train_result(trainer=trainer, result=result))
            if "on_train_result" in changed
            else None,
            (lambda episode: own.on_episode_end(episode=episode, **nobody)) if "on_episode_end" in changed else None,
        )
    for name in others:
        warnings.warn(f"The callback {name} is never called here: see poise.Callback for what there is.", stacklevel=5)
    return [made]
