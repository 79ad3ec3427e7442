"""Scripts of Stable-Baselines3's kind, unchanged but for their import lines, on both libraries.

python benchmarks/sb3_scripts.py --seeds 5 --only PPO,DQN,SAC
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from pathlib import Path

from common import HERE, Record, Results, all_versions, parser, spread, table, venv_python

SCRIPTS = {
    "PPO": ("CartPole-v1", 25_000),
    "A2C": ("CartPole-v1", 25_000),
    "DQN": ("CartPole-v1", 50_000),
    "SAC": ("Pendulum-v1", 5_000),
    "TD3": ("Pendulum-v1", 5_000),
}
"""The environment and the steps of each algorithm's script."""
SIDES = {"Poise": "poise", "SB3": "sb3"}
RULE = (
    "One script for both sides, `peers/sb3_script.py`, as the documentation of Stable-Baselines3 "
    "has them: `make_vec_env` of one environment, the algorithm with its defaults (those of "
    "Stable-Baselines3 on both sides), `learn`, `evaluate_policy`. The side decides the import "
    "lines. Score: the mean of 20 deterministic episodes of each seed. Processor time of training, "
    "with one thread; sides in turn, seed by seed."
)


def run(python: Path, side: str, algorithm: str, seed: int, quick: bool) -> Record:
    """One run of one side; its last line is the record."""
    env, steps = SCRIPTS[algorithm]
    command = [str(python), str(HERE / "peers" / "sb3_script.py"), side, algorithm, env]
    command += ["--steps", str(min(steps, 1000) if quick else steps), "--seed", str(seed)]
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=quiet)
    if done.returncode:
        raise SystemExit(f"\n{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def section(results: Results) -> str:
    """What is measured, as Markdown."""
    rows = []
    for algorithm, (env, steps) in SCRIPTS.items():
        ours = 0.0
        for side in SIDES:
            start = f"{algorithm}: {side}, seed "
            found = [record for key, record in results.items.items() if key.startswith(start)]
            if not found:
                continue
            middle = statistics.median(record["cpu_s"] for record in found)
            ours = ours or middle
            scores = [record["score"] for record in found]
            rows.append([
                f"{algorithm}, {env}, {steps:,} steps", side, spread(scores, 0),
                f"{statistics.fmean(scores):,.0f}", spread((r["cpu_s"] for r in found), 1),
                f"{middle / ours:.2f}", len(found),
            ])  # fmt: skip
    headers = ["Script", "", "Score", "Mean score", "Processor time, s"]
    headers += ["Processor time, as a multiple of Poise's", "Seeds"]
    return f"{RULE}\n\n{table(headers, rows)}" if rows else ""


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--only", default=",".join(SCRIPTS), help="algorithms, by comma")
    args = options.parse_args()
    chosen = args.only.split(",")
    if wrong := [name for name in chosen if name not in SCRIPTS]:
        options.error(f"there is no {wrong[0]!r}; algorithms are {', '.join(SCRIPTS)}")
    results = Results("sb3_scripts", quick=args.quick, fresh=args.fresh)
    pythons = {side: venv_python(side) for side in SIDES.values()}
    for algorithm in chosen:
        for seed in range(args.seeds):
            for shown, side in SIDES.items():
                results.measure(
                    f"{algorithm}: {shown}, seed {seed}",
                    lambda s=side, a=algorithm, n=seed: run(pythons[s], s, a, n, args.quick),  # type: ignore[misc]
                )
    packages = ("poise", "torch", "gymnasium", "numpy", "stable-baselines3")
    more = all_versions(pythons, packages)
    records = list(results.items.values())
    results.publish("Scripts of Stable-Baselines3", section(results), records, more)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
