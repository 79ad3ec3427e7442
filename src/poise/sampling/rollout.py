"""A rollout: T steps of B slots, time-major, in memory that is reused.

A slot is one agent of one environment. Under NEXT_STEP autoreset, an episode that ends at row t has
its final observation in row t + 1, and the step that starts there is the reset: it is not valid.

    row          t-1      t        t+1          t+2
    obs          o        o        final obs    first obs of the next episode
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

from poise.spaces.layout import Layout

Leaves = dict[str, Tensor]

_PER_SLOT = ("action", "log_prob", "reward", "terminated", "truncated", "valid", "first")
"""Fields that are one tensor with the slots along its second axis."""

_OUTCOMES = ("reward", "terminated", "truncated", "valid")
"""Those of them that are written step by step."""


@dataclass
class Rollout:
    """What a sampler hands to an algorithm; it is overwritten by the sampler's next rollout.

    Attributes:
        obs: leaves `[T + 1, B, ...]`; row T is where the next rollout begins.
        action: the distribution's samples, `[T, B, ...]`, before squashing, scaling or clipping.
        log_prob: of these actions under the policy that chose them, `[T, B]`; zeros where nobody
            asks for it.
        reward: as the environment gave it, `[T, B]`.
        terminated, truncated: how the step ended, `[T, B]` bool.
        valid: 1.0 where a step counts, 0.0 where it only reset, `[T, B]`.
        first: whether an episode starts with this observation, `[T + 1, B]` bool.
        state: the policy's memory at row 0.
        version: of the policy that acted.
        final: observations that ended an episode and are not the next row (SAME_STEP autoreset):
            `(t, b, leaves)`.
    """

    obs: Leaves
    action: Tensor
    log_prob: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    first: Tensor
    state: tuple[Tensor, ...] = ()
    version: int = 0
    final: list[tuple[int, int, Leaves]] = field(default_factory=list)

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
    ) -> Rollout:
        """Memory for a rollout of `steps` x `slots`, with float64 observations as they are if it is
        `wide`."""
        obs = {
            leaf.name: torch.zeros(
                steps + 1, slots, *leaf.shape, dtype=stored_dtype(leaf.dtype.name, wide=wide)
            )
            for leaf in obs_layout.leaves
        }
        return cls(
            obs=obs,
            action=torch.zeros(steps, slots, *action_shape, dtype=action_dtype),
            log_prob=torch.zeros(steps, slots),
            reward=torch.zeros(steps, slots),
            terminated=torch.zeros(steps, slots, dtype=torch.bool),
            truncated=torch.zeros(steps, slots, dtype=torch.bool),
            valid=torch.ones(steps, slots),
            first=torch.zeros(steps + 1, slots, dtype=torch.bool),
        )

    @property
    def steps(self) -> int:
        """T."""
        return self.reward.shape[0]

    @property
    def slots(self) -> int:
        """B."""
        return self.reward.shape[1]

    def to(self, device: torch.device) -> Rollout:
        """The same on a device; `final` stays."""
        if device.type == "cpu":
            return self
        tensors = {name: getattr(self, name).to(device) for name in _PER_SLOT}
        obs, state = (
            {name: leaf.to(device) for name, leaf in self.obs.items()},
            tuple(s.to(device) for s in self.state),
        )
        return replace(self, obs=obs, state=state, **tensors)

    def part(self, start: int, stop: int) -> Rollout:
        """The slots from `start` to `stop`, as views."""
        tensors: dict[str, Any] = {name: getattr(self, name)[:, start:stop] for name in _PER_SLOT}
        return Rollout(
            obs={name: leaf[:, start:stop] for name, leaf in self.obs.items()},
            **tensors,
            state=tuple(each[start:stop] for each in self.state),
            version=self.version,
            final=[(t, b - start, leaves) for t, b, leaves in self.final if start <= b < stop],
        )

    def describe(self, parts: list[Rollout]) -> None:
        """Takes over what is no tensor of steps from the parts that this rollout was filled
        through."""
        self.state = tuple(
            torch.cat(each) for each in zip(*(part.state for part in parts), strict=True)
        )
        self.version = min(part.version for part in parts)
        self.final, offset = [], 0
        for part in parts:
            self.final += [(t, b + offset, leaves) for t, b, leaves in part.final]
            offset += part.slots

    def head(self, steps: int) -> dict[str, Any]:
        """What has been sampled of a rollout that is not full: its first `steps`, without the
        actions."""
        kept = {name: getattr(self, name)[:steps].clone() for name in _OUTCOMES}
        return {
            **kept,
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


def observation_bytes(obs_layout: Layout) -> int:
    """Memory that an observation takes in a rollout."""
    return sum(
        math.prod(leaf.shape) * stored_dtype(leaf.dtype.name).itemsize for leaf in obs_layout.leaves
    )


def stored_dtype(dtype: str, *, wide: bool = False) -> torch.dtype:
    """How a leaf is kept: bytes as bytes, other integers as int64, floats as float32; float64 as it
    is where it is `wide`, since a normaliser can tell apart there what float32 would round to one
    number."""
    if wide and dtype == "float64":
        return torch.float64
    if dtype == "uint8":
        return torch.uint8
    if dtype in ("bool", "int8"):
        return torch.int8
    return torch.int64 if dtype.startswith(("int", "uint")) else torch.float32


def gather(rollouts: list[Rollout]) -> Rollout:
    """Several samplers' rollouts side by side, as one with all their slots.

    A single one is returned as it is.
    """
    if len(rollouts) == 1:
        return rollouts[0]
    tensors: dict[str, Any] = {
        name: torch.cat([getattr(r, name) for r in rollouts], 1) for name in _PER_SLOT
    }
    obs = {name: torch.cat([r.obs[name] for r in rollouts], 1) for name in rollouts[0].obs}
    result = Rollout(obs=obs, **tensors)
    result.describe(rollouts)
    return result
