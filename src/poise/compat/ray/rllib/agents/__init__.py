"""`ray.rllib.agents`: a module for each algorithm."""

from __future__ import annotations

from poise.compat.ray.rllib.agents import a3c, ddpg, dqn, impala, ppo, sac
from poise.compat.ray.rllib.agents.callbacks import DefaultCallbacks

__all__ = ["DefaultCallbacks", "a3c", "ddpg", "dqn", "impala", "ppo", "sac"]
