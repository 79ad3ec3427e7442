"""`DQNTrainer`."""

from __future__ import annotations

from poise.compat.ray.rllib.agents.trainer import DEFAULT_CONFIG, Trainer

__all__ = ["DEFAULT_CONFIG", "DQNTrainer"]


class DQNTrainer(Trainer):
    """RLlib's trainer of DQN."""

    algorithm = "DQN"
