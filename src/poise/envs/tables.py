"""The APIs of several agents, as one: after every step, who got what and who is to act.

PettingZoo's Parallel and AEC environments, RLlib's `MultiAgentEnv`, and Gymnasium environments
whose spaces are tuples and whose rewards are a list, each become a `Table`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from poise.envs.old_gym import takes
from poise.errors import EnvError

Agent = Hashable
ALL = "__all__"
"""RLlib's key of what is true of all agents."""
CHECKS = {
    f"pettingzoo.utils.wrappers.{name}" for name in ("order_enforcing", "assert_out_of_bounds")
}


class Tick(NamedTuple):
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
    rewards: Mapping[Agent, Any] = {}
    terminated: frozenset[Agent] = frozenset()
    truncated: frozenset[Agent] = frozenset()
    infos: Mapping[Agent, Any] = {}
    over: bool = False


class Table:
    """RLlib's `MultiAgentEnv`: whoever is in the observations is to act.

    The other APIs say the same in other words.

    Args:
        env: the environment.

    Attributes:
        agents: all that may ever appear.
    """

    agents: list[Agent]

    def __init__(self, env: Any) -> None:
        self.env, names = env, ("possible_agents", "_agent_ids")
        self.agents = list(next(filter(None, (getattr(env, name, None) for name in names)), ()))

    @property
    def state_space(self) -> spaces.Space | None:
        """The space of `env.state()`, what there is to know for all, if it has one."""
        space = getattr(self.env, "state_space", None)
        return space if isinstance(space, spaces.Space) and hasattr(self.env, "state") else None

    def spaces(self, agent: Any) -> list[spaces.Space]:
        """What an agent sees and does."""
        found: list[Any] = []
        for kind in ("observation_space", "action_space"):
            each = getattr(self.env, f"{kind}s", None) or getattr(self.env, kind, None)
            found.append(each[agent] if isinstance(each, (dict, spaces.Dict)) else each)
        if not all(isinstance(each, spaces.Space) for each in found):
            name = type(self.env).__name__
            raise EnvError(f"{name} has no observation_space or action_space of {agent!r}.")
        return found

    def reset(self, **how: Any) -> Tick:
        """Begins an episode, with `seed` and `options`."""
        known = {key: value for key, value in how.items() if takes(self.env.reset, key)}
        return self._begun(self.env.reset(**known))

    def _begun(self, found: Any) -> Tick:
        obs, infos = found if isinstance(found, tuple) else (found, {})
        return Tick(list(obs), obs, infos=infos)

    def step(self, actions: dict[Agent, Any]) -> Tick:
        """Takes the actions of the agents that were to act."""
        obs, rewards, *flags, infos = self.env.step(actions)  # one flag, before Gymnasium
        self._require(actions, rewards, flags)
        ends = [{agent for agent, flag in each.items() if flag} for each in flags]
        terminated, truncated = ends[0], ends[1] if ends[1:] else set[Agent]()
        acts = [agent for agent in self._there(obs) if agent not in terminated | truncated]
        over = ALL in terminated | truncated or self._over(acts)
        if ALL in truncated - terminated:
            truncated = set(self.agents) - terminated
        both = frozenset(terminated - {ALL}), frozenset(truncated - {ALL})
        return Tick([] if over else acts, obs, rewards, *both, infos, over)

    def _require(self, actions: Any, rewards: Any, flags: list[Any]) -> None:
        """Looks whether agents that acted are told all that is due: here, nothing is."""

    def _there(self, obs: Any) -> list[Agent]:
        return list(obs)

    def _over(self, acts: list[Agent]) -> bool:
        return False

    def pending(self, agent: Agent) -> tuple[Any, float]:
        """What an agent that waits would see now (None if that is unknown), and get."""
        return None, 0.0


