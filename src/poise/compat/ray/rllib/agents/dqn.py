"""`DQNTrainer`."""

from __future__ import annotations

from typing import Any

from poise.compat.ray.rllib.agents.trainer import Trainer

DEFAULT_CONFIG: dict[str, Any] = {}
"""What a script copies and changes; what it leaves alone is Poise's to choose."""


class DQNTrainer(Trainer):
    """RLlib's trainer of DQN."""

    algorithm = "DQN"
