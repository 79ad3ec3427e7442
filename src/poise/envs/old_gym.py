"""Environments of the old Gym API: recognising them, and playing them as Gymnasium's.

Before Gym 0.26, `reset()` returned an observation and `step(action)` returned `(obs, reward, done,
info)`; seeds were set by `seed(s)`, and `render(mode=...)` chose its mode when called. Nothing here
imports the `gym` package: its classes are known by what they have.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from poise.errors import EnvError, SpaceError


class OldGymEnv(gym.Env):
    """An environment of the old Gym API as one of Gymnasium's.

        poise.PPO(lambda config: poise.OldGymEnv(MyEnv(config)))

    Every episode is seeded, where the environment has a `seed` method: with the seed that `reset`
    gets, else with one drawn from `np_random`, so that runs repeat and resume exactly. `done`
    becomes `truncated` where the environment's time limit says so in its info, as the `gym`
    package's did, else `terminated`.

    Args:
        env: has `reset`, `step`, `observation_space` and `action_space`; it may have `seed`,
            `render` and `close`.
        render_mode: what `render` shows; by default frames, if the environment's metadata offers
            them.

    Attributes:
        env: the environment of the old API.

    Raises:
        SpaceError: one of its spaces has no counterpart in Gymnasium.
    """

    def __init__(self, env: Any, render_mode: str | None = None) -> None:
        self.env = env
        self.observation_space = convert_space(env.observation_space)
        self.action_space = convert_space(env.action_space)
        old = dict(getattr(env, "metadata", None) or {})
        modes = list(old.get("render_modes") or old.get("render.modes") or [])
        fps = old.get("render_fps") or old.get("video.frames_per_second") or 30
        self.metadata = {"render_modes": modes, "render_fps": fps}
        self.render_mode = render_mode or ("rgb_array" if "rgb_array" in modes else None)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Seeds and begins an episode; the old API knows no `options`, which are left out."""
        super().reset(seed=seed)
        if callable(getattr(self.env, "seed", None)):
            self.env.seed(int(self.np_random.integers(2**31)) if seed is None else seed)
        found = self.env.reset()
        if _is_pair(found) and not isinstance(self.observation_space, spaces.Tuple):
            return found[0], found[1]
        return found, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; five values are Gymnasium's already and stay as they are."""
        found = self.env.step(action)
        if len(found) == 5:
            return found  # type: ignore[no-any-return]
        obs, reward, done, info = found
        truncated = bool(done and info.get("TimeLimit.truncated", False))
        return obs, reward, bool(done) and not truncated, truncated, info

    def render(self) -> Any:
        """What the environment shows in `render_mode`."""
        render = self.env.render
        if "mode" in inspect.signature(render).parameters:
            return render(mode=self.render_mode)
        return render()

    def close(self) -> None:
        if callable(getattr(self.env, "close", None)):
            self.env.close()

    def __str__(self) -> str:
        return f"<OldGymEnv<{self.env}>>"


class OldApi:
    """A mixin that says of a `gymnasium.Env`: it may return four values, whatever `reset` takes."""


def convert_space(space: Any) -> spaces.Space:
    """A space of the old `gym` package, known by its name and attributes, as Gymnasium's.

    Raises:
        SpaceError: it is none of `Box`, `Discrete`, `MultiDiscrete`, `MultiBinary`, `Dict`,
            `Tuple`.
    """
    if isinstance(space, spaces.Space):
        return space
    kind = type(space).__name__.removesuffix("Space")  # some call theirs `BoxSpace`
    try:
        if kind == "Box":
            dtype = np.dtype(space.dtype or np.float32)
            low = np.broadcast_to(space.low, space.shape).astype(dtype)
            high = np.broadcast_to(space.high, space.shape).astype(dtype)
            return spaces.Box(low, high, tuple(map(int, space.shape)), dtype.type)
        if kind == "Discrete":
            return spaces.Discrete(int(space.n), start=int(getattr(space, "start", 0)))
        if kind == "MultiDiscrete":
            return spaces.MultiDiscrete(np.array(space.nvec))
        if kind == "MultiBinary":
            return spaces.MultiBinary(space.n if np.ndim(space.n) else int(space.n))
        if kind == "Dict":
            return spaces.Dict({key: convert_space(inner) for key, inner in space.spaces.items()})
        if kind == "Tuple":
            return spaces.Tuple([convert_space(inner) for inner in space.spaces])
    except AttributeError as error:
        raise SpaceError(
            f"{space!r} looks like a {kind} space of the old gym package, but {error}."
        ) from None
    raise SpaceError(
        f"{space!r} is no space that Poise knows: "
        "use Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple of gymnasium.spaces."
    )


