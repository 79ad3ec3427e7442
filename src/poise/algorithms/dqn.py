"""Deep Q-learning (Mnih et al. 2015, doi 10.1038/nature14236), and what its family added, each an option:

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

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from poise.algorithms.base import Algorithm
from poise.config.algorithms import DQNConfig
from poise.config.memory import machine_memory, readable
from poise.errors import ConfigError
from poise.learning.losses import huber_loss
from poise.learning.optimizers import Adam, Change, Flat
from poise.learning.schedules import decay
from poise.models.policy import Policy, rows
from poise.models.q_policy import QPolicy
from poise.sampling.group import SamplerGroup
from poise.sampling.prioritized import PrioritizedReplay
from poise.sampling.replay import Replay, replay_bytes
from poise.sampling.rollout import Rollout
from poise.spaces.layout import Layout

DRAWN_AT_ONCE = 1024
"""Steps that are drawn from a replay in one go, to be cut into minibatches."""


@dataclass
class Minibatch:
    """What one gradient step learns from, `[N, ...]` each.

    Attributes:
        x, next_x: prepared observations, where the steps begin and where the last of the n steps led to.
        reward: of the n steps.
        discount: what a value at `next_x` is worth; 0 after a true end.
        weight: 1 / N, times the importance weights of a prioritized replay.
        index: where the steps are in the replay.
        next_q: Q⁻(s', ·), where it is known already.
    """

    x: Any
    action: Tensor
    reward: Tensor
    next_x: Any
    discount: Tensor
    weight: Tensor
    index: np.ndarray
    next_q: Tensor | None = None

    def __getitem__(self, part: slice) -> Minibatch:
        """The same of some steps, as views."""
        rest = (self.discount[part], self.weight[part], self.index[part])
        known = None if self.next_q is None else self.next_q[part]
        return Minibatch(
            rows(self.x, part), self.action[part], self.reward[part], rows(self.next_x, part), *rest, known
        )


@dataclass
class Learnt:
    """What a gradient step learnt from, `[N]` each."""

    NAMES: ClassVar = ("loss", "td_error", "q", "grad_norm")
    loss: Tensor
    error: Tensor
    q: Tensor
    weight: Tensor
    grad_norm: float

    def statistics(self) -> dict[str, float]:
        """The loss, mean |δ|, mean Q(s, a) and the gradient's norm."""
        means = torch.stack([torch.dot(self.loss, self.weight), self.error.abs().mean(), self.q.mean()])
        return dict(zip(self.NAMES, [*means.tolist(), self.grad_norm], strict=True))


class DQN(Algorithm):
    """Deep Q-learning for Discrete actions.

    Attributes:
        target: the network Q⁻ that targets are computed with.
        replay: made with the first rollout.
        updated: environment steps at the target network's last update.
        owed: gradient steps that are due, of which only whole ones are taken.
    """

    config: DQNConfig
    policy: QPolicy
    optimizer: Adam

    def __init__(
        self, config: DQNConfig, obs_layout: Layout, action_layout: Layout, seed: np.random.SeedSequence
    ) -> None:
        super().__init__(config, obs_layout, action_layout, seed)
        self.optimizer = Adam(
            self.flat, eps=config.adam_epsilon, weight_decay=config.weight_decay, amsgrad=config.amsgrad
        )
        self._make_target()
        self.replay: Replay | None = None
        self.updated = 0
        self.owed = 0.0
        self.policy.dist.epsilon = self.epsilon

    def _make_target(self) -> None:
        shared = {id(moments): moments for moments in self.policy.moments}  # both networks see the same
        self.target = copy.deepcopy(self.policy, shared)
        self.target_flat = Flat(self.target, self.flat.places)

    def follow(self, change: Change) -> None:
        super().follow(change)
        before = self.target_flat
        if change.rebuilt:  # it may be a network of another kind
            self._make_target()
        elif change.places is not None:
            self.target_flat = Flat(self.target, self.flat.places)
        if change.rebuilt and before.shapes == self.target_flat.shapes:  # if not, it is what the policy is now
            self.target.load_state_dict(before.module.state_dict())

    def make_policy(self, obs_layout: Layout, action_layout: Layout) -> Policy:
        config = self.config
        normalize = config.normalize_observations
        return QPolicy(
            obs_layout, action_layout, config.model, normalize_observations=normalize, dueling=config.dueling
        )

    def announce(self) -> list[str]:
        others, size = super().announce(), self._replay_bytes(self.config.num_envs)
        return [*others, f"The replay buffer takes {readable(size)} once it holds {self.config.buffer_size:,} steps."]

    def _replay_bytes(self, slots: int) -> int:
        """What the replay takes when it is full; raises `ConfigError` where that is more than there is."""
        config, capacity = self.config, self.config.buffer_size
        layout, stack = self.policy.obs_layout, config.frame_stack or 1
        size, memory = replay_bytes(capacity, slots, layout, stack, wide=self.policy.wide), machine_memory()
        if memory is not None and size > memory:
            raise ConfigError(
                f"buffer_size={capacity} takes {readable(size)}, and this machine has "
                f"{readable(memory)}: about {int(capacity * memory / size):,} steps would fill all of it."
            )
        return size

    @property
    def epsilon(self) -> float:
        """The probability of a random action now."""
        config = self.config
        ends = config.initial_epsilon, config.final_epsilon
        return decay(*ends, self.timesteps / config.epsilon_timesteps, config.epsilon_schedule)

    def iteration(self, samplers: SamplerGroup) -> dict[str, float]:
        config = self.config
        assert config.gradient_steps is not None
        learnt = None
        for _ in self.rounds():
            self.policy.dist.epsilon, known = self.epsilon, self.timesteps
            self.remember(samplers.collect())
            if self.timesteps < config.learning_starts or not (self.replay and self.replay.steps):
                continue
            if self.timesteps == known:  # resets alone: there is nothing new to learn from
                continue
            self.owed += config.gradient_steps
            steps, self.owed = int(self.owed), self.owed % 1
            if steps:
                if not self.updates:  # the parameters may have been given while there was nothing to learn yet
                    self.target_flat.whole.copy_(self.flat.whole)
                learnt = self.learn(self.replay, steps)
            if self.timesteps - self.updated >= config.target_network_update_freq > 0:
                self.update_target()
        self.policy.dist.epsilon = self.epsilon
        return {
            **(learnt.statistics() if learnt else dict.fromkeys(Learnt.NAMES, math.nan)),
            "cur_lr": self.at(config.lr),
            "cur_epsilon": self.epsilon,
            "replay_steps": self.replay.steps if self.replay else 0,
        }

    def remember(self, rollout: Rollout) -> None:
        """Adds a rollout to the replay and counts its steps."""
        if self.replay is None:
            self.replay = self._make_replay(rollout.slots)
        if self.reward_scaler:
            self.reward_scaler(rollout)  # for its moments: rewards are kept raw, and scaled when they are drawn
        self.replay.add(rollout)
        self.timesteps += int(rollout.valid.numpy().sum())
        if self.policy.moments:
            self.policy.update_normalizer({name: leaf[:-1] for name, leaf in rollout.obs.items()}, rollout.valid)

    def _make_replay(self, slots: int, segment: int = 0) -> Replay:
        config, layout = self.config, self.policy.obs_layout
        self._replay_bytes(slots)
        shared: dict[str, Any] = {"frame_stack": config.frame_stack or 1, "wide": self.policy.wide, "segment": segment}
        if not config.prioritized_replay:
            return Replay(config.buffer_size, slots, layout, **shared)
        alpha, eps = config.prioritized_replay_alpha, config.prioritized_replay_eps
        return PrioritizedReplay(config.buffer_size, slots, layout, alpha=alpha, eps=eps, **shared)

    @torch.no_grad()
    def learn(self, replay: Replay, steps: int) -> Learnt:
        """Takes gradient steps; returns what the last one learnt from."""
        config, lr = self.config, self.at(self.config.lr)
        huber = config.td_error_loss_fn == "huber"
        for minibatch in self.minibatches(replay, steps):
            q, backward = self.policy.trace(minibatch.x)
            action = minibatch.action.unsqueeze(1)
            chosen = q.gather(1, action).squeeze(1)
            error = chosen - self.targets(minibatch)
            slope = error.clamp(-1, 1) if huber else error
            self.flat.zero_grad()
            backward(torch.zeros_like(q).scatter_(1, action, (slope * minibatch.weight).unsqueeze(1)))
            norm = self.apply_gradient(lr)
            if isinstance(replay, PrioritizedReplay) and math.isfinite(norm):
                replay.update(minibatch.index, error.numpy(force=True))
            if not config.target_network_update_freq:
                self.update_target()
        return Learnt(huber_loss(error) if huber else 0.5 * error**2, error, chosen, minibatch.weight, norm)

    def minibatches(self, replay: Replay, count: int) -> Iterator[Minibatch]:
        """Draws `count` minibatches: many at once where none depends on what the ones before it have changed."""
        config, size = self.config, self.config.train_batch_size
        assert size is not None
        prioritized = isinstance(replay, PrioritizedReplay)
        most = 1 if prioritized else max(1, DRAWN_AT_ONCE // size)
        for start in range(0, count, most):
            parts = min(most, count - start)
            index = replay.draw(parts * size, self.generator)
            batch = replay.batch(index, n_step=config.n_step, gamma=config.gamma, rescale=self._rescale)
            batch = batch.to(self.device)
            weight = torch.full((len(index),), 1 / size, device=self.device)
            if isinstance(replay, PrioritizedReplay):
                weight *= replay.weights(index, self.at(config.prioritized_replay_beta)).to(self.device)
            whole = Minibatch(
                x=self.policy.prepare(batch.obs),
                action=batch.action,
                reward=batch.reward,
                next_x=self.policy.prepare(batch.next_obs),
                discount=batch.discount,
                weight=weight,
                index=index,
            )
            if config.target_network_update_freq:  # the target network stands still meanwhile
                whole.next_q = self.target.actor(whole.next_x)
            for end in range(size, parts * size + 1, size):
                yield whole if parts == 1 else whole[end - size : end]

    def targets(self, minibatch: Minibatch) -> Tensor:
        """y = r + γⁿ (1 - terminated) Q⁻(s', a'), `[N]`: with a' the best action by Q⁻, or by Q if `double_q`."""
        q = self.target.actor(minibatch.next_x) if minibatch.next_q is None else minibatch.next_q
        if self.config.double_q:
            best = self.policy.actor(minibatch.next_x).argmax(1, keepdim=True)
            value = q.gather(1, best).squeeze(1)
        else:
            value = q.amax(1)
        return torch.addcmul(minibatch.reward, minibatch.discount, value)

    def update_target(self) -> None:
        """θ⁻ ← τ θ + (1 - τ) θ⁻."""
        if self.config.tau == 1:
            self.target_flat.whole.copy_(self.flat.whole)
        else:
            self.target_flat.whole.lerp_(self.flat.whole, self.config.tau)
        for theirs, ours in zip(self.target_flat.beside, self.flat.beside, strict=True):
            if theirs is not ours:
                theirs.copy_(ours)
        self.updated = self.timesteps

    def take_back(self, good: Tensor) -> None:
        super().take_back(good)
        if not torch.isfinite(self.target_flat.whole).all():
            self.target_flat.whole.copy_(self.flat.whole)

    def clip_gradient(self) -> float:
        norm = super().clip_gradient()
        if self.config.grad_clip_value is not None:
            limit = self.config.grad_clip_value
            self.flat.grad.clamp_(-limit, limit)
        return norm

    @property
    def _rescale(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """What becomes of raw rewards in the loss."""
        if self.config.clip_rewards:
            return np.sign
        return self.reward_scaler.scale if self.reward_scaler else None

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "target": self.target_flat.whole,
            "replay": self.replay.state_dict() if self.replay else None,
            "updated": self.updated,
            "owed": self.owed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.target.load_state_dict(self.policy.state_dict())  # what is no parameter, too
        self.target_flat.whole.copy_(torch.as_tensor(state["target"]))
        self.updated, self.owed = state["updated"], state["owed"]
        self.replay = None
        if state["replay"] is not None:
            self.replay = self._make_replay(state["replay"]["slots"], state["replay"].get("segment", 0))
            self.replay.load_state_dict(state["replay"])
        self.policy.dist.epsilon = self.epsilon
