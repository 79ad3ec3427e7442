"""What a result says of the episodes, and of where the time went."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from poise.sampling.sampler import Episode, Sampler
from poise.training.evaluation import info_means

STAGES = ("env", "inference", "waiting")
"""What samplers spend time on."""


class Metrics:
    """The books of a run.

    Args:
        window: episodes that means are taken over.

    Attributes:
        window: the latest episodes.
        episodes_total: all that ended.
        time_total_s: seconds of all iterations.
    """

    def __init__(self, window: int) -> None:
        self.window: deque[Episode] = deque(maxlen=window)
        self.episodes_total = 0
        self.time_total_s = 0.0
        self.forget_samplers()

    def forget_samplers(self) -> None:
        """To be called when samplers are made anew: their clocks start at 0."""
        self._spent = dict.fromkeys(STAGES, 0.0)

    def add(self, episodes: list[Episode]) -> None:
        """Enters episodes that ended."""
        self.episodes_total += len(episodes)
        self.window.extend(episodes)

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

    def of_time(self, samplers: list[Sampler], seconds: float) -> dict[str, float]:
        """Shares of an iteration's `seconds`; what samplers did not spend was spent on learning."""
        total = {stage: sum(s.seconds[stage] for s in samplers) for stage in STAGES}
        shares = {stage: (total[stage] - self._spent[stage]) / seconds for stage in STAGES}
        self._spent = total
        shares["learning"] = max(0.0, 1 - sum(shares.values()))
        return {f"perf/{stage}_share": share for stage, share in shares.items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "episodes_total": self.episodes_total,
            "time_total_s": self.time_total_s,
            "window": [[e.reward, e.length, e.slot, e.info] for e in self.window],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.episodes_total, self.time_total_s = state["episodes_total"], state["time_total_s"]
        self.window.extend(Episode(r, n, slot, info) for r, n, slot, info in state["window"])
