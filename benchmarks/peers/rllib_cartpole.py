"""RLlib's PPO or IMPALA on CartPole until the mean of the last 100 training episodes reaches the
goal.

The settings are those of RLlib's own tuned examples for CartPole. Of PPO (`cartpole_ppo.py`): a
linear network of 32 units that policy and value function share. Its environments are stepped in the
driver, which on few cores is the fastest. Of IMPALA (`cartpole_impala.py`): batches of 500, one
process that steps environments beside the learner's.

The learner has one thread: with more, threads wait for each other, the more so the busier the
machine is.
"""

from __future__ import annotations

import logging
import time
import warnings

import numpy as np
import torch
from report import MAX_STEPS, arguments, report

warnings.filterwarnings("ignore")
import ray  # noqa: E402
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig  # noqa: E402
from ray.rllib.algorithms.impala import IMPALAConfig  # noqa: E402
from ray.rllib.algorithms.ppo import PPOConfig  # noqa: E402
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig  # noqa: E402


def ppo() -> AlgorithmConfig:
    """Of `cartpole_ppo.py`."""
    return (
        PPOConfig()
        .env_runners(num_env_runners=0, num_envs_per_env_runner=8)
        .training(lr=0.0003, num_epochs=6, vf_loss_coeff=0.01, train_batch_size_per_learner=2000)
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=[32], fcnet_activation="linear", vf_share_layers=True
            )
        )
    )


def impala() -> AlgorithmConfig:
    """Of `cartpole_impala.py`."""
    return (
        IMPALAConfig()
        .env_runners(num_env_runners=1)
        .training(
            lr=0.0005,
            train_batch_size_per_learner=500,
            grad_clip=40.0,
            grad_clip_by="global_norm",
            vf_loss_coeff=0.05,
            entropy_coeff=0.0,
        )
        .rl_module(model_config=DefaultModelConfig(vf_share_layers=True))
    )


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    cores = 3 if args.algo == "IMPALA" else 2  # by Ray's count: one more for the process that steps
    ray.init(
        num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    config = impala() if args.algo == "IMPALA" else ppo()
    algorithm = config.environment(args.env).debugging(seed=args.seed).build_algo()
    start = time.perf_counter()
    steps = episodes = 0
    reward = float("nan")
    while steps < MAX_STEPS and not (episodes >= 100 and reward >= args.goal):
        if time.perf_counter() - start > args.seconds:
            break
        measured = algorithm.train()["env_runners"]
        steps, episodes = (
            int(measured["num_env_steps_sampled_lifetime"]),
            int(measured["num_episodes_lifetime"]),
        )
        reward = float(measured.get("episode_return_mean", float("nan")))
    train_s = time.perf_counter() - start
    module = algorithm.get_module()
    if args.algo == "IMPALA":  # the driver's own is never brought up to date where others step
        module.set_state(algorithm.learner_group.get_weights()["default_policy"])

    @torch.no_grad()
    def act(obs: np.ndarray) -> np.ndarray:
        out = module.forward_inference({"obs": torch.as_tensor(obs)})
        return out["action_dist_inputs"].argmax(-1).numpy()

    report(args, act, steps=steps, train_s=train_s, reward=reward, episodes=episodes)


if __name__ == "__main__":
    main()
