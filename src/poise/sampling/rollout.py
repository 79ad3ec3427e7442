"""A rollout: T steps of B slots, time-major, in memory that is reused.

A slot is one agent of one environment. Under NEXT_STEP autoreset, an episode that ends at row t has
its final observation in row t + 1, and the step that starts there is the reset: it is not valid.

    row          t-1      t        t+1          t+2
    obs          obs      obs      final obs    first obs of the next episode
    terminated   False    True     False        False
    valid        True     True     False        True
    first        False    False    False        True
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from poise.models.policy import Policy
from poise.spaces.layout import Layout

Leaves = dict[str, Tensor]

PER_SLOT = ("action", "log_prob", "reward", "terminated", "truncated", "valid", "first")
"""The fields that are a tensor `[T, B, ...]`."""

_OUTCOMES = ("reward", "terminated", "truncated", "valid")
"""Those of them that are written step by step; actions follow at the end."""


@dataclass
class Rollout:
    """What a sampler hands to an algorithm; the sampler's next rollout overwrites it.

    Attributes:
        obs: leaves `[T + 1, B, ...]`; row T is where the next rollout begins.
        action: the distribution's samples, `[T, B, ...]`, before squashing, scaling or clipping.
        log_prob: of these actions under the policy that chose them, `[T, B]`; zeros if the
            algorithm does not use it.
        reward: as the environment gave it, `[T, B]`.
        terminated, truncated: whether the step ended the episode, and how, `[T, B]` bool.
        valid: 1.0 where a step counts, 0.0 where it only reset, `[T, B]`.
        first: whether an episode starts with this observation, `[T + 1, B]` bool.
        ids: the numbers of these slots among all of the run, `[B]`. Where samplers run ahead of
            the learner, a slot may be in it twice, the earlier steps first.
        state: the policy's memory at row 0, each `[B, ...]`.
        version: of the policy that acted.
        final: last observations of episodes that are not in the next row (SAME_STEP autoreset),
            each as `(t, b, leaves)`.
        waits: where an agent waits, `[T, B]` bool, so that advantages pass through the row (see
            `poise.sampling.seats`); None where none does.
        env_steps: the environment steps that it took, where they are not its valid rows.
    """

    obs: Leaves
    action: Tensor
    log_prob: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    first: Tensor
    ids: Tensor
    state: tuple[Tensor, ...] = ()
    version: int = 0
    final: list[tuple[int, int, Leaves]] = field(default_factory=list)
    waits: Tensor | None = None
    env_steps: int | None = None

    @classmethod
    def empty(
        cls,
        steps: int,
        slots: int,
        obs_layout: Layout,
        action_shape: tuple[int, ...],
        action_dtype: torch.dtype,
        *,
        wide: bool = False,
        first_slot: int = 0,
    ) -> Rollout:
        """Allocates a rollout of `steps` (T) x `slots` (B).

        Args:
            steps: T.
            slots: B.
            obs_layout: the leaves of an observation.
            action_shape: of one action, as the distribution samples it.
            action_dtype: likewise.
            wide: whether float64 observations are stored as float64.
            first_slot: the number of its first slot; the others follow.
        """
        obs = {}
        for leaf in obs_layout.leaves:
            dtype = stored_dtype(leaf.dtype.name, wide=wide)
            obs[leaf.name] = torch.zeros(steps + 1, slots, *leaf.shape, dtype=dtype)
        return cls(
            obs=obs,
            action=torch.zeros(steps, slots, *action_shape, dtype=action_dtype),
            log_prob=torch.zeros(steps, slots),
            reward=torch.zeros(steps, slots),
            terminated=torch.zeros(steps, slots, dtype=torch.bool),
            truncated=torch.zeros(steps, slots, dtype=torch.bool),
            valid=torch.ones(steps, slots),
            first=torch.zeros(steps + 1, slots, dtype=torch.bool),
            ids=torch.arange(first_slot, first_slot + slots),
        )

    @property
    def steps(self) -> int:
        """T, the steps of each slot."""
        return self.reward.shape[0]

    @property
    def slots(self) -> int:
        """B, the slots."""
        return self.reward.shape[1]

    @property
    def share(self) -> float:
        """The share of its rows in which something happened, a step or a reset; 1 but where
        samplers or their environments were lost."""
        nothing = (self.valid == 0) & ~self.first[1:]
        return 1 - int(nothing.sum()) / nothing.numel()

    def to(self, device: torch.device) -> Rollout:
        """A copy on another device; `final` stays where it is. On the CPU, the rollout itself."""
        if device.type == "cpu":
            return self
        tensors = {name: getattr(self, name).to(device) for name in PER_SLOT}
        obs = {name: leaf.to(device) for name, leaf in self.obs.items()}
        state = tuple(part.to(device) for part in self.state)
        waits = None if self.waits is None else self.waits.to(device)
        return replace(self, obs=obs, state=state, waits=waits, **tensors)

    def part(self, start: int, stop: int) -> Rollout:
        """The slots from `start` up to `stop`, as views of this rollout's memory."""
        tensors: dict[str, Any] = {name: getattr(self, name)[:, start:stop] for name in PER_SLOT}
        return Rollout(
            obs={name: leaf[:, start:stop] for name, leaf in self.obs.items()},
            **tensors,
            ids=self.ids[start:stop],
            state=tuple(part[start:stop] for part in self.state),
            version=self.version,
            final=[(t, b - start, leaves) for t, b, leaves in self.final if start <= b < stop],
            waits=None if self.waits is None else self.waits[:, start:stop],
        )

    def describe(self, parts: list[Rollout]) -> None:
        """Takes `ids`, `state`, `version` and `final` from the parts that this one consists of."""
        self.ids = torch.cat([part.ids for part in parts])
        states = zip(*(part.state for part in parts), strict=True)
        self.state = tuple(torch.cat(each) for each in states)
        self.version = min(part.version for part in parts)
        self.final, offset = [], 0
        for part in parts:
            self.final += [(t, b + offset, leaves) for t, b, leaves in part.final]
            offset += part.slots

    def head(self, steps: int) -> dict[str, Any]:
        """The first `steps` rows of a rollout that is not full yet, without actions."""
        outcomes = {name: getattr(self, name)[:steps].clone() for name in _OUTCOMES}
        return {
            **outcomes,
            "obs": {name: leaf[: steps + 1].clone() for name, leaf in self.obs.items()},
            "first": self.first[: steps + 1].clone(),
            "state": list(self.state),
            "version": self.version,
            "final": [[t, b, leaves] for t, b, leaves in self.final],
        }

    def put_back(self, head: dict[str, Any], steps: int) -> None:
        """Restores what `head` returned of another rollout."""
        for name in _OUTCOMES:
            getattr(self, name)[:steps] = torch.as_tensor(head[name])
        for name, leaf in self.obs.items():
            leaf[: steps + 1] = torch.as_tensor(head["obs"][name])
        self.first[: steps + 1] = torch.as_tensor(head["first"])
        self.state = tuple(torch.as_tensor(part) for part in head["state"])
        self.version = head["version"]
        self.final[:] = [
            (t, b, {name: torch.as_tensor(leaf) for name, leaf in leaves.items()})
            for t, b, leaves in head["final"]
        ]


