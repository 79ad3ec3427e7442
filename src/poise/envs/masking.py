"""Action masks that environments report in their info become a part of the observations.

if reports_mask(env):
    env = ActionMaskInObservation(env)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from poise.errors import EnvError, SpaceError
from poise.spaces.masks import INNER, KEY, joined, mask_width


def reports_mask(env: gym.Env) -> bool:
    """Whether an environment reports masks in its info: resets it once and looks."""
    observed = env.observation_space
    has_mask = isinstance(observed, spaces.Dict) and KEY in observed.spaces
    if has_mask or mask_width(env.action_space) is None:
        return False
    try:
        _, info = env.reset()
    except Exception:  # the first reset of an episode will tell it
        return False
    return isinstance(info, Mapping) and info.get(KEY) is not None


class ActionMaskInObservation(gym.Wrapper):
    """Observations are `{"observation": ..., "action_mask": ...}`.

    The mask comes from the info of `reset` and `step`; where that holds none, all is allowed.

    Raises:
        SpaceError: actions of this kind cannot be masked.
        EnvError: (from `reset` and `step`) a mask does not fit the actions.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        width = mask_width(env.action_space)
        if width is None:
            raise SpaceError(
                f"Only Discrete and MultiDiscrete actions can be masked, not {env.action_space}."
            )
        self._all = np.ones(width, np.int8)
        self._mask = self._all
        mask_space = spaces.Box(0, 1, (width,), np.int8)
        self.observation_space = spaces.Dict({INNER: env.observation_space, KEY: mask_space})
        # Offered only where the environment inside can do it, since checkpoints look for them.
        if env.has_wrapper_attr("get_state") and env.has_wrapper_attr("set_state"):
            self.get_state, self.set_state = self._get_state, self._set_state

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_mask(observation, info), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with_mask(observation, info), reward, terminated, truncated, info

    def _with_mask(self, observation: Any, info: Any) -> dict[str, Any]:
        """The observation with the mask of its info, as bytes `[choices]`."""
        mask = info.get(KEY) if isinstance(info, Mapping) else None
        if mask is None:
            self._mask = self._all
        else:
            found = joined(mask).ravel()
            if found.shape != self._all.shape:
                raise EnvError(
                    f"{self.env} gave a mask of {found.size} choices; "
                    f"{self.action_space} has {len(self._all)}."
                )
            self._mask = (found != 0).astype(np.int8)
        return {INNER: observation, KEY: self._mask}

    def _get_state(self) -> dict[str, Any]:
        return {"inner": self.env.get_wrapper_attr("get_state")(), "mask": self._mask}

    def _set_state(self, state: dict[str, Any]) -> dict[str, Any]:
        self._mask = np.asarray(state["mask"], np.int8)
        return {INNER: self.env.get_wrapper_attr("set_state")(state["inner"]), KEY: self._mask}
