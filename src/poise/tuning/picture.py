"""A study as a picture: how its trials learnt, and what each searched setting had to do with it.

Needs matplotlib.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from poise.errors import RunError
from poise.tracking.folder import RunFolder
from poise.tracking.plots import figure_class, literal
from poise.tuning.space import Number, searches
from poise.tuning.study import Study, Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
"""Panels of settings in a row."""


def study_figure(study: Study) -> Figure:
    """How the trials learnt, and what each setting had to do with their values.

    One panel has the reward of every trial against its steps; one for each searched setting has the
    trials' values against it. Trials that missed a goal which others are timed to have no value:
    they are crosses at the edge.

    Raises:
        PoiseError: matplotlib is not installed.
        RunError: no trial has a result yet.
    """
    trials = [trial for trial in study.trials if trial.result]
    if not trials:
        raise RunError(f"No trial of {study.folder} has a result yet.")
    places = list(dict.fromkeys(place for trial in trials for place in trial.params))
    rows = 1 + math.ceil(len(places) / COLUMNS)
    figure = figure_class()(figsize=(10, 1 + 2.6 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, COLUMNS)
    _draw_curves(figure.add_subplot(grid[0, :]), study, trials)
    for number, place in enumerate(places):
        row, column = divmod(number, COLUMNS)
        _draw_setting(figure.add_subplot(grid[1 + row, column]), study, trials, place)
    return figure


def _draw_curves(axes: Any, study: Study, trials: list[Trial]) -> None:
    best = study.best
    for trial in sorted(trials, key=lambda trial: trial is best):  # the best is on top
        look = {"color": "C0", "alpha": 0.4, "linewidth": 1}
        if trial is best:
            look = {"color": "C1", "linewidth": 1.8}
        for folder in (trial.path, *sorted(trial.path.glob("seed_*"))):
            rows = [row for row in RunFolder(folder).metrics() if "episode_reward_mean" in row]
            steps = [row["timesteps_total"] for row in rows]
            axes.plot(steps, [row["episode_reward_mean"] for row in rows], **look)
    ended = sum(trial.state != "running" for trial in study.trials)
    best_text = "" if best is None else f"; the best, trial {best.number}, is orange"
    what = literal(f"{study.search.algorithm} on {study.search.config['env']}")
    axes.set_title(f"{what}: {ended} of {study.total} trials{best_text}")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("mean return")
    axes.grid(alpha=0.3)


def _draw_setting(axes: Any, study: Study, trials: list[Trial], place: str) -> None:
    search, best = study.search, study.best
    having = [trial for trial in trials if place in trial.params]
    values = [
        trial.value(search) if trial.results else search.so_far(trial.result) for trial in having
    ]
    known = [value for value in values if math.isfinite(value)]
    worst = max if search.mode == "min" else min
    edge = worst(known, default=0.0)
    space = dict(searches(search.config)).get(place)
    for trial, value in zip(having, values, strict=True):
        x = trial.params[place] if isinstance(space, Number) else str(trial.params[place])
        colour = "C1" if trial is best else "C0"
        y, marker = (value, "o") if math.isfinite(value) else (edge, "x")
        axes.plot([x], [y], linestyle="", alpha=0.8, color=colour, marker=marker)
    if isinstance(space, Number) and space.log:
        axes.set_xscale("log")
    axes.set_xlabel(literal(place))
    axes.set_ylabel(literal(search.metric))
    axes.grid(alpha=0.3)
