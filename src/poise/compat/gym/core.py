"""Gym's `Env` and wrappers, and Gymnasium's environments with Gym's methods."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from poise.compat.gym.eras import values_taken
from poise.compat.gym.utils import seeding
from poise.envs.old_gym import OldApi, OldGymEnv, old_api_sentence
from poise.errors import PoiseWarning

_said: set[str] = set()


def say_once(sentence: str) -> None:
    """A warning that comes once in a process, however many environments it is about."""
    if sentence not in _said:
        _said.add(sentence)
        warnings.warn(sentence, PoiseWarning, stacklevel=3)


class Env(gymnasium.Env[Any, Any]):
    """Base of a script's own environments, of either API.

    Beside what Gymnasium's has, there are `seed`, `reward_range`, and a `np_random` that also knows
    the methods of NumPy's older generator.
    """

    reward_range: tuple[float, float] = (-float("inf"), float("inf"))

    def seed(self, seed: int | None = None) -> list[Any]:
        """Seeds `np_random`."""
        self.np_random, used = seeding.np_random(seed)
        return [used]

    @property
    def np_random(self) -> Any:
        """Where the environment draws its random numbers."""
        if not isinstance(self._np_random, seeding.RandomNumberGenerator):
            self._np_random = seeding.RandomNumberGenerator(super().np_random.bit_generator)
        return self._np_random

    @np_random.setter
    def np_random(self, value: Any) -> None:
        self._np_random, self._np_random_seed = value, -1


class OldEnv(OldApi, Env):
    """An environment of Gymnasium's with Gym's methods.

    `step` returns four or five values, and `reset` an observation or a pair, as the line that calls
    takes them (see `poise.compat.gym.eras`); where that does not show, as the line before did.
    Attributes are those of the environment inside, which is made anew when it is used after
    `close()`, if it can be.

    Args:
        env: an environment of Gymnasium's.
        remake: makes it again.
        five: whether `step` returns five values where nothing tells.
        mode: how `render()` renders where it is not told.
    """

    _env: Any
    _remake: Any
    _five: bool
    _mode: str | None
    _seed: int | None
    _closed: bool
    _inside: Any

    def __init__(
        self,
        env: gymnasium.Env,
        *,
        remake: Callable[[], gymnasium.Env] | None = None,
        five: bool = False,
        mode: str | None = None,
    ) -> None:
        own = self.__dict__  # past __setattr__, which sets what the environment inside has
        own.update(_env=env, _remake=remake, _five=five, _mode=mode, _seed=None, _closed=False)
        own.update(observation_space=env.observation_space, action_space=env.action_space)
        own.update(spec=env.spec, metadata=env.metadata, render_mode=mode, _inside=None)

    def __repr__(self) -> str:
        return f"<{self._env}, with Gym's API>"

    __str__ = __repr__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_env":
            raise AttributeError(name)
        if name in ("nS", "nA") and not self._env.has_wrapper_attr(name):
            space = self.observation_space if name == "nS" else self.action_space
            return int(space.n)  # type: ignore[attr-defined]
        return self._env.get_wrapper_attr(name)

    def __setattr__(self, name: str, value: Any) -> None:
        mine = name in self.__dict__ or hasattr(type(self), name)
        if mine or not self._env.set_wrapper_attr(name, value, force=False):
            super().__setattr__(name, value)

    @property
    def modern(self) -> gymnasium.Env:
        """The environment inside, as Gymnasium has it; made anew if it was closed."""
        if self._closed and self._remake is not None:
            self._env = self._remake()
            self._env.reset()
        self._closed = False
        return self._env  # type: ignore[no-any-return]

    @property
    def unwrapped(self) -> Any:
        """The environment without wrappers: a script's own as it is, others with Gym's methods."""
        core = self.modern.unwrapped
        if isinstance(core, OldGymEnv):
            return core.env.unwrapped if hasattr(core.env, "unwrapped") else core.env
        if self._env is core:
            return self
        if self._inside is None or self._inside.modern is not core:
            self._inside = OldEnv(core, five=self._five)
        return self._inside

    @property
    def env(self) -> Any:
        """The same: of Gymnasium's own wrappers, nothing is to be seen here."""
        return self.unwrapped

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Seeds the next `reset` and the action space."""
        self._seed = seed
        self.action_space.seed(seed)
        return [seed]

    def reset(
        self, *, seed: int | None = None, return_info: bool | None = None, options: Any = None
    ) -> Any:
        """The first observation of an episode; with the info beside it, if the line takes two."""
        seed, self._seed = self._seed if seed is None else seed, None
        obs, info = self.modern.reset(seed=seed, options=options)
        if return_info is None and values_taken() == 2:
            if np.shape(obs) == (2,) and not self._five:
                text = "`a, b = env.reset()` takes an observation and an info, not two numbers."
                say_once(text)
            self._five = True
        return (obs, info) if (self._five if return_info is None else return_info) else obs

    def step(self, action: Any) -> Any:
        """Observation, reward, whether the episode is over, and the info.

        The info says `TimeLimit.truncated` where a time limit ended the episode. If the line takes
        five values, they are Gymnasium's.
        """
        obs, reward, terminated, truncated, info = self.modern.step(action)
        if (count := values_taken()) in (4, 5):
            self._five = count == 5
        if self._five:
            return obs, reward, terminated, truncated, info
        if truncated:
            info = {**info, "TimeLimit.truncated": not terminated}
        return obs, float(reward), bool(terminated or truncated), info

    def render(self, mode: str | None = None, **_: Any) -> Any:
        """What the environment looks like: a frame, a text, or a window where there is a display.

        Args:
            mode: `rgb_array`, `ansi`, or `human`, which prints the text of an environment that has
                one.
        """
        core = self.modern.unwrapped
        modes = (core.metadata or {}).get("render_modes") or []
        mode = mode or self._mode or "human"
        printed = mode == "human" and "ansi" in modes
        if mode == "human" and not printed and not has_display():
            say_once("There is no display here: render(mode='rgb_array') returns frames.")
            return None
        before, core.render_mode = core.render_mode, "ansi" if printed else mode
        try:
            found = self.modern.render()
        finally:
            core.render_mode = before
        if printed and isinstance(found, str):
            print(found)
            return None
        return found

    def close(self) -> None:
        """Gives its resources back; whatever is called next makes it anew."""
        if not self._closed:
            self._env.close()
            self._closed = True


def has_display() -> bool:
    """Whether a window could be opened; where none can, environments render without one."""
    shown = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if sys.platform == "linux" and not shown:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("MUJOCO_GL", "egl")
        return False
    return True


def modern(env: Any) -> gymnasium.Env:
    """Any environment as Gymnasium's wrappers take it."""
    if isinstance(env, OldEnv):
        return env.modern
    if old_api_sentence(env):
        return OldGymEnv(env)
    return env  # type: ignore[no-any-return]


