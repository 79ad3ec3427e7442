"""Several agents: a shared PPO beside RLlib's, and what it learns in three games.

    python benchmarks/agents.py --only speed
    python benchmarks/agents.py --only spread,forage,four

For speed, both sides have the same settings and are asked for an iteration in turn; processor time
counts, since the machine may be busy. Connect four is played by one policy on both seats, and then
against a player who moves at random.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import HERE, Record, Results, all_versions, parser, table, venv_python

GAMES = ["pettingzoo==1.27.0", "mpe2==1.1.1"]
PACKAGES = ("poise", "torch", "pettingzoo", "mpe2", "lbforaging", "ray")
TURNS = 8
TASKS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "spread": (
        "mpe2.simple_spread_v3",
        400_000,
        {
            "num_envs_per_worker": 16, "rollout_fragment_length": 125, "sgd_minibatch_size": 500,
            "lr": 7e-4, "entropy_coeff": 0.01, "normalize_rewards": True,
        },
    ),
    "forage": (
        "lbforaging:Foraging-8x8-2p-2f-coop-v3",
        600_000,
        {"num_envs_per_worker": 16, "num_sgd_iter": 6, "lr": 1e-3, "entropy_coeff": 0.01},
    ),
    "four": (
        "pettingzoo.classic.connect_four_v3",
        400_000,
        {
            "num_envs_per_worker": 32, "rollout_fragment_length": 64, "num_sgd_iter": 6,
            "lr": 1e-3, "entropy_coeff": 0.01,
            "model": {"fcnet_hiddens": [128], "conv_filters": [[32, 4, 1]]},
        },
    ),
}  # fmt: skip
"""Game, environment steps and settings of each task."""


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


def learn(task: str, steps: int) -> Record:
    """Trains in one game and plays 100 episodes."""
    game, most, settings = TASKS[task]
    code = (
        "import json, sys, time, poise\n"
        "from peers.seats import against_random\n"
        "game, steps, settings = json.loads(sys.argv[1])\n"
        "algo = poise.PPO(game, seed=0, preset=None, progress=False, **settings)\n"
        "result = algo.learn(steps)\n"
        "found = algo.evaluate(100, explore=True)\n"
        "record = {'score': found['episode_reward_mean'], 'cpu': time.process_time()}\n"
        "if 'connect_four' in game: record['wins'] = against_random(algo, 100)\n"
        "print(json.dumps(record))\n"
    )
    python = venv_python("poise", *GAMES)
    given = json.dumps([game, min(steps, most), settings])
    command = [str(python), "-c", code, given]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--only", default=f"speed,{','.join(TASKS)}", help="parts, by comma")
    args = options.parse_args()
    chosen = args.only.split(",")
    results = Results("agents", quick=args.quick, fresh=args.fresh)
    pythons = {"poise": venv_python("poise", *GAMES), "rllib": venv_python("rllib", *GAMES)}
    parts, records = [], []
    if "speed" in chosen:
        record = results.measure("speed", lambda: speed(pythons, 2 if args.quick else TURNS))
        records.append(record)
        rows = [[name, f"{record[name]:,.0f}"] for name in pythons]
        parts.append(table(["simple_spread, shared PPO", "Steps per second of processor"], rows))
    rows = []
    for task in [task for task in TASKS if task in chosen]:
        steps = 10_000 if args.quick else TASKS[task][1]
        record = results.measure(f"learn: {task}", lambda t=task, s=steps: learn(t, s))
        records.append(record)
        wins = f"{record['wins']} of 100" if "wins" in record else ""
        rows.append([TASKS[task][0], f"{steps:,}", f"{record['score']:.2f}", wins])
    if rows:
        parts.append(table(["Game", "Steps", "Sum of returns", "Wins against chance"], rows))
    results.publish("Several agents", "\n\n".join(parts), records, all_versions(pythons, PACKAGES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
