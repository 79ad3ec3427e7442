"""Says where a policy relies on chance: where greedy actions earn much less than sampled ones."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from poise.envs.make import is_native
from poise.errors import PoiseWarning
from poise.training.callbacks import Callback

if TYPE_CHECKING:
    from poise.training.trainer import Trainer

SHARE = 0.25
"""The greedy return must be lower by this share of the sampled one,"""
ERRORS = 3.0
"""and by so many standard errors of a mean over as many episodes."""
COST = 0.02
"""A look at the end of a run may take this share of the calls of environments in training.

A native batch is one call.
"""
FEWEST, MOST = 3, 10
"""Episodes of such a look; where fewer are affordable, there is none."""


def falls_short(greedy: float, sampled: Sequence[float], episodes: int) -> bool:
    """Whether greedy returns are much lower than sampled ones.

    Args:
        greedy: the mean return of `episodes` episodes with the most likely actions.
        sampled: returns of episodes with sampled actions.
        episodes: how many greedy ones there were.
    """
    if len(sampled) < 2 or not math.isfinite(greedy):
        return False
    mean = statistics.fmean(sampled)
    error = statistics.stdev(sampled) / math.sqrt(episodes)
    return mean - greedy > max(SHARE * abs(mean), ERRORS * error)


def sentence(greedy: float, sampled: float, how: str) -> str:
    """What was seen, and what it means."""
    return (
        f"The most likely actions earn {greedy:.4g}, and sampled ones {sampled:.4g} ({how}): "
        "this policy relies on chance. Train on, or act with explore=True (--explore)."
    )


class Greedy(Callback):
    """Says once that evaluations fall short of training.

    The sentence has the score of sampled actions in the same episodes beside it.

    Args:
        say: takes the sentence; a warning unless given.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self._say = say or (lambda text: warnings.warn(text, PoiseWarning, stacklevel=2))
        self._told = False

    def on_evaluation(self, trainer: Trainer, evaluation: dict[str, float]) -> None:
        if not (self._told or trainer.config.evaluation_explore):
            self._compare(trainer, evaluation)

    def look(self, trainer: Trainer, result: dict[str, Any]) -> None:
        """At the end of a run without evaluations: a few episodes, if they are affordable."""
        config, length = trainer.config, result.get("episode_len_mean", math.nan)
        together = is_native(config.env)
        calls = trainer.algorithm.timesteps / (config.num_envs if together else 1)
        affordable = int(COST * calls / length * (MOST if together else 1)) if length >= 1 else 0
        if not self._told and config.evaluation_interval is None and affordable >= FEWEST:
            self._compare(trainer, trainer.evaluate(min(affordable, MOST), explore=False))

    def _compare(self, trainer: Trainer, evaluation: dict[str, float]) -> None:
        returns = [episode.reward for episode in trainer.metrics.window]
        greedy, episodes = evaluation["episode_reward_mean"], int(evaluation["episodes"])
        if falls_short(greedy, returns, episodes):
            sampled = trainer.evaluate(episodes, explore=True)["episode_reward_mean"]
            if sampled - greedy <= SHARE * abs(sampled):
                return  # training was better by something else, such as random first steps
            self._told = True
            how = f"{episodes} episodes each; {statistics.fmean(returns):.4g} in training"
            self._say(sentence(greedy, sampled, how))
