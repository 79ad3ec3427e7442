"""The reward function of a goal environment, to be asked what another goal would have been worth.

Goal environments (Gymnasium-Robotics' `GoalEnv`) observe a Dict of `observation`, `achieved_goal`
and `desired_goal`, and say their rewards by `compute_reward(achieved_goal, desired_goal, info)`.
Some also say by `compute_terminated` where an episode would have ended.
"""

from __future__ import annotations

import weakref
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from poise.config.base import env_name
from poise.envs.make import VectorEnvMadeError, make_env
from poise.envs.raised import said
from poise.errors import ConfigError, EnvError
from poise.spaces.layout import Layout, Leaf

ACHIEVED, DESIRED = "achieved_goal", "desired_goal"


def goal_leaves(layout: Layout) -> tuple[Leaf, Leaf]:
    """The achieved and the desired goal among an observation's leaves.

    Raises:
        ConfigError: they are not there, or not alike: an array each, of one shape and type.
    """
    named = {leaf.name.rpartition("/")[2]: leaf for leaf in layout.leaves}
    achieved, desired = named.get(ACHIEVED), named.get(DESIRED)
    if achieved is not None and desired is not None and _kind(achieved) == _kind(desired):
        return achieved, desired
    shown = " ".join(str(layout.space).split())
    raise ConfigError(
        f"her=True needs observations that are a Dict of 'observation', {ACHIEVED!r} and "
        f"{DESIRED!r}, the goals two arrays of one shape and type, not {shown}."
    )


def _kind(leaf: Leaf) -> tuple[Any, ...]:
    return leaf.shape, leaf.dtype


def has_goals(env: gym.Env) -> bool:
    """Whether an environment shows goals and says what they are worth, as HER needs it."""
    space = env.observation_space
    shown = isinstance(space, gym.spaces.Dict) and {ACHIEVED, DESIRED} <= space.spaces.keys()
    return shown and env.has_wrapper_attr("compute_reward")


def goal_fault(env: gym.Env, obs: Any, reward: Any, info: Any) -> str | None:
    """What `compute_reward` says otherwise than a step with this outcome did; None if nothing."""
    try:
        pair = [np.stack([obs[key]] * 2) for key in (ACHIEVED, DESIRED)]
        worth = np.asarray(env.get_wrapper_attr("compute_reward")(*pair, [info, info]))
        if worth.shape == (2,) and np.isclose(worth, reward, rtol=1e-4).all():
            return None
        what = f"returned {worth.tolist()} for two steps at once that had the reward {reward}"
    except Exception as error:
        what = f"raised {said(error)}"
    return (
        f"compute_reward() {what}: her=True gives it many goals at once, [N, ...], and needs the "
        "reward of each, as step() gives it."
    )


class Goals:
    """What reaching a goal is worth, by an environment of its own.

    Args:
        source, env_config: the environment, as a configuration has it. One of them is made, unless
            it is a vector environment that is there already.

    Raises:
        EnvError: it has no `compute_reward`, or none that takes many goals at once, without infos.
    """

    def __init__(self, source: Any, env_config: dict[str, Any]) -> None:
        self.name, self._given = env_name(source), isinstance(source, VectorEnv)
        try:
            self._env: Any = make_env(source, env_config)
            weakref.finalize(self, self._env.close)
        except VectorEnvMadeError as error:
            self._env = getattr(error.env, "envs", [error.env])[0]
        reward = self._find("compute_reward")
        if reward is None:
            raise EnvError(
                f"her=True asks {self.name} what other goals would have been worth, and it has no "
                "compute_reward(achieved_goal, desired_goal, info)."
            )
        self._reward, self._terminated = reward, self._find("compute_terminated")
        self._together = True  # whether compute_terminated takes many goals at once
        if isinstance(self._env, gym.Env) and not self._given:
            try:
                obs, _ = self._env.reset(seed=0)
            except Exception:  # the first reset of an episode will tell it
                return
            layout = Layout(self._env.observation_space)
            shown = layout.flatten(obs)
            self.reward(*(np.stack([shown[leaf.name]] * 2) for leaf in goal_leaves(layout)))

    def _find(self, name: str) -> Any:
        if not isinstance(self._env, gym.Env):  # a native batch
            return getattr(self._env, name, None)
        return self._env.get_wrapper_attr(name) if self._env.has_wrapper_attr(name) else None

    def asked(self, call: Any) -> None:
        """Follows what is asked of all environments (a `Call`), such as another tolerance."""
        if not self._given:
            (call.of if isinstance(self._env, gym.Env) else call.of_batch)(self._env)

    def reward(self, achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        """What steps are worth, `[N]`.

        Args:
            achieved: the goals that they achieved, `[N, ...]`.
            desired: those that they should have.

        Raises:
            EnvError: the environment cannot say.
        """
        n = len(achieved)
        try:
            found = np.asarray(self._reward(achieved, desired, [{}] * n))
        except Exception as error:
            raise EnvError(
                f"compute_reward of {self.name} raised {said(error)}: HER gives it {n} goals at "
                "once, and an empty info for each."
            ) from error
        if found.shape != (n,) or not np.isfinite(found).all():
            what = "which are not all finite" if found.shape == (n,) else f"{list(found.shape)}"
            raise EnvError(
                f"compute_reward of {self.name} must return {n} rewards for {n} goals, and "
                f"returned {found.dtype} numbers, {what}."
            )
        return found.astype(np.float32)

    def terminated(self, achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        """Whether these steps would have ended their episodes, `[N]`; arguments as for `reward`.

        None would, if the environment does not say.
        """
        function, n = self._terminated, len(achieved)
        if function is None:
            return np.zeros(n, np.bool_)
        try:
            if self._together:
                found = np.asarray(function(achieved, desired, [{}] * n))
                if found.shape == (n,):
                    return found.astype(np.bool_)
        except NotImplementedError:  # GoalEnv's own
            self._terminated = None
            return np.zeros(n, np.bool_)
        except Exception:  # such as the truth value of an array
            pass
        self._together = False
        try:
            pairs = zip(achieved, desired, strict=True)
            return np.array([bool(function(*pair, {})) for pair in pairs], np.bool_)
        except Exception as error:
            raise EnvError(f"compute_terminated of {self.name} raised {said(error)}.") from error
