"""`DDPGTrainer` and `TD3Trainer`."""

from __future__ import annotations

from poise.compat.ray.rllib.agents.trainer import DEFAULT_CONFIG, Trainer

__all__ = ["DEFAULT_CONFIG", "DDPGTrainer", "TD3Trainer"]


class DDPGTrainer(Trainer):
    """RLlib's trainer of DDPG."""

    algorithm = "DDPG"


class TD3Trainer(Trainer):
    """RLlib's trainer of TD3."""

    algorithm = "TD3"
