"""Continuous control beside Stable-Baselines3: time to a good policy, and how good one is after a
million steps.

python benchmarks/control.py --seeds 5 --only pendulum,cheetah
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from common import HERE, Record, Results, all_versions, parser, spread, table, venv_python

PACKAGES = ("poise", "torch", "gymnasium", "mujoco", "numpy", "stable-baselines3")
SIDES = {"Poise, its preset": ("poise", "poise_climb.py"), "SB3 PPO": ("sb3", "sb3_climb.py")}


@dataclass
class Part:
    """One comparison.

    Attributes:
        title, rule: said above the table.
        arguments: of both sides' scripts.
        max_seeds: at most so many, where runs are long.
        timed: whether training times are compared, and not only scores.
    """

    title: str
    rule: str
    arguments: tuple[str, ...]
    max_seeds: int
    timed: bool


PARTS = {
    "pendulum": Part(
        "InvertedDoublePendulum-v5 to 9,000",
        "Until the mean of 20 deterministic episodes, played every 20,480 steps, "
        "is at least 9,000 (a perfect episode is about 9,350), or a million steps. SB3: "
        "8 environments, `VecNormalize`, 256 x 8 steps, batches of 256, 10 epochs.",
        ("--env", "InvertedDoublePendulum-v5", "--goal", "9000"),
        10,
        True,
    ),
    "cheetah": Part(
        "HalfCheetah-v5 after a million steps",
        "SB3 has the RL Zoo's settings: one environment, batches of 64, 20 epochs, "
        "two towers 256-256. Scores are compared; the times were taken while other things ran.",
        ("--env", "HalfCheetah-v5"),
        3,
        False,
    ),
}


def run(python: Path, script: str, arguments: tuple[str, ...], seed: int) -> Record:
    """One run of one side; its last line is the record."""
    command = [str(python), str(HERE / "peers" / script), *arguments, "--seed", str(seed)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    if done.returncode:
        raise SystemExit(f"\n{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def section(results: Results, name: str, part: Part) -> str:
    """What is measured of one comparison, as Markdown."""
    rows, ours = [], 0.0
    for side in SIDES:
        found = [r for key, r in results.items.items() if key.startswith(f"{name}: {side}, seed ")]
        if not found:
            continue
        middle = statistics.median(r["train_s"] for r in found)
        ours = ours or middle
        scores = [r["evaluation"] for r in found]
        rows.append(
            [
                side,
                f"{sum(r['reached'] for r in found)} of {len(found)}",
                spread((r["train_s"] for r in found), 1),
                spread((r["steps"] for r in found), 0),
                spread((r["steps_per_s"] for r in found), 0),
                f"{middle / ours:.2f}" if part.timed else "-",
                ", ".join(f"{s:,.0f}" for s in scores),
                f"{statistics.fmean(scores):,.0f}",
            ]
        )
    headers = [
        "",
        "Reached the goal",
        "Training, s",
        "Steps",
        "Steps/s",
        "Training time, as a multiple of Poise's",
    ]
    headers += ["Score of each seed", "Mean score"]
    return f"### {part.title}\n\n{part.rule}\n\n{table(headers, rows)}" if rows else ""


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--only", default=",".join(PARTS), help="comparisons, by comma")
    options.add_argument("--sides", default="poise,sb3", help="by comma")
    args = options.parse_args()
    chosen, wanted = args.only.split(","), args.sides.split(",")
    wrong = [n for n in chosen if n not in PARTS] + [s for s in wanted if s not in ("poise", "sb3")]
    if wrong:
        options.error(
            f"there is no {wrong[0]!r}; comparisons are {', '.join(PARTS)}, and sides poise and sb3"
        )
    results = Results("control", quick=args.quick, fresh=args.fresh)
    pythons = {
        venv: venv_python(venv, "gymnasium[mujoco]") for venv in ("poise", "sb3") if venv in wanted
    }
    for name in chosen:
        part = PARTS[name]
        for seed in range(1 if args.quick else min(args.seeds, part.max_seeds)):
            sides = [(side, *where) for side, where in SIDES.items() if where[0] in pythons]
            for side, venv, script in sides if seed % 2 == 0 else reversed(sides):
                arguments = (*part.arguments, "--steps", "20000") if args.quick else part.arguments
                results.measure(
                    f"{name}: {side}, seed {seed}",
                    lambda v=venv, s=script, a=arguments, n=seed: run(pythons[v], s, a, n),
                    lasting=venv == "sb3" and not part.timed,
                )
    rule = (
        "PPO on both sides, one thread, one process at a time, sides alternating. Training: "
        "the loop; evaluations stop the clock. Cells are medians over seeds (lowest to highest). "
        "Score: the mean return of 100 fresh deterministic episodes afterwards, "
        "by one evaluator for both."
    )
    body = "\n".join(
        text for text in (section(results, name, part) for name, part in PARTS.items()) if text
    )
    results.publish(
        "Continuous control",
        f"{rule}\n\n{body}",
        list(results.items.values()),
        all_versions(pythons, PACKAGES),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
