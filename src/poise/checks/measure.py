"""How fast an environment is, and whether its memory grows; nothing else is looked at here."""

from __future__ import annotations

import gc
from time import perf_counter, process_time

import gymnasium as gym
import numpy as np

from poise.checks.probe import Probe
from poise.checks.where import method_place
from poise.stepping.advice import advise_workers, available_cores, cost, duration, waits
from poise.stepping.worker import resident_bytes

SLOW_RESET_S = 0.02
"""A reset that takes fewer seconds is never called slow."""
LEAK = 100_000
"""Memory that grows by fewer bytes in 1,000 steps is not said to grow;"""
NOISE = 300_000
"""nor is that which grows by fewer in a half of the measurement."""
MOST_STEPS = 300_000
"""Steps of the measurement, at most."""


def check_speed(probe: Probe, env: gym.Env, seconds: float, num_envs: int) -> None:
    """Plays for a while and writes down what a step and a reset cost, and how the memory grew."""
    clock = _Clock(probe, env)
    clock.play(0.2 * seconds)
    memory, warm_steps = [_memory()], clock.steps
    for _ in range(2):
        clock.play(0.4 * seconds)
        memory.append(_memory())
    step_s, share = cost(max(clock.steps, 1), clock.stepping, clock.computing, clock.waited)
    reset_s = clock.resetting / max(clock.resets, 1)
    workers, why = advise_workers(step_s, share, num_envs, available_cores())
    probe.report.facts.update(
        {
            "step_s": step_s,
            "reset_s": reset_s,
            "steps_per_s": 1 / max(step_s, 1e-9),
            "cpu_share": share,
            "num_workers": workers,
            "num_workers_why": why,
        }
    )
    length = probe.report.facts.get("episode_len_mean")
    if length and reset_s > SLOW_RESET_S and reset_s > length * step_s:
        text = (
            f"reset() takes {duration(reset_s)}, longer than the {length:.0f} steps of an average "
            f"episode ({duration(length * step_s)}): do once in __init__ what is the same for "
            "every episode."
        )
        probe.finding("warning", "speed", text, method_place(env, "reset"))
    _check_memory(probe, env, memory, clock.steps - warm_steps)


def _check_memory(probe: Probe, env: gym.Env, memory: list[int], steps: int) -> None:
    warm, middle, end = memory
    per_1000 = max(end - warm, 0) / max(steps, 1) * 1000
    probe.report.facts["memory_mb_per_1000_steps"] = round(per_1000 / 1e6, 3)
    if per_1000 > LEAK and min(middle - warm, end - middle) > NOISE:
        text = (
            f"memory grows by {per_1000 / 1e6:.1f} MB in 1,000 steps, "
            f"{per_1000 / 1e6:.1f} GB in a million: look for a list that every step appends to."
        )
        probe.finding("warning", "memory", text, method_place(env, "step"))


class _Clock:
    """Plays at random and adds up seconds."""

    def __init__(self, probe: Probe, env: gym.Env) -> None:
        self._probe, self._env, self._sample = probe, env, probe.sampler(env)
        self.steps = self.resets = 0
        self.stepping = self.computing = self.waited = self.resetting = 0.0
        self._length, self._done = 0, True

    def play(self, seconds: float) -> None:
        """Plays for so many seconds, but two steps at least."""
        probe, env, start = self._probe, self._env, perf_counter()
        fewest, most = self.steps + 2, self.steps + MOST_STEPS // 3
        while self.steps < fewest or (perf_counter() - start < seconds and self.steps < most):
            before = perf_counter()
            if self._done:
                probe.reset(env, None if self.resets else probe.seed)
                self.resetting += perf_counter() - before
                self.resets, self._length, self._done = self.resets + 1, 0, False
                continue
            action = self._sample()
            given_up, before, computed = waits(), perf_counter(), process_time()
            _, _, terminated, truncated, _ = probe.step(env, action)
            self.computing += process_time() - computed
            self.stepping += perf_counter() - before
            self.waited += waits() - given_up
            self.steps, self._length = self.steps + 1, self._length + 1
            over = bool(np.any(terminated)) or bool(np.any(truncated))
            self._done = over or self._length == probe.limit


def _memory() -> int:
    """Memory that this process holds."""
    gc.collect()
    return resident_bytes()