def takes_five(env: Any) -> bool:
    """Whether an environment's `step` returns five values where nothing tells."""
    return bool(env._five) if isinstance(env, OldEnv) else not old_api_sentence(env)


class Wrapper(OldApi, Env):
    """Base of a script's own wrappers: what they do not change is the environment's.

    Methods may follow either API, as the environment inside does.

    Args:
        env: any environment.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.metadata, self.spec = env.metadata, env.spec
        self.reward_range = getattr(env, "reward_range", Env.reward_range)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{self.env}>"

    __str__ = __repr__

    @property
    def unwrapped(self) -> Any:
        """The environment inside all wrappers."""
        return self.env.unwrapped

    def seed(self, seed: int | None = None) -> list[Any]:
        """Seeds the environment."""
        return list(self.env.seed(seed) or [seed])

    def reset(self, **kwargs: Any) -> Any:
        """What the environment's returns."""
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        """What the environment's returns."""
        return self.env.step(action)

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """What the environment's returns."""
        return self.env.render(*args, **kwargs)

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()


class ObservationWrapper(Wrapper):
    """Changes observations by the method `observation`."""

    def reset(self, **kwargs: Any) -> Any:
        """Resets, with the observation changed."""
        found = self.env.reset(**kwargs)
        if isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], dict):
            return self.observation(found[0]), found[1]
        return self.observation(found)

    def step(self, action: Any) -> Any:
        """Steps, with the observation changed."""
        obs, *rest = self.env.step(action)
        return self.observation(obs), *rest

    def observation(self, observation: Any) -> Any:
        """The observation to give in place of one."""
        raise NotImplementedError


class ActionWrapper(Wrapper):
    """Changes actions by the method `action`."""

    def step(self, action: Any) -> Any:
        """Steps with the action changed."""
        return self.env.step(self.action(action))

    def action(self, action: Any) -> Any:
        """The action to take in place of one."""
        raise NotImplementedError


class RewardWrapper(Wrapper):
    """Changes rewards by the method `reward`."""

    def step(self, action: Any) -> Any:
        """Steps, with the reward changed."""
        obs, reward, *rest = self.env.step(action)
        return obs, self.reward(reward), *rest

    def reward(self, reward: Any) -> Any:
        """The reward to give in place of one."""
        raise NotImplementedError
