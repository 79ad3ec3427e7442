"""Small environments whose right answer is known.

Scripted ones, identity tasks, probes and broken ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from poise.spaces.layout import Layout


class Scripted(gym.Env):
    """Plays episodes of given lengths.

    The observation is (episode, step), the reward 10 x episode + step.

    Episodes count from 1; resets without a step between them begin the same one. Their ends
    alternate through `ends`: "terminated", "truncated" or "both".
    """

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(
        self, lengths: Sequence[int] = (2, 3), ends: Sequence[str] = ("terminated", "truncated")
    ) -> None:
        self.lengths, self.ends = lengths, ends
        self.episode, self.now = 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if self.now or not self.episode:
            self.episode, self.now = self.episode + 1, 0
        return np.array([self.episode, 0], np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.now += 1
        over = self.now == self.lengths[(self.episode - 1) % len(self.lengths)]
        end = self.ends[(self.episode - 1) % len(self.ends)] if over else ""
        obs = np.array([self.episode, self.now], np.float32)
        info = {"episode_number": float(self.episode)} if over else {}
        return (
            obs,
            10.0 * self.episode + self.now,
            end in ("terminated", "both"),
            end in ("truncated", "both"),
            info,
        )


class Task(gym.Env):
    """Base of tasks with a fixed episode length: derive `observe` and `judge`."""

    length = 8
    ends_with = "terminated"

    def observe(self) -> Any:
        raise NotImplementedError

    def judge(self, action: Any) -> float:
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.now = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        reward = self.judge(action)
        self.now += 1
        end = self.ends_with if self.now == self.length else ""
        return self.observe(), reward, end == "terminated", end == "truncated", {}


class Echo(Task):
    """Reward 1 for choosing the number that is shown as a one-hot vector.

    The optimum is the episode's length.
    """

    def __init__(self, n: int = 4, start: int = 0) -> None:
        self.action_space = spaces.Discrete(n, start=start)
        self.observation_space = spaces.Box(0, 1, (n,), np.float32)

    def observe(self) -> np.ndarray:
        self.target = int(self.np_random.integers(self.action_space.n))
        return np.eye(int(self.action_space.n), dtype=np.float32)[self.target]

    def judge(self, action: Any) -> float:
        return float(action - self.action_space.start == self.target)


class DiscreteEcho(Task):
    """Echo with a `Discrete` observation, of which both spaces start elsewhere than at 0."""

    def __init__(self, n: int = 4, obs_start: int = -2, action_start: int = 5) -> None:
        self.observation_space = spaces.Discrete(n, start=obs_start)
        self.action_space = spaces.Discrete(n, start=action_start)

    def observe(self) -> np.int64:
        self.target = int(self.np_random.integers(self.action_space.n))
        return np.int64(self.target + self.observation_space.start)

    def judge(self, action: Any) -> float:
        return float(action - self.action_space.start == self.target)


class Reach(Task):
    """The action should be the number shown.

    The reward is 1 - distance, in units of half the bounds' width.
    """

    def __init__(
        self, low: float = -2.0, high: float = 6.0, size: int = 1, finite: bool = True
    ) -> None:
        self.low, self.high = low, high
        bounds = (low, high) if finite else (-np.inf, np.inf)
        self.action_space = spaces.Box(*bounds, (size,), np.float32)
        self.observation_space = spaces.Box(-1, 1, (size,), np.float32)

    def observe(self) -> np.ndarray:
        self.target = self.np_random.uniform(-0.9, 0.9, self.action_space.shape).astype(np.float32)
        return self.target

    def judge(self, action: Any) -> float:
        scaled = 2 * (action - self.low) / (self.high - self.low) - 1
        return 1.0 - float(np.abs(scaled - self.target).mean())


class ConstantReward(Task):
    """One observation, reward 1, one step: the value is 1."""

    length = 1
    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-1, 1, (1,), np.float32)

    def observe(self) -> np.ndarray:
        return np.zeros(1, np.float32)

    def judge(self, action: Any) -> float:
        return 1.0


class DelayedReward(Task):
    """Two steps, reward 1 at the second: its values are γ at observation 0 and 1 at 1."""

    length = 2
    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(0, 2, (1,), np.float32)

    def observe(self) -> np.ndarray:
        return np.array([self.now], np.float32)

    def judge(self, action: Any) -> float:
        return float(self.now == 1)


class Endless(Task):
    """Reward 1 for ever, cut by a time limit that says nothing about the state.

    The value is 1 / (1 - γ).
    """

    length = 5
    ends_with = "truncated"
    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-1, 1, (1,), np.float32)

    def observe(self) -> np.ndarray:
        return np.ones(1, np.float32)

    def judge(self, action: Any) -> float:
        return 1.0


class ShortLived(Endless):
    """The same, but the fifth step is truly the end."""

    ends_with = "terminated"


class Bandit(Task):
    """Reward 1 for action 1, -1 for action 0: only the action matters."""

    length = 1
    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-1, 1, (1,), np.float32)

    def observe(self) -> np.ndarray:
        return np.zeros(1, np.float32)

    def judge(self, action: Any) -> float:
        return 1.0 if action == 1 else -1.0


class Noise(Task):
    """Random observations and rewards from the environment's own generator; any spaces."""

    def __init__(
        self,
        observation_space: spaces.Space | None = None,
        action_space: spaces.Space | None = None,
        scale: float = 1.0,
    ) -> None:
        self.observation_space = observation_space or spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = action_space or spaces.Discrete(3)
        self.scale = scale
        self.length = 7

    def observe(self) -> Any:
        if (
            isinstance(self.observation_space, spaces.Box)
            and self.observation_space.dtype == np.float32
        ):
            drawn = self.np_random.standard_normal(self.observation_space.shape) * self.scale
            return np.clip(drawn, self.observation_space.low, self.observation_space.high).astype(
                np.float32
            )
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def judge(self, action: Any) -> float:
        return float(self.np_random.standard_normal())


