"""Pong from the screen on a plain processor: how long until the policy wins so much, and how many steps a second.

python benchmarks/pong.py --seeds 3 --only start
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from common import Record, Results, parser, spread, table

ENV = "PongNoFrameskip-v4"
EPISODES = 20


@dataclass
class Part:
    """One row.

    Attributes:
        title: of the row.
        algorithm: with its preset for Pong.
        goal: mean return of the last `EPISODES` training episodes.
        most: steps after which a run that has not got there ends.
    """

    title: str
    algorithm: str
    goal: float
    most: int


PARTS = {"start": Part("PPO begins to win points", "PPO", -15, 1_500_000)}


def run(part: Part, seed: int, most: int) -> Record:
    """Trains one seed until the goal, and evaluates it; the evaluation is not in the seconds."""
    import poise

    make = getattr(poise, part.algorithm)
    with make(ENV, seed=seed, metrics_smoothing_episodes=EPISODES, progress=False) as trainer:
        start = time.perf_counter()
        result = trainer.learn(stop={"episode_reward_mean": part.goal, "timesteps_total": most})
        seconds = time.perf_counter() - start
        if result["stop_reason"] == "interrupted":  # Ctrl-C ends `learn` in good order, and is meant for this benchmark
            raise KeyboardInterrupt
        return {
            "reached": result["episode_reward_mean"] >= part.goal,
            "train_s": round(seconds, 1),
            "steps": result["timesteps_total"],
            "score": trainer.evaluate(EPISODES, seed=seed + 1, explore=True)["episode_reward_mean"],
            "numbers": trainer.config.model.conv_dtype,
            **{f"{key}_share": round(result[f"perf/{key}_share"], 2) for key in ("env", "inference", "learning")},
        }


def row(part: Part, found: list[Record]) -> list[str]:
    """One line of the table."""
    return [
        part.title,
        f"{part.goal:g}",
        f"{sum(r['reached'] for r in found)} of {len(found)}",
        spread((r["train_s"] for r in found), 0),
        spread((r["steps"] for r in found), 0),
        spread((r["steps"] / r["train_s"] for r in found), 0),
        ", ".join(f"{r['score']:.1f}" for r in found),
        " / ".join(f"{found[0][f'{key}_share']:.0%}" for key in ("env", "inference", "learning")),
        found[0]["numbers"],
    ]


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--only", default=",".join(PARTS), help="rows, by comma")
    args = options.parse_args()
    chosen = args.only.split(",")
    wrong = [name for name in chosen if name not in PARTS]
    if wrong:
        options.error(f"there is no {wrong[0]!r}; rows are {', '.join(PARTS)}")
    results = Results("pong", quick=args.quick, fresh=args.fresh)
    rows = []
    for name, part in PARTS.items():
        most = 10_000 if args.quick else part.most
        for seed in range((1 if args.quick else args.seeds) if name in chosen else 0):
            results.measure(f"{name}, seed {seed}", lambda part=part, seed=seed, most=most: run(part, seed, most))
        found = [r for key, r in results.items.items() if key.startswith(f"{name}, ")]
        if found:
            rows.append(row(part, found))
    headers = ["", "Goal", "Reached", "Training, s", "Steps", "Steps/s", "Score of fresh episodes, each seed"]
    headers += ["Emulator / inference / learning, share of time", "Convolutions in"]
    rule = (
        f"`{ENV}`: the six minimal actions, each for four frames with max-pooling, grey, 84 x 84, four pictures, up to "
        "30 no-ops, no sticky actions; steps are agent steps. A run ends when the mean return of its last "
        f"{EPISODES} training episodes reaches the goal. Score: the mean of {EPISODES} fresh episodes, actions sampled "
        "as in training."
    )
    results.publish("Pong", f"{rule}\n\n{table(headers, rows)}", list(results.items.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
