"""How many worker processes are worth it: decided by measured numbers, said in one sentence."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, thread_time

import gymnasium as gym

INLINE_S = 3e-6
"""Seconds that stepping one environment in this process costs beside the environment itself."""
BATCH_S = 60e-6
"""Seconds that it costs to send a step of the whole batch to worker processes and back."""
WORTH = 1.5
"""Processes must be faster by this factor: they cost memory and time to start."""


CORES = "POISE_CORES"
"""Environment variable with the number of processor cores to count on, if not all of them."""


def available_cores() -> int:
    """Processor cores that this process may use."""
    if os.environ.get(CORES, "").isdecimal():
        return max(1, int(os.environ[CORES]))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_runs(threads: int, workers: int | str) -> int:
    """The number of runs that there are cores for at a time."""
    return max(1, available_cores() // cores_of_run(threads, workers))


def cores_of_run(threads: int, workers: int | str) -> int:
    """Cores that a run takes: one, and one for every thread or process that samples beside it."""
    return 1 + threads + (workers if isinstance(workers, int) else 1)


def batch_seconds(
    workers: int, step_s: float, cpu_share: float, num_envs: int, cores: int
) -> float:
    """Seconds that one step of all environments takes.

    They step one after the other here (0 workers), or shared by worker processes, which slow each
    other down where they want more cores than there are.
    """
    if workers == 0:
        return num_envs * (step_s + INLINE_S)
    crowding = max(1.0, workers * cpu_share / cores)
    return math.ceil(num_envs / workers) * step_s * crowding + BATCH_S


def advise_workers(step_s: float, cpu_share: float, num_envs: int, cores: int) -> tuple[int, str]:
    """The number of worker processes that steps a batch of environments fastest.

    Args:
        step_s: seconds that one step of one environment takes.
        cpu_share: how much of that time it computes, 0 (it waits: a game, a robot, a service) to 1.
        num_envs: environments in the batch.
        cores: processor cores at hand.

    Returns:
        The number, a divisor of `num_envs`, or 0 for stepping in this process unless processes win
        by half; and a sentence that says why.
    """
    inline = batch_seconds(0, step_s, cpu_share, num_envs, cores)
    shared = {
        w: batch_seconds(w, step_s, cpu_share, num_envs, cores)
        for w in range(1, num_envs + 1)
        if num_envs % w == 0
    }
    fastest = min(shared.values())
    # The fewest that are about as fast as the best.
    workers = next(w for w, seconds in shared.items() if seconds <= 1.02 * fastest)
    envs = f"{num_envs} environment{'s' * (num_envs != 1)}"
    processors = f"{cores} core{'s' * (cores != 1)}"
    about = f"{envs}, {duration(step_s)} a step, {cpu_share:.0%} of it computing, {processors}"
    if inline < WORTH * fastest:
        return 0, f"No worker processes: stepping in this process is as fast, or nearly ({about})."
    return workers, (
        f"{workers} worker process{'es' * (workers != 1)}: "
        f"a step of the whole batch takes about {duration(fastest)} in them, "
        f"and {duration(inline)} in this process ({about})."
    )


def duration(seconds: float) -> str:
    """Seconds with two digits in the unit that fits: `5.2 µs`, `12 ms`, `1.5 s`."""
    scale, unit = (1, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "µs")
    number = seconds * scale
    return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"


def waits() -> float:
    """How often this thread gave up its core by itself, to wait; NaN if the system is silent."""
    try:
        import resource

        return float(resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw)
    except (ImportError, AttributeError):  # elsewhere than on Linux
        return math.nan


@dataclass(frozen=True)
class Clocks:
    """The clocks that a step is measured by.

    Attributes:
        wall: seconds that have passed.
        cpu: seconds that this thread has computed.
        waits: see `waits`.
    """

    wall: Callable[[], float] = perf_counter
    cpu: Callable[[], float] = thread_time
    waits: Callable[[], float] = waits


def cost(steps: int, wall: float, cpu: float, waited: float) -> tuple[float, float]:
    """`(seconds, share computed)` of one step, from what so many took.

    On a busy machine, time that other processes steal looks like time spent waiting. But a thread
    whose core was taken away has not given it up by itself: an environment that hardly ever does,
    or computes for more than half of its time, counts as computing all the time.
    """
    wall, cpu = wall / steps, cpu / steps
    if waited < steps / 2 or cpu > wall / 2:
        return cpu, 1.0
    return wall, cpu / wall


def measure_step(
    env: gym.Env, seconds: float = 0.25, clocks: Clocks | None = None
) -> tuple[float, float]:
    """What a step of an environment takes, without resets: `(seconds, share computed)`.

    Plays random actions for about so long, in three parts, of which the fastest counts. The first
    steps, which often take longer, are left out.
    """
    now = clocks or Clocks()
    env.reset(seed=0)
    env.action_space.seed(0)
    parts = []
    for warm_up in (5, 0, 0):
        begin, wall, cpu, waited, counted = now.wall(), 0.0, 0.0, 0.0, 0
        while counted < 5 or (now.wall() - begin < seconds / 3 and counted < 1000):
            action = env.action_space.sample()
            given_up, start, start_cpu = now.waits(), now.wall(), now.cpu()
            over = any(env.step(action)[2:4])
            if warm_up:
                warm_up -= 1
            else:
                cpu, wall = cpu + now.cpu() - start_cpu, wall + now.wall() - start
                counted += 1
                waited += now.waits() - given_up
            if over:
                env.reset()
        parts.append(cost(counted, wall, cpu, waited))
    return min(parts)
