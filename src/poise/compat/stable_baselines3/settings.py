"""Arguments of Stable-Baselines3's algorithms, with its defaults, as Poise's settings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np

from poise.compat.stable_baselines3.common.noise import ActionNoise
from poise.config.algorithms import algorithm_spec
from poise.config.hints import setting_hint
from poise.config.resolve import canonical, field_types
from poise.config.zoo import DEFAULTS, Reader
from poise.errors import PoiseWarning

_LAST = {
    "stats_window_size": 100, "tensorboard_log": None, "policy_kwargs": None, "verbose": 0,
    "seed": None, "device": "auto", "_init_setup_model": True,
}  # fmt: skip
_SDE = {"use_sde": False, "sde_sample_freq": -1}
_BUFFER = {"rollout_buffer_class": None, "rollout_buffer_kwargs": None}
_REPLAY = {
    "learning_rate": 3e-4, "buffer_size": 1_000_000, "learning_starts": 100, "batch_size": 256,
    "tau": 0.005, "gamma": 0.99, "train_freq": 1, "gradient_steps": 1, "action_noise": None,
    "replay_buffer_class": None, "replay_buffer_kwargs": None, "optimize_memory_usage": False,
    "n_steps": 1,
}  # fmt: skip
_PPO_FIRST = {
    "learning_rate": 3e-4, "n_steps": 2048, "batch_size": 64, "n_epochs": 10, "gamma": 0.99,
    "gae_lambda": 0.95, "clip_range": 0.2, "clip_range_vf": None, "normalize_advantage": True,
    "ent_coef": 0.0, "vf_coef": 0.5, "max_grad_norm": 0.5, **_SDE,
}  # fmt: skip
_TEMPERATURE = {"ent_coef": "auto", "target_update_interval": 1, "target_entropy": "auto"}


def _without(table: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in keys}


ARGUMENTS: dict[str, dict[str, Any]] = {
    "PPO": {**_PPO_FIRST, **_BUFFER, "target_kl": None, **_LAST},
    "A2C": {
        "learning_rate": 7e-4, "n_steps": 5, "gamma": 0.99, "gae_lambda": 1.0, "ent_coef": 0.0,
        "vf_coef": 0.5, "max_grad_norm": 0.5, "rms_prop_eps": 1e-5, "use_rms_prop": True, **_SDE,
        **_BUFFER, "normalize_advantage": False, **_LAST,
    },
    "DQN": {
        **_without(_REPLAY, "action_noise"), "learning_rate": 1e-4, "batch_size": 32, "tau": 1.0,
        "train_freq": 4, "target_update_interval": 10_000, "exploration_fraction": 0.1,
        "exploration_initial_eps": 1.0, "exploration_final_eps": 0.05, "max_grad_norm": 10, **_LAST,
    },
    "SAC": {**_REPLAY, **_TEMPERATURE, **_SDE, "use_sde_at_warmup": False, **_LAST},
    "TD3": {
        **_REPLAY, "learning_rate": 1e-3, "policy_delay": 2, "target_policy_noise": 0.2,
        "target_noise_clip": 0.5, **_LAST,
    },
    "DDPG": {
        **_REPLAY, "learning_rate": 1e-3,
        **{key: _LAST[key] for key in _LAST if key != "stats_window_size"},
    },
    "TQC": {
        **_REPLAY, **_TEMPERATURE, "top_quantiles_to_drop_per_net": 2, **_SDE,
        "use_sde_at_warmup": False, **_LAST,
    },
    "CrossQ": {
        **_without(_REPLAY, "tau"), "learning_rate": 1e-3,
        **_without(_TEMPERATURE, "target_update_interval"), "policy_delay": 3, **_SDE,
        "use_sde_at_warmup": False, **_LAST,
    },
    "RecurrentPPO": {
        **_PPO_FIRST, "n_steps": 128, "batch_size": 128, "target_kl": None, **_LAST,
    },
}  # fmt: skip
"""The arguments after `policy` and `env`, in the order that they have there, with their defaults.

