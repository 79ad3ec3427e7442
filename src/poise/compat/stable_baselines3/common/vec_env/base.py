"""Vector environments as Stable-Baselines3 has them: four values, and infos as a list.

An environment whose episode ends begins the next one in the same step; the last observation is in
its info, `terminal_observation`, and `TimeLimit.truncated` says whether a limit cut it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.utils import concatenate, create_empty_array

from poise.compat.gym.core import modern
from poise.envs.old_gym import OldGymEnv


class VecEnv:
    """Base of all of them.

    Attributes:
        num_envs: how many there are.
        observation_space, action_space: of one environment.
        reset_infos: infos of the last `reset`, one for each.
    """

    metadata: dict[str, Any] = {}  # noqa: RUF012 - as in Gymnasium
    render_mode: str | None = "rgb_array"

    def __init__(
        self, num_envs: int, observation_space: spaces.Space, action_space: spaces.Space
    ) -> None:
        self.num_envs = num_envs
        self.observation_space, self.action_space = observation_space, action_space
        self.reset_infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]

    def reset(self) -> Any:
        """The first observations, `[num_envs, ...]`."""
        raise NotImplementedError

    def step_async(self, actions: Any) -> None:
        """Tells what to do."""
        raise NotImplementedError

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Observations, rewards, whether episodes ended, and infos."""
        raise NotImplementedError

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """`step_async` and `step_wait`."""
        self.step_async(actions)
        return self.step_wait()

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Seeds the next `reset`: `seed` for the first, `seed + 1` for the next."""
        raise NotImplementedError

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of each environment, or of its wrappers."""
        raise NotImplementedError

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets it."""
        raise NotImplementedError

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any
    ) -> list[Any]:
        """Calls a method of each environment, or of its wrappers."""
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Whether each environment has this wrapper."""
        raise NotImplementedError

    def get_images(self) -> list[Any]:
        """A frame of each environment."""
        return self.env_method("render", mode="rgb_array")

    def render(self, mode: str | None = None) -> Any:
        """All frames in one picture; as `human`, whatever shows the first of them."""
        if mode == "human":
            return self.env_method("render", indices=[0], mode="human")[0]
        images = self.get_images()
        if any(image is None for image in images):  # they show themselves
            return None
        frames = np.stack(images)
        columns = int(np.ceil(np.sqrt(len(frames))))
        rows = -(-len(frames) // columns)
        empty = np.zeros((rows * columns - len(frames), *frames.shape[1:]), frames.dtype)
        grid = np.concatenate([frames, empty]).reshape(rows, columns, *frames.shape[1:])
        return np.concatenate(np.concatenate(grid, 1), 1)

    def close(self) -> None:
        """Closes all environments."""

    @property
    def unwrapped(self) -> VecEnv:
        """The one inside all wrappers."""
        return self

    def _indices(self, indices: Any) -> list[int]:
        if indices is None:
            return list(range(self.num_envs))
        return [indices] if isinstance(indices, int) else list(indices)


class DummyVecEnv(VecEnv):
    """Environments that are stepped one after the other, in this process.

    Args:
        env_fns: each makes one environment, of any API.
    """

    def __init__(self, env_fns: Sequence[Callable[[], Any]]) -> None:
        self.envs = [function() for function in env_fns]
        self._modern = [modern(env) for env in self.envs]
        first = self._modern[0]
        super().__init__(len(self.envs), first.observation_space, first.action_space)
        self.metadata = first.metadata
        self._seeds: list[int | None] = [None] * self.num_envs
        self.render_mode = first.render_mode

    def seed(self, seed: int | None = None) -> list[int | None]:
        self._seeds = [None if seed is None else seed + i for i in range(self.num_envs)]
        return self._seeds

    def reset(self) -> Any:
        pairs = [env.reset(seed=s) for env, s in zip(self._modern, self._seeds, strict=True)]
        self._seeds = [None] * self.num_envs
        self.reset_infos = [info for _, info in pairs]
        return self._batch([obs for obs, _ in pairs])

    def step_async(self, actions: Any) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observed, infos = [], []
        rewards, dones = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, bool)
        for i, env in enumerate(self._modern):
            obs, reward, terminated, truncated, info = env.step(self.actions[i])
            rewards[i], dones[i] = float(reward), terminated or truncated
            info = {**info, "TimeLimit.truncated": bool(truncated and not terminated)}
            if dones[i]:
                info["terminal_observation"] = obs
                obs, self.reset_infos[i] = env.reset()
            observed.append(obs)
            infos.append(info)
        return self._batch(observed), rewards, dones, infos

    def _batch(self, each: list[Any]) -> Any:
        """Observations as an array, or a dict or tuple of arrays."""
        out: Any = create_empty_array(self.observation_space, self.num_envs)
        return concatenate(self.observation_space, each, out)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(_owner(self.envs[i], attr_name), attr_name) for i in self._indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        for i in self._indices(indices):
            setattr(_owner(self.envs[i], attr_name), attr_name, value)

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any
    ) -> list[Any]:
        if method_name == "render":
            return [self._seen(i, **kwargs) for i in self._indices(indices)]
        return [
            getattr(_owner(self.envs[i], method_name), method_name)(*args, **kwargs)
            for i in self._indices(indices)
        ]

    def _seen(self, i: int, mode: str) -> Any:
        from poise.compat.gym.core import OldEnv

        env = self.envs[i]
        return (env if isinstance(env, OldEnv) else OldEnv(self._modern[i])).render(mode=mode)

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [is_wrapped(self.envs[i], wrapper_class) for i in self._indices(indices)]

    def close(self) -> None:
        for env in self.envs:
            env.close()


