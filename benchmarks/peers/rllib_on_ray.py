"""RLlib's rate of steps: PPO or IMPALA with two workers on a Ray of two cores.

Settings are those that `benchmarks/on_ray.py` gives Poise. Prints one JSON object.
"""

from __future__ import annotations

import time

begun = time.perf_counter()  # before what takes seconds to import
import json  # noqa: E402
import logging  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402

import torch  # noqa: E402

warnings.filterwarnings("ignore")
import ray  # noqa: E402
from ray.rllib.algorithms.impala import IMPALAConfig  # noqa: E402
from ray.rllib.algorithms.ppo import PPOConfig  # noqa: E402
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig  # noqa: E402
from ray.tune.registry import register_env  # noqa: E402

sys.path.insert(0, sys.argv[1])
from busy import Busy  # noqa: E402
from spent import processor_s  # noqa: E402


def main() -> None:
    _, _, algorithm, env, seconds, settings = sys.argv
    start = begun
    given = json.loads(settings)
    torch.set_num_threads(1)
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    register_env("busy", lambda config: Busy({"burn_us": 2000}))
    envs, length = given["num_envs_per_worker"], given["rollout_fragment_length"]
    config = (IMPALAConfig() if algorithm == "IMPALA" else PPOConfig()).environment(env)
    config = config.env_runners(
        num_env_runners=2, num_envs_per_env_runner=envs, rollout_fragment_length=length
    ).training(train_batch_size_per_learner=2 * envs * length, lr=3e-4)
    if algorithm == "PPO":
        config = config.training(
            num_epochs=given["num_sgd_iter"], minibatch_size=given["sgd_minibatch_size"]
        )
    config = config.rl_module(
        model_config=DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="tanh")
    )
    algo = config.build_algo()
    algo.train()
    ready, spent = time.perf_counter() - start, processor_s()
    before = count(algo.train())
    begin = time.perf_counter()
    while time.perf_counter() - begin < float(seconds):
        after = count(algo.train())
    took = time.perf_counter() - begin
    print(json.dumps({
        "steps_per_s": (after - before) / took,
        "start_s": ready,
        "start_cpu_s": spent,
    }))  # fmt: skip


def count(result: dict) -> int:
    return int(result["env_runners"]["num_env_steps_sampled_lifetime"])


if __name__ == "__main__":
    main()
