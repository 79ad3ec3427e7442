"""`stable_baselines3.common.env_checker`."""

from __future__ import annotations

from typing import Any

from poise.checks.check import check_env as check
from poise.compat.gym.core import modern


def check_env(env: Any, warn: bool = True, skip_render_check: bool = True) -> None:
    """What is wrong with an environment, as `poise check-env` finds it.

    Raises:
        AssertionError: something that learning cannot live with.
    """
    found = check(lambda config: modern(env))
    if warn:
        print(found)
    # There is but one instance, and there, seeds are not looked at.
    wrong = [e.text for e in found.errors if e.check not in ("sharing", "seeding")]
    assert not wrong, " ".join(wrong)
