"""IMPALA (Espeholt et al. 2018, arXiv 1802.01561): actor-critic with samplers that run ahead.

repeat:
    take a rollout that μ sampled while the learner was busy
    ρ ← min(ρ̄, π(a|s) / μ(a|s)),  c ← λ min(1, π(a|s) / μ(a|s))
    v ← V-trace targets
    one step along  ∇ [ ρ log π(a|s) (r + γ v' - V) - c₁ (V - v)² + c₂ H[π] ]
"""

from __future__ import annotations

import torch
from torch import Tensor

from poise.algorithms.asynchronous import Asynchronous
from poise.config.impala import IMPALAConfig
from poise.learning.losses import approximate_kl, explained_variance
from poise.learning.optimizers import Adam, Flat, Optimizer, RMSProp
from poise.learning.returns import vtrace
from poise.sampling.rollout import Rollout


class IMPALA(Asynchronous):
    """IMPALA on one machine, with Adam or RMSProp."""

    config: IMPALAConfig

    def make_optimizer(self, flat: Flat) -> Optimizer:
        config = self.config
        if config.opt_type == "adam":
            return Adam(flat)
        return RMSProp(flat, decay=config.rms_prop_decay, eps=config.rms_prop_eps)

    def update(self, rollout: Rollout) -> dict[str, float]:
        config = self.config
        assert config.sgd_minibatch_size is not None
        lr, entropy_coeff = self.scheduled(config.lr), self.scheduled(config.entropy_coeff)
        rollout = rollout.to(self.device)
        reward = self.learner_reward(rollout)
        slots = config.sgd_minibatch_size // rollout.steps  # a minibatch holds whole slots
        for _ in range(config.num_sgd_iter):
            for start in range(0, rollout.slots, slots):
                stop = min(start + slots, rollout.slots)
                part = rollout if slots >= rollout.slots else rollout.part(start, stop)
                loss, stats = self.loss(part, reward[:, start:stop], entropy_coeff)
                norm = self.descend(loss, lr)
        names = ("policy_loss", "vf_loss", "entropy", "kl", "vf_explained_var")
        rest = {"grad_norm": norm, "cur_lr": lr, "cur_entropy_coeff": entropy_coeff}
        return {**dict(zip(names, torch.stack(stats).tolist(), strict=True)), **rest}

    def loss(
        self, rollout: Rollout, reward: Tensor, entropy_coeff: float
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss of whole trajectories, a mean over their steps.

        Args:
            rollout: the trajectories.
            reward: their rewards as they enter the loss, `[T, B]`.
            entropy_coeff: c₂.

        Returns:
            The loss, and `[policy_loss, vf_loss, entropy, kl, explained variance]`.
        """
        config, dist = self.config, self.policy.dist
        inputs, value, known = self.evaluate(rollout)
        log_prob = dist.log_prob(inputs, rollout.action.flatten(0, 1))
        weight = rollout.valid.flatten()
        share = weight / weight.sum().clamp(min=1)  # for a mean over the steps that count
        with torch.no_grad():
            log_ratio = log_prob - rollout.log_prob.flatten()
            correction, advantage = vtrace(
                log_ratio.view(rollout.steps, rollout.slots),
                reward,
                known[:-1],
                self.next_values(rollout, known),
                rollout.terminated,
                rollout.truncated,
                gamma=config.gamma,
                lambda_=config.gae_lambda,
                rho_limit=config.vtrace_clip_rho_threshold,
                pg_rho_limit=config.vtrace_clip_pg_rho_threshold,
                waits=rollout.waits,
            )
            target = value + correction.flatten()
            kl = torch.dot(share, approximate_kl(log_ratio))
        policy_loss = -torch.dot(share, log_prob * advantage.flatten())
        vf_loss = torch.dot(share, (value - target) ** 2)
        entropy = torch.dot(share, dist.entropy(inputs))
        loss = policy_loss + config.vf_loss_coeff * vf_loss - entropy_coeff * entropy
        explained = explained_variance(value.detach(), target, weight)
        return loss, [policy_loss.detach(), vf_loss.detach(), entropy.detach(), kl, explained]
