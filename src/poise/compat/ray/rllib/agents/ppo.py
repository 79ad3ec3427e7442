"""`PPOTrainer`."""

from __future__ import annotations

from typing import Any

from poise.compat.ray.rllib.agents.trainer import Trainer

DEFAULT_CONFIG: dict[str, Any] = {}
"""What a script copies and changes; what it leaves alone is Poise's to choose."""


class PPOTrainer(Trainer):
    """RLlib's trainer of PPO."""

    algorithm = "PPO"


class APPOTrainer(Trainer):
    """RLlib's trainer of APPO."""

    algorithm = "APPO"
