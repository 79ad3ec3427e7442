"""Proximal Policy Optimization (Schulman et al. 2017, arXiv 1707.06347).

repeat:
    sample T steps in each of B environments with π_old
    A ← generalized advantages,  R ← A + V_old
    for each epoch, for each minibatch:
        maximise  min(r A, clip(r, 1 - ε, 1 + ε) A) - c₁ (V - R)² + c₂ H[π],   r = π(a|s) / π_old(a|s)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from poise.algorithms.on_policy import OnPolicy
from poise.config.ppo import PPOConfig
from poise.learning.losses import approximate_kl, explained_variance, normalize, ppo_loss
from poise.models.policy import State, by_portions, rows
from poise.sampling.group import SamplerGroup
from poise.sampling.rollout import Rollout


@dataclass
class Batch:
    """The steps of a rollout as one flat list, `[N, ...]` each.

    Attributes:
        x: prepared observations (a tensor, or a structure of tensors for custom models).
        weight: 1 for steps that count, 0 for those that only reset. In a minibatch the weights sum
            to 1.
        order: of `x`, where it is not yet that of the rest: copying all pictures at once takes far
            longer than those of one minibatch after the other, which share memory.
        state, first: of a policy with a memory, for steps that are T rows of B slots in turn; see
            `Policy`.
    """

    x: Any
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    value: Tensor
    target: Tensor
    weight: Tensor
    order: Tensor | None = None
    state: State = ()
    first: Tensor | None = None

    def __getitem__(self, index: Any) -> Batch:
        """The same of some steps, or of all in another order."""
        rest: tuple[Any, ...] = (
            self.action,
            self.log_prob,
            self.advantage,
            self.value,
            self.target,
            self.weight,
        )
        order: Tensor | None = None
        if self.order is not None:
            order = self.order[index]
        elif (
            isinstance(index, Tensor) and isinstance(self.x, Tensor) and self.x.dtype == torch.uint8
        ):
            order = index
        part = Batch(rows(self.x, index) if order is None else self.x, *(t[index] for t in rest))
        part.order = order
        return part

    def gathered(self) -> Batch:
        """The same, with all in one order."""
        return (
            self
            if self.order is None
            else replace(self, x=self.x.index_select(0, self.order), order=None)
        )

    def minibatches(self, size: int, *, normalize_advantages: bool) -> Iterator[Batch]:
        """Consecutive parts of `size` steps (the last may be shorter), as views, with weights that
        sum to 1.

        Advantages are normalised within each part, but for all parts of equal size at once; those
        of parts of one step within the whole.
        """
        n = len(self.weight)
        for start, end, length in ((0, n - n % size, size), (n - n % size, n, n % size)):
            if start == end:
                continue
            parts = self[start:end]
            weight = parts.weight.view(-1, length)
            counts = weight.sum(1, keepdim=True)
            if normalize_advantages and length == 1:
                parts.advantage = normalize(self.advantage, self.weight)[start:end]
            elif normalize_advantages:
                parts.advantage = normalize(parts.advantage.view(-1, length), weight).flatten()
            parts.weight = (weight / counts.clamp(min=1)).flatten()
            for first, count in zip(
                range(0, end - start, length), counts.flatten().tolist(), strict=True
            ):
                if count:  # a part in which every step only reset holds nothing to learn
                    yield (
                        parts if length == end - start else parts[first : first + length]
                    ).gathered()

    def sequences(
        self, order: Tensor | None, size: int, *, normalize_advantages: bool
    ) -> Iterator[Batch]:
        """Minibatches for a policy with a memory: all steps of so many slots as have about `size`
        steps."""
        assert self.first is not None
        steps, slots = self.first.shape
        order = torch.arange(slots, device=self.weight.device) if order is None else order
        rows_of = torch.arange(steps, device=order.device).unsqueeze(1) * slots
        for chosen in torch.split(order, max(1, size // steps)):
            part = self[(rows_of + chosen).flatten()].gathered()
            count = part.weight.sum()
            if count == 0:
                continue
            part.state, part.first = (
                tuple(each[chosen] for each in self.state),
                self.first[:, chosen],
            )
            if normalize_advantages:
                part.advantage = normalize(part.advantage, part.weight)
            part.weight = part.weight / count
            yield part


KL = 2
"""Where `PPO.loss` reports the divergence from the policy that sampled."""


class PPO(OnPolicy):
    """PPO with a clipped surrogate, epochs of shuffled minibatches, and Adam."""

    config: PPOConfig

    def iteration(self, samplers: SamplerGroup) -> dict[str, float]:
        for _ in self.rounds():
            rollout = self.collect(samplers)
            stats = self.learn(self.batch(rollout))
            self.finish_round(rollout)
            samplers.publish(self.updates)
        return stats

    @torch.no_grad()
    def batch(self, rollout: Rollout) -> Batch:
        """Values, advantages and targets of a rollout under the policy that sampled it."""
        rollout = rollout.to(self.device)
        x = self.policy.prepare({name: leaf.flatten(0, 1) for name, leaf in rollout.obs.items()})
        value = by_portions(self.policy.critic, x, rollout.state, rollout.first)
        value = value.view(rollout.steps + 1, rollout.slots)
        advantage = self.advantages(rollout, value)
        steps = slice(0, rollout.steps * rollout.slots)  # row T only bootstraps
        return Batch(
            x=rows(x, steps),
            action=rollout.action.flatten(0, 1),
            log_prob=rollout.log_prob.flatten(),
            advantage=advantage.flatten(),
            value=value[:-1].flatten(),
            target=(value[:-1] + advantage).flatten(),
            weight=rollout.valid.flatten(),
            **self.memory(rollout),
        )

    def memory(self, rollout: Rollout) -> dict[str, Any]:
        """What a batch holds beside its steps for a policy with a memory."""
        return (
            {"state": rollout.state, "first": rollout.first[:-1]} if self.policy.recurrent else {}
        )

    def learn(self, batch: Batch) -> dict[str, float]:
        """All epochs over one batch; returns the statistics of the last (with a target for the KL,
        of all)."""
        config, size = self.config, self.config.sgd_minibatch_size
        assert size is not None
        lr, clip = self.scheduled(config.lr), self.scheduled(config.clip_param)
        entropy_coeff = self.scheduled(config.entropy_coeff)
        stats: list[Tensor] = []
        # Where the batch is the minibatch, its order is of no consequence: it is prepared once for
        # all epochs.
        whole = list(self.minibatches(batch)) if len(batch.weight) <= size else None
        for epoch in range(config.num_sgd_iter):
            report = config.target_kl is not None or epoch == config.num_sgd_iter - 1
            for minibatch in whole or self.minibatches(batch, self.order(batch)):
                loss, parts = self.loss(minibatch, clip, entropy_coeff, report=report)
                if config.target_kl is not None and parts[KL].item() > 1.5 * config.target_kl:
                    stats.append(torch.cat([parts, parts.new_tensor([math.nan])]))
                    return self._report(stats, batch, lr, clip, entropy_coeff)
                norm = self.descend(loss, lr)
                if report:
                    stats.append(torch.cat([parts, parts.new_tensor([norm])]))
        return self._report(stats, batch, lr, clip, entropy_coeff)

    def order(self, batch: Batch) -> Tensor:
        """A random order of a batch's steps, or of its slots where the policy has a memory."""
        count = len(batch.weight) if batch.first is None else batch.first.shape[1]
        return torch.randperm(count, generator=self.generator).to(self.device)

    def minibatches(self, batch: Batch, order: Tensor | None = None) -> Iterator[Batch]:
        """The minibatches of a batch as the configuration wants them, in an order that `order`
        gave."""
        size, normalized = self.config.sgd_minibatch_size, self.config.normalize_advantages
        assert size is not None
        if batch.first is not None:
            return batch.sequences(order, size, normalize_advantages=normalized)
        return (batch if order is None else batch[order]).minibatches(
            size, normalize_advantages=normalized
        )

    def loss(
        self, batch: Batch, clip: float, entropy_coeff: float, *, report: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The loss of a minibatch, and `[policy_loss, vf_loss, kl, clip_fraction, entropy]` if a
        report is due."""
        config, dist = self.config, self.policy.dist
        inputs, value = self.policy(batch.x, batch.state, batch.first)
        log_prob = dist.log_prob(inputs, batch.action)
        loss, policy_loss, vf_loss = ppo_loss(
            log_prob,
            value,
            old_log_prob=batch.log_prob,
            old_value=batch.value,
            advantage=batch.advantage,
            target=batch.target,
            weight=batch.weight,
            clip=clip,
            vf_clip=config.vf_clip_param,
            vf_coeff=config.vf_loss_coeff,
        )
        if entropy_coeff:
            loss = loss - entropy_coeff * torch.dot(batch.weight, dist.entropy(inputs))
        if not report:
            return loss, loss
        with torch.no_grad():
            log_ratio = log_prob - batch.log_prob
            clipped = ((log_ratio.exp() - 1).abs() > clip).to(loss.dtype)
            columns = torch.stack([approximate_kl(log_ratio), clipped, dist.entropy(inputs)])
            return loss, torch.cat([torch.stack([policy_loss, vf_loss]), columns.mv(batch.weight)])

    def _report(
        self, stats: list[Tensor], batch: Batch, lr: float, clip: float, entropy_coeff: float
    ) -> dict[str, float]:
        """One read of all statistics: means over minibatches."""
        names = ("policy_loss", "vf_loss", "kl", "clip_fraction", "entropy", "grad_norm")
        means = torch.stack(stats).nanmean(0).tolist() if stats else [math.nan] * len(names)
        explained = explained_variance(batch.value, batch.target, batch.weight).item()
        rest = {"cur_lr": lr, "cur_clip_param": clip, "cur_entropy_coeff": entropy_coeff}
        return {**dict(zip(names, means, strict=True)), "vf_explained_var": explained, **rest}
