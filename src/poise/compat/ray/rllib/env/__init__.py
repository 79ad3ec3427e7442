"""`ray.rllib.env`: environments of several agents."""

from __future__ import annotations

from poise.compat.ray.rllib.env.multi_agent_env import MultiAgentEnv

__all__ = ["MultiAgentEnv"]
