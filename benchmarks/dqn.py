"""DQN beside Stable-Baselines3's on CartPole: time to a good policy.

python benchmarks/dqn.py --seeds 5
"""

from __future__ import annotations

import statistics
import sys

from common import Results, parser, spread, table, venv_python, versions
from control import run

PACKAGES = ("poise", "torch", "gymnasium", "numpy", "stable-baselines3")
SIDES = {"Poise, its preset": ("poise", "poise_dqn.py"), "SB3 DQN, RL Zoo settings": ("sb3", "sb3_dqn.py")}
TASK = ("--env", "CartPole-v1", "--goal", "475", "--every", "2500", "--confirm", "--steps", "50000")
RULE = (
    "Until the mean of 20 greedy episodes, played every 2,500 steps, is at least 475 and 100 fresh ones confirm it, or "
    "50,000 steps. One thread, one process at a time, sides alternating. Training: the loop; evaluations stop the "
    "clock. Cells are medians over seeds (lowest to highest). Score: the mean return of these 100 episodes, by one "
    "evaluator for both. SB3: one environment, 256-256, 128 gradient steps of 64 for 256 steps."
)


def section(results: Results) -> str:
    """What is measured, as Markdown."""
    rows, ours = [], 0.0
    for side in SIDES:
        found = [r for key, r in results.items.items() if key.startswith(f"{side}, seed ")]
        if not found:
            continue
        middle = statistics.median(r["train_s"] for r in found)
        ours = ours or middle
        rows.append(
            [
                side,
                f"{sum(r['reached'] for r in found)} of {len(found)}",
                spread((r["train_s"] for r in found), 1),
                spread((r["steps"] for r in found), 0),
                f"{middle / ours:.2f}",
                spread((r["evaluation"] for r in found), 0),
            ]
        )
    headers = ["", "Reached the goal", "Training, s", "Steps", "Training time, as a multiple of Poise's", "Score"]
    return f"### DQN on CartPole-v1 to 475\n\n{RULE}\n\n{table(headers, rows)}"


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--sides", default="poise,sb3", help="by comma")
    args = options.parse_args()
    wanted = args.sides.split(",")
    wrong = [side for side in wanted if side not in ("poise", "sb3")]
    if wrong:
        options.error(f"there is no {wrong[0]!r}; sides are poise and sb3")
    results = Results("dqn", quick=args.quick, fresh=args.fresh)
    pythons = {venv: venv_python(venv) for venv in ("poise", "sb3") if venv in wanted}
    for seed in range(1 if args.quick else args.seeds):
        sides = [(side, *where) for side, where in SIDES.items() if where[0] in pythons]
        for side, venv, script in sides if seed % 2 == 0 else reversed(sides):
            arguments = (*TASK[:-1], "5000") if args.quick else TASK
            results.measure(
                f"{side}, seed {seed}", lambda v=venv, s=script, a=arguments, n=seed: run(pythons[v], s, a, n)
            )
    used = {name: versions(python, PACKAGES) for name, python in pythons.items()}
    about = " ".join(
        f"Versions of {n}: {', '.join(f'{k} {v}' for k, v in found.items())}." for n, found in used.items()
    )
    results.publish("DQN", section(results), list(results.items.values()), about)
    return 0


if __name__ == "__main__":
    sys.exit(main())
