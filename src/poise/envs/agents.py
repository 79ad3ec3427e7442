"""An environment of several agents as one environment in their joint space.

So batches, worker processes, failures, checkpoints and films know nothing of agents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from poise.envs.tables import Agent, Table, Tick
from poise.errors import EnvError
from poise.spaces.agents import (
    ACTS,
    AGENTS,
    BEGINS,
    REWARD,
    STATE,
    TERMINATED,
    TRUNCATED,
    joint_space,
)
from poise.spaces.layout import Layout
from poise.spaces.masks import INNER, KEY, is_masked, joined, mask_width

STATES = "agents_state"
"""Key of an env config: whether observations hold the state of the environment, too."""


class JointEnv(gym.Env):
    """An environment of several agents as one in the joint space (`poise.spaces.agents`).

    Its reward is the sum of all agents' rewards. Each agent's return is in the info of an episode's
    last step, as `reward/<id>`. Every episode is seeded, so that it can be played again.

    Args:
        table: the environment.
        limit: steps after which the episodes of all agents are cut; None for none.
        state: whether observations hold the state: the environment's own, or else all agents'
            observations.

    Raises:
        EnvError: it has no agents, or two of one name.
    """

    def __init__(self, table: Table, limit: int | None = None, *, state: bool = False) -> None:
        self.table, self.limit, self.env = table, limit, table.env
        self.metadata = getattr(table.env, "metadata", None) or {}
        self.render_mode = getattr(table.env, "render_mode", None)
        self.names = {agent: str(agent) for agent in table.agents}
        if len({*self.names.values()}) < max(1, len(table.agents)):
            raise EnvError(f"{self} has no agents, or two of one name: {table.agents}.")
        seen, does = {}, {}
        for agent, name in self.names.items():
            seen[name], does[name] = table.spaces(agent)
        self._masked: dict[str, int] = {}  # agents whose masks are in their infos, with the width
        for agent, info in table.reset(seed=0).infos.items():
            self._take_masks(self.names[agent], info, seen, does)
        self._own_state = state and callable(getattr(self.env, "state", None))
        self.layouts = {name: Layout(space) for name, space in seen.items()}
        self.action_space = spaces.Dict(list(does.items()))
        self.observation_space = joint_space(seen, self._state_space() if state else None)
        self._with_state = state
        self._rows = {name: i for i, name in enumerate(seen)}
        self._blank = {name: _blank(space) for name, space in seen.items()}

    def _take_masks(self, name: str, info: Any, seen: dict[str, Any], does: dict[str, Any]) -> None:
        """Makes room for masks that an agent has in its info, which all agents of its kind have."""
        width = mask_width(does[name])
        if not isinstance(info, Mapping) or info.get(KEY) is None or width is None:
            return
        kind = seen[name], does[name]
        for other in seen:
            if (seen[other], does[other]) == kind and not is_masked(*kind):
                self._masked[other] = width
                mask = spaces.Box(0, 1, (width,), np.int8)
                seen[other] = spaces.Dict([(INNER, seen[other]), (KEY, mask)])

    def _state_space(self) -> spaces.Space:
        space: Any = getattr(self.env, "state_space", None)
        if isinstance(space, spaces.Space):
            return space
        if self._own_state:
            found = np.asarray(self.env.state())
            kind: Any = np.float32 if found.dtype.kind == "f" else found.dtype.type
            low, high = _range(found.dtype)
            return spaces.Box(low, high, found.shape, kind)
        size = sum(int(np.prod(leaf.shape)) for own in self.layouts.values() for leaf in own.leaves)
        return spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def __str__(self) -> str:
        return f"<{type(self.env).__name__} of several agents>"

    # What callbacks call and set is the environment's own. A state of it would not be all of this.

    def has_wrapper_attr(self, name: str) -> bool:
        return name not in ("get_state", "set_state") and (
            hasattr(self, name) or hasattr(self.env, name)
        )

    def get_wrapper_attr(self, name: str) -> Any:
        return getattr(self if name in vars(self) else self.env, name)

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        setattr(self.env, name, value)
        return True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        own = int(self.np_random.integers(2**31)) if seed is None else seed
        self._steps = 0
        self._alive: set[str] = set()
        self._seen = dict(self._blank)
        self._returns: dict[str, float] = {}
        self._turn: list[Agent] = []
        return self._observation(self.table.reset(seed=own, options=options)), {}

    def step(self, action: Mapping[str, Any]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        tick = self.table.step({agent: action[self.names[agent]] for agent in self._turn})
        self._steps += 1
        if cut := not tick.over and self._steps == self.limit:
            tick = self._cut(tick)
        obs = self._observation(tick)
        total, over = float(sum(tick.rewards.values())), tick.over or cut
        if not over:
            return obs, total, False, False, {}
        truncated = bool(tick.truncated) and not tick.terminated
        returns = {f"reward/{name}": earned for name, earned in self._returns.items()}
        return obs, total, not truncated, truncated, {**returns, **self._numbers(tick)}

    def _cut(self, tick: Tick) -> Tick:
        """A tick after which the time of all agents is up, also of those that wait."""
        obs, rewards = dict(tick.obs), dict(tick.rewards)
        gone = tick.terminated | tick.truncated
        rest = [a for a, name in self.names.items() if name in self._alive and a not in gone]
        for agent in set(rest) - set(tick.acts):
            seen, earned = self.table.pending(agent)
            obs |= {} if seen is None else {agent: seen}
            rewards[agent] = rewards.get(agent, 0.0) + earned
        truncated = tick.truncated | frozenset(rest)
        return Tick([], obs, rewards, tick.terminated, truncated, tick.infos, over=True)

    def _observation(self, tick: Tick) -> dict[str, Any]:
        """The joint observation after a tick."""
        self._seen, shape = dict(self._seen), len(self._rows)
        flags = {key: np.zeros(shape, np.int8) for key in (ACTS, BEGINS, TERMINATED, TRUNCATED)}
        rewards = np.zeros(shape, np.float32)
        for agent, reward in tick.rewards.items():
            name = self.names[agent]
            rewards[self._rows[name]] = reward
            self._returns[name] = self._returns.get(name, 0.0) + float(reward)
        terminated = tick.terminated
        if tick.over:  # whoever was not told so has come to its end, too
            terminated |= {a for a, name in self.names.items() if name in self._alive} - (
                tick.truncated
            )
        for key, agents in ((TERMINATED, terminated), (TRUNCATED, tick.truncated)):
            for name in {self.names[agent] for agent in agents} & self._alive:
                flags[key][self._rows[name]] = 1
        for agent in terminated | tick.truncated:
            if self.names[agent] in self._alive:
                self._alive.discard(self.names[agent])
                self._see(agent, tick)
        for agent in tick.acts:
            name = self.names[agent]
            flags[ACTS][self._rows[name]] = 1
            flags[BEGINS][self._rows[name]] = name not in self._alive
            self._alive.add(name)
            self._see(agent, tick, acts=True)
        self._turn = tick.acts
        obs = {AGENTS: self._seen, **flags, REWARD: rewards}
        return {**obs, STATE: self._state()} if self._with_state else obs

    def _see(self, agent: Agent, tick: Tick, *, acts: bool = False) -> None:
        """Keeps what an agent sees, with its mask."""
        name, seen = self.names[agent], tick.obs.get(agent)
        if seen is None:
            return
        if width := self._masked.get(name):
            mask = (tick.infos.get(agent) or {}).get(KEY)
            seen = {INNER: seen, KEY: np.ones(width, np.int8) if mask is None else _bits(mask)}
        if acts and isinstance(seen, Mapping) and KEY in seen and not np.any(seen[KEY]):
            raise ValueError(f"the action mask of agent {agent!r} allows no action")
        self._seen[name] = seen

    def _state(self) -> Any:
        if self._own_state:
            return self.env.state()
        parts = [
            np.ravel(leaf)
            for name, layout in self.layouts.items()
            for leaf in layout.flatten(self._seen[name]).values()
        ]
        return np.concatenate(parts).astype(np.float32)

    def _numbers(self, tick: Tick) -> dict[str, Any]:
        """What agents were told with an episode's last step, as `<id>/<key>`."""
        told = {self.names.get(agent): info for agent, info in tick.infos.items()}
        return {
            f"{name}/{key}": value
            for name, info in told.items()
            if name is not None and isinstance(info, Mapping)
            for key, value in info.items()
        }

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()


def _bits(mask: Any) -> np.ndarray:
    bits: np.ndarray = (joined(mask).ravel() != 0).astype(np.int8)
    return bits


def _range(kind: np.dtype) -> tuple[Any, Any]:
    if kind.kind in "iu":
        return np.iinfo(kind).min, np.iinfo(kind).max
    return -np.inf, np.inf


def _blank(space: spaces.Space) -> Any:
    """What stands for an agent that has not been there yet: zeros, or what is next to them."""
    layout = Layout(space)
    leaves: dict[str, Any] = {}
    for leaf in layout.leaves:
        value: Any = np.zeros(leaf.shape, leaf.dtype)
        if isinstance(leaf.space, spaces.Box):
            value = np.clip(value, leaf.space.low, leaf.space.high).astype(leaf.dtype)
        elif isinstance(leaf.space, (spaces.Discrete, spaces.MultiDiscrete)):
            value = value + leaf.space.start
        leaves[leaf.name] = value
    return layout.unflatten(leaves)
