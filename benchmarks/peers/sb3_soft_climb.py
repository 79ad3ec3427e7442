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
"""Steps over which a learning rate falls."""


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
    whole = LENGTHS.get(args.env)

    def train(steps: int) -> int:
        if whole:  # the learning rate falls by the share of this that is left
            steps = min(steps, whole - model.num_timesteps)
            model._setup_learn = _to(model, whole)
        model.learn(steps, reset_num_timesteps=False)
        return int(model.num_timesteps)

    climb(args, train, lambda obs: model.predict(obs, deterministic=True)[0])


def _to(model: Any, whole: int) -> Any:
    """SB3's `_setup_learn`, with the whole run's length as what progress is measured by."""
    setup = type(model)._setup_learn.__get__(model)

    def with_length(*args: Any, **kwargs: Any) -> Any:
        found = setup(*args, **kwargs)
        model.progress_length = whole
        model._update_current_progress_remaining = lambda steps, _: setattr(
            model, "_current_progress_remaining", 1.0 - steps / whole
        )
        return found

    return with_length


if __name__ == "__main__":
    main()
