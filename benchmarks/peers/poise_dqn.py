"""Poise's DQN with the preset of the environment; or, with `--episodes`, the task of PyTorch's
tutorial."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
from climb import arguments, climb

import poise


def main() -> None:
    args = arguments()
    settings: dict[str, Any] = {"seed": args.seed, "num_threads": 1, "progress": False}
    if args.episodes:
        with poise.DQN(
            args.env, preset="tutorial", timesteps_per_iteration=200, **settings
        ) as trainer:
            episodes(trainer, args.episodes)
        return
    with poise.DQN(args.env, timesteps_per_iteration=args.every, **settings) as trainer:

        def train(steps: int) -> int:
            return int(trainer.train()["timesteps_total"])

        climb(args, train, lambda obs: np.asarray(trainer.predict(obs)[0]), preset=trainer.preset)


def episodes(trainer: Any, count: int) -> None:
    """Trains for so many episodes and prints one line of JSON.

    On CartPole, returns are durations.
    """
    done, longest = 0, 0.0
    start = time.perf_counter()
    while done < count:
        result = trainer.train()
        done, longest = result["episodes_total"], max(longest, result["episode_reward_max"])
    seconds = time.perf_counter() - start
    steps = result["timesteps_total"]
    line = {
        "episodes": done,
        "steps": steps,
        "train_s": round(seconds, 2),
        "steps_per_s": round(steps / seconds),
    }
    print(json.dumps({**line, "last": result["episode_reward_mean"], "longest": longest}))


if __name__ == "__main__":
    main()
