"""Hyper-parameters of RL Baselines3 Zoo as presets: a file of theirs (`ppo.yml`), which is read and never run."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poise.errors import ConfigError, nearest

WITHOUT_EFFECT = {"policy", "n_timesteps", "optimize_memory_usage", "use_rms_prop", "frame_stack", "env_wrapper"}
"""What Poise chooses by itself, or what says only how long a run takes."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "PPO": {"n_envs": 1, "n_steps": 2048, "batch_size": 64, "n_epochs": 10, "gamma": 0.99, "gae_lambda": 0.95,
            "clip_range": 0.2, "ent_coef": 0.0, "vf_coef": 0.5, "max_grad_norm": 0.5, "learning_rate": 3e-4},
    "A2C": {"n_envs": 1, "n_steps": 5, "gamma": 0.99, "gae_lambda": 1.0, "ent_coef": 0.0, "vf_coef": 0.5,
            "max_grad_norm": 0.5, "learning_rate": 7e-4},
    "DQN": {"n_envs": 1, "train_freq": 4, "gradient_steps": 1, "batch_size": 32, "buffer_size": 1_000_000,
            "learning_starts": 100, "target_update_interval": 10_000, "tau": 1.0, "gamma": 0.99,
            "max_grad_norm": 10.0, "exploration_initial_eps": 1.0, "exploration_final_eps": 0.05,
            "exploration_fraction": 0.1, "learning_rate": 1e-4, "double_q": False},
}  # fmt: skip
"""What Stable-Baselines3 does where a file of the Zoo says nothing."""
ACTIVATIONS = {"ReLU": "relu", "Tanh": "tanh", "ELU": "elu", "SiLU": "silu", "GELU": "gelu", "LeakyReLU": "leaky_relu"}


def zoo_preset(path: str, algorithm: str, env: str, known: Callable[[str], bool], *, atari: bool) -> dict[str, Any]:
    """Settings for an environment from a file of the Zoo; a warning names those that Poise has nothing for.

    Args:
        path: the YAML file, with an entry for each environment.
        algorithm: what it is for.
        env: which of them.
        atari: whether that is a game, which all share an entry unless they have their own.
        known: whether Poise has a setting of this name.

    Raises:
        ConfigError: the file cannot be read, or has no entry for the environment.
    """
    import yaml

    try:
        entries = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"The preset {path} cannot be read: {' '.join(str(error).split())}") from None
    entry = entries.get(env, entries.get("atari") if atari else None) if isinstance(entries, dict) else None
    if not isinstance(entry, dict):
        names = [str(name) for name in entries] if isinstance(entries, dict) else []
        raise ConfigError(f"The preset {path} has nothing for {env}.{nearest(env, names)}")
    settings: dict[str, Any] = {}
    for key, value in {**DEFAULTS.get(algorithm, {}), **entry}.items():
        try:
            settings.update(_setting(key, value, float(entry.get("n_timesteps") or 0), path, known))
        except (ValueError, TypeError, AttributeError):
            raise ConfigError(f"{key}={value!r} of {path} cannot be read.") from None
    return settings


def _setting(key: str, value: Any, steps: float, path: str, known: Callable[[str], bool]) -> dict[str, Any]:
    """One entry as settings."""
    if key in WITHOUT_EFFECT:
        return {}
    if key == "normalize":
        return dict(_normalize(value))
    if key == "policy_kwargs":
        return {"model": _model(_literal(value), path)}
    if key == "exploration_fraction":
        return {"epsilon_timesteps": int(steps * value)} if steps else {}
    if known(key):
        return {key: _number(value, steps)}
    warnings.warn(f"{key}={value!r} of {path} has no equivalent and is left out.", stacklevel=5)
    return {}


def _number(value: Any, steps: float) -> Any:
    """`lin_0.001` falls from there to 0 over the run; `1e-4` and `1e6`, which YAML takes for texts, are numbers."""
    if not isinstance(value, str):
        return value
    if value.startswith("lin_"):
        return [[0, float(value[4:])], [steps, 0.0]]
    try:
        return float(value)
    except ValueError:
        return value


def _normalize(value: Any) -> dict[str, bool]:
    """`true`, or `{'norm_obs': true, 'norm_reward': false}`."""
    given = _literal(value) if isinstance(value, str) else value
    both = {"norm_obs": bool(given), "norm_reward": bool(given)}
    found = {**both, **given} if isinstance(given, dict) else both
    return {"normalize_observations": bool(found["norm_obs"]), "normalize_rewards": bool(found["norm_reward"])}


def _model(given: Any, path: str) -> dict[str, Any]:
    """`policy_kwargs` as settings of a model."""
    model: dict[str, Any] = {}
    for key, value in given.items():
        if key == "net_arch":
            towers = value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else value
            model["fcnet_hiddens"] = next(iter(towers.values())) if isinstance(towers, dict) else towers
        elif key == "activation_fn" and value in ACTIVATIONS:
            model["fcnet_activation"] = ACTIVATIONS[value]
        elif key == "ortho_init":
            model["initializer"] = "orthogonal" if value else "uniform"
        elif key == "log_std_init":
            model[key] = value
        else:
            warnings.warn(f"policy_kwargs {key}={value!r} of {path} has no equivalent and is left out.", stacklevel=5)
    return model


def _literal(text: Any) -> Any:
    """`dict(net_arch=[64], activation_fn=nn.ReLU)` as values; names become their last word.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(text, str):
        return text

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
            return {str(keyword.arg): value(keyword.value) for keyword in node.keywords}
        if isinstance(node, ast.Dict):
            keys = [ast.literal_eval(key) for key in node.keys if key is not None]
            return dict(zip(keys, map(value, node.values), strict=True))
        if isinstance(node, (ast.List, ast.Tuple)):
            return [value(item) for item in node.elts]
        if isinstance(node, ast.Attribute):
            return node.attr
        return ast.literal_eval(node)

    try:
        return value(ast.parse(text.strip(), mode="eval").body)
    except (ValueError, SyntaxError, TypeError):
        raise ConfigError(f"{text!r} cannot be read: it is neither values nor dict(...) of them.") from None
