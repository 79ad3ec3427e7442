"""Presets, trained on past their goal: when it is reached first, the worst after that, and what
they score at the end.

python benchmarks/past_goal.py --only FrozenLake,DQN --seeds 3
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass

from common import Record, Results, parser, published, spread, table

EPISODES = 100


@dataclass
class Task:
    """A preset, how long it trains, and its goal.

    Attributes:
        algorithm, env: of the preset.
        goal: `episode_reward_mean` that counts as reached.
        goal_from: where it comes from.
        steps: of training, several times as many as the goal takes.
        seeds: at most so many, where runs are long.
        episodes: of the last evaluation, more of them where returns are mostly chance.
    """

    algorithm: str
    env: str
    goal: float
    goal_from: str
    steps: int
    seeds: int = 5
    episodes: int = EPISODES

    def __str__(self) -> str:
        return f"{self.algorithm} on {self.env}"


REGISTRY = "Gymnasium's threshold"
ZOO = "near what RL Baselines3 Zoo publishes"
TASKS = [
    Task("PPO", "CartPole-v1", 475, REGISTRY, 300_000),
    Task("A2C", "CartPole-v1", 475, REGISTRY, 300_000),
    Task("IMPALA", "CartPole-v1", 475, REGISTRY, 500_000),
    Task("APPO", "CartPole-v1", 475, REGISTRY, 300_000),
    Task("DQN", "CartPole-v1", 475, REGISTRY, 100_000),
    Task("PPO", "Acrobot-v1", -100, REGISTRY, 300_000, seeds=3),
    Task("DQN", "Acrobot-v1", -100, REGISTRY, 120_000, seeds=3),
    Task("PPO", "MountainCar-v0", -110, REGISTRY, 300_000, seeds=3),
    Task("DQN", "MountainCar-v0", -110, REGISTRY, 150_000, seeds=3),
    Task("PPO", "MountainCarContinuous-v0", 90, REGISTRY, 200_000, seeds=3),
    Task("PPO", "Pendulum-v1", -200, f"{ZOO}, -172", 300_000, seeds=3),
    Task("PPO", "FrozenLake-v1", 0.7, REGISTRY, 150_000),
    Task("DQN", "FrozenLake-v1", 0.7, REGISTRY, 150_000, seeds=3),
    Task("PPO", "FrozenLake8x8-v1", 0.8, "0.05 below Gymnasium's threshold", 400_000),
    Task("PPO", "Taxi-v4", 7.5, "half below Gymnasium's threshold", 200_000),
    Task("DQN", "Taxi-v4", 7.5, "half below Gymnasium's threshold", 100_000, seeds=3),
    Task("PPO", "CliffWalking-v1", -15, "two below the best there is", 80_000),
    Task("DQN", "CliffWalking-v1", -15, "two below the best there is", 100_000, seeds=3),
    Task(
        "PPO",
        "Blackjack-v1",
        -0.08,
        "near the best there is, -0.05; chance: -0.4",
        100_000,
        seeds=3,
        episodes=5000,
    ),
    Task("PPO", "LunarLanderContinuous-v3", 200, REGISTRY, 500_000, seeds=3),
    Task("PPO", "InvertedPendulum-v5", 950, REGISTRY, 60_000, seeds=3),
    Task("PPO", "Swimmer-v5", 280, f"{ZOO} for v3, 282", 500_000, seeds=3),
    Task("PPO", "Reacher-v5", -5, "a bit below Gymnasium's threshold", 300_000, seeds=3),
]


def run(task: Task, seed: int, steps: int) -> Record:
    """Trains one seed to the end, whatever it reaches, and evaluates it; the evaluation is not in
    the seconds."""
    import poise

    with getattr(poise, task.algorithm)(task.env, seed=seed, progress=False) as trainer:
        start = time.process_time()
        first, first_s, worst, best = None, None, None, -float("inf")
        while trainer.algorithm.timesteps < steps:
            result = trainer.train()
            mean = result["episode_reward_mean"]
            if result["episodes_total"] < trainer.config.metrics_smoothing_episodes:
                continue
            best = max(best, mean)
            if first is None and mean >= task.goal:
                first, first_s = result["timesteps_total"], round(time.process_time() - start, 2)
            elif first is not None:
                worst = mean if worst is None else min(worst, mean)
        seconds = time.process_time() - start
        score = trainer.evaluate(task.episodes, seed=seed + 1)
        return {
            "first": first,
            "first_s": first_s,
            "worst": worst,
            "best": best,
            "score": score["episode_reward_mean"],
            "steps": result["timesteps_total"],
            "train_s": round(seconds, 2),
            "preset": trainer.preset,
        }


def row(task: Task, found: list[Record]) -> list[str]:
    """One task's line of the table."""
    digits = 2 if abs(task.goal) < 1 else 1
    scores = [r["score"] for r in found]
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    reached = [r for r in found if r["first"]]
    worst = [r["worst"] for r in found if r["worst"] is not None]
    return [
        task.env,
        task.algorithm,
        f"{task.goal:g} ({task.goal_from})",
        f"{len(reached)} of {len(found)}",
        spread((r["first"] for r in reached), 0),
        spread((r["first_s"] for r in reached), 1),
        spread((r["steps"] for r in found), 0),
        f"{min(worst):.{digits}f}" if worst else "-",
        ", ".join(f"{score:.{digits}f}" for score in scores),
        f"{statistics.fmean(scores):.{digits}f} ± {deviation:.{digits}f}",
        ", ".join(dict.fromkeys(r["commit"] for r in found)),
    ]


