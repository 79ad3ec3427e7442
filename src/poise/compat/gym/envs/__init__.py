"""`gym.envs`: the registry, and the classes of Gymnasium's own environments."""

from __future__ import annotations

import sys

from gymnasium.envs import classic_control, toy_text

from poise.compat.gym.envs import registration
from poise.compat.gym.envs.registration import make, register, registry, spec

__all__ = ["classic_control", "make", "register", "registration", "registry", "spec", "toy_text"]

for _module in (classic_control, toy_text):  # whose own modules can be imported from here, too
    sys.modules[_module.__name__.replace("gymnasium", __name__.removesuffix(".envs"))] = _module
