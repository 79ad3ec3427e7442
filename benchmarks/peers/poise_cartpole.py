"""Poise on CartPole with the settings of `sb3_cartpole.py`, or `--run FOLDER` to evaluate what
`poise train` left.

The first measures the training loop itself; the command line is measured whole, by the benchmark.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import numpy as np
from episodes import play
from report import MAX_STEPS, arguments, report

import poise

ZOO_PPO: dict[str, Any] = {
    "num_envs_per_worker": 8,
    "rollout_fragment_length": 32,
    "sgd_minibatch_size": 256,
    "gae_lambda": 0.8,
    "gamma": 0.98,
    "num_sgd_iter": 20,
    "entropy_coeff": 0.0,
    "lr": 1e-3,
    "clip_param": 0.2,
    "num_threads": 1,
}
A2C_AS_SB3: dict[str, Any] = {
    "num_envs_per_worker": 8,
    "rollout_fragment_length": 5,
    "lr": 7e-4,
    "gamma": 0.99,
    "gae_lambda": 1.0,
    "num_threads": 1,
}


def evaluate(run: str, env: str, seed: int) -> None:
    """Prints the mean return of a run's policy over 100 fresh episodes."""
    trainer = poise.load(run)
    returns = play(lambda obs: np.asarray(trainer.predict(obs)[0]), env, seed=10_000 + 1_000 * seed)
    print(json.dumps({"evaluation": statistics.fmean(returns)}))


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        evaluate(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    args = arguments()
    model = {"fcnet_hiddens": [64, 64], "fcnet_activation": "tanh", "vf_share_layers": False}
    settings = ZOO_PPO if args.algo == "PPO" else A2C_AS_SB3
    trainer = poise.make_trainer(
        args.algo, args.env, preset=None, seed=args.seed, model=model, progress=False, **settings
    )
    start = time.perf_counter()
    result = trainer.learn(
        stop={"episode_reward_mean": args.goal, "timesteps_total": MAX_STEPS}, confirm=False
    )
    train_s = time.perf_counter() - start
    report(
        args,
        lambda obs: np.asarray(trainer.predict(obs)[0]),
        steps=result["timesteps_total"],
        train_s=train_s,
        reward=result["episode_reward_mean"],
        episodes=result["episodes_total"],
    )


if __name__ == "__main__":
    main()
