"""`gym.utils`: seeds, and what is Gymnasium's."""

from __future__ import annotations

from gymnasium.utils import EzPickle, colorize

from poise.compat.gym.utils import seeding

__all__ = ["EzPickle", "colorize", "seeding"]
