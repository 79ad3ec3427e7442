"""How Atari's pictures are prepared, step by step, for scripts that put it together themselves.

Gymnasium's own wrapper needs OpenCV; these do without.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch.nn.functional import interpolate


def resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture `[H, W]` or `[H, W, C]` of bytes in another size, by means of areas."""
    planes = torch.as_tensor(picture.reshape(*picture.shape[:2], -1), dtype=torch.float32)
    small = interpolate(planes.permute(2, 0, 1)[None], (height, width), mode="area")[0]
    bytes_ = small.permute(1, 2, 0).round().to(torch.uint8).numpy()
    return bytes_.reshape(height, width, *picture.shape[2:])


def grey(picture: np.ndarray) -> np.ndarray:
    """A picture `[H, W, 3]` of bytes as a grey one `[H, W]`, by the eye's weights."""
    return (picture @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)  # type: ignore[no-any-return]


class ResizeObservation(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Pictures in another size; `shape` is a side, or height and width."""

    def __init__(self, env: gymnasium.Env, shape: Any = 84) -> None:
        super().__init__(env)
        self._size = (shape, shape) if isinstance(shape, int) else tuple(shape)[:2]
        channels = (env.observation_space.shape or ())[2:]
        self.observation_space = spaces.Box(0, 255, (*self._size, *channels), np.uint8)

    def observation(self, observation: Any) -> np.ndarray:
        """The picture in the other size."""
        return resized(np.asarray(observation), *self._size)


class NoopReset(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Episodes begin after 1 to `noop_max` steps of doing nothing."""

    def __init__(self, env: gymnasium.Env, noop_max: int = 30) -> None:
        super().__init__(env)
        self.noop_max, self.override_num_noops = noop_max, None

    def reset(self, **kwargs: Any) -> Any:
        """Resets, and waits."""
        found = self.env.reset(**kwargs)
        count = self.override_num_noops or self.unwrapped.np_random.integers(1, self.noop_max + 1)
        for _ in range(count):
            obs, _, terminated, truncated, info = self.env.step(0)
            found = self.env.reset(**kwargs) if terminated or truncated else (obs, info)
        return found


class FireReset(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Presses FIRE at the start, in games that wait for it."""

    def reset(self, **kwargs: Any) -> Any:
        """Resets, and fires."""
        found = self.env.reset(**kwargs)
        if "FIRE" not in self.unwrapped.get_action_meanings():  # type: ignore[attr-defined]
            return found
        for action in (1, 2):
            obs, _, terminated, truncated, info = self.env.step(action)
            found = self.env.reset(**kwargs) if terminated or truncated else (obs, info)
        return found


class EpisodicLife(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The loss of a life ends an episode; the game goes on with the next one."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.lives, self.was_real_done = 0, True

    def step(self, action: Any) -> Any:
        """Steps; a life less is the end."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.was_real_done = terminated or truncated
        lives = self.unwrapped.ale.lives()  # type: ignore[attr-defined]
        ended, self.lives = 0 < lives < self.lives, lives
        return obs, reward, bool(terminated or ended), truncated, info

    def reset(self, **kwargs: Any) -> Any:
        """A new game where the last one is over, else the next life."""
        found = self.env.reset(**kwargs) if self.was_real_done else self._next_life(kwargs)
        self.lives = self.unwrapped.ale.lives()  # type: ignore[attr-defined]
        return found

    def _next_life(self, kwargs: dict[str, Any]) -> Any:
        obs, _, terminated, truncated, info = self.env.step(0)
        return self.env.reset(**kwargs) if terminated or truncated else (obs, info)


class MaxAndSkip(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Repeats an action `skip` times; the picture is the brighter of the last two."""

    def __init__(self, env: gymnasium.Env, skip: int = 4) -> None:
        super().__init__(env)
        self._skip = skip

    def step(self, action: Any) -> Any:
        """Steps so often, or to the end of the episode."""
        seen, total = [], 0.0
        for _ in range(self._skip):
            obs, reward, terminated, truncated, info = self.env.step(action)
            seen.append(obs)
            total += float(reward)
            if terminated or truncated:
                break
        return np.max(seen[-2:], axis=0), total, terminated, truncated, info


class ClipReward(gymnasium.RewardWrapper[Any, Any]):
    """Of a reward, the sign."""

    def reward(self, reward: Any) -> float:
        """-1, 0 or 1."""
        return float(np.sign(reward))


class WarpFrame(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Small grey pictures, `[height, width, 1]` of bytes."""

    def __init__(self, env: gymnasium.Env, width: int = 84, height: int = 84) -> None:
        super().__init__(env)
        self._size = height, width
        self.observation_space = spaces.Box(0, 255, (height, width, 1), np.uint8)

    def observation(self, observation: Any) -> np.ndarray:
        """The picture, small and grey."""
        return resized(grey(observation), *self._size)[..., None]
