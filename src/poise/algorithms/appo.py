"""Asynchronous PPO: PPO's clipped surrogate on rollouts of slightly older policies.

    repeat:
        take a rollout that μ sampled while the learner was busy
        ρ ← min(ρ̄, π_old(a|s) / μ(a|s))            (π_old is the policy as it is now)
        A ← V-trace's generalized advantages, which ρ weighs,  R ← A + V_old
        for each epoch, for each minibatch:
            maximise  min(r A, clip(r, 1 - ε, 1 + ε) A) - c₁ (V - R)² + c₂ H[π]
            where  r = π(a|s) / π_old(a|s)

The policy that limits the step, π_old, is another than the one that sampled, μ: this is the
decoupled objective of Hilton, Cobbe & Schulman 2022 (arXiv 2110.00641). Without a lag, π_old is μ,
ρ is 1, and this is PPO.
"""

from __future__ import annotations

import torch

from poise.algorithms.asynchronous import Asynchronous
from poise.algorithms.ppo import PPO, Batch
from poise.config.appo import APPOConfig
from poise.models.policy import by_portions, rows
from poise.sampling.rollout import Rollout


class APPO(Asynchronous, PPO):
    """PPO that samples while it learns."""

    config: APPOConfig

    @torch.no_grad()
    def batch(self, rollout: Rollout) -> Batch:
        """Computes what PPO's loss needs of a rollout, with the policy as it is now.

        That is π_old: beside values, the probabilities of the actions are its own, not μ's.
        """
        rollout = rollout.to(self.device)
        steps, slots = rollout.steps, rollout.slots
        n = steps * slots
        x = self.prepared(rollout)
        inputs, values = by_portions(self.policy, x, rollout.state, rollout.first)
        action = rollout.action.flatten(0, 1)
        log_prob = self.policy.dist.log_prob(inputs[:n], action)
        value = values.view(steps + 1, slots)
        ratio = (log_prob.view(steps, slots) - rollout.log_prob).exp_()
        rho, c = ratio.clamp(max=self.config.vtrace_clip_rho_threshold), ratio.clamp(max=1.0)
        advantage = self.advantages(rollout, value, rho, c)
        return self.compact(
            rollout,
            Batch(
                x=rows(x, slice(0, n)),  # row T only bootstraps
                action=action,
                log_prob=log_prob,
                advantage=advantage.flatten(),
                value=values[:n],
                target=(value[:-1] + advantage).flatten(),
                weight=rollout.valid.flatten(),
                **self.memory(rollout, x),
            ),
        )
