"""Plays a policy of connect four against players that have learnt nothing, from both seats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Player = Callable[[dict[str, Any], np.random.Generator], int]
"""Chooses a column by an observation, whose planes are the own stones and the others'."""


def chance(seen: dict[str, Any], rng: np.random.Generator) -> int:
    """Moves at random."""
    return int(rng.choice(np.flatnonzero(seen["action_mask"])))


def lookahead(seen: dict[str, Any], rng: np.random.Generator) -> int:
    """Looks one step ahead: wins if it can, else blocks if it must, else moves at random."""
    board, columns = seen["observation"], np.flatnonzero(seen["action_mask"])
    for plane in (0, 1):
        for column in columns.tolist():
            stones = board[..., plane].copy()
            stones[np.flatnonzero(board[:, column].sum(-1) == 0)[-1], column] = 1
            if four(stones):
                return int(column)
    return int(rng.choice(columns))


def four(stones: np.ndarray) -> bool:
    """Whether four stones are in a line, of `[rows, columns]`."""
    rows, columns = stones.shape
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        field = np.zeros((rows + 6, columns + 6), bool)
        field[3 : rows + 3, 3 : columns + 3] = stones
        line = field.copy()
        for step in (1, 2, 3):
            line &= np.roll(field, (-down * step, -right * step), (0, 1))
        if line.any():
            return True
    return False


def wins(
    trainer: Any, player: Player, games: int, *, explore: bool = False, seed: int = 0
) -> list[int]:
    """How many of so many games a policy wins when it begins, and of as many when it does not."""
    from pettingzoo.classic import connect_four_v3

    rng, won = np.random.default_rng(seed), [0, 0]
    for game in range(2 * games):
        env = connect_four_v3.env()
        env.reset(seed=game)
        own = env.possible_agents[game % 2]
        for agent in env.agent_iter():
            seen, reward, terminated, truncated, _ = env.last()
            if terminated or truncated:
                won[game % 2] += agent == own and reward > 0
                env.step(None)
            elif agent == own:
                env.step(int(trainer.compute_action(seen, explore=explore)))
            else:
                env.step(player(seen, rng))
    return won
