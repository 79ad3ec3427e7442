"""Deep Q-learning (Mnih et al. 2015, doi 10.1038/nature14236), with later additions as options.

double_q            van Hasselt et al. 2016 (arXiv 1509.06461)
dueling             Wang et al. 2016 (arXiv 1511.06581)
prioritized_replay  Schaul et al. 2016 (arXiv 1511.05952)
n_step              Sutton 1988; with the others, Hessel et al. 2018 (arXiv 1710.02298)

    repeat:
        sample T steps in each of B environments, ε-greedily by Q, and add them to the replay
        for each gradient step:
            draw steps (s, a, r, s') from the replay
            y ← r + γ (1 - terminated) max_a' Q⁻(s', a')
            one step along  -∇ huber(Q(s, a) - y)
        every so often:  θ⁻ ← τ θ + (1 - τ) θ⁻
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from poise.algorithms.off_policy import Minibatch, OffPolicy
from poise.algorithms.r2d2 import n_step_returns, q_values
from poise.config.dqn import DQNConfig
from poise.learning.losses import huber_loss
from poise.learning.optimizers import Adam, Flat
from poise.learning.schedules import decay
from poise.models.policy import Policy
from poise.models.q_policy import QPolicy
from poise.models.recurrent import RecurrentQPolicy, has_memory
from poise.sampling.replay import Replay
from poise.sampling.rollout import Rollout
from poise.sampling.sequences import SequenceReplay, sequence_priorities
from poise.spaces.layout import Layout


class DQN(OffPolicy):
    """Deep Q-learning for Discrete actions."""

    config: DQNConfig
    policy: QPolicy

    def make_policy(self, obs_layout: Layout, action_layout: Layout) -> Policy:
        config = self.config
        kind = QPolicy
        if has_memory(config.model):
            kind = RecurrentQPolicy
            config.require_sequences()  # a custom model may have one, too
        return kind(
            obs_layout,
            action_layout,
            config.model,
            normalize_observations=config.normalize_observations,
            dueling=config.dueling,
        )

    def make_optimizer(self, flat: Flat) -> Adam:
        config = self.config
        return Adam(
            flat, eps=config.adam_epsilon, weight_decay=config.weight_decay, amsgrad=config.amsgrad
        )

    def clip(self, flat: Flat) -> float:
        norm, limit = super().clip(flat), self.config.grad_clip_value
        if limit is not None:
            flat.grad.clamp_(-limit, limit)
        return norm

    @property
    def epsilon(self) -> float:
        """The probability of a random action now."""
        config = self.config
        ends = config.initial_epsilon, config.final_epsilon
        return decay(*ends, self.timesteps / config.epsilon_timesteps, config.epsilon_schedule)

    def explore(self, sampling: bool) -> None:
        self.policy.epsilon.fill_(self.epsilon)

    @property
    def target(self) -> Any:
        """The network Q⁻."""
        return self.targets["policy"].module

    def update(self, minibatch: Minibatch) -> Learnt:
        huber = self.config.td_error_loss_fn == "huber"
        q, backward = self.policy.trace(minibatch.x)
        action = minibatch.action.unsqueeze(1)
        chosen = q.gather(1, action).squeeze(1)
        error = chosen - self.td_target(minibatch)
        slope = error.clamp(-1, 1) if huber else error  # the loss's derivative by Q(s, a)
        slope = (slope * minibatch.weight).unsqueeze(1)
        self.flat.zero_grad()
        backward(torch.zeros_like(q).scatter_(1, action, slope))
        norm = self.learner.step(self.scheduled(self.config.lr))
        return Learnt(error, chosen, minibatch.weight, norm, huber)

    def make_sequences(self, slots: int, **rows: Any) -> Replay:
        config, policy = self.config, self.policy
        return SequenceReplay(
            config.buffer_size,
            slots,
            every=config.rollout_fragment_length or 1,
            length=config.sequence_length,
            state=policy.initial_state(1),
            alpha=config.prioritized_replay_alpha if config.prioritized_replay else 0.0,
            eps=config.prioritized_replay_eps,
            **rows,
        )

    def learn(self, replay: Replay, steps: int) -> Any:
        if not isinstance(replay, SequenceReplay):
            return super().learn(replay, steps)
        config, learnt = self.config, None
        assert config.train_batch_size is not None
        count = max(1, config.train_batch_size // config.model.max_seq_len)
        for _ in range(steps if replay.drawable else 0):
            index = replay.draw(count, self.generator)
            rollout = replay.sequences(index, config.sequence_length).to(self.device)
            weight = replay.weights(index, self.scheduled(config.prioritized_replay_beta))
            learnt, priority = self.update_sequences(rollout, weight.to(self.device))
            if config.prioritized_replay and math.isfinite(learnt.grad_norm):
                replay.update(index, priority)
            if not config.target_network_update_freq:
                self.update_targets()
        return learnt

    def update_sequences(self, rollout: Rollout, weight: Tensor) -> tuple[Learnt, np.ndarray]:
        """Takes one gradient step with a memory; see `poise.algorithms.r2d2`.

        Args:
            rollout: sequences of `sequence_length` steps, with the memory at their start.
            weight: importance weights of the B sequences, `[B]`.

        Returns:
            What was learnt from, and the priorities of the sequences, `[B]`.
        """
        config, r, start = self.config, rollout, self.config.burn_in
        x = self.policy.prepare_steps(r.obs, r.action, r.reward, r.state, r.first)
        q = q_values(self.policy, x, r, start)
        with torch.no_grad():
            reward = r.reward
            if (rescale := self._rescale) is not None:
                reward = torch.from_numpy(rescale(reward.numpy(force=True))).to(self.device)
            returns, discount, row = n_step_returns(
                reward[start:],
                r.terminated[start:],
                r.truncated[start:],
                r.valid[start:],
                config.n_step,
                config.gamma,
            )
            slot = torch.arange(r.slots, device=row.device)
            next_q = q_values(self.target, x, r, start)[row, slot]
            best = (q[row, slot] if config.double_q else next_q).argmax(-1, keepdim=True)
            goal = torch.addcmul(returns, discount, next_q.gather(-1, best).squeeze(-1))
        action = r.action[start : start + len(row)].unsqueeze(-1)
        chosen = q[: len(row)].gather(-1, action).squeeze(-1)
        error = chosen - goal
        counts = r.valid[start : start + len(row)]
        share = counts * weight / counts.sum().clamp(min=1)
        huber = config.td_error_loss_fn == "huber"
        loss = torch.dot(
            share.flatten(), (huber_loss(error) if huber else 0.5 * error**2).flatten()
        )
        norm = self.descend(loss, self.scheduled(config.lr))
        error, chosen = error.detach(), chosen.detach()
        priority = sequence_priorities(error.numpy(force=True), counts.numpy(force=True))
        return Learnt(error.flatten(), chosen.flatten(), share.flatten(), norm, huber), priority

    def foresee(self, whole: Minibatch) -> None:
        # Unless it moves with each gradient step, Q⁻ stands still for all minibatches.
        if self.config.target_network_update_freq:
            whole.next_q = self.target.actor(whole.next_x)

    def td_target(self, minibatch: Minibatch) -> Tensor:
        """y = r + γⁿ (1 - terminated) Q⁻(s', a'), `[N]`.

        a' is the best action by Q⁻; with `double_q`, it is the best by Q.
        """
        q = self.target.actor(minibatch.next_x) if minibatch.next_q is None else minibatch.next_q
        if self.config.double_q:
            best = self.policy.actor(minibatch.next_x).argmax(1, keepdim=True)
            value = q.gather(1, best).squeeze(1)
        else:
            value = q.amax(1)
        return torch.addcmul(minibatch.reward, minibatch.discount, value)

    def statistics(self, learnt: Learnt | None) -> dict[str, float]:
        known = learnt.statistics() if learnt else dict.fromkeys(Learnt.NAMES, math.nan)
        return {**known, "cur_lr": self.scheduled(self.config.lr), "cur_epsilon": self.epsilon}


@dataclass
class Learnt:
    """What a gradient step learnt from, `[N]` each.

    Attributes:
        error: the temporal-difference errors δ = Q(s, a) - y.
        q: Q(s, a).
        weight: as in `Minibatch`.
        grad_norm: of the gradient, before clipping.
        huber: whether large errors count linearly.
    """

    NAMES: ClassVar = ("loss", "td_error", "q", "grad_norm")
    error: Tensor
    q: Tensor
    weight: Tensor
    grad_norm: float
    huber: bool

    def statistics(self) -> dict[str, float]:
        """The loss, mean |δ|, mean Q(s, a) and the gradient's norm."""
        loss = huber_loss(self.error) if self.huber else 0.5 * self.error**2
        loss = torch.dot(loss, self.weight)
        means = torch.stack([loss, self.error.abs().mean(), self.q.mean()])
        return dict(zip(self.NAMES, [*means.tolist(), self.grad_norm], strict=True))
