"""A script as Stable-Baselines3's documentation has them, by either library.

It trains, evaluates 20 episodes and prints a record: `python sb3_script.py poise PPO CartPole-v1`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
import warnings
from typing import Any

import torch

ROOTS = {"poise": "poise.compat.stable_baselines3", "sb3": "stable_baselines3"}


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("side", choices=ROOTS)
    options.add_argument("algorithm")
    options.add_argument("env")
    options.add_argument("--steps", type=int, required=True)
    options.add_argument("--seed", type=int, required=True)
    args = options.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)  # the fastest for networks of this size
    root = ROOTS[args.side]
    algorithm: Any = getattr(importlib.import_module(root), args.algorithm)
    make_vec_env: Any = importlib.import_module(f"{root}.common.env_util").make_vec_env
    evaluate: Any = importlib.import_module(f"{root}.common.evaluation").evaluate_policy

    begun = time.process_time()
    env = make_vec_env(args.env, n_envs=1, seed=args.seed)
    model = algorithm("MlpPolicy", env, seed=args.seed, device="cpu")
    model.learn(total_timesteps=args.steps)
    spent = time.process_time() - begun
    score, _ = evaluate(model, make_vec_env(args.env, n_envs=1, seed=1000 + args.seed), 20)
    print(json.dumps({"score": float(score), "cpu_s": spent, "steps": int(model.num_timesteps)}))


if __name__ == "__main__":
    main()
