"""An environment that does nothing but take time."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np


class Busy(gym.Env):
    """Computes for `burn_us` microseconds a step, of its thread's own time, so that being
    descheduled does not count; or sleeps for `sleep_ms` milliseconds. Episodes have 200 steps.

    Args:
        config: `burn_us`, `sleep_ms`, and `image` (84x84x4 bytes instead of 4 numbers).
    """

    def __init__(self, config: dict[str, Any]) -> None:
        box = gym.spaces.Box
        image = config.get("image", False)
        self.observation_space = (
            box(0, 255, (84, 84, 4), np.uint8) if image else box(-1, 1, (4,), np.float32)
        )
        self.action_space = gym.spaces.Discrete(2)
        self.burn, self.sleep = config.get("burn_us", 0) * 1e-6, config.get("sleep_ms", 0) * 1e-3
        self.observation_space.seed(0)
        self.seen = self.observation_space.sample()
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self.seen, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.burn:
            end = time.thread_time() + self.burn
            while time.thread_time() < end:
                pass
        if self.sleep:
            time.sleep(self.sleep)
        self.steps += 1
        return self.seen, 1.0, False, self.steps >= 200, {}


CELLS: dict[str, dict[str, Any]] = {
    "0 µs, vector": {"burn_us": 0},
    "0 µs, image": {"burn_us": 0, "image": True},
    "100 µs, vector": {"burn_us": 100},
    "100 µs, image": {"burn_us": 100, "image": True},
    "2 ms, vector": {"burn_us": 2000},
    "2 ms, image": {"burn_us": 2000, "image": True},
    "sleeps 5 ms, vector": {"sleep_ms": 5},
}
"""What is measured, by name."""
