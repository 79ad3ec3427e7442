"""What algorithms share that learn from a replay: each step may be learnt from many times.

repeat:
    sample T steps in each of B environments, and add them to the replay
    take the gradient steps that are due, each on steps drawn from the replay
    every so often:  θ⁻ ← τ θ + (1 - τ) θ⁻
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from poise.algorithms.base import Algorithm
from poise.config.memory import machine_memory, readable
from poise.config.off_policy import OffPolicyConfig
from poise.errors import ConfigError, ModelError
from poise.learning.learner import Learner
from poise.learning.optimizers import Change, Flat
from poise.models.policy import rows
from poise.models.recurrent import RecurrentQPolicy
from poise.sampling.group import SamplerGroup
from poise.sampling.hindsight import BYTES, Hindsight, HindsightReplay
from poise.sampling.prioritized import PrioritizedReplay
from poise.sampling.replay import Batch, Replay
from poise.sampling.rollout import Rollout
from poise.sampling.sizes import replay_bytes
from poise.spaces.layout import Layout

DRAWN_AT_ONCE = 1024
"""So many steps are drawn from a replay in one go, and cut into minibatches afterwards."""


class Target:
    """A target network: a copy of a learner's module that follows it slowly.

    Args:
        learner: the learner of the module.
        shared: modules within it that are not copied, such as running moments.

    Attributes:
        module: the copy.
        flat: its parameters θ⁻, in the order of the learner's.
    """

    def __init__(self, learner: Learner, shared: Iterable[Any] = ()) -> None:
        self._learner, self._shared = learner, tuple(shared)
        self._copy()

    def _copy(self) -> None:
        known = {id(module): module for module in self._shared}  # what deepcopy leaves as it is
        self.module = copy.deepcopy(self._learner.module, known)
        self.flat = Flat(self.module, self._learner.flat.places)

    def follow(self, change: Change) -> None:
        """Follows a change of the learner's module.

        It keeps its parameters if they still have a place; otherwise it becomes a copy of the
        module as it is now.
        """
        before = self.flat
        if change.rebuilt:
            self._copy()
            if before.shapes == self.flat.shapes:
                kept = dict(before.module.named_parameters())
                self.module.load_state_dict(kept, strict=False)  # buffers may be others
        elif change.places is not None:
            self.flat = Flat(self.module, self._learner.flat.places)

    def update(self, tau: float) -> None:
        """θ⁻ ← τ θ + (1 - τ) θ⁻; buffers are copied."""
        if tau == 1:
            self.flat.whole.copy_(self._learner.flat.whole)
        else:
            self.flat.whole.lerp_(self._learner.flat.whole, tau)
        for theirs, ours in zip(self.flat.beside, self._learner.flat.beside, strict=True):
            if theirs is not ours:
                theirs.copy_(ours)

    def match(self) -> None:
        """Takes over the learner's parameters: θ⁻ ← θ."""
        self.flat.whole.copy_(self._learner.flat.whole)

    def load(self, whole: Tensor) -> None:
        """Takes these parameters, `[P]`, and the buffers that the module has now."""
        self.module.load_state_dict(self._learner.module.state_dict())
        self.flat.whole.copy_(whole)


