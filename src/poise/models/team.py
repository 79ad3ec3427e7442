"""The policies of several agents as one, which acts in their joint space.

The rows of all agents that a policy owns go through its networks at once, `[n * E]` for n agents in
E environments: all environments of the first agent, then those of the second.

    joint     [..., E, n * k]     what samplers see: one row for each environment
    slots     [..., n * E, k]     what a policy sees: one row for each of its agents
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from poise.learning.device import CPU
from poise.models.policy import Policy, State
from poise.spaces.agents import ACTS, AGENTS, BEGINS, STATE, agent_layouts, leaf_names
from poise.spaces.layout import Layout


def to_slots(joint: Tensor, agents: int) -> Tensor:
    """`[..., E, n * k]` as `[..., n * E, k]`."""
    parts = joint.reshape(*joint.shape[:-1], agents, joint.shape[-1] // agents)
    return parts.transpose(-3, -2).flatten(-3, -2)


def to_joint(slots: Tensor, agents: int) -> Tensor:
    """`[..., n * E, k]` as `[..., E, n * k]`."""
    *before, rows, width = slots.shape
    parts = slots.reshape(*before, agents, rows // agents, width)
    return parts.transpose(-3, -2).flatten(-2)


def _per_env(rows: Tensor, agents: int) -> Tensor:
    """`[n * E, ...]` as `[E, n, ...]`."""
    return rows.reshape(agents, -1, *rows.shape[1:]).transpose(0, 1)


@dataclass
class Seats:
    """The agents that a policy owns, and its columns in joint tensors.

    Attributes:
        policy: acts for them.
        agents: their numbers among all agents.
        names: their ids.
        leaves: by the name of a leaf that the policy sees, those of its agents in the joint space.
        actions: by the name of a leaf of its actions, likewise.
        noise, action, inputs, log_prob: columns.
    """

    policy: Policy
    agents: list[int]
    names: list[str]
    leaves: dict[str, list[str]]
    actions: dict[str, list[str]]
    noise: slice
    action: slice
    inputs: slice
    log_prob: slice

    @property
    def count(self) -> int:
        """n, its agents."""
        return len(self.agents)

    def rows(self, obs: Mapping[str, Tensor], dim: int = 0) -> dict[str, Tensor]:
        """The leaves that the policy sees, from the joint ones, whose environments are at `dim`."""
        return {
            own: torch.cat([obs[name] for name in names], dim) if names[1:] else obs[names[0]]
            for own, names in self.leaves.items()
        }

    def flags(self, joint: Tensor) -> Tensor:
        """What is said of each of its agents, from `[..., E, all agents]`, as `[..., n * E]`."""
        return joint[..., self.agents].transpose(-2, -1).flatten(-2)

    def samples(self, joint: Tensor) -> Tensor:
        """Its agents' actions, from joint ones, as the policy's distribution samples them."""
        dist = self.policy.dist
        flat = to_slots(joint[..., self.action], self.count)
        return flat.reshape(*flat.shape[:-1], *dist.action_shape).to(dist.action_dtype)


class JointDistribution:
    """The independent actions of all agents; arithmetic as `poise.learning.distributions` has it.

    An action is one vector of floats, and there is a probability for each agent.
    """

    action_dtype = torch.float32

    def __init__(self, seats: Mapping[str, Seats]) -> None:
        self.seats = seats
        dists = [each.policy.dist for each in seats.values()]
        self.normal_noise = all(dist.normal_noise for dist in dists)
        self.action_shape = (max(each.action.stop for each in seats.values()),)

    def noise(self, shape: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        *before, envs = shape
        parts = []
        for each in self.seats.values():
            drawn = each.policy.dist.noise((*before, each.count * envs), generator)
            parts.append(to_joint(drawn, each.count))
        return torch.cat(parts, -1)

    def log_prob(self, inputs: Tensor, action: Tensor) -> Tensor:
        """The logarithm of each agent's probability, `[..., E, agents]`."""
        parts = []
        for each in self.seats.values():
            own = to_slots(inputs[..., each.inputs], each.count)
            log_prob = each.policy.dist.log_prob(own, each.samples(action))
            parts.append(to_joint(log_prob.unsqueeze(-1), each.count))
        return torch.cat(parts, -1)


