"""`gym.wrappers`: Gymnasium's, by Gym's names and arguments, and films without a display."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import wrappers as theirs

from poise.compat.gym import atari
from poise.compat.gym.core import OldEnv, modern, takes_five
from poise.compat.gym.wrappers import monitoring
from poise.compat.gym.wrappers.monitor import Monitor, RecordVideo
from poise.compat.missing import names_of

__all__ = ["LazyFrames", "Monitor", "RecordVideo", "monitoring"]

LazyFrames = np.asarray
"""Frames are arrays here, each of them once."""


def atari_pictures(
    env: gymnasium.Env,
    noop_max: int = 30,
    frame_skip: int = 4,
    screen_size: int = 84,
    terminal_on_life_loss: bool = False,
    grayscale_obs: bool = True,
    grayscale_newaxis: bool = False,
    scale_obs: bool = False,
) -> gymnasium.Env:
    """Gym's `AtariPreprocessing`, of the parts in `poise.compat.gym.atari`."""
    env = atari.NoopReset(env, noop_max) if noop_max else env
    env = atari.MaxAndSkip(env, frame_skip) if frame_skip > 1 else env
    env = atari.EpisodicLife(env) if terminal_on_life_loss else env
    if grayscale_obs:
        env = atari.WarpFrame(env, screen_size, screen_size)
        shape = (screen_size, screen_size)
        if not grayscale_newaxis:
            flat = gymnasium.spaces.Box(0, 255, shape, np.uint8)
            env = theirs.TransformObservation(env, lambda obs: obs[..., 0], flat)
    else:
        env = atari.ResizeObservation(env, screen_size)
    if scale_obs:
        scaled = gymnasium.spaces.Box(0, 1, env.observation_space.shape, np.float32)
        env = theirs.TransformObservation(env, lambda obs: np.float32(obs) / 255, scaled)
    return env


def _transformed(env: gymnasium.Env, func: Any, space: Any = None) -> gymnasium.Env:
    return theirs.TransformObservation(env, func, space or env.observation_space)


def _rescaled(env: gymnasium.Env, low: Any, high: Any) -> gymnasium.Env:
    return theirs.RescaleAction(env, np.float32(low), np.float32(high))


WRAPPERS: dict[str, tuple[Any, dict[str, str]]] = {
    "AtariPreprocessing": (atari_pictures, {}),
    "ClipAction": (theirs.ClipAction, {}),
    "FilterObservation": (theirs.FilterObservation, {}),
    "FlattenObservation": (theirs.FlattenObservation, {}),
    "FrameStack": (theirs.FrameStackObservation, {"num_stack": "stack_size"}),
    "GrayScaleObservation": (theirs.GrayscaleObservation, {}),
    "HumanRendering": (theirs.HumanRendering, {}),
    "NormalizeObservation": (theirs.NormalizeObservation, {}),
    "NormalizeReward": (theirs.NormalizeReward, {}),
    "OrderEnforcing": (theirs.OrderEnforcing, {}),
    "RecordEpisodeStatistics": (theirs.RecordEpisodeStatistics, {"deque_size": "buffer_length"}),
    "RescaleAction": (_rescaled, {"a": "low", "b": "high", "min_action": "low",
                                  "max_action": "high"}),
    "ResizeObservation": (atari.ResizeObservation, {}),
    "TimeAwareObservation": (theirs.TimeAwareObservation, {}),
    "TimeLimit": (theirs.TimeLimit, {}),
    "TransformObservation": (_transformed, {"f": "func"}),
    "TransformReward": (theirs.TransformReward, {"f": "func"}),
}  # fmt: skip
"""Gymnasium's wrapper for each of Gym's, and its names of arguments where they are others."""


class Adapted(OldEnv):
    """One of Gymnasium's wrappers around an environment of either API, with Gym's methods."""

    kind: ClassVar[Any]
    renamed: ClassVar[dict[str, str]]

    def __init__(self, env: Any, *args: Any, **kwargs: Any) -> None:
        own = {self.renamed.get(key, key): value for key, value in kwargs.items()}
        if self.kind is theirs.TimeLimit and not (args or own):
            own["max_episode_steps"] = env.spec.max_episode_steps
        super().__init__(type(self).kind(modern(env), *args, **own), five=takes_five(env))


_made: dict[str, type[Adapted]] = {}
_missing = names_of("gym.wrappers", [*__all__, *WRAPPERS])


def __getattr__(name: str) -> Any:
    if name not in WRAPPERS:
        return _missing(name)
    if name not in _made:
        kind, renamed = WRAPPERS[name]
        _made[name] = type(name, (Adapted,), {"kind": staticmethod(kind), "renamed": renamed})
    return _made[name]
