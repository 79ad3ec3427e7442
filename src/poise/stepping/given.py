"""Vector environments that users make: `gymnasium.make_vec`, EnvPool's, PufferLib's, their own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from poise.envs.instances import claim, release
from poise.envs.raised import is_interrupt, own_traceback, said
from poise.errors import EnvError, PoiseWarning
from poise.spaces.layout import Layout
from poise.spaces.masks import KEY


class GivenVectorEnv(VectorEnv):
    """A user's vector environment, stepped as it is; its returns are checked, its errors name it.

    Its autoreset mode is kept. If it does not reset by itself (DISABLED), the slots whose episodes
    are over are reset after each step, which is SAME_STEP.

    Args:
        env: an environment that follows Gymnasium's `VectorEnv`.
        mine: whether it was made for this batch, and is closed with it.

    Raises:
        EnvError: it has no spaces, gives back only some of its environments, or is played in
            already.
    """

    def __init__(self, env: VectorEnv, *, mine: bool = True) -> None:
        self.env, self._mine = env, mine
        self.name = type(env.unwrapped).__name__
        self.num_envs = int(env.num_envs)
        observed = getattr(env, "single_observation_space", env.observation_space)
        self.single_observation_space, self._layout = observed, Layout(observed)
        self.single_action_space = getattr(env, "single_action_space", env.action_space)
        self._resets = _autoreset_mode(env) == AutoresetMode.DISABLED
        mode = AutoresetMode.SAME_STEP if self._resets else _autoreset_mode(env)
        self.metadata = {**(env.metadata or {}), "autoreset_mode": mode}
        for part in (env, *getattr(env.unwrapped, "envs", ())):
            claim(part, self)

    @property
    def unwrapped(self) -> Any:
        return self.env.unwrapped

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        given = {} if options is None else {"options": options}
        obs, info = self._call("reset", seed=seed, **given)
        self._check(obs)
        space = self.single_observation_space
        observed = isinstance(space, spaces.Dict) and KEY in space.spaces
        if isinstance(info, Mapping) and KEY in info and not observed:
            lost = f"{self.name} reports {KEY!r} in its info, which is not seen there: "
            cure = "make it a key of a Dict observation."
            warnings.warn(lost + cure, PoiseWarning, stacklevel=2)
        return obs, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        found = self._call("step", actions)
        if not (isinstance(found, tuple) and len(found) == 5):
            raise EnvError(
                f"step() of {self.name} must return (obs, reward, terminated, truncated, info)."
            )
        obs, reward, terminated, truncated, info = found
        self._check(obs)
        each = {"reward": reward, "terminated": terminated, "truncated": truncated}
        for name, value in each.items():
            if np.shape(value) != (self.num_envs,):
                raise EnvError(
                    f"step() of {self.name} gave {name} of shape {np.shape(value)}, "
                    f"which must be ({self.num_envs},): one for each environment."
                )
        terminated, truncated = np.asarray(terminated, bool), np.asarray(truncated, bool)
        info = dict(info) if isinstance(info, Mapping) else {}
        over = terminated | truncated
        if over.any():
            if self._resets:
                info = {"final_obs": self._each(obs), "final_info": info}
                obs, _ = self.reset(options={"reset_mask": over})
            elif self.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP:
                if info.get("final_obs") is None:
                    raise EnvError(
                        f"{self.name} resets in the same step, and its info has no 'final_obs'."
                    )
                # Some give a batch, and not one observation for each environment.
                if isinstance(info["final_obs"], (dict, tuple)):
                    info["final_obs"] = self._each(info["final_obs"])
        return obs, np.asarray(reward), terminated, truncated, info

    def _each(self, obs: Any) -> list[Any]:
        """A batch of observations as copies of its elements."""
        leaves = {name: np.array(leaf) for name, leaf in self._layout.flatten(obs).items()}
        return [self._layout.element(leaves, i) for i in range(self.num_envs)]

    def close_extras(self, **kwargs: Any) -> None:
        for part in (self.env, *getattr(self.env.unwrapped, "envs", ())):
            release(part)
        if self._mine:
            self.env.close()

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the environment; what it raises becomes an `EnvError`."""
        try:
            return getattr(self.env, method)(*args, **kwargs)
        except BaseException as error:
            if is_interrupt(error):
                raise
            raise EnvError(
                f"{method}() of the vector environment {self.name} raised {said(error)}. "
                "It is made as a whole, so none of its environments can be replaced.\n"
                f"{own_traceback(error)}"
            ) from error

    def _check(self, obs: Any) -> None:
        """Refuses observations of another shape, which NumPy would silently broadcast."""
        try:
            leaves = self._layout.flatten(obs)
        except (KeyError, IndexError, TypeError):
            raise EnvError(
                f"{self.name} gave observations that are not built as its space says."
            ) from None
        for leaf in self._layout.leaves:
            if np.shape(leaves[leaf.name]) != (self.num_envs, *leaf.shape):
                raise EnvError(
                    f"{self.name} gave an observation {leaf.name!r} of shape "
                    f"{np.shape(leaves[leaf.name])}, but its space says "
                    f"{(self.num_envs, *leaf.shape)} for {self.num_envs} environments."
                )


def _autoreset_mode(env: Any) -> AutoresetMode:
    """The autoreset mode that a vector environment names, else Gymnasium's default."""
    return AutoresetMode((env.metadata or {}).get("autoreset_mode", AutoresetMode.NEXT_STEP))


class EnvCountError(EnvError):
    """A vector environment has another number of environments, `count`, than the configuration."""

    def __init__(self, count: int, configured: int) -> None:
        super().__init__(
            f"The vector environment has {count} environments, "
            f"and the configuration says {configured}: leave num_envs_per_worker out, "
            f"or make one with {configured}."
        )
        self.count = count
