"""Wrappers around vector environments."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from poise.compat.stable_baselines3.common.vec_env.base import VecEnv
from poise.envs.video import as_frame, open_writer

Steps = tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]


class VecEnvWrapper(VecEnv):
    """Base of wrappers, a script's own too, which define `reset` and `step_wait`.

    Args:
        venv: what is wrapped.
        observation_space, action_space: where they are others.
    """

    def __init__(
        self,
        venv: VecEnv,
        observation_space: spaces.Space | None = None,
        action_space: spaces.Space | None = None,
    ) -> None:
        self.venv = venv
        observed = observation_space or venv.observation_space
        super().__init__(venv.num_envs, observed, action_space or venv.action_space)
        self.metadata, self.render_mode = venv.metadata, venv.render_mode

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "venv":
            raise AttributeError(name)
        return getattr(self.venv, name)

    def reset(self) -> Any:
        return self.venv.reset()

    def step_async(self, actions: Any) -> None:
        self.venv.step_async(actions)

    def step_wait(self) -> Steps:
        return self.venv.step_wait()

    def seed(self, seed: int | None = None) -> list[int | None]:
        return self.venv.seed(seed)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return self.venv.get_attr(attr_name, indices)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        self.venv.set_attr(attr_name, value, indices)

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any
    ) -> list[Any]:
        return self.venv.env_method(method_name, *args, indices=indices, **kwargs)

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return self.venv.env_is_wrapped(wrapper_class, indices)

    def get_images(self) -> list[Any]:
        return self.venv.get_images()

    def close(self) -> None:
        self.venv.close()

    @property
    def unwrapped(self) -> VecEnv:
        return self.venv.unwrapped


class _Observed(VecEnvWrapper):
    """Base of wrappers that change observations alone, each by `see`."""

    def see(self, obs: Any) -> Any:
        """Observations `[num_envs, ...]`, or a last one without the first axis, as others."""
        raise NotImplementedError

    def reset(self) -> Any:
        return self.see(self.venv.reset())

    def step_wait(self) -> Steps:
        obs, rewards, dones, infos = self.venv.step_wait()
        for i in np.flatnonzero(dones).tolist():
            infos[i]["terminal_observation"] = self.see(infos[i]["terminal_observation"])
        return self.see(obs), rewards, dones, infos


class VecExtractDictObs(_Observed):
    """Shows one entry of `Dict` observations."""

    def __init__(self, venv: VecEnv, key: str) -> None:
        super().__init__(venv, venv.observation_space[key])  # type: ignore[index]
        self.key = key

    def see(self, obs: Any) -> Any:
        return obs[self.key]


class VecTransposeImage(_Observed):
    """Pictures with their channels first, those in a `Dict` too; others stay as they are."""

    def __init__(self, venv: VecEnv, skip: bool = False) -> None:
        self.skip = skip
        super().__init__(venv, self._space(venv.observation_space))

    def _space(self, space: spaces.Space) -> spaces.Space:
        if isinstance(space, spaces.Dict):
            return spaces.Dict({key: self._space(each) for key, each in space.spaces.items()})
        if self.skip or not is_image(space) or channels_first(space):
            return space
        assert isinstance(space, spaces.Box)
        low, high = (np.moveaxis(end, -1, 0) for end in (space.low, space.high))
        return spaces.Box(low, high, dtype=space.dtype)  # type: ignore[arg-type]

    def see(self, obs: Any) -> Any:
        return self._turn(obs, self.venv.observation_space, self.observation_space)

    def _turn(self, obs: Any, before: Any, after: Any) -> Any:
        if isinstance(obs, dict):
            return {key: self._turn(each, before[key], after[key]) for key, each in obs.items()}
        return obs if before.shape == after.shape else np.moveaxis(obs, -1, -3)


def is_image(space: spaces.Space) -> bool:
    """Whether a space is of pictures: bytes of three axes."""
    shape = space.shape or ()
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(shape) == 3


def channels_first(space: spaces.Space) -> bool:
    """Whether the channels of pictures are their first axis, as their fewest."""
    shape = space.shape or (0,)
    return shape[0] == min(shape)


class VecFrameStack(VecEnvWrapper):
    """The last `n_stack` observations as one: along the channels of pictures, else the last axis.

    Args:
        venv: of `Box` observations, or a `Dict` of them.
        n_stack: how many.
        channels_order: `first` or `last`, or one for each entry; None looks at the pictures.
    """

    def __init__(self, venv: VecEnv, n_stack: int, channels_order: Any = None) -> None:
        self.n_stack, self.stackedobs = n_stack, None  # type: int, Any
        parts = venv.observation_space
        named = parts.spaces if isinstance(parts, spaces.Dict) else {None: parts}
        order = channels_order if isinstance(channels_order, dict) else {}
        self._axis: dict[Any, int] = {}
        stacked: dict[Any, Any] = {}
        for key, space in named.items():
            first = order.get(key, None if order else channels_order)
            is_first = is_image(space) and channels_first(space) if first is None else False
            self._axis[key] = 1 if is_first or first == "first" else -1
            axis = self._axis[key] - (self._axis[key] > 0)
            assert isinstance(space, spaces.Box)
            low, high = (np.concatenate([end] * n_stack, axis) for end in (space.low, space.high))
            stacked[key] = spaces.Box(low, high, dtype=space.dtype)  # type: ignore[arg-type]
        super().__init__(venv, stacked[None] if None in stacked else spaces.Dict(stacked))

    def reset(self) -> Any:
        named = self._named(self.venv.reset())
        self.stackedobs = {
            key: np.concatenate([np.zeros_like(obs)] * (self.n_stack - 1) + [obs], self._axis[key])
            for key, obs in named.items()
        }
        return self._shown()

    def step_wait(self) -> Steps:
        obs, rewards, dones, infos = self.venv.step_wait()
        last = {
            i: self._named(infos[i]["terminal_observation"]) for i in np.flatnonzero(dones).tolist()
        }
        final: dict[int, dict[Any, Any]] = {i: {} for i in last}
        for key, new in self._named(obs).items():
            axis, width = self._axis[key], new.shape[self._axis[key]]
            old = np.moveaxis(self.stackedobs[key], axis, 0)[width:]
            now = np.concatenate([old, np.moveaxis(new, axis, 0)])
            for i in last:
                place = axis - (axis > 0)
                seen = np.concatenate([old[:, i], np.moveaxis(last[i][key], place, 0)])
                final[i][key] = np.moveaxis(seen, 0, place)
                now[:-width, i] = 0
            self.stackedobs[key] = np.moveaxis(now, 0, axis)
        for i, each in final.items():
            infos[i]["terminal_observation"] = each.get(None, each)
        return self._shown(), rewards, dones, infos

    def _named(self, obs: Any) -> dict[Any, Any]:
        return obs if isinstance(obs, dict) else {None: obs}

    def _shown(self) -> Any:
        copied = {key: obs.copy() for key, obs in self.stackedobs.items()}
        return copied.get(None, copied)


class VecMonitor(VecEnvWrapper):
    """Returns and lengths of episodes in the infos, `episode`, and in a `monitor.csv`."""

    def __init__(
        self, venv: VecEnv, filename: str | None = None, info_keywords: Sequence[str] = ()
    ) -> None:
        from poise.compat.stable_baselines3.common.monitor import MonitorFile

        super().__init__(venv)
        self._keys, self._start = tuple(info_keywords), time.time()
        self._file = MonitorFile(filename, None, self._keys) if filename else None
        self.episode_returns = np.zeros(self.num_envs)
        self.episode_lengths = np.zeros(self.num_envs, int)

    def reset(self) -> Any:
        self.episode_returns[:], self.episode_lengths[:] = 0, 0
        return self.venv.reset()

    def step_wait(self) -> Steps:
        obs, rewards, dones, infos = self.venv.step_wait()
        self.episode_returns += rewards
        self.episode_lengths += 1
        for i in np.flatnonzero(dones).tolist():
            row = {"r": float(self.episode_returns[i]), "l": int(self.episode_lengths[i])}
            row |= {"t": round(time.time() - self._start, 6)}
            row |= {key: infos[i][key] for key in self._keys}
            infos[i]["episode"] = row
            if self._file:
                self._file.write(row)
        self.episode_returns[dones], self.episode_lengths[dones] = 0, 0
        return obs, rewards, dones, infos


class VecCheckNan(VecEnvWrapper):
    """Says where a number is not finite; Poise's training looks for that itself."""

    def __init__(
        self,
        venv: VecEnv,
        raise_exception: bool = False,
        warn_once: bool = True,
        check_inf: bool = True,
    ) -> None:
        super().__init__(venv)
        self.raise_exception, self.warn_once, self.check_inf = raise_exception, warn_once, check_inf
        self._said = False

    def step_async(self, actions: Any) -> None:
        self._look(actions=actions)
        self.venv.step_async(actions)

    def step_wait(self) -> Steps:
        found = self.venv.step_wait()
        self._look(observations=found[0], rewards=found[1])
        return found

    def _look(self, **named: Any) -> None:
        for name, values in named.items():
            parts = values.values() if isinstance(values, dict) else [values]
            bad = [
                np.isnan(part).any() or (self.check_inf and np.isinf(part).any()) for part in parts
            ]
            if any(bad) and not (self._said and self.warn_once):
                self._said, text = True, f"{name} hold numbers that are not finite."
                if self.raise_exception:
                    raise ValueError(text)
                warnings.warn(text, UserWarning, stacklevel=4)