class ParallelTable(Table):
    """PettingZoo's Parallel API: all agents that are there act at once."""

    def spaces(self, agent: Any) -> list[spaces.Space]:
        return [self.env.observation_space(agent), self.env.action_space(agent)]

    def _require(self, actions: Any, rewards: Any, flags: list[Any]) -> None:
        for what, given in zip(
            ("reward", "termination", "truncation"), (rewards, *flags), strict=False
        ):
            if not actions.keys() <= given.keys():
                agent = next(each for each in actions if each not in given)
                raise ValueError(f"step() gives no {what} of the agent {agent!r}, which acted")

    def _there(self, obs: Any) -> list[Agent]:
        return list(self.env.agents)

    def _over(self, acts: list[Agent]) -> bool:
        return not acts


class TurnTable(ParallelTable):
    """PettingZoo's AEC API: one agent acts, and learns at its next turn what came of it."""

    def _begun(self, found: Any) -> Tick:
        """Lets agents leave whose episode is over, until one is to act."""
        env, obs, rewards, infos = self.env, dict[Agent, Any](), dict[Agent, Any](), {}
        ends: tuple[set[Agent], set[Agent]] = (set(), set())
        acts: list[Agent] = []
        while env.agents and not acts:
            agent = env.agent_selection
            obs[agent], rewards[agent], *flags, infos[agent] = env.last()
            for flag, ended in zip(flags, ends, strict=True):
                ended |= {agent} if flag else set()
            if any(flags):
                env.step(None)
                if agent in env.agents:
                    raise ValueError(
                        f"the episode of the agent {agent!r} is over, and it stays in agents: "
                        "step(None) must remove it"
                    )
            else:
                acts.append(agent)
        both = frozenset(ends[0]), frozenset(ends[1])
        return Tick(acts, obs, rewards, *both, infos, over=not acts)

    def step(self, actions: dict[Agent, Any]) -> Tick:
        return self._begun(self.env.step(actions[self.env.agent_selection]))

    def pending(self, agent: Agent) -> tuple[Any, float]:
        earned = getattr(self.env.unwrapped, "_cumulative_rewards", {})
        return self.env.observe(agent), float(earned.get(agent, 0.0))


class TupleTable(Table):
    """A Gymnasium environment whose spaces are tuples, with a reward for each of its agents."""

    def __init__(self, env: Any) -> None:
        self.env, self.agents = env, [f"agent_{i}" for i in range(len(env.action_space))]

    def spaces(self, agent: Any) -> list[spaces.Space]:
        i = self.agents.index(agent)
        return [self.env.observation_space[i], self.env.action_space[i]]

    def _begun(self, found: Any) -> Tick:
        return Tick(self.agents, self._each(found[0]))

    def step(self, actions: dict[Agent, Any]) -> Tick:
        obs, rewards, *flags, _ = self.env.step(tuple(actions.values()))
        terminated, truncated = (frozenset(self.agents if np.all(flag) else ()) for flag in flags)
        over, earned = bool(terminated or truncated), np.broadcast_to(rewards, len(self.agents))
        ends = terminated, truncated - terminated
        return Tick(
            [] if over else self.agents, self._each(obs), self._each(earned), *ends, {}, over
        )

    def _each(self, values: Any) -> dict[Agent, Any]:
        return dict(zip(self.agents, values, strict=True))


def table_of(env: Any) -> Table | None:
    """The table of an environment of several agents; None for any other."""
    observed, acted = (getattr(env, f"{kind}_space", None) for kind in ("observation", "action"))
    if isinstance(env, gym.Env):
        tuples = isinstance(observed, spaces.Tuple) and isinstance(acted, spaces.Tuple)
        return TupleTable(env) if tuples and hasattr(env.unwrapped, "n_agents") else None
    if hasattr(env, "possible_agents") and callable(observed):
        if hasattr(env, "agent_iter"):
            return TurnTable(_without_checks(env))
        if hasattr(env, "aec_env"):  # a game in turns, made parallel
            env.aec_env = _without_checks(env.aec_env)
        return ParallelTable(env)
    named = any(hasattr(env, name) for name in ("possible_agents", "_agent_ids"))
    return Table(env) if named and hasattr(env, "step") else None


def _without_checks(env: Any) -> Any:
    """A game without PettingZoo's wrappers that only look how it is called.

    That is in order, and with actions of its spaces, whatever is set; looking takes a quarter of a
    step.
    """
    while type(env).__module__ in CHECKS:
        env = env.env
    return env
