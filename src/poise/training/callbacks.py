"""Hooks into a run.

class Twice(poise.Callback):
    def on_iteration(self, trainer, result):
        result["twice"] = 2 * result["episode_reward_mean"]     # a callback may add metrics
        if result["twice"] > 900:
            trainer.stop("good enough")                         # or stop the run
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poise.sampling.episodes import Episode
    from poise.stepping.failures import Failure
    from poise.training.trainer import Trainer


class Callback:
    """Derive from this and override what you need; every hook does nothing by default."""

    def on_run_start(self, trainer: Trainer) -> None:
        """Before the first iteration of `learn`."""

    def on_run_end(self, trainer: Trainer, reason: str) -> None:
        """After the last iteration of `learn`, with why it ended.

        Also when an exception ended it, which is then `trainer.error`.
        """

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        """After every iteration.

        `result` may be added to: later callbacks, stop rules and files see it.
        """

    def on_episode_end(self, trainer: Trainer, episode: Episode) -> None:
        """For every training episode that ended, once the iteration that it ended in is over."""

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """After a checkpoint is on disk."""

    def on_evaluation(self, trainer: Trainer, evaluation: dict[str, float]) -> None:
        """After an evaluation; the numbers may be added to."""

    def on_failure(self, trainer: Trainer, failure: Failure) -> None:
        """When an environment has failed and is being replaced: at once, amid an iteration.

        It may be called from another thread than the one that trains: from a watchdog's where an
        environment in this process hangs, and from the sampling thread of IMPALA and APPO.
        """
