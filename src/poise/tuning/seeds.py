"""One configuration over several seeds, in parallel processes: what came of them, and how sure that is."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from poise.config.algorithms import algorithm_spec
from poise.config.base import env_name
from poise.config.resolve import field_types, resolve
from poise.config.run import RunOptions
from poise.config.types import NonNegativeInt, PositiveInt, coerce
from poise.envs.advice import parallel_runs
from poise.errors import ConfigError, RunError, shown
from poise.tracking.curves import History, panels
from poise.tracking.folder import RunFolder
from poise.tracking.plots import episode_figure
from poise.training.signals import stopping_on
from poise.training.stopping import StopRule, check_keys, default_stop
from poise.tuning.pool import Pool
from poise.tuning.study import registered

RESAMPLES = 10_000
"""Of the bootstrap."""


class SeedRuns:
    """Runs that differ by their seed alone.

    Attributes:
        path: the experiment's folder, with a run folder for each seed.
        results: the last result of each run that ended well, by seed.
        errors: one sentence for each that failed, by seed.
        ended: the reason why not all have run to their end, if so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[int, dict[str, Any]] = {}
        self.errors: dict[int, str] = {}
        self.ended: str | None = None

    def __repr__(self) -> str:
        return f"<{len(self.results)} seeds in {self.path}>"

    @property
    def runs(self) -> dict[int, Path]:
        """The run folders, by seed."""
        return {seed: self.path / f"seed_{seed}" for seed in self.results}

    def aggregate(self, key: str = "episode_reward_mean") -> dict[str, float]:
        """Of a result over the seeds: `mean`, `iqm` (the mean of the middle half), and `low` and `high`, between which
        the latter is with 95 % confidence, by the bootstrap (Agarwal et al. 2021, arXiv 2108.13264).

        Raises:
            RunError: no run has a number for it.
        """
        values = [float(result[key]) for result in self.results.values() if result.get(key) is not None]
        if not values:
            raise RunError(f"No run in {self.path} has ended with a {key}.")
        drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values)))
        low, high = np.percentile(interquartile_mean(drawn), [2.5, 97.5])
        iqm = interquartile_mean(np.array([values]))[0]
        return {"mean": float(np.mean(values)), "iqm": float(iqm), "low": float(low), "high": float(high)}

    def plot(self, x: str = "steps", y: str | None = None) -> Any:
        """Return and length of episodes as a matplotlib figure: the mean over seeds and a band."""
        return episode_figure(panels([History.of_folder(RunFolder(path)) for path in self.runs.values()], x, y))


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """The mean of the middle half of each row: a quarter of the values, rounded down, is cut off at either end."""
    cut = values.shape[1] // 4
    middle: np.ndarray = np.sort(values, axis=1)[:, cut : values.shape[1] - cut].mean(axis=1)
    return middle


class _Desk:
    """Hands out the seeds, for `Pool`."""

    def __init__(self, jobs: Sequence[dict[str, Any]], found: SeedRuns, say: Callable[[str], None]) -> None:
        self.waiting, self.found, self.say = list(jobs), found, say
        self.done = False

    def next_job(self) -> dict[str, Any] | None:
        self.done = not self.waiting
        return self.waiting.pop(0) if self.waiting else None

    def report(self, job: dict[str, Any], result: dict[str, Any]) -> str | None:
        return None

    def finish(self, job: dict[str, Any], end: dict[str, Any]) -> None:
        seed = job["settings"]["seed"]
        if "done" in end:
            self.found.results[seed] = result = end["done"]
            reward = result["episode_reward_mean"]
            text = "no episode has ended" if reward is None else f"reward {reward:.1f}"
            steps, seconds = result["timesteps_total"], result["time_total_s"]
            self.say(f"seed {seed}: {text} after {steps:,} steps, {seconds:.1f} s ({result['stop_reason']})")
        else:
            self.found.errors[seed] = end.get("error") or f"Its process ended: {end['died']}"
            self.say(f"seed {seed} failed: {self.found.errors[seed]}")


