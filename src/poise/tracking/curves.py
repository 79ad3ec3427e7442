"""From finished episodes to curves: what every picture of runs draws, on paper or in a terminal."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from poise.config.types import coerce
from poise.errors import ConfigError, PoiseError, nearest
from poise.tracking.folder import RunFolder

if TYPE_CHECKING:
    from poise.training.trainer import Trainer

X = Literal["steps", "episodes", "time"]
Band = Literal["minmax", "sem", "ci"]
BANDS = {
    "minmax": "lowest to highest seed",
    "sem": "standard error of the mean",
    "ci": "95 % interval of the mean",
}
"""What the band of several seeds is."""
STUDENT_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""The 97.5 % quantile of Student's t for 1, 2, ... degrees of freedom; drawing needs no SciPy."""
NAMES = {
    "steps": "environment steps",
    "episodes": "episodes",
    "time": "seconds",
    "return": "return of an episode",
    "length": "length of an episode",
    "selfplay/elo": "Elo rating",
}
"""What stands at an axis."""

ELO = "selfplay/elo"
"""Of self-play, what is drawn beside return and length."""

RESULT_KEYS = {"timesteps_total": "steps", "episodes_total": "episodes", "time_total_s": "time"}
OF_EPISODES = {"reward": "return", "episode_reward_mean": "return", "episode_len_mean": "length"}
"""Names that results have for what is at an axis; they may be used as well."""

POINTS = 400
"""Places on the horizontal axis at which seeds are compared."""
SETTINGS = 3
"""Settings that a legend names at most; runs that differ in more go by their own names."""


@dataclass
class History:
    """One run's finished episodes, oldest first, and what else a picture needs to know of it.

    Each episode is the run's steps and seconds when it ended, its reward and its length.
    """

    name: str
    algorithm: str
    settings: dict[str, Any]
    episodes: Sequence[tuple[int, float, float, int]]
    before: int = 0
    """Episodes that ended before the first that is remembered."""
    results: Callable[[], Sequence[dict[str, Any]]] = list
    """Reads its results, for pictures of anything else than episodes."""

    @classmethod
    def of_folder(cls, folder: RunFolder) -> History:
        saved = folder.config()
        return cls(
            folder.path.name,
            saved["algorithm"],
            saved["config"],
            folder.episodes(),
            results=folder.metrics,
        )

    @classmethod
    def of_trainer(cls, trainer: Trainer) -> History:
        episodes, results = list(trainer.metrics.finished), list(trainer.history)
        return cls(
            f"seed {trainer.config.seed}",
            trainer.name,
            trainer.config.to_dict(),
            episodes,
            before=trainer.metrics.episodes_total - len(episodes),
            results=lambda: results,
        )

    @property
    def env(self) -> str:
        return str(self.settings["env"])

    @property
    def window(self) -> int:
        """Episodes that a mean is taken over, the same as in results."""
        window = self.settings.get("metrics_smoothing_episodes")
        return window if isinstance(window, int) and window > 0 else 100


@dataclass
class Curve:
    """The mean of the latest episodes of one run, or of several that differ by their seed alone.

    Attributes:
        label: what it is of.
        x, y: the mean; of several runs, the mean of theirs, where all of them have one.
        low, high: the ends of the band of several runs.
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
    band: str = "minmax"
    of_episodes: bool = True
    """Whether it is of episodes, one by one and their means, or of a result of each iteration."""

    @property
    def explanation(self) -> str:
        """What its lines are."""
        if not self.of_episodes:
            return "of each iteration"
        return f"mean of the last {self.window or ''} episodes".replace("  ", " ")


def axes(x: str, y: str | Sequence[str] | None) -> tuple[str, list[str]]:
    """What the axes are called here: one horizontal, one or several vertical ones.

    Raises:
        ConfigError: the horizontal one is unknown.
    """
    given = ["return", "length"] if y is None else y
    names = [given] if isinstance(given, str) else coerce(list[str], given, "y")
    across = RESULT_KEYS.get(x, x) if isinstance(x, str) else x
    return str(coerce(X, across, "x")), [OF_EPISODES.get(name, name) for name in names]


def panels(
    histories: Sequence[History],
    x: str = "steps",
    y: str | Sequence[str] | None = None,
    band: str = "minmax",
) -> list[Panel]:
    """What is to be drawn of some runs: a panel for each vertical axis.

    Args:
        histories: of the runs.
        x: `steps`, `episodes` or `time`.
        y: `return`, `length`, or keys of the results (`learner/kl`); None for return and length,
            and the rating of self-play.
        band: of several seeds: from the lowest to the highest (`minmax`), the mean's standard error
            on both sides (`sem`), or its 95 % interval by Student's t (`ci`).

    Raises:
        ConfigError: an axis or a band is unknown.
        PoiseError: there is nothing yet in any run.
    """
    x, sides = axes(x, y)
    rated = [each for each in histories if each.settings.get("opponents")] if y is None else []
    sides += [ELO] if any(len(_of_results(each, x, ELO)[0]) for each in rated) else []
    band = coerce(Band, band, "band")
    about = {history.algorithm for history in histories}, {history.env for history in histories}
    title = " on ".join(min(names) for names in about if len(names) == 1)
    made = []
    for side in sides:
        of_episodes = side in ("return", "length")
        begun = [h for h in histories if len(h.episodes if of_episodes else _series(h, x, side)[0])]
        if not begun:
            raise _nothing(side, histories)
        windows = {history.window for history in begun}
        window = min(windows) if len(windows) == 1 and of_episodes else None
        curves, y_label = _curves(begun, x, side, band), NAMES.get(side, side)
        made.append(Panel(title, NAMES[x], y_label, window, curves, band, of_episodes))
    return made


def _nothing(side: str, histories: Sequence[History]) -> PoiseError:
    """Why no run has anything to draw at a vertical axis."""
    if side in ("return", "length"):
        return PoiseError("There is nothing to plot: no episode has ended yet.")
    known = dict.fromkeys(chain(*(result for each in histories for result in each.results())))
    if side in known:
        return PoiseError(f"There is nothing to plot: {side} has had no value yet.")
    hint = nearest(side, ["return", "length", *known])
    return ConfigError(
        f"y={side!r} is not allowed: "
        f"it must be 'return' or 'length', or a key of the results.{hint}"
    )


def _curves(histories: Sequence[History], x: str, y: str, band: str) -> list[Curve]:
    """One curve for each group of runs that differ by their seed alone."""
    groups = _groups(histories)
    curves = []
    for label, group in zip(_labels(groups), groups, strict=True):
        singles = [_series(history, x, y) for history in group]
        means = singles
        if y in ("return", "length"):
            means = [
                _last_of_each(at, trailing_mean(values, history.window))
                for (at, values), history in zip(singles, group, strict=True)
            ]
        start, end = max(at[0] for at, _ in means), min(at[-1] for at, _ in means)
        if len(group) == 1:
            alone = len(histories) == 1 and means is not singles
            curves.append(Curve(label, *means[0], single=singles[0] if alone else None))
        elif start < end:
            grid = np.linspace(start, end, POINTS)
            values = np.stack([np.interp(grid, *mean) for mean in means])
            curves.append(Curve(label, grid, values.mean(0), means, *_band(values, band)))
        else:  # they have not come to the same place yet
            for history, mean in zip(group, means, strict=True):
                curves.append(Curve(f"{label}: {history.name}", *mean))
    return curves


def _band(values: np.ndarray, band: str) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the upper end of a band around the mean of `values[runs, points]`."""
    if band == "minmax":
        return values.min(0), values.max(0)
    half = standard_error(values) * (student_t(len(values)) if band == "ci" else 1)
    return values.mean(0) - half, values.mean(0) + half


