"""Stable-Baselines3's PPO on MuJoCo tasks, with normalised observations and rewards."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import torch
from climb import arguments, climb
from torch import nn

warnings.filterwarnings("ignore")
# SB3 imports its extras if they are there, which takes a second.
for extra in ("tensorboard", "tqdm", "cv2"):
    sys.modules[extra] = None  # type: ignore[assignment]
from stable_baselines3 import PPO  # noqa: E402
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402
from stable_baselines3.common.vec_env import VecNormalize  # noqa: E402

SETTINGS: dict[str, dict[str, Any]] = {
    "InvertedDoublePendulum-v5": {"n_envs": 8, "n_steps": 256, "batch_size": 256, "n_epochs": 10},
    "HalfCheetah-v5": {  # the RL Zoo's, tuned for v4
        "n_envs": 1,
        "n_steps": 512,
        "batch_size": 64,
        "gamma": 0.98,
        "learning_rate": 2.0633e-05,
        "ent_coef": 0.000401762,
        "clip_range": 0.1,
        "n_epochs": 20,
        "gae_lambda": 0.92,
        "max_grad_norm": 0.8,
        "vf_coef": 0.58096,
        "policy_kwargs": {
            "log_std_init": -2,
            "ortho_init": False,
            "activation_fn": nn.ReLU,
            "net_arch": {"pi": [256, 256], "vf": [256, 256]},
        },
    },
}


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)  # the fastest for networks of this size
    settings = dict(SETTINGS[args.env])
    envs = VecNormalize(
        make_vec_env(args.env, n_envs=settings.pop("n_envs"), seed=args.seed),
        gamma=settings.get("gamma", 0.99),
    )
    model = PPO("MlpPolicy", envs, seed=args.seed, device="cpu", **settings)

    def train(steps: int) -> int:
        model.learn(steps, reset_num_timesteps=False)
        return int(model.num_timesteps)

    climb(args, train, lambda obs: model.predict(envs.normalize_obs(obs), deterministic=True)[0])


if __name__ == "__main__":
    main()