class VecVideoRecorder(VecEnvWrapper):
    """Films the environments, in one picture, from the steps on that `record_video_trigger` tells.

    Files are `FOLDER/PREFIX-step-FROM-to-step-TO.mp4`; neither a display nor ffmpeg is needed.
    """

    def __init__(
        self,
        venv: VecEnv,
        video_folder: str,
        record_video_trigger: Callable[[int], bool],
        video_length: int = 200,
        name_prefix: str = "rl-video",
    ) -> None:
        super().__init__(venv)
        self._folder, self._told, self.name_prefix = (
            Path(video_folder),
            record_video_trigger,
            name_prefix,
        )
        self.video_length, self.step_id, self._frames = video_length, 0, 0
        self._writer: Any = None

    def reset(self) -> Any:
        obs = self.venv.reset()
        self._film()
        return obs

    def step_wait(self) -> Steps:
        found = self.venv.step_wait()
        self.step_id += 1
        self._film()
        return found

    def _film(self) -> None:
        if self._writer is None and not self._told(self.step_id):
            return
        frame = as_frame(self.venv.render(mode="rgb_array"))
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            last = self.step_id + self.video_length
            name = f"{self.name_prefix}-step-{self.step_id}-to-step-{last}.mp4"
            self.video_path, self._frames = str(self._folder / name), 0
            rate = float((self.metadata or {}).get("render_fps") or 30)
            self._writer = open_writer(self._folder / name, frame, rate)
        self._writer.send(frame)
        self._frames += 1
        if self._frames > self.video_length:
            self._end()

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def close(self) -> None:
        self._end()
        self.venv.close()


def is_vecenv_wrapped(env: VecEnv, vec_wrapper_class: type) -> bool:
    """Whether a vector environment has this wrapper."""
    return unwrap_vec_wrapper(env, vec_wrapper_class) is not None


def unwrap_vec_wrapper(env: Any, vec_wrapper_class: type) -> Any:
    """The wrapper of this class; None if there is none."""
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, vec_wrapper_class):
            return env
        env = env.venv
    return None
