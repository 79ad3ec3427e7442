"""Nested observations, several actions at once, and choices that are not allowed now: loading a
lorry."""

from typing import Any

import gymnasium as gym
import numpy as np

import poise

CRATES = np.array([1, 2, 3, 5])


class Lorry(gym.Env):
    """Fill the lorry exactly, crate by crate; crates that are loaded or do not fit are masked."""

    observation_space = gym.spaces.Dict(
        {
            "room": gym.spaces.Discrete(12),
            "loaded": gym.spaces.MultiBinary(len(CRATES)),
            "action_mask": gym.spaces.Box(0, 1, (len(CRATES) + 1,), np.int8),
        }
    )
    action_space = gym.spaces.Discrete(len(CRATES) + 1)  # a crate, or (the last) driving off

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[dict, dict[str, Any]]:
        super().reset(seed=seed)
        self.loaded = np.zeros(len(CRATES), np.int8)
        some = self.np_random.random(len(CRATES)) < 0.5
        self.room = int(CRATES[some].sum())  # so that there is a way to fill it
        return self.look(), {}

    def look(self) -> dict[str, Any]:
        allowed = [*(self.loaded == 0) & (self.room >= CRATES), True]
        return {
            "room": self.room,
            "loaded": self.loaded.copy(),
            "action_mask": np.array(allowed, np.int8),
        }

    def step(self, action: int) -> tuple[dict, float, bool, bool, dict[str, Any]]:
        if action == len(CRATES):
            full = self.room == 0
            return self.look(), float(full), True, False, {"is_success": full}
        assert not self.loaded[action], "a crate was loaded twice: the mask was not kept to"
        self.loaded[action] = 1
        self.room -= int(CRATES[action])
        return self.look(), 0.0, False, False, {}


if __name__ == "__main__":
    algo = poise.PPO(Lorry, lr=2e-3, seed=0)
    algo.learn(stop={"info/is_success": 0.95, "timesteps_total": 100_000})
    print(f"{algo.evaluate(200)['info/is_success']:.0%} of the lorries leave full.")