def old_api_sentence(env: Any) -> str | None:
    """What to say of an environment of the old Gym API, as far as that shows before it is played.

    Args:
        env: anything that a user's class or function made.

    Returns:
        The sentence; None for an environment of Gymnasium's, and for what is no environment at all.
    """
    if not isinstance(env, gym.Env):
        parts = ("reset", "step", "observation_space", "action_space")
        looks_old = not isinstance(env, type) and all(hasattr(env, part) for part in parts)
        return _sentence(env, "it is not a gymnasium.Env") if looks_old else None
    if not isinstance(env, OldApi) and takes(env.unwrapped.reset, "seed"):
        return None
    return _sentence(env, "its reset() takes no seed")


class WrongApiError(EnvError):
    """An environment does not return what Gymnasium's interface says; nor would a fresh one."""


def old_reset_sentence(env: gym.Env, found: Any) -> str | None:
    """What to say where `reset` returned `found`: None if that is Gymnasium's `(obs, info)`."""
    pair = isinstance(found, tuple) and len(found) == 2
    if pair and (isinstance(found[1], dict) or not isinstance(env.observation_space, spaces.Tuple)):
        return None
    if found is None or isinstance(found, (str, tuple)):  # these are no observations, either
        return f"reset() of {env_name(env)} must return (obs, info), and returned {_what(found)}."
    return _sentence(env, "its reset() returns only an observation")


def old_step_sentence(env: gym.Env, found: Any) -> str | None:
    """What to say where `step` returned `found`: None if those are Gymnasium's five values."""
    if isinstance(found, tuple) and len(found) == 5:
        return None
    if isinstance(found, tuple) and len(found) == 4:
        return _sentence(env, "its step() returns four values")
    wanted = "(obs, reward, terminated, truncated, info)"
    return f"step() of {env_name(env)} must return {wanted}, and returned {_what(found)}."


def explain_step(env: gym.Env, action: Any, error: BaseException) -> str | None:
    """What to say where one of Gymnasium's wrappers could not unpack a step; else None.

    Wrappers do not tell what they got, so the environment below them is stepped once more: only for
    environments that are given up after `error`.
    """
    if not isinstance(error, (ValueError, TypeError)):
        return None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_by = frames[-1].f_globals.get("__name__", "") if frames else ""
    if not raised_by.startswith(("gymnasium.", "poise.")):
        return None  # it was raised by the user's own code
    try:
        return old_step_sentence(env, env.unwrapped.step(action))
    except Exception:
        return None


def takes(function: Any, keyword: str) -> bool:
    """Whether a function can be called with this keyword; True if its signature cannot be read."""
    try:
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True
    found = parameters.get(keyword)
    by_name = found is not None and found.kind != found.POSITIONAL_ONLY
    return by_name or any(p.kind == p.VAR_KEYWORD for p in parameters.values())


def env_name(env: Any) -> str:
    """The name of the user's class: that of the environment inside all wrappers."""
    return type(getattr(env, "unwrapped", env)).__name__


def _what(found: Any) -> str:
    if found is None:
        return "None"
    return f"{len(found)} values" if isinstance(found, tuple) else f"a {type(found).__name__}"


def _is_pair(found: Any) -> bool:
    return isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], dict)


def _sentence(env: Any, why: str) -> str:
    """What to do with an environment of the old Gym API."""
    name = env_name(env)
    return (
        f"{name} follows the old Gym API ({why}): "
        f"wrap it, env=lambda config: poise.OldGymEnv({name}(config)), or port it to Gymnasium's, "
        "reset(*, seed=None, options=None) -> (obs, info) "
        "and step(action) -> (obs, reward, terminated, truncated, info)."
    )
