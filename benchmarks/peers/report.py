"""What a training script tells the benchmark: its arguments, and one line of JSON at the end."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
from episodes import play

MAX_STEPS = 1_000_000
"""Where a run ends that does not reach its goal."""


def arguments() -> argparse.Namespace:
    """The same for every side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--algo", default="PPO", choices=["PPO", "A2C", "IMPALA"])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument(
        "--goal", type=float, default=475.0, help="mean return of the last 100 training episodes"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of training, at most")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def report(
    args: argparse.Namespace,
    act: Callable[[np.ndarray], np.ndarray],
    *,
    steps: int,
    train_s: float,
    reward: float,
    episodes: int,
) -> None:
    """Evaluates the trained policy and prints the line; the benchmark takes `evaluation_s` off the
    process's time."""
    start = time.perf_counter()
    returns = play(act, args.env, seed=10_000 + 1_000 * args.seed)
    line = {
        "steps": steps,
        "train_s": train_s,
        "reward": reward,
        "reached": episodes >= 100 and reward >= args.goal,
        "evaluation": statistics.fmean(returns),
        "evaluation_s": time.perf_counter() - start,
    }
    print(json.dumps(line), flush=True)
