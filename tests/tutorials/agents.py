"""The tutorial on RLlib's agents: its blocks joined, with these repairs and no others.

- Imports are from `poise.compat`.
- The environment `custom_gym`, which the tutorial supposes, is one of its own at the top, with the old API.
- It stops after 200 episodes instead of 10,000.
"""

# ruff: noqa
import sys
import types

import numpy as np

from poise.compat import gym


class CustomEnv0:
    """Walk to the right: an environment of the old API, as `custom_gym` would have it."""

    observation_space = gym.spaces.Box(-10, 10, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, env_config):
        self.place = self.time = 0

    def reset(self):
        self.place = self.time = 0
        return np.array([self.place], np.float32)

    def step(self, action):
        self.place += 1 if action else -1
        self.time += 1
        return np.array([self.place], np.float32), float(action), self.time == 10, {}


module = types.ModuleType("custom_gym.envs.custom_env")
module.CustomEnv0 = module.CustomEnv1 = CustomEnv0
sys.modules.update({"custom_gym": types.ModuleType("custom_gym"), "custom_gym.envs": types.ModuleType("envs")})
sys.modules["custom_gym.envs.custom_env"] = module

from poise.compat import ray
from poise.compat.ray.rllib import agents
ray.init()
trainer = agents.a3c.A2CTrainer(env='CartPole-v0')

trainer = agents.dqn.DQNTrainer(env='CartPole-v0') # Deep Q Network

ray.init() # Skip or set to ignore if already called
config = {'gamma': 0.9,
          'lr': 1e-2,
          'num_workers': 4,
          'train_batch_size': 1000,
          'model': {
              'fcnet_hiddens': [128, 128]
          }}
trainer = agents.ppo.PPOTrainer(env='CartPole-v0', config=config)
results = trainer.train()

def env_creator(env_name):
    if env_name == 'MyEnv-v0':
        from custom_gym.envs.custom_env import CustomEnv0 as env
    elif env_name == 'MyEnv-v1':
        from custom_gym.envs.custom_env import CustomEnv1 as env
    else:
        raise NotImplementedError
    return env

env_name = 'MyEnv-v0'
config = {
    # Whatever config settings you'd like...
    }
trainer = agents.ppo.PPOTrainer(
    env=env_creator(env_name),
    config=config)
max_training_episodes = 200
while True:
    results = trainer.train()
    # Enter whatever stopping criterion you like
    if results['episodes_total'] >= max_training_episodes:
        break
print('Mean Rewards:\t{:.1f}'.format(results['episode_reward_mean']))
