"""What a logger is: it sends a run elsewhere, beside the folder that keeps it.

class Lines(poise.Logger):
    def start(self, run):
        self.file = (run.folder / "lines.txt").open("a")

    def log(self, result, steps):
        print(steps, result["episode_reward_mean"], file=self.file)

    def finish(self, state):
        self.file.close()

poise.run("PPO", "CartPole-v1", loggers=[Lines(), "wandb"])
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any


@dataclass
class LoggedRun:
    """A run, as its loggers come to know it.

    Attributes:
        folder: of the run, which has everything.
        group: the experiment, the search or the set of seeds that it belongs to.
        name: of the run in that.
        config: algorithm, preset, stop rules, and the resolved settings; plain values, as in JSON.
        steps: environment steps that were done before, where it goes on; 0 where it begins.
        id: of the run at the logger's service. `start` sets it; the run folder keeps it, and it is
            there again when the run goes on.
        place: where the run is found there, which the user is told. `start` may set it.
    """

    folder: Path
    group: str
    name: str
    config: dict[str, Any]
    steps: int = 0
    id: str | None = None
    place: str | None = None


class Logger:
    """Derive from this and override what you need; every method does nothing by default.

    A logger lives in a thread of its own, which alone calls it, from `start` to `finish`: it may
    take its time. Its first exception is said, and it is called no more; training goes on.
    """

    waits = False
    """Whether training waits for a logger that is far behind, instead of leaving results out.

    It should not where another machine is asked.
    """

    @property
    def name(self) -> str:
        """What sentences call it, and the run folder keeps its `id` by."""
        return type(self).__name__

    def start(self, run: LoggedRun) -> None:
        """A run begins, or goes on."""

    def log(self, result: dict[str, Any], steps: int) -> None:
        """The result of an iteration, after so many environment steps; some numbers may be NaN."""

    def film(self, path: Path, steps: int) -> None:
        """A film of an episode, an MP4 file."""

    def checkpoint(self, path: Path, names: list[str]) -> None:
        """With `log_checkpoints`, at the end: a checkpoint folder; it is the `latest` or `best`."""

    def finish(self, state: str) -> None:
        """The run ends: `finished`, `stopped`, `preempted` or `failed`."""


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a result."""
    found = {key: float(value) for key, value in result.items() if isinstance(value, Real)}
    return {key: value for key, value in found.items() if math.isfinite(value)}
