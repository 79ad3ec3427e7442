"""A goal that training seems to have reached is confirmed by fresh episodes.

A mean over training episodes is of the policies before the present one, and the first window of
them that reaches a goal is a lucky one. What is saved is the present policy, so it is this one that
has to reach the goal before a run stops there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from poise.config.base import AlgorithmConfig
from poise.envs.atari import is_atari
from poise.envs.make import is_native
from poise.sampling.episodes import Episode
from poise.stepping.failures import Failure
from poise.training.evaluation import summarize

FEWEST = 20
"""Episodes that a confirmation plays at least (or as many as there are in a window)."""

SHARE = 0.1
"""Of the steps trained so far: a confirmation takes no more, unless its environment is native and
quick. Games from the screen are not: their networks take longer than the emulator."""

PATIENCE = 2
"""After a failed confirmation, training goes on for so many times the steps that it took."""


class Confirmation:
    """Plays fresh episodes, with sampled actions as in training, when a stop rule holds.

    Args:
        config: of the run.
        play: plays so many fresh episodes.
        report: is told once that a goal was not confirmed.

    Attributes:
        found: `confirmed_reward_mean` and `confirmed_episodes`, once a confirmation has succeeded.
        at: `timesteps_total` of the policy that it was of.
    """

    def __init__(
        self,
        config: AlgorithmConfig,
        play: Callable[[int], list[Episode]],
        report: Callable[[Failure], None],
    ) -> None:
        self.config, self._play, self._report = config, play, report
        self.found: dict[str, Any] = {}
        self.at: int | None = None
        self._times, self._steps, self._seconds = 0, 0, 0.0
        self._again_at = 0

    def __call__(self, key: str, goal: float, result: dict[str, Any]) -> str | None:
        """Why the run stops: fresh episodes reach the goal too.

        None if they do not, or it is too early to ask again.

        Args:
            key: of the results; a statistic of episodes.
            goal: what it has reached.
            result: the latest.
        """
        trained = result["timesteps_total"]
        if trained < self._again_at:
            return None
        start = time.perf_counter()
        episodes = self._play(self._how_many(trained, result["episode_len_mean"]))
        self._seconds += time.perf_counter() - start
        self._times += 1
        steps = sum(episode.length for episode in episodes)
        self._steps += steps
        found = summarize(episodes)
        if found.get(key, float("-inf")) >= goal:
            self.at = trained
            self.found = {
                "confirmed_reward_mean": found["episode_reward_mean"],
                "confirmed_episodes": len(episodes),
            }
            confirmed = f"confirmed {found[key]:.4g} over {len(episodes)} fresh episodes"
            return f"{key} reached {goal:g}: {confirmed}{self._cost()}"
        self._again_at = trained + PATIENCE * steps
        if self._times == 1:
            had = found.get(key, float("nan"))
            what = (
                f"{key} reached {goal:g} while training, "
                f"but {len(episodes)} fresh episodes of the present policy have {had:.4g}: "
                "training goes on until fresh episodes reach it, too."
            )
            self._report(Failure("odd", what))
        return None

    def _cost(self) -> str:
        """What all confirmations have taken, where it was more than one."""
        if self._times == 1:
            return ""
        return f" ({self._times} confirmations, {self._steps:,} steps, {self._seconds:.1f} s)"

    def _how_many(self, trained: int, length: float) -> int:
        """Episodes to play: as many as in a window, or fewer where that would take too long."""
        window = self.config.metrics_smoothing_episodes
        env = self.config.env
        if is_native(env) and not (isinstance(env, str) and is_atari(env)):
            return window
        return min(window, max(FEWEST, int(SHARE * trained / max(length, 1.0))))
