"""`ImpalaTrainer`."""

from __future__ import annotations

from poise.compat.ray.rllib.agents.trainer import Trainer


class ImpalaTrainer(Trainer):
    """RLlib's trainer of IMPALA."""

    algorithm = "IMPALA"
