"""What a policy did, and how its episodes ended, from the sample that a run keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poise.watch.axes import X, at_steps
from poise.watch.rows import number, short

LOOKS = 60
"""Parts of a run in each of which the looks at its actions are put together."""
LARGEST = 16 * 2**20
"""Bytes of the file that are read, its last ones."""


def looks(file: Path) -> list[dict[str, Any]]:
    """What `poise.tracking.behaviour.look` has seen, oldest first.

    A resumed run does again what came after its checkpoint: what it goes on from takes the place of
    all later steps.
    """
    found: list[dict[str, Any]] = []
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, opened.seek(0, 2) - LARGEST))
            lines = opened.read().splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            seen = json.loads(line)
            steps = number(seen["timesteps_total"])
        except (ValueError, RecursionError, TypeError, KeyError):
            continue
        if steps is not None:
            while found and found[-1]["timesteps_total"] >= steps:
                found.pop()
            found.append(seen)
    return found


def behaviour(seen: Sequence[dict[str, Any]], axes: np.ndarray) -> dict[str, Any]:
    """What the policy did, in at most `LOOKS` parts of the run: shares of actions, and of ends."""
    parts = [list(part) for part in np.array_split(np.array(seen, object), LOOKS) if len(part)]
    steps = [float(part[-1]["timesteps_total"]) for part in parts]
    places = [at_steps(at, axes) for at in steps]
    counts = [[_counts(each.get("actions")) for each in part] for part in parts]
    shape = max((each.shape for part in counts for each in part), default=(0, 0))
    actions = [
        sum((each for each in part if each.shape == shape), np.zeros(shape)) for part in counts
    ]
    shares = [table / np.maximum(table.sum(1, keepdims=True), 1) for table in actions]
    ended = {
        how: short(sum(number(each.get(how)) or 0 for each in part) for part in parts)
        for how in ("terminated", "truncated")
    }
    return {
        **{name: [place[name] for place in places] for name in X},
        "actions": [[short(row) for row in table.tolist()] for table in shares],
        **ended,
    }


def _counts(given: Any) -> np.ndarray:
    """How often actions were taken, `[numbers, parts]`; of what no run writes, nothing."""
    try:
        table = np.array(given, np.float64)
    except (ValueError, TypeError):
        return np.zeros((0, 0))
    sound = table.ndim == 2 and table.size <= 1_000 and np.isfinite(table).all()
    return table if sound else np.zeros((0, 0))
