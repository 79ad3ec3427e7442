"""What IMPALA and APPO share: samplers in a thread of their own sample while the learner learns.

repeat:
    take the oldest rollout of the queue: its policy μ is a few updates old
    learn from it, with importance weights for the difference between π and μ
    publish the parameters; the samplers take them up before their next rollout
"""

from __future__ import annotations

import math

from poise.algorithms.on_policy import OnPolicy
from poise.sampling.group import SamplerGroup


class Asynchronous(OnPolicy):
    """Learns from rollouts in the order in which they were sampled, while the next are sampled.

    Attributes:
        learnt: the rollouts that this object has learnt from.
    """

    repeatable = False
    learnt = 0

    def place(self, samplers: SamplerGroup) -> SamplerGroup:
        waiting = self.config.learner_queue_size
        return samplers.ahead(self.policy, self.flat, waiting, self.updates)

    def iteration(self, samplers: SamplerGroup) -> dict[str, float]:
        self.warm_up(samplers)
        waited, lags, queued = samplers.waited, [], []
        stats: dict[str, float] = {}
        with samplers:
            for _ in self.rounds():
                queued.append(samplers.ready)
                rollout = samplers.collect()
                lags.append(self.updates - rollout.version)
                stats = self.learn_from(rollout)
                self.finish_round(rollout)
                self.learnt += 1
                if self.learnt % self.config.broadcast_interval == 0:
                    samplers.publish(self.updates)
        self.waited = samplers.waited - waited
        return {
            **stats,
            "policy_lag_mean": sum(lags) / len(lags) if lags else math.nan,
            "policy_lag_max": max(lags, default=math.nan),
            "queue_size": sum(queued) / len(queued) if queued else math.nan,
        }
