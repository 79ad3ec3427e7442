"""Pong from the screen on a plain processor: how long until the policy wins, and how many steps a
second.

python benchmarks/pong.py --seeds 5 --only APPO,PPO,IMPALA,peers
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from common import HERE, Record, Results, all_versions, parser, spread, table, venv_python

ENV, EPISODES = "PongNoFrameskip-v4", 20
MOST = 2_000_000
"""Steps after which a run that has not got to the goal ends."""
AGAIN = 20_000
"""Steps from an evaluation that did not confirm the goal to the next."""
LEVELS = (-15, -10, -5, 0, 5, 10, 15)
"""Mean returns of training episodes whose first steps are kept: the learning curve."""
OTHER_GAME, OTHER_GAME_S = "BreakoutNoFrameskip-v4", 1200
"""A game that the settings were not chosen for, and the seconds for which it is trained on."""


@dataclass
class Part:
    """One row.

    Attributes:
        algorithm: with its preset for Pong.
        goal: mean return of the last `EPISODES` training episodes.
        settings: what else is set.
    """

    algorithm: str
    goal: float = 18
    settings: dict[str, Any] = field(default_factory=dict)


PARTS = {
    "APPO": Part("APPO"),
    "PPO": Part("PPO"),
    "IMPALA": Part("IMPALA"),
    "PPO at 42 x 42": Part("PPO", settings={"env_config": {"size": 42}}),
    "DQN to 10": Part("DQN", goal=10),
}
SYSTEMS = {
    **{f"Poise {name}": "poise" for name in ("PPO", "DQN", "IMPALA")},
    **{f"SB3 {name}": "sb3" for name in ("PPO", "DQN")},
    **{f"RLlib {name}": "rllib" for name in ("PPO", "IMPALA")},
}
"""What trains for a minute at matched settings, and the virtual environment that it runs in."""
PACKAGES = ("poise", "torch", "gymnasium", "ale-py", "numpy", "stable-baselines3", "ray")


def run(part: Part, seed: int, most: int) -> Record:
    """Trains one seed until fresh games confirm the goal; playing them is not in the seconds."""
    import poise

    class Curve(poise.Callback):
        """The steps at which the mean return first came to each level."""

        def __init__(self) -> None:
            self.steps: dict[str, int] = {}

        def on_iteration(self, trainer: Any, result: Record) -> None:
            if result["episodes_total"] >= EPISODES:
                for level in LEVELS:
                    if result["episode_reward_mean"] >= level:
                        self.steps.setdefault(str(level), result["timesteps_total"])

    curve = Curve()
    settings = {
        "seed": seed,
        "metrics_smoothing_episodes": EPISODES,
        "progress": False,
        "callbacks": [curve],
    }
    with getattr(poise, part.algorithm)(ENV, **settings, **part.settings) as trainer:
        first: Record = {}
        tries, seconds, score, stop = (
            0,
            0.0,
            -math.inf,
            {"episode_reward_mean": part.goal, "timesteps_total": most},
        )
        while score < part.goal and trainer.algorithm.timesteps < most:
            start = time.perf_counter()
            reasons = [trainer.learn(AGAIN)["stop_reason"]] if tries else []
            result = trainer.learn(stop=stop, confirm=False)
            seconds += time.perf_counter() - start
            # Ctrl-C ends only `learn`, in good order, but is meant for this benchmark.
            if "interrupted" in (*reasons, result["stop_reason"]):
                raise KeyboardInterrupt
            tries += 1
            score = trainer.evaluate(EPISODES, seed=1000 * tries + seed)["episode_reward_mean"]
            if not first and result["episode_reward_mean"] >= part.goal:
                first = {"first_s": round(seconds, 1), "first_steps": result["timesteps_total"]}
            print(f"[{seconds:.0f} s: {score:.1f}]", end=" ", flush=True)
        return {
            "reached": score >= part.goal,
            **first,
            "train_s": round(seconds, 1),
            "steps": result["timesteps_total"],
            "score": score,
            "curve": curve.steps,
            "numbers": trainer.config.model.conv_dtype,
            **{
                f"{key}_share": round(result[f"perf/{key}_share"], 2)
                for key in ("env", "inference", "learning")
            },
        }


def row(name: str, part: Part, found: list[Record]) -> list[str]:
    """One line of the table."""
    return [
        name,
        f"{sum(r['reached'] for r in found)} of {len(found)}",
        spread(firsts, 0) if (firsts := [r["first_s"] for r in found if "first_s" in r]) else "-",
        spread((r["train_s"] for r in found), 0),
        spread((r["steps"] for r in found), 0),
        spread((r["steps"] / r["train_s"] for r in found), 0),
        ", ".join(f"{r['score']:.1f}" for r in found),
        " / ".join(f"{found[0][f'{key}_share']:.0%}" for key in ("env", "inference", "learning")),
        found[0]["numbers"],
    ]


def curve(name: str, found: list[Record]) -> list[str]:
    """One line of the table of learning curves."""
    reached = {
        level: [r["curve"][str(level)] for r in found if str(level) in r["curve"]]
        for level in LEVELS
    }
    return [
        name,
        *(f"{statistics.median(steps) / 1000:.0f}" if steps else "-" for steps in reached.values()),
    ]


def other_game(seconds: float) -> Record:
    """PPO with Pong's settings on a game that they were not chosen for."""
    import poise

    with poise.PPO(OTHER_GAME, preset=ENV, seed=0, progress=False) as trainer:
        result = trainer.learn(stop={"time_total_s": seconds})
        return {
            "steps": result["timesteps_total"],
            "steps_per_s": round(result["timesteps_total"] / result["time_total_s"]),
            "training": result["episode_reward_mean"],
            "score": trainer.evaluate(EPISODES, explore=True)["episode_reward_mean"],
        }


