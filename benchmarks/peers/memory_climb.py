"""PPO with a memory until it is good where velocities are hidden: Poise, or SB3-contrib with the
settings of RL Baselines3 Zoo.

    python memory_climb.py --side poise --env CartPoleNoVel-v1 --goal 475

Evaluations stop the clock; processor time is counted beside it, since a machine may be busy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

warnings.filterwarnings("ignore")
HIDDEN = {"CartPole-v1": [1, 3], "Pendulum-v1": [2]}
Act = Callable[[np.ndarray, Any, np.ndarray], tuple[np.ndarray, Any]]


class Hiding(gym.ObservationWrapper):
    """Sets velocities to 0."""

    def observation(self, observation: np.ndarray) -> np.ndarray:
        hidden = observation.copy()
        hidden[HIDDEN[self.env.spec.id]] = 0
        return hidden


def make(env_id: str) -> gym.Env:
    return Hiding(gym.make(env_id.replace("NoVel", "")))


def play(act: Act, env_id: str, seed: int, episodes: int) -> list[float]:
    """Returns of episodes in as many environments, seeded one by one from `seed`."""
    envs = [make(env_id) for _ in range(episodes)]
    obs = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    returns, running, state = [0.0] * episodes, set(range(episodes)), None
    start = np.ones(episodes, bool)
    while running:
        actions, state = act(obs, state, start)
        start = np.zeros(episodes, bool)
        for i in sorted(running):
            obs[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
            returns[i] += float(reward)
            if terminated or truncated:
                running.discard(i)
    return returns


def poise_side(args: argparse.Namespace) -> tuple[Callable[[int], int], Act]:
    import poise

    model = {"memory": None if args.side == "poise-without" else "gru"}
    trainer = poise.PPO(args.env, seed=args.seed, progress=False, model=model)

    def train(steps: int) -> int:
        return int(trainer.learn(total_timesteps=steps)["timesteps_total"])

    def act(obs: np.ndarray, state: Any, start: np.ndarray) -> tuple[np.ndarray, Any]:
        actions, state = trainer.predict(obs, state, start)
        return np.asarray(actions), state

    return train, act


def contrib_side(args: argparse.Namespace) -> tuple[Callable[[int], int], Act]:
    import torch
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)  # the fastest for networks of this size
    model: dict[str, Any] = {
        "policy_kwargs": {
            "ortho_init": False, "activation_fn": torch.nn.ReLU, "lstm_hidden_size": 64,
            "enable_critic_lstm": True, "net_arch": {"pi": [64], "vf": [64]},
        }
    }  # fmt: skip
    if args.env.startswith("CartPole"):
        count = 8
        model |= {
            "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20,
            "learning_rate": lambda left: 1e-3 * left, "clip_range": lambda left: 0.2 * left,
        }  # fmt: skip
    else:
        count = 4
        model |= {
            "n_steps": 1024, "gamma": 0.9, "n_epochs": 10, "learning_rate": 1e-3,
            "use_sde": True, "sde_sample_freq": 4,
        }  # fmt: skip
    envs = make_vec_env(lambda: make(args.env), n_envs=count, seed=args.seed)
    normalized = args.env.startswith("CartPole")
    if normalized:
        envs = VecNormalize(envs)
    made = RecurrentPPO("MlpLstmPolicy", envs, seed=args.seed, device="cpu", **model)
    made._update_current_progress_remaining = lambda steps, _: setattr(
        made, "_current_progress_remaining", max(0.0, 1.0 - steps / args.steps)
    )

    def train(steps: int) -> int:
        made.learn(steps, reset_num_timesteps=False)
        return int(made.num_timesteps)

    def act(obs: np.ndarray, state: Any, start: np.ndarray) -> tuple[np.ndarray, Any]:
        seen = envs.normalize_obs(obs) if normalized else obs
        actions, after = made.predict(seen, state, start, deterministic=True)
        return actions, after

    return train, act


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=["poise", "poise-without", "contrib"], required=True)
    parser.add_argument("--env", default="CartPoleNoVel-v1")
    parser.add_argument("--goal", type=float, default=475, help="mean of 20 greedy episodes")
    parser.add_argument("--every", type=int, default=5000, help="steps between evaluations")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train, act = contrib_side(args) if args.side == "contrib" else poise_side(args)
    steps, wall, cpu, curve, reached, best = 0, 0.0, 0.0, [], False, -np.inf
    final: list[float] = []
    while steps < args.steps and not reached:
        began = time.perf_counter(), time.process_time()
        steps = train(min(args.every, args.steps - steps))
        wall, cpu = wall + time.perf_counter() - began[0], cpu + time.process_time() - began[1]
        returns = play(act, args.env, 20_000 + 1000 * args.seed + 20 * len(curve), 20)
        curve.append([steps, statistics.fmean(returns)])
        print(f"{steps}: {curve[-1][1]:.1f} after {cpu:.1f} s", file=sys.stderr, flush=True)
        if (hit := curve[-1][1] >= args.goal) or steps >= args.steps:
            final = play(act, args.env, 10_000 + 1000 * args.seed, 100)
            reached = hit and statistics.fmean(final) >= args.goal
        best = max(best, curve[-1][1])
    line = {
        "reached": reached, "steps": steps, "train_s": round(wall, 2), "cpu_s": round(cpu, 2),
        "evaluation": statistics.fmean(final), "best": best, "curve": curve,
    }  # fmt: skip
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
