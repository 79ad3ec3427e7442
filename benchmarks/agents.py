"""Several agents: a shared PPO beside RLlib's, and what it and MAPPO learn in three games.

    python benchmarks/agents.py --only speed
    python benchmarks/agents.py --only spread,spread-mappo --seeds 3

For speed, both sides have the same settings and are asked for an iteration in turn; processor time
counts, since the machine may be busy. Games are learnt with the presets of PPO, by independent
agents that share a policy, and by MAPPO, whose value function sees all. For connect four, see
self_play.py.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from common import HERE, Record, Results, all_versions, parser, spread, table, venv_python

GAMES = ["pettingzoo==1.27.0", "mpe2==1.1.1"]
PACKAGES = ("poise", "torch", "pettingzoo", "mpe2", "lbforaging", "ray")
TURNS = 8
SPREAD, FORAGE = "mpe2.simple_spread_v3", "lbforaging:Foraging-8x8-2p-2f-coop-v3"
THREE = "lbforaging:Foraging-10x10-3p-3f-v3"
MAPPO = {"central_critic": True}
TASKS: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "spread": ("PPO", SPREAD, 200_000, {}),
    "spread-mappo": ("MAPPO", SPREAD, 200_000, MAPPO),
    "forage": ("PPO", FORAGE, 300_000, {}),
    "forage-mappo": ("MAPPO", FORAGE, 300_000, MAPPO),
    "forage3": ("PPO", THREE, 400_000, {}),
    "forage3-mappo": ("MAPPO", THREE, 400_000, MAPPO),
}
"""Algorithm, game, environment steps and settings of each task."""

ABOUT = """Sums of returns are means of 200 episodes with sampled actions after training, of seeds
the median (lowest to highest). Foraging gives 1 at most."""


class Asked:
    """A side in a process of its own that trains so many iterations when it is asked to."""

    def __init__(self, python: Path, side: str) -> None:
        command = [str(python), str(HERE / "peers" / "agents_rates.py"), side]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def train(self, iterations: int) -> Record:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{iterations}\n")
        self.process.stdin.flush()
        while line := self.process.stdout.readline():
            if line.startswith("{"):
                return dict(json.loads(line))
        raise SystemExit(f"{self.process.args} has ended.")


def speed(pythons: dict[str, Path], turns: int) -> Record:
    """Environment steps in a second of processor time, medians over turns."""
    sides = {name: Asked(python, name) for name, python in pythons.items()}
    found: dict[str, list[float]] = {name: [] for name in sides}
    try:
        for side in sides.values():
            side.train(1)  # imports, and makes what is made once
        for turn in range(turns):
            for name in list(sides)[:: 1 if turn % 2 else -1]:
                took = sides[name].train(1)
                found[name].append(took["steps"] / took["cpu"])
    finally:
        for side in sides.values():
            side.process.kill()
    return {name: statistics.median(rates) for name, rates in found.items()}


def learn(task: str, steps: int, seed: int) -> Record:
    """Trains in one game and plays 200 episodes."""
    _, game, most, settings = TASKS[task]
    code = (
        "import json, sys, time, poise\n"
        "game, steps, seed, settings = json.loads(sys.argv[1])\n"
        "algo = poise.PPO(game, seed=seed, num_threads=1, progress=False, **settings)\n"
        "algo.learn(steps)\n"
        "took = time.process_time()\n"
        "found = algo.evaluate(200, explore=True)\n"
        "record = {'score': found['episode_reward_mean'], 'cpu': took}\n"
        "print(json.dumps(record))\n"
    )
    python = venv_python("poise", *GAMES)
    given = json.dumps([game, min(steps, most), seed, settings])
    command = [str(python), "-W", "ignore", "-c", code, given]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--only", default=f"speed,{','.join(TASKS)}", help="parts, by comma")
    options.add_argument("--seeds", type=int, default=3)
    args = options.parse_args()
    chosen = args.only.split(",")
    results = Results("agents", quick=args.quick, fresh=args.fresh)
    pythons = {"poise": venv_python("poise", *GAMES), "rllib": venv_python("rllib", *GAMES)}
    parts, records = [], []
    if "speed" in chosen:
        record = results.measure("speed", lambda: speed(pythons, 2 if args.quick else TURNS))
        records.append(record)
        ratio = {name: f"{record['poise'] / record[name]:.1f}" for name in pythons}
        rows = [[name, f"{record[name]:,.0f}", ratio[name]] for name in pythons]
        headers = ["simple_spread, shared PPO", "Steps per second of processor", "Poise is faster"]
        parts.append(table(headers, rows))
    rows = []
    for task in [task for task in TASKS if task in chosen]:
        name, game, most, _ = TASKS[task]
        steps, found = 10_000 if args.quick else most, []
        for seed in range(1 if args.quick else args.seeds):
            measured = partial(learn, task, steps, seed)
            found.append(results.measure(f"learn: {task}, seed {seed}", measured))
        records += found
        rows.append([
            game, name, f"{steps:,}", spread([each["score"] for each in found], 2),
            spread([each["cpu"] / 60 for each in found], 1),
        ])  # fmt: skip
    if rows:
        headers = ["Game", "Algorithm", "Steps", "Sum of returns", "Processor, minutes"]
        parts += [ABOUT, table(headers, rows)]
    results.publish("Several agents", "\n\n".join(parts), records, all_versions(pythons, PACKAGES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
