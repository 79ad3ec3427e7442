"""Films of environments: any that renders `rgb_array`, without a display, frame by frame into the encoder."""

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
from poise.envs.failures import said
from poise.envs.make import make_env
from poise.errors import ConfigError, EnvError, PoiseError, writing


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
        raise _no_frames(env, f"with render_mode='rgb_array' it raises {said(error)}", modes) from error
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
        f"{env_name(env)} cannot be filmed: {why}, and its metadata has render_modes={modes}. Let it take "
        "render_mode='rgb_array', list that mode, and return frames from render()."
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

    Args:
        env: renders `rgb_array`; it is not closed.
        act: from an observation to an action, as the environment takes it.
        path: the file; its folder is made.
        episodes: how many, one after the other.
        max_steps: of all episodes together, so that one without an end does not fill the disk.
        seed: of the first reset.
        fps: frames per second; what the environment says (`metadata["render_fps"]`), or 30.

    Returns:
        `{"path", "episode_reward", "episode_len", "frames"}`, the first two as lists.
    """
    target = Path(path)
    if target.suffix.lower() != ".mp4":
        raise ConfigError(f"path={str(path)!r} is not allowed: the name of a film must end in .mp4.")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    rate = fps or int(env.metadata.get("render_fps", 30))
    rewards: list[float] = []
    lengths: list[int] = []
    writer: Any = None
    frames = 0
    try:
        for episode in range(episodes):
            if frames >= max_steps:
                break
            obs, _ = env.reset(seed=seed if episode == 0 else None)
            total, length, over = 0.0, 0, False
            while True:
                frame = even_sided(_render(env))
                if writer is None:
                    writer = open_writer(target, frame, rate)
                with writing(target):
                    writer.send(frame)
                frames += 1
                if over or frames >= max_steps:
                    break
                obs, reward, terminated, truncated, _ = env.step(act(obs))
                total, length, over = total + float(reward), length + 1, bool(terminated or truncated)
            rewards.append(total)
            lengths.append(length)
    finally:
        if writer is not None:
            writer.close()
    return {"path": str(target), "episode_reward": rewards, "episode_len": lengths, "frames": frames}


def _render(env: gym.Env) -> np.ndarray:
    try:
        return np.asarray(env.render(), np.uint8)
    except NotImplementedError:
        raise EnvError(f"{env} cannot be filmed: it has no render() that returns a frame.") from None
    except (AttributeError, ImportError) as error:  # what PyOpenGL and MuJoCo raise without the library or a driver
        if os.environ.get("MUJOCO_GL") != "egl" or "egl" not in str(error).lower():
            raise
        raise EnvError(
            f"{env} cannot be filmed without a display: EGL is missing here (on Debian and Ubuntu: apt-get install "
            "libegl1 libgl1-mesa-dri)."
        ) from None


def even_sided(frame: np.ndarray) -> np.ndarray:
    """Crops a pixel where a side is odd: H.264 with 4:2:0 colours needs even sides."""
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise EnvError(f"render() returned an array of shape {frame.shape}; a frame is (height, width, 3) bytes.")
    height, width = frame.shape[:2]
    return np.ascontiguousarray(frame[: height - height % 2, : width - width % 2])


def open_writer(path: Path, frame: np.ndarray, fps: int) -> Any:
    import imageio_ffmpeg

    size = (frame.shape[1], frame.shape[0])
    writer = imageio_ffmpeg.write_frames(
        str(path), size, fps=fps, codec="libx264", pix_fmt_out="yuv420p", macro_block_size=2, quality=7
    )
    writer.send(None)
    return writer


class Html(str):
    """A text of HTML that notebooks show as what it describes, and that `IPython.display.HTML` takes as well."""

    def _repr_html_(self) -> str:
        return str(self)


def render_mp4(path: str | Path, *, width: int = 480) -> Html:
    """A film as HTML with the video inside it: the last line of a notebook's cell shows it.

    Raises:
        PoiseError: there is no such file.
    """
    file = Path(path)
    if not file.is_file():
        raise PoiseError(f"There is no video at {file}.")
    data = base64.b64encode(file.read_bytes()).decode()
    return Html(
        f'<video width="{width}" controls autoplay loop muted title="{html.escape(file.name)}">'
        f'<source src="data:video/mp4;base64,{data}" type="video/mp4"></video>'
    )
