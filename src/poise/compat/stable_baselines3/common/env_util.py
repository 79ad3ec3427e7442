"""`stable_baselines3.common.env_util`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from poise.compat.gym.core import OldEnv
from poise.compat.gym.envs.registration import make
from poise.compat.stable_baselines3.common.atari_wrappers import AtariWrapper
from poise.compat.stable_baselines3.common.monitor import Monitor
from poise.compat.stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecMonitor,
    is_vecenv_wrapped,
)
from poise.compat.stable_baselines3.common.vec_env.base import is_wrapped

__all__ = ["as_vec_env", "is_wrapped", "make_atari_env", "make_vec_env", "unwrap_wrapper"]


def unwrap_wrapper(env: Any, wrapper_class: type) -> Any:
    """The wrapper of this class around an environment; None if there is none."""
    while env is not None and not isinstance(env, wrapper_class):
        env = env.env if isinstance(env, Monitor) else vars(env).get("env")
    return env


def make_vec_env(
    env_id: str | Callable[..., Any],
    n_envs: int = 1,
    seed: int | None = None,
    start_index: int = 0,
    monitor_dir: str | None = None,
    wrapper_class: Callable[..., Any] | None = None,
    env_kwargs: dict[str, Any] | None = None,
    vec_env_cls: type[VecEnv] | None = None,
    vec_env_kwargs: dict[str, Any] | None = None,
    monitor_kwargs: dict[str, Any] | None = None,
    wrapper_kwargs: dict[str, Any] | None = None,
) -> VecEnv:
    """So many environments of an id, a class or a function, each with a `Monitor`."""

    def one(rank: int) -> Callable[[], Any]:
        def build() -> Any:
            maker = (lambda **own: made(env_id, **own)) if isinstance(env_id, str) else env_id
            env = maker(**(env_kwargs or {}))
            if seed is not None:
                env.action_space.seed(seed + rank)
            path = None
            if monitor_dir is not None:
                Path(monitor_dir).mkdir(parents=True, exist_ok=True)
                path = str(Path(monitor_dir) / str(rank))
            env = Monitor(env, path, **(monitor_kwargs or {}))
            return wrapper_class(env, **(wrapper_kwargs or {})) if wrapper_class else env

        return build

    functions = [one(start_index + i) for i in range(n_envs)]
    kind: Any = vec_env_cls or DummyVecEnv
    venv: VecEnv = kind(functions, **(vec_env_kwargs or {}))
    venv.seed(seed)
    return venv


def made(env_id: str, **settings: Any) -> OldEnv:
    """An environment by its id, with Gymnasium's five values where nothing tells."""
    env = make(env_id, **settings)
    env._five = True
    return env


def make_atari_env(
    env_id: str,
    n_envs: int = 1,
    seed: int | None = None,
    start_index: int = 0,
    monitor_dir: str | None = None,
    wrapper_kwargs: dict[str, Any] | None = None,
    env_kwargs: dict[str, Any] | None = None,
    **others: Any,
) -> VecEnv:
    """So many Atari games, each with the wrappers of `AtariWrapper`."""
    return make_vec_env(
        env_id, n_envs, seed, start_index, monitor_dir, AtariWrapper, env_kwargs,
        wrapper_kwargs=wrapper_kwargs, **others,
    )  # fmt: skip


def as_vec_env(env: Any) -> VecEnv:
    """Any environment as a vector environment, with a `Monitor` where it has none."""
    if isinstance(env, VecEnv):
        return env
    one = made(env) if isinstance(env, str) else env
    venv = DummyVecEnv([lambda: one])
    if not (venv.env_is_wrapped(Monitor)[0] or is_vecenv_wrapped(venv, VecMonitor)):
        venv = DummyVecEnv([lambda: Monitor(one)])
    return venv
