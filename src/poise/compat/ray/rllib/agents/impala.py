"""`ImpalaTrainer`."""

from __future__ import annotations

from poise.compat.ray.rllib.agents.trainer import DEFAULT_CONFIG, Trainer

__all__ = ["DEFAULT_CONFIG", "ImpalaTrainer"]


class ImpalaTrainer(Trainer):
    """RLlib's trainer of IMPALA."""

    algorithm = "IMPALA"
