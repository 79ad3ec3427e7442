"""`ray.rllib.env.multi_agent_env`: the base class of environments of several agents."""

from __future__ import annotations

from typing import Any


class MultiAgentEnv:
    """Whoever is in the observations of `reset` and `step` is to act.

    `reset` returns observations by agent, or these and infos; `step` takes actions and returns
    observations, rewards, dones (or terminateds and truncateds) and infos by agent, with the key
    `__all__` in what ends an episode. `possible_agents` (or `_agent_ids`) are all agents that may
    appear; `observation_space` and `action_space` (or `..._spaces`) are one space for all, or one
    by agent.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begins an episode."""
        raise NotImplementedError

    def step(self, action_dict: dict[Any, Any]) -> Any:
        """Takes the actions of those who were in the observations."""
        raise NotImplementedError

    def render(self) -> Any:
        """A frame, where there are any."""
        return None

    def close(self) -> None:
        """Gives its resources back."""
