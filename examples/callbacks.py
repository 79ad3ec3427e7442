"""Metrics of your own, and a stop rule on one of them."""

from typing import Any

import poise
from poise import Trainer


class Steadiness(poise.Callback):
    """Adds the share of recent episodes that lasted to the end, and tells a new best."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.best = 0.0

    def on_episode_end(self, trainer: Trainer, episode: Any) -> None:
        self.lengths = [*self.lengths[-49:], episode.length]

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        share = sum(length >= 500 for length in self.lengths) / max(len(self.lengths), 1)
        result["custom/full_episodes"] = share
        if share > self.best + 0.1:
            self.best = share
            print(
                f"{result['timesteps_total']:>8} steps: {share:.0%} of the last 50 episodes lasted "
                "to the end"
            )

    def on_run_end(self, trainer: Trainer, reason: str) -> None:
        print(f"Ended: {reason}")


algo = poise.PPO("CartPole-v1", callbacks=[Steadiness()], seed=0)
algo.learn(stop={"custom/full_episodes": 0.9, "timesteps_total": 300_000})
