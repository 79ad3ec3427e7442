"""`gym`: scripts of all its years run in Gymnasium's environments.

`reset` and `step` return what the line that calls them takes: see `poise.compat.gym.eras`.
"""

from __future__ import annotations

from poise.compat.gym import envs, error, logger, spaces, utils, vector, wrappers
from poise.compat.gym.core import (
    ActionWrapper,
    Env,
    ObservationWrapper,
    OldEnv,
    RewardWrapper,
    Wrapper,
)
from poise.compat.gym.envs.registration import make, register, spec
from poise.compat.gym.spaces import Space
from poise.compat.missing import names_of

__version__ = "0.21.0"
"""What scripts compare; those that ask for 0.26 by it should import Gymnasium."""

__all__ = [
    "ActionWrapper", "Env", "ObservationWrapper", "OldEnv", "RewardWrapper", "Space", "Wrapper",
    "envs", "error", "logger", "make", "register", "spaces", "spec", "utils", "vector", "wrappers",
]  # fmt: skip

__getattr__ = names_of(
    "gym", __all__, {"GoalEnv": "HER takes any environment with a compute_reward: docs/sac.md."}
)
