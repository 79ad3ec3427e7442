"""Several agents: policies that act in their joint space, and the rollout of each policy.

The rows of all agents that a policy owns go through its networks at once, `[n * E]` for n agents in
E environments: all environments of the first agent, then those of the second.

    joint     [..., E, n * k]     what samplers see: one row for each environment
    slots     [..., n * E, k]     what a policy sees: one row for each of its agents

A slot is one agent of one environment. An agent that acts at row a, and is to act again at row n,
learns what came of its action only then. Its step stands in the last row of that span:

    row            a          ...        n - 1                   n
    obs            obs_a      obs_a      obs_a                   obs_n
    action                               the one chosen at a
    reward         0          0          all that it got         ...
    valid          False      False      True                    ...
    waits          True       True       False                   ...

So the next observation of a step is that of the next row, as for a single agent; rows in which an
agent waits do not count, and advantages pass through them. A step that is not finished at the end
of a rollout is a step of the next one. Agents that are absent, or whose episode is over, wait, too.

A memory moves only where its agent acts. So where agents wait, the rows of a policy with a memory
are closed up: an agent's steps come one after the other, as its memory went through them, and rows
that do not count follow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from poise.errors import ConfigError
from poise.learning.device import CPU
from poise.models.policy import Policy, State
from poise.models.recurrent import RecurrentQPolicy
from poise.sampling.rollout import Rollout, stored_dtype
from poise.spaces.agents import (
    ACTS,
    AGENTS,
    BEGINS,
    NUMBER,
    REWARD,
    TERMINATED,
    TRUNCATED,
    agent_layouts,
    leaf_names,
    seen_beside,
)
from poise.spaces.layout import Layout


def to_slots(joint: Tensor, agents: int) -> Tensor:
    """`[..., E, n * k]` as `[..., n * E, k]`."""
    parts = joint.reshape(*joint.shape[:-1], agents, joint.shape[-1] // agents)
    return parts.transpose(-3, -2).flatten(-3, -2)


def _where(flags: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` or `no`, `[N, ...]`, as flags of their rows say, `[N]`."""
    return torch.where(flags.to(yes.device).view(-1, *[1] * (yes.ndim - 1)), yes, no)


