"""PPO with a memory where velocities are hidden, beside SB3-contrib's RecurrentPPO.

    python benchmarks/memory.py --seeds 5

Each side has its own best settings: Poise its presets, SB3-contrib those of RL Baselines3 Zoo.
Without a memory, nothing learns these tasks.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from common import HERE, Record, Results, all_versions, parser, spread, table, venv_python

PACKAGES = ("poise", "torch", "gymnasium", "stable-baselines3", "sb3-contrib")
GOALS: dict[str, tuple[float, int]] = {
    "CartPoleNoVel-v1": (475.0, 100_000),
    "PendulumNoVel-v1": (-250.0, 300_000),
}
"""The goal of each task, and the steps in which it is to be reached."""
SIDES = {
    "Poise PPO, its preset": ("poise", "poise"),
    "the same without its memory": ("poise", "poise-without"),
    "SB3-contrib RecurrentPPO": ("contrib", "contrib"),
}


def climb(python: Path, side: str, env: str, seed: int) -> Record:
    """One run of one side to a goal."""
    goal, steps = GOALS[env]
    command = [
        str(python), str(HERE / "peers" / "memory_climb.py"), "--side", side, "--env", env,
        "--goal", str(goal), "--steps", str(steps), "--seed", str(seed),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"\n{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def goal_table(found: dict[str, list[Record]]) -> str:
    ours = statistics.median(r["cpu_s"] for r in next(iter(found.values())))
    rows = [
        [
            side,
            f"{sum(r['reached'] for r in runs)} of {len(runs)}",
            spread((r["train_s"] for r in runs), 1),
            spread((r["cpu_s"] for r in runs), 1),
            spread((r["steps"] for r in runs), 0),
            f"{statistics.median(r['cpu_s'] for r in runs) / ours:.2f}",
            spread((r["evaluation"] for r in runs), 1),
        ]
        for side, runs in found.items()
    ]
    headers = [
        "", "Reached and confirmed", "Training, s", "Processor, s", "Steps",
        "Processor time beside Poise's", "Score of 100 episodes",
    ]  # fmt: skip
    return table(headers, rows)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--only", default=",".join(GOALS), help="tasks, by comma")
    args = options.parse_args()
    if wrong := [name for name in args.only.split(",") if name not in GOALS]:
        options.error(f"there is no {wrong[0]!r}; tasks are {', '.join(GOALS)}")
    results = Results("memory", quick=args.quick, fresh=args.fresh)
    pythons = {"poise": venv_python("poise"), "contrib": venv_python("contrib")}
    parts, records = [], []
    for env in args.only.split(","):
        found: dict[str, list[Record]] = {side: [] for side in SIDES}
        for seed in range(1 if args.quick else args.seeds):
            for side in list(SIDES)[:: 1 if seed % 2 else -1]:
                name, kind = SIDES[side]
                run = results.measure(
                    f"{env}: {side}, seed {seed}",
                    lambda n=name, k=kind, e=env, s=seed: climb(pythons[n], k, e, s),
                )
                found[side].append(run)
                records.append(run)
        goal, steps = GOALS[env]
        rule = (
            f"Until the mean of 20 greedy episodes, played every 5,000 steps, is at least {goal:g},"
            f" and that of 100 fresh ones, too; at most {steps:,} steps."
        )
        parts.append(f"### {env} to {goal:g}\n\n{rule}\n\n{goal_table(found)}")
    results.publish("Memory", "\n\n".join(parts), records, all_versions(pythons, PACKAGES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
