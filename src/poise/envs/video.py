"""Films of environments that render `rgb_array`, without a display.

Frames go to the encoder one by one, so that a long film needs no memory.
"""

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
    except Exception as error:
        # Perhaps it fails only because it was asked for frames: if so, that is said.
        plain = make_env(env, env_config)
        modes = _render_modes(plain)
        plain.close()
        if "rgb_array" in modes:
            raise
        why = f"with render_mode='rgb_array' it raises {said(error)}"
        raise _no_frames(env, why, modes) from error
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
    act: Callable[[Any, float | None], Any],
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
        env: an environment that renders `rgb_array`; it is not closed.
        act: from an observation, and what the action before it earned (None at the start of an
            episode), to an action, as the environment takes it.
        path: the file; its folder is made.
        episodes: number of episodes, one after the other.
        max_steps: steps of all episodes together, so that one without an end does not fill the
            disk.
        seed: the seed of the first reset.
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
    held = max(1, round(rate * HOLD_S)) - 1
    rewards: list[float] = []
    lengths: list[int] = []
    writer: Any = None
    frames = 0
    try:
        for episode in range(episodes):
            if frames >= max_steps:
                break
            obs, _ = _played(env, "reset", seed=seed if episode == 0 else None)
            total, length, over, reward = 0.0, 0, False, None
            while True:
                frame = as_frame(_render(env))
                if writer is None:
                    writer = open_writer(target, frame, rate)
                with writing(target):
                    writer.send(frame)
                frames += 1
                if over or frames >= max_steps:
                    for _ in range(held):
                        writer.send(frame)
                    break
                obs, reward, terminated, truncated, _ = _played(env, "step", act(obs, reward))
                total, length = total + float(reward), length + 1
                over = bool(terminated or truncated)
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
    """Calls a method of the environment.

    Raises:
        EnvError: the method failed; the text has its traceback.
    """
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
    """A picture of the environment.

    Raises:
        EnvError: it cannot be filmed; the text says what to do about the common causes.
    """
    try:
        return _played(env, "render")
    except EnvError as told:
        error = told.__cause__
        if isinstance(error, NotImplementedError):
            raise EnvError(
                f"{env} cannot be filmed: it has no render() that returns a frame."
            ) from None
        # PyOpenGL and MuJoCo raise these without the library or a driver.
        egl = os.environ.get("MUJOCO_GL") == "egl" and "egl" in str(error).lower()
        if egl and isinstance(error, (AttributeError, ImportError)):
            raise EnvError(
                f"{env} cannot be filmed without a display: EGL is missing here "
                "(on Debian and Ubuntu: apt-get install libegl1 libgl1-mesa-dri)."
            ) from None
        raise


def as_frame(rendered: Any) -> np.ndarray:
    """A frame as the encoder takes it: bytes `[height, width, 3]` with even sides.

    H.264 with 4:2:0 colours needs even sides: an odd one loses a pixel, and a single pixel is
    doubled. Fractions from 0 to 1 become 0 to 255, and what lies beyond is clipped.

    Raises:
        EnvError: it is no array (height, width, 3).
    """
    frame = np.asarray(rendered)
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape or frame.dtype.kind not in "biuf":
        what = f"an array of shape {frame.shape}" if frame.ndim else f"{type(rendered).__name__}"
        raise EnvError(f"render() returned {what}; a frame is (height, width, 3) bytes.")
    if frame.dtype != np.uint8:
        fractions = frame.dtype.kind == "b" or (frame.dtype.kind == "f" and np.nanmax(frame) <= 1)
        scaled = np.nan_to_num(frame * 255.0 if fractions else frame)
        frame = np.clip(scaled, 0, 255).astype(np.uint8)
    height, width = frame.shape[:2]
    frame = frame.repeat(2 if height == 1 else 1, axis=0).repeat(2 if width == 1 else 1, axis=1)
    height, width = frame.shape[:2]
    return np.ascontiguousarray(frame[: height - height % 2, : width - width % 2])


def open_writer(path: Path, frame: np.ndarray, fps: float) -> Any:
    """A generator that takes frames by `send`, all of the size of `frame`, until it is closed."""
    import imageio_ffmpeg

    size = (frame.shape[1], frame.shape[0])
    # A relative name could begin with "-" or a word and ":", which ffmpeg takes for an option or a
    # protocol.
    name = os.path.abspath(path)
    writer = imageio_ffmpeg.write_frames(
        name, size, fps=fps, codec="libx264", pix_fmt_out="yuv420p", macro_block_size=2, quality=7
    )
    writer.send(None)
    return writer


class Html(str):
    """HTML that notebooks show as what it describes; `IPython.display.HTML` takes it as well."""

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
