"""`SACTrainer`."""

from __future__ import annotations

from poise.compat.ray.rllib.agents.trainer import DEFAULT_CONFIG, Trainer

__all__ = ["DEFAULT_CONFIG", "SACTrainer"]


class SACTrainer(Trainer):
    """RLlib's trainer of SAC."""

    algorithm = "SAC"
