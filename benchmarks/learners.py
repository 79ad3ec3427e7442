"""What it takes to learn with two learners on one machine: messages, and updates of PPO.

    python benchmarks/learners.py

Two processes meet on the loopback interface, as learners on a cluster do, without Ray. Times are of
the wall, the median and the least; the two share the machine's cores, so that nothing here says how
much faster many machines are, only what their messages cost at least.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import poise
from poise.learning.group import ALONE, Group, Ring, meeting
from poise.sampling.rollout import Rollout

HOST = "127.0.0.1"
SIZES = {"10,000 parameters": 10_000, "1,700,000 parameters": 1_700_000}
NETWORKS = {"2 layers of 64": [64, 64], "2 layers of 1,024": [1024, 1024]}
UPDATE = {
    "num_envs_per_worker": 16,
    "rollout_fragment_length": 64,
    "sgd_minibatch_size": 256,
    "num_sgd_iter": 2,
}


def timed(call: Callable[[], object], times: int) -> tuple[float, float]:
    """The median and the least of the milliseconds that a call takes."""
    call()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3, min(taken) * 1e3


def updates(ring: Group, hidden: list[int]) -> tuple[Any, Any, int]:
    """An update alone and one of two learners, in ms; and gradient steps in it."""
    settings = {"model": {"fcnet_hiddens": hidden}, **UPDATE}
    with poise.make_trainer(
        "PPO", "CartPole-v1", seed=0, progress=False, preset=None, **settings
    ) as algo:
        algorithm = algo.algorithm
        rollout: Rollout = algo.samplers.collect()

        def update(group: Group) -> None:
            with algorithm.in_group(group):  # type: ignore[attr-defined]
                algorithm.update(rollout)  # type: ignore[attr-defined]

        update(ALONE)
        steps = algorithm.updates
        ring.mean(torch.zeros(1))  # both begin at the same time
        two = timed(lambda: update(ring), 5)
        alone = timed(lambda: update(ALONE), 5) if ring.rank == 0 else None
        ring.mean(torch.zeros(1))
        return alone, two, steps


def main() -> None:
    torch.set_num_threads(1)
    rank = len(sys.argv) - 1
    store = meeting(HOST, int(sys.argv[1])) if rank else meeting(HOST)
    other = None if rank else subprocess.Popen([sys.executable, __file__, str(store.port)])
    ring = Ring(store, rank, 2, HOST)
    for name, count in SIZES.items():
        vector = torch.zeros(count)
        median, least = timed(lambda vector=vector: ring.mean(vector), 200)
        if not rank:
            print(f"mean of {name}: {median * 1e3:,.0f} µs, at least {least * 1e3:,.0f}")
    for name, hidden in NETWORKS.items():
        alone, two, steps = updates(ring, hidden)
        if not rank:
            print(
                f"an update of PPO, {name}, {steps} gradient steps: alone {alone[0]:.1f} ms, "
                f"at least {alone[1]:.1f}; by two {two[0]:.1f} ms, at least {two[1]:.1f}"
            )
    if other is not None:
        other.wait()


if __name__ == "__main__":
    main()
