"""`stable_baselines3.common.noise`: what an algorithm is to add to actions."""

from __future__ import annotations

from typing import Any

import numpy as np


class ActionNoise:
    """Base of all noise.

    Attributes:
        correlation: how much of it a step shares with the one before.
        deviation: its standard deviation, for each number of an action.
        mean: its mean.
    """

    correlation = 0.0
    deviation: Any = 0.0
    mean: Any = 0.0

    def reset(self) -> None:
        """Nothing has to be done."""


class NormalActionNoise(ActionNoise):
    """Independent from step to step."""

    def __init__(self, mean: Any, sigma: Any, dtype: Any = np.float32) -> None:
        self.mean, self.deviation, self._dtype = np.asarray(mean), np.asarray(sigma), dtype

    def __call__(self) -> Any:
        return np.random.normal(self.mean, self.deviation).astype(self._dtype)

    def __repr__(self) -> str:
        return f"NormalActionNoise(mu={self.mean}, sigma={self.deviation})"


class OrnsteinUhlenbeckActionNoise(ActionNoise):
    """Drawn back to its mean, step by step; here with the width that it comes to in the end."""

    _now: Any

    def __init__(
        self,
        mean: Any,
        sigma: Any,
        theta: float = 0.15,
        dt: float = 1e-2,
        initial_noise: Any = None,
        dtype: Any = np.float32,
    ) -> None:
        self.mean, self._dtype = np.asarray(mean), dtype
        self.correlation = 1 - theta * dt
        self._step = np.asarray(sigma) * np.sqrt(dt)
        self.deviation = self._step / np.sqrt(1 - self.correlation**2)
        self._initial = initial_noise
        self.reset()

    def __call__(self) -> Any:
        pull = self.mean + self.correlation * (self._now - self.mean)
        self._now = pull + self._step * np.random.normal(size=np.shape(self.mean))
        return self._now.astype(self._dtype)

    def reset(self) -> None:
        self._now = np.zeros_like(self.mean) if self._initial is None else np.asarray(self._initial)


class VectorizedActionNoise(ActionNoise):
    """The same for each of several environments, as it is here anyway."""

    def __init__(self, base_noise: ActionNoise, n_envs: int) -> None:
        self.base_noise, self.n_envs = base_noise, n_envs
        self.mean, self.deviation = base_noise.mean, base_noise.deviation
        self.correlation = base_noise.correlation
