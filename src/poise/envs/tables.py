"""The APIs of several agents, as one: after every step, who got what and who is to act.

PettingZoo's Parallel and AEC environments, RLlib's `MultiAgentEnv`, and Gymnasium environments
whose spaces are tuples and whose rewards are a list, each become a `Table`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from poise.envs.old_gym import takes
from poise.errors import EnvError

Agent = Hashable


@dataclass
class Tick:
    """What a reset or a step brought.

    Attributes:
        acts: the agents that are to act now.
        obs: what these see, and last observations of those whose episode ended.
        rewards: what agents got.
        terminated, truncated: agents whose episode ended.
        infos: what is said to each.
        over: whether the episode of the environment has ended.
    """

    acts: list[Agent]
    obs: Mapping[Agent, Any]
    rewards: Mapping[Agent, Any] = field(default_factory=dict)
    terminated: frozenset[Agent] = frozenset()
    truncated: frozenset[Agent] = frozenset()
    infos: Mapping[Agent, Any] = field(default_factory=dict)
    over: bool = False


class Table:
    """An environment of several agents, whichever API it follows.

    Args:
        env: the environment.

    Attributes:
        agents: all that may ever appear.
    """

    agents: list[Agent]

    def __init__(self, env: Any) -> None:
        self.env = env

    def spaces(self, agent: Agent) -> tuple[spaces.Space, spaces.Space]:
        """What an agent sees and does."""
        return self.env.observation_space(agent), self.env.action_space(agent)

    def reset(self, **how: Any) -> Tick:
        """Begins an episode, with `seed` and `options`."""
        raise NotImplementedError

    def step(self, actions: dict[Agent, Any]) -> Tick:
        """Takes the actions of the agents that were to act."""
        raise NotImplementedError

    def pending(self, agent: Agent) -> tuple[Any, float]:
        """What an agent that waits would see now (None if that is unknown), and get."""
        return None, 0.0

    def _reset(self, how: dict[str, Any]) -> Any:
        known = {key: value for key, value in how.items() if takes(self.env.reset, key)}
        return self.env.reset(**known)


def _who(flags: Mapping[Agent, Any]) -> frozenset[Agent]:
    return frozenset(agent for agent, flag in flags.items() if flag and agent != "__all__")


class ParallelTable(Table):
    """PettingZoo's Parallel API: all agents that are there act at once."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.agents = list(env.possible_agents)

    def reset(self, **how: Any) -> Tick:
        obs, infos = self._reset(how)
        return Tick(list(self.env.agents), obs, infos=infos)

    def step(self, actions: dict[Agent, Any]) -> Tick:
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        ends = _who(terminated), _who(truncated)
        acts = [agent for agent in self.env.agents if agent not in ends[0] | ends[1]]
        return Tick(acts, obs, rewards, *ends, infos, over=not acts)


