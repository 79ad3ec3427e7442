"""`gym` as it was before 0.26: `reset()` returns an observation, `step()` four values.

All else is Gymnasium's.
"""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium import Env, Space, Wrapper, spaces
from gymnasium.envs.registration import register

from poise.compat.gym import wrappers
from poise.envs.video import make_filmed_env

__all__ = ["Env", "OldEnv", "Space", "Wrapper", "make", "register", "spaces", "wrappers"]


class OldEnv:
    """A Gymnasium environment with the old methods.

    It is made anew when it is used after `close()`.

    Args:
        env_id, settings: as for `gym.make`.
    """

    def __init__(self, env_id: str, settings: dict[str, Any]) -> None:
        self._id, self._settings = env_id, settings
        env = make_environment(env_id, settings)
        self._env: gymnasium.Env | None = env
        self._seed: int | None = None
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.spec, self.metadata = env.spec, env.metadata
        self.reward_range = -float("inf"), float("inf")

    def __repr__(self) -> str:
        return f"<{self._id}, with the old API>"

    @property
    def unwrapped(self) -> gymnasium.Env:
        """The environment without wrappers."""
        return self._open().unwrapped

    def _open(self) -> gymnasium.Env:
        if self._env is None:
            self._env = make_environment(self._id, self._settings)
            self._env.reset()
        return self._env

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Seeds the next `reset` and the action space."""
        self._seed = seed
        self.action_space.seed(seed)
        return [seed]

    def reset(self) -> Any:
        """The first observation of an episode."""
        seed, self._seed = self._seed, None
        return self._open().reset(seed=seed)[0]

    def step(self, action: Any) -> tuple[Any, float, bool, dict[str, Any]]:
        """Observation, reward, whether the episode is over, and the info.

        The info says `TimeLimit.truncated` where a time limit ended the episode.
        """
        obs, reward, terminated, truncated, info = self._open().step(action)
        if truncated:
            info = {**info, "TimeLimit.truncated": not terminated}
        return obs, float(reward), bool(terminated or truncated), info

    def render(self, mode: str = "rgb_array") -> Any:
        """A frame; there is no window."""
        return self._open().render()

    def close(self) -> None:
        """Gives its resources back; whatever is called next makes it anew."""
        if self._env is not None:
            self._env.close()
            self._env = None


def make(env_id: str, **settings: Any) -> OldEnv:
    """`gym.make`: an environment of Gymnasium's with the old methods.

    Raises:
        EnvError: there is none of this name.
    """
    return OldEnv(env_id, settings)


def make_environment(env_id: str, settings: dict[str, Any]) -> gymnasium.Env:
    """Gymnasium's environment, which renders frames where it can."""
    return make_filmed_env(env_id, settings)
