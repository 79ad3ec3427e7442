"""What PPO, A2C, IMPALA and APPO share: they learn from each rollout as a whole, and only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from poise.algorithms.base import Algorithm
from poise.learning.group import Group
from poise.learning.returns import advantages
from poise.models.sharing import sharing
from poise.sampling.group import SamplerGroup
from poise.sampling.rollout import Rollout


class OnPolicy(Algorithm):
    """Base of the algorithms that learn from rollouts: rewards, advantages, normalisers.

    Attributes:
        together: has all learners run `update` on a rollout, each with a share of what networks
            compute; None where there is only this one.
    """

    together: Callable[[Rollout], dict[str, float]] | None = None

    def iteration(self, samplers: SamplerGroup) -> dict[str, float]:
        for _ in self.rounds():
            rollout = self.collect(samplers)
            stats = self.learn_from(rollout)
            self.finish_round(rollout)
            samplers.publish(self.updates)
        return stats

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learns from one rollout.

        Several learners run it at the same time. What it depends on must be the rollout and this
        object alone.

        Returns:
            The learner's statistics.
        """
        # Not abstract: a subclass whose `iteration` is its own may do without.
        raise NotImplementedError

    def learn_from(self, rollout: Rollout) -> dict[str, float]:
        """Runs `update` on a rollout, in all learners."""
        return (self.together or self.update)(rollout)

    @contextmanager
    def in_group(self, group: Group) -> Iterator[None]:
        """Takes gradient steps within the block together with others, who run the same code."""
        before = self.learner.group
        try:
            for learner in self.learners.values():
                learner.group = group
            with sharing(self.policy, group):
                yield
        finally:
            for learner in self.learners.values():
                learner.group = before

    def collect(self, samplers: SamplerGroup) -> Rollout:
        """Samples one rollout with all samplers."""
        self.warm_up(samplers)
        return samplers.collect()

    def warm_up(self, samplers: SamplerGroup) -> None:
        """Shows the observation normaliser a first rollout, from which nothing is learnt.

        A policy that learnt from it would have learnt in another input space than the one that it
        goes on in.
        """
        if any(moments.count == 0 for moments in self.policy.moments):
            self.finish_round(samplers.collect())
            samplers.publish(self.updates)

    def evaluate(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
        """Runs the policy on all rows of a rollout, with gradients.

        Returns:
            The distribution inputs of its N = T B steps, `[N, num_inputs]`, and their values,
            `[N]`; and the values of all rows without their gradients, `[T + 1, B]`.
        """
        n = rollout.steps * rollout.slots
        x = self.prepared(rollout)
        inputs, values = self.policy(x, rollout.state, rollout.first)
        known = values.detach().view(rollout.steps + 1, rollout.slots)
        return inputs[:n], values[:n], known  # row T only bootstraps

    def prepared(self, rollout: Rollout) -> Any:
        """The network input of all rows of a rollout, `[(T + 1) * B, ...]`."""
        r = rollout
        return self.policy.prepare_steps(r.obs, r.action, r.reward, r.state, r.first)

    def learner_reward(self, rollout: Rollout) -> Tensor:
        """Rewards `[T, B]` as they enter the loss: raw, clipped to their sign, or scaled.

        What is reported is always raw.
        """
        if self.config.clip_rewards:
            return rollout.reward.sign()
        return self.reward_scaler(rollout) if self.reward_scaler else rollout.reward

    def next_values(self, rollout: Rollout, value: Tensor) -> Tensor:
        """Values `[T, B]` of the observations that each step led to.

        Under NEXT_STEP that is simply the next row. Where an episode's final observation is not the
        next row, it is in `rollout.final`, and its value is put in its place.

        Args:
            rollout: the rollout.
            value: values of all rows, `[T + 1, B]`.
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
        """Generalized advantages `[T, B]`; with importance weights, those of V-trace's targets.

        Args:
            rollout: the rollout.
            value: values of all rows, `[T + 1, B]`.
            rho, c: clipped importance weights `[T, B]`; see `returns.advantages`.
        """
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
            waits=rollout.waits,
        )
