"""Rollouts of samplers that no trainer holds, and of samplers that are somewhere else."""

from __future__ import annotations

import copy

from poise.learning.optimizers import Flat
from poise.models.policy import Policy
from poise.sampling.group import SamplerGroup
from poise.sampling.rollout import Rollout
from poise.sampling.sampler import Sampler


def sample(*samplers: Sampler) -> Rollout:
    """One rollout of all of them."""
    return SamplerGroup(samplers).collect()


class Elsewhere(SamplerGroup):
    """Samplers as on another machine.

    They act with a copy of the policy, which knows what was published and nothing else, and their
    rollouts come as copies.
    """

    def __init__(self, group: SamplerGroup, policy: Policy, flat: Flat) -> None:
        super().__init__(group.members)
        self.follow(policy, flat, 0)

    def follow(self, policy: Policy, flat: Flat, version: int) -> None:
        self.flat, self.policy = flat, copy.deepcopy(policy)
        self.own = Flat(self.policy, flat.places)
        for member in self.members:
            member.policy = self.policy
        self.publish(version)

    def publish(self, version: int) -> None:
        super().publish(version)
        learnt = [self.flat.whole, *self.flat.beside]
        for mine, theirs in zip([self.own.whole, *self.own.beside], learnt, strict=True):
            mine.copy_(theirs)

    def collect(self) -> Rollout:
        return copy.deepcopy(super().collect())
