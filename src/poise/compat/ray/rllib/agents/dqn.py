"""`DQNTrainer`."""

from __future__ import annotations

from poise.compat.ray.rllib.agents.trainer import Trainer


class DQNTrainer(Trainer):
    """RLlib's trainer of DQN."""

    algorithm = "DQN"
