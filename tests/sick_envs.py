"""Environments in which something is wrong, and runs that do not learn for a reason each."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Pole(gym.Wrapper):
    """CartPole in which one thing may be wrong."""

    def __init__(self, config: dict[str, Any]) -> None:
        env = gym.make("CartPole-v1", max_episode_steps=config.get("limit", 500))
        super().__init__(env)
        self.config = config
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)

    def _seen(self, obs: np.ndarray) -> np.ndarray:
        if self.config.get("blind"):
            return np.zeros(4, np.float32)
        return (obs * self.config.get("scale", 1) + self.config.get("offset", 0)).astype(np.float32)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = super().reset(**options)
        return self._seen(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(action)
        if self.np_random.random() < self.config.get("raises", 0):
            raise RuntimeError("the simulator has crashed")
        if pause := self.config.get("burn_s"):
            end = time.thread_time() + pause
            while time.thread_time() < end:
                pass
        reward *= self.config.get("reward", 1.0)
        reward += self.config.get("noise", 0.0) * self.np_random.normal()
        return self._seen(obs), float(reward), terminated, truncated, info


class Later(gym.Env):
    """Choose well at the first step; it is told 30 steps later."""

    observation_space: ClassVar[Any] = spaces.Box(0, 1, (2,), np.float32)
    action_space: ClassVar[Any] = spaces.Discrete(2)

    def __init__(self, config: dict[str, Any]) -> None:
        self.t = self.chosen = 0

    def _seen(self) -> np.ndarray:
        return np.array([self.t == 0, self.t / 30], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.chosen = int(action) if self.t == 0 else self.chosen
        self.t += 1
        over = self.t == 30
        return self._seen(), float(over and self.chosen), over, False, {}


class Push(gym.Env):
    """The nearer a number is to 0, the better; it is far away for those who push hard."""

    observation_space: ClassVar[Any] = spaces.Box(-1, 1, (1,), np.float32)
    action_space: ClassVar[Any] = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, config: dict[str, Any]) -> None:
        self.t = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.uniform(-1, 1, 1).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        obs = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return obs, float(self.np_random.normal()), self.t == 20, False, {}


SMALL: dict[str, Any] = {"num_envs_per_worker": 8, "rollout_fragment_length": 64}
SICK: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "failures": ("PPO", Pole, {**SMALL, "env_config": {"raises": 0.0015}}),
    "returns never vary": ("PPO", Pole, {**SMALL, "env_config": {"reward": 0.0}}),
    "observations never vary": ("PPO", Pole, {**SMALL, "env_config": {"blind": True}}),
    "scale of observations": ("PPO", Pole, {**SMALL, "env_config": {"offset": 3e4}}),
    "scale of rewards": (
        "PPO", Pole,
        {**SMALL, "env_config": {"reward": 1e6}, "model": {"vf_share_layers": True}},
    ),
    "time limits": ("PPO", Pole, {**SMALL, "env_config": {"limit": 5, "noise": 1.0}}),
    "learning rate too low": ("PPO", "CartPole-v1", {**SMALL, "lr": 1e-8}),
    "learning rate too high": ("PPO", "CartPole-v1", {**SMALL, "lr": 0.5}),
    "entropy collapsed": (
        "A2C", "CartPole-v1", {**SMALL, "lr": 0.3, "rollout_fragment_length": 5},
    ),
    "entropy never falls": ("PPO", "CartPole-v1", {**SMALL, "entropy_coeff": 5.0}),
    "too little exploration": (
        "DQN", "MountainCar-v0",
        {"initial_epsilon": 0.0, "final_epsilon": 0.0, "env_config": {"max_episode_steps": 50}},
    ),
    "discount too low": ("PPO", Later, {**SMALL, "gamma": 0.5, "gae_lambda": 0.5}),
    "too few updates": (
        "PPO", "CartPole-v1",
        {"num_envs_per_worker": 64, "rollout_fragment_length": 400, "num_sgd_iter": 1,
         "sgd_minibatch_size": 25600, "timesteps_per_iteration": 0},
    ),
    "values diverge": (
        "DQN", "CartPole-v1",
        {"lr": 0.05, "gamma": 1.0, "target_network_update_freq": 1, "double_q": False,
         "grad_clip": None, "td_error_loss_fn": "mse"},
    ),
    "actions at the bounds": (
        "PPO", Push, {**SMALL, "model": {"log_std_init": 2.0}},
    ),
    "values explain nothing": ("PPO", Push, SMALL),
    "slow environment": ("PPO", Pole, {**SMALL, "env_config": {"burn_s": 0.002}}),
}  # fmt: skip
"""A symptom, and a run that has it: algorithm, environment, settings."""
STEPS = {
    "too few updates": 80_000,
    "slow environment": 6_000,
    "values diverge": 12_000,
    "too little exploration": 20_000,
}
