"""Rollouts of samplers that no trainer holds."""

from __future__ import annotations

from poise.sampling.group import SamplerGroup
from poise.sampling.rollout import Rollout
from poise.sampling.sampler import Sampler


def sample(*samplers: Sampler) -> Rollout:
    """One rollout of all of them."""
    return SamplerGroup(samplers).collect()
