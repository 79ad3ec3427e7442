"""Wrappers around an environment, by name.

    wrappers=["gymnasium.wrappers:FlattenObservation"]

They are a key of the env config, so that whatever makes the environment (workers, evaluations,
films, a resumed run) puts them around it.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from poise.config.base import WRAPPERS, env_name
from poise.envs import trust
from poise.errors import EnvError


def take_wrappers(config: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    """Removes the wrappers from an env config.

    An environment may have such a key of its own, with other values: these stay.

    Returns:
        Each wrapper, a class or its `module:Name`, with its arguments, the innermost first.
    """
    found = config.get(WRAPPERS)
    if not isinstance(found, (list, tuple)):
        return []
    pairs = [
        tuple(item) if isinstance(item, (list, tuple)) and len(item) == 2 else (item, {})
        for item in found
    ]
    ours = [callable(what) or (isinstance(what, str) and ":" in what) for what, _ in pairs]
    if not all(ours) or not all(isinstance(arguments, dict) for _, arguments in pairs):
        return []
    del config[WRAPPERS]
    return pairs


def wrap(env: gym.Env, wrappers: list[tuple[Any, dict[str, Any]]]) -> gym.Env:
    """Puts wrappers around an environment, one after the other.

    Raises:
        EnvError: there is no such wrapper, its arguments are not those that it takes, or it made
            something else.
    """
    for what, arguments in wrappers:
        wrapper = _find(what, arguments)
        try:
            made = wrapper(env, **arguments)
        except (TypeError, AssertionError, ValueError) as error:
            raise EnvError(
                f"The wrapper {env_name(what)!r} cannot be made with {arguments}: {error}."
            ) from error
        if not isinstance(made, gym.Env):
            raise EnvError(
                f"The wrapper {env_name(what)!r} made a {type(made).__name__}, "
                "which is no environment."
            )
        env = made
    return env


def resolved(wrappers: list[tuple[Any, dict[str, Any]]]) -> list[tuple[Any, dict[str, Any]]]:
    """The same with classes instead of names, for a child process."""
    return [(_find(what, arguments), arguments) for what, arguments in wrappers]


def _find(wrapper: Any, arguments: dict[str, Any]) -> Any:
    """The class of a wrapper that may be a name."""
    if isinstance(wrapper, str):
        return trust.find(wrapper, "wrapper", EnvError, arguments)
    return wrapper
