"""`stable_baselines3.common.evaluation`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from poise.compat.stable_baselines3.common.monitor import Monitor
from poise.compat.stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecMonitor,
    is_vecenv_wrapped,
)
from poise.errors import PoiseWarning


def evaluate_policy(
    model: Any,
    env: Any,
    n_eval_episodes: int = 10,
    deterministic: bool = True,
    render: bool = False,
    callback: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
    reward_threshold: float | None = None,
    return_episode_rewards: bool = False,
    warn: bool = True,
) -> Any:
    """Plays whole episodes with anything that has a `predict`.

    Each of several environments plays its share, fixed beforehand. Returns and lengths are those of
    the environment's `Monitor`, where it has one, so that wrappers do not change them.

    Returns:
        Mean and standard deviation of the returns; with `return_episode_rewards`, the lists of
        returns and lengths.
    """
    venv: VecEnv = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
    monitored = is_vecenv_wrapped(venv, VecMonitor) or venv.env_is_wrapped(Monitor)[0]
    if warn and not monitored:
        text = (
            "Evaluated without a Monitor: wrappers that change rewards or ends change the result."
        )
        warnings.warn(text, PoiseWarning, stacklevel=2)
    slots = venv.num_envs
    share = np.array([(n_eval_episodes + i) // slots for i in range(slots)])
    returns, lengths = np.zeros(slots), np.zeros(slots, int)
    found: list[tuple[float, int]] = []
    observations, states, starts = venv.reset(), None, np.ones(slots, bool)
    while share.any():
        actions, states = model.predict(
            observations, state=states, episode_start=starts, deterministic=deterministic
        )
        observations, rewards, dones, infos = venv.step(actions)
        starts = dones
        returns += rewards
        lengths += 1
        for i in np.flatnonzero(share):
            reward, done, info = rewards[i], dones[i], infos[i]
            if callback is not None:
                callback(locals(), globals())
            if done and not (monitored and "episode" not in info):  # a life is no episode
                episode = info.get("episode", {"r": returns[i], "l": lengths[i]})
                found.append((float(episode["r"]), int(episode["l"])))
                share[i] -= 1
        returns[dones], lengths[dones] = 0, 0
        if render:
            venv.render("human")
    rewards_of, lengths_of = map(list, zip(*found, strict=True))
    mean, spread = float(np.mean(rewards_of)), float(np.std(rewards_of))
    if reward_threshold is not None:
        assert mean > reward_threshold, (
            f"The mean return is {mean:.2f}, not above {reward_threshold:.2f}."
        )
    return (rewards_of, lengths_of) if return_episode_rewards else (mean, spread)
