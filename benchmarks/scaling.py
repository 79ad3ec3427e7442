"""How far one learner carries: a model of the cost of a step, and points that check it.

Environments sleep, so that this machine can play a cluster of 32 machines: what a worker's own
machine would compute is measured apart, and the learner does all its work.

    python benchmarks/scaling.py            # 1 to 32 workers, twice each: about 15 minutes
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from typing import Any

import gymnasium as gym
import numpy as np
from common import Record, Results, parser, table
from gymnasium import spaces

import poise

SLEEP_S = 0.02
"""Seconds of a step: a simulator of the slower kind."""
LENGTH = 32
"""Steps of a worker's rollout."""
WORKERS = (1, 2, 4, 8, 16, 32)
COMMON: dict[str, Any] = {
    "preset": None,
    "seed": 0,
    "progress": False,
    "ray_address": "auto",
    "num_envs_per_worker": 1,
    "rollout_fragment_length": LENGTH,
    "num_sgd_iter": 1,
}


class Sleeping(gym.Env):
    """Episodes of 100 steps, each of which sleeps."""

    observation_space = spaces.Box(-1, 1, (8,), np.float32)
    action_space = spaces.Discrete(4)

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps = seconds, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.low, {}

    def step(self, action: Any) -> Any:
        time.sleep(self.seconds)
        self.steps += 1
        return self.observation_space.high, 1.0, False, self.steps == 100, {}


def sleeping(config: dict[str, Any]) -> gym.Env:
    return Sleeping(config["seconds"])


def rate(algorithm: str, workers: int, seconds: float, rounds: int) -> Record:
    """Steps a second of so many workers, and what the learner did meanwhile."""
    settings = {**COMMON, "num_workers": workers, "env_config": {"seconds": seconds}}
    if algorithm == "IMPALA":
        settings["timesteps_per_iteration"] = workers * LENGTH * rounds
        rounds = 1
    with poise.make_trainer(algorithm, sleeping, **settings) as algo:
        algo.train()  # starts, and fills what is sampled ahead
        start, processor, steps = time.perf_counter(), time.process_time(), 0
        waited = 0.0
        for _ in range(rounds):
            result = algo.train()
            steps += result["timesteps_this_iter"]
            waited += result["perf/waiting_share"] * result["time_this_iter_s"]
        took = time.perf_counter() - start
        return {
            "steps_per_s": steps / took,
            "learner_us": (time.process_time() - processor) / steps * 1e6,
            "waited": waited / took,
            "updates_per_s": steps / LENGTH / workers / took,
            "bytes_per_step": result["cluster/bytes_per_step"],
            "lost": result["cluster/rollouts_lost_total"],
        }


def cost(algorithm: str) -> Record:
    """What a step costs where nothing sleeps: one worker's share, and the learner's."""
    found = rate(algorithm, 1, 0.0, 40)
    return {"worker_us": 1e6 / found["steps_per_s"], **found}


def predicted(algorithm: str, workers: int, costs: Record) -> float:
    """Steps a second by the model.

    A worker takes `sleep + w` seconds for a step, and the learner `l`. Samplers that run ahead are
    as fast as the slower of the workers and the learner; those that wait take turns with it.
    """
    step, learner = SLEEP_S + costs["worker_us"] * 1e-6, costs["learner_us"] * 1e-6
    if algorithm == "IMPALA":
        return min(workers / step, 1 / learner)
    return workers / (step + workers * learner)


def carried(costs: Record) -> int:
    """Workers at which the learner takes as long as they: N*."""
    return round((SLEEP_S + costs["worker_us"] * 1e-6) / (costs["learner_us"] * 1e-6))


def tables(costs: dict[str, Record], rows: list[list[str]]) -> str:
    """The section: what a step costs, the points, and the model beyond them."""
    paid = [
        [
            algorithm,
            f"{SLEEP_S * 1e3:.0f} ms",
            f"{found['worker_us']:.0f} µs",
            f"{found['learner_us']:.0f} µs",
            f"{carried(found)}",
            f"{found['bytes_per_step']:.0f}",
        ]
        for algorithm, found in costs.items()
    ]
    far = [
        [f"{n:,}", *(f"{predicted(algorithm, n, costs[algorithm]):,.0f}" for algorithm in costs)]
        for n in (1, 10, 32, 100, 300, 1000)
    ]
    first = ["", "Environment: e", "Worker: w", "Learner: l", "N*", "Bytes a step"]
    headers = [
        "", "Workers", "Steps/s", "Model", "Measured beside model", "Of the ideal",
        "Learner, µs a step", "Share of waiting",
    ]  # fmt: skip
    return (
        f"### What a step costs\n\n{table(first, paid)}\n\n"
        f"### Measured beside the model\n\n{table(headers, rows)}\n\n"
        f"### The model, from 1 to 1,000 workers\n\n"
        f"{table(['Workers', *(f'{a}, steps/s' for a in costs)], far)}"
    )


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=2, help="measurements of each point")
    options.add_argument("--workers", default=",".join(map(str, WORKERS)), help="by comma")
    args = options.parse_args()
    from poise.cluster.token import authenticate

    authenticate(loopback=True)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init(address="local", num_cpus=64, include_dashboard=False, log_to_driver=False)
    results = Results("scaling", quick=args.quick, fresh=args.fresh)
    rows: list[list[str]] = []
    records: list[Record] = []
    costs: dict[str, Record] = {}
    for algorithm in ("IMPALA", "PPO"):
        costs[algorithm] = results.measure(f"{algorithm} cost", lambda a=algorithm: cost(a))
        records.append(costs[algorithm])
        for workers in map(int, args.workers.split(",")):
            found = [
                results.measure(
                    f"{algorithm} {workers} workers, {turn}",
                    lambda a=algorithm, w=workers: rate(a, w, SLEEP_S, 12),
                )
                for turn in range(1 if args.quick else args.turns)
            ]
            records += found
            measured = statistics.mean(each["steps_per_s"] for each in found)
            said = predicted(algorithm, workers, costs[algorithm])
            ideal = workers / SLEEP_S
            rows.append(
                [
                    algorithm,
                    f"{workers}",
                    f"{measured:,.0f}",
                    f"{said:,.0f}",
                    f"{measured / said - 1:+.0%}",
                    f"{measured / ideal:.2f}",
                    f"{statistics.mean(each['learner_us'] for each in found):.0f}",
                    f"{statistics.mean(each['waited'] for each in found):.2f}",
                ]
            )
    results.publish("Scaling: one learner and many workers", tables(costs, rows), records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
