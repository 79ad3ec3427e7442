"""DQN on CartPole beside Stable-Baselines3, RLlib and PyTorch's tutorial: time to a good policy;
the tutorial's task.

python benchmarks/dqn.py --seeds 5 --only goal,tutorial
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass

from common import Record, Results, all_versions, parser, spread, table, venv_python
from control import run

PACKAGES = ("poise", "torch", "gymnasium", "numpy", "stable-baselines3", "ray")


@dataclass
class Side:
    """One row of a comparison.

    Attributes:
        peer: what `--sides` calls it.
        venv: the virtual environment it runs in.
        script: its script in `peers/`.
        max_seeds: at most so many, where runs are long.
    """

    peer: str
    venv: str
    script: str
    max_seeds: int = 100


@dataclass
class Part:
    """One comparison. The first side is Poise's, and ratios are to it.

    Attributes:
        title, rule: said above the table.
        arguments, quick: of all sides' scripts, and what `--quick` puts after them.
        columns: of the table, beside those that all parts have: each a key of the records, and its
            digits.
        sides: by name.
    """

    title: str
    rule: str
    arguments: tuple[str, ...]
    quick: tuple[str, ...]
    columns: dict[str, tuple[str, int]]
    sides: dict[str, Side]


PARTS = {
    "goal": Part(
        "DQN on CartPole-v1 to 475",
        "Until the mean of 20 greedy episodes, played every 2,500 steps, "
        "is at least 475 and 100 fresh ones confirm it, or 50,000 steps. "
        "Evaluations stop the clock. Score: the mean return of 100 episodes at the end, "
        "by one evaluator for all. SB3: one environment, 256-256, "
        "128 gradient steps of 64 for 256 steps. RLlib: `cartpole_dqn.py`, double, "
        "dueling and prioritized, 2 to 5 steps, one gradient step of 32 after each fragment. "
        "The tutorial: one environment, 128-128, one gradient step of 128 after each step.",
        (
            "--env",
            "CartPole-v1",
            "--goal",
            "475",
            "--every",
            "2500",
            "--confirm",
            "--steps",
            "50000",
        ),
        ("--steps", "5000"),
        {"Score": ("evaluation", 0)},
        {
            "Poise, its preset": Side("poise", "poise", "poise_dqn.py"),
            "SB3 DQN, RL Zoo settings": Side("sb3", "sb3", "sb3_dqn.py"),
            "RLlib DQN, its tuned settings": Side("rllib", "rllib", "rllib_dqn.py"),
            "PyTorch's tutorial": Side("tutorial", "poise", "tutorial_dqn.py"),
        },
    ),
    "tutorial": Part(
        "The tutorial's task: 600 episodes of CartPole-v1, one update a step",
        "PyTorch's tutorial on DQN, which says that durations reach 500 within 600 episodes: its"
        ' settings on both sides (`poise.DQN(preset="tutorial")`, which looks at its episodes after'
        " every 200 steps), without its plots. Training episodes, which explore. "
        "Agents that live longer take more steps, so compare steps/s.",
        ("--env", "CartPole-v1", "--episodes", "600"),
        ("--episodes", "20"),
        {
            "Episodes": ("episodes", 0),
            "Mean duration of the last 100": ("last", 0),
            "Longest": ("longest", 0),
        },
        {
            "Poise, `--preset tutorial`": Side("poise", "poise", "poise_dqn.py", max_seeds=3),
            "The tutorial's loop": Side("tutorial", "poise", "tutorial_dqn.py", max_seeds=1),
        },
    ),
}


def section(results: Results, name: str, part: Part) -> str:
    """What is measured of one comparison, as Markdown."""
    goal = name == "goal"
    key, what = ("train_s", "Training time") if goal else ("steps_per_s", "Steps/s")
    rows, ours = [], 0.0
    for side in part.sides:
        prefix = f"{name}: {side}, seed "
        found = [record for item, record in results.items.items() if item.startswith(prefix)]
        if not found:
            continue
        middle = statistics.median(r[key] for r in found)
        ours = ours or middle
        at_least = "" if all(r.get("reached", True) for r in found) else "at least "
        rows.append(
            [
                side,
                reached(found),
                spread((r["train_s"] for r in found), 1),
                spread((r["steps"] for r in found), 0),
                spread((r["steps_per_s"] for r in found), 0),
                f"{at_least}{middle / ours:.2f}",
                *(spread((r[k] for r in found), digits) for k, digits in part.columns.values()),
            ]
        )
    if not rows:
        return ""
    headers = [
        "", "Reached the goal" if goal else "Reached 500", "Training, s", "Steps", "Steps/s",
        f"{what}, as a multiple of Poise's", *part.columns,
    ]  # fmt: skip
    return f"### {part.title}\n\n{part.rule}\n\n{table(headers, rows)}"


def reached(found: list[Record]) -> str:
    """How many runs reached their goal; for the tutorial's task, an episode of 500 steps."""
    return f"{sum(r.get('reached', r.get('longest') == 500) for r in found)} of {len(found)}"


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--only", default=",".join(PARTS), help="comparisons, by comma")
    options.add_argument("--sides", default="poise,sb3,rllib,tutorial", help="by comma")
    args = options.parse_args()
    chosen, wanted = args.only.split(","), args.sides.split(",")
    known = {side.peer for part in PARTS.values() for side in part.sides.values()}
    wrong = [n for n in chosen if n not in PARTS] + [s for s in wanted if s not in known]
    if wrong:
        options.error(
            f"there is no {wrong[0]!r}; comparisons are {', '.join(PARTS)}, "
            f"and sides {', '.join(known)}"
        )
    results = Results("dqn", quick=args.quick, fresh=args.fresh)
    sides = {
        n: {k: side for k, side in PARTS[n].sides.items() if side.peer in wanted} for n in chosen
    }
    venvs = dict.fromkeys(side.venv for part in sides.values() for side in part.values())
    pythons = {venv: venv_python(venv) for venv in venvs}
    for name in chosen:
        part = PARTS[name]
        arguments = (*part.arguments, *part.quick) if args.quick else part.arguments
        for seed in range(1 if args.quick else args.seeds):
            for label, side in list(sides[name].items())[:: 1 if seed % 2 == 0 else -1]:
                if seed < side.max_seeds:
                    results.measure(
                        f"{name}: {label}, seed {seed}",
                        lambda s=side, a=arguments, n=seed: run(pythons[s.venv], s.script, a, n),
                    )
    rule = (
        "One thread, one process at a time, sides alternating. Training: the loop alone. "
        "Cells are medians over seeds (lowest to highest)."
    )
    body = "\n".join(
        text for text in (section(results, name, PARTS[name]) for name in chosen) if text
    )
    results.publish(
        "DQN", f"{rule}\n\n{body}", list(results.items.values()), all_versions(pythons, PACKAGES)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
