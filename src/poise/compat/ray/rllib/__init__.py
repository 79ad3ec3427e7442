"""`ray.rllib`: `agents`, `env` and `train`."""

from __future__ import annotations

from poise.compat.ray.rllib import agents, env, train
from poise.compat.ray.rllib.env import MultiAgentEnv

__all__ = ["MultiAgentEnv", "agents", "env", "train"]
