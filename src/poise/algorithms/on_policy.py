"""What PPO, A2C, IMPALA and APPO share: each rollout is learnt from once, by the values of what
came next."""

from __future__ import annotations

import torch
from torch import Tensor

from poise.algorithms.base import Algorithm
from poise.learning.returns import advantages
from poise.sampling.group import SamplerGroup
from poise.sampling.rollout import Rollout


class OnPolicy(Algorithm):
    """What PPO and A2C share: rewards as the learner sees them, values of what came next, the
    normalisers' turn."""

    def collect(self, samplers: SamplerGroup) -> Rollout:
        """A rollout of all samplers."""
        self.warm_up(samplers)
        return samplers.collect()

    def warm_up(self, samplers: SamplerGroup) -> None:
        """The first rollout only shows the observation normaliser what observations are like: a
        policy that learnt from it would have learnt in another input space than the one it goes on
        in."""
        if any(moments.count == 0 for moments in self.policy.moments):
            self.finish_round(samplers.collect())
            samplers.publish(self.updates)

    def learner_reward(self, rollout: Rollout) -> Tensor:
        """Rewards `[T, B]` as they enter the loss: clipped or normalised if asked for.

        Reports use the raw ones.
        """
        if self.config.clip_rewards:
            return rollout.reward.sign()
        return self.reward_scaler(rollout) if self.reward_scaler else rollout.reward

    def next_values(self, rollout: Rollout, value: Tensor) -> Tensor:
        """Values `[T, B]` of the observation each step led to, from the values `[T + 1, B]` of all
        rows.

        Under NEXT_STEP that is simply the next row. Where an episode's final observation is not the
        next row, it is in `rollout.final`, and its value is put in its place.
        """
        if not rollout.final:
            return value[1:]
        result = value[1:].clone()
        leaves = {k: torch.stack([obs[k] for _, _, obs in rollout.final]) for k in rollout.obs}
        with torch.no_grad():
            finals = self.policy.critic(self.policy.prepare(leaves))
        for (t, b, _), v in zip(rollout.final, finals, strict=True):
            result[t, b] = v
        return result

    def advantages(
        self, rollout: Rollout, value: Tensor, rho: Tensor | None = None, c: Tensor | None = None
    ) -> Tensor:
        """Generalized advantages `[T, B]` from the values `[T + 1, B]` of all rows; V-trace's with
        importance weights `[T, B]`."""
        return advantages(
            self.learner_reward(rollout),
            value[:-1],
            self.next_values(rollout, value),
            rollout.terminated,
            rollout.truncated,
            gamma=self.config.gamma,
            lambda_=self.config.gae_lambda,
            rho=rho,
            c=c,
        )

    def finish_round(self, rollout: Rollout) -> None:
        """Counts the steps and lets the observation normaliser see them, now that they have been
        learnt from."""
        self.timesteps += int(rollout.valid.sum().item())
        if self.policy.moments:
            self.policy.update_normalizer(
                {k: v[:-1] for k, v in rollout.obs.items()}, rollout.valid
            )
