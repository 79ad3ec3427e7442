"""Trains a model with Stable-Baselines3, saves it, and says what it does with observations.

python sb3_models.py KIND FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3

KEYS = {"z": spaces.Box(-1, 1, (2,)), "a": spaces.Discrete(3), "m": spaces.MultiBinary(2)}
SPACES = {
    "dict": (spaces.Dict(KEYS), spaces.MultiDiscrete([2, 3])),
    "bytes": (spaces.Box(0, 255, (6,), np.uint8), spaces.Box(np.float32([-1, 0]), 5.0)),
    "picture": (spaces.Box(0, 255, (36, 40, 3), np.uint8), spaces.Discrete(4)),
}


class Given(gym.Env):
    """An environment of such spaces, whose observations are drawn from them."""

    def __init__(self, kind: str) -> None:
        self.observation_space, self.action_space = SPACES[kind]
        self.observation_space.seed(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 1.0, False, False, {}


OWN = {"net_arch": {"pi": [32], "vf": [48, 16]}, "activation_fn": torch.nn.ReLU}
KINDS = {
    "ppo": lambda: PPO("MlpPolicy", "CartPole-v1", n_steps=64),
    "ppo-box": lambda: PPO("MlpPolicy", "Pendulum-v1", n_steps=64, policy_kwargs=OWN),
    "ppo-dict": lambda: PPO("MultiInputPolicy", Given("dict"), n_steps=64),
    "ppo-bytes": lambda: PPO("MlpPolicy", Given("bytes"), n_steps=64),
    "ppo-picture": lambda: PPO("CnnPolicy", Given("picture"), n_steps=16, batch_size=16),
    "a2c": lambda: A2C("MlpPolicy", "CartPole-v1"),
    "dqn": lambda: DQN("MlpPolicy", "CartPole-v1", learning_starts=10),
    "dqn-picture": lambda: DQN("CnnPolicy", Given("picture"), buffer_size=60, learning_starts=10),
    "sac": lambda: SAC("MlpPolicy", "Pendulum-v1", learning_starts=10),
    "td3": lambda: TD3("MlpPolicy", "Pendulum-v1", learning_starts=10),
    "ddpg": lambda: DDPG("MlpPolicy", "Pendulum-v1", learning_starts=10),
    "sde": lambda: PPO("MlpPolicy", "Pendulum-v1", n_steps=64, use_sde=True),
}


def main(kind: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = KINDS[kind]()
    model.learn(24 if "picture" in kind else 140)
    model.save(Path(folder) / "model")
    space = model.observation_space if "picture" not in kind else SPACES["picture"][0]
    space.seed(1)
    seen = [space.sample() for _ in range(40)]
    # As a batch, which both sides compute alike.
    batch = (
        {key: np.stack([each[key] for each in seen]) for key in seen[0]}
        if isinstance(seen[0], dict)
        else np.stack(seen)
    )
    action, _ = model.predict(batch, deterministic=True)
    found = {"action": action}
    tensors, _ = model.policy.obs_to_tensor(batch)
    with torch.no_grad():
        if hasattr(model.policy, "predict_values"):
            found["value"] = model.policy.predict_values(tensors).numpy()[:, 0]
        elif hasattr(model, "critic"):
            scaled = torch.from_numpy(model.policy.scale_action(action))
            found["q"] = np.stack([q.numpy()[:, 0] for q in model.critic(tensors, scaled)])
            target = model.critic_target(tensors, scaled)
            found["q_target"] = np.stack([q.numpy()[:, 0] for q in target])
        else:
            found["q"] = model.q_net(tensors).numpy()
            found["q_target"] = model.q_net_target(tensors).numpy()
    if "log_ent_coef" in vars(model):
        found["log_alpha"] = model.log_ent_coef.detach().numpy()
    parts = batch if isinstance(batch, dict) else {"obs": batch}
    np.savez(
        Path(folder) / "found.npz", **found, **{f"seen_{key}": part for key, part in parts.items()}
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
