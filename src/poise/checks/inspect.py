"""All checks of one environment, in their order."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from poise.checks.measure import check_speed
from poise.checks.play import (
    check_corners,
    check_episodes,
    check_frames,
    check_signature,
    check_spaces,
)
from poise.checks.probe import Phase, Probe
from poise.checks.report import Report
from poise.checks.seeds import check_seeds


def inspect_env(
    make: Callable[[str | None], gym.Env],
    report: Report,
    *,
    steps: int,
    seed: int,
    seconds: float,
    num_envs: int,
    made: Callable[[gym.Env], None] = lambda env: None,
    **listeners: Any,
) -> None:
    """Makes all checks, and fills `report`.

    A check that cannot go on does not keep the next ones from being made.

    Args:
        make: makes an instance for a render mode or for None.
        report: where findings and facts are put.
        steps: of random play, at most.
        seed: of episodes and actions.
        seconds: for all checks, about.
        num_envs: for how many environments workers are advised.
        made: called with the first instance.
        listeners: `found` and `at`, see `Probe`.
    """
    probe = Probe(make, report, seed=seed, **listeners)
    generators = random.getstate(), np.random.get_state()
    random.seed(seed)  # a report of an environment that draws from the global ones repeats, too
    np.random.seed(seed % 2**32)
    try:
        with probe.contained():
            env = probe.made()
            made(env)
            check_signature(probe, env)
            check_spaces(probe, env)
            with probe.contained():
                check_episodes(probe, env, steps, 0.4 * seconds)
            with probe.contained():
                check_corners(probe, env)
            with probe.contained():
                check_seeds(probe, env, 0.3 * seconds)
            with probe.contained():
                check_frames(probe, env)
            with probe.contained():
                check_speed(probe, env, 0.2 * seconds, num_envs)
            probe.call(Phase.CLOSE, env.close)
    finally:
        random.setstate(generators[0])
        np.random.set_state(generators[1])
