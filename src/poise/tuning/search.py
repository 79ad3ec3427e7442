"""What is searched, and by which rules: the part of a study that does not change."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from poise.config.types import NonNegativeInt, Positive, PositiveInt
from poise.errors import RunError, writing
from poise.tuning.space import Choice, Computed, Number, parse, searches

FILE = "study.json"

DEFAULT_LIMIT = 500_000
"""Steps after which a trial ends whose stop rule says nothing about how long it may take."""

LIMITS = ("timesteps_total", "time_total_s", "training_iteration", "episodes_total")
"""Results that grow whatever is learnt: a stop rule on one of them is a limit, on anything else a goal."""


@dataclass
class Search:
    """A search, as `poise.tune.run` and `poise tune` describe it."""

    algorithm: str
    """The algorithm's name."""

    config: dict[str, Any]
    """Settings, with searches in the place of those that are to be found."""

    stop: Mapping[str, float]
    """When each trial ends."""

    metric: str = "episode_reward_mean"
    """The result that trials are compared by, as it is when they end."""

    mode: Literal["max", "min"] = "max"
    """Whether more of it is better."""

    num_samples: PositiveInt = 1
    """Trials, or repetitions of the whole grid."""

    sampler: Literal["tpe", "random", "gp", "cmaes", "qmc"] = "tpe"
    """Who proposes settings; a grid is gone through in any case."""

    pruner: Literal["none", "asha", "hyperband", "median"] = "none"
    """Who ends trials early that fall behind."""

    seed: NonNegativeInt = 0
    """Of the proposals, and of the first trial; the others count on from it, unless the configuration has a seed."""

    time_budget_s: Positive | None = None
    """Seconds after which no trial begins, and those that are underway end."""

    preset: str | None = "auto"
    """Of each trial, as for a run."""

    options: dict[str, Any] = field(default_factory=dict)
    """What each trial's run keeps; see `RunOptions`."""

    @property
    def goals(self) -> dict[str, float]:
        """The parts of the stop rule that are no limits."""
        return {key: value for key, value in self.stop.items() if key not in LIMITS}

    def limited(self) -> Search:
        """The same with a limit, where there is none."""
        if any(key in LIMITS for key in self.stop):
            return self
        return dataclasses.replace(self, stop={**self.stop, "timesteps_total": DEFAULT_LIMIT})

    def percent(self, result: Mapping[str, Any]) -> int:
        """How much of its limit a trial has used, rounded down."""
        shares = [result[key] / self.stop[key] for key in LIMITS if self.stop.get(key)]
        return min(int(100 * max(shares, default=0.0)), 100)

    def intermediate(self, result: Mapping[str, Any]) -> float:
        """What unfinished trials are compared by: the metric, or the reward where that says only how long they took."""
        value = result.get("episode_reward_mean" if self.metric in LIMITS else self.metric)
        number = math.nan if value is None else float(value)
        return -number if self.metric in LIMITS and self.mode == "min" else number

    def write(self, folder: Path) -> None:
        """Writes what it is into a study's folder. Functions and objects leave their names: to go on with such a
        study takes the script that began it."""
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps({**vars(self), "config": _written(self.config)}, indent=2, default=repr)
            (folder / FILE).write_text(text + "\n")

    @classmethod
    def read(cls, folder: Path) -> Search:
        """The search of a study's folder.

        Raises:
            RunError: there is none, or it was begun by a script and cannot go on without it.
        """
        try:
            saved = json.loads((folder / FILE).read_text())
        except FileNotFoundError:
            raise RunError(f"There is no study at {folder}: it has no {FILE}.") from None
        except ValueError:
            raise RunError(f"The study {folder} is damaged: its {FILE} cannot be read.") from None
        return cls(**{**saved, "config": parse(saved["config"])})


def _written(value: Any) -> Any:
    """A configuration as JSON that `parse` reads."""
    if isinstance(value, Number):
        name = ("lograndint" if value.log else "randint") if value.whole else "loguniform" if value.log else "uniform"
        bounds = [value.low, value.high + value.whole] + ([value.step] if value.step else [])
        return f"{'q' if value.step else ''}{name}({', '.join(map(repr, bounds))})"
    if isinstance(value, Choice):
        return {"grid_search" if value.grid else "choice": [_written(option) for option in value.options]}
    if isinstance(value, Mapping):
        return {key: _written(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_written(item) for item in value]
    return value


def unwritten(config: Any) -> list[str]:
    """Places in a configuration that a file cannot hold."""
    computed = [path for path, found in searches(config) if isinstance(found, Computed)]
    env = config.get("env") if isinstance(config, Mapping) else None
    return [*computed, *(["env"] if env is not None and not isinstance(env, str) else [])]
