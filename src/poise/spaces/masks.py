"""Action masks: which choices are allowed now.

A mask is part of an observation: the key `action_mask` of a `Dict` observation space, with a 1 for
every choice that is allowed and a 0 for every other. For `Discrete(n)` actions it has n numbers;
for `MultiDiscrete(nvec)` ones sum(nvec), those of the first choice first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from poise.errors import EnvError, SpaceError
from poise.spaces.layout import Layout

KEY = "action_mask"
"""The mask's key: in a `Dict` observation, and in the info of environments that report it there."""

INNER = "observation"
"""The key of the observation itself, beside the mask, once an environment is wrapped."""


def mask_width(action_space: gym.Space) -> int | None:
    """How many numbers a mask of these actions has; None where they cannot be masked."""
    if isinstance(action_space, spaces.Discrete):
        return int(action_space.n)
    return int(action_space.nvec.sum()) if isinstance(action_space, spaces.MultiDiscrete) else None


def is_masked(observation_space: gym.Space, action_space: gym.Space) -> bool:
    """Whether observations hold a mask of the actions.

    Raises:
        SpaceError: they hold one of a wrong shape, or one of actions that cannot be masked.
    """
    if not (isinstance(observation_space, spaces.Dict) and KEY in observation_space.spaces):
        return False
    width = mask_width(action_space)
    if width is None:
        raise SpaceError(
            f"Observations hold {KEY!r}, but only Discrete and MultiDiscrete actions can be "
            f"masked, not {action_space}: give that part of the observation another name."
        )
    mask = observation_space[KEY]
    numbers = isinstance(mask, (spaces.Box, spaces.MultiBinary))
    if not numbers or np.prod(mask.shape or (), dtype=int) != width:
        raise SpaceError(
            f"The action mask of {action_space} must be a Box of shape ({width},), not {mask}."
        )
    return True


def stuck(action_space: gym.Space, masks: np.ndarray) -> np.ndarray:
    """Which of the masks `[B, ...]` leave nothing to choose, `[B]` bool."""
    allowed: np.ndarray = masks.reshape(len(masks), -1) != 0
    if isinstance(action_space, spaces.MultiDiscrete):
        sizes = action_space.nvec.ravel()
        # Each choice of its own must leave something.
        allowed = np.logical_or.reduceat(allowed, np.cumsum(sizes) - sizes, axis=1)
        return np.logical_not(allowed.all(axis=1))
    return np.logical_not(allowed.any(axis=1))


def complete(
    observation_space: gym.Space, action_space: gym.Space, observation: Any, mask: Any = None
) -> Any:
    """An observation (or a batch) with its mask, from one that may lack it.

    Args:
        observation_space, action_space: the policy's.
        observation: of that space, with or without its mask. Of a wrapped environment, it may also
            be what the environment inside gives.
        mask: takes the place of the one in the observation. Without any, all actions of a wrapped
            environment are allowed.

    Raises:
        SpaceError: the mask does not fit, or the policy knows no masks.
        EnvError: it allows nothing.
    """
    width = mask_width(action_space)
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {}
    if width is None or KEY not in parts:
        raise SpaceError(
            f"An action mask was given, but there is no {KEY!r} in the observations of this policy."
        )
    shape = parts[KEY].shape or ()
    if isinstance(observation, Mapping) and KEY in observation:
        mask = observation[KEY] if mask is None else mask
    elif set(parts) == {INNER, KEY}:
        if mask is None:
            inner = Layout(parts[INNER])
            leaf = inner.leaves[0]
            batch = np.shape(inner.flatten(observation)[leaf.name])
            mask = np.ones((*batch[: len(batch) - len(leaf.shape)], width), np.int8)
        observation = {INNER: observation}
    if mask is None:
        return observation
    found = joined(mask) if isinstance(action_space, spaces.MultiDiscrete) else np.asarray(mask)
    if found.shape in ((width,), shape):
        found = found.reshape(shape)
    elif found.shape[1:] in ((width,), shape):
        found = found.reshape(-1, *shape)
    else:
        raise SpaceError(
            f"An action mask of shape {found.shape} does not fit: "
            f"{action_space} has {width} choices."
        )
    if stuck(action_space, found.reshape(-1, width)).any():
        raise EnvError("The action mask allows no action.")
    return {**observation, KEY: found}


def joined(mask: Any) -> np.ndarray:
    """One array from a tuple of them, as Gymnasium's `MultiDiscrete.sample` takes masks."""
    if isinstance(mask, tuple):
        return np.concatenate([joined(part) for part in mask], axis=-1)
    return np.asarray(mask)
