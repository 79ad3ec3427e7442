"""One configuration over several seeds: what came of it, and how sure that is."""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from poise.config.algorithms import algorithm_spec
from poise.config.base import env_label, env_name
from poise.config.registry import home_of
from poise.config.resolve import canonical, field_types, resolve
from poise.config.run import RunOptions
from poise.config.types import NonNegativeInt, PositiveInt, a_path, coerce
from poise.errors import ConfigError, RunError
from poise.files import folder_name, time_stamp
from poise.tracking.curves import History, panels, standard_error, student_t
from poise.tracking.find import find_study
from poise.tracking.folder import RunFolder
from poise.tracking.plots import episode_figure
from poise.training.stopping import default_stop
from poise.tuning.run import begin, load
from poise.tuning.space import MAX_TRIALS, grid_search
from poise.tuning.study import Seeds, Study

ENOUGH = 3
"""Seeds from which on there is an interval: that of two is too wide to say anything."""


class SeedRuns:
    """Runs that differ by their seed alone.

    Attributes:
        study: whose trials they are.
        path: the experiment's folder, with a run folder for each seed.
        results: the last result of each run that ended well, by seed.
        errors: one sentence for each that failed, by seed.
        ended: the reason why not all have run to their end, if so.
    """

    def __init__(self, study: Study, ended: str | None = None) -> None:
        self.study, self.path, self.ended = study, study.folder, ended
        self.results: dict[int, dict[str, Any]] = {}
        self.errors: dict[int, str] = {}
        for trial in study.trials:
            seed = int(study.label(trial))
            if trial.state == "finished":
                self.results[seed] = trial.results[-1]
            elif trial.state == "failed":
                self.errors[seed] = trial.error

    def __repr__(self) -> str:
        search, done = self.study.search, f"{len(self.results)} of {self.study.total} seeds"
        return f"<{search.algorithm} on {env_name(search.config['env'])}: {done} in {self.path}>"

    @property
    def runs(self) -> dict[int, Path]:
        """The run folders, by seed."""
        return {seed: self.path / f"seed_{seed}" for seed in self.results}

    def values(self, key: str = "episode_reward_mean") -> dict[int, float]:
        """The last number that each run has for a result, by seed.

        It need not be of the last iteration: there may have been no evaluation in that.

        Raises:
            RunError: no run has a number for it.
        """
        found = {}
        for seed, result in self.results.items():
            rows = [result]
            if result.get(key) is None:
                rows = RunFolder(self.runs[seed]).metrics()[::-1]
            value = next((row[key] for row in rows if not math.isnan(row.get(key, math.nan))), None)
            if value is not None:
                found[seed] = float(value)
        if not found:
            raise RunError(f"No run in {self.path} has ended with a {key}.")
        return found

    def best_run(self, key: str = "episode_reward_mean", mode: str = "max") -> Path:
        """The folder of the run with the best number for a result.

        Args:
            key: of the result.
            mode: the highest is the best (`"max"`), or the lowest (`"min"`).

        Raises:
            RunError: no run has a number for it.
        """
        values = self.values(key)
        return self.runs[(min if mode == "min" else max)(values, key=values.__getitem__)]

    def aggregate(self, key: str = "episode_reward_mean") -> dict[str, float]:
        """Statistics of a result over the seeds.

        The interval is Student's: it holds where the results of seeds are distributed about
        normally. Of fewer than three seeds there is none, and its bounds are NaN.

        Args:
            key: of the result.

        Returns:
            `mean`; `low` and `high`, the bounds of the mean's 95 % confidence interval; `iqm`, the
            mean of the middle half of the seeds (of fewer than four, of all); and how many `seeds`
            that is.

        Raises:
            RunError: no run has a number for it.
        """
        values = np.array(list(self.values(key).values()))
        count, mean, half = len(values), float(values.mean()), math.nan
        if count >= ENOUGH:
            half = student_t(count) * standard_error(values)
        middle = np.sort(values)[count // 4 : count - count // 4]
        return {
            "mean": mean,
            "low": mean - half,
            "high": mean + half,
            "iqm": float(middle.mean()),
            "seeds": count,
        }

    def plot(self, x: str = "steps", y: str | None = None) -> Any:
        """Return and length of episodes as a matplotlib figure: the mean over seeds and a band."""
        histories = [History.of_folder(RunFolder(path)) for path in self.runs.values()]
        return episode_figure(panels(histories, x, y))


def load_seeds(path: str | Path) -> SeedRuns:
    """What `poise.run_seeds` or `--seeds` has found so far, also while the runs go on.

    Args:
        path: the experiment's folder, or its name in `runs`.

    Raises:
        RunError: there is none.
    """
    study = load(find_study(path) or path).study
    if not isinstance(study, Seeds):
        raise RunError(
            f"{path} is a search, not several seeds of one configuration: "
            "read it by poise.tune.load."
        )
    return SeedRuns(study)


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
    resume: bool = False,
    signals: tuple[signal.Signals, ...] = (),
    quiet: bool = False,
    **settings: Any,
) -> SeedRuns:
    """Runs the same configuration with several seeds, as many at a time as there are cores for.

    Args:
        algorithm, env, config, stop, preset, folder, settings: as for `poise.run`, with its options
            of what is kept (`checkpoint_freq`, `video`, ...) among the settings.
        seeds: how many.
        seed: the first; the others count on.
        experiment: the folder of the runs in `folder`; named after algorithm, environment and time
            unless given.
        parallel: runs at a time.
        callbacks: of every run; they are copied to the processes that run them.
        options: what each run keeps.
        resume: goes on with the experiment that is there.
        signals: end all runs as Ctrl-C does, with a checkpoint each.
        quiet: prints nothing.

    Raises:
        ConfigError: a setting that is not allowed.
        RunError: the experiment has runs already, or all runs have failed.
    """
    count, first = coerce(PositiveInt, seeds, "seeds"), coerce(NonNegativeInt, seed, "seed")
    kept = {key: settings.pop(key) for key in field_types(RunOptions) if key in settings}
    given = {**(config or {}), **settings}
    resolved, _ = resolve(algorithm, env, dict(given), preset=preset)
    if resolved.env is None:
        raise ConfigError(
            "There is no environment to train in: give one, for example --env CartPole-v1."
        )
    name, spec = algorithm_spec(algorithm)
    own = f"{name}_{env_label(resolved.env)}_{time_stamp()}"
    path = a_path(folder, "folder") / folder_name("experiment", experiment or own)
    numbers = grid_search(range(first, first + min(count, MAX_TRIALS + 1)))
    search = {
        "algorithm": name,
        "config": {**canonical(spec.config, {**given, "env": resolved.env}), "seed": numbers},
        "stop": dict(default_stop(resolved) if stop is None else stop),
        "preset": preset,
        "home": home_of(name),
        "options": {**vars(options or RunOptions()), **kept},
    }
    analysis = begin(search, path, parallel, callbacks, signals, resume=resume, quiet=quiet)
    return SeedRuns(analysis.study, analysis.ended)


def summary(found: SeedRuns) -> str:
    """What came of the seeds, in a few lines."""
    lines = []
    for key in ("episode_reward_mean", "timesteps_total", "time_total_s"):
        with suppress(RunError):  # no episode has ended
            of = found.aggregate(key)
            interval = f"95 % interval {of['low']:,.6g} to {of['high']:,.6g}"
            if math.isnan(of["low"]):
                interval = f"no interval of fewer than {ENOUGH} seeds"
            iqm = f"; mean of the middle half {of['iqm']:,.6g}" if of["seeds"] >= 4 else ""
            lines.append(f"{key}: mean of {of['seeds']} seeds {of['mean']:,.6g} ({interval}){iqm}")
    return "\n".join(lines)
