"""What a result says of the episodes, and of where the time went."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

from poise.sampling.sampler import Episode, Sampler
from poise.training.evaluation import info_means

STAGES = ("env", "inference", "waiting")
"""What samplers spend time on."""
KEPT = 50_000
"""Finished episodes that are remembered, for pictures; a run folder has them all."""


class Finished(NamedTuple):
    """A finished episode, and where the run stood when it ended."""

    steps: int
    seconds: float
    reward: float
    length: int


class Metrics:
    """The books of a run.

    Args:
        window: episodes that means are taken over.

    Attributes:
        window: the latest episodes.
        finished: the latest `KEPT` of them, without what the environment reported.
        finished_this_iter: those of the latest iteration.
        episodes_total: all that ended.
        time_total_s: seconds of all iterations.
        unfinished_s: seconds of the iteration that a stop has left amid it.
    """

    def __init__(self, window: int) -> None:
        self.window: deque[Episode] = deque(maxlen=window)
        self.finished: deque[Finished] = deque(maxlen=KEPT)
        self.finished_this_iter: list[Finished] = []
        self.episodes_total = 0
        self.time_total_s = 0.0
        self.unfinished_s = 0.0
        self.forget_samplers()

    def forget_samplers(self) -> None:
        """To be called when samplers are made anew: their clocks start at 0."""
        self._spent = dict.fromkeys(STAGES, 0.0)
        self._rows = 0

    def take_episodes(self, samplers: list[Sampler], before: int, after: int, seconds: float) -> list[Episode]:
        """Enters an iteration: the episodes that ended in it, in their order, and the seconds that it took.

        Args:
            samplers: have the episodes.
            before, after: environment steps of the run when the iteration began, and now.
            seconds: what the iteration took.
        """
        episodes = sorted((e for sampler in samplers for e in sampler.take_episodes()), key=lambda e: e.row)
        self.finished_this_iter = []
        rows = samplers[0].rows - self._rows
        for episode in episodes:  # its row says how much of the iteration was over, and so about where the run stood
            row = episode.row - self._rows
            steps, at = before - (-row * (after - before) // rows), self.time_total_s + seconds * row / rows
            self.finished_this_iter.append(Finished(steps, round(at, 3), episode.reward, episode.length))
        self._rows += rows
        self.time_total_s += seconds
        self.episodes_total += len(episodes)
        self.window.extend(episodes)
        self.finished.extend(self.finished_this_iter)
        return episodes

    def of_episodes(self) -> dict[str, float]:
        """Statistics of the latest episodes; NaN before any has ended."""
        rewards = [e.reward for e in self.window]
        return {
            "episode_reward_mean": sum(rewards) / len(rewards) if rewards else math.nan,
            "episode_reward_min": min(rewards, default=math.nan),
            "episode_reward_max": max(rewards, default=math.nan),
            "episode_len_mean": sum(e.length for e in self.window) / len(rewards) if rewards else math.nan,
            "episodes_total": self.episodes_total,
            **info_means(list(self.window)),
        }

    def of_time(self, samplers: list[Sampler], seconds: float, waited: float | None = None) -> dict[str, float]:
        """Shares of an iteration's `seconds`; what samplers did not spend was spent on learning.

        Args:
            samplers: they keep account of what they spend.
            seconds: that the iteration took.
            waited: by the learner, where samplers work beside it. Then `env` and `inference` are shares of the actor's
                time, and `learning` and `waiting` of the learner's: each two add up to 1 at most.
        """
        total = {stage: sum(s.seconds[stage] for s in samplers) for stage in STAGES}
        shares = {stage: (total[stage] - self._spent[stage]) / seconds for stage in STAGES}
        self._spent = total
        if waited is not None:
            shares["env"] += shares["waiting"]  # which was for worker processes
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
            "window": [[e.reward, e.length, e.slot, e.info] for e in self.window],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.episodes_total, self.time_total_s = int(state["episodes_total"]), float(state["time_total_s"])
        self.unfinished_s = float(state.get("unfinished_s", 0.0))
        self.window.clear()
        self.window.extend(Episode(float(r), int(n), int(slot), info) for r, n, slot, info in state["window"])