class TeamPolicy:
    """Acts for all agents; what samplers and evaluations ask of a `Policy`, it has.

    Args:
        policies: by name.
        owners: the name of the policy of each agent.
        obs_layout, action_layout: the joint ones.

    Attributes:
        seats: the agents of each policy.
    """

    masked: ClassVar[bool] = False  # masks are within the agents' observations
    hears_rewards: ClassVar[bool] = False
    device = CPU

    def __init__(
        self,
        policies: Mapping[str, Policy],
        owners: Mapping[str, str],
        obs_layout: Layout,
        action_layout: Layout,
    ) -> None:
        self.policies = dict(policies)
        self.obs_layout, self.action_layout = obs_layout, action_layout
        self.seats = self._seat(owners)
        self.dist = JointDistribution(self.seats)
        self.log_prob_shape = (len(owners),)
        each = self.policies.values()
        self.recurrent = any(policy.recurrent for policy in each)
        self.needs_log_prob = any(policy.needs_log_prob for policy in each)
        self.wide = any(policy.wide for policy in each)
        self.moments: list[Any] = []

    def _seat(self, owners: Mapping[str, str]) -> dict[str, Seats]:
        own = agent_layouts(self.obs_layout, self.action_layout)
        numbers = {agent: i for i, agent in enumerate(own)}
        seats: dict[str, Seats] = {}
        ends = dict.fromkeys(("noise", "action", "inputs", "log_prob"), 0)
        for name, policy in self.policies.items():
            agents, dist = [agent for agent in own if owners[agent] == name], policy.dist
            widths = dist.noise_size, math.prod(dist.action_shape), dist.num_inputs, 1
            columns = {}
            for key, width in zip(ends, widths, strict=True):
                start, ends[key] = ends[key], ends[key] + width * len(agents)
                columns[key] = slice(start, ends[key])
            seen = [
                leaf_names(own[agent][0], self.obs_layout, f"{AGENTS}/{agent}") for agent in agents
            ]
            does = [leaf_names(own[agent][1], self.action_layout, agent) for agent in agents]
            leaves = {leaf: [each[leaf] for each in seen] for leaf in seen[0]}
            actions = {leaf: [each[leaf] for each in does] for leaf in does[0]}
            rows = [numbers[agent] for agent in agents]
            seats[name] = Seats(policy, rows, agents, leaves, actions, **columns)
        return seats

    @property
    def overflown(self) -> str | None:
        """The first parameter that is not finite, as `<policy>/<name>`; None if all are."""
        for name, policy in self.policies.items():
            if (parameter := policy.overflown) is not None:
                return f"{name}/{parameter}"
        return None

    def initial_state(self, batch: int) -> State:
        """The memories of all policies, a row for each environment, `[batch, n, ...]`."""
        return tuple(
            _per_env(part, each.count)
            for each in self.seats.values()
            for part in each.policy.initial_state(each.count * batch)
        )

    @torch.no_grad()
    def act(
        self, obs: Mapping[str, Tensor], state: State, first: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, State]:
        """Chooses the actions of all agents, also of those that wait; see `Policy.act`.

        Agents that wait remember nothing of it.
        """
        actions, inputs, memories, parts = [], [], [], list(state)
        for each in self.seats.values():
            begins = each.flags(obs[BEGINS]) > 0
            size = len(each.policy.initial_state(1)) if state else 0
            before = tuple(part.transpose(0, 1).flatten(0, 1) for part in parts[:size])
            del parts[:size]
            drawn = None if noise is None else to_slots(noise[..., each.noise], each.count)
            action, own, after = each.policy.act(each.rows(obs), before, begins, drawn)
            action = action.reshape(len(action), -1).to(torch.float32)
            actions.append(to_joint(action, each.count))
            inputs.append(to_joint(own, each.count))
            if size:
                acts = each.flags(obs[ACTS]) > 0
                for old, new in zip(before, after, strict=True):
                    kept = torch.where(acts.view(-1, *[1] * (new.ndim - 1)), new, old)
                    memories.append(_per_env(kept, each.count))
        return torch.cat(actions, -1), torch.cat(inputs, -1), tuple(memories)

    def env_action(self, action: Tensor) -> Any:
        """Turns joint samples `[E, ...]` into the actions of all agents, by id."""
        leaves: dict[str, np.ndarray] = {}
        for each in self.seats.values():
            policy, envs = each.policy, len(action)
            does = policy.action_layout.flatten(policy.env_action(each.samples(action)))
            for own, names in each.actions.items():
                for k, name in enumerate(names):
                    leaves[name] = does[own][k * envs : (k + 1) * envs]
        return self.action_layout.unflatten(leaves)


def state_leaves(layout: Layout) -> dict[str, str]:
    """The leaves of the state in a joint layout, by the names that they have for a critic."""
    names = [leaf.name for leaf in layout.leaves]
    return {name: name for name in names if name == STATE or name.startswith(f"{STATE}/")}
