"""Steps a second of a system that trains on Pong, and the memory it takes; one line of JSON.

python pong_rates.py --system "SB3 PPO" --seconds 60
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
import warnings
from collections.abc import Callable
from typing import Any

warnings.filterwarnings("ignore")
ENV = "PongNoFrameskip-v4"


def poise(name: str) -> Callable[[int], int]:
    """Poise with the settings of the others."""
    import poise as library

    small = {"model.conv_filters": [[16, 8, 4], [32, 4, 2]], "model.fcnet_hiddens": [256]}
    settings: dict[str, dict[str, Any]] = {
        "PPO": {"preset": "Atari"},
        "DQN": {
            "preset": "Atari",
            "num_envs_per_worker": 1,
            "rollout_fragment_length": 4,
            "learning_starts": 1000,
        },
        "IMPALA": {
            "preset": "Atari",
            "num_sgd_iter": 1,
            "sgd_minibatch_size": None,
            "train_batch_size": 512,
            **small,
        },
    }
    trainer = getattr(library, name)(ENV, seed=0, progress=False, **settings[name])

    def train(steps: int) -> int:
        before = trainer.algorithm.timesteps
        while trainer.algorithm.timesteps - before < steps:
            trainer.train()
        return int(trainer.algorithm.timesteps - before)

    return train


def sb3(name: str) -> Callable[[int], int]:
    """Stable-Baselines3 with the RL Zoo's settings for Atari; DQN begins to learn at once."""
    import ale_py  # noqa: F401  (registers the games)
    import stable_baselines3 as sb
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    settings: dict[str, dict[str, Any]] = {
        "PPO": {
            "n_steps": 128,
            "n_epochs": 4,
            "batch_size": 256,
            "learning_rate": 2.5e-4,
            "clip_range": 0.1,
        },
        "DQN": {"buffer_size": 100_000, "learning_starts": 1000, "batch_size": 32, "train_freq": 4},
    }
    env = VecFrameStack(make_atari_env(ENV, n_envs=8 if name == "PPO" else 1, seed=0), n_stack=4)
    model = getattr(sb, name)("CnnPolicy", env, device="cpu", seed=0, **settings[name])

    def train(steps: int) -> int:
        before = model.num_timesteps
        model.learn(steps, reset_num_timesteps=False)
        return int(model.num_timesteps - before)

    return train


def rllib(name: str) -> Callable[[int], int]:
    """RLlib with the preprocessing and the small stack of convolutions of its tuned examples for
    Pong."""
    import logging

    import ale_py
    import gymnasium as gym
    import ray
    from ray.rllib.algorithms import impala, ppo
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.rllib.env.wrappers.atari_wrappers import wrap_atari_for_new_api_stack
    from ray.tune.registry import register_env

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)

    def make(_: Any) -> Any:
        gym.register_envs(ale_py)
        return wrap_atari_for_new_api_stack(gym.make(ENV), dim=84, framestack=4)

    register_env("pong", make)
    network = DefaultModelConfig(
        conv_filters=[[16, 8, 4], [32, 4, 2]],
        conv_activation="relu",
        head_fcnet_hiddens=[256],
        vf_share_layers=True,
    )
    config: Any = ppo.PPOConfig() if name == "PPO" else impala.IMPALAConfig()
    config.environment("pong").rl_module(model_config=network)
    if name == "PPO":
        config.env_runners(num_env_runners=0, num_envs_per_env_runner=8)
        config.training(train_batch_size_per_learner=1024, minibatch_size=256, num_epochs=4)
    else:
        config.env_runners(num_env_runners=1, num_envs_per_env_runner=5)
        config.training(train_batch_size_per_learner=500)
    algorithm, done = config.build_algo(), 0

    def train(steps: int) -> int:
        nonlocal done
        before = done
        while done - before < steps:
            done = int(algorithm.train()["env_runners"].get("num_env_steps_sampled_lifetime", done))
        return done - before

    return train


SYSTEMS: dict[str, tuple[Callable[[str], Callable[[int], int]], str]] = {
    f"{library} {name}": (make, name)
    for library, make, names in (
        ("Poise", poise, ("PPO", "DQN", "IMPALA")),
        ("SB3", sb3, ("PPO", "DQN")),
        ("RLlib", rllib, ("PPO", "IMPALA")),
    )
    for name in names
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--system", choices=SYSTEMS, required=True)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    make, name = SYSTEMS[args.system]
    train = make(name)
    train(2048)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < args.seconds:
        steps += train(1024)
    rate = steps / (time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"steps_per_s": round(rate), "memory_mib": memory}), flush=True)
    os._exit(0)  # farewells take time and print


if __name__ == "__main__":
    main()
