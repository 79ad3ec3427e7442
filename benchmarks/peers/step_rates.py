"""Environment steps a second of one way to step eight environments; one line of JSON with all
cells.

python step_rates.py --system "Gymnasium Async" --seconds 1
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from busy import CELLS, Busy

warnings.filterwarnings("ignore")
ENVS = 8
Stepper = tuple[Callable[[], int], Callable[[], Any], str]
"""What takes some steps and tells how many, what ends it, and what was chosen where there was a
choice."""
Maker = Callable[[dict[str, Any]], Stepper]
_EPISODE = 200


def stepped(env: Any, step: Callable[[Any], Any], resets: bool, chose: str = "") -> Stepper:
    """Steps a batch; `resets` says that each episode is followed by a call that only resets, and
    counts nothing."""
    actions, calls = np.zeros(ENVS, np.int64), 0

    def once() -> int:
        nonlocal calls
        step(actions)
        calls += 1
        return 0 if resets and calls % (_EPISODE + 1) == 0 else ENVS

    return once, env.close, chose


def poise(workers: int | None) -> Maker:
    """Poise in this process (0) or with worker processes; None lets it choose."""

    def make(config: dict[str, Any]) -> Stepper:
        from poise.envs.make import recipe
        from poise.stepping.batches import choose_workers, make_vector_env
        from poise.stepping.process import Limits
        from poise.stepping.workers import WorkerVectorEnv

        count = choose_workers(Busy, ENVS, config)[0] if workers is None else workers
        if count:
            env: Any = WorkerVectorEnv(recipe(Busy, config), ENVS, count, Limits()).connect()
        else:
            env = make_vector_env(Busy, ENVS, config)
        env.reset(seed=0)
        return stepped(env, env.step, True, str(count))

    return make


def gymnasium(kind: str, **options: Any) -> Maker:
    """Gymnasium's own vector environments; without `copy` they hand out their buffers, as Poise
    does."""

    def make(config: dict[str, Any]) -> Stepper:
        import gymnasium as gym

        env = getattr(gym.vector, kind)([lambda: Busy(config)] * ENVS, **options)
        env.reset(seed=0)
        return stepped(env, env.step, True)

    return make


def sb3(kind: str) -> Maker:
    """Stable-Baselines3's vector environments; processes are forked."""

    def make(config: dict[str, Any]) -> Stepper:
        from stable_baselines3.common import vec_env

        made: list[Callable[[], Busy]] = [lambda: Busy(config)] * ENVS
        env = (
            vec_env.SubprocVecEnv(made, "fork")
            if kind == "SubprocVecEnv"
            else vec_env.DummyVecEnv(made)
        )
        env.reset()
        return stepped(env, env.step, False)

    return make


class Runner:
    """Holds an environment runner of RLlib, here or as an actor that serves one cell after the
    other."""

    def make(self, config: dict[str, Any], index: int, runners: int) -> None:
        """Makes the runner, in place of the one before."""
        from ray.rllib.algorithms.ppo import PPOConfig
        from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

        settings = PPOConfig().environment(Busy, env_config=config)
        settings.env_runners(
            num_env_runners=runners, num_envs_per_env_runner=ENVS // max(1, runners)
        )
        self.runner = SingleAgentEnvRunner(config=settings, worker_index=index, num_workers=runners)

    def sample(self, steps: int) -> int:
        """Acts at random for so many steps, and tells how many there were; the episodes stay where
        they are."""
        return sum(
            len(episode) for episode in self.runner.sample(num_timesteps=steps, random_actions=True)
        )


_actors: list[Any] = []


def rllib(runners: int) -> Maker:
    """RLlib's environment runners with random actions; they keep episodes as they sample, which is
    part of them."""

    def make(config: dict[str, Any]) -> Stepper:
        import ray

        # A call costs a message, so fragments are as long as they can be without outlasting the
        # measurement.
        fragment = 160 if config.get("burn_us", 0) >= 1000 or "sleep_ms" in config else 1600
        if not runners:
            here = Runner()
            here.make(config, 0, 0)
            return lambda: here.sample(fragment), lambda: None, ""
        if not _actors:
            path = {"env_vars": {"PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}}
            cpus = max(runners, os.cpu_count() or 1)
            ray.init(
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env=path,
            )
            _actors.extend(ray.remote(num_cpus=1)(Runner).remote() for _ in range(runners))
        ray.get([actor.make.remote(config, i + 1, runners) for i, actor in enumerate(_actors)])
        share = fragment // runners
        return (
            lambda: sum(ray.get([actor.sample.remote(share) for actor in _actors])),
            lambda: None,
            "",
        )

    return make


SYSTEMS: dict[str, Maker] = {
    "Poise, in this process": poise(0),
    "Poise, 1 worker": poise(1),
    "Poise, 2 workers": poise(2),
    "Poise, 4 workers": poise(4),
    "Poise, auto": poise(None),
    "Gymnasium Sync": gymnasium("SyncVectorEnv"),
    "Gymnasium Sync, copy=False": gymnasium("SyncVectorEnv", copy=False),
    "Gymnasium Async": gymnasium("AsyncVectorEnv"),
    "Gymnasium Async, copy=False": gymnasium("AsyncVectorEnv", copy=False),
    "SB3 Dummy": sb3("DummyVecEnv"),
    "SB3 Subproc": sb3("SubprocVecEnv"),
    "RLlib, local runner": rllib(0),
    "RLlib, 1 runner": rllib(1),
    "RLlib, 2 runners": rllib(2),
}


def rate(stepper: Stepper, seconds: float) -> float:
    """Environment steps a second, after a warm-up."""
    step, end, _ = stepper
    begin = time.perf_counter()
    warm = 0
    while not warm or time.perf_counter() - begin < seconds / 5:
        step()
        warm += 1
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        steps += step()
    taken = time.perf_counter() - start
    end()
    return steps / taken


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--system", choices=SYSTEMS, required=True)
    parser.add_argument("--seconds", type=float, default=0.5)
    args = parser.parse_args()
    cells, chose = {}, {}
    for name, config in CELLS.items():
        stepper = SYSTEMS[args.system](config)
        cells[name], chose[name] = round(rate(stepper, args.seconds)), stepper[2]
    print(json.dumps({"cells": cells, "chose": chose}), flush=True)
    # its processes outlive this one for a while, and would be in the way of what is measured next
    if _actors:
        import ray

        ray.shutdown()
    os._exit(0)  # peers' farewells take time and print


if __name__ == "__main__":
    main()
