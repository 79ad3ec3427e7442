"""`gym.logger`: how much is said, by Gymnasium's notices, which are Python's warnings."""

from __future__ import annotations

import gymnasium.logger
from gymnasium.logger import ERROR, WARN, deprecation, error, warn

__all__ = [
    "DEBUG", "DISABLED", "ERROR", "INFO", "WARN", "deprecation", "error", "info", "setLevel",
    "set_level", "warn",
]  # fmt: skip

DEBUG, INFO, DISABLED = 10, 20, 50


def set_level(level: int) -> None:
    """Notices below this level are silent."""
    gymnasium.logger.min_level = level


setLevel = set_level  # noqa: N816 - its name until 0.9


def info(text: str, *args: object) -> None:
    """Prints a sentence, if so much is asked for."""
    if gymnasium.logger.min_level <= INFO:
        print(text % args)
