"""`A2CTrainer`, and `A3CTrainer`, which is the same here: A2C is A3C without its races."""

from __future__ import annotations

from typing import Any

from poise.compat.ray.rllib.agents.trainer import Trainer

DEFAULT_CONFIG: dict[str, Any] = {}
"""What a script copies and changes; what it leaves alone is Poise's to choose."""


class A2CTrainer(Trainer):
    """RLlib's trainer of A2C."""

    algorithm = "A2C"


A3CTrainer = A2CTrainer
