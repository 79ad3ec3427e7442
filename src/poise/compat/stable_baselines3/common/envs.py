"""`stable_baselines3.common.envs`, which is not carried over."""

from __future__ import annotations

from poise.compat.missing import names_of

_WHY = "It is there to try out Stable-Baselines3: take one of Gymnasium's."

__getattr__ = names_of(
    "stable_baselines3.common.envs",
    (),
    dict.fromkeys(("BitFlippingEnv", "FakeImageEnv", "IdentityEnv", "SimpleMultiObsEnv"), _WHY),
)
