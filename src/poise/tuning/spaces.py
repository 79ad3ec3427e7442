"""What is searched where nobody said: the settings that matter most, over ranges that have been good somewhere.

Near those of RL Baselines3 Zoo; widths of batches follow from `rollout_fragment_length`.
"""

from __future__ import annotations

from typing import Any

from poise.tuning.space import choice, loguniform, uniform

_NETWORK = {"model.fcnet_hiddens": choice([[64, 64], [256, 256], [64], [128, 128]])}
_ON_POLICY = {
    "lr": loguniform(1e-4, 1e-2),
    "gamma": choice([0.98, 0.99, 0.995, 0.999]),
    "gae_lambda": uniform(0.85, 1.0),
    "entropy_coeff": choice([0.0, 0.001, 0.01]),
    **_NETWORK,
}

SPACES: dict[str, dict[str, Any]] = {
    "PPO": {
        **_ON_POLICY,
        "num_envs_per_worker": choice([8, 16, 32]),
        "rollout_fragment_length": choice([32, 64, 128, 256]),
        "num_sgd_iter": choice([4, 8, 12]),
        "sgd_minibatch_size": choice([64, 128, 256]),
        "clip_param": choice([0.1, 0.2, 0.3]),
        "normalize_observations": choice([False, True]),
    },
    "A2C": {
        **_ON_POLICY,
        "num_envs_per_worker": choice([8, 16, 32]),
        "rollout_fragment_length": choice([5, 8, 16, 32]),
        "normalize_observations": choice([False, True]),
    },
    "DQN": {
        "lr": loguniform(1e-4, 5e-3),
        "gamma": choice([0.98, 0.99, 0.995]),
        "train_batch_size": choice([32, 64, 128]),
        "training_intensity": choice([4.0, 8.0, 16.0, 32.0]),
        "n_step": choice([1, 3, 5]),
        "target_network_update_freq": choice([250, 500, 1000, 2000]),
        "tau": 1.0,
        "epsilon_timesteps": choice([5_000, 10_000, 25_000, 50_000]),
        "td_error_loss_fn": choice(["huber", "mse"]),
        **_NETWORK,
    },
    "IMPALA": {
        **_ON_POLICY,
        "num_envs_per_worker": choice([8, 16, 32]),
        "rollout_fragment_length": choice([16, 32, 64]),
        "opt_type": choice(["adam", "rmsprop"]),
        "vf_loss_coeff": choice([0.25, 0.5]),
    },
    "APPO": {
        **_ON_POLICY,
        "num_envs_per_worker": choice([16, 32, 64]),
        "rollout_fragment_length": choice([16, 32, 64]),
        "num_sgd_iter": choice([2, 4, 8]),
        "clip_param": choice([0.1, 0.2, 0.3]),
    },
}
"""By algorithm."""
