"""`gym.envs.registration`: environments by their ids, of either API."""

from __future__ import annotations

import inspect
from collections import UserDict
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator, spec

from poise.compat.gym.core import OldEnv, has_display
from poise.compat.gym.ids import as_in_gym, living
from poise.envs.make import AsEnvError, Quiet, make_env
from poise.envs.old_gym import OldGymEnv, old_api_sentence, takes

__all__ = ["EnvSpec", "make", "register", "registry", "spec"]

SINCE_26 = ("render_mode", "apply_api_compatibility", "new_step_api")
"""Settings of `make` by which a script means the API with five values."""


@dataclass(frozen=True)
class EntryPoint:
    """Makes an environment of either API as one of Gymnasium's.

    Attributes:
        of: a class, a function, or `module:Name`.
    """

    of: Any

    def __call__(self, render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env:
        maker = load_env_creator(self.of) if isinstance(self.of, str) else self.of
        told = {"render_mode": render_mode} if render_mode and takes(maker, "render_mode") else {}
        made = maker(**kwargs, **told)
        if old_api_sentence(made):
            return OldGymEnv(made, render_mode)
        return made  # type: ignore[return-value]


def register(id: str, entry_point: Any = None, **settings: Any) -> None:
    """`gym.register`: the environment is known to all of Poise by its id.

    What later versions took no more (`tags`, `timestep_limit`) is understood.
    """
    tags = settings.pop("tags", None) or {}
    limit = tags.get("wrapper_config.TimeLimit.max_episode_steps")
    limit = settings.pop("timestep_limit", None) or limit
    if limit is not None:
        settings.setdefault("max_episode_steps", limit)
    known = inspect.signature(gymnasium.register).parameters
    settings = {key: value for key, value in settings.items() if key in known}
    gymnasium.registry.pop(id, None)
    gymnasium.register(id, EntryPoint(entry_point), **settings)


def make(id: str, **settings: Any) -> OldEnv:
    """`gym.make`: an environment with the methods of the Gym that the script means.

    Ids that Gymnasium retired are those of the next living version. Atari games are the emulator's,
    with the pictures of the console.

    Raises:
        EnvError: there is none of this name, or it cannot be made.
    """
    five = any(settings.pop(key, None) is not None for key in SINCE_26[1:])
    mode = settings.pop("render_mode", None)
    for key in ("disable_env_checker", "autoreset"):
        settings.pop(key, None)
    shown = mode == "human" and has_display()
    build = partial(_modern, id, {**settings, **({"render_mode": "human"} if shown else {})})
    made = OldEnv(build(), remake=build, five=five or mode is not None, mode=mode)
    made.__dict__["spec"] = spec = copy(made.spec)
    if spec is not None:
        spec.id = id  # as scripts compare it
    return made


def _modern(env_id: str, settings: dict[str, Any]) -> gymnasium.Env:
    """Gymnasium's environment of an id of Gym's."""
    has_display()
    atari = as_in_gym(env_id)
    if atari is None:
        mode = settings.get("render_mode")
        rest = {key: value for key, value in settings.items() if key != "render_mode"}
        return make_env(living(env_id), rest, mode)
    name, own = atari
    with Quiet(), AsEnvError(env_id, settings):
        return gymnasium.make(name, disable_env_checker=True, **{**own, **settings})


class Registry(UserDict[str, EnvSpec]):
    """`gym.envs.registry`: Gymnasium's, which also answers as that of older versions."""

    def __init__(self) -> None:
        self.data = gymnasium.registry

    def all(self) -> list[EnvSpec]:
        """All that is registered."""
        return list(self.data.values())

    @property
    def env_specs(self) -> dict[str, EnvSpec]:
        """The same, by id; what is taken out of it can be registered anew."""
        return self.data


registry = Registry()
