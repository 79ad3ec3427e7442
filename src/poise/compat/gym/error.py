"""`gym.error`, which is Gymnasium's."""

from __future__ import annotations

from typing import Any

from gymnasium.error import *  # noqa: F403
from gymnasium.error import Error

from poise.errors import EnvError

UnregisteredEnv: Any = EnvError  # type: ignore[misc, no-redef]
"""What `gym.make` raises where there is no such environment."""

__all__ = ["Error", "UnregisteredEnv"]
