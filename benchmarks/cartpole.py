"""CartPole against Stable-Baselines3 and RLlib: one process at a time, sides and seeds alternating,
one stopping rule.

python benchmarks/cartpole.py --seeds 10 --only process,matched,v0,a2c,impala --peers sb3,rllib
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import HERE, Record, Results, all_versions, parser, spread, table, venv_python

LIMIT_S = 900.0
"""A process that takes longer is ended, and counts as one that did not reach the goal."""

PACKAGES = ("poise", "torch", "gymnasium", "numpy", "stable-baselines3", "ray", "tensorboard")

WARM = {
    "poise": "import poise; poise.PPO",
    "sb3": "import stable_baselines3",
    "rllib": "import ray.rllib.algorithms.ppo",
}
"""Run once and unmeasured, so that no side pays for reading its files from the disk."""

Run = Callable[[dict[str, Path], int], Record]


@dataclass
class Side:
    """One column of a comparison: a name, the virtual environment it runs in, and how one seed of
    it is run."""

    name: str
    venv: str
    run: Run


@dataclass
class Part:
    """One comparison. The first side is Poise's, and ratios are to it."""

    title: str
    rule: str
    sides: list[Side]
    ratio: str
    max_seeds: int = 100


# --- running one process --------------------------------------------------------------------------