class TurnTable(Table):
    """PettingZoo's AEC API: one agent acts, and learns at its next turn what came of it."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.agents = list(env.possible_agents)

    def reset(self, **how: Any) -> Tick:
        self._reset(how)
        return self._until_a_turn()

    def step(self, actions: dict[Agent, Any]) -> Tick:
        self.env.step(actions[self.env.agent_selection])
        return self._until_a_turn()

    def _until_a_turn(self) -> Tick:
        """Lets agents leave whose episode is over, until one is to act."""
        env, acts = self.env, list[Agent]()
        obs, rewards, infos = dict[Agent, Any](), dict[Agent, Any](), dict[Agent, Any]()
        terminated, truncated = set[Agent](), set[Agent]()
        while env.agents and not acts:
            agent = env.agent_selection
            obs[agent], rewards[agent], *flags, infos[agent] = env.last()
            for flag, ended in zip(flags, (terminated, truncated), strict=True):
                if flag:
                    ended.add(agent)
            if any(flags):
                env.step(None)
            else:
                acts.append(agent)
        ends = frozenset(terminated), frozenset(truncated)
        return Tick(acts, obs, rewards, *ends, infos, over=not acts)

    def pending(self, agent: Agent) -> tuple[Any, float]:
        earned = getattr(self.env.unwrapped, "_cumulative_rewards", {})
        return self.env.observe(agent), float(earned.get(agent, 0.0))


class DictTable(Table):
    """RLlib's `MultiAgentEnv`: whoever is in the observations is to act."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        known = getattr(env, "possible_agents", None) or getattr(env, "_agent_ids", None)
        for name in ("observation_spaces", "observation_space"):
            own = getattr(env, name, None)
            if not known and isinstance(own, (dict, spaces.Dict)):
                known = list(own.keys())
        if not known:
            raise EnvError(
                f"{type(env).__name__} does not say which agents there are: "
                "set self.possible_agents in __init__."
            )
        self.agents = list(known)

    def spaces(self, agent: Any) -> tuple[spaces.Space, spaces.Space]:
        found = []
        for kind in ("observation_space", "action_space"):
            each = getattr(self.env, f"{kind}s", None) or getattr(self.env, kind, None)
            if isinstance(each, (dict, spaces.Dict)) and agent in each.keys():  # noqa: SIM118
                each = each[agent]
            if not isinstance(each, spaces.Space):
                raise EnvError(f"{type(self.env).__name__} has no {kind} of its agent {agent!r}.")
            found.append(each)
        return found[0], found[1]

    def reset(self, **how: Any) -> Tick:
        found = self._reset(how)
        obs, infos = found if isinstance(found, tuple) else (found, {})
        self._left = set[Agent]()
        return Tick(list(obs), obs, infos=infos)

    def step(self, actions: dict[Agent, Any]) -> Tick:
        found = self.env.step(actions)
        if len(found) == 4:  # before Gymnasium
            obs, rewards, terminated, infos = found
            truncated: Mapping[Agent, Any] = {}
        else:
            obs, rewards, terminated, truncated, infos = found
        ends = _who(terminated), _who(truncated)
        if terminated.get("__all__") or truncated.get("__all__"):
            rest = frozenset(self.agents) - ends[0] - ends[1] - self._left
            which = 0 if terminated.get("__all__") else 1
            ends = (ends[0] | rest, ends[1]) if which == 0 else (ends[0], ends[1] | rest)
            return Tick([], obs, rewards, *ends, infos, over=True)
        self._left |= ends[0] | ends[1]
        acts = [agent for agent in obs if agent not in ends[0] | ends[1]]
        self._left -= set(acts)
        return Tick(
            acts, obs, rewards, *ends, infos, over=not acts and self._left >= {*self.agents}
        )


class TupleTable(Table):
    """A Gymnasium environment whose spaces are tuples, with a reward for each of its agents."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.agents = [f"agent_{i}" for i in range(len(env.action_space))]  # type: ignore[arg-type]

    def spaces(self, agent: Agent) -> tuple[spaces.Space, spaces.Space]:
        i = self.agents.index(agent)
        return self.env.observation_space[i], self.env.action_space[i]

    def reset(self, **how: Any) -> Tick:
        obs, _ = self._reset(how)
        return Tick(list(self.agents), dict(zip(self.agents, obs, strict=True)))

    def step(self, actions: dict[Agent, Any]) -> Tick:
        obs, rewards, terminated, truncated, _ = self.env.step(tuple(actions.values()))
        over = bool(np.all(terminated)), bool(np.all(truncated))
        everyone, nobody = frozenset(self.agents), frozenset[Agent]()
        return Tick(
            [] if any(over) else list(self.agents),
            dict(zip(self.agents, obs, strict=True)),
            dict(zip(self.agents, np.broadcast_to(rewards, len(self.agents)), strict=True)),
            everyone if over[0] else nobody,
            everyone if over[1] and not over[0] else nobody,
            over=any(over),
        )


def table_of(env: Any) -> Table | None:
    """The table of an environment of several agents; None for any other."""
    observed, acted = (getattr(env, f"{kind}_space", None) for kind in ("observation", "action"))
    if isinstance(env, gym.Env):
        tuples = isinstance(observed, spaces.Tuple) and isinstance(acted, spaces.Tuple)
        return TupleTable(env) if tuples and hasattr(env.unwrapped, "n_agents") else None
    if hasattr(env, "possible_agents") and callable(observed) and not _is_space(observed):
        return TurnTable(env) if hasattr(env, "agent_iter") else ParallelTable(env)
    names = {each.__name__ for each in type(env).__mro__}
    return DictTable(env) if "MultiAgentEnv" in names or _speaks_dicts(env) else None


def _is_space(value: Any) -> bool:
    return isinstance(value, spaces.Space)


def _speaks_dicts(env: Any) -> bool:
    """Whether an environment names its agents and their spaces, as RLlib's do."""
    named = hasattr(env, "possible_agents") or hasattr(env, "_agent_ids")
    return named and all(hasattr(env, method) for method in ("reset", "step"))