def section(results: Results) -> str:
    """What is measured, as Markdown."""
    rows, curves = [], []
    for name, part in PARTS.items():
        if found := [r for key, r in results.items.items() if key.startswith(f"{name}, seed ")]:
            rows.append(row(name, part, found))
            curves += [curve(name, known)] if (known := [r for r in found if "curve" in r]) else []
    headers = [
        "",
        "Confirmed",
        "First at the goal, s",
        "Confirmed, s",
        "Steps",
        "Steps/s",
        "Score of fresh episodes, each seed",
    ]
    headers += ["Emulator / inference / learning, share of time", "Convolutions in"]
    text = (
        f"`{ENV}`: the six minimal actions, each for four frames with max-pooling, grey, 84 x 84, "
        "four pictures, up to 30 no-ops, no sticky actions; steps are agent steps. "
        f"The first 18 is where the mean return of the last {EPISODES} training episodes gets "
        f"there; confirmed is where {EPISODES} fresh episodes, with the most likely actions, "
        f"have a mean (the score) of 18, too. Until then it trains on for at least {AGAIN:,} "
        "steps, and until the training episodes are at 18 again. Evaluations are not in the times. "
        "DQN's goal is 10."
    )
    parts = [f"### Pong to 18\n\n{text}\n\n{table(headers, rows)}"] if rows else []
    if curves:
        text = (
            f"Thousands of steps (median over seeds) until the mean of {EPISODES} training "
            "episodes is at:"
        )
        parts.append(f"### Learning curves\n\n{text}\n\n{table(['', *map(str, LEVELS)], curves)}")
    if game := results.items.get(OTHER_GAME):
        text = (
            f"PPO with the settings of Pong for {OTHER_GAME_S // 60} minutes on `{OTHER_GAME}`, "
            f"seed 0: {game['steps']:,} steps at {game['steps_per_s']:,} a second. "
            f"The last 100 training episodes have a mean return of {game['training']:.1f}; "
            f"{EPISODES} fresh ones, with sampled actions, {game['score']:.1f}."
        )
        parts.append(f"### Another game\n\n{text}\n")
    rates = [
        [name, f"{r['steps_per_s']:,}", f"{r['memory_mib']:,}"]
        for name in SYSTEMS
        if (r := results.items.get(f"rate: {name}"))
    ]
    if rates:
        text = (
            "Each trains for a minute on the same game, prepared in the same way. PPO: "
            "8 environments, rollouts of 128, 4 epochs of minibatches of 256. DQN: "
            "one environment, a minibatch of 32 every 4 steps, memory for 100,000 steps. "
            "Both have the network of Mnih et al. 2015, "
            "but RLlib's PPO the small one of its examples. IMPALA: the small network, "
            "one pass over batches of 512 (RLlib's 500). Poise's DQN is double, SB3's not. "
            "RLlib's memory is that of its driver alone."
        )
        parts.append(
            "### Steps a second beside "
            f"peers\n\n{text}\n\n{table(['', 'Steps/s', 'Memory, MiB'], rates)}"
        )
    return "\n".join(parts)


def rate(name: str, seconds: float) -> Record:
    """A minute of one system."""
    python = venv_python(SYSTEMS[name], "ale-py", "opencv-python-headless")
    command = [
        str(python),
        str(HERE / "peers" / "pong_rates.py"),
        "--system",
        name,
        "--seconds",
        str(seconds),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"\n{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(lines[-1]))


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=5)
    known = (*PARTS, "Breakout", "peers")
    options.add_argument(
        "--only", default="APPO,PPO,IMPALA,peers", help=f"of {', '.join(known)}, by comma"
    )
    args = options.parse_args()
    chosen = args.only.split(",")
    wrong = [name for name in chosen if name not in known]
    if wrong:
        options.error(f"there is no {wrong[0]!r}; rows are {', '.join(known)}")
    results = Results("pong", quick=args.quick, fresh=args.fresh)
    most = 10_000 if args.quick else MOST
    for name, part in PARTS.items():
        for seed in range((1 if args.quick else args.seeds) if name in chosen else 0):
            results.measure(f"{name}, seed {seed}", lambda p=part, i=seed: run(p, i, most))
    if "Breakout" in chosen:
        results.measure(OTHER_GAME, lambda: other_game(10 if args.quick else OTHER_GAME_S))
    for name in SYSTEMS if "peers" in chosen else ():
        results.measure(f"rate: {name}", lambda n=name: rate(n, 5 if args.quick else 60))
    used = dict.fromkeys(SYSTEMS.values()) if "peers" in chosen else {}
    about = all_versions({venv: venv_python(venv) for venv in used}, PACKAGES)
    results.publish("Pong", section(results), list(results.items.values()), about)
    return 0


if __name__ == "__main__":
    sys.exit(main())