class SubprocVecEnv(VecEnv):
    """Environments that are stepped in processes of their own.

    Args:
        env_fns: each makes one environment, of any API.
        start_method: how processes begin; the system's way unless given.
    """

    def __init__(
        self, env_fns: Sequence[Callable[[], Any]], start_method: str | None = None
    ) -> None:
        makers = [lambda make=make: modern(make()) for make in env_fns]
        self._env = AsyncVectorEnv(
            makers, context=start_method, autoreset_mode=AutoresetMode.SAME_STEP
        )
        space, action_space = self._env.single_observation_space, self._env.single_action_space
        super().__init__(len(makers), space, action_space)
        self.metadata, self._seed = self._env.metadata, None

    def seed(self, seed: int | None = None) -> list[int | None]:
        self._seed = seed  # type: ignore[assignment]
        return [None if seed is None else seed + i for i in range(self.num_envs)]

    def reset(self) -> Any:
        obs, _ = self._env.reset(seed=self._seed)
        self._seed = None
        return obs

    def step_async(self, actions: Any) -> None:
        self._env.step_async(actions)

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        obs, rewards, terminated, truncated, found = self._env.step_wait()
        dones = terminated | truncated
        infos = []
        for i in range(self.num_envs):
            info = _of_one(found.get("final_info", {}) if dones[i] else found, i)
            info["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            if dones[i]:
                info["terminal_observation"] = found["final_obs"][i]
            infos.append(info)
        return obs, rewards.astype(np.float32), dones, infos

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        found = self._env.call(attr_name)
        return [found[i] for i in self._indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        each = list(self.get_attr(attr_name))
        for i in self._indices(indices):
            each[i] = value
        self._env.set_attr(attr_name, each)

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any
    ) -> list[Any]:
        if method_name == "render":
            kwargs = {}
        found = self._env.call(method_name, *args, **kwargs)
        return [found[i] for i in self._indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        from poise.compat.stable_baselines3.common.monitor import Monitor

        known = wrapper_class is Monitor and "has_monitor" in dir(type(self))
        return [known] * len(self._indices(indices))

    def close(self) -> None:
        self._env.close()


def _of_one(found: dict[str, Any], i: int) -> dict[str, Any]:
    """The info of one environment from Gymnasium's info of all."""
    info = {}
    for key, value in found.items():
        if key.startswith(("_", "final_")) or not found.get(f"_{key}", np.ones(i + 1, bool))[i]:
            continue
        info[key] = _of_one(value, i) if isinstance(value, dict) else value[i]
    return info


def _owner(env: Any, name: str) -> Any:
    """The environment, or what is inside of it, that has an attribute."""
    inside = env
    while inside is not None:
        if name in vars(inside) or hasattr(type(inside), name):
            return inside
        step = vars(inside)
        inside = step.get("_env", step.get("env"))
    core = env.unwrapped
    return core.env if isinstance(core, OldGymEnv) else core


def is_wrapped(env: Any, wrapper_class: type) -> bool:
    """Whether an environment has a wrapper of this class."""
    while env is not None:
        if isinstance(env, wrapper_class):
            return True
        own = vars(env)
        env = own.get("_env", own.get("env"))
    return False
