"""An environment of several agents as one environment in their joint space.

So batches, worker processes, failures, checkpoints and films know nothing of agents.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from poise.config.types import brief
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
from poise.spaces.masks import INNER, KEY, is_masked, joined, mask_width


class JointEnv(gym.Env):
    """An environment of several agents as one in the joint space (`poise.spaces.agents`).

    Its reward is the sum of all agents' rewards. Each agent's return is in the info of an episode's
    last step, as `reward/<id>`. Every episode is seeded, so that it can be played again.

    Args:
        table: the environment.
        limit: steps after which the episodes of all agents are cut; None for none.

    Raises:
        EnvError: it has two agents of one name.
    """

    def __init__(self, table: Table, limit: int | None = None) -> None:
        self.table, self.limit, self.env = table, limit, table.env
        self.metadata = getattr(table.env, "metadata", None) or {}
        self.render_mode = getattr(table.env, "render_mode", None)
        self.names = {agent: str(agent) for agent in table.agents}
        if not table.agents:
            raise EnvError(
                f"{type(table.env).__name__} has no agents: possible_agents must name all that may "
                "ever appear."
            )
        if len({*self.names.values()}) < len(table.agents):
            raise EnvError(
                f"{type(table.env).__name__} has two agents of one name: {table.agents}."
            )
        seen, does = {}, {}
        for agent, name in self.names.items():
            seen[name], does[name] = table.spaces(agent)
        self._masked: dict[str, int] = {}  # agents whose masks are in their infos, with the width
        for agent, info in table.reset(seed=0).infos.items():
            if agent in self.names:  # RLlib's infos may have one for all
                self._take_masks(self.names[agent], info, seen, does)
        self._rows = {name: i for i, name in enumerate(seen)}
        self._blank = self._seen = {name: _any_of(space) for name, space in seen.items()}
        self.action_space = spaces.Dict(list(does.items()))
        self.observation_space = joint_space(seen)

    def _take_masks(self, name: str, info: Any, seen: dict[str, Any], does: dict[str, Any]) -> None:
        """Makes room for masks that an agent has in its info, which all agents of its kind have."""
        kind, width = (seen[name], does[name]), mask_width(does[name]) or 0
        told = isinstance(info, Mapping) and info.get(KEY) is not None
        for other in seen if told and width and not is_masked(*kind) else ():
            if (seen[other], does[other]) == kind:
                self._masked[other] = width
                mask: Any = spaces.Box(0, 1, (width,), np.int8)  # type: ignore[arg-type]
                seen[other] = spaces.Dict([(INNER, seen[other]), (KEY, mask)])

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
        if unknown := {*tick.acts, *tick.obs, *tick.rewards} - self.names.keys():
            known = brief([*self.names.values()])
            raise ValueError(
                f"reset() or step() tells of the agent {min(map(str, unknown))!r}, and "
                f"possible_agents are {known}"
            )
        self._seen, shape = dict(self._seen), len(self._rows)
        flags = {key: np.zeros(shape, np.int8) for key in (ACTS, BEGINS, TERMINATED, TRUNCATED)}
        rewards = np.zeros(shape, np.float32)
        for agent, reward in tick.rewards.items():
            name = self.names[agent]
            rewards[self._rows[name]] = reward
            self._returns[name] = self._returns.get(name, 0.0) + float(reward)
        ended = {TERMINATED: tick.terminated, TRUNCATED: tick.truncated}
        if tick.over:  # whoever was not told so has come to its end, too
            ended[TERMINATED] |= self.names.keys() - tick.truncated
        for key, agents in ended.items():
            for agent in agents:
                flags[key][self._rows[self.names[agent]]] = self.names[agent] in self._alive
        for agent in ended[TERMINATED] | ended[TRUNCATED]:
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
        return {AGENTS: self._seen, **flags, REWARD: rewards}

    def _see(self, agent: Agent, tick: Tick, *, acts: bool = False) -> None:
        """Keeps what an agent sees, with its mask."""
        name, seen = self.names[agent], tick.obs.get(agent)
        if seen is None:
            if acts:
                raise ValueError(f"the agent {agent!r} is to act, and has no observation")
            return
        if width := self._masked.get(name):
            mask = (tick.infos.get(agent) or {}).get(KEY)
            bits = np.ones(width) if mask is None else joined(mask).ravel()
            seen = {INNER: seen, KEY: (bits != 0).astype(np.int8)}
        if acts and isinstance(seen, Mapping) and KEY in seen and not np.any(seen[KEY]):
            raise ValueError(f"the action mask of agent {agent!r} allows no action")
        self._seen[name] = seen

    def _numbers(self, tick: Tick) -> dict[str, Any]:
        """What agents were told with an episode's last step, as `<id>/<key>`."""
        told = [(a, info) for a, info in tick.infos.items() if isinstance(info, Mapping)]
        return {f"{agent}/{key}": value for agent, info in told for key, value in info.items()}

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()


class WithState(gym.ObservationWrapper):
    """Shows a central value function the state of the environment, if it has one (PettingZoo).

    Args:
        env: of several agents.

    Raises:
        EnvError: it has one agent.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._joint: Any = env.unwrapped
        if not isinstance(self._joint, JointEnv):
            raise EnvError(
                f"central_critic=True is for several agents, and {type(env.unwrapped).__name__} "
                "has one."
            )
        self._space = self._joint.table.state_space
        if self._space is not None:
            inside = env.observation_space.spaces.items()  # type: ignore[attr-defined]
            self.observation_space = spaces.Dict([*inside, (STATE, self._space)])

    def observation(self, observation: Any) -> Any:
        if self._space is None:
            return observation
        return {**observation, STATE: self._joint.table.env.state()}


def _any_of(space: spaces.Space) -> Any:
    """What stands for the observation of an agent that has not been there yet."""
    space = copy.deepcopy(space)
    space.seed(0)
    return space.sample()
