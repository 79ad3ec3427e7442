"""Films of environments: any that renders `rgb_array`, without a display, frame by frame into the
encoder."""

from __future__ import annotations

import base64
import html
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from poise.config.base import env_name
from poise.config.types import a_path
from poise.envs.make import make_env
from poise.envs.raised import is_interrupt, own_traceback, said
from poise.errors import ConfigError, EnvError, PoiseError, writing

HOLD_S = 1.0
"""Seconds for which the last frame of an episode stays."""


def make_filmed_env(env: Any, env_config: dict[str, Any] | None = None) -> gym.Env:
    """An environment with `render_mode="rgb_array"`, made so that it needs no display."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        made = make_env(env, env_config, render_mode="rgb_array")
    except PoiseError:
        raise
    except Exception as error:  # perhaps because it was asked for frames
        plain = make_env(env, env_config)
        modes = _render_modes(plain)
        plain.close()
        if "rgb_array" in modes:
            raise
        raise _no_frames(
            env, f"with render_mode='rgb_array' it raises {said(error)}", modes
        ) from error
    modes = _render_modes(made)
    if made.render_mode != "rgb_array" or (modes and "rgb_array" not in modes):
        made.close()
        raise _no_frames(env, f"its render_mode is {made.render_mode!r}", modes)
    return made


def _render_modes(env: gym.Env) -> list[str]:
    """The ways to render that an environment's metadata lists."""
    return list((env.metadata or {}).get("render_modes") or [])


def _no_frames(env: Any, why: str, modes: list[str]) -> EnvError:
    return EnvError(
        f"{env_name(env)} cannot be filmed: {why}, and its metadata has render_modes={modes}. "
        "Let it take render_mode='rgb_array', list that mode, and return frames from render()."
    )


def film(
    env: gym.Env,
    act: Callable[[Any], Any],
    path: str | Path,
    *,
    episodes: int = 1,
    max_steps: int = 10_000,
    seed: int = 0,
    fps: int | None = None,
) -> dict[str, Any]:
    """Plays episodes and writes them as an MP4 (H.264, which browsers and notebooks play).

    The last frame of each episode stays for a second, so that a short one can be seen.

    Args:
        env: renders `rgb_array`; it is not closed.
        act: from an observation to an action, as the environment takes it.
        path: the file; its folder is made.
        episodes: how many, one after the other.
        max_steps: of all episodes together, so that one without an end does not fill the disk.
        seed: of the first reset.
        fps: frames per second; what the environment says (`metadata["render_fps"]`), or 30.

    Returns:
        `{"path", "episode_reward", "episode_len", "frames"}`, lists of rewards and lengths, and the
        number of frames that the environment gave.

    Raises:
        ConfigError: the name does not end in .mp4.
        EnvError: the environment fails, or what it renders is no frame.
    """
    target = a_path(path)
    if target.suffix.lower() != ".mp4":
        raise ConfigError(
            f"path={str(path)!r} is not allowed: the name of a film must end in .mp4."
        )
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    rate = fps or frame_rate(env)
    rewards: list[float] = []
    lengths: list[int] = []
    writer: Any = None
    frames = 0
    try:
        for episode in range(episodes):
            if frames >= max_steps:
                break
            obs, _ = _played(env, "reset", seed=seed if episode == 0 else None)
            total, length, over = 0.0, 0, False
            while True:
                frame = as_frame(_render(env))
                if writer is None:
                    writer = open_writer(target, frame, rate)
                with writing(target):
                    writer.send(frame)
                frames += 1
                if over or frames >= max_steps:
                    for _ in range(max(1, round(rate * HOLD_S)) - 1):
                        writer.send(frame)
                    break
                obs, reward, terminated, truncated, _ = _played(env, "step", act(obs))
                total, length, over = (
                    total + float(reward),
                    length + 1,
                    bool(terminated or truncated),
                )
            rewards.append(total)
            lengths.append(length)
    finally:
        if writer is not None:
            writer.close()
    return {
        "path": str(target),
        "episode_reward": rewards,
        "episode_len": lengths,
        "frames": frames,
    }


