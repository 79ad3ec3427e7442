"""One evaluator for all sides: fresh episodes, played with whatever acts."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np


def play(
    act: Callable[[np.ndarray], np.ndarray], env_id: str, seed: int, episodes: int = 100
) -> list[float]:
    """Returns of `episodes` episodes in as many environments, seeded one by one from `seed`.

    Args:
        act: actions for a batch of observations.
        env_id: Gymnasium id.
        seed: of the first environment.
        episodes: how many.
    """
    envs = [gym.make(env_id) for _ in range(episodes)]
    obs = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    returns, running = [0.0] * episodes, list(range(episodes))
    while running:
        actions = act(obs[running])
        going = []
        for i, action in zip(running, actions, strict=True):
            obs[i], reward, terminated, truncated, _ = envs[i].step(action)
            returns[i] += float(reward)
            if not (terminated or truncated):
                going.append(i)
        running = going
    return returns
