"""Advantage actor-critic (Mnih et al. 2016, arXiv 1602.01783), its synchronous form.

repeat:
    sample T steps in each of B environments with π
    A ← Σ γᵏ r - V (n-step returns; λ < 1 weighs shorter ones)
    one step along  ∇ [ log π(a|s) A - c₁ (V - R)² + c₂ H[π] ]
"""

from __future__ import annotations

import torch
from torch import Tensor

from poise.algorithms.on_policy import OnPolicy
from poise.config.a2c import A2CConfig
from poise.learning.losses import explained_variance, normalize
from poise.learning.optimizers import Flat, RMSProp
from poise.sampling.rollout import Rollout


class A2C(OnPolicy):
    """A2C with RMSProp: one gradient step per rollout."""

    config: A2CConfig

    def make_optimizer(self, flat: Flat) -> RMSProp:
        return RMSProp(flat, decay=self.config.rms_prop_decay, eps=self.config.rms_prop_eps)

    def update(self, rollout: Rollout) -> dict[str, float]:
        config = self.config
        lr, entropy_coeff = self.scheduled(config.lr), self.scheduled(config.entropy_coeff)
        loss, stats = self.loss(rollout, entropy_coeff)
        norm = self.descend(loss, lr)
        names = ("policy_loss", "vf_loss", "entropy", "vf_explained_var")
        rest = {"grad_norm": norm, "cur_lr": lr, "cur_entropy_coeff": entropy_coeff}
        return {**dict(zip(names, torch.stack(stats).tolist(), strict=True)), **rest}

    def loss(self, rollout: Rollout, entropy_coeff: float) -> tuple[Tensor, list[Tensor]]:
        """The loss of a rollout.

        Returns:
            The loss, and `[policy_loss, vf_loss, entropy, explained variance]`.
        """
        config, dist, rollout = self.config, self.policy.dist, rollout.to(self.device)
        inputs, value, known = self.evaluate(rollout)
        weight = rollout.valid.flatten()
        share = weight / weight.sum().clamp(min=1)  # for a mean over the steps that count
        advantage = self.advantages(rollout, known).flatten()
        target = value.detach() + advantage
        if config.normalize_advantages:
            advantage = normalize(advantage, weight)
        log_prob = dist.log_prob(inputs, rollout.action.flatten(0, 1))
        policy_loss = -torch.dot(share, log_prob * advantage)
        vf_loss = torch.dot(share, (value - target) ** 2)
        loss = policy_loss + config.vf_loss_coeff * vf_loss
        with torch.set_grad_enabled(entropy_coeff > 0):
            entropy = torch.dot(share, dist.entropy(inputs))
        if entropy_coeff:
            loss = loss - entropy_coeff * entropy
        explained = explained_variance(value.detach(), target, weight)
        return loss, [policy_loss.detach(), vf_loss.detach(), entropy.detach(), explained]
