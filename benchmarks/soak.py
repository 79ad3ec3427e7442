"""Minutes of training in which a random worker process is killed again and again: it learns, and
nothing piles up.

python benchmarks/soak.py --seconds 600 --every 10
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from common import Record, Results, parser, table

WORKERS = 4
SETTINGS: dict[str, Any] = {
    "num_workers": WORKERS,
    "num_envs_per_worker": 2,
    "rollout_fragment_length": 128,
    "lr": 3e-4,
    "seed": 0,
}
LEARNT = 200.0
"""A mean return of 100 episodes that no untrained policy has (about 22); 500 is the most there is.
"""


def make(config: dict[str, Any]) -> Any:
    """CartPole as a Python environment, not the native batch of it."""
    import gymnasium

    return gymnasium.make("CartPole-v1")


# --- what a process holds -------------------------------------------------------------------------


def children(states: str = "RSDZ") -> list[int]:
    """Processes that this one started, by the letters of their states: Z has ended, and was not
    waited for."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = file.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and state in states:
                found.append(int(file.parent.name))
    return found


def holds() -> dict[str, int]:
    """Memory in KiB, and numbers of open files, threads, children and named shared memories."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss_kib": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": sum(not isinstance(thread, Killer) for thread in threading.enumerate()),
        "children": len(children()),
        "shm": len(os.listdir("/dev/shm")),
    }


# --- the run --------------------------------------------------------------------------------------


class Killer(threading.Thread):
    """Ends one of the child processes with SIGKILL every so many seconds.

    Args:
        seconds: between two kills.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(daemon=True)
        self.seconds, self.kills = seconds, 0
        self.done = threading.Event()

    def run(self) -> None:
        rng = random.Random(0)
        while not self.done.wait(self.seconds):
            if running := children("RSD"):
                os.kill(rng.choice(running), signal.SIGKILL)
                self.kills += 1


def soak(seconds: float, every: float) -> Record:
    """Trains for so long under fire; compares what it holds after a warm-up and at the end."""
    import poise

    warnings.simplefilter("ignore", RuntimeWarning)  # one for every kill
    trainer = poise.make_trainer("PPO", make, progress=False, **SETTINGS)
    killer = Killer(every)
    killer.start()
    begin = time.perf_counter()
    warm_up = min(60.0, seconds / 4)
    best, before, result = 0.0, None, trainer.train()
    first = result["episode_reward_mean"]
    while time.perf_counter() - begin < seconds:
        result = trainer.train()
        best = max(best, result["episode_reward_mean"])
        if before is None and time.perf_counter() - begin > warm_up and whole(trainer):
            before, iterations = holds(), trainer.iteration
    killer.done.set()
    killer.join()
    while not whole(trainer):
        result = trainer.train()
    after = holds()
    trainer.close()
    left = len(children())
    assert before is not None, "the workers were never all there"
    return {
        "seconds": round(time.perf_counter() - begin, 1),
        "steps": result["timesteps_total"],
        "iterations_compared": trainer.iteration - iterations,
        "kills": killer.kills,
        "restarts": result["worker_restarts_total"],
        "episodes": result["episodes_total"],
        "episodes_lost": result["episodes_lost_total"],
        "reward_first": round(first, 1),
        "reward_best": round(best, 1),
        "before": before,
        "after": after,
        "left": left,
    }


def whole(trainer: Any) -> bool:
    """Whether all workers are at work."""
    return len(children("RSD")) == WORKERS and not any(
        sampler.env.lost.any() for sampler in trainer.samplers.members
    )


def sound(record: Record) -> bool:
    """Whether it learnt, every kill was mended, and nothing piled up (memory: by a twentieth)."""
    before, after = record["before"], record["after"]
    counts = all(before[key] == after[key] for key in ("files", "threads", "children", "shm"))
    memory = after["rss_kib"] <= 1.05 * before["rss_kib"]
    mended = record["restarts"] == record["kills"] and not record["left"]
    return bool(counts and memory and mended and record["reward_best"] >= LEARNT)


def section(record: Record) -> str:
    """What was measured, as Markdown."""
    names = {
        "rss_kib": "Memory, KiB",
        "files": "Open files",
        "threads": "Threads",
        "children": "Child processes",
        "shm": "Entries in /dev/shm",
    }
    before, after = record["before"], record["after"]
    held = [[name, f"{before[key]:,}", f"{after[key]:,}"] for key, name in names.items()]
    run = {
        "Seconds": record["seconds"],
        "Steps": f"{record['steps']:,}",
        "Workers killed": record["kills"],
        "Workers started anew": record["restarts"],
        "Episodes finished": f"{record['episodes']:,}",
        "Episodes lost": record["episodes_lost"],
        "Mean return of the first iteration": record["reward_first"],
        "Best mean of 100 episodes": record["reward_best"],
    }
    return (
        f"PPO on CartPole-v1 as a Python environment, {WORKERS} worker processes; all the while, "
        "one of them at a time, drawn at random, is ended by "
        f"SIGKILL.\n\n{table(run.keys(), [list(run.values())])}\nWhat the learner's process holds "
        f"after a warm-up, and {record['iterations_compared']:,} iterations later; after closing, "
        f"{record['left']} child processes are "
        f"left.\n\n{table(['', 'After the warm-up', 'At the end'], held)}"
    )


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=600.0)
    options.add_argument("--every", type=float, default=10.0, help="seconds between two kills")
    args = options.parse_args()
    results = Results("soak", quick=args.quick, fresh=args.fresh)
    seconds, every = (30.0, 3.0) if args.quick else (args.seconds, args.every)
    print("Soak:", flush=True)
    record = results.measure(
        f"soak: {seconds:g} s, a kill every {every:g} s", lambda: soak(seconds, every)
    )
    results.publish("Training under fire", section(record), [record])
    return int(not sound(record))


if __name__ == "__main__":
    sys.exit(main())
