"""One search killed again and again, by SIGKILL and SIGTERM, and taken up each time; several seeds
as well.

python benchmarks/kill_search.py --kills 20
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from common import Record, Results, parser, table

import poise
from poise.tracking.find import find_study
from poise.tracking.folder import RunFolder
from poise.tuning.study import Study

STEPS = 40_000
COMMON = [
    "--env=CartPole-v1", "--num-envs-per-worker=4", "--rollout-fragment-length=64",
    "--num-sgd-iter=2", f"--stop=timesteps_total={STEPS}", "--preset=none", "--checkpoint-freq=2",
    "--experiment=s",
]  # fmt: skip
TUNE = ["tune", "PPO", *COMMON, "--lr=loguniform(1e-5, 1e-2)", "--parallel=2"]
LOOPS: dict[str, tuple[list[str], list[str]]] = {
    "8 trials": ([*TUNE, "--trials=8"], ["tune", "--resume"]),
    "3 trials of 2 seeds, worker processes": (
        [*TUNE, "--trials=3", "--seeds=2", "--num-workers=1"],
        ["tune", "--resume"],
    ),
    "8 seeds": (["train", "PPO", *COMMON, "--seeds=8"], ["resume"]),
}
"""How each study is begun, and how it is taken up."""
LEAVE_S = 120
"""Seconds after which a process that has not ended counts as hung."""
END_S = 1800


def study(folder: Path) -> Study | None:
    """What is on disk; None before there is anything."""
    return poise.tune.load(folder).study if find_study(folder) else None


def runs(folder: Path) -> list[RunFolder]:
    """All runs of a study, the confirming ones included."""
    return [RunFolder(file.parent) for file in sorted(folder.glob("**/metrics.jsonl"))]


def progress(folder: Path) -> int:
    """Bytes of results that there are."""
    return sum(run.metrics_file.stat().st_size for run in runs(folder))


class Loop:
    """A study, how it is begun and taken up, and what has become of it so far.

    Attributes:
        ended: what each trial that has ended had come to when that was first seen; it must stay so.
        counts: of what was done and seen.
    """

    def __init__(self, begin: list[str], go_on: list[str], root: Path, seed: int) -> None:
        self.begin, self.go_on, self.root, self.folder = begin, go_on, root, root / "s"
        self.random = random.Random(seed)
        self.ended: dict[int, Any] = {}
        self.counts = dict.fromkeys(
            ("kills", "terms", "workers", "leaving", "tracebacks", "orphans", "changed"), 0
        )

    def launch(self) -> subprocess.Popen[bytes]:
        """The study's command; nothing is cleaned up before."""
        more = (
            [*self.go_on, str(self.folder)]
            if find_study(self.folder)
            else [*self.begin, f"--folder={self.root}"]
        )
        with (self.root / "log.txt").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "poise", *more], stdout=log, stderr=log)

    def kill(self) -> bool:
        """Begins or takes up the study, lets it get further, and ends it; whether it had not ended
        by itself."""
        process = self.launch()
        before, start, at_start = (
            progress(self.folder),
            time.monotonic(),
            self.random.random() < 0.2,
        )
        while not at_start and process.poll() is None and progress(self.folder) <= before:
            if time.monotonic() > start + LEAVE_S:
                process.kill()
                raise SystemExit(f"{self.folder} got no further.")
            time.sleep(0.01)
        time.sleep(self.random.uniform(0.0, 3.0))
        if process.poll() is not None:
            if process.returncode:
                raise SystemExit(f"The study ended with {process.returncode}:\n{self.log[-2000:]}")
            return False
        family = psutil.Process(process.pid).children(recursive=True)
        way = signal.SIGKILL if self.random.random() < 0.6 else signal.SIGTERM
        # Now and then a worker, and at once its search.
        if way == signal.SIGKILL and family and self.random.random() < 0.2:
            self.counts["workers"] += 1
            self.random.choice(family).kill()
        process.send_signal(way)
        self.counts["kills"] += 1
        self.counts["terms"] += way == signal.SIGTERM
        process.wait(LEAVE_S)
        if self.random.random() < 0.5:
            _, alive = psutil.wait_procs(family, LEAVE_S)
            self.counts["orphans"] += len(alive)
        else:
            self.counts["leaving"] += any(child.is_running() for child in family)
        self.look()
        return True

    @property
    def log(self) -> str:
        return (self.root / "log.txt").read_text()

    def look(self) -> None:
        """Reads what is there, and holds what has ended against what it was."""
        found = study(self.folder)
        for trial in found.trials if found else ():
            if trial.state != "running":
                what = (trial.state, trial.params, trial.results)
                self.counts["changed"] += self.ended.setdefault(trial.number, what) != what
        if found:
            self.counts["changed"] += len(
                set(self.ended) - {trial.number for trial in found.trials}
            )

    def finish(self) -> Record:
        """Takes the study up for the last time; what it came to."""
        code = self.launch().wait(END_S)
        self.look()
        found = study(self.folder)
        if found is None:
            raise SystemExit(f"There is no study at {self.folder}:\n{self.log[-2000:]}")
        rows = [[row["training_iteration"] for row in run.metrics()] for run in runs(self.folder)]
        wanted = (
            found.total * found.search.seeds
            + min(found.search.confirmed, found.total) * found.search.seeds
        )
        return {
            **self.counts,
            "tracebacks": self.log.count("Traceback"),
            "trials": len(found.trials),
            "complete": code == 0 and len(found.trials) == found.total
            and all(trial.state == "finished" for trial in found.trials),
            "runs": len(rows),
            "lost": wanted - len(rows),
            "twice": sum(row != list(range(1, len(row) + 1)) for row in rows),
            "errors": [trial.error for trial in found.trials if trial.error],
        }  # fmt: skip