def to_joint(slots: Tensor, agents: int) -> Tensor:
    """`[..., n * E, k]` as `[..., E, n * k]`."""
    *before, rows, width = slots.shape
    parts = slots.reshape(*before, agents, rows // agents, width)
    return parts.transpose(-3, -2).flatten(-2)


@dataclass
class Seats:
    """The agents that a policy owns, and its columns in joint tensors.

    Attributes:
        policy: acts for them.
        agents: their numbers among all agents.
        count: n, how many they are.
        leaves: by the name of a leaf that the policy sees, those of its agents in the joint space.
        actions: by the name of a leaf of its actions, likewise.
        beside: by the name of a leaf that only its value function sees, likewise.
        noise, action, inputs, log_prob: columns.
        memory: its parts of the state: the memory before each agent's latest step, and after it.
    """

    policy: Policy
    agents: list[int]
    count: int
    leaves: dict[str, list[str]]
    actions: dict[str, list[str]]
    beside: dict[str, list[str]]
    noise: slice
    action: slice
    inputs: slice
    log_prob: slice
    memory: slice

    def memories(self, state: State) -> tuple[State, State]:
        """Its agents' memories before and after their latest steps, each `[n * E, ...]`."""
        parts = tuple(part.transpose(0, 1).flatten(0, 1) for part in state[self.memory])
        return parts[: len(parts) // 2], parts[len(parts) // 2 :]

    def rows(self, obs: Mapping[str, Tensor], dim: int = 0) -> dict[str, Tensor]:
        """The leaves that the policy sees, from the joint ones, whose environments are at `dim`."""
        return {
            own: torch.cat([obs[name] for name in names], dim) if names[1:] else obs[names[0]]
            for own, names in self.leaves.items()
        }

    def rows_beside(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Likewise what only its value function sees, `[R, n * E, ...]`."""
        found = {
            own: torch.cat([obs[name] for name in names], 1)
            for own, names in self.beside.items()
            if names
        }
        if NUMBER in self.beside:
            steps, envs = obs[ACTS].shape[:2]
            numbers = torch.arange(self.count).repeat_interleave(envs)
            found[NUMBER] = numbers.expand(steps, -1)
        return found

    def flags(self, joint: Tensor) -> Tensor:
        """What is said of each of its agents, from `[..., E, all agents]`, as `[..., n * E]`."""
        return joint[..., self.agents].transpose(-2, -1).flatten(-2)

    def samples(self, joint: Tensor) -> Tensor:
        """Its agents' actions, from joint ones, as the policy's distribution samples them."""
        dist = self.policy.dist
        flat = to_slots(joint[..., self.action], self.count)
        return flat.reshape(*flat.shape[:-1], *dist.action_shape).to(dist.action_dtype)


class TeamPolicy:
    """Acts for all agents; what samplers and evaluations ask of a `Policy`, it has.

    Args:
        policies: by name.
        owners: the name of the policy of each agent.
        obs_layout, action_layout: the joint ones.

    Attributes:
        seats: the agents of each policy.
        dist: itself: the independent actions of all agents, with a probability for each; arithmetic
            as `poise.learning.distributions` has it. An action is one vector of floats.
    """

    action_dtype: ClassVar[torch.dtype] = torch.float32
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
        self.dist, self.log_prob_shape = self, (len(owners),)
        self.action_shape = (max(each.action.stop for each in self.seats.values()),)
        self.normal_noise = all(policy.dist.normal_noise for policy in policies.values())
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
        known = 0
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
            beside = {}
            if policy.obs_layout.beside:
                shown = seen_beside(self.obs_layout, agents)
                beside = {leaf: names for leaf, (_, names) in shown.items()}
            actions = {leaf: [each[leaf] for each in does] for leaf in does[0]}
            rows = [numbers[agent] for agent in agents]
            start, known = known, known + 2 * len(policy.initial_state(1))
            columns["memory"] = slice(start, known)
            seats[name] = Seats(policy, rows, len(rows), leaves, actions, beside, **columns)
        return seats

    @property
    def overflown(self) -> str | None:
        """The first parameter that is not finite, as `<policy>/<name>`; None if all are."""
        found = ((name, policy.overflown) for name, policy in self.policies.items())
        return next((f"{name}/{what}" for name, what in found if what is not None), None)

    def initial_state(self, batch: int) -> State:
        """The memories of all policies, a row for each environment, `[batch, n, ...]`."""
        return tuple(
            part.reshape(each.count, batch, *part.shape[1:]).transpose(0, 1)
            for each in self.seats.values()
            for part in 2 * each.policy.initial_state(each.count * batch)
        )

    @torch.no_grad()
    def act(
        self, obs: Mapping[str, Tensor], state: State, first: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, State]:
        """Chooses the actions of all agents, also of those that wait; see `Policy.act`."""
        actions, inputs, memories = [], [], []
        for each in self.seats.values():
            drawn = None if noise is None else to_slots(noise[..., each.noise], each.count)
            begins = each.flags(obs[BEGINS]) > 0
            before, now = each.memories(state)
            action, own, after = self.ask(each, obs, now, begins, drawn)
            action = action.reshape(len(action), -1).to(torch.float32)
            actions.append(to_joint(action, each.count))
            inputs.append(to_joint(own, each.count))
            for new, old in zip((*now, *after), (*before, *now), strict=True):
                part = _where(each.flags(obs[ACTS]) > 0, new, old)
                memories.append(part.reshape(each.count, -1, *part.shape[1:]).transpose(0, 1))
        return torch.cat(actions, -1), torch.cat(inputs, -1), tuple(memories)

    def ask(
        self,
        each: Seats,
        obs: Mapping[str, Tensor],
        memory: State,
        begins: Tensor,
        noise: Tensor | None,
    ) -> tuple[Tensor, Tensor, State]:
        """What one policy does for its agents, `[n * E, ...]`; see `Policy.act`."""
        return each.policy.act(each.rows(obs), memory, begins, noise)

    def steps(self, each: Seats, rollout: Rollout) -> Tensor:
        """Where a joint rollout has steps that a policy may learn from, `[T, n * E]` bool."""
        return (rollout.valid > 0).repeat(1, each.count)

    def noise(self, shape: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        """The noise of all agents, `[..., E, noise of all]`."""
        parts = []
        for each in self.seats.values():
            drawn = each.policy.dist.noise((*shape[:-1], each.count * shape[-1]), generator)
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


class Split:
    """Splits joint rollouts `[T, E]` into rollouts `[T, n * E]` of each policy's n agents.

    Args:
        team: acted.
        envs: the number of environments.

    Attributes:
        open: the steps that are not finished, by policy.
    """

    def __init__(self, team: TeamPolicy, envs: int) -> None:
        self.team, self.envs = team, envs
        self.open = {name: _nothing(each, team, envs) for name, each in team.seats.items()}

    def __call__(self, rollout: Rollout) -> dict[str, Rollout]:
        """The rollouts by policy; what is not finished is kept for the next call."""
        seats = self.team.seats.items()
        return {name: self._part(each, rollout, self.open[name]) for name, each in seats}

    def _part(self, each: Seats, rollout: Rollout, kept: dict[str, Tensor]) -> Rollout:
        n, steps = each.count, rollout.steps
        acts, begins = (each.flags(rollout.obs[key]) > 0 for key in (ACTS, BEGINS))
        ended = [each.flags(rollout.obs[key][1:]) > 0 for key in (TERMINATED, TRUNCATED)]
        earned = each.flags(rollout.obs[REWARD][1:])
        stepped = self.team.steps(each, rollout)
        cut = (rollout.terminated | rollout.truncated).repeat(1, n)
        ids = torch.cat([rollout.ids + k * self.envs for k in range(n)])
        # Of an environment that begins anew here, nothing is left to finish.
        pending = kept["pending"][ids] & ~rollout.first[0].repeat(n)
        held, now = each.memories(rollout.state)
        state = tuple(_where(pending, *pair) for pair in zip(held, now, strict=True))
        reward, source = kept["reward"][ids], torch.full((len(ids),), -1)
        valid, rewards = torch.zeros(steps, len(ids)), torch.zeros(steps, len(ids))
        terminated, truncated = torch.zeros(2, steps, len(ids), dtype=torch.bool)
        sources = torch.empty(steps + 1, len(ids), dtype=torch.int64)
        for t in range(steps):
            fresh = acts[t] & stepped[t]
            source = torch.where(pending & ~fresh, source, t)
            reward = torch.where(fresh, 0.0, reward) + earned[t] * stepped[t]
            pending = pending | fresh
            over = ended[0][t] | ended[1][t] | cut[t]
            done = pending & stepped[t] & (acts[t + 1] | ended[0][t] | ended[1][t])
            lost = pending & over & ~done  # with the environment, before its outcome was known
            sources[t], valid[t], rewards[t] = source, done, reward * done
            terminated[t] = done & ended[0][t]
            truncated[t] = lost | (done & over & (ended[1][t] | ~ended[0][t]))
            pending, reward = pending & ~(done | over), reward * ~done
        sources[steps] = torch.where(pending & ~acts[steps], source, steps)
        waited = bool((sources != torch.arange(steps + 1).unsqueeze(1)).any())
        log_prob = to_slots(rollout.log_prob[..., each.log_prob], n).squeeze(-1)
        was = {"action": each.samples(rollout.action), "log_prob": log_prob, "first": begins[:-1]}
        was |= each.rows_beside(rollout.obs)
        for key, own in was.items() if waited else ():  # what was so where an agent acted
            both = torch.cat([kept[key][ids].unsqueeze(0), own])
            was[key] = both[sources[: len(own)] + 1, torch.arange(len(ids))]
            kept[key][ids] = was[key][-1]
        kept["pending"][ids], kept["reward"][ids] = pending, reward
        action, log_prob, first = (was.pop(key) for key in ("action", "log_prob", "first"))
        waits = (valid == 0) & ~begins[1:]
        part = Rollout(
            obs=each.rows(rollout.obs, 1) | was,
            action=action,
            log_prob=log_prob,
            reward=rewards,
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            first=begins,
            ids=ids,
            state=state,
            version=rollout.version,
            waits=waits if waits.any() else None,
            env_steps=int(rollout.valid.sum()),
        )
        if not (state and waited):
            return part
        if isinstance(each.policy, RecurrentQPolicy):
            raise ConfigError(
                "DQN with a memory (model.memory) is not allowed where agents wait for others to "
                "act: its replay holds rows of all. PPO, A2C, IMPALA and APPO can have one there."
            )
        return _closed_up(part, first)


def _closed_up(rollout: Rollout, first: Tensor) -> Rollout:
    """The rollout of agents that wait, with each agent's steps one after the other.

    Kept is also the row before an episode begins, which bootstraps the one before; the last row
    takes the place of all that are left out.

    Args:
        rollout: of a policy with a memory.
        first: whether the step that stands in a row is an episode's first, `[T, B]`.
    """
    keeps = (rollout.valid > 0) | rollout.first[1:]
    within = torch.arange(rollout.steps).unsqueeze(1) < keeps.sum(0)
    order = (~keeps).to(torch.int8).argsort(dim=0, stable=True).where(within, rollout.steps)
    columns = torch.arange(rollout.slots)

    def closed(rows: Tensor) -> Tensor:
        return rows[order.clamp(max=rollout.steps - 1), columns]

    valid = closed(rollout.valid) * within
    first = torch.cat([closed(first & (rollout.valid > 0)) & within, rollout.first[-1:]])
    return replace(
        rollout,
        obs={k: torch.cat([leaf[order, columns], leaf[-1:]]) for k, leaf in rollout.obs.items()},
        action=closed(rollout.action),
        log_prob=closed(rollout.log_prob),
        reward=closed(rollout.reward) * valid,
        terminated=closed(rollout.terminated) & (valid > 0),
        truncated=(closed(rollout.truncated) & (valid > 0)) | (first[1:] & (valid == 0)),
        valid=valid,
        first=first,
        waits=valid == 0,
    )


def _nothing(each: Seats, team: TeamPolicy, envs: int) -> dict[str, Tensor]:
    slots, dist = each.count * envs, each.policy.dist
    beside = {
        leaf.name: torch.zeros(
            slots, *leaf.shape, dtype=stored_dtype(leaf.dtype.name, wide=team.wide)
        )
        for leaf in each.policy.obs_layout.beside
    }
    return {
        **beside,
        "pending": torch.zeros(slots, dtype=torch.bool),
        "reward": torch.zeros(slots),
        "action": torch.zeros(slots, *dist.action_shape, dtype=dist.action_dtype),
        "log_prob": torch.zeros(slots),
        "first": torch.zeros(slots, dtype=torch.bool),
    }
