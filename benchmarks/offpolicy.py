"""SAC beside Stable-Baselines3, its contributions and SBX: speed, and time to good policies.

    python benchmarks/offpolicy.py --only speed
    python benchmarks/offpolicy.py --only pendulum,double --seeds 5

For speed, all sides have the same settings, and are asked for a few steps in turn, so that the
machine's unrest meets all of them. For time to a goal, each has its own best.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import (
    HERE,
    MUJOCO,
    Record,
    Results,
    all_versions,
    parser,
    spread,
    table,
    venv_python,
)

PACKAGES = ("poise", "torch", "gymnasium", "mujoco", "stable-baselines3", "sb3-contrib", "sbx-rl")
TURNS, STEPS = 12, 100
Side = tuple[str, str, str, int, dict[str, Any]]
SPEED: dict[str, Side] = {
    "Poise SAC": ("poise", "poise", "SAC", 1, {}),
    "Poise SAC, float32": ("poise", "poise", "SAC", 1, {"learner_dtype": "float32"}),
    "Poise SAC, `learner_thread`": ("poise", "poise", "SAC", 1, {"learner_thread": True}),
    "Poise TQC": ("poise", "poise", "TQC", 1, {}),
    "SB3 SAC": ("contrib", "sb3", "SAC", 1, {}),
    "SB3 SAC, 2 threads": ("contrib", "sb3", "SAC", 2, {}),
    "SB3-contrib TQC": ("contrib", "sb3", "TQC", 1, {}),
    "SBX SAC": ("sbx", "sbx", "SAC", 0, {}),
}
"""Environment, side, algorithm, threads and further settings of each side."""
TASKS = ("HalfCheetah-v5", "Pendulum-v1")
GOALS: dict[str, tuple[str, str, int]] = {
    "pendulum": ("Pendulum-v1", "-200", 250),
    "double": ("InvertedDoublePendulum-v5", "9000", 1000),
    "lunar": ("LunarLanderContinuous-v3", "250", 5000),
}
"""Task, goal, and steps from one evaluation to the next."""
CLIMBERS = {
    "Poise SAC, its preset": ("poise", "poise_climb.py", {"ALGORITHM": "SAC"}),
    "SB3 SAC": ("contrib", "sb3_soft_climb.py", {"SIDE": "sb3"}),
    "SBX SAC": ("sbx", "sb3_soft_climb.py", {"SIDE": "sbx"}),
}


class Asked:
    """A side in a process of its own that trains when it is asked to."""

    def __init__(self, python: Path, side: Side, env: str) -> None:
        _, library, name, threads, options = side
        command = [
            str(python), str(HERE / "peers" / "off_policy_rates.py"), "--side", library, "--name",
            name, "--env", env, "--threads", str(threads), "--options", json.dumps(options),
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def train(self, steps: int) -> Record:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:  # it has said why
            raise SystemExit(f"{self.process.args} has ended.")
        return dict(json.loads(line))


def speed(pythons: dict[str, Path], env: str, turns: int) -> Record:
    """Milliseconds a step of all sides, in turn; medians, and of wall time the quartiles."""
    sides = {name: Asked(pythons[side[0]], side, env) for name, side in SPEED.items()}
    found: dict[str, list[Record]] = {name: [] for name in sides}
    try:
        for side in sides.values():
            side.train(400)  # imports, compiles, and begins to learn
        for turn in range(turns):
            for name in list(sides)[:: 1 if turn % 2 else -1]:
                found[name].append(sides[name].train(STEPS))
    finally:
        for side in sides.values():
            side.process.kill()
    record: Record = {}
    ours = [each["s"] for each in found["Poise SAC"]]
    for name, each in found.items():
        seconds = [r["s"] for r in each]
        record[name] = {
            "ms": statistics.median(seconds) / STEPS * 1e3,
            "cpu_ms": statistics.median(r["cpu"] for r in each) / STEPS * 1e3,
            "ratio": statistics.median(s / o for s, o in zip(seconds, ours, strict=True)),
            "quartiles": statistics.quantiles(seconds, n=4),
        }
    return record


def climb(python: Path, script: str, more: dict[str, str], goal: str, seed: int) -> Record:
    """One run of one side to a goal."""
    env, score, every = GOALS[goal]
    command = [
        str(python), str(HERE / "peers" / script), "--env", env, "--goal", score, "--every",
        str(every), "--confirm", "--steps", "300000", "--seed", str(seed),
    ]  # fmt: skip
    environment = {**os.environ, **more, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"\n{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def speed_table(record: Record) -> str:
    rows = [
        [
            name,
            f"{1000 / r['ms']:,.0f}",
            f"{r['ms']:.2f} ({', '.join(f'{q / STEPS * 1e3:.2f}' for q in r['quartiles'][::2])})",
            f"{r['cpu_ms']:.2f}",
            f"{r['ratio']:.2f}",
        ]
        for name, r in record.items()
    ]
    headers = ["", "Steps/s", "ms a step (quartiles)", "Processor time, ms", "Time beside Poise's"]
    return table(headers, rows)


def goal_table(found: dict[str, list[Record]]) -> str:
    ours = statistics.median(r["train_s"] for r in next(iter(found.values())))
    rows = [
        [
            side,
            f"{sum(r['reached'] for r in runs)} of {len(runs)}",
            spread((r["train_s"] for r in runs), 1),
            spread((r["steps"] for r in runs), 0),
            f"{statistics.median(r['train_s'] for r in runs) / ours:.2f}",
            f"{statistics.fmean(r['evaluation'] for r in runs):,.1f}",
        ]
        for side, runs in found.items()
    ]
    headers = ["", "Reached and confirmed", "Training, s", "Steps", "Time beside Poise's", "Score"]
    return table(headers, rows)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--only", default=f"speed,{','.join(GOALS)}", help="parts, by comma")
    options.add_argument("--sides", default="|".join(CLIMBERS), help="of goals, by |")
    args = options.parse_args()
    chosen = args.only.split(",")
    if wrong := [name for name in chosen if name not in ("speed", *GOALS)]:
        options.error(f"there is no {wrong[0]!r}; parts are speed, {', '.join(GOALS)}")
    results = Results("offpolicy", quick=args.quick, fresh=args.fresh)
    pythons = {
        "poise": venv_python("poise", *MUJOCO),
        "contrib": venv_python("contrib"),
        "sbx": venv_python("sbx"),
    }
    parts, records = [], []
    turns = 2 if args.quick else TURNS
    for env in TASKS if "speed" in chosen else ():
        record = results.measure(f"speed: {env}", lambda e=env: speed(pythons, e, turns))
        records.append(record)
        kept = {name: record[name] for name in SPEED}
        parts.append(f"### Steps a second on {env}\n\n{speed_table(kept)}")
    sides = args.sides.split("|")
    for goal in [goal for goal in GOALS if goal in chosen]:
        found: dict[str, list[Record]] = {side: [] for side in sides}
        for seed in range(1 if args.quick else args.seeds):
            for side in sides[:: 1 if seed % 2 else -1]:
                name, script, more = CLIMBERS[side]
                run = results.measure(
                    f"{goal}: {side}, seed {seed}",
                    lambda n=name, s=script, m=more, g=goal, k=seed: climb(pythons[n], s, m, g, k),
                )
                found[side].append(run)
                records.append(run)
        env, score, every = GOALS[goal]
        rule = (
            f"Until the mean of 20 deterministic episodes, played every {every:,} steps, is at "
            f"least {score}, and that of 100 fresh ones, too."
        )
        parts.append(f"### {env} to {score}\n\n{rule}\n\n{goal_table(found)}")
    results.publish("SAC", "\n\n".join(parts), records, all_versions(pythons, PACKAGES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
