"""What IMPALA and APPO share: an actor that samples in a thread of its own while the learner learns.

repeat:
    take the oldest rollout of the queue: its policy μ is a few updates old
    learn from it, with importance weights for the difference between π and μ
    publish the parameters; the actor takes them up before its next rollout
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

from torch import Tensor

from poise.algorithms.base import OnPolicy
from poise.learning.optimizers import Change
from poise.sampling.actor import Actor
from poise.sampling.rollout import Rollout
from poise.sampling.sampler import Sampler


class Asynchronous(OnPolicy):
    """Learns from rollouts in the order in which they were sampled, while the next ones are.

    Attributes:
        actor: made with the first iteration, and anew where there are other samplers.
        learnt: rollouts learnt from since then.
    """

    repeatable = False

    actor: Actor | None = None
    learnt = 0

    @abstractmethod
    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learns from one rollout; returns the learner's statistics."""

    def iteration(self, samplers: list[Sampler]) -> dict[str, float]:
        config = self.config
        if self.actor is None or self.actor.samplers is not samplers:
            self.warm_up(samplers)
            self.actor, self.learnt = Actor(samplers, self.policy, self.flat, config.learner_queue_size), 0
            self.actor.publish(self.updates)
        actor, waited = self.actor, self.actor.waited
        lags: list[int] = []
        queued: list[int] = []
        stats: dict[str, float] = {}
        with actor:
            for _ in self.rounds():
                queued.append(actor.ready)
                rollout = actor.take()
                lags.append(self.updates - rollout.version)
                stats = self.update(rollout)
                self.finish_round(rollout)
                self.learnt += 1
                if self.learnt % config.broadcast_interval == 0:
                    actor.publish(self.updates)
        self.waited = actor.waited - waited
        return {
            **stats,
            "policy_lag_mean": sum(lags) / len(lags) if lags else math.nan,
            "policy_lag_max": max(lags, default=math.nan),
            "queue_size": sum(queued) / len(queued) if queued else math.nan,
        }

    def follow(self, change: Change) -> None:
        super().follow(change)
        if change.rebuilt or change.places is not None:
            self.let_go()  # its copy of the policy is no longer like it

    def take_back(self, good: Tensor) -> None:
        super().take_back(good)
        self.let_go()  # what waits in its queue was sampled by the policy that is taken back

    def let_go(self) -> None:
        if self.actor is not None:
            self.actor.rest(at_once=True)
            self.actor = None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.let_go()  # what waits in its queue belongs to another course of training