def rollout_for(policy: Policy, steps: int, slots: int, first_slot: int = 0) -> Rollout:
    """Allocates a rollout `[steps, slots]` of what a policy sees and does."""
    dist, layout = policy.dist, policy.obs_layout
    shape, dtype = dist.action_shape, dist.action_dtype
    rollout = Rollout.empty(
        steps, slots, layout, shape, dtype, wide=policy.wide, first_slot=first_slot
    )
    rollout.state = policy.initial_state(slots)
    rollout.log_prob = torch.zeros(steps, slots, *policy.log_prob_shape)
    return rollout


def observation_bytes(obs_layout: Layout) -> int:
    """The bytes that one observation takes in a rollout, with what only a value function sees."""
    leaves = obs_layout.leaves + obs_layout.beside
    return sum(math.prod(leaf.shape) * stored_dtype(leaf.dtype.name).itemsize for leaf in leaves)


def stored_dtype(dtype: str, *, wide: bool = False) -> torch.dtype:
    """The type that a leaf of this type is stored as.

    Bytes stay bytes, other integers become int64, and floats float32. Float64 stays as it is if it
    is `wide`: a normaliser can tell numbers apart there that float32 would round to the same.
    """
    if wide and dtype == "float64":
        return torch.float64
    if dtype == "uint8":
        return torch.uint8
    if dtype in ("bool", "int8"):
        return torch.int8
    return torch.int64 if dtype.startswith(("int", "uint")) else torch.float32


def gather(rollouts: list[Rollout]) -> Rollout:
    """Joins the rollouts of several samplers into one with all their slots.

    A single one is returned as it is.
    """
    if len(rollouts) == 1:
        return rollouts[0]
    tensors: dict[str, Any] = {}
    for name in PER_SLOT:
        tensors[name] = torch.cat([getattr(rollout, name) for rollout in rollouts], dim=1)
    obs = {}
    for name in rollouts[0].obs:
        obs[name] = torch.cat([rollout.obs[name] for rollout in rollouts], dim=1)
    result = Rollout(obs=obs, **tensors, ids=rollouts[0].ids)
    result.describe(rollouts)
    return result
