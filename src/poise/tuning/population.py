"""Population-based training (Jaderberg et al. 2017).

All members learn side by side, and from time to time those that are worst go on from where one of
the best is (exploit), with its settings changed a little (explore). The paper is "Population Based
Training of Neural Networks".
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from poise.config.resolve import resolve
from poise.errors import ConfigError, writing
from poise.tracking.folder import RunFolder
from poise.training.checkpoint import checkpoints, newest
from poise.tuning.search import Search
from poise.tuning.space import Choice, Fixed, Number, Primitive, sample, searches
from poise.tuning.study import Study, Trial

QUARTER = 0.25
"""The worst quarter goes on from members of the best quarter."""
RESAMPLED = 0.25
"""The chance that a setting is drawn anew instead of being changed a little."""
FACTORS = (0.8, 1.25)
"""By one of these a setting is changed."""
FIXED = (
    "env", "wrappers", "model", "num_", "rollout_fragment_length", "buffer_size", "seed",
    "normalize_",
)  # fmt: skip
"""Beginnings of settings that cannot change while a policy learns."""


class Population(Study):
    """A study whose trials are the members of a population.

    Each member finishes after `generations` equal parts of its limit. Members wait for each other
    after each part, so that they are compared after equally many steps.

    Raises:
        ConfigError: a setting is searched that cannot change while a policy learns, or the limit is
            not one of steps.
    """

    def __init__(self, search: Search, folder: Path, callbacks: Any = ()) -> None:
        other_limits = {"time_total_s", "training_iteration", "episodes_total"} & search.stop.keys()
        if other_limits or search.seeds > 1:
            raise ConfigError("pbt needs a limit of timesteps_total alone, and one seed a trial.")
        for place, found in searches(search.config):
            if isinstance(found, Choice) and any(any(searches(option)) for option in found.options):
                raise ConfigError(
                    f"pbt takes no searches within the options of another, as {place} has."
                )
            if place.startswith(FIXED):
                raise ConfigError(
                    f"pbt changes settings while policies learn, which {place} cannot: "
                    "leave it out."
                )
        super().__init__(search, folder, callbacks)
        moves = sum(len(trial.lineage) for trial in self.trials)  # where a search is taken up again
        self._random = np.random.default_rng([search.seed, moves])

    def _next(self) -> tuple[Trial, str, int] | None:
        """A member that has not done the part that the population is at."""
        alive = [trial for trial in self.trials if trial.state == "running"]
        part = 0
        if len(self.trials) == self.total:
            part = min((len(trial.results) for trial in alive), default=0)
        for trial in alive:
            if len(trial.results) == part and not self._busy(trial):
                return trial, "seed_0", self.search.seed + trial.number
        return None

    def _job(self, trial: Trial, name: str, seed: int) -> dict[str, Any]:
        part = len(trial.results) + 1
        limit = self.search.stop["timesteps_total"] * part / self.search.generations
        job = super()._job(trial, name, seed)
        return {**job, "stop": {**self.search.stop, "timesteps_total": math.ceil(limit)}}

    def _ended(self, trial: Trial) -> None:
        """A member has done a part; once all have, the worst go on from where the best are."""
        part = len(trial.results)
        reached = bool(self.search.goals) and not self.search.missed(trial.results[-1])
        if reached or self.late or part >= self.search.generations:
            trial.results = trial.results[-1:]  # a finished trial's value is of its last result
            trial.state = "finished"
        alive = [member for member in self.trials if member.state == "running"]
        if len(self.trials) < self.total or any(len(member.results) < part for member in alive):
            return
        order = sorted(alive, key=self._score)
        share = math.ceil(len(order) * QUARTER)
        if len(order) >= 2 * share:
            for member in order[:share]:
                self._follow(member, order[-1 - int(self._random.integers(share))])

    def _score(self, trial: Trial) -> float:
        """Higher is better."""
        value = self.search.so_far(trial.results[-1])
        return -math.inf if math.isnan(value) else value if self.search.mode == "max" else -value

    def _follow(self, trial: Trial, leader: Trial) -> None:
        """Lets `trial` go on from where `leader` is, with its settings changed a little."""
        source, _ = newest(RunFolder(leader.path).checkpoints)
        if source is None:
            return
        params = self._explored(leader.params)
        try:
            settings = sample(self.search.config, Fixed(params))
            seeded = {"seed": self.search.seed + trial.number, **settings}
            config, preset = resolve(self.search.algorithm, None, seeded, preset=self.search.preset)
        except ConfigError:
            return  # the changed settings contradict each other: it goes on as it is
        folder = RunFolder(trial.path)
        with writing(folder.path):
            incoming = folder.checkpoints / f".{source.name}.incoming"
            shutil.rmtree(incoming, ignore_errors=True)
            try:
                shutil.copytree(source, incoming)
            except (FileNotFoundError, shutil.Error):
                return  # the leader has gone on meanwhile, and kept newer ones
            for old in checkpoints(folder.checkpoints):
                shutil.rmtree(old)
            incoming.rename(folder.checkpoints / source.name)
        saved = folder.config()
        folder.write_config({**saved, "preset": preset, "config": config.to_dict()})
        trial.params, trial.settings = params, settings
        move = {"part": len(trial.results), "from": leader.number, "params": dict(params)}
        trial.lineage.append(move)
        trial.write()

    def _explored(self, params: dict[str, Primitive]) -> dict[str, Primitive]:
        """Settings near those given, within the search."""
        return {
            place: _changed(space, params[place], self._random)
            for place, space in searches(self.search.config)
            if place in params
        }


def _changed(space: Any, value: Primitive, random: np.random.Generator) -> Primitive:
    """A value near `value`: by a factor, or the next option of a choice; now and then, any."""
    anew = random.random() < RESAMPLED
    if isinstance(space, Choice):
        labels = space.labels
        if anew:
            return labels[int(random.integers(len(labels)))]
        near = labels.index(value) + int(random.choice((-1, 1)))
        return labels[min(max(near, 0), len(labels) - 1)]
    assert isinstance(space, Number)
    assert isinstance(value, (int, float))
    if anew:
        ends = (math.log(space.low), math.log(space.high)) if space.log else (space.low, space.high)
        number = float(random.uniform(*ends))
        number = math.exp(number) if space.log else number
    else:
        number = value * float(random.choice(FACTORS))
    if space.step is not None:
        number = space.low + round((number - space.low) / space.step) * space.step
    number = min(max(number, space.low), space.high)
    return round(number) if space.whole else number
