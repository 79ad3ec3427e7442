"""An environment of your own: find the way through a small grid to a goal that moves."""

from typing import Any

import gymnasium as gym
import numpy as np

import poise

MOVES = np.array([[0, 1], [0, -1], [1, 0], [-1, 0]])


class Chase(gym.Env):
    """The observation is where you are and where the goal is; reaching it earns 1."""

    action_space = gym.spaces.Discrete(4)

    def __init__(self, size: int = 5) -> None:
        self.size = size
        self.observation_space = gym.spaces.Box(0.0, 1.0, (4,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        # It seeds self.np_random: with that as the only generator, runs repeat and resume exactly.
        super().reset(seed=seed)
        self.here, self.goal = self.np_random.integers(self.size, size=(2, 2))
        return self.look(), {}

    def look(self) -> np.ndarray:
        return (np.concatenate([self.here, self.goal]) / (self.size - 1)).astype(np.float32)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.here = (self.here + MOVES[action]).clip(0, self.size - 1)
        found = bool((self.here == self.goal).all())
        # Numbers in the last step's info become results: info/is_success below.
        return self.look(), 1.0 if found else -0.02, found, False, {"is_success": found}


if __name__ == "__main__":
    # max_episode_steps is a time limit that works for any environment.
    algo = poise.PPO(
        Chase, env_config={"size": 4, "max_episode_steps": 30}, lr=2e-3, seed=0, progress=True
    )
    result = algo.learn(stop={"info/is_success": 0.99, "timesteps_total": 100_000})
    print(f"{result['timesteps_total']} steps: {result['stop_reason']}")
    print(f"The way takes {algo.evaluate(100)['episode_len_mean']:.1f} steps on average.")
