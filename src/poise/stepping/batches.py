"""From an environment's name to a batch: native or not, here or in worker processes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from poise.config.base import env_name
from poise.envs.atari import is_atari, make_atari_vector
from poise.envs.make import (
    AsEnvError,
    Quiet,
    VectorEnvMadeError,
    checked,
    env_maker,
    find_env,
    is_native,
    recipe,
)
from poise.envs.raised import is_interrupt, said
from poise.envs.wrap import take_wrappers
from poise.errors import ConfigError, EnvError
from poise.stepping.advice import advise_workers, available_cores, measure_step
from poise.stepping.given import GivenVectorEnv
from poise.stepping.inline import InlineVectorEnv
from poise.stepping.process import Limits

_WORKERS_PER_CORE = 16


def make_vector_env(env: Any, num_envs: int, env_config: dict[str, Any] | None = None) -> VectorEnv:
    """Makes a batch of environments with NEXT_STEP semantics, in this process.

    It is native where the environment has a native version (not for a single one, which would be
    slower), and the user's own if that is a vector environment. Otherwise the environments are
    stepped one after the other.

    Args:
        env, env_config: see `make_env`.
        num_envs: number of environments; a vector environment of the user's keeps its own.
    """
    config = checked(env, env_config)
    source = find_env(env)
    wrapped = take_wrappers(dict(config))
    if isinstance(source, str) and not wrapped:
        if is_atari(source):
            return make_atari_vector(source, num_envs, config)
        if num_envs > 1 and is_native(source):
            with Quiet(), AsEnvError(source, config):
                return gym.make_vec(
                    source, num_envs, vectorization_mode="vector_entry_point", **config
                )
    try:
        return InlineVectorEnv(env_maker(source, config), num_envs)
    except VectorEnvMadeError as made:
        if config.get("max_episode_steps"):
            raise
        if wrapped:
            raise EnvError(
                f"{env_name(source)} is a vector environment, and wrappers go around single ones: "
                "put vector wrappers around it yourself."
            ) from None
        return GivenVectorEnv(made.env, mine=not isinstance(env, VectorEnv))


def make_batches(
    env: Any,
    envs_per_worker: int,
    env_config: dict[str, Any] | None,
    num_workers: int,
    limits: Limits,
) -> list[VectorEnv]:
    """Makes environments as one batch, or as two if several workers step them.

    While one half steps, the policy chooses actions for the other.

    Args:
        env, env_config: see `make_env`.
        envs_per_worker: environments of each worker.
        num_workers: processes that step them; for Atari games, threads of the emulator. 0 steps
            them in this process.
        limits: of time and memory, for processes.

    Raises:
        ConfigError: there would be more workers than the machine can start in a reasonable time.
        EnvError: the environment cannot be made, or cannot be sent to a process.
    """
    cores = available_cores()
    most = _WORKERS_PER_CORE * cores
    if num_workers > most:
        raise ConfigError(
            f"num_workers={num_workers} is not allowed for {num_workers * envs_per_worker} "
            f"environments on {cores} cores: it must be at most {most}. "
            f"Fewer share the same environments: num_workers={cores} (--num_workers {cores})."
        )
    if num_workers == 0:
        return [make_vector_env(env, envs_per_worker, env_config)]
    groups = [num_workers - num_workers // 2, num_workers // 2] if num_workers > 1 else [1]
    source = find_env(env)
    if isinstance(source, str) and is_atari(source) and not take_wrappers(dict(env_config or {})):
        threads = {"num_threads": groups[0], **(env_config or {})}
        return [make_atari_vector(source, group * envs_per_worker, threads) for group in groups]
    from poise.stepping.workers import WorkerVectorEnv

    described = {**recipe(env, env_config), "total_envs": num_workers * envs_per_worker}
    batches: list[WorkerVectorEnv] = []
    try:
        for i, group in enumerate(groups):
            envs, first = group * envs_per_worker, i * groups[0]
            batches.append(WorkerVectorEnv(described, envs, group, limits, first_worker=first))
        team = [worker for batch in batches for worker in batch.workers]
        for batch in batches:
            batch.team = team
            batch.connect()
    except BaseException:
        # Not left to the garbage collector: whoever keeps the traceback would keep the processes.
        for batch in batches:
            batch.close_extras()
        raise
    return list(batches)


def choose_workers(
    env: Any, num_envs: int, env_config: dict[str, Any] | None = None
) -> tuple[int, str]:
    """How many workers step `num_envs` environments fastest.

    Returns:
        The number, a divisor of `num_envs`, and a sentence that says why.
    """
    source, wrapped = find_env(env), bool(take_wrappers(dict(env_config or {})))
    if isinstance(source, str) and is_atari(source) and not wrapped:
        most = min(num_envs, available_cores())
        workers = max(n for n in range(1, most + 1) if num_envs % n == 0)
        return workers, (
            f"{workers} threads of the emulator, "
            "and actions for one half of the games while the other plays."
        )
    if is_native(env) and not wrapped:
        return 0, (
            f"No worker processes: {env} has a native version, "
            "which steps many environments at once."
        )
    try:
        made = env_maker(env, env_config)()
    except VectorEnvMadeError as vector:
        if vector.env is not env:
            vector.env.close()
        return 0, "No worker processes: a vector environment steps its environments itself."
    except (SystemExit, KeyboardInterrupt) as error:
        # An environment's own, such as sys.exit(), would end the caller's process.
        if is_interrupt(error):
            raise
        raise EnvError(f"The environment raised {said(error)} when it was made.") from error
    try:
        return advise_workers(*measure_step(made), num_envs, available_cores())
    except BaseException as error:
        if is_interrupt(error):
            raise
        # In worker processes, since there it can be replaced, however it fails again.
        workers = 2 - num_envs % 2
        return workers, (
            f"{workers} worker process{'es' * (workers > 1)}: "
            f"the environment failed while it was measured ({said(error)})."
        )
    finally:
        made.close()
