"""Poise and Gymnasium step the same batch in one process, in short blocks that alternate; one line
of JSON.

Processes that are measured one after the other may meet a machine in different moods: at 0 µs a
step, that moves their rates further apart than the systems are.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import numpy as np
from busy import CELLS
from step_rates import ENVS, SYSTEMS

NAMES = ("Poise, in this process", "Gymnasium Sync", "Gymnasium Sync, copy=False")
BLOCKS, BLOCK_S = 40, 0.05


def rate(step: Any) -> float:
    """Environment steps a second of one block."""
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < BLOCK_S:
        step()
        calls += 1
    return calls * ENVS / (time.perf_counter() - start)


def main() -> None:
    cells = {}
    for cell in ("0 µs, vector", "0 µs, image"):
        steppers = {name: SYSTEMS[name](CELLS[cell]) for name in NAMES}
        rates: dict[str, list[float]] = {name: [] for name in NAMES}
        for _ in range(BLOCKS):
            for name, (step, _, _) in steppers.items():
                rates[name].append(rate(step))
        # The first blocks are a warm-up.
        theirs = np.max([rates[name][1:] for name in NAMES[1:]], 0)
        ratios = sorted((np.array(rates[NAMES[0]][1:]) / theirs).tolist())
        quarters = statistics.quantiles(ratios, n=4)
        cells[cell] = {"ratio": statistics.median(ratios), "low": quarters[0], "high": quarters[2]}
        for _, end, _ in steppers.values():
            end()
    print(json.dumps(cells), flush=True)


if __name__ == "__main__":
    main()
