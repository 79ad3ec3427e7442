"""Configurations of RLlib's dictionary years as Poise's settings.

A warning tells of everything that is left out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from poise.compat import cluster
from poise.compat.azureml.core.run import folder as run_folder
from poise.config.algorithms import algorithm_spec
from poise.config.hints import setting_hint
from poise.config.resolve import canonical, field_types, resolve
from poise.envs.atari import is_atari
from poise.envs.make import call_creator
from poise.envs.old_gym import OldGymEnv, old_api_sentence
from poise.envs.tables import table_of
from poise.errors import ConfigError, PoiseWarning
from poise.training.callbacks import Callback
from poise.tuning.space import is_search, searches

WITHOUT_EFFECT = {
    "framework", "log_level", "eager_tracing", "log_sys_usage", "fake_sampler",
    "num_cpus_per_worker", "num_cpus_for_driver", "num_gpus_per_worker",
    "custom_resources_per_worker", "create_env_on_driver", "disable_env_checking",
    "ignore_worker_failures", "recreate_failed_workers", "simple_optimizer", "monitor",
    "batch_mode", "compress_observations", "preprocessor_pref", "placement_strategy",
    "tf_session_args", "local_tf_session_args", "_disable_preprocessor_api", "_fake_gpus",
    "render_env", "record_env", "num_data_loader_buffers", "minibatch_buffer_size",
    "max_sample_requests_in_flight_per_worker", "use_critic", "use_gae",
    "lr_schedule", "entropy_coeff_schedule", "store_buffer_in_checkpoints",
}  # fmt: skip
"""Settings that say how RLlib does its work, or ask for what is always done.

The schedules stand here for where they are None.
"""

NESTED = (
    "optimization", "policy_model", "Q_model", "policy_model_config", "q_model_config",
)  # fmt: skip
"""Settings that hold others, of which some may be left out."""

_UNITS = "RLlib's is in the units of actions, Poise's in those in which their bounds are -1 and 1"
ANOTHER_SCALE = {
    "target_noise": _UNITS,
    "target_noise_clip": _UNITS,
    "vf_clip_param": "RLlib's bounds the squared error, Poise's how far a value may move",
}
"""Settings of the same name that mean something else."""


def translated(
    algorithm: str, config: Mapping[str, Any], env: Any = None
) -> tuple[dict[str, Any], list[Callback]]:
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
    for key in NESTED:
        if isinstance(given.get(key), Mapping):
            given.update({f"{key}.{inner}": value for inner, value in given.pop(key).items()})
    for key in ("lr", "entropy_coeff"):
        if (schedule := given.pop(f"{key}_schedule", None)) is not None:
            given[key] = schedule  # in RLlib, too, it wins
    if isinstance(given.get("multiagent"), Mapping):
        given.update(_of_agents(given.pop("multiagent")))
    if given.pop("observation_filter", "NoFilter") == "MeanStdFilter":
        settings["normalize_observations"] = True
    if (horizon := given.pop("horizon", None)) is not None:
        given["env_config"] = {**(given.get("env_config") or {}), "max_episode_steps": horizon}
    spec = algorithm_spec(algorithm)[1].config
    atari = isinstance(settings["env"], str) and is_atari(settings["env"])
    pictures: dict[str, Any] = {}
    asked: int | None = None
    for key, value in given.items():
        if key in WITHOUT_EFFECT:
            continue
        if key in ANOTHER_SCALE:
            if value is not None:
                text = f"{key}={value!r} is left out: {ANOTHER_SCALE[key]}."
                warnings.warn(text, PoiseWarning, stacklevel=4)
        elif key == "num_workers" and isinstance(value, int) and value > 0:
            asked = value
        elif key == "num_gpus" and isinstance(value, (int, float)) and value:
            settings["num_gpus"] = min(value, 1)  # to ask for more is no error here
        elif key == "model" and isinstance(value, Mapping):
            settings["model"], pictures = _model(spec, value, atari=atari)
        elif _known(spec, key, value):
            settings[key] = value
    if (workers := cluster.workers(asked)) is not None and "num_workers" not in settings:
        settings["num_workers"] = workers
    settings |= cluster.settings()
    if pictures:
        settings["env_config"] = {**pictures, **settings.get("env_config", {})}
    return _collected(algorithm, canonical(spec, settings)), callbacks


def _of_agents(multiagent: Mapping[str, Any]) -> dict[str, Any]:
    """RLlib's settings of several agents, as keys of their own; None and defaults are left out."""
    own = {key: value for key, value in multiagent.items() if value not in (None, "env_steps")}
    if callable(own.get("policies_to_train")):
        asked = own["policies_to_train"]
        own["policies_to_train"] = [name for name in own.get("policies", ()) if asked(name)]
    return own


