"""Gym's wrappers: Gymnasium's, and `monitoring`."""

from __future__ import annotations

from gymnasium.wrappers import TimeLimit

from poise.compat.gym.wrappers import monitoring

__all__ = ["TimeLimit", "monitoring"]