def broken(what: str, slot: int, at: int, value: float = np.nan) -> Callable[[dict], gym.Env]:
    """A maker of `Scripted` environments.

    The `slot`-th reports `value` as its observation or reward at step `at`.
    """
    made = count()

    class Broken(Scripted):
        def __init__(self) -> None:
            super().__init__(lengths=(50,))
            self.bad = next(made) == slot

        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            obs, reward, terminated, truncated, info = super().step(action)
            if self.bad and self.now == at:
                obs, reward = (
                    (np.array([value, 0], np.float32), reward)
                    if what == "observation"
                    else (obs, value)
                )
            return obs, reward, terminated, truncated, info

    def make(config: dict) -> gym.Env:
        return Broken()

    return make


class Strict(Noise):
    """Noise that notes in `bad` what it was given and is not in its action space."""

    def __init__(
        self, observation_space: spaces.Space, action_space: spaces.Space, bad: list[Any]
    ) -> None:
        super().__init__(observation_space, action_space)
        self.bad = bad

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            self.bad.append(action)
        return super().step(action)


class Copy(Task):
    """The action should be what is observed, in any space.

    Reward 1 if it is, less the more it differs.
    """

    def __init__(self, space: spaces.Space) -> None:
        self.observation_space = self.action_space = space

    def observe(self) -> Any:
        self.action_space.seed(int(self.np_random.integers(2**31)))
        self.target = self.action_space.sample()
        return self.target

    def judge(self, action: Any) -> float:
        layout = Layout(self.action_space)
        given, wanted = layout.flatten(action), layout.flatten(self.target)
        scores = []
        for leaf in layout.leaves:
            away = np.abs(
                np.asarray(given[leaf.name], float) - np.asarray(wanted[leaf.name], float)
            )
            if isinstance(leaf.space, spaces.Box):
                away = 2 * away / (leaf.space.high.astype(float) - leaf.space.low)
            else:
                away = away > 0
            scores.append(1.0 - float(np.mean(away)))
        return float(np.mean(scores))