A test compares them with Stable-Baselines3's own signatures.
"""

APART = {
    "seed", "device", "verbose", "tensorboard_log", "_init_setup_model", "exploration_fraction",
    "policy_kwargs", "action_noise", "optimize_memory_usage",
}  # fmt: skip
"""Arguments that are no settings, or are read by themselves."""

NOTHING = (None, -1, False, "auto")
"""Values of arguments that Poise has not by which they ask for nothing."""

Function = Callable[[float], float]


def settings_of(
    algorithm: str, policy: str, given: dict[str, Any], num_envs: int
) -> tuple[dict[str, Any], dict[str, Function]]:
    """Poise's settings for what an algorithm was given; a warning names what is left out.

    Args:
        algorithm: Poise's name of it.
        policy: `MlpPolicy`, `CnnPolicy`, `MultiInputPolicy`, or a recurrent one.
        given: all of its arguments.
        num_envs: environments of the vector environment.

    Returns:
        The settings, and those that are functions of the remaining progress, by Poise's names.
    """
    kind = algorithm_spec(algorithm)[1].config
    names = {*field_types(kind), *kind.aliases, *kind.spellings}
    reader = Reader(algorithm, names.__contains__, is_game=False)
    every = {"policy": policy, **DEFAULTS[algorithm], **given, "n_envs": num_envs}
    every["policy_kwargs"] = _plain_kwargs(given["policy_kwargs"] or {})
    functions: dict[str, Function] = {}
    for key in ("learning_rate", "clip_range"):
        if callable(value := every.get(key)):
            functions[kind.aliases[key]], every[key] = value, float(value(1.0))
    if (buffer := every.get("replay_buffer_class")) is not None:
        every["replay_buffer_class"] = getattr(buffer, "__name__", str(buffer))
    goals = every.get("replay_buffer_kwargs") or {}
    every["replay_buffer_kwargs"] = {k: _goal_name(v) for k, v in goals.items()} or None
    if "episode" in str(every.get("train_freq")) and every["gradient_steps"] != -1:
        reader.leave_out("gradient_steps", every.pop("gradient_steps"))  # after each episode
    for key, value in every.items():
        asks = not (value is None or (key not in names and value in NOTHING))
        if key == "policy_kwargs" or (key not in APART and (asks or key == "noise_type")):
            reader.read(key, value, 0.0)
    if (noise := given.get("action_noise")) is not None:
        _explore(algorithm, noise, reader)
    for each in reader.left_out:
        hint = setting_hint(each.partition("=")[0].rpartition(".")[2], kind.untranslatable, ())
        text = f"{algorithm}: {each} has no equivalent here and is left out.{hint}"
        warnings.warn(text, PoiseWarning, stacklevel=4)
    found = canonical(kind, reader.settings)
    found.pop("env_config", None)
    if algorithm == "PPO":  # there, a minibatch may be larger than the batch that it is of
        batch = int(found["rollout_fragment_length"]) * num_envs
        found["sgd_minibatch_size"] = min(int(found["sgd_minibatch_size"]), batch)
    return found, functions


def _plain_kwargs(given: dict[str, Any]) -> dict[str, Any]:
    """`policy_kwargs` as the Zoo's files have them: classes by their names."""
    plain = {key: value for key, value in given.items() if not key.startswith("features_extractor")}
    if isinstance(activation := plain.get("activation_fn"), type):
        plain["activation_fn"] = activation.__name__
    for key in ("share_features_extractor", "normalize_images"):
        if plain.get(key) is True:
            del plain[key]
    return plain


def _goal_name(value: Any) -> Any:
    """`future` of a `GoalSelectionStrategy.FUTURE`; everything else as it is."""
    return value.name.lower() if isinstance(value, Enum) else value


def _explore(algorithm: str, noise: ActionNoise, reader: Reader) -> None:
    """Takes what an `action_noise` says."""
    if "noise_std" not in DEFAULTS[algorithm]:
        reader.left_out.append(f"action_noise={noise}")
        return
    if np.any(noise.mean):
        reader.left_out.append(f"the mean of action_noise={noise}")
    reader.settings["exploration_correlation"] = noise.correlation
    reader.settings["exploration_noise"] = float(np.mean(noise.deviation))


def gpus_on(device: Any) -> Any:
    """`num_gpus` of Poise's, by the name of a device."""
    return {"cpu": 0, "cuda": 1}.get(str(device).split(":")[0], "auto")
