"""Stable-Baselines3's SAC, or SBX's, with the RL Zoo's settings for the task."""

from __future__ import annotations

import os
import warnings
from typing import Any

import gymnasium as gym
from climb import arguments, climb

warnings.filterwarnings("ignore")
SETTINGS: dict[str, dict[str, Any]] = {
    "Pendulum-v1": {"learning_rate": 1e-3},
    "InvertedDoublePendulum-v5": {"learning_starts": 1000},
    "LunarLanderContinuous-v3": {
        "learning_rate": lambda left: 7.3e-4 * left,
        "buffer_size": 1_000_000,
        "tau": 0.01,
        "learning_starts": 10_000,
        "policy_kwargs": {"net_arch": [400, 300]},
    },
}
LENGTHS = {"LunarLanderContinuous-v3": 500_000}
"""Steps over which a learning rate falls; evaluations end before."""


def main() -> None:
    args = arguments()
    if os.environ.get("SIDE") == "sbx":
        from sbx import SAC

        device = {}
    else:
        import torch
        from stable_baselines3 import SAC

        torch.set_num_threads(1)  # the fastest for networks of this size
        device = {"device": "cpu"}
    model = SAC("MlpPolicy", gym.make(args.env), seed=args.seed, **device, **SETTINGS[args.env])
    if whole := LENGTHS.get(args.env):
        # Training comes in parts, and a schedule goes by the share of the whole that is left.
        model._update_current_progress_remaining = lambda steps, _: setattr(
            model, "_current_progress_remaining", 1.0 - steps / whole
        )

    def train(steps: int) -> int:
        model.learn(steps, reset_num_timesteps=False)
        return int(model.num_timesteps)

    climb(args, train, lambda obs: model.predict(obs, deterministic=True)[0])


if __name__ == "__main__":
    main()