def frame_rate(env: Any) -> float:
    """Frames per second, as an environment's metadata says; 30 where it says nothing usable."""
    rate = (getattr(env, "metadata", None) or {}).get("render_fps")
    if isinstance(rate, (int, float, np.floating, np.integer)) and 0 < rate <= 1000:
        return float(rate)
    return 30.0


def _played(env: gym.Env, method: str, *args: Any, **kwargs: Any) -> Any:
    """What a call of the environment returns; what it raises is told with its traceback."""
    try:
        return getattr(env, method)(*args, **kwargs)
    except BaseException as error:
        if is_interrupt(error) or isinstance(error, PoiseError):
            raise
        name = type(env.unwrapped).__name__
        raise EnvError(
            f"{name} raised {said(error)} in {method}() "
            f"while it was filmed.\n{own_traceback(error)}"
        ) from error


def _render(env: gym.Env) -> Any:
    try:
        return _played(env, "render")
    except EnvError as told:
        error = told.__cause__
        if isinstance(error, NotImplementedError):
            raise EnvError(
                f"{env} cannot be filmed: it has no render() that returns a frame."
            ) from None
        # What PyOpenGL and MuJoCo raise without the library or a driver.
        egl = os.environ.get("MUJOCO_GL") == "egl" and "egl" in str(error).lower()
        if egl and isinstance(error, (AttributeError, ImportError)):
            raise EnvError(
                f"{env} cannot be filmed without a display: "
                "EGL is missing here (on Debian and Ubuntu: "
                "apt-get install libegl1 libgl1-mesa-dri)."
            ) from None
        raise


def as_frame(rendered: Any) -> np.ndarray:
    """A frame as the encoder takes it: bytes, and even sides, as H.264 with 4:2:0 colours needs
    them.

    Of an odd side a pixel is cropped, and a single one doubled. Fractions from 0 to 1 become 0 to
    255, and what lies beyond is clipped.

    Raises:
        EnvError: it is no array (height, width, 3).
    """
    frame = np.asarray(rendered)
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape or frame.dtype.kind not in "biuf":
        what = f"an array of shape {frame.shape}" if frame.ndim else f"{type(rendered).__name__}"
        raise EnvError(f"render() returned {what}; a frame is (height, width, 3) bytes.")
    if frame.dtype != np.uint8:
        fractions = frame.dtype.kind == "b" or (frame.dtype.kind == "f" and np.nanmax(frame) <= 1)
        frame = np.clip(np.nan_to_num(frame * 255.0 if fractions else frame), 0, 255).astype(
            np.uint8
        )
    height, width = frame.shape[:2]
    frame = frame.repeat(2 if height == 1 else 1, axis=0).repeat(2 if width == 1 else 1, axis=1)
    height, width = frame.shape[:2]
    return np.ascontiguousarray(frame[: height - height % 2, : width - width % 2])


def open_writer(path: Path, frame: np.ndarray, fps: float) -> Any:
    """Takes frames by its `send`, all of the size of `frame`, until it is closed."""
    import imageio_ffmpeg

    size = (frame.shape[1], frame.shape[0])
    name = os.path.abspath(
        path
    )  # a name that begins with "-" or a word and ":" would mean something else to ffmpeg
    writer = imageio_ffmpeg.write_frames(
        name, size, fps=fps, codec="libx264", pix_fmt_out="yuv420p", macro_block_size=2, quality=7
    )
    writer.send(None)
    return writer


class Html(str):
    """A text of HTML that notebooks show as what it describes, and that `IPython.display.HTML`
    takes as well."""

    def _repr_html_(self) -> str:
        return str(self)


def render_mp4(path: str | Path, *, width: int = 480) -> Html:
    """A film as HTML with the video inside it: the last line of a notebook's cell shows it.

    Raises:
        PoiseError: there is no such file.
    """
    file = a_path(path)
    if not file.is_file():
        raise PoiseError(f"There is no video at {file}.")
    data = base64.b64encode(file.read_bytes()).decode()
    return Html(
        f'<video width="{width}" controls autoplay loop muted title="{html.escape(file.name)}">'
        f'<source src="data:video/mp4;base64,{data}" type="video/mp4"></video>'
    )
