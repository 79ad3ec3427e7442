"""The course of a run, as its folder tells it: what the doctor looks at."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces

from poise.sampling.episodes import Finished
from poise.spaces.layout import Layout

PARTS = 10
"""Equal parts that these steps are cut into."""
FEWEST = 10
"""Episodes that a part must have to count."""
ERRORS = 3.0
"""Standard errors by which a part must be better than the first to count as better."""
RECENT = 5
"""The latest share of a run is one in so many."""
FEWEST_STEPS, FEWEST_EPISODES = 5_000, 40
"""A run with less behind it has not had the time to learn."""


@dataclass
class Seen:
    """What was seen while the policy played: see `poise.watch.doctor.play`.

    Attributes:
        observations: numbers of the observation by leaf, `[steps, numbers]`, without pictures.
        actions: bounded numbers of the action, `[steps, numbers]`, from -1 to 1 at the bounds.
        rewards: of each step.
        lengths: of the episodes that ended.
        truncated: how many of them were cut.
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    lengths: list[int]
    truncated: int


@dataclass
class Course:
    """A run's settings, results and episodes.

    Attributes:
        algorithm: its name.
        config: resolved settings.
        results: one for each iteration, oldest first.
        episodes: that have ended, oldest first.
        layouts: of observations and actions; None where no checkpoint says them.
        seen: what was seen while its policy played; None if it did not.
        workers: whether a processor is free for worker processes.
    """

    algorithm: str
    config: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]
    episodes: Sequence[Finished]
    layouts: tuple[Layout, Layout] | None = None
    seen: Seen | None = None
    workers: bool = False

    @property
    def steps(self) -> int:
        """Environment steps of the run."""
        return int(self.last("timesteps_total"))

    @property
    def told(self) -> bool:
        """Whether there is enough of it to tell anything."""
        return self.steps >= FEWEST_STEPS and len(self.episodes) >= FEWEST_EPISODES

    @cached_property
    def learns(self) -> bool:
        """Whether its return has risen by more than chance, need not, or it is too early."""
        return not self.told or self.contest or has_risen(self.episodes)

    @cached_property
    def contest(self) -> bool:
        """Whether agents play against each other, so that the sum of their returns need not rise:
        they play earlier selves, or share out what is always the same."""
        shares = ({v for k, v in r.items() if k.startswith("info/reward/")} for r in self.results)
        alike = len({round(each.reward, 5) for each in self.episodes}) == 1
        return bool(self.config.get("opponents")) or (alike and any(len(s) > 1 for s in shares))

    def of(self, key: str) -> list[float]:
        """All finite values of a result."""
        found = (each.get(key) for each in self.results)
        return [float(v) for v in found if isinstance(v, (int, float)) and math.isfinite(v)]

    def late(self, key: str) -> float | None:
        """The median of a result over the latest part of the run; None if it has none."""
        values = self.of(key)
        return statistics.median(values[-max(1, len(values) // RECENT) :]) if values else None

    def last(self, key: str) -> float:
        """The latest value of a result; 0 if it has none."""
        return (self.of(key) or [0.0])[-1]

    def setting(self, name: str) -> float | None:
        """A setting's number; where it is a schedule, the one it begins with."""
        value = self.config.get(name)
        while isinstance(value, list) and value:
            value = value[-1] if not isinstance(value[0], list) else value[0]
        return float(value) if isinstance(value, (int, float)) else None

    def has(self, name: str) -> bool:
        """Whether the algorithm has a setting of that name."""
        return name in self.config

    @property
    def returns(self) -> np.ndarray:
        """The returns of its latest episodes, at most 100 and at least a fifth of all."""
        return np.array([episode.reward for episode in self._latest])

    @property
    def length(self) -> float:
        """The mean length of these."""
        return float(np.mean([episode.length for episode in self._latest] or [0]))

    @property
    def _latest(self) -> Sequence[Finished]:
        return self.episodes[-max(100, len(self.episodes) // RECENT) :]

    @property
    def numbers(self) -> int:
        """How many numbers an action has."""
        leaves = self.layouts[1].leaves if self.layouts else []
        return sum(math.prod(leaf.shape) for leaf in leaves)

    @property
    def choices(self) -> float | None:
        """The entropy of choosing at random, in nats; None where actions have numbers."""
        kinds = [_choices(leaf.space) for leaf in self.layouts[1].leaves] if self.layouts else []
        return sum(kinds) if kinds and all(kinds) else None  # type: ignore[arg-type]


def has_risen(episodes: Sequence[Finished]) -> bool:
    """Whether the returns in some tenth of the steps are better than in the first one.

    Better by more than chance makes them, `ERRORS` standard errors. True as well where too few
    episodes have ended to tell.
    """
    length = episodes[-1].steps / PARTS if episodes else 1
    parts: list[list[float]] = [[] for _ in range(PARTS)]
    for episode in episodes:
        parts[min(int(episode.steps / length), PARTS - 1)].append(episode.reward)
    known = [part for part in parts if len(part) >= FEWEST]
    if len(known) < 2:
        return True
    first, *later = known
    start = statistics.fmean(first)
    return any(statistics.fmean(part) - start > ERRORS * _error(first, part) for part in later)


def _error(first: Sequence[float], second: Sequence[float]) -> float:
    """The standard error of a difference of two means."""
    return math.sqrt(sum(statistics.variance(part) / len(part) for part in (first, second)))


def _choices(space: spaces.Space) -> float | None:
    if isinstance(space, spaces.Discrete):
        return math.log(int(space.n)) or None
    if isinstance(space, spaces.MultiDiscrete):
        return float(np.log(space.nvec).sum())
    return space.n * math.log(2) if isinstance(space, spaces.MultiBinary) else None  # type: ignore[operator]
