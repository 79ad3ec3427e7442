"""RLlib's DQN on CartPole with the settings of RLlib's own tuned example (`cartpole_dqn.py`).

The environment is stepped in the driver and with one thread, as in `rllib_cartpole.py`, and for the
same reasons.
"""

from __future__ import annotations

import logging
import warnings

import numpy as np
import torch
from climb import arguments, climb

warnings.filterwarnings("ignore")
import ray  # noqa: E402
from ray.rllib.algorithms.dqn import DQNConfig  # noqa: E402
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig  # noqa: E402


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    config = (
        DQNConfig()
        .environment(args.env)
        .env_runners(num_env_runners=0)
        .debugging(seed=args.seed)
        .reporting(min_sample_timesteps_per_iteration=args.every)
        .training(
            lr=0.0005,
            train_batch_size_per_learner=32,
            replay_buffer_config={
                "type": "PrioritizedEpisodeReplayBuffer",
                "capacity": 50_000,
                "alpha": 0.6,
                "beta": 0.4,
            },
            n_step=(2, 5),
            double_q=True,
            dueling=True,
            epsilon=[(0, 1.0), (25_000, 0.02)],
        )
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=[256],
                fcnet_activation="tanh",
                fcnet_bias_initializer="zeros_",
                head_fcnet_hiddens=[256],
                head_fcnet_bias_initializer="zeros_",
            )
        )
    )
    algorithm = config.build_algo()

    def train(steps: int) -> int:
        return int(algorithm.train()["env_runners"]["num_env_steps_sampled_lifetime"])

    @torch.no_grad()
    def act(obs: np.ndarray) -> np.ndarray:
        actions = algorithm.get_module().forward_inference({"obs": torch.as_tensor(obs)})["actions"]
        return actions.numpy()

    climb(args, train, act)


if __name__ == "__main__":
    main()
