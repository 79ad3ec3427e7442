"""`PPOTrainer`."""

from __future__ import annotations

from poise.compat.ray.rllib.agents.trainer import Trainer


class PPOTrainer(Trainer):
    """RLlib's trainer of PPO."""

    algorithm = "PPO"


class APPOTrainer(Trainer):
    """RLlib's trainer of APPO."""

    algorithm = "APPO"
