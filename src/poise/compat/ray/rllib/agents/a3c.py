"""`A2CTrainer`, and `A3CTrainer`, which is the same here: A2C is A3C without its races."""

from __future__ import annotations

from poise.compat.ray.rllib.agents.trainer import DEFAULT_CONFIG, Trainer

__all__ = ["DEFAULT_CONFIG", "A2CTrainer", "A3CTrainer"]


class A2CTrainer(Trainer):
    """RLlib's trainer of A2C."""

    algorithm = "A2C"


A3CTrainer = A2CTrainer
