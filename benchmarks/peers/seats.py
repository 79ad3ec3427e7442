"""Plays a policy of connect four against a player who moves at random, from both seats."""

from __future__ import annotations

from typing import Any

import numpy as np


def against_random(trainer: Any, games: int, *, explore: bool = False) -> int:
    """How many of so many games the policy wins; it begins every other one."""
    from pettingzoo.classic import connect_four_v3

    rng, won = np.random.default_rng(0), 0
    for game in range(games):
        env = connect_four_v3.env()
        env.reset(seed=game)
        own = env.possible_agents[game % 2]
        for agent in env.agent_iter():
            seen, reward, terminated, truncated, _ = env.last()
            if terminated or truncated:
                won += agent == own and reward > 0
                env.step(None)
            elif agent == own:
                env.step(int(trainer.compute_action(seen, explore=explore)))
            else:
                env.step(int(rng.choice(np.flatnonzero(seen["action_mask"]))))
    return won
