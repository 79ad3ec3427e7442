"""A slow environment in worker processes: Poise measures it, chooses how many, and replaces those
that fail."""

import random
import time
from typing import Any

import gymnasium as gym

import poise


class Remote(gym.Wrapper):
    """CartPole in a simulator that takes 2 ms a step and now and then loses its connection."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(gym.make("CartPole-v1"))

    def step(self, action: Any) -> Any:
        time.sleep(0.002)
        if random.random() < 2e-4:
            raise ConnectionError("the simulator does not answer")
        return super().step(action)


class Tell(poise.Callback):
    """Counts what fails instead of warning about it."""

    failures = 0

    def on_failure(self, trainer: poise.Trainer, failure: Any) -> None:
        self.failures += 1


if __name__ == "__main__":
    tell = Tell()
    with poise.PPO(Remote, num_workers="auto", lr=1e-3, seed=0, callbacks=[tell]) as algo:
        result = algo.learn(total_timesteps=8_000)
        print(algo.notes[0])
        print(
            f"{result['perf/env_steps_per_s']:.0f} steps/s where one environment gives about 480."
        )
        print(f"{tell.failures} failures, {result['episodes_lost_total']} episodes lost to them.")
