"""Environments whose observations lack the velocities, so that it takes a memory to act well.

    poise.PPO("CartPoleNoVel-v1", model={"memory": "gru"})

Their names, and what they hide, are those of RL Baselines3 Zoo: numbers that tell how fast
something moves are 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from poise.errors import EnvError

VELOCITIES: dict[str, tuple[int, ...]] = {
    "CartPole-v1": (1, 3),
    "MountainCar-v0": (1,),
    "MountainCarContinuous-v0": (1,),
    "Pendulum-v1": (2,),
    "LunarLander-v3": (2, 3, 5),
    "LunarLanderContinuous-v3": (2, 3, 5),
}
"""Where the velocities are in the observations of Gymnasium's environments."""


class HideVelocities(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """Sets some numbers of an observation to 0.

    Args:
        env: whose observations are a `Box` with one axis.
        hidden: where these numbers are; unless given, as in `VELOCITIES`.

    Raises:
        EnvError: it is not known where they are, or there is no such place.
    """

    def __init__(self, env: gym.Env, hidden: Sequence[int] | None = None) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, hidden=hidden)
        super().__init__(env)
        name = env.spec.id if env.spec else type(env.unwrapped).__name__
        places, space = VELOCITIES.get(name) if hidden is None else hidden, env.observation_space
        if places is None:
            raise EnvError(
                f"It is not known where the velocities of {name} are: give hidden, their indices."
            )
        size = len(space.low) if isinstance(space, spaces.Box) and len(space.shape) == 1 else 0
        if any(not -size <= i < size for i in places):
            raise EnvError(
                f"hidden={list(places)} are no places in the observations of {name}: {space}."
            )
        self._shown = np.ones(size, space.dtype)  # type: ignore[arg-type]
        self._shown[list(places)] = 0

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation * self._shown


def make(hides: str, render_mode: str | None = None) -> gym.Env:
    """An environment of `VELOCITIES` without them, and without a time limit."""
    made = gym.make(hides, max_episode_steps=-1, disable_env_checker=True, render_mode=render_mode)
    return HideVelocities(made)


def register() -> None:
    """Adds `CartPoleNoVel-v1` and its siblings to Gymnasium's registry."""
    for name in VELOCITIES:
        base, _, version = name.rpartition("-")
        known, hiding = gym.spec(name), f"{base}NoVel-{version}"
        if hiding not in gym.registry:
            gym.register(
                hiding,
                "poise.envs.velocities:make",
                reward_threshold=known.reward_threshold,
                max_episode_steps=known.max_episode_steps,
                kwargs={"hides": name},
            )
