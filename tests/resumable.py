"""Environments for tests of resuming; child processes import them: `resumable:Stateful`."""

from __future__ import annotations

import random
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Walk(gym.Env):
    """A random walk of the action and of noise, for a random number of steps; derive `draw`."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    place, now, end = 0.0, 0, 1

    def draw(self) -> float:
        """A number from 0 to 1."""
        raise NotImplementedError

    def observe(self) -> np.ndarray:
        return np.array([self.place, self.now / 10], np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place, self.now, self.end = self.draw(), 0, 8 + int(20 * self.draw())
        return self.observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.now < self.end, "this environment does not step beyond the end of an episode"
        self.place += (2 * int(action) - 1) * self.draw()
        self.now += 1
        return self.observe(), -abs(self.place), self.now >= self.end, False, {}


class Stateful(Walk):
    """Its randomness cannot be replayed, but it can tell and take its whole state.

    It does not come from Gymnasium's generator.
    """

    def __init__(self) -> None:
        self.random = random.Random(0)
        self.trace = np.zeros(3)

    def draw(self) -> float:
        value = self.random.random()
        self.trace = np.append(self.trace[1:], value)
        return value

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        if seed is not None:
            self.random.seed(seed)
        return super().reset(seed=seed, options=options)

    def get_state(self) -> dict[str, Any]:
        version, numbers, gauss = self.random.getstate()
        return {
            "random": [version, list(numbers), gauss],
            "trace": self.trace,
            "walk": {"place": self.place, "now": self.now, "end": self.end},
        }

    def set_state(self, state: dict[str, Any]) -> np.ndarray:
        version, numbers, gauss = state["random"]
        self.random.setstate((version, tuple(numbers), gauss))
        self.trace = np.array(state["trace"])
        self.place, self.now, self.end = (state["walk"][key] for key in ("place", "now", "end"))
        return self.observe()


class Unrepeatable(Walk):
    """It draws from NumPy's global generator: no replay arrives where it was."""

    def draw(self) -> float:
        return float(np.random.random())


class Repeatable(Walk):
    """It draws from its own generator, also in the middle of an episode, as Gymnasium asks."""

    def draw(self) -> float:
        return float(self.np_random.random())
