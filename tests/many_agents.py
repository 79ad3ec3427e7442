"""Environments of several agents that tests know everything about."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Numbered(gym.Env):
    """CartPole with a generator of its own for each instance, whatever seeds it is given."""

    def __init__(self, number: int) -> None:
        self.env = gym.make("CartPole-v1").unwrapped
        self.observation_space, self.action_space = (
            self.env.observation_space,
            (self.env.action_space),
        )
        self.first, _ = self.env.reset(seed=1000 + number)
        self.moved = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Nothing changes before the first step, however often it is reset."""
        if self.moved:
            self.first, _ = self.env.reset()
        self.moved = False
        return self.first, {}

    def step(self, action: Any) -> Any:
        self.moved = True
        return self.env.step(action)


class Poles:
    """n CartPoles that have nothing to do with each other, by PettingZoo's Parallel API.

    An agent whose pole has fallen is gone for one step, and comes back with a new one.
    """

    metadata: dict[str, Any] = {}  # noqa: RUF012
    render_mode = None

    def __init__(self, n: int, first: int = 0) -> None:
        self.possible_agents = [f"pole_{i}" for i in range(n)]
        self.poles = {a: Numbered(first + i) for i, a in enumerate(self.possible_agents)}
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> spaces.Space:
        return self.poles[agent].observation_space

    def action_space(self, agent: str) -> spaces.Space:
        return self.poles[agent].action_space

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        gone = [a for a in self.possible_agents if a not in self.agents]
        self.agents = list(self.possible_agents)
        # Those that stand are not disturbed; at the very first reset, none does.
        self.seen = {**getattr(self, "seen", {}), **{a: self.poles[a].reset()[0] for a in gone}}
        return dict(self.seen), {a: {} for a in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        back = [a for a in self.possible_agents if a not in self.agents]
        found = {a: self.poles[a].step(action) for a, action in actions.items()}
        obs = {a: each[0] for a, each in found.items()} | {
            a: self.poles[a].reset()[0] for a in back
        }
        ends = {a: bool(each[2]) for a, each in found.items()}
        self.agents = [a for a in self.possible_agents if not ends.get(a, False)]
        rewards = {a: each[1] for a, each in found.items()}
        return obs, rewards, ends, dict.fromkeys(ends, False), {a: {} for a in obs}

    def close(self) -> None:
        pass


def poles(n: int) -> Any:
    """A creator of `Poles`, whose agents' numbers go on from environment to environment."""
    first = itertools.count(0, n)
    return lambda config: Poles(n, next(first))


def single_poles() -> Any:
    """The same CartPoles, one for each environment."""
    number = itertools.count()
    return lambda config: Numbered(next(number))


class Turns:
    """A game in turns by PettingZoo's AEC API, which plays a script.

    Args:
        script: for each step of the game, the agent that acts and the rewards that it brings to
            all; the last step ends the game for all.
        stops: agents that leave, by the number of the step after which they do.
    """

    metadata: dict[str, Any] = {"is_parallelizable": False}  # noqa: RUF012
    render_mode = None

    def __init__(
        self,
        script: list[tuple[str, dict[str, float]]],
        stops: dict[int, str] | None = None,
        truncates: bool = False,
    ) -> None:
        self.script, self.stops, self.truncates = script, stops or {}, truncates
        self.possible_agents = list(dict.fromkeys(agent for agent, _ in script))
        self.agents: list[str] = []

    @property
    def unwrapped(self) -> Any:
        return self

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(-1, 100, (2,), np.float32)

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(3)

    def agent_iter(self) -> Any:
        raise NotImplementedError

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.agents, self.at = list(self.possible_agents), 0
        self.done = dict.fromkeys(self.agents, False)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self._select()

    def _select(self) -> None:
        dead = [agent for agent in self.agents if self.done[agent]]
        if dead:
            self.agent_selection = dead[0]
        elif self.agents:
            self.agent_selection = self.script[self.at][0]

    def observe(self, agent: str) -> Any:
        """The step of the game, and who looks."""
        return np.array([self.at, self.possible_agents.index(agent)], np.float32)

    def last(self) -> Any:
        agent = self.agent_selection
        ended = self.done[agent]
        flags = (ended and not self.truncates, ended and self.truncates)
        return self.observe(agent), self._cumulative_rewards[agent], *flags, {}

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.done[agent]:
            self.agents.remove(agent)
            self._select()
            return
        self._cumulative_rewards[agent] = 0.0
        for each, reward in self.script[self.at][1].items():
            if each in self.agents:
                self._cumulative_rewards[each] += reward
        if self.at in self.stops:
            self.done[self.stops[self.at]] = True
        self.at += 1
        if self.at == len(self.script):
            self.done = dict.fromkeys(self.agents, True)
        self._select()

    def close(self) -> None:
        pass


class Signs:
    """Each agent sees a sign and is paid by those of all others; actions change nothing.

    By PettingZoo's Parallel API; with `state`, there is one: all signs.
    """

    metadata: dict[str, Any] = {}  # noqa: RUF012
    render_mode = None

    def __init__(self, n: int, state: bool = False) -> None:
        self.possible_agents = [f"a{i}" for i in range(n)]
        if state:
            self.state_space = spaces.Box(-1, 1, (n,), np.float32)
            self.state = lambda: np.concatenate([*self.seen.values()])

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(-1, 1, (1,), np.float32)

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(2)

    def _look(self) -> dict[str, Any]:
        signs = self.rng.choice([-1.0, 1.0], len(self.possible_agents)).astype(np.float32)
        self.seen = dict(zip(self.possible_agents, signs[:, None], strict=True))
        return self.seen

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.rng, self.agents, self.t = np.random.default_rng(seed), self.possible_agents, 0
        return self._look(), {a: {} for a in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        total = sum(float(sign[0]) for sign in self.seen.values())
        rewards = {a: total - float(self.seen[a][0]) for a in actions}
        self.t += 1
        ends = dict.fromkeys(actions, self.t == 8)
        self.agents = [] if self.t == 8 else self.possible_agents
        return self._look(), rewards, ends, dict.fromkeys(ends, False), {a: {} for a in ends}

    def close(self) -> None:
        pass