def _collected(algorithm: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what contradicts the size of a batch.

    RLlib collected fragments until it had `train_batch_size` steps. Here a batch is one fragment of
    each environment: where the three contradict each other, the size of the batch counts.
    """
    for key in ("rollout_fragment_length", "num_envs_per_worker"):
        try:
            resolve(algorithm, None, _settled(settings), preset=None)
        except ConfigError as error:
            if "train_batch_size" not in str(error) or key not in settings:
                continue
            batch = f"train_batch_size={settings['train_batch_size']}"
            text = f"{key}={settings[key]!r} is left out: it contradicts {batch}."
            warnings.warn(text, PoiseWarning, stacklevel=5)
            settings = {name: value for name, value in settings.items() if name != key}
    return settings


def _settled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not searched."""
    return {key: value for key, value in settings.items() if not any(searches(value))}


def best_preset(algorithm: str, settings: Mapping[str, Any]) -> str | None:
    """`auto`, or None where the environment's preset and these settings contradict each other."""
    try:
        resolve(algorithm, None, _settled(settings), preset="auto")
    except ConfigError:
        return None
    return "auto"


def _model(
    spec: Any, given: Mapping[str, Any], *, atari: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a model, and those of pictures.

    RLlib had these among them, too; here they are the environment's.
    """
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
        known = (*field_types(spec), *spec.aliases)
        names = [name.removeprefix(prefix) for name in known if name.startswith(prefix)]
        shown = "a search" if is_search(value) else repr(value)
        hint = setting_hint(key, spec.untranslatable, names)
        text = f"{prefix}{key}={shown} has no equivalent here and is left out.{hint}"
        warnings.warn(text, PoiseWarning, stacklevel=5)
        return False
    return True


def modern(env: Any) -> Any:
    """An environment as Poise takes it.

    Classes and functions whose environments have Gym's old API are wrapped.
    """
    if env is None or isinstance(env, str) or not callable(env):
        return env

    def creator(config: dict[str, Any]) -> Any:
        made = call_creator(env, config)
        several = table_of(made) is not None
        return OldGymEnv(made) if not several and old_api_sentence(made) else made

    creator.__name__ = creator.__qualname__ = getattr(env, "__name__", type(env).__name__)
    return creator


class OldCallbacks(Callback):
    """Calls callbacks of RLlib's as it called them.

    Args:
        on_result: gets `trainer` and `result`, its result dict.
        on_episode: gets `episode`, with `total_reward` and `length`.
    """

    def __init__(
        self,
        on_result: Callable[..., None] | None,
        on_episode: Callable[..., None] | None,
    ) -> None:
        self.result, self.episode = on_result, on_episode

    def on_iteration(self, trainer: Any, result: dict[str, Any]) -> None:
        if self.result is not None:
            from poise.tracking.recorder import RunRecorder

            recorders = [c for c in trainer.callbacks if isinstance(c, RunRecorder)]
            token = run_folder.set(recorders[0].folder.path if recorders else None)
            try:
                self.result(trainer=trainer, result=result)
            finally:
                run_folder.reset(token)

    def on_episode_end(self, trainer: Any, episode: Any) -> None:
        if self.episode is not None:
            self.episode(episode=OldEpisode(episode.reward, episode.length))


class OldEpisode:
    """An episode that has ended.

    Attributes:
        total_reward, length: of it.
        custom_metrics, user_data, hist_data: for the callback's own use; Poise takes metrics from
            infos.
    """

    def __init__(self, total_reward: float, length: int) -> None:
        self.total_reward, self.length = total_reward, length
        self.custom_metrics: dict[str, Any] = {}
        self.user_data: dict[str, Any] = {}
        self.hist_data: dict[str, Any] = {}


def _callbacks(given: Any) -> list[Callback]:
    """RLlib's callbacks, a mapping of functions or a class, as one of Poise's."""
    if not given:
        return []
    hooks: dict[str, Any]
    if isinstance(given, Mapping):
        hooks = {name: _with_info(function) for name, function in given.items()}
    else:
        from poise.compat.ray.rllib.agents.callbacks import DefaultCallbacks as Default

        own = given() if isinstance(given, type) else given
        names = [name for name in vars(Default) if name.startswith("on_")]
        changed = [n for n in names if getattr(type(own), n) is not getattr(Default, n)]
        hooks = {name: getattr(own, name) for name in changed}
        if "on_episode_end" in hooks:
            nobody: dict[str, Any] = {"worker": None, "base_env": None, "policies": {}}
            hooks["on_episode_end"] = partial(own.on_episode_end, env_index=0, **nobody)
    made = OldCallbacks(hooks.pop("on_train_result", None), hooks.pop("on_episode_end", None))
    for name in sorted(hooks):
        text = f"The callback {name} is never called here: see poise.Callback for what there is."
        warnings.warn(text, PoiseWarning, stacklevel=5)
    return [made]


def _with_info(function: Any) -> Any:
    """A function as RLlib called it: with one mapping of everything."""
    return function and (lambda **info: function(info))