def loop(name: str, kills: int, seed: int) -> Record:
    """Kills one study so many times, or until it has ended, and then lets it end."""
    with tempfile.TemporaryDirectory() as root:
        it = Loop(*LOOPS[name], Path(root), seed)
        while it.counts["kills"] < kills and it.kill():
            pass
        return {"loop": name, **it.finish()}


COLUMNS = {
    "loop": "Study",
    "kills": "Kills",
    "terms": "of which SIGTERM",
    "workers": "a worker's too",
    "leaving": "Taken up while workers were leaving",
    "orphans": "Processes left behind",
    "complete": "Ended with all its trials",
    "runs": "Runs",
    "lost": "Lost",
    "twice": "With iterations missing or twice",
    "changed": "Ended trials that changed",
    "tracebacks": "Tracebacks",
}


def section(records: list[Record]) -> str:
    """What was measured, as Markdown."""
    rows = [
        ["yes" if r[key] is True else "NO" if r[key] is False else r[key] for key in COLUMNS]
        for r in records
    ]
    return (
        f"One study each, of runs of {STEPS:,} steps, two at a time, "
        "ended at random moments (a fifth of them while it comes up) "
        "and taken up each time with nothing cleaned up; "
        "half of the times without waiting for the workers of the killed "
        f"one.\n\n{table(list(COLUMNS.values()), rows)}"
    )


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--only", default=";".join(LOOPS), help="studies, by semicolon")
    args = options.parse_args()
    results = Results("kill_search", quick=args.quick, fresh=args.fresh)
    kills = 3 if args.quick else args.kills
    for name in args.only.split(";"):
        results.measure(f"{name}, {kills} kills", partial(loop, name, kills, seed=1))
    records = list(results.items.values())
    results.publish("Kills of searches", section(records), records)
    bad = ("lost", "twice", "changed", "tracebacks", "orphans")
    return int(not all(r["complete"] and not any(r[key] for key in bad) for r in records))


if __name__ == "__main__":
    sys.exit(main())
