"""One side of a comparison with several agents: a shared PPO in simple_spread, with equal settings.

It trains as many iterations as each line of its input says, and answers with the environment steps
and the processor time that they took.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

warnings.filterwarnings("ignore")
ENVS, STEPS, BATCH, EPOCHS, MINIBATCH = 8, 125, 1000, 10, 128
HIDDEN, LR = [64, 64], 5e-4


def poise_side() -> Callable[[], int]:
    import poise

    trainer = poise.PPO(
        "mpe2.simple_spread_v3", preset=None, seed=0, progress=False, lr=LR, num_sgd_iter=EPOCHS,
        num_envs_per_worker=ENVS, rollout_fragment_length=STEPS, num_threads=1,
        sgd_minibatch_size=MINIBATCH, model={"fcnet_hiddens": HIDDEN},
    )  # fmt: skip
    return lambda: int(trainer.train()["timesteps_this_iter"])


def rllib_side() -> Callable[[], int]:
    import ray
    import torch
    from mpe2 import simple_spread_v3
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec
    from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
    from ray.tune.registry import register_env

    torch.set_num_threads(1)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    register_env("spread", lambda _: ParallelPettingZooEnv(simple_spread_v3.parallel_env()))
    module = RLModuleSpec(model_config=DefaultModelConfig(fcnet_hiddens=HIDDEN))
    config: Any = (
        PPOConfig()
        .environment("spread")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=1)  # vectors of several are refused
        .multi_agent(policies={"shared"}, policy_mapping_fn=lambda agent, *_, **__: "shared")
        .rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs={"shared": module}))
        .training(
            lr=LR,
            num_epochs=EPOCHS,
            minibatch_size=MINIBATCH * 3,
            train_batch_size_per_learner=BATCH,
        )
        .debugging(seed=0)
    )
    algorithm = config.build_algo()

    def train() -> int:
        before = train.steps
        result = algorithm.train()
        train.steps = int(result["num_env_steps_sampled_lifetime"])
        return train.steps - before

    train.steps = 0
    return train


def main() -> None:
    train = poise_side() if sys.argv[1] == "poise" else rllib_side()
    for line in sys.stdin:
        cpu, wall, steps = time.process_time(), time.perf_counter(), 0
        for _ in range(int(line)):
            steps += train()
        spent = {"cpu": time.process_time() - cpu, "s": time.perf_counter() - wall}
        print(json.dumps({"steps": steps, **spent}), flush=True)


if __name__ == "__main__":
    main()
