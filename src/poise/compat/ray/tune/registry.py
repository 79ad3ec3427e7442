"""`register_env`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from poise.compat.translate import modern
from poise.envs.make import register_env as _register_env


def register_env(name: str, env_creator: Callable[[dict[str, Any]], Any]) -> None:
    """Makes an environment known by a name; those of Gym's old API as well."""
    _register_env(name, modern(env_creator))
