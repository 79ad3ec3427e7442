"""What is searched, and by which rules: the part of a study that does not change."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from poise.config.resolve import field_types
from poise.config.types import NonNegativeInt, Positive, PositiveInt, coerce
from poise.errors import ConfigError, RunError, writing
from poise.files import make_folder, read_json, write_whole
from poise.tracking.find import STUDIES
from poise.tuning.space import MAX_TRIALS, Choice, Number, Primitive, grid, parse, searches

FILE, SEEDS_FILE = STUDIES

DEFAULT_LIMIT = 500_000
"""Steps after which a trial ends whose stop rule says nothing about how long it may take."""

LIMITS = ("timesteps_total", "time_total_s", "training_iteration", "episodes_total")
"""Results that grow whatever is learnt: a stop rule on one is a limit, any other rule is a goal."""

HELD_OUT = 10_000
"""How far the seeds that confirm the winners are from those of the search."""


@dataclass
class Search:
    """A search, as `poise.tune.run` and `poise tune` describe it."""

    algorithm: str
    """The algorithm's name."""

    config: dict[str, Any]
    """Settings, with searches in the place of those that are to be found."""

    stop: dict[str, float]
    """When each run ends."""

    metric: str = "episode_reward_mean"
    """The result that trials are compared by, as it is when they end."""

    mode: Literal["max", "min"] = "max"
    """Whether more of it is better."""

    num_samples: PositiveInt = 1
    """Trials, or repetitions of the whole grid; with `pbt`, the population."""

    sampler: Literal["tpe", "random", "gp", "cmaes", "qmc"] = "tpe"
    """Who proposes settings; a grid is gone through in any case."""

    scheduler: Literal["none", "asha", "hyperband", "median", "pbt"] = "none"
    """Who ends trials early that fall behind, or (`pbt`) lets them go on from where better ones
    are."""

    generations: PositiveInt = 10
    """Equal parts of a trial's limit after each of which `pbt` compares it."""

    seeds: PositiveInt = 1
    """Runs of each trial, with seeds of their own; a trial that is in the worse half so far gets no
    further one."""

    winners: NonNegativeInt | None = None
    """Best trials that run again, with as many seeds that no trial has had.

    Unless given, three where there are several seeds, and none otherwise.
    """

    seed: NonNegativeInt = 0
    """Of the proposals, and the first of the runs' seeds."""

    time_budget_s: Positive | None = None
    """Seconds after which no run begins, and those that are underway end."""

    preset: str | None = "auto"
    """Of each run."""

    home: str = ""
    """`module:Class` of what makes the algorithm known, where it is not one of Poise's."""

    options: dict[str, Any] = field(default_factory=dict)
    """What each run keeps; see `RunOptions`."""

    cluster: dict[str, Any] = field(default_factory=dict)
    """Where trials run: `ray_address` (null is processes on this machine), with
    `num_cpus_per_worker` and `cluster_timeout_s` where these are set."""

    @property
    def goals(self) -> dict[str, float]:
        """The parts of the stop rule that are no limits."""
        return {key: value for key, value in self.stop.items() if key not in LIMITS}

    @property
    def repeated(self) -> bool:
        """Whether it searches nothing: one configuration with several seeds."""
        return [place for place, _ in searches(self.config)] == ["seed"]

    @property
    def confirmed(self) -> int:
        """How many winners run again."""
        return self.winners if self.winners is not None else 3 * (self.seeds > 1)

    def points(self) -> list[dict[str, Primitive]]:
        """The points of the grid.

        Raises:
            ConfigError: there are too many trials.
        """
        points = grid(self.config)
        if (total := self.num_samples * len(points)) > MAX_TRIALS:
            of = f"num_samples={self.num_samples:,}"
            of += f" of a grid of {len(points):,}" if len(points) > 1 else ""
            raise ConfigError(
                f"{of} is not allowed: {total:,} trials, and a search has at most {MAX_TRIALS:,}."
            )
        return points

    def limited(self) -> Search:
        """The same with a limit, where there is none."""
        if self.repeated or any(key in LIMITS for key in self.stop):
            return self
        limit = self.config.get("total_timesteps")
        limit = limit if isinstance(limit, int) else DEFAULT_LIMIT
        return dataclasses.replace(self, stop={**self.stop, "timesteps_total": limit})

    def percent(self, result: Mapping[str, Any]) -> int:
        """How much of its limit a run has used, rounded down."""
        shares = [result[key] / self.stop[key] for key in LIMITS if self.stop.get(key)]
        return min(int(100 * max(shares, default=0.0)), 100)

    def missed(self, result: Mapping[str, Any]) -> bool:
        """Whether a run has ended without reaching any of its goals."""
        reason = str(result["stop_reason"])
        return bool(self.goals) and not any(reason.startswith(f"{goal} ") for goal in self.goals)

    def value(self, result: Mapping[str, Any]) -> float:
        """What a run that has ended is compared by.

        Infinitely bad, if it missed the goal that others are timed to.
        """
        found = result.get(self.metric)
        if found is None or math.isnan(found) or (self.metric in LIMITS and self.missed(result)):
            return math.inf if self.mode == "min" else -math.inf
        return float(found)

    def so_far(self, result: Mapping[str, Any]) -> float:
        """What runs are compared by on their way.

        The metric; or the reward, where the metric only says how long they took.
        """
        value = result.get("episode_reward_mean" if self.metric in LIMITS else self.metric)
        number = math.nan if value is None else float(value)
        return -number if self.metric in LIMITS and self.mode == "min" else number

    def better(self, one: float, other: float) -> bool:
        """Whether one value is better than another."""
        return one > other if self.mode == "max" else one < other

    def write(self, folder: Path) -> None:
        """Writes itself into a study's folder.

        Of functions and objects only the names: such a study needs the script that began it, or
        the module that they are in, to go on.
        """
        from poise.training.names import portable

        with writing(folder):
            make_folder(folder)
        values = {**vars(self), "config": _written(portable(self.config))}
        text = json.dumps(values, indent=2, default=repr)
        write_whole(folder / (SEEDS_FILE if self.repeated else FILE), text + "\n")

    @classmethod
    def read(cls, folder: Path) -> Search:
        """The search of a study's folder.

        Raises:
            RunError: there is none.
        """
        file = next((folder / name for name in STUDIES if (folder / name).exists()), folder / FILE)
        try:
            saved = read_json(file)
            config = parse(coerce(dict[str, Any], saved.pop("config"), "config"))
            types = field_types(cls)
            values = {key: coerce(types[key], value, key) for key, value in saved.items()}
            return cls(config=config, **values)
        except OSError:
            raise RunError(f"There is no study at {folder}: it has no {FILE}.") from None
        except (ValueError, TypeError, KeyError):
            raise RunError(
                f"The study {folder} is damaged: its {file.name} cannot be read."
            ) from None


def unwritten(value: Any, place: str = "") -> list[str]:
    """The places of settings that a file cannot hold: functions and objects."""
    if isinstance(value, Mapping):
        inside = [(f"{place}.{key}" if place else key, item) for key, item in value.items()]
        return [found for name, item in inside for found in unwritten(item, name)]
    if isinstance(value, Choice):
        return unwritten(list(value.options), place)[:1]
    if isinstance(value, (list, tuple)):
        return [found for item in value for found in unwritten(item, place)][:1]
    return [] if isinstance(value, (Number, Primitive)) else [place]


def _written(value: Any) -> Any:
    """A configuration as JSON that `parse` reads."""
    if isinstance(value, Number):
        name = "log" * value.log + ("randint" if value.whole else "uniform")
        bounds = [value.low, value.high + value.whole]  # `randint` ends before its upper one
        if value.step:
            name, bounds = f"q{name}", [*bounds, value.step]
        return f"{name}({', '.join(map(repr, bounds))})"
    if isinstance(value, Choice):
        name = "grid_search" if value.grid else "choice"
        return {name: [_written(option) for option in value.options]}
    if isinstance(value, Mapping):
        return {key: _written(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_written(item) for item in value]
    return value
