"""Gym's `VideoRecorder`: films an environment frame by frame, without a display."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from poise.compat.gym.wrappers.monitor import frame_of
from poise.envs.video import as_frame, frame_rate, open_writer


class VideoRecorder:
    """Writes an MP4 of what `env.render()` returns at each `capture_frame()`.

    Args:
        env: renders frames.
        path: the file; its folder is made.
    """

    def __init__(self, env: Any, path: str | None = None, *_: Any, **__: Any) -> None:
        self.env, self.path = env, Path(path or "video.mp4")
        self._writer: Any = None

    def capture_frame(self) -> None:
        """Adds what is to be seen now."""
        frame = as_frame(frame_of(self.env))
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = open_writer(self.path, frame, frame_rate(self.env))
        self._writer.send(frame)

    def close(self) -> None:
        """Completes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
