"""Environments with one fault each, for the checks that must find it. `Sound` has none."""

from __future__ import annotations

import ctypes
import os
import random
import sys
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Sound(gym.Env):
    """A walk in the plane with noise; it ends near the edge.

    All others differ from it in one thing.
    """

    observation_space: spaces.Space = spaces.Box(-10.0, 10.0, (2,), np.float32)
    action_space: spaces.Space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1, 2)
        self.steps = 0
        return self.look(), {}

    def look(self) -> Any:
        return self.place.astype(np.float32)

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.place = self.place + 2 * action + 0.1 * self.np_random.standard_normal(2)
        over = bool(np.abs(self.place).max() > 5)
        self.place = np.clip(self.place, -10, 10)
        return self.look(), float(-np.abs(self.place).sum()), over, False, {}


class Named(Sound):
    """Its actions are discrete."""

    action_space = spaces.Discrete(4)

    def step(self, action: Any) -> Any:
        moves = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
        return super().step(moves[action])


# Making, spaces.


class FailsToStart(Sound):
    def __init__(self) -> None:
        raise FileNotFoundError("no map.txt")


class ExitsAtStart(Sound):
    def __init__(self) -> None:
        sys.exit(3)


class NoSpaces(Sound):
    observation_space = None  # type: ignore[assignment]
    action_space = 2  # type: ignore[assignment]


class TextSpace(Sound):
    observation_space = spaces.Text(5)

    def look(self) -> Any:
        return "abc"


class NanBounds(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-10.0, 10.0, (2,), np.float32)
        self.observation_space.low[1] = np.nan


class SwappedBounds(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space.low[0], self.action_space.high[0] = 1.0, -1.0


class EmptySpace(Sound):
    observation_space = spaces.Dict({"a": spaces.Box(-10, 10, (2,)), "b": spaces.Box(-1, 1, (0,))})

    def look(self) -> Any:
        return {"a": super().look(), "b": np.zeros(0, np.float32)}


class UnboundedActions(Sound):
    action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class OtherSpaces(Sound):
    made = 0

    def __init__(self) -> None:
        super().__init__()
        OtherSpaces.made += 1
        self.action_space = spaces.Box(-1.0, 1.0 + OtherSpaces.made, (2,), np.float32)


# Resetting, stepping.


class NoSeed(Sound):
    def reset(self) -> tuple[Any, Any]:  # type: ignore[override]
        return super().reset()


class NoOptions(Sound):
    def reset(self, *, seed: int | None = None) -> tuple[Any, Any]:  # type: ignore[override]
        return super().reset(seed=seed)


class ResetsToObservation(Sound):
    def reset(self, **kwargs: Any) -> Any:  # type: ignore[override]
        return super().reset(**kwargs)[0]


class InfoIsNone(Sound):
    def reset(self, **kwargs: Any) -> Any:  # type: ignore[override]
        return super().reset(**kwargs)[0], None


class FourValues(Sound):
    def step(self, action: Any) -> Any:
        obs, reward, over, _, info = super().step(action)
        return obs, reward, over, info


class ThreeValues(Sound):
    def step(self, action: Any) -> Any:
        return super().step(action)[:3]


class RewardIsArray(Sound):
    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        return (obs, np.array([reward, 0.0]), *rest)


class RewardIsNan(Sound):
    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return (obs, float("nan"), *rest)


class FlagIsNone(Sound):
    def step(self, action: Any) -> Any:
        obs, reward, over, _, info = super().step(action)
        return obs, reward, over, None, info


class FlagIsInt(Sound):
    def step(self, action: Any) -> Any:
        obs, reward, over, _, info = super().step(action)
        return obs, reward, int(over), False, info


class Raises(Sound):
    def step(self, action: Any) -> Any:
        if self.steps == 2:
            return 1 / 0
        return super().step(action)


class Exits(Sound):
    def step(self, action: Any) -> Any:
        sys.exit("enough")


class RaisesInReset(Sound):
    def reset(self, **kwargs: Any) -> Any:  # type: ignore[override]
        return {}["start"]


# Observations.


class WrongShape(Sound):
    def look(self) -> Any:
        return super().look()[:, None]


class Float64(Sound):
    def look(self) -> Any:
        return self.place.copy()


class IsList(Sound):
    def look(self) -> Any:
        return super().look().tolist()


class NotFinite(Sound):
    def look(self) -> Any:
        obs = super().look()
        obs[1] = np.nan
        return obs


class OutOfBounds(Sound):
    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)


class OutOfDiscrete(Named):
    observation_space = spaces.Discrete(3)

    def look(self) -> Any:
        return min(self.steps, 3)


class FloatsAsWhole(Named):
    observation_space = spaces.MultiDiscrete([9, 9])

    def look(self) -> Any:
        return np.array([0.5, 1.5])


class ImageOfFloats(Named):
    observation_space = spaces.Box(0, 255, (4, 4, 3), np.uint8)

    def look(self) -> Any:
        return np.full((4, 4, 3), 0.3)


class DarkImage(ImageOfFloats):
    def look(self) -> Any:
        return (np.indices((4, 4, 3)).sum(0) % 2).astype(np.uint8)


class ChannelsElsewhere(ImageOfFloats):
    def look(self) -> Any:
        return np.zeros((3, 4, 4), np.uint8)


