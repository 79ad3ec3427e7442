"""Films of some episodes while a script plays: Gym's `Monitor` and `RecordVideo`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from poise.compat.gym.core import OldEnv, Wrapper
from poise.envs.old_gym import OldGymEnv
from poise.envs.video import as_frame, frame_rate, open_writer


def is_cube(episode: int) -> bool:
    """Which episodes Gym films unless it is told: 0, 1, 8, 27, ..., and later every 1,000th."""
    if episode >= 1000:
        return episode % 1000 == 0
    return any(root**3 == episode for root in range(11))


def frame_of(env: Any) -> Any:
    """What an environment of either API looks like now."""
    if isinstance(env, (OldEnv, Wrapper)):
        return env.render(mode="rgb_array")
    return OldGymEnv(env, "rgb_array").render()


class RecordVideo(Wrapper):
    """Films episodes, each in a file of its own: `FOLDER/rl-video-episode-8.mp4`.

    Args:
        env: renders frames.
        video_folder: is made.
        episode_trigger: which episodes, by their number; the cubes unless one is given.
        step_trigger: at which steps a film begins instead.
        video_length: steps of a film; 0 is the whole episode.
        name_prefix: how files are called.
    """

    def __init__(
        self,
        env: Any,
        video_folder: str,
        episode_trigger: Callable[[int], bool] | None = None,
        step_trigger: Callable[[int], bool] | None = None,
        video_length: int = 0,
        name_prefix: str = "rl-video",
        **_: Any,
    ) -> None:
        super().__init__(env)
        self._folder, self._prefix, self._length = Path(video_folder), name_prefix, video_length
        self._steps_told = step_trigger
        self._told = episode_trigger or (is_cube if step_trigger is None else lambda _: False)
        self._writer: Any = None
        self.episode_id = self.step_id = self._frames = 0
        self._over = True
        self._folder.mkdir(parents=True, exist_ok=True)

    def reset(self, **kwargs: Any) -> Any:
        """Begins an episode, and a film of it if it is its turn."""
        found = self.env.reset(**kwargs)
        if self._writer is not None and not self._length:
            self._end()
        if self._writer is None and self._told(self.episode_id):
            self._begin(f"episode-{self.episode_id}")
        self._over = False
        self._see()
        return found

    def step(self, action: Any) -> Any:
        """Steps, and films it."""
        found = self.env.step(action)
        self.step_id += 1
        if self._writer is None and self._steps_told and self._steps_told(self.step_id):
            self._begin(f"step-{self.step_id}")
        self._see()
        if bool(found[2] or (len(found) == 5 and found[3])) and not self._over:
            self._over = True
            self.episode_id += 1
            if not self._length:
                self._end()
        return found

    def _begin(self, what: str) -> None:
        self._path, self._frames, self._writer = f"{self._prefix}-{what}.mp4", 0, ()

    def _see(self) -> None:
        """Adds what is to be seen now to the film, if there is one."""
        if self._writer is None:
            return
        frame = as_frame(frame_of(self.env))
        if self._writer == ():
            self._writer = open_writer(self._folder / self._path, frame, frame_rate(self.env))
        self._writer.send(frame)
        self._frames += 1
        if self._length and self._frames >= self._length:
            self._end()

    def _end(self) -> None:
        if self._writer:
            self._writer.close()
        self._writer = None

    def close_video_recorder(self) -> None:
        """Completes the film."""
        self._end()

    def close(self) -> None:
        """Completes the film, and closes the environment."""
        self._end()
        super().close()


class Monitor(RecordVideo):
    """Films episodes in a folder, and counts: `get_episode_rewards()`, `get_total_steps()`.

    Args:
        env: renders frames.
        directory: is made.
        video_callable: which episodes are filmed, by their number; False films none.
        others: what else Gym's took, which has nothing to do here.
    """

    def __init__(self, env: Any, directory: str, video_callable: Any = None, **others: Any) -> None:
        told = (lambda _: False) if video_callable is False else video_callable
        super().__init__(env, directory, told, name_prefix="openaigym.video")
        self._rewards: list[float] = []
        self._lengths: list[int] = []

    def reset(self, **kwargs: Any) -> Any:
        """Begins an episode."""
        self._sum, self._count = 0.0, 0
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        """Steps, and counts."""
        before = self.episode_id
        found = super().step(action)
        self._sum, self._count = self._sum + float(found[1]), self._count + 1
        if self.episode_id > before:
            self._rewards.append(self._sum)
            self._lengths.append(self._count)
        return found

    def get_episode_rewards(self) -> list[float]:
        """The returns of the episodes that have ended."""
        return self._rewards

    def get_episode_lengths(self) -> list[int]:
        """Their lengths."""
        return self._lengths

    def get_total_steps(self) -> int:
        """Steps of all episodes."""
        return self.step_id
