"""Environment steps a second while PPO learns, and where the time goes; one line of JSON with all
cells."""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from typing import Any

import torch
from busy import CELLS, Busy

warnings.filterwarnings("ignore")
ENVS, STEPS, BATCH, EPOCHS = 8, 128, 256, 10
SHARES = ("env", "waiting", "inference", "learning")
CHOSEN = ("0 µs, vector", "100 µs, vector", "2 ms, vector")


def poise(workers: Any, config: dict[str, Any], seconds: float) -> dict[str, Any]:
    """PPO of Poise; steps a second and the shares of its results."""
    from poise.api import make_trainer

    settings: dict[str, Any] = {
        "num_envs": ENVS // (workers if isinstance(workers, int) and workers else 1),
        "num_workers": workers,
    }
    batches: dict[str, Any] = {
        "rollout_fragment_length": STEPS,
        "sgd_minibatch_size": BATCH,
        "num_sgd_iter": EPOCHS,
    }
    fixed: dict[str, Any] = {"preset": None, "seed": 0, "num_threads": 1, "progress": False}
    with make_trainer("PPO", Busy, env_config=config, **fixed, **settings, **batches) as trainer:
        trainer.train()
        chosen = trainer.config.num_workers
        results: list[dict[str, Any]] = []
        start = time.perf_counter()
        while not results or time.perf_counter() - start < seconds:
            results.append(trainer.train())
        taken = time.perf_counter() - start
    shares = {key: sum(r[f"perf/{key}_share"] for r in results) / len(results) for key in SHARES}
    return {
        "rate": sum(r["timesteps_this_iter"] for r in results) / taken,
        "chose": str(chosen),
        **shares,
    }


def sb3(kind: str, config: dict[str, Any], seconds: float) -> dict[str, float]:
    """PPO of Stable-Baselines3 with the same settings."""
    from stable_baselines3 import PPO
    from stable_baselines3.common import vec_env

    torch.set_num_threads(1)
    made = [lambda: Busy(config)] * ENVS
    env = vec_env.SubprocVecEnv(made, "fork") if kind == "Subproc" else vec_env.DummyVecEnv(made)
    model = PPO(
        "MlpPolicy", env, n_steps=STEPS, batch_size=BATCH, n_epochs=EPOCHS, seed=0, device="cpu"
    )
    model.learn(ENVS * STEPS)
    steps, start = 0, time.perf_counter()
    while not steps or time.perf_counter() - start < seconds:
        model.learn(ENVS * STEPS, reset_num_timesteps=False)
        steps += ENVS * STEPS
    taken = time.perf_counter() - start
    env.close()
    return {"rate": steps / taken}


SYSTEMS = {
    "Poise, in this process": lambda c, s: poise(0, c, s),
    "Poise, 1 worker": lambda c, s: poise(1, c, s),
    "Poise, 2 workers": lambda c, s: poise(2, c, s),
    "Poise, auto": lambda c, s: poise("auto", c, s),
    "SB3 PPO, Dummy": lambda c, s: sb3("Dummy", c, s),
    "SB3 PPO, Subproc": lambda c, s: sb3("Subproc", c, s),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--system", choices=SYSTEMS, required=True)
    parser.add_argument("--seconds", type=float, default=1.0)
    args = parser.parse_args()
    found = {name: SYSTEMS[args.system](CELLS[name], args.seconds) for name in CHOSEN}
    print(json.dumps({"cells": found}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
