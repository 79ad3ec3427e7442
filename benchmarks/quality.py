"""How well PPO learns with its presets: several seeds, a fixed number of steps, then 100 fresh
episodes each.

python benchmarks/quality.py --seeds 5 --only Acrobot-v1,Pendulum-v1
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass

from common import Record, Results, parser, spread, table

EPISODES = 100


@dataclass
class Task:
    """An environment, how long to learn in it, and what its policy should then score.

    Attributes:
        env: Gymnasium id.
        steps: of training.
        target: mean return that a seed passes with.
        target_from: where the target comes from.
        zoo: the score that the RL Zoo publishes for PPO (benchmark.md): one run, mean ± deviation
            over episodes, and the steps it was trained for.
    """

    env: str
    steps: int
    target: float
    target_from: str
    zoo: str


TASKS = [
    Task("Acrobot-v1", 300_000, -85, "ten below the Zoo's mean", "-73.5 ± 18.2 after 1M"),
    Task("MountainCarContinuous-v0", 300_000, 88, "the Zoo's mean", "88.3 ± 2.6 after 20k"),
    Task(
        "Pendulum-v1",
        300_000,
        -200,
        "none in Gymnasium; the Zoo's mean and a margin",
        "-172.2 ± 104.2 after 100k",
    ),
    Task(
        "LunarLander-v3",
        1_000_000,
        220,
        "twenty above where it counts as solved",
        "242.1 ± 31.8 after 1M, on v2",
    ),
]


def run(task: Task, seed: int, steps: int) -> Record:
    """Trains one seed and evaluates it; the evaluation is not in the seconds."""
    import poise

    with poise.PPO(task.env, seed=seed, progress=False) as trainer:
        start = time.perf_counter()
        result = trainer.learn(total_timesteps=steps)
        seconds = time.perf_counter() - start
        # Ctrl-C ends only `learn`, in good order, but is meant for this benchmark.
        if result["stop_reason"] == "interrupted":
            raise KeyboardInterrupt
        score = trainer.evaluate(EPISODES, seed=seed + 1)
        return {
            "score": score["episode_reward_mean"],
            "score_std": score["episode_reward_std"],
            "train_reward": result["episode_reward_mean"],
            "steps": result["timesteps_total"],
            "train_s": round(seconds, 2),
            "preset": trainer.preset,
        }


def row(task: Task, found: list[Record]) -> list[str]:
    """One task's line of the table."""
    scores = [r["score"] for r in found]
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return [
        task.env,
        spread((r["steps"] for r in found), 0),
        ", ".join(f"{s:.1f}" for s in scores),
        f"{statistics.fmean(scores):.1f} ± {deviation:.1f}",
        f"{task.target:g} ({task.target_from})",
        f"{sum(s >= task.target for s in scores)} of {len(scores)}",
        task.zoo,
        spread((r["train_s"] for r in found), 1),
        "yes" if found[0]["preset"] else "no",
    ]


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--only", default="", help="environments, by comma; all unless given")
    args = options.parse_args()
    chosen = [name for name in args.only.split(",") if name] or [task.env for task in TASKS]
    wrong = [name for name in chosen if name not in {task.env for task in TASKS}]
    if wrong:
        options.error(
            f"there is no {wrong[0]!r}; tasks are {', '.join(task.env for task in TASKS)}"
        )
    results = Results("quality", quick=args.quick, fresh=args.fresh)
    seeds = 1 if args.quick else args.seeds
    print(f"PPO's quality, {seeds} seeds:", flush=True)
    rows = []
    for task in TASKS:
        steps = 5_000 if args.quick else task.steps
        for seed in range(seeds if task.env in chosen else 0):
            item = f"{task.env}, {steps} steps, seed {seed}"
            results.measure(item, lambda task=task, seed=seed, steps=steps: run(task, seed, steps))
        found = [
            r for key, r in results.items.items() if key.startswith(f"{task.env}, {steps} steps,")
        ]
        if found:
            rows.append(row(task, found))
    headers = [
        "",
        "Steps",
        "Score of each seed",
        "Mean ± deviation over seeds",
        "Target",
        "Seeds that pass",
    ]
    headers += ["RL Zoo publishes", "Training, s", "Preset"]
    rule = (
        "`poise.PPO(env, seed=N)` with the preset of the environment, where there is one. Score: "
        f"the mean return of {EPISODES} fresh deterministic episodes after training. "
        "The Zoo's scores are of one run each, over 150,000 steps, and are here for orientation."
    )
    results.publish(
        "PPO's quality", f"{rule}\n\n{table(headers, rows)}", list(results.items.values())
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
