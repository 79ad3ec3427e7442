"""One side of a comparison of speed: trains as many steps as each line of its input says, and
answers with the seconds that they took."""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

warnings.filterwarnings("ignore")
START, LR, BATCH, HIDDEN = 200, 3e-4, 256, 256
"""The same for all: SB3's defaults, one environment, one gradient step for each of its steps."""

Train = Callable[[int], Any]


def poise_side(name: str, env: str, threads: int, options: dict[str, Any]) -> Train:
    import poise

    made = poise.make_trainer(
        name, env, preset=None, seed=0, progress=False, lr=LR, learning_starts=START,
        train_batch_size=BATCH, num_threads=threads, timesteps_per_iteration=50,
        model={"fcnet_hiddens": [HIDDEN, HIDDEN]}, **options,
    )  # fmt: skip

    def train(steps: int) -> None:
        end = made.algorithm.timesteps + steps
        while made.algorithm.timesteps < end:
            made.train()

    return train


def sb3_side(name: str, env: str, threads: int, options: dict[str, Any]) -> Train:
    import gymnasium as gym
    import torch

    if threads:
        torch.set_num_threads(threads)
    if name in ("TQC", "CrossQ"):
        import sb3_contrib as library
    else:
        import stable_baselines3 as library
    kind = getattr(library, name)
    made = kind(
        "MlpPolicy", gym.make(env), learning_rate=LR, learning_starts=START, batch_size=BATCH,
        seed=0, device="cpu", policy_kwargs={"net_arch": [HIDDEN, HIDDEN]}, **options,
    )  # fmt: skip
    return lambda steps: made.learn(steps, reset_num_timesteps=False)


def sbx_side(name: str, env: str, threads: int, options: dict[str, Any]) -> Train:
    import gymnasium as gym
    import sbx

    made = getattr(sbx, name)(
        "MlpPolicy", gym.make(env), learning_rate=LR, learning_starts=START, batch_size=BATCH,
        seed=0, policy_kwargs={"net_arch": [HIDDEN, HIDDEN]}, **options,
    )  # fmt: skip
    return lambda steps: made.learn(steps, reset_num_timesteps=False)


SIDES = {"poise": poise_side, "sb3": sb3_side, "sbx": sbx_side}


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--side", choices=SIDES, required=True)
    options.add_argument("--name", required=True)
    options.add_argument("--env", required=True)
    options.add_argument("--threads", type=int, default=0)
    options.add_argument("--options", type=json.loads, default={})
    args = options.parse_args()
    train = SIDES[args.side](args.name, args.env, args.threads, args.options)
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        start, spent = time.perf_counter(), time.process_time()
        train(int(line))
        took = {"s": time.perf_counter() - start, "cpu": time.process_time() - spent}
        print(json.dumps(took), file=answers, flush=True)


if __name__ == "__main__":
    main()
