"""`stable_baselines3.common`."""

from __future__ import annotations

from poise.compat.missing import names_of
from poise.compat.stable_baselines3.common import vec_env

__all__ = ["vec_env"]

__getattr__ = names_of(
    "stable_baselines3.common",
    __all__,
)