def run_seeds(
    algorithm: str,
    env: Any = None,
    *,
    seeds: int = 5,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    stop: Mapping[str, float] | None = None,
    preset: str | None = "auto",
    folder: str | Path = "runs",
    experiment: str | None = None,
    parallel: int | None = None,
    callbacks: Sequence[Any] = (),
    options: RunOptions | None = None,
    signals: tuple[signal.Signals, ...] = (),
    quiet: bool = False,
    **settings: Any,
) -> SeedRuns:
    """Runs the same configuration with several seeds, as many at a time as there are cores for.

    Args:
        algorithm, env, config, stop, preset, folder, settings: as for `poise.run`, with its options of what is kept
            (`checkpoint_freq`, `video`, ...) among the settings.
        seeds: how many.
        seed: the first; the others count on.
        experiment: the folder of the runs in `folder`; named after algorithm, environment and time unless given.
        parallel: runs at a time.
        callbacks: of every run; they are copied to the processes that run them.
        options: what each run keeps.
        signals: end all runs as Ctrl-C does, with a checkpoint each.
        quiet: prints nothing.

    Raises:
        ConfigError: a setting that is not allowed.
        RunError: the experiment has runs already.
    """
    count = coerce(PositiveInt, seeds, "seeds")
    first = coerce(NonNegativeInt, seed, "seed")
    size = coerce(PositiveInt | None, parallel, "parallel")
    types = field_types(RunOptions)
    kept = {key: coerce(types[key], settings.pop(key), key) for key in types if key in settings}
    options = dataclasses.replace(options or RunOptions(), **kept)
    given = {**(config or {}), **settings}
    resolved, _ = resolve(algorithm, env, dict(given), preset=preset)
    if resolved.env is None:
        raise ConfigError("There is no environment to train in: give one, for example --env CartPole-v1.")
    rules = dict(default_stop(resolved) if stop is None else stop)
    check_keys(rules, resolved)
    StopRule(rules, resolved)
    name, spec = algorithm_spec(algorithm)
    stamp = datetime.now(timezone.utc).astimezone().strftime("%Y%m%d-%H%M%S")
    label = env_name(resolved.env).replace("/", "-").replace(":", "-")
    path = Path(folder) / (experiment or f"{name}_{label}_{stamp}")
    if list(path.glob("*/config.json")):
        raise RunError(f"There are runs in {path} already: give another experiment.")
    named = {
        "env": resolved.env,
        "model.custom_model": resolved.model.custom_model,
        "model.custom_preprocessor": resolved.model.custom_preprocessor,
    }
    jobs = [
        {
            "folder": str(path / f"seed_{number}"),
            "algorithm": name,
            "settings": {**given, "env": resolved.env, "seed": number},
            "stop": rules,
            "preset": preset,
            "options": options,
            "callbacks": list(callbacks),
            "registered": registered(name, named),
        }
        for number in range(first, first + count)
    ]
    size = min(size or parallel_runs(spec.config.sampling_threads, resolved.num_workers), count)
    found = SeedRuns(path)

    def say(text: str) -> None:
        if not quiet:
            print(shown(text, lines=True), flush=True)

    say(f"{name} on {label}, seeds {first} to {first + count - 1}, {size} at a time, in {path}")
    with Pool(_Desk(jobs, found, say), size) as pool, stopping_on((signal.SIGINT, *signals), pool.stop):
        while not pool.wait(1.0):
            pass
    found.results = dict(sorted(found.results.items()))
    found.ended = pool.stopping
    return found


def summary(found: SeedRuns) -> str:
    """What came of the seeds, in a line or two."""
    lines = []
    for key in ("episode_reward_mean", "timesteps_total", "time_total_s"):
        if any(result.get(key) is not None for result in found.results.values()):
            of = found.aggregate(key)
            interval = f"95 % between {of['low']:,.6g} and {of['high']:,.6g}"
            lines.append(f"{key}: mean {of['mean']:,.6g}, interquartile mean {of['iqm']:,.6g} ({interval})")
    return "\n".join(lines)
