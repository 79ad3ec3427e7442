"""`stable_baselines3.common.atari_wrappers`, which need no OpenCV."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from poise.compat.gym.atari import ClipReward as ClipRewardEnv
from poise.compat.gym.atari import EpisodicLife as EpisodicLifeEnv
from poise.compat.gym.atari import FireReset as FireResetEnv
from poise.compat.gym.atari import MaxAndSkip as MaxAndSkipEnv
from poise.compat.gym.atari import NoopReset as NoopResetEnv
from poise.compat.gym.atari import WarpFrame
from poise.compat.gym.core import modern

__all__ = [
    "AtariWrapper", "ClipRewardEnv", "EpisodicLifeEnv", "FireResetEnv", "MaxAndSkipEnv",
    "NoopResetEnv", "StickyActionEnv", "WarpFrame",
]  # fmt: skip


class StickyActionEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Repeats the action before with some probability."""

    def __init__(self, env: gymnasium.Env, action_repeat_probability: float) -> None:
        super().__init__(env)
        self.action_repeat_probability, self._last = action_repeat_probability, 0

    def reset(self, **kwargs: Any) -> Any:
        self._last = 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        if self.unwrapped.np_random.random() >= self.action_repeat_probability:
            self._last = action
        return self.env.step(self._last)


class AtariWrapper(gymnasium.Wrapper[Any, Any, Any, Any]):
    """All that is usual for Atari games; a number of 0 and False leave a part out."""

    def __init__(
        self,
        env: Any,
        noop_max: int = 30,
        frame_skip: int = 4,
        screen_size: int = 84,
        terminal_on_life_loss: bool = True,
        clip_reward: bool = True,
        action_repeat_probability: float = 0.0,
    ) -> None:
        env = modern(env)
        if action_repeat_probability > 0:
            env = StickyActionEnv(env, action_repeat_probability)
        env = NoopResetEnv(env, noop_max) if noop_max > 0 else env
        env = MaxAndSkipEnv(env, frame_skip) if frame_skip > 1 else env
        env = EpisodicLifeEnv(env) if terminal_on_life_loss else env
        env = FireResetEnv(env)
        env = WarpFrame(env, screen_size, screen_size)
        super().__init__(ClipRewardEnv(env) if clip_reward else env)
        assert self.observation_space.dtype == np.uint8
