"""`ray.rllib`: `agents` and `train`."""

from __future__ import annotations

from poise.compat.ray.rllib import agents, train

__all__ = ["agents", "train"]
