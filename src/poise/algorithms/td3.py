"""TD3 (Fujimoto et al. 2018, arXiv 1802.09477) and DDPG (Lillicrap et al. 2016, arXiv 1509.02971).

    repeat:
        sample T steps in each of B environments by μ + noise, and add them to the replay
        for each gradient step:
            draw steps (s, a, r, s') from the replay
            a' ← μ⁻(s') + clipped noise;   y ← r + γ (1 - terminated) min Q⁻(s', a')
            critics:  one step along  -∇ (Q(s, a) - y)² / 2
            every second time:
                policy:   one step along   ∇ Q₁(s, μ(s))
                θ⁻ ← τ θ + (1 - τ) θ⁻

DDPG is TD3 with one critic, no noise on a', and a step of the policy each time. All of it is SAC
without entropy: what is here is the difference.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from poise.algorithms.off_policy import OffPolicy
from poise.algorithms.sac import SAC, Learnt
from poise.config.td3 import TD3Config
from poise.learning.learner import Learner
from poise.models.policy import Policy
from poise.models.soft import Drawn
from poise.models.soft_policy import DeterministicPolicy
from poise.sampling.replay import Batch, Replay
from poise.spaces.layout import Layout


class TD3(SAC):
    """Twin delayed deep deterministic policy gradient, for `Box` actions."""

    config: TD3Config  # type: ignore[assignment]
    policy: DeterministicPolicy

    def make_policy(self, obs_layout: Layout, action_layout: Layout) -> Policy:
        config = self.config
        policy = DeterministicPolicy(
            obs_layout,
            action_layout,
            config.model,
            normalize_observations=config.normalize_observations,
            deviation=config.exploration_noise,
        )
        self.make_critics(policy)
        return policy

    def make_learners(self) -> dict[str, Learner]:
        parts = {"policy": self.policy, "critics": self.critics}
        return {name: Learner(part, self.make_optimizer, self.clip) for name, part in parts.items()}

    @property
    def followed(self) -> Iterable[str]:
        return ("policy", "critics") if self.config.target_networks else ()

    @property
    def alpha(self) -> Tensor:
        return torch.zeros(1, dtype=self.policy.dtype, device=self.device)

    def draw(self, replay: Replay, count: int) -> tuple[Batch, Tensor]:
        return OffPolicy.draw(self, replay, count)  # there is no entropy on the way

    def following(self, x: Any) -> Drawn:
        config, soft = self.config, self.policy.soft
        target = self.policy
        if self.config.target_networks:
            target = self.targets["policy"].module  # type: ignore[assignment]
        drawn = soft.drawn(target.trace(x, self.hidden_dtype)[0], None)
        limit = config.target_noise_clip
        noise = self.noise(x).mul_(config.target_noise).clamp_(-limit, limit)
        drawn.numbers = soft.clipped(drawn.numbers + noise)
        return drawn

    def worth(self, q: Tensor, odds: Tensor) -> tuple[Tensor, Tensor]:
        slope = torch.zeros_like(q)
        slope[0] = 1 / q.shape[-1]  # of quantiles, their mean
        return q[0].mean(-1, keepdim=True), slope

    def statistics(self, learnt: Learnt | None) -> dict[str, float]:
        found = super().statistics(learnt)
        return {key: value for key, value in found.items() if key not in ("alpha", "entropy")}

    def update_targets(self) -> None:
        every = 1 if self.config.target_network_update_freq else self.config.policy_delay
        if self.learners["critics"].updates % every == 0:
            super().update_targets()
