"""A search as the page shows it: its trials, what came of them, and which settings matter."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poise.errors import RunError
from poise.files import read_json
from poise.tracking.find import STUDIES
from poise.tuning.search import Search
from poise.tuning.space import Number, searches
from poise.watch.inside import refusal, regular
from poise.watch.rows import number, short, text

GROUPS = 4
"""Equal groups that the values of a setting are put in."""
FEWEST = 8
"""Trials with a value, of which importance is told."""
MOST = 2_000
"""Trials that are shown."""


def study(folder: Path, name: str, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All that the page of a search shows.

    Args:
        folder: the search's.
        name: what it is called in addresses.
        rows: of all runs, by the same.

    Raises:
        RunError: it cannot be read.
    """
    if why := refusal(folder):
        raise RunError(why)
    if not any(regular(folder / file, folder) for file in STUDIES):
        raise RunError(f"There is no search at {folder}.")
    search = Search.read(folder)
    files = sorted(folder.glob("*/trial.json"))
    trials = [_trial(file, search, name, rows) for file in files[:MOST] if regular(file, folder)]
    params = list(dict.fromkeys(key for trial in trials for key in trial["params"]))
    logs = {
        place for place, what in searches(search.config) if isinstance(what, Number) and what.log
    }
    return {
        "algorithm": text(search.algorithm),
        "env": text(search.config.get("env", "")),
        "metric": text(search.metric),
        "mode": search.mode,
        "planned": search.num_samples,
        "sampler": search.sampler,
        "scheduler": search.scheduler,
        "trials": sorted(trials, key=lambda trial: trial["number"]),
        "params": [{"name": key, "log": key in logs} for key in params],
        "importance": importance(trials, params),
        "notes": [f"Only the first {MOST:,} trials are shown."] if len(files) > MOST else [],
    }


def _trial(
    file: Path, search: Search, name: str, rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """A trial; its value while it runs is the return so far, for the eye alone."""
    known = f"{name}/{file.parent.name}" if name != "." else file.parent.name
    runs = [each for each in rows if each == known or each.startswith(f"{known}/")]
    number_of = number(_int(file.parent.name)) or 0
    try:
        saved = read_json(file)
        values = [search.value({"stop_reason": "", **result}) for result in saved["results"]]
        params, state = dict(saved["params"]), str(saved["state"])
        told = text(saved.get("error") or "")
    except (OSError, ValueError, TypeError, KeyError):
        values, params, state, told = [], {}, "damaged", f"{file.name} cannot be read."
    value = short([statistics.fmean(values)])[0] if values and all(map(_finite, values)) else None
    return {
        "number": int(number_of),
        "state": text(state),
        "value": value,
        "params": {text(key): _plain(each) for key, each in list(params.items())[:40]},
        "note": told,
        "runs": runs,
    }


def _int(name: str) -> int:
    digits = name.rpartition("_")[2]
    return int(digits[:9]) if digits.isdecimal() else 0


def _finite(value: float) -> bool:
    return math.isfinite(value)


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool) or number(value) is not None else text(value)


def importance(trials: Sequence[Mapping[str, Any]], params: Sequence[str]) -> list[dict[str, Any]]:
    """How much each setting alone says of the ranks of the trials, the most first.

    The trials are put into groups by the setting's value (equal groups, or one for each choice),
    and the share of the variance of their ranks that lies between the groups is ε², which is 0 on
    average for a setting without any effect (Kelley, 1935): chance is taken off.
    """
    ended = [trial for trial in trials if trial["value"] is not None]
    if len(ended) < FEWEST:
        return []
    found = []
    for key in params:
        some = [trial for trial in ended if key in trial["params"]]
        ranks = np.argsort(np.argsort([trial["value"] for trial in some], kind="stable"))
        share = explained(_groups([trial["params"][key] for trial in some]), ranks.astype(float))
        found.append({"name": key, "share": round(share, 3)})
    return sorted(found, key=lambda each: -each["share"])


def _groups(values: Sequence[Any]) -> np.ndarray:
    """The group of each value: of numbers with many values, equal parts of their order."""
    kinds = sorted({repr(value) for value in values})
    if len(kinds) <= GROUPS or not all(number(value) is not None for value in values):
        return np.array([kinds.index(repr(value)) for value in values], int)
    order = np.argsort(np.argsort(values, kind="stable"))
    parts: np.ndarray = order * GROUPS // len(values)
    return parts


def explained(groups: np.ndarray, values: np.ndarray) -> float:
    """ε²: the share of the variance of values that lies between groups, less what chance makes."""
    total = float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0
    kinds = np.unique(groups)
    free = len(values) - len(kinds)
    if total == 0 or free < 1:
        return 0.0
    inside = sum(
        float(((values[groups == k] - values[groups == k].mean()) ** 2).sum()) for k in kinds
    )
    return max(0.0, 1 - (inside / free) / (total / (len(values) - 1)))
