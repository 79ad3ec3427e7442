"""What samplers ask of a batch of environments that survives its failures."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from poise.stepping.failures import Failure


class TolerantVectorEnv(VectorEnv):
    """A batch with NEXT_STEP autoreset that replaces what fails, and whose step is cut in two.

        env.send(actions)                 # the environments begin to step
        ...                               # the caller may do something else
        obs, reward, terminated, truncated, infos = env.recv()

    `step` is both. What `recv` returns is valid until the next `send`.

    Attributes:
        disturbed: whether `lost` or `begun` hold anything since the last step.
        lost: `[num_envs]`, bool: slots whose last step did not happen, because it failed or the
            slot's worker is being replaced.
        begun: `[num_envs]`, bool: slots whose observation begins an episode although none ended
            there.
        failures: what failed, or is odd, since `take_failures` was last called.
        waited: seconds spent only waiting for environments, since the start.
    """

    disturbed: bool = False
    lost: np.ndarray
    begun: np.ndarray
    waited: float = 0.0

    def __init__(
        self, num_envs: int, observation_space: spaces.Space, action_space: spaces.Space
    ) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self.failures: list[Failure] = []

    def seed_of_each(self, seed: int | list[int | None] | None) -> list[int | None]:
        """One seed for each environment: an integer gives `seed, seed + 1, ...`, a list its own."""
        if isinstance(seed, list):
            return list(seed)
        return [None if seed is None else seed + i for i in range(self.num_envs)]

    def take_failures(self) -> list[Failure]:
        """The failures since the last call."""
        taken, self.failures = self.failures, []
        return taken

    def send(self, actions: Any) -> None:
        """Lets all environments begin a step."""
        raise NotImplementedError

    def recv(self) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Waits for the step that `send` began, and returns as `step` does."""
        raise NotImplementedError

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self.send(actions)
        return self.recv()


def numbers_in(info: Mapping[Any, Any]) -> dict[str, float]:
    """The entries of an environment's info that are numbers or truth values."""
    kinds = (bool, int, float, np.bool_, np.integer, np.floating)
    found: dict[str, float] = {}
    for key, value in info.items():
        if isinstance(value, kinds):
            with contextlib.suppress(OverflowError):  # a whole number that no float can hold
                found[str(key)] = float(value)
    return found
