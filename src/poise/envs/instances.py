"""Which batch plays in which environment: two in the same one would disturb each other.

A function that returns an instance which it keeps, or a class that is a singleton, gives the same
environment again and again, perhaps in new wrappers each time. The environment inside the wrappers
tells.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium as gym

from poise.errors import EnvError

_players: dict[int, weakref.ref[Any]] = {}
"""The batch that plays in an environment, by the environment's `id`.

The batch keeps the environment alive, so that no other object gets this `id` before the batch is
gone.
"""


def claim(env: gym.Env, player: Any) -> None:
    """Notes that a batch plays in an environment, until it is released or the batch is gone.

    Raises:
        EnvError: a batch plays in it already.
    """
    refuse_if_played(env)
    for key in map(id, _cores(env)):
        _players[key] = weakref.ref(player, partial(_forget, key))


def _forget(key: int, _: object = None) -> None:
    _players.pop(key, None)


def release(env: gym.Env) -> None:
    """Forgets who plays in an environment."""
    for part in _cores(env):
        _forget(id(part))


def refuse_if_played(env: Any) -> None:
    """Refuses an environment in which a batch plays already.

    Raises:
        EnvError: it says how to make one for each.
    """
    if any(id(part) in _players for part in _cores(env)):
        name = type(env.unwrapped).__name__
        raise EnvError(
            f"The same {name} was returned again while episodes are played in it: "
            "each environment, also that of an evaluation or a film, must be an instance of its "
            f"own. Make it inside the function: env=lambda config: {name}(...)."
        )


def is_same(one: gym.Env, other: gym.Env) -> bool:
    """Whether there is one environment inside the wrappers of both."""
    return not {*map(id, _cores(one))}.isdisjoint(map(id, _cores(other)))


_STATISTICS = ("obs_rms", "return_rms", "ret_rms")
"""Attributes of wrappers that normalise: Gymnasium's, and those made after them."""


def normaliser_sentence(env: gym.Env) -> str | None:
    """What to say of an environment in which a wrapper normalises; None where none does."""
    found = []
    while isinstance(env, gym.Wrapper):
        if not {*vars(env)}.isdisjoint(_STATISTICS):
            found.append(type(env).__name__)
        env = env.env
    if not found:
        return None
    settings = []
    if found != ["NormalizeReward"]:
        settings.append("normalize_observations=True")
    if any("reward" in name.lower() for name in found):
        settings.append("normalize_rewards=True")
    return (
        f"{' and '.join(found)} inside the environment keeps statistics of its own: "
        "each environment has others, they go on from episode to episode, "
        "no checkpoint holds them, and an evaluation begins without any. "
        f"Leave it out, and train with {' and '.join(settings)}."
    )


def _cores(env: Any) -> Iterator[Any]:
    """The environment inside all wrappers, and what adapters in it keep as their `env`."""
    seen: list[Any] = []
    while all(hasattr(env, method) for method in ("reset", "step")) and not isinstance(env, type):
        env = getattr(env, "unwrapped", env)
        if any(env is one for one in seen):
            return
        seen.append(env)
        yield env
        env = vars(env).get("env") if hasattr(env, "__dict__") else None