HEADERS = [
    "",
    "Algorithm",
    "Goal",
    "Reached",
    "Steps to it",
    "CPU seconds to it",
    "Steps in all",
    "Lowest mean after it",
    "Score of each seed at the end",
    "Mean ± deviation over seeds",
    "Measured at",
]
RULE = (
    "`poise train ALGORITHM --env ENVIRONMENT --stop timesteps_total=STEPS` with the preset, "
    "and no stop at the goal: what is learnt must not be lost where it trains on. "
    "A goal is reached where `episode_reward_mean`, over training episodes, which explore, "
    "is there. The score at the end is the mean return of fresh deterministic episodes "
    f"({EPISODES} unless said). Seconds are those of the process, not of the clock: "
    "other things ran beside it. Cells are medians over seeds (lowest to highest). "
    "Rows that `--only` leaves out stay as they were measured, at the commit that they name."
)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument(
        "--only", default="", help="parts of `ALGORITHM on ENVIRONMENT`, by comma; all unless given"
    )
    args = options.parse_args()
    parts = [part.lower() for part in args.only.split(",") if part]
    chosen = [
        task for task in TASKS if not parts or any(part in str(task).lower() for part in parts)
    ]
    if not chosen:
        options.error(f"there is no {args.only!r}; tasks are {', '.join(map(str, TASKS))}")
    results = Results("past_goal", quick=args.quick, fresh=args.fresh)
    print("Presets past their goal:", flush=True)
    kept = (
        {}
        if args.quick
        else {(cells[1], cells[0]): cells for cells in published("past_goal", HEADERS)}
    )
    rows = []
    for task in TASKS:
        steps = 5_000 if args.quick else task.steps
        for seed in range(1 if args.quick else min(args.seeds, task.seeds)):
            if task in chosen:
                item = f"{task}, {steps} steps, seed {seed}"
                results.measure(
                    item, lambda task=task, seed=seed, steps=steps: run(task, seed, steps)
                )
        found = [r for key, r in results.items.items() if key.startswith(f"{task}, {steps} steps,")]
        if found or (task.algorithm, task.env) in kept:
            rows.append(row(task, found) if found else kept[task.algorithm, task.env])
    results.publish(
        "Presets past their goal", f"{RULE}\n\n{table(HEADERS, rows)}", list(results.items.values())
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
