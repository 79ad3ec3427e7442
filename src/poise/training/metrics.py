"""What a result says of the episodes, and of where the time went."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from poise.sampling.episodes import STAGES, Episode, Finished, Harvest
from poise.training.evaluation import info_means

KEPT = 50_000
"""Finished episodes that are remembered, for pictures; a run folder has them all."""


class Metrics:
    """The episodes and the time of a run.

    Args:
        window: episodes that means are taken over.

    Attributes:
        window: the latest episodes.
        finished: the latest `KEPT` of them, without what the environment reported.
        finished_this_iter: those of the latest iteration.
        episodes_total: all that ended.
        time_total_s: seconds of all iterations.
        unfinished_s: seconds of an iteration that a stop left unfinished.
        best: the highest score so far, and the environment steps of the run when it was reached.
    """

    def __init__(self, window: int) -> None:
        self.window: deque[Episode] = deque(maxlen=window)
        self.finished: deque[Finished] = deque(maxlen=KEPT)
        self.finished_this_iter: list[Finished] = []
        self.episodes_total = 0
        self.time_total_s = 0.0
        self.unfinished_s = 0.0
        self.best: tuple[float, int] | None = None

    def since_best(self, score: float | None, steps: int) -> int:
        """Environment steps since the best score; 0 before there is any.

        Args:
            score: the present one; None where it is not known.
            steps: of the run.
        """
        if score is not None and (self.best is None or score > self.best[0]):
            self.best = score, steps
        return steps - self.best[1] if self.best else 0

    def enter(self, harvest: Harvest, before: int, after: int, seconds: float) -> None:
        """Enters an iteration.

        Args:
            harvest: what has come of sampling in it.
            before, after: environment steps of the run when the iteration began, and now.
            seconds: what it took.
        """
        self.finished_this_iter = []
        rows = harvest.rows
        for episode in harvest.episodes:
            # Its row says how much of the iteration was over, and so where the run stood.
            steps = before - (-episode.row * (after - before) // rows)  # rounded up
            at = round(self.time_total_s + seconds * episode.row / rows, 3)
            self.finished_this_iter.append(Finished(steps, at, episode.reward, episode.length))
        self.time_total_s += seconds
        self.episodes_total += len(harvest.episodes)
        self.window.extend(harvest.episodes)
        self.finished.extend(self.finished_this_iter)

    def of_episodes(self) -> dict[str, float]:
        """Statistics of the latest episodes; NaN before any has ended."""
        rewards, lengths = [e.reward for e in self.window], [e.length for e in self.window]
        return {
            "episode_reward_mean": sum(rewards) / len(rewards) if rewards else math.nan,
            "episode_reward_min": min(rewards, default=math.nan),
            "episode_reward_max": max(rewards, default=math.nan),
            "episode_len_mean": sum(lengths) / len(lengths) if lengths else math.nan,
            "episodes_total": self.episodes_total,
            **info_means(list(self.window)),
        }

    @staticmethod
    def of_time(
        spent: dict[str, float], seconds: float, waited: float | None = None
    ) -> dict[str, float]:
        """Shares of an iteration's `seconds`; what sampling did not take was spent on learning.

        Args:
            spent: on each of `STAGES`.
            seconds: that the iteration took.
            waited: seconds that the learner waited, where samplers work beside it; else None. Then
                `env` and `inference` are shares of the samplers' time, and `learning` and `waiting`
                of the learner's: each two add up to 1 at most.
        """
        shares = {stage: spent[stage] / seconds for stage in STAGES}
        if waited is not None:
            shares["env"] += shares["waiting"]  # samplers wait for worker processes that step
            shares["waiting"] = waited / seconds
            shares["learning"] = max(0.0, 1 - shares["waiting"])
            return {f"perf/{stage}_share": share for stage, share in shares.items()}
        shares["learning"] = max(0.0, 1 - sum(shares.values()))
        return {f"perf/{stage}_share": share for stage, share in shares.items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "episodes_total": self.episodes_total,
            "time_total_s": self.time_total_s,
            "unfinished_s": self.unfinished_s,
            "best": list(self.best) if self.best else None,
            "window": [episode.to_json() for episode in self.window],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.episodes_total = int(state["episodes_total"])
        self.time_total_s = float(state["time_total_s"])
        self.unfinished_s = float(state.get("unfinished_s", 0.0))
        best = state.get("best")  # which older checkpoints lack
        self.best = (float(best[0]), int(best[1])) if best else None
        self.window.clear()
        self.window.extend(map(Episode.from_json, state["window"]))