class Masked(Task):
    """Of many choices few are allowed, and of these one is right: the one that is shown.

    The others go into `bad`.

    The mask is in the observation, or in the info if `in_info`. When an episode is over, nothing is
    allowed.
    """

    def __init__(
        self, bad: list[Any], action_space: spaces.Space | None = None, in_info: bool = False
    ) -> None:
        self.bad, self.in_info = bad, in_info
        self.action_space = action_space or spaces.Discrete(20, start=3)
        plain = isinstance(self.action_space, spaces.Discrete)
        self.sizes = (
            [int(self.action_space.n)] if plain else self.action_space.nvec.ravel().tolist()
        )
        shown = spaces.MultiDiscrete(self.sizes)
        mask = spaces.Box(0, 1, (sum(self.sizes),), np.int8)
        self.observation_space = (
            shown if in_info else spaces.Dict({"shown": shown, "action_mask": mask})
        )

    def observe(self) -> Any:
        self.target = np.array([self.np_random.integers(n) for n in self.sizes])
        self.masks = [np.zeros(n, np.int8) for n in self.sizes]
        if self.now < self.length:
            for mask, right in zip(self.masks, self.target, strict=True):
                mask[[right, self.np_random.integers(len(mask))]] = 1
        return (
            self.target
            if self.in_info
            else {"shown": self.target, "action_mask": np.concatenate(self.masks)}
        )

    def info(self) -> dict[str, Any]:
        plain = isinstance(self.action_space, spaces.Discrete)
        return (
            {"action_mask": self.masks[0] if plain else tuple(self.masks)} if self.in_info else {}
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict]:
        return super().reset(seed=seed)[0], self.info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        chosen = np.ravel(action - self.action_space.start)
        if not all(mask[i] for mask, i in zip(self.masks, chosen, strict=True)):
            self.bad.append(action)
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, self.info()

    def judge(self, action: Any) -> float:
        return float(np.mean(np.ravel(action - self.action_space.start) == self.target))


class BitFlip(gym.Env):
    """Bits are flipped one by one until they are those of the goal, which ends the episode; see
    Andrychowicz et al. 2017 (arXiv 1707.01495), section 3.1.

    The reward is -1, and 0 where the goal is reached.
    """

    def __init__(self, bits: int = 10) -> None:
        shown = spaces.MultiBinary(bits)
        self.observation_space = spaces.Dict(
            observation=shown, achieved_goal=shown, desired_goal=shown
        )
        self.action_space = spaces.Discrete(bits)
        self.bits = bits

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.state, self.goal = self.np_random.integers(0, 2, (2, self.bits), np.int8)
        self.now = 0
        return self.observe(), {}

    def observe(self) -> dict[str, np.ndarray]:
        state = self.state.copy()
        return {"observation": state, "achieved_goal": state, "desired_goal": self.goal.copy()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.state[action] ^= 1
        self.now += 1
        reached = bool(self.compute_terminated(self.state, self.goal, {}))
        return self.observe(), float(reached) - 1, reached, self.now == self.bits, {}

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        return self.compute_terminated(achieved_goal, desired_goal, info).astype(np.float32) - 1

    def compute_terminated(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        return (achieved_goal == desired_goal).all(-1)


class Point(gym.Env):
    """A point on a line moves to a goal on it."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)
    observation_space = spaces.Dict(
        achieved_goal=spaces.Box(-9, 9, (1,), np.float64),
        desired_goal=spaces.Box(-9, 9, (1,), np.float64),
        observation=spaces.Box(-9, 9, (1,), np.float64),
    )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.at, self.goal, self.now = np.zeros(1), self.np_random.uniform(4, 6, 1), 0
        return self.look(), {}

    def look(self) -> Any:
        at = self.at.copy()
        return {"observation": at, "achieved_goal": at, "desired_goal": self.goal.copy()}

    def step(self, action: Any) -> Any:
        self.at, self.now = np.clip(self.at + action, -9, 9), self.now + 1
        return (
            self.look(),
            float(self.compute_reward(self.at, self.goal, {})),
            False,
            self.now == 12,
            {},
        )

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        return -(np.abs(achieved_goal - desired_goal)[..., 0] > 0.3).astype(np.float64)