class OffPolicy(Algorithm):
    """Base of the algorithms that learn from a replay.

    Attributes:
        targets: the target networks, by the name of the learner that they follow.
        hindsight: gives steps that are drawn other goals; None without `her`.
        replay: where rollouts are kept; None before the first.
        updated: environment steps at the targets' last update.
        owed: the fraction of a gradient step that is left over for the next round.
    """

    config: OffPolicyConfig

    def __init__(
        self, config: Any, obs_layout: Layout, action_layout: Layout, seed: np.random.SeedSequence
    ) -> None:
        super().__init__(config, obs_layout, action_layout, seed)
        if self.policy.recurrent and not isinstance(self.policy, RecurrentQPolicy):
            raise ModelError(
                f"{type(self).__name__} draws single steps from its replay: "
                "its policy can have no memory."
            )
        self.targets = {
            name: Target(self.learners[name], self.policy.moments) for name in self.followed
        }
        self.repeatable = self.repeatable and not config.learner_thread
        self.hindsight = Hindsight(config, obs_layout) if config.her else None
        self.replay: Replay | None = None
        self.updated = 0
        self.owed = 0.0
        self.explore(sampling=False)

    def learn(self, replay: Replay, steps: int) -> Any:
        """Takes gradient steps.

        Args:
            replay: where the steps to learn from are drawn.
            steps: how many gradient steps to take.

        Returns:
            What `statistics` needs of the last of them.
        """
        learnt = None
        with torch.no_grad():
            for minibatch in self.minibatches(replay, steps):
                learnt = self.update(minibatch)
                if isinstance(replay, PrioritizedReplay) and math.isfinite(learnt.grad_norm):
                    replay.update(minibatch.index, learnt.error.numpy(force=True))
                if not self.config.target_network_update_freq:
                    self.update_targets()
        return learnt

    @abstractmethod
    def update(self, minibatch: Minibatch) -> Learnt:
        """Takes one gradient step, under `torch.no_grad()`."""

    def minibatches(self, replay: Replay, count: int) -> Iterator[Minibatch]:
        """Draws so many minibatches.

        Many are drawn at once, unless the replay is prioritized: then what is learnt from one
        changes which steps are drawn next.
        """
        size = self.config.train_batch_size
        assert size is not None
        prioritized = isinstance(replay, PrioritizedReplay)
        most = 1 if prioritized else max(1, DRAWN_AT_ONCE // size)
        for start in range(0, count, most):
            parts = min(most, count - start)
            batch, weight = self.draw(replay, parts * size)
            whole = Minibatch(
                x=self.policy.prepare(batch.obs),
                action=batch.action,
                reward=batch.reward,
                next_x=self.policy.prepare(batch.next_obs),
                discount=batch.discount,
                weight=weight.mul_(1 / size),
                index=batch.index,
            )
            self.foresee(whole)
            for i in range(parts):
                yield whole if parts == 1 else whole[i * size : (i + 1) * size]

    def foresee(self, whole: Minibatch) -> None:
        """Computes what is the same for all minibatches that are drawn at once."""

    @property
    def followed(self) -> Iterable[str]:
        """The learners that target networks follow; all, unless a subclass says which."""
        return self.learners

    @abstractmethod
    def statistics(self, learnt: Any) -> dict[str, float]:
        """The learner's statistics.

        Args:
            learnt: what `learn` returned last; None if nothing was learnt in this iteration.
        """

    def place(self, samplers: SamplerGroup) -> SamplerGroup:
        if not self.config.learner_thread:
            return super().place(samplers)
        return samplers.ahead(self.policy, self.flat, 0, self.updates)

    def iteration(self, samplers: SamplerGroup) -> dict[str, float]:
        if not self.config.learner_thread:
            return self.learn_in_rounds(samplers)
        waited = samplers.waited
        # The thread may begin before the first round does.
        self.explore(sampling=True)
        samplers.publish(self.updates)
        with samplers:
            stats = self.learn_in_rounds(samplers)
        self.waited = samplers.waited - waited
        return stats

    def learn_in_rounds(self, samplers: SamplerGroup) -> dict[str, float]:
        """Samples, remembers and learns, round by round."""
        config = self.config
        learnt, lag = None, 0
        for _ in self.rounds():
            self.explore(sampling=True)
            samplers.publish(self.updates)
            known = self.timesteps
            rollout = samplers.collect()
            lag = max(lag, self.updates - rollout.version)
            self.remember(rollout)
            if self.timesteps < config.learning_starts or not (self.replay and self.replay.steps):
                continue
            if self.timesteps == known:
                continue  # every step only reset: there is nothing new to learn from
            assert config.gradient_steps is not None
            self.owed += config.gradient_steps * rollout.share
            steps, self.owed = int(self.owed), self.owed % 1
            if steps:
                # Parameters may have been loaded into the policy before anything was learnt.
                if not any(learner.updates for learner in self.learners.values()):
                    for target in self.targets.values():
                        target.match()
                learnt = self.learn(self.replay, steps)
            if self.timesteps - self.updated >= config.target_network_update_freq > 0:
                self.update_targets()
        self.explore(sampling=False)
        kept = self.replay.steps if self.replay else 0
        stats = {**self.statistics(learnt), "replay_steps": kept}
        return {**stats, "policy_lag_max": lag} if config.learner_thread else stats

    def remember(self, rollout: Rollout) -> None:
        """Adds a rollout to the replay and counts its steps."""
        if self.replay is None:
            self.replay = self._make_replay(rollout.slots)
        # Called for its moments alone: rewards are kept raw, and scaled when they are drawn.
        if self.reward_scaler:
            self.reward_scaler(rollout)
        self.replay.add(rollout)
        self.finish_round(rollout)
        if self.hindsight and self.policy.moments:
            # Achieved goals will be desired ones, so that both have the same moments.
            seen = {name: leaf[:-1] for name, leaf in self.hindsight.swapped(rollout.obs).items()}
            self.policy.update_normalizer(seen, rollout.valid)

    def asked(self, call: Any) -> None:
        if self.hindsight:
            self.hindsight.asked(call)

    def draw(self, replay: Replay, count: int) -> tuple[Batch, Tensor]:
        """Draws steps from the replay, with their n-step rewards; with `her`, for other goals.

        Returns:
            The steps, and their importance weights `[count]`: all 1, unless the replay is a
            prioritized one.
        """
        config, index = self.config, replay.draw(count, self.generator)
        n_step, gamma, rescale = config.n_step, config.gamma, self._rescale
        batch = replay.batch(index, n_step=n_step, gamma=gamma, rescale=rescale)
        if isinstance(replay, HindsightReplay):
            assert self.hindsight
            self.hindsight.relabel(replay, batch, self.generator, rescale)
        batch = batch.to(self.device)
        if not isinstance(replay, PrioritizedReplay):
            return batch, torch.ones(count, device=self.device)
        beta = self.scheduled(config.prioritized_replay_beta)
        return batch, replay.weights(index, beta).to(self.device)

    def update_targets(self) -> None:
        """θ⁻ ← τ θ + (1 - τ) θ⁻."""
        for target in self.targets.values():
            target.update(self.config.tau)
        self.updated = self.timesteps

    @property
    def _rescale(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """Turns raw rewards into those of the loss; None leaves them as they are."""
        if self.config.clip_rewards:
            return np.sign
        return self.reward_scaler.scale if self.reward_scaler else None

    def announce(self) -> list[str]:
        if self.hindsight:
            self.hindsight.try_out()
        others, steps = super().announce(), self.config.buffer_size
        size = readable(self._replay_bytes(self.config.num_envs))
        return [*others, f"The replay buffer takes {size} once it holds {steps:,} steps."]

    def _rows(self) -> dict[str, Any]:
        """What the rows of the replay hold, as arguments of `Replay`."""
        return {
            "layout": self.policy.obs_layout,
            "action": (self.policy.dist.action_shape, self.policy.dist.action_dtype),
            "frame_stack": self.config.frame_stack or 1,
            "wide": self.policy.wide,
        }

    def _replay_bytes(self, slots: int) -> int:
        """The bytes that the replay takes when it is full.

        Raises:
            ConfigError: this machine has not so much memory.
        """
        capacity, memory = self.config.buffer_size, machine_memory()
        size = replay_bytes(capacity, slots, **self._rows())
        size += BYTES * capacity if self.config.her else 0
        # A memory is kept at the start of each rollout.
        memory_bytes = sum(part.nbytes for part in self.policy.initial_state(1))
        size += memory_bytes * capacity // (self.config.rollout_fragment_length or 1)
        if memory is not None and size > memory:
            raise ConfigError(
                f"buffer_size={capacity} takes {readable(size)}, "
                f"and this machine has {readable(memory)}: "
                f"about {int(capacity * memory / size):,} steps would fill all of it."
            )
        return size

    def _make_replay(self, slots: int, segment: int = 0) -> Replay:
        config, rows = self.config, {**self._rows(), "segment": segment}
        self._replay_bytes(slots)
        if self.policy.recurrent:
            return self.make_sequences(slots, **rows)
        if config.her:
            return HindsightReplay(config.buffer_size, slots, **rows)
        if not config.prioritized_replay:
            return Replay(config.buffer_size, slots, **rows)
        alpha, eps = config.prioritized_replay_alpha, config.prioritized_replay_eps
        return PrioritizedReplay(config.buffer_size, slots, alpha=alpha, eps=eps, **rows)

    def make_sequences(self, slots: int, **rows: Any) -> Replay:
        """Makes the replay for a policy with a memory."""
        raise NotImplementedError

    def follow(self, name: str, change: Change) -> None:
        super().follow(name, change)
        if name in self.targets:
            self.targets[name].follow(change)

    def take_back(self, good: dict[str, Tensor]) -> None:
        super().take_back(good)
        for target in self.targets.values():
            if not torch.isfinite(target.flat.whole).all():
                target.match()

    def leave_environment(self) -> list[str]:
        known = [] if self.replay is None else ["the replay"]
        self.replay = None
        if self.hindsight:
            self.hindsight = Hindsight(self.config, self.policy.obs_layout)
        return [*super().leave_environment(), *known]

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "targets": {name: target.flat.whole for name, target in self.targets.items()},
            "replay": self.replay.state_dict() if self.replay else None,
            "updated": self.updated,
            "owed": self.owed,
        }

    def load_state_dict(self, state: dict[str, Any], policy: dict[str, Tensor]) -> None:
        super().load_state_dict(state, policy)
        for name, target in self.targets.items():
            target.load(torch.as_tensor(state["targets"][name]))
        self.updated, self.owed = int(state["updated"]), float(state["owed"])
        self.replay = None
        if state["replay"] is not None:
            segment = state["replay"].get("segment", 0)
            self.replay = self._make_replay(state["replay"]["slots"], segment)
            self.replay.load_state_dict(state["replay"])
        self.explore(sampling=False)


class Learnt(Protocol):
    """What there is to know of a gradient step.

    Attributes:
        error: the temporal-difference errors, `[N]`, by which a replay may be prioritized.
        grad_norm: of the gradient, before clipping; not finite if the step was skipped.
    """

    @property
    def error(self) -> Tensor: ...

    @property
    def grad_norm(self) -> float: ...


@dataclass
class Minibatch:
    """What one gradient step learns from, `[N, ...]` each.

    Attributes:
        x, next_x: prepared observations: s, where the steps begin, and s', where the last of the n
            steps led to.
        action: a.
        reward: Σ γᵏ r of the n steps.
        discount: what a value at s' is worth: γⁿ, or 0 if the last of the steps terminated.
        weight: 1 / N, times the importance weights of a prioritized replay.
        index: where the steps are in the replay.
        next_q: Q⁻(s', ·), if it is known already.
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
        """Some of the steps, as views."""
        return Minibatch(
            x=rows(self.x, part),
            action=self.action[part],
            reward=self.reward[part],
            next_x=rows(self.next_x, part),
            discount=self.discount[part],
            weight=self.weight[part],
            index=self.index[part],
            next_q=None if self.next_q is None else self.next_q[part],
        )
