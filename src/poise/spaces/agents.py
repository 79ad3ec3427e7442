"""The joint space of several agents: what all of them see, get and do in one environment.

An environment of several agents is stepped as one, with this observation:

    agents/<id>     what each agent sees: while it waits, what it saw when it acted last
    acts            whether it is to act now
    begins          whether its episode begins with this observation
    reward          what it got since the observation before
    terminated      whether its episode ended with this observation, and how
    truncated

Its action is a `Dict` of the agents' actions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from gymnasium import spaces

from poise.spaces.layout import Layout

AGENTS, ACTS, BEGINS, REWARD = "agents", "acts", "begins", "reward"
TERMINATED, TRUNCATED = "terminated", "truncated"

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
