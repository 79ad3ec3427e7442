"""`PPOTrainer`."""

from __future__ import annotations

from poise.compat.ray.rllib.agents.trainer import DEFAULT_CONFIG, Trainer

__all__ = ["DEFAULT_CONFIG", "APPOTrainer", "PPOTrainer"]


class PPOTrainer(Trainer):
    """RLlib's trainer of PPO."""

    algorithm = "PPO"


class APPOTrainer(Trainer):
    """RLlib's trainer of APPO."""

    algorithm = "APPO"
