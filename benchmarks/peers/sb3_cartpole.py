"""Stable-Baselines3 on CartPole until the mean of the last 100 training episodes reaches the goal.

PPO has the RL Zoo's settings for CartPole-v1, A2C the library's defaults with the Zoo's eight
environments; both have the library's networks, two towers 64-64 tanh. The Zoo lets PPO's learning
rate and clip range fall to zero over 100,000 steps; a run that ends at a goal has no known length,
so they stay constant here. As on all sides, no extras are used.
"""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any

import numpy as np
import torch
from report import MAX_STEPS, arguments, report

warnings.filterwarnings("ignore")
# SB3 imports its extras if they are there, which takes a second.
for extra in ("tensorboard", "tqdm", "cv2"):
    sys.modules[extra] = None  # type: ignore[assignment]
from stable_baselines3 import A2C, PPO  # noqa: E402
from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402

ZOO_PPO: dict[str, Any] = {
    "n_steps": 32,
    "batch_size": 256,
    "gae_lambda": 0.8,
    "gamma": 0.98,
    "n_epochs": 20,
    "ent_coef": 0.0,
    "learning_rate": 1e-3,
    "clip_range": 0.2,
}
A2C_DEFAULTS: dict[str, Any] = {"n_steps": 5, "learning_rate": 7e-4}


class Goal(BaseCallback):
    """Ends training at the goal."""

    def __init__(self, goal: float) -> None:
        super().__init__()
        self.goal = goal

    def _on_step(self) -> bool:
        window = self.model.ep_info_buffer  # the last 100 episodes
        return len(window) < 100 or float(np.mean([episode["r"] for episode in window])) < self.goal


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)  # the fastest for networks of this size
    envs = make_vec_env(args.env, n_envs=8, seed=args.seed)
    kind, settings = (PPO, ZOO_PPO) if args.algo == "PPO" else (A2C, A2C_DEFAULTS)
    model = kind("MlpPolicy", envs, seed=args.seed, device="cpu", **settings)
    start = time.perf_counter()
    model.learn(MAX_STEPS, callback=Goal(args.goal))
    train_s = time.perf_counter() - start
    window = [episode["r"] for episode in model.ep_info_buffer]
    report(
        args,
        lambda obs: model.predict(obs, deterministic=True)[0],
        steps=model.num_timesteps,
        train_s=train_s,
        reward=float(np.mean(window)),
        episodes=len(window),
    )


if __name__ == "__main__":
    main()