def standard_error(values: np.ndarray) -> Any:
    """The standard error of the mean over the first axis of `values[runs, ...]`."""
    return values.std(0, ddof=1) / np.sqrt(len(values))


def student_t(count: int) -> float:
    """Standard errors on each side of a mean of `count` values in its 95 % interval."""
    freedom = count - 1
    if freedom <= len(STUDENT_T):
        return STUDENT_T[freedom - 1]
    return 1.95996 + 2.3723 / freedom + 2.8225 / freedom**2


def _series(history: History, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """A run's points at two axes: of its episodes, or of its results."""
    if y not in ("return", "length"):
        return _of_results(history, x, y)
    steps, seconds, rewards, lengths = np.array(history.episodes, dtype=np.float64).T
    episodes = history.before + np.arange(1, len(steps) + 1)
    across = {"steps": steps, "episodes": episodes, "time": seconds}
    return across[x], rewards if y == "return" else lengths


def _of_results(history: History, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """A key of the results, where it is a finite number."""
    across = {"steps": "timesteps_total", "episodes": "episodes_total", "time": "time_total_s"}[x]
    pairs = [(result.get(across), result.get(y)) for result in history.results()]
    known = [
        (at, value)
        for at, value in pairs
        if at is not None and isinstance(value, (int, float)) and np.isfinite(value)
    ]
    points = np.array(known, dtype=np.float64).reshape(-1, 2)  # also where there are none
    return points[:, 0], points[:, 1]


def trailing_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of each value and those before it, `window` at most."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    means: np.ndarray = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def _last_of_each(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points of a curve with one for each x: of episodes that ended at one step, the last."""
    last = np.append(x[1:] != x[:-1], True)
    return x[last], y[last]


def _groups(histories: Sequence[History]) -> list[list[History]]:
    """Runs that differ by their seed alone belong together."""
    groups: dict[str, list[History]] = defaultdict(list)
    for history in histories:
        without_seed = [history.algorithm, {**history.settings, "seed": None}]
        groups[json.dumps(without_seed, sort_keys=True)].append(history)
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
        rivals = [
            other
            for other in firsts
            if (other.algorithm, other.env) == (first.algorithm, first.env)
        ]
        if len(rivals) > 1:
            label += f", {_difference(first, rivals)}"
        seeds = len({str(history.settings.get("seed")) for history in group})
        count = f"{seeds} seed{'s' * (seeds > 1)}" if seeds == len(group) else f"{len(group)} runs"
        labels.append(f"{label}, {count}" if any(len(each) > 1 for each in groups) else label)
    return labels


def _difference(history: History, rivals: list[History]) -> str:
    """The settings in which a run differs from others, or its name if they are many."""
    flat = [flatten({**rival.settings, "seed": None}) for rival in rivals]
    keys = [
        key
        for key in dict.fromkeys(chain(*flat))
        if any(other.get(key) != flat[0].get(key) for other in flat)
    ]
    if not 0 < len(keys) <= SETTINGS:
        return history.name
    own = flatten(history.settings)
    return ", ".join(f"{key}={own.get(key)}" for key in keys)


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
