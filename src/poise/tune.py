"""`poise.tune`: searches for settings.

A search draws settings from a space, trains with each, and keeps what came of them:

    space = {"env": "CartPole-v1", "lr": poise.tune.loguniform(1e-5, 1e-2)}
    goal = {"episode_reward_mean": 475}
    analysis = poise.tune.run("PPO", config=space, stop=goal, num_samples=20)
    analysis.best_config
"""

from __future__ import annotations

from poise.config.presets import SPACES
from poise.tuning.analysis import Analysis
from poise.tuning.run import load, resume, run
from poise.tuning.space import (
    choice,
    grid_search,
    lograndint,
    loguniform,
    quniform,
    randint,
    sample_from,
    uniform,
)
from poise.tuning.study import Trial

__all__ = [
    "SPACES", "Analysis", "Trial", "choice", "grid_search", "load", "lograndint", "loguniform",
    "quniform", "randint", "resume", "run", "sample_from", "uniform",
]  # fmt: skip
