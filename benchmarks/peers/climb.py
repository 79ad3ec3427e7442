"""Training until a policy is good: evaluated at fixed numbers of steps, with the clock stopped
meanwhile."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from episodes import play


def arguments() -> argparse.Namespace:
    """The same for every side. Without a goal, training goes on for all its steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", default="InvertedDoublePendulum-v5")
    parser.add_argument(
        "--goal", type=float, default=None, help="mean return of 20 deterministic episodes"
    )
    parser.add_argument(
        "--every", type=int, default=20_480, help="steps from one evaluation to the next"
    )
    parser.add_argument(
        "--confirm", action="store_true", help="100 fresh episodes must reach the goal, too"
    )
    parser.add_argument("--steps", type=int, default=1_000_000, help="where training ends")
    parser.add_argument(
        "--episodes", type=int, default=None, help="of training instead, where a script knows how"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def climb(
    args: argparse.Namespace,
    train: Callable[[int], int],
    act: Callable[[np.ndarray], np.ndarray],
    **more: Any,
) -> None:
    """Trains, evaluates and prints one line of JSON.

    Args:
        args: from `arguments`.
        train: goes on for so many steps and returns the steps so far.
        act: the policy's most likely actions for a batch of observations.
        more: goes into the line.
    """
    steps, seconds, curve = 0, 0.0, []
    final: list[float] = []
    reached = args.goal is None
    while steps < args.steps:
        start = time.perf_counter()
        steps = train(args.every if args.goal is not None else args.steps)
        seconds += time.perf_counter() - start
        if args.goal is not None:
            returns = play(act, args.env, 20_000 + 1_000 * args.seed + len(curve) * 20, episodes=20)
            curve.append(statistics.fmean(returns))
            if curve[-1] >= args.goal:
                final = play(act, args.env, seed=10_000 + 1_000 * args.seed)
                if not args.confirm or statistics.fmean(final) >= args.goal:
                    reached = True
                    break
    else:
        final = play(act, args.env, seed=10_000 + 1_000 * args.seed)
    line = {
        "reached": reached,
        "steps": steps,
        "train_s": round(seconds, 2),
        "steps_per_s": round(steps / seconds),
        "evaluation": statistics.fmean(final),
        "evaluation_std": statistics.stdev(final),
        **more,
    }
    print(json.dumps(line), flush=True)
