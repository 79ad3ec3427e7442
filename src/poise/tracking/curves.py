"""From finished episodes to curves: what every picture of runs draws, on paper or in a terminal."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from poise.config.types import coerce
from poise.errors import PoiseError
from poise.tracking.folder import RunFolder

if TYPE_CHECKING:
    from poise.training.trainer import Trainer

X = Literal["steps", "episodes", "time"]
Y = Literal["return", "length"]
NAMES = {
    "steps": "environment steps",
    "episodes": "episodes",
    "time": "seconds",
    "return": "return of an episode",
    "length": "length of an episode",
}
"""What stands at an axis."""

RESULT_KEYS = {
    "timesteps_total": "steps",
    "episodes_total": "episodes",
    "time_total_s": "time",
    "reward": "return",
    "episode_reward_mean": "return",
    "episode_len_mean": "length",
}
"""Names that results have for what is at an axis: who uses them is understood."""

POINTS = 400
"""Of the horizontal axis, at which seeds are compared."""
SETTINGS = 3
"""Settings that a legend names; runs that differ in more go by their own names."""


@dataclass
class History:
    """One run's finished episodes, oldest first, and what else a picture needs to know of it."""

    name: str
    algorithm: str
    settings: dict[str, Any]
    episodes: Sequence[tuple[int, float, float, int]]
    before: int = 0
    """Episodes that ended before the first that is remembered."""

    @classmethod
    def of_folder(cls, folder: RunFolder) -> History:
        saved = folder.config()
        return cls(folder.path.name, saved["algorithm"], saved["config"], folder.episodes())

    @classmethod
    def of_trainer(cls, trainer: Trainer) -> History:
        metrics, settings = trainer.metrics, trainer.config.to_dict()
        before = metrics.episodes_total - len(metrics.finished)
        return cls(f"seed {trainer.config.seed}", trainer.name, settings, list(metrics.finished), before)

    @property
    def env(self) -> str:
        return str(self.settings["env"])

    @property
    def window(self) -> int:
        """Episodes that a mean is taken over, the same as in results."""
        return int(self.settings.get("metrics_smoothing_episodes", 100))


@dataclass
class Curve:
    """The mean of the latest episodes of one run, or of several that differ by their seed alone.

    Attributes:
        label: what it is of.
        x, y: the mean; of several runs, the mean of theirs, where all of them have one.
        low, high: the lowest and highest of several runs.
        runs: each run's own mean.
        single: each episode of the only run.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    runs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    single: tuple[np.ndarray, np.ndarray] | None = None


@dataclass
class Panel:
    """One picture: curves over the same axes."""

    title: str
    x_label: str
    y_label: str
    window: int | None
    """Episodes that means are taken over; None where runs differ in it."""
    curves: list[Curve]


def axes(x: str, y: str | None) -> tuple[str, list[str]]:
    """What the axes are called here: one horizontal, one or two vertical ones.

    Raises:
        ConfigError: one is unknown.
    """
    sides: list[str | None] = ["return", "length"] if y is None else [y]
    return _known(X, x, "x"), [_known(Y, side, "y") for side in sides]


def _known(allowed: Any, name: Any, key: str) -> str:
    return str(coerce(allowed, RESULT_KEYS.get(name, name) if isinstance(name, str) else name, key))


def panels(histories: Sequence[History], x: str = "steps", y: str | None = None) -> list[Panel]:
    """What is to be drawn of some runs: one panel, or one each for return and length.

    Args:
        histories: of the runs.
        x: `steps`, `episodes` or `time`.
        y: `return`, `length`, or None for both.

    Raises:
        ConfigError: an axis is unknown.
        PoiseError: no episode has ended yet in any run.
    """
    x, sides = axes(x, y)
    begun = [history for history in histories if history.episodes]
    if not begun:
        raise PoiseError("There is nothing to plot: no episode has ended yet.")
    windows = {history.window for history in begun}
    about = {history.algorithm for history in begun}, {history.env for history in begun}
    title = " on ".join(min(names) for names in about if len(names) == 1)
    window = min(windows) if len(windows) == 1 else None
    return [Panel(title, NAMES[x], NAMES[side], window, _curves(begun, x, side)) for side in sides]


def _curves(histories: Sequence[History], x: str, y: str) -> list[Curve]:
    groups = _groups(histories)
    curves = []
    for label, group in zip(_labels(groups), groups, strict=True):
        singles = [_series(history, x, y) for history in group]
        means = [_last_of_each(at, trailing_mean(v, h.window)) for (at, v), h in zip(singles, group, strict=True)]
        start, end = max(at[0] for at, _ in means), min(at[-1] for at, _ in means)
        if len(group) == 1:
            curves.append(Curve(label, *means[0], single=singles[0] if len(histories) == 1 else None))
        elif start < end:
            grid = np.linspace(start, end, POINTS)
            values = np.stack([np.interp(grid, *mean) for mean in means])
            curves.append(Curve(label, grid, values.mean(0), means, values.min(0), values.max(0)))
        else:  # they have not come to the same place yet
            curves += [Curve(f"{label}: {h.name}", *mean) for h, mean in zip(group, means, strict=True)]
    return curves


def _series(history: History, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    steps, seconds, rewards, lengths = np.array(history.episodes, dtype=np.float64).T
    episodes = history.before + np.arange(1, len(steps) + 1)
    return {"steps": steps, "episodes": episodes, "time": seconds}[x], {"return": rewards, "length": lengths}[y]


def trailing_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of each value and those before it, `window` at most."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    means: np.ndarray = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def _last_of_each(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Several episodes may end at the same step: the curve goes through the mean after the last of them."""
    last = np.append(x[1:] != x[:-1], True)
    return x[last], y[last]


def _groups(histories: Sequence[History]) -> list[list[History]]:
    """Runs that differ by their seed alone belong together."""
    groups: dict[str, list[History]] = defaultdict(list)
    for history in histories:
        groups[json.dumps([history.algorithm, {**history.settings, "seed": None}], sort_keys=True)].append(history)
    return list(groups.values())


def _labels(groups: list[list[History]]) -> list[str]:
    """What tells the groups apart, in as few words as will do, and how many seeds each has."""
    firsts = [group[0] for group in groups]
    envs, algorithms = {first.env for first in firsts}, {first.algorithm for first in firsts}
    labels = []
    for first, group in zip(firsts, groups, strict=True):
        label = first.algorithm if len(envs) == 1 else first.env
        if len(envs) > 1 and len(algorithms) > 1:
            label = f"{first.algorithm} on {first.env}"
        rivals = [other for other in firsts if (other.algorithm, other.env) == (first.algorithm, first.env)]
        if len(rivals) > 1:
            label += f", {_difference(first, rivals)}"
        seeds = len({history.settings.get("seed") for history in group})
        count = f"{seeds} seed{'s' * (seeds > 1)}" if seeds == len(group) else f"{len(group)} runs"
        labels.append(f"{label}, {count}" if any(len(each) > 1 for each in groups) else label)
    return labels


def _difference(history: History, rivals: list[History]) -> str:
    """The settings in which a run differs from others, or its name if they are many."""
    flat = [_flatten({**rival.settings, "seed": None}) for rival in rivals]
    keys = [key for key in dict.fromkeys(chain(*flat)) if any(each.get(key) != flat[0].get(key) for each in flat)]
    own = _flatten(history.settings)
    named = ", ".join(f"{key}={own.get(key)}" for key in keys)
    return named if 0 < len(keys) <= SETTINGS else history.name


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