def timed(command: list[str], folder: Path) -> tuple[float, str]:
    """Runs a command with its output in a pipe; seconds from its start to its end, and what it
    printed.

    Raises:
        SystemExit: it failed.
        TimeoutError: it took longer than `LIMIT_S`.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    finally:
        seconds = time.perf_counter() - start
        # Stopped by the limit or by Ctrl-C; the whole group, since RLlib has children of its own.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        raise SystemExit(f"\n{' '.join(command)} failed:\n{err[-2000:]}")
    return seconds, out


def script(name: str, venv: str, *arguments: str) -> Run:
    """A training script in `peers/`. It evaluates after training, and that time is taken off."""

    def run(pythons: dict[str, Path], seed: int) -> Record:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                str(pythons[venv]),
                str(HERE / "peers" / name),
                *arguments,
                "--seed",
                str(seed),
            ]
            try:
                seconds, out = timed(command, Path(folder))
            except TimeoutError:
                return {"reached": False, "process_s": LIMIT_S}
        record = dict(json.loads(out.strip().splitlines()[-1]))
        return finish({**record, "process_s": seconds - record.pop("evaluation_s")})

    return run


def command_line(algorithm: str, env: str, goal: float, *arguments: str) -> Run:
    """`poise train`, whole; what it learnt is read from its run folder, and evaluated by another
    process."""

    def run(pythons: dict[str, Path], seed: int) -> Record:
        python = pythons["poise"]
        stop = f"episode_reward_mean={goal:g}"
        command = [str(python.with_name("poise")), "train", algorithm, "--env", env, "--stop", stop]
        with tempfile.TemporaryDirectory() as folder:
            try:
                seconds, _ = timed([*command, "--seed", str(seed), *arguments], Path(folder))
            except TimeoutError:
                return {"reached": False, "process_s": LIMIT_S}
            (config,) = Path(folder).glob("runs/*/*/config.json")
            status = json.loads((config.parent / "status.json").read_text())
            last = json.loads((config.parent / "metrics.jsonl").read_text().splitlines()[-1])
            judge = [
                str(python),
                str(HERE / "peers" / "poise_cartpole.py"),
                "--run",
                str(config.parent),
            ]
            _, out = timed([*judge, env, str(seed)], Path(folder))
        reward = last["episode_reward_mean"]
        return finish(
            {
                "steps": last["timesteps_total"],
                "train_s": last["time_total_s"],
                "reward": reward,
                "reached": last["episodes_total"] >= 100 and reward is not None and reward >= goal,
                "confirmed": status.get("confirmed_reward_mean"),
                "evaluation": json.loads(out.strip().splitlines()[-1])["evaluation"],
                "process_s": seconds,
            }
        )

    return run


def finish(record: Record) -> Record:
    """Adds the rate; rounds the seconds."""
    rate = record["steps"] / record["train_s"]
    return {**record, "steps_per_s": round(rate), "process_s": round(record["process_s"], 3)}


# --- the comparisons ------------------------------------------------------------------------------


def parts() -> dict[str, Part]:
    """All comparisons, by the name that `--only` takes."""
    v0 = ("--env", "CartPole-v0", "--goal", "195")
    tutorial = {"model": {"fcnet_hiddens": [32], "fcnet_activation": "linear"}}
    sb3, rllib = "SB3 PPO, RL Zoo settings", "RLlib PPO, its tuned settings"
    return {
        "process": Part(
            "The whole process: PPO on CartPole-v1 to 475",
            "`poise train PPO --env CartPole-v1 --stop episode_reward_mean=475 --seed N` and a "
            "script for each peer.",
            [
                Side("Poise, `poise train`", "poise", command_line("PPO", "CartPole-v1", 475)),
                Side(
                    "Poise, `poise train --no-confirm`",
                    "poise",
                    command_line("PPO", "CartPole-v1", 475, "--no-confirm"),
                ),
                Side(sb3, "sb3", script("sb3_cartpole.py", "sb3")),
                Side(rllib, "rllib", script("rllib_cartpole.py", "rllib")),
            ],
            "process_s",
        ),
        "matched": Part(
            "Matched settings: PPO on CartPole-v1 to 475",
            "The RL Zoo's settings on both sides (8 environments, 32 steps, one batch of 256, "
            "20 epochs, λ 0.8, γ 0.98, lr 1e-3 and clip 0.2 constant, two towers 64-64 tanh, "
            "one thread). Training is the loop alone.",
            [
                Side("Poise, the Zoo's settings", "poise", script("poise_cartpole.py", "poise")),
                Side(sb3, "sb3", script("sb3_cartpole.py", "sb3")),
            ],
            "steps_per_s",
        ),
        "v0": Part(
            "The tutorials' task: PPO on CartPole-v0 to 195",
            "The tutorials' network on both sides, which is also the one of RLlib's tuned "
            "settings: one linear layer of 32 units.",
            [
                Side(
                    "Poise, `poise train`",
                    "poise",
                    command_line("PPO", "CartPole-v0", 195, "--config", json.dumps(tutorial)),
                ),
                Side(rllib, "rllib", script("rllib_cartpole.py", "rllib", *v0)),
            ],
            "process_s",
            max_seeds=5,
        ),
        "a2c": Part(
            "A2C on CartPole-v0 to 195",
            "SB3's defaults with 8 environments (5 steps, lr 7e-4, two towers 64-64 tanh), "
            "once on both sides, and Poise's own settings.",
            [
                Side("Poise, `poise train`", "poise", command_line("A2C", "CartPole-v0", 195)),
                Side(
                    "Poise, SB3's defaults",
                    "poise",
                    script("poise_cartpole.py", "poise", "--algo", "A2C", *v0),
                ),
                Side(
                    "SB3 A2C, defaults",
                    "sb3",
                    script("sb3_cartpole.py", "sb3", "--algo", "A2C", *v0),
                ),
            ],
            "process_s",
            max_seeds=5,
        ),
        "impala": Part(
            "IMPALA on CartPole-v1 to 475",
            "`poise train IMPALA --env CartPole-v1 --stop episode_reward_mean=475 --seed N` and "
            "RLlib's tuned example, which is ended after four minutes.",
            [
                Side("Poise, `poise train`", "poise", command_line("IMPALA", "CartPole-v1", 475)),
                Side(
                    "RLlib IMPALA, its tuned settings",
                    "rllib",
                    script("rllib_cartpole.py", "rllib", "--algo", "IMPALA", "--seconds", "240"),
                ),
            ],
            "process_s",
            max_seeds=5,
        ),
    }


def measure(results: Results, name: str, part: Part, seeds: int, pythons: dict[str, Path]) -> None:
    """All seeds of all sides, alternating; each second seed in reverse order, so that no side is
    always first."""
    sides = [side for side in part.sides if side.venv in pythons]
    for seed in range(min(seeds, part.max_seeds)):
        for side in sides if seed % 2 == 0 else reversed(sides):
            results.measure(
                f"{name}: {side.name}, seed {seed}",
                lambda side=side, seed=seed: side.run(pythons, seed),
            )


def section(results: Results, name: str, part: Part) -> str:
    """What is measured of one comparison, as Markdown."""
    rows: list[list[Any]] = []
    ours: float | None = None
    for side in part.sides:
        found = [
            r for key, r in results.items.items() if key.startswith(f"{name}: {side.name}, seed ")
        ]
        if not found:
            continue
        ended = [r for r in found if "steps" in r]
        ratio = "-"
        confirmed = [r["confirmed"] for r in ended if r.get("confirmed") is not None]
        known = [r[part.ratio] for r in found if part.ratio in r]
        if known:
            middle = statistics.median(known)
            ours = middle if ours is None and side is part.sides[0] else ours
            cut_short = part.ratio == "process_s" and not all(r["reached"] for r in found)
            ratio = f"{'at least ' if cut_short else ''}{middle / ours:.2f}" if ours else "-"
        rows.append(
            [
                side.name,
                f"{sum(r['reached'] for r in found)} of {len(found)}",
                spread((r["process_s"] for r in found), 2),
                spread((r["train_s"] for r in ended), 2),
                spread((r["steps"] for r in ended), 0),
                spread((r["steps_per_s"] for r in ended), 0),
                ratio,
                spread(confirmed, 1) if confirmed else "-",
                spread((r["evaluation"] for r in ended), 1),
            ]
        )
    if not rows:
        return ""
    of = {"process_s": "Process time, as a multiple", "steps_per_s": "Steps/s, as a multiple"}[
        part.ratio
    ]
    headers = ["", "Reached the goal", "Process, s", "Training, s", "Steps", "Steps/s"]
    headers += [f"{of} of Poise's", "Confirmed", "Evaluation"]
    return f"### {part.title}\n\n{part.rule}\n\n{table(headers, rows)}"


def main() -> int:
    options = parser(__doc__)
    options.add_argument(
        "--seeds", type=int, default=10, help="of process and matched; the others take at most 5"
    )
    options.add_argument(
        "--only", default="process,matched,v0,a2c,impala", help="comparisons, by comma"
    )
    options.add_argument(
        "--peers", default="sb3,rllib", help="sides beside Poise, by comma; may be empty"
    )
    args = options.parse_args()
    known = parts()
    chosen = [name for name in args.only.split(",") if name]
    peers = [name for name in args.peers.split(",") if name]
    wrong = [n for n in chosen if n not in known] + [p for p in peers if p not in WARM]
    if wrong:
        options.error(
            f"there is no {wrong[0]!r}; comparisons are {', '.join(known)}, and peers sb3 and rllib"
        )
    seeds = 1 if args.quick else args.seeds
    print(f"CartPole, {seeds} seeds, one process at a time:", flush=True)
    pythons = {name: venv_python(name) for name in ("poise", *peers)}
    for name, python in pythons.items():
        subprocess.run([str(python), "-c", WARM[name]], check=True, capture_output=True)
    results = Results("cartpole", quick=args.quick, fresh=args.fresh)
    for name in chosen:
        measure(results, name, known[name], seeds, pythons)
    rule = (
        "A run stops when the mean return of its last 100 training episodes reaches the goal, "
        "or at 1,000,000 steps. Each cell is the median over seeds (lowest to highest), "
        "ratios are of medians. Process: from the start of Python to its end. Training: "
        "the loop alone; for `poise train` the sum of its iterations (`time_total_s`). Confirmed: "
        "the mean return of 100 fresh episodes with sampled actions, "
        "which `poise train` plays before it stops, within the time of its process. Evaluation: "
        "the mean return of 100 fresh deterministic episodes, the same evaluator for all, "
        "not in any of the times."
    )
    body = "\n".join(
        text for text in (section(results, name, part) for name, part in known.items()) if text
    )
    results.publish(
        "CartPole against peers",
        f"{rule}\n\n{body}",
        list(results.items.values()),
        all_versions(pythons, PACKAGES),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
