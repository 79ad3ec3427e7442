"""The joint space of several agents: what all of them see, get and do in one environment.

An environment of several agents is stepped as one, with this observation:

    agents/<id>     what each agent sees: while it waits, what it saw when it acted last
    acts            whether it is to act now
    begins          whether its episode begins with this observation
    reward          what it got since the observation before
    terminated      whether its episode ended with this observation, and how
    truncated
    state           what a central value function sees, if the environment has such a state

Its action is a `Dict` of the agents' actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces

from poise.spaces.layout import Layout, Leaf
from poise.spaces.masks import KEY

AGENTS, ACTS, BEGINS, REWARD = "agents", "acts", "begins", "reward"
TERMINATED, TRUNCATED, STATE = "terminated", "truncated", "state"
BESIDE, OTHERS = "beside", "others"
NUMBER = f"{BESIDE}/number"

_OUTCOMES = (ACTS, BEGINS, REWARD, TERMINATED, TRUNCATED)


def joint_space(observed: Mapping[str, spaces.Space]) -> spaces.Dict:
    """The joint observation space, from that of each agent by its id."""
    count = len(observed)
    flags = {name: spaces.MultiBinary(count) for name in _OUTCOMES}
    parts = {**flags, REWARD: spaces.Box(-np.inf, np.inf, (count,), np.float32)}
    # Pairs keep their order, which keys of a dict would lose.
    return spaces.Dict([(AGENTS, spaces.Dict(list(observed.items()))), *parts.items()])


def is_joint(space: spaces.Space) -> bool:
    """Whether this is the observation space of several agents."""
    return isinstance(space, spaces.Dict) and {AGENTS, *_OUTCOMES} <= space.spaces.keys()


def with_state(joint: spaces.Space, observation: Mapping[str, Any]) -> Mapping[str, Any]:
    """A joint observation, or a batch of them, with zeros as the state if it has none: acting does
    without."""
    space = joint.spaces.get(STATE)  # type: ignore[attr-defined]
    if space is None or STATE in observation:
        return observation
    layout, batch = Layout(space), np.shape(observation[ACTS])[:-1]
    zeros = {leaf.name: np.zeros(batch + leaf.shape, leaf.dtype) for leaf in layout.leaves}
    return {**observation, STATE: layout.unflatten(zeros)}


def agent_layouts(observation: Layout, action: Layout) -> dict[str, tuple[Layout, Layout]]:
    """Each agent's layouts of its observations and actions, from the joint ones."""
    return {
        str(agent): (Layout(space), Layout(action.space[agent]))  # type: ignore[index]
        for agent, space in observation.space[AGENTS].spaces.items()  # type: ignore[index]
    }


def leaf_names(own: Layout, joint: Layout, prefix: str) -> dict[str, str]:
    """The names of an agent's leaves in the joint layout, by their own names.

    Args:
        own: of the agent.
        joint: of all.
        prefix: where the agent's part lies in the joint space: `agents/<id>`, or `<id>`.
    """
    inside = [leaf.name for leaf in joint.leaves]
    found = [name for name in inside if name == prefix or name.startswith(f"{prefix}/")]
    return {leaf.name: name for leaf, name in zip(own.leaves, found, strict=True)}


def seen_beside(joint: Layout, agents: Sequence[str]) -> dict[str, tuple[Leaf, list[str]]]:
    """What a central value function of some agents sees beside what each of them does.

    It is the state of the environment; if there is none, what all others see (those of one kind
    after those of another), and who is to act. Agents that share a policy have numbers.

    Args:
        joint: the joint layout of observations.
        agents: the ids of those that share a policy.

    Returns:
        By name, the leaf, and those that it is in the joint layout, for each of the agents; none
        for the number.
    """
    inside = {leaf.name: leaf for leaf in joint.leaves}
    if STATE in joint.space.spaces:  # type: ignore[attr-defined]
        whole = [name for name in inside if name.split("/")[0] == STATE]
        places = [{name: name for name in whole} for _ in agents]
    else:
        all_agents = joint.space[AGENTS].spaces  # type: ignore[index]
        kinds = [str(space) for space in all_agents.values()]
        by_kind = sorted(all_agents, key=lambda each: kinds.index(str(all_agents[each])))
        places = []
        for agent in agents:
            others = [each for each in by_kind if str(each) != agent]
            found = {ACTS: ACTS} if others else {}
            for k, other in enumerate(others):
                names = leaf_names(Layout(all_agents[other]), joint, f"{AGENTS}/{other}")
                found |= {f"{OTHERS}/{k}/{name}": names[name] for name in names if name != KEY}
            places.append(found)
    beside = {
        f"{BESIDE}/{name}": (inside[place], [each[name] for each in places])
        for name, place in places[0].items()
    }
    if len(agents) > 1:
        beside[NUMBER] = (Layout(spaces.Discrete(len(agents))).leaves[0], [])
    return {name: (replace(leaf, name=name), found) for name, (leaf, found) in beside.items()}
