"""Trainers by name, settings as a dict, and an environment of your own.

Then: `agents.a3c.A2CTrainer`, `agents.dqn.DQNTrainer`, `agents.ppo.PPOTrainer`. Now:
"""

import gymnasium as gym
import numpy as np

import poise


class Walk(gym.Env):
    """Ten steps to the right are worth the most."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-10, 10, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.time = 0
        return np.array([self.place], np.float32), {}

    def step(self, action):
        self.place += 1 if action else -1
        self.time += 1
        return np.array([self.place], np.float32), float(action), self.time == 10, False, {}


with poise.A2C(
    "CartPole-v1"
) as algo:  # on the command line: poise train --run=A2C --env=CartPole-v1
    print(algo.train()["episode_reward_mean"])

config = {
    "gamma": 0.9,
    "lr": 1e-2,
    "train_batch_size": 1000,
    "model": {"fcnet_hiddens": [128, 128]},
}
with poise.PPO("CartPole-v1", config=config, preset=None) as algo:
    print(algo.train()["episode_reward_mean"])

# was: PPOTrainer(env=env_creator(name), config=config) and a loop around trainer.train()
with poise.PPO(Walk) as algo:
    result = algo.learn(stop={"episodes_total": 2000})
print("Mean reward:", result["episode_reward_mean"])
