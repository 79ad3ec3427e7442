"""What `poise watch` takes: the table of 200 runs, a run of 100 million steps, and from training.

    python benchmarks/watch.py

Processor time and memory are those of a new process, as the server is one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import Record, Results, parser, table

import poise
from poise.files import write_json
from poise.tracking.behaviour import EVERY_S, look
from poise.tracking.folder import EPISODES_HEADER, RunFolder, episode_lines, json_line

RUNS = 200
STEPS, BATCH, EPISODE = 100_000_000, 3_072, 200
"""Of the long run: its steps, those of an iteration, and those of an episode."""

READER = """
import json, sys, time
from pathlib import Path
from poise.watch.app import make_app
from poise.watch.library import Library

def took(what):
    start = time.process_time()
    return what(), time.process_time() - start

library = Library(Path(sys.argv[1]))
rows, table = took(library.rows)
name = list(rows)[-1]
page, first = took(lambda: json.dumps(library.story(name).page()))
_, again = took(lambda: json.dumps(library.story(name).page()))
_, close = took(lambda: json.dumps(library.story(name).page("steps", 5e7, 5.1e7)))
status = Path("/proc/self/status").read_text()  # getrusage has what it was forked from, too
peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
print(json.dumps({"rows": len(rows), "table": table, "first": first, "again": again,
                  "close": close, "kB": len(page) / 1e3, "MB": peak}))
"""


def lengthen(run: RunFolder, like: dict[str, Any], iterations: int) -> None:
    """Makes a run that long, of results like a real one."""
    with run.metrics_file.open("w") as file:
        for i in range(1, iterations + 1):
            steps = {"training_iteration": i, "timesteps_total": i * BATCH, "time_total_s": i / 7}
            file.write(json_line({**like, **steps, "episode_reward_mean": 500 * i / iterations}))
    ends = range(EPISODE, iterations * BATCH, EPISODE)
    lines = episode_lines((at, at / 20_000, at % 977 / 3, EPISODE) for at in ends)
    run.episodes_file.write_text(EPISODES_HEADER + lines)


def reading(runs: int, steps: int) -> Record:
    with tempfile.TemporaryDirectory() as root:
        stop = {"timesteps_total": 6_000}
        real = poise.run("PPO", "CartPole-v1", stop=stop, folder=root, name="r0", quiet=True)
        like, config, status = real.result, real.folder.config(), real.folder.status()
        for number in range(runs):
            run = RunFolder(Path(root) / f"e{number // 20}" / f"r{number}")
            run.write_config({**config, "config": {**config["config"], "seed": number}})
            write_json(run.path / "status.json", status)
            lengthen(run, like, 300 if number < runs - 1 else steps // BATCH)
        command = [sys.executable, "-c", READER, root]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout))


def training(algorithm: str, env: str) -> Record:
    """Milliseconds of processor time that a look at the policy's actions takes."""
    torch.set_num_threads(1)  # as it is while these train
    with getattr(poise, algorithm)(env, seed=0, num_threads=1, progress=False) as algo:
        for _ in range(12):
            algo.train()
        look(algo)
        start = time.process_time()
        for _ in range(200):
            look(algo)
        return {"ms": (time.process_time() - start) * 1e3 / 200}


def main() -> int:
    args = parser(__doc__).parse_args()
    results = Results("watch", quick=args.quick, fresh=args.fresh)
    runs, steps = (10, STEPS // 100) if args.quick else (RUNS, STEPS)
    read = results.measure(f"{runs} runs, {steps} steps", lambda: reading(runs, steps))
    rows = [
        [f"the table of {read['rows']} runs", f"{read['table']:.2f} s"],
        [f"a run of {steps:,} steps, at first", f"{read['first']:.2f} s, {read['kB']:.0f} kB sent"],
        ["the same again", f"{read['again']:.2f} s"],
        ["a hundredth of it, with every episode", f"{read['close']:.2f} s"],
        ["memory of the server, at most", f"{read['MB']:.0f} MB"],
    ]
    looks, records = [], [read]
    for algorithm, env in (("PPO", "CartPole-v1"), ("SAC", "Pendulum-v1")):
        record = results.measure(f"look {algorithm}", lambda a=algorithm, e=env: training(a, e))
        records.append(record)
        share = record["ms"] / 1e3 / EVERY_S
        looks.append([f"{algorithm} on {env}", f"{record['ms']:.2f} ms", f"{share:.2%}"])
    body = table(["What is opened", "Processor time"], rows)
    body += "\n\n" + table(["What training pays", "A look at its actions", "At most"], looks)
    results.publish("The live page", body, records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