class LacksKey(Sound):
    observation_space = spaces.Dict(
        {"here": spaces.Box(-10, 10, (2,)), "goal": spaces.Box(-1, 1, (2,))}
    )

    def look(self) -> Any:
        return {"here": super().look()}


class NotTuple(Sound):
    observation_space = spaces.Tuple([spaces.Box(-10, 10, (2,)), spaces.Discrete(2)])


# Actions, buffers.


class CornerFails(Sound):
    def step(self, action: Any) -> Any:
        assert (action < 1).all(), "too far"
        return super().step(action)


class ChangesAction(Sound):
    def step(self, action: Any) -> Any:
        action *= 0.5
        return super().step(action)


class ChangesOldAction(Sound):
    last: Any = None

    def step(self, action: Any) -> Any:
        if self.last is not None:
            self.last += 0.1
        self.last = action
        return super().step(action)


class ReusesBuffer(Sound):
    def reset(self, **kwargs: Any) -> Any:  # type: ignore[override]
        self.buffer = np.zeros(2, np.float32)
        return super().reset(**kwargs)

    def look(self) -> Any:
        self.buffer[:] = self.place
        return self.buffer


# Seeds, sharing.


class NoSeeding(Sound):
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Any]:
        return super().reset()


class Remembers(Sound):
    episodes = 0

    def reset(self, **kwargs: Any) -> Any:  # type: ignore[override]
        obs, info = super().reset(**kwargs)
        self.episodes += 1
        return obs / np.float32(self.episodes), info


class GlobalNumpy(Sound):
    def reset(self, **kwargs: Any) -> Any:  # type: ignore[override]
        super().reset(**kwargs)
        self.place = np.random.uniform(-1, 1, 2)
        return self.look(), {}


class GlobalRandom(Sound):
    def step(self, action: Any) -> Any:
        return super().step(action * np.float32(random.random()))


class AlwaysTheSame(Sound):
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Any]:
        return super().reset(seed=0)


class Shares(Sound):
    walls: list[int] = []  # noqa: RUF012

    def reset(self, **kwargs: Any) -> Any:  # type: ignore[override]
        self.walls.clear()
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        self.walls.append(1)
        obs, _, *rest = super().step(action)
        return (obs, float(len(self.walls)), *rest)


class DrawsWhenMade(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.wind = np.random.default_rng().uniform()

    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        return (obs, reward + self.wind, *rest)


# Episodes.


class NeverEnds(Sound):
    def step(self, action: Any) -> Any:
        obs, reward, *_ = super().step(action)
        return obs, reward, False, False, {}


class ClockAsCliff(Sound):
    def step(self, action: Any) -> Any:
        obs, reward, *_ = super().step(action)
        return obs, reward, self.steps >= 10, False, {}


class ResetsItself(Sound):
    def reset(self, **kwargs: Any) -> Any:  # type: ignore[override]
        super().reset(**kwargs)
        self.place = np.zeros(2)
        return self.look(), {}

    def step(self, action: Any) -> Any:
        obs, reward, over, _, info = super().step(action)
        return (self.reset()[0] if over else obs), reward, over, False, info


# Rendering, speed, memory.


class Goals(Sound):
    """It has goals, and what they are worth is its reward: that has no fault."""

    observation_space = spaces.Dict(
        observation=Sound.observation_space,
        achieved_goal=Sound.observation_space,
        desired_goal=Sound.observation_space,
    )

    def look(self) -> Any:
        shown = super().look()
        nowhere = np.zeros(2, np.float32)
        return {"observation": shown, "achieved_goal": shown.copy(), "desired_goal": nowhere}

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return -np.abs(achieved - desired).sum(-1)


class OneGoalAtATime(Goals):
    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return -float(np.abs(achieved - desired).sum())


class OtherWorth(Goals):
    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return super().compute_reward(achieved, desired, info) + 100


class GoalsByInfo(Goals):
    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return super().compute_reward(achieved, desired, info) - info["cost"]


class RendersFloats(Sound):
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def render(self) -> Any:
        return np.zeros((8, 8, 3))


class RendersNothing(RendersFloats):
    def render(self) -> Any:
        return None


class RendersGrey(RendersFloats):
    def render(self) -> Any:
        return np.zeros((8, 8), np.uint8)


class ForgetsMode(RendersFloats):
    def __init__(self) -> None:
        super().__init__()


class SlowReset(Sound):
    def reset(self, **kwargs: Any) -> Any:  # type: ignore[override]
        time.sleep(0.03)
        return super().reset(**kwargs)


class Leaks(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.history: list[bytes] = []

    def step(self, action: Any) -> Any:
        self.history.append(bytes(20_000))
        return super().step(action)


class FailsToClose(Sound):
    def close(self) -> None:
        raise RuntimeError("already closed")


# The end of the process.


class Dies(Sound):
    def step(self, action: Any) -> Any:
        if self.steps == 3:
            os._exit(3)
        return super().step(action)


class Crashes(Sound):
    def step(self, action: Any) -> Any:
        ctypes.string_at(0)
        return super().step(action)


class Hangs(Sound):
    def step(self, action: Any) -> Any:
        if self.steps == 1:
            time.sleep(1000)
        return super().step(action)


class HangsWhenMade(Sound):
    def __init__(self) -> None:
        time.sleep(1000)
