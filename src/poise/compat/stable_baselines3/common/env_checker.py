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
    wrong = [each.text for each in found.errors if each.check != "sharing"]  # there is but one
    assert not wrong, " ".join(wrong)
