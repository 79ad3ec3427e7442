"""Proximal Policy Optimization (Schulman et al. 2017, arXiv 1707.06347).

repeat:
    sample T steps in each of B environments with π_old
    A ← generalized advantages,  R ← A + V_old
    for each epoch, for each minibatch:
        maximise  min(r A, clip(r, 1 - ε, 1 + ε) A) - c₁ (V - R)² + c₂ H[π]
        where  r = π(a|s) / π_old(a|s)
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
from poise.sampling.rollout import Rollout

KL = 2
"""Where the statistics of `PPO.loss` hold the divergence from the policy that sampled."""


class PPO(OnPolicy):
    """PPO with a clipped surrogate, epochs of shuffled minibatches, and Adam."""

    config: PPOConfig

    def update(self, rollout: Rollout) -> dict[str, float]:
        return self.learn(self.batch(rollout))

    @torch.no_grad()
    def batch(self, rollout: Rollout) -> Batch:
        """Computes values, advantages and value targets of a rollout, before any gradient step."""
        rollout = rollout.to(self.device)
        x = self.prepared(rollout)
        value = by_portions(self.policy.critic, x, rollout.state, rollout.first)
        value = value.view(rollout.steps + 1, rollout.slots)
        advantage = self.advantages(rollout, value)
        steps = slice(0, rollout.steps * rollout.slots)  # row T only bootstraps
        return self.compact(
            rollout,
            Batch(
                x=rows(x, steps),
                action=rollout.action.flatten(0, 1),
                log_prob=rollout.log_prob.flatten(),
                advantage=advantage.flatten(),
                value=value[:-1].flatten(),
                target=(value[:-1] + advantage).flatten(),
                weight=rollout.valid.flatten(),
                **self.memory(rollout, x),
            ),
        )

    def compact(self, rollout: Rollout, batch: Batch) -> Batch:
        """A batch without the rows in which agents wait, unless a memory runs through them."""
        if rollout.waits is None or batch.first is not None:
            return batch
        return batch[batch.weight.nonzero().flatten()]

    def learn(self, batch: Batch) -> dict[str, float]:
        """Learns from a batch for `num_sgd_iter` epochs, or until `target_kl` is exceeded.

        Returns:
            Statistics: means over the minibatches of the last epoch, or of all with a `target_kl`.
        """
        config, size = self.config, self.config.sgd_minibatch_size
        assert size is not None
        lr, clip = self.scheduled(config.lr), self.scheduled(config.clip_param)
        entropy_coeff = self.scheduled(config.entropy_coeff)
        now = {"cur_lr": lr, "cur_clip_param": clip, "cur_entropy_coeff": entropy_coeff}
        limit = None if config.target_kl is None else 1.5 * config.target_kl
        stats: list[Tensor] = []
        # If the batch is a single minibatch, its order does not matter: one serves all epochs.
        whole = list(self.minibatches(batch)) if len(batch.weight) <= size else None
        for epoch in range(config.num_sgd_iter):
            # Statistics cost time, so that they are computed only where they are used.
            report = limit is not None or epoch == config.num_sgd_iter - 1
            for minibatch in whole or self.minibatches(batch, self.order(batch)):
                loss, parts = self.loss(minibatch, clip, entropy_coeff, report=report)
                if limit is not None and self.learner.group.mean(parts[KL]).item() > limit:
                    stats.append(torch.cat([parts, parts.new_tensor([math.nan])]))
                    return self._report(stats, batch) | now
                norm = self.descend(loss, lr)
                if report:
                    stats.append(torch.cat([parts, parts.new_tensor([norm])]))
        return self._report(stats, batch) | now

    def loss(
        self, batch: Batch, clip: float, entropy_coeff: float, *, report: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The loss of a minibatch.

        Returns:
            The loss, and, if a report is due,
            `[policy_loss, vf_loss, kl, clip_fraction, entropy]`.
        """
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

    def minibatches(self, batch: Batch, order: Tensor | None = None) -> Iterator[Batch]:
        """Cuts a batch into minibatches of `sgd_minibatch_size` steps, in the given `order`."""
        size, normalized = self.config.sgd_minibatch_size, self.config.normalize_advantages
        assert size is not None
        if batch.first is not None:
            return batch.sequences(order, size, normalize_advantages=normalized)
        shuffled = batch if order is None else batch[order]
        return shuffled.minibatches(size, normalize_advantages=normalized)

    def order(self, batch: Batch) -> Tensor:
        """A random order of a batch's steps, or of its sequences if the policy has a memory."""
        count = len(batch.weight) if batch.first is None else len(batch.state[0])
        return torch.randperm(count, generator=self.generator).to(self.device)

    def memory(self, rollout: Rollout, x: Any) -> dict[str, Any]:
        """What a batch holds beside its steps for a policy with a memory.

        The memory at the cuts is that of the policy as it is now, before any gradient step.

        Args:
            rollout: that is learnt from.
            x: its prepared observations.
        """
        if not self.policy.recurrent:
            return {}
        state, first, limit = rollout.state, rollout.first[:-1], self.policy.max_seq_len
        if limit is not None and limit < rollout.steps:
            pieces = -(-rollout.steps // limit)
            state = self.policy.cuts(x, state, first, -(-rollout.steps // pieces))
        return {"state": state, "first": first}

    def _report(self, stats: list[Tensor], batch: Batch) -> dict[str, float]:
        """Means of the statistics over minibatches, read from the device all at once."""
        names = ("policy_loss", "vf_loss", "kl", "clip_fraction", "entropy", "grad_norm")
        means = torch.stack(stats).nanmean(0).tolist() if stats else [math.nan] * len(names)
        explained = explained_variance(batch.value, batch.target, batch.weight).item()
        return {**dict(zip(names, means, strict=True)), "vf_explained_var": explained}


@dataclass
class Batch:
    """The N steps of a rollout as one flat list, `[N, ...]` each.

    Attributes:
        x: prepared observations (a tensor, or a structure of tensors for custom models).
        action: as the distribution sampled them.
        log_prob: log π_old(a|s).
        advantage: A.
        value: V_old(s).
        target: R = A + V_old(s).
        weight: 1 for steps that count, 0 for those that only reset. In a minibatch the weights sum
            to 1.
        order: the order that `x` has yet to be brought into, if it is not that of the rest. Copying
            all pictures of a batch at once takes far longer than copying those of one minibatch
            after the other, which share memory.
        state, first: of a policy with a memory, for steps that are T rows of B slots in turn; see
            `Policy`. The memory is that at the start of K equal parts of the steps, `[K * B, ...]`;
            in a minibatch, K is 1.
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
        """Some of the steps, or all of them in another order; without a memory."""
        x, order = self.x, self.order
        if order is not None:
            order = order[index]
        elif isinstance(index, Tensor) and isinstance(x, Tensor) and x.dtype == torch.uint8:
            order = index
        else:
            x = rows(x, index)
        return Batch(
            x=x,
            action=self.action[index],
            log_prob=self.log_prob[index],
            advantage=self.advantage[index],
            value=self.value[index],
            target=self.target[index],
            weight=self.weight[index],
            order=order,
        )

    def gathered(self) -> Batch:
        """The same steps, with the observations in the order of the rest."""
        if self.order is None:
            return self
        return replace(self, x=self.x.index_select(0, self.order), order=None)

    def minibatches(self, size: int, *, normalize_advantages: bool) -> Iterator[Batch]:
        """Cuts the batch into parts of `size` steps, as views; the last may be shorter.

        Weights are scaled to sum to 1 in each part, and advantages are normalised within each. All
        parts of full size are treated in one operation. A part in which a single step counts has no
        deviation: its advantage is normalised within the whole batch.
        """
        n = len(self.weight)
        full = n - n % size  # steps in parts of full size; what is left makes one more part
        for start, end, length in ((0, full, size), (full, n, n - full)):
            if start == end:
                continue
            parts = self[start:end]
            weight = parts.weight.view(-1, length)
            counts = weight.sum(1, keepdim=True)
            known = counts.flatten().tolist()
            if normalize_advantages:
                advantage = normalize(parts.advantage.view(-1, length), weight)
                if 1 in known:
                    whole = normalize(self.advantage, self.weight)[start:end].view(-1, length)
                    advantage = torch.where(counts == 1, whole, advantage)
                parts.advantage = advantage.flatten()
            parts.weight = (weight / counts.clamp(min=1)).flatten()
            for i, count in enumerate(known):
                if count:  # a part in which every step only reset has nothing to teach
                    single = length == end - start
                    part = parts if single else parts[i * length : (i + 1) * length]
                    yield part.gathered()

    def sequences(
        self, order: Tensor | None, size: int, *, normalize_advantages: bool
    ) -> Iterator[Batch]:
        """Minibatches for a policy with a memory, which learns from sequences of steps.

        A rollout of T steps is cut into K equal parts. If K does not divide T, the last is filled
        up with repetitions of the last step, which do not count.

        Args:
            order: of the K * B sequences, of which those of the first part come first; None leaves
                it as it is.
            size: each minibatch has as many sequences as make about so many steps.
            normalize_advantages: whether advantages are normalised within each.
        """
        assert self.first is not None
        steps, slots = self.first.shape
        count = len(self.state[0])
        length = -(-steps * slots // count)
        device = self.weight.device
        order = torch.arange(count, device=device) if order is None else order
        now = torch.arange(length, device=device).unsqueeze(1)
        # Of sequences of different lengths, it takes more than of the longest.
        for chosen in torch.split(order, max(1, size * count // (steps * slots))):
            step = now + torch.div(chosen, slots, rounding_mode="floor") * length
            index = step.clamp(max=steps - 1) * slots + chosen % slots
            part = self[index.flatten()].gathered()
            if steps * slots < count * length:
                part.weight = part.weight * (step < steps).flatten()
            total = part.weight.sum()
            if total == 0:
                continue
            part.state = tuple(memory[chosen] for memory in self.state)
            part.first = self.first.flatten()[index]
            if normalize_advantages and total == 1:
                part.advantage = normalize(self.advantage, self.weight)[index.flatten()]
            elif normalize_advantages:
                part.advantage = normalize(part.advantage, part.weight)
            part.weight = part.weight / total
            yield part
