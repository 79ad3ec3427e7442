"""Settings tuned for an environment, used unless `preset=None`.

Each was measured (see benchmarks/RESULTS.md); what is not named here keeps the algorithm's default.
"""

from __future__ import annotations

from typing import Any

from poise.errors import ConfigError, nearest

_A2C_CARTPOLE = {
    "num_envs_per_worker": 32,
    "rollout_fragment_length": 8,
    "lr": 0.003,
    "gae_lambda": 0.95,
    "grad_clip": 1.0,
    "vf_loss_coeff": 0.25,
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "PPO": {
        "CartPole-v1": {
            "num_envs_per_worker": 96,
            "rollout_fragment_length": 32,
            "sgd_minibatch_size": 512,
            "num_sgd_iter": 6,
            "lr": 0.01,
            "gae_lambda": 0.85,
            "grad_clip": 5.0,
            "model.fcnet_hiddens": [48],
        },
        # Solves it with a linear network too, as tutorials use one: hence normalised observations, whole returns.
        "CartPole-v0": {
            "num_envs_per_worker": 32,
            "rollout_fragment_length": 128,
            "sgd_minibatch_size": 1024,
            "lr": 0.005,
            "gae_lambda": 1.0,
            "normalize_observations": True,
            "model.fcnet_hiddens": [48],
        },
        "Acrobot-v1": {
            "rollout_fragment_length": 256,
            "sgd_minibatch_size": 256,
            "num_sgd_iter": 4,
            "lr": [[0, 0.003], [300_000, 0.0003]],
            "gae_lambda": 0.94,
            "entropy_coeff": 0.01,
            "normalize_observations": True,
            "normalize_rewards": True,
        },
        "Pendulum-v1": {
            "rollout_fragment_length": 128,
            "sgd_minibatch_size": 256,
            "lr": [[0, 0.001], [300_000, 0.0001]],
            "gamma": 0.9,
            "normalize_rewards": True,
        },
        # White noise never leaves the valley: it takes momentum, and that takes noise which lasts.
        "MountainCarContinuous-v0": {
            "num_envs_per_worker": 8,
            "rollout_fragment_length": 256,
            "sgd_minibatch_size": 256,
            "gamma": 0.999,
            "normalize_observations": True,
            "normalize_rewards": True,
            "exploration_correlation": 0.95,
        },
    },
    "A2C": {"CartPole-v0": _A2C_CARTPOLE, "CartPole-v1": _A2C_CARTPOLE},
}


def find_preset(algorithm: str, env: str, preset: str | None) -> tuple[str | None, dict[str, Any]]:
    """The preset's name and its settings; `(None, {})` where there is none or none is wanted.

    Raises:
        ConfigError: a preset was asked for by name and does not exist.
    """
    presets = PRESETS.get(algorithm, {})
    if preset == "auto":
        name = env.split(":")[-1]
        return (name, presets[name]) if name in presets else (None, {})
    if preset in (None, "none"):
        return None, {}
    if preset not in presets:
        known = ", ".join(presets) or "none"
        raise ConfigError(f"{algorithm} has no preset {preset!r}.{nearest(preset, presets)} Known: {known}.")
    return preset, presets[preset]
