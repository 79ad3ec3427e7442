"""`sb3_contrib`: what Poise has of it."""

from __future__ import annotations

from poise.compat.missing import names_of
from poise.compat.stable_baselines3.models import TQC, CrossQ, RecurrentPPO
from poise.config.hints import ALGORITHMS

__all__ = ["TQC", "CrossQ", "RecurrentPPO"]

__getattr__ = names_of(
    "sb3_contrib",
    __all__,
    {name: ALGORITHMS[name] for name in ("ARS", "MaskablePPO", "QRDQN", "TRPO")},
)
