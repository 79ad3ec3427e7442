"""Searches: the tutorial's twenty trials, what a trial costs beside its training, kills, samplers
and populations.

python benchmarks/tune.py --only tutorial,overhead,kills,samplers,population
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from common import HERE, Record, Results, all_versions, parser, spread, table, venv_python

import poise
from poise.tracking.folder import RunFolder
from poise.tune import choice, grid_search, loguniform, uniform
from poise.tuning import run as run_module

TUTORIAL: dict[str, Any] = {
    "config": {
        "env": "CartPole-v0",
        "model": {
            "fcnet_hiddens": grid_search([[32], [64]]),
            "fcnet_activation": grid_search(["linear", "relu"]),
        },
        "lr": uniform(1e-7, 1e-2),
    },
    "stop": {"episode_reward_mean": 195},
    "metric": "timesteps_total",
    "mode": "min",
}
ACROBOT: dict[str, Any] = {
    "env": "Acrobot-v1",
    "lr": loguniform(1e-5, 3e-2),
    "gamma": choice([0.9, 0.95, 0.98, 0.99, 0.999]),
    "gae_lambda": uniform(0.8, 1.0),
    "clip_param": uniform(0.05, 0.4),
    "entropy_coeff": loguniform(1e-5, 0.1),
    "num_sgd_iter": choice([2, 4, 8]),
    "sgd_minibatch_size": choice([64, 256, 512]),
}
SCHEDULED = ("lr", "gamma", "gae_lambda", "clip_param", "entropy_coeff")
"""What a population may change."""
ACROBOT_STEPS, ACROBOT_TRIALS = 50_000, 30
MEMBERS, MEMBER_STEPS = 8, 100_000
SHORT, SHORT_STEPS = 200, 2000
KILLS = 20


def tutorial(folder: Path, quick: bool) -> Record:
    """The tutorial's search: its grid, its random learning rates, its stop rule."""
    start = time.perf_counter()
    analysis = poise.tune.run(
        "PPO", **TUTORIAL, num_samples=1 if quick else 5, folder=folder, quiet=True
    )
    seconds = time.perf_counter() - start
    reached = [
        trial for trial in analysis.trials if trial.value(analysis.study.search) < float("inf")
    ]
    return {
        "trials": len(analysis.trials),
        "ended": sum(trial.state == "finished" for trial in analysis.trials),
        "reached": len(reached),
        "seconds": round(seconds, 1),
        "steps": sum(trial.result["timesteps_total"] for trial in analysis.trials),
        "best_steps": analysis.best_result["timesteps_total"] if reached else None,
        "best_reward": analysis.best_result["episode_reward_mean"] if reached else None,
    }


def ray_tune(quick: bool) -> Record:
    """The same twenty trials by Ray Tune and RLlib, for at most twenty minutes."""
    command = [
        str(venv_python("rllib")),
        str(HERE / "peers" / "rllib_tune.py"),
        "--seconds",
        "60" if quick else "1200",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"\n{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(lines[-1]))


def overhead(folder: Path, quick: bool) -> Record:
    """Many short trials: seconds of a worker that are no training, and memory along the way."""
    trials = 20 if quick else SHORT
    memory: list[float] = []
    watcher = psutil.Process()

    def look() -> float:
        family = [watcher, *watcher.children(recursive=True)]
        return sum(process.memory_info().rss for process in family) / 2**20

    class Look(run_module.Board):  # the board is looked at several times a second
        def update(self) -> None:
            super().update()
            memory.append(look())

    run_module.Board = Look  # type: ignore[misc]
    start = time.perf_counter()
    config = {"env": "CartPole-v1", "lr": loguniform(1e-4, 1e-2)}
    analysis = poise.tune.run(
        "PPO", config=config, stop={"timesteps_total": SHORT_STEPS}, num_samples=trials,
        sampler="random", folder=folder, quiet=True, tensorboard=False, parallel=2,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    trained = sum(trial.result["time_total_s"] for trial in analysis.trials)
    half = len(memory) // 2
    return {
        "trials": len(analysis.trials),
        "seconds": round(seconds, 1),
        "trained_s": round(trained, 1),
        "per_trial_s": round((2 * seconds - trained) / trials, 3),
        "first_half_mib": round(statistics.fmean(memory[len(memory) // 5 : half])),
        "second_half_mib": round(statistics.fmean(memory[half:])),
    }


CHILD = """
import sys, poise
if __name__ == "__main__":
    poise.tune.run(
        "PPO", config={"env": "CartPole-v1", "lr": poise.tune.loguniform(1e-4, 1e-2)},
        stop={"timesteps_total": 100_000}, num_samples=6, folder=sys.argv[1], experiment="s",
        resume="resume" in sys.argv, quiet=True, tensorboard=False, checkpoint_interval_s=0.5,
    )
"""


def killed(folder: Path, who: str, number: int) -> Record:
    """A search of six trials, killed at a random moment, or one of whose runs is; then it is
    resumed until it ends."""
    chance = random.Random(f"{who} {number}")
    script = folder / "search.py"
    script.write_text(CHILD)
    command = [sys.executable, str(script), str(folder)]
    search = subprocess.Popen(command)
    time.sleep(chance.uniform(2.0, 9.0))
    if search.poll() is None:
        victim: Any = search
        if who == "trial":
            children = psutil.Process(search.pid).children()
            victim = chance.choice(children) if children else search
        os.kill(victim.pid, signal.SIGKILL)
        if victim is search:
            search.wait()
            search = subprocess.Popen([*command, "resume"])
    search.wait(300)
    analysis = poise.tune.load(folder / "s")
    twice = 0
    for trial in analysis.trials:
        steps = [row["timesteps_total"] for row in RunFolder(trial.path).metrics()]
        twice += steps != sorted(set(steps))
    return {
        "complete": (
            search.returncode == 0
            and [trial.state for trial in analysis.trials] == ["finished"] * 6
        ),
        "lost": 6 - len({trial.number for trial in analysis.trials}),
        "twice": twice,
    }


def sampler(folder: Path, name: str, seed: int, quick: bool) -> Record:
    """The best of the first so many trials."""
    steps, trials = (5000, 4) if quick else (ACROBOT_STEPS, ACROBOT_TRIALS)
    analysis = poise.tune.run(
        "PPO", config=ACROBOT, stop={"timesteps_total": steps}, preset=None, num_samples=trials,
        sampler=name, seed=seed, folder=folder, quiet=True, tensorboard=False,
    )  # fmt: skip
    rewards = [trial.value(analysis.study.search) for trial in analysis.trials]
    return {"best": max(rewards), "curve": [max(rewards[: i + 1]) for i in range(len(rewards))]}


def population(folder: Path, scheduler: str, seed: int, quick: bool) -> Record:
    """Eight members, with and without learning from each other."""
    config = {key: value for key, value in ACROBOT.items() if key == "env" or key in SCHEDULED}
    stop = {"timesteps_total": 10_000 if quick else MEMBER_STEPS}
    analysis = poise.tune.run(
        "PPO", config=config, stop=stop, preset=None, seed=seed, num_samples=MEMBERS,
        sampler="random", scheduler=scheduler, folder=folder, quiet=True, tensorboard=False,
    )  # fmt: skip
    rewards = [trial.value(analysis.study.search) for trial in analysis.trials]
    return {"best": max(rewards), "median": statistics.median(rewards), "worst": min(rewards)}


def fresh(run: Callable[..., Record], *args: Any) -> Record:
    """Runs it in a folder of its own, which is gone afterwards."""
    folder = Path(tempfile.mkdtemp())
    try:
        return run(folder, *args)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def section(results: Results) -> str:
    """What is measured, as Markdown."""
    items, parts = results.items, []
    if ours := items.get("tutorial: Poise"):
        rows = [
            ["Poise", f"{ours['ended']} of {ours['trials']}", ours["reached"], ours["seconds"], "-"]
        ]
        if ray := items.get("tutorial: Ray Tune and RLlib"):
            whole = ray["seconds"] * ray["trials"] / max(ray["ended"], 1)
            ended = f"{ray['ended']} of {ray['trials']}"
            all_of_them = f"{whole:,.0f}" if ray["ended"] < ray["trials"] else "-"
            rows.append(["Ray Tune and RLlib", ended, ray["reached"], ray["seconds"], all_of_them])
        headers = ["", "Trials that ended", "Reached 195", "Seconds", "For all 20, extrapolated"]
        parts.append(
            "### The tutorial's search\n\nPPO on CartPole-v0 until the mean return is 195: "
            "a grid of two widths and two activations, five times, "
            "with learning rates from 1e-7 to 0.01. A trial that does not get there ends after "
            "500,000 steps; both sides have that limit. "
            f"Two trials at a time.\n\n{table(headers, rows)}"
        )
    if found := items.get("overhead"):
        parts.append(
            f"### Short trials\n\n{found['trials']} trials of {SHORT_STEPS:,} steps, "
            f"two at a time: {found['seconds']} s, of which a worker spends {found['per_trial_s']} "
            "s a trial on anything but training (its start included). "
            f"Memory of the search and its workers: {found['first_half_mib']:,} MiB in the first "
            f"half, {found['second_half_mib']:,} MiB in the second.\n"
        )
    for who in ("search", "trial"):
        done = [r for key, r in items.items() if key.startswith(f"kill {who}")]
        if done:
            parts.append(
                f"### Kills of a {who}\n\n{len(done)} searches of six trials, killed (SIGKILL) "
                f"at a random moment: {sum(r['complete'] for r in done)} completed, "
                f"{sum(r['lost'] for r in done)} trials were lost, "
                f"{sum(r['twice'] for r in done)} have steps twice in their metrics.\n"
            )
    rows = []
    for name in ("random", "tpe"):
        done = [r for key, r in items.items() if key.startswith(f"sampler {name}")]
        if done:
            marks = [i for i in (5, 10, 20, 30) if i <= len(done[0]["curve"])]
            rows.append([name, *(spread((r["curve"][i - 1] for r in done), 1) for i in marks)])
    if rows:
        headers = ["Best mean return after trials:", "5", "10", "20", "30"][: len(rows[0])]
        parts.append(
            "### Samplers\n\nPPO without a preset on Acrobot-v1, seven settings searched, "
            f"{ACROBOT_STEPS:,} steps a trial; median (lowest to highest) "
            f"of three searches.\n\n{table(headers, rows)}"
        )
    rows = []
    for scheduler in ("none", "pbt"):
        done = [r for key, r in items.items() if key.startswith(f"population {scheduler}")]
        if done:
            rows.append(
                [
                    scheduler,
                    *(spread((r[key] for r in done), 1) for key in ("best", "median", "worst")),
                ]
            )
    if rows:
        headers = ["Scheduler", "Best member", "Median member", "Worst member"]
        parts.append(
            f"### Populations\n\n{MEMBERS} members with random settings on Acrobot-v1, "
            f"{MEMBER_STEPS:,} steps each, mean return at the end; "
            f"three searches.\n\n{table(headers, rows)}"
        )
    return "\n".join(parts)


def main() -> int:
    options = parser(__doc__)
    known = ("tutorial", "ray", "overhead", "kills", "samplers", "population")
    options.add_argument("--only", default=",".join(known), help="by comma")
    args = options.parse_args()
    chosen = args.only.split(",")
    if wrong := [name for name in chosen if name not in known]:
        options.error(f"there is no {wrong[0]!r}; parts are {', '.join(known)}")
    results = Results("tune", quick=args.quick, fresh=args.fresh)
    if "tutorial" in chosen:
        results.measure("tutorial: Poise", lambda: fresh(tutorial, args.quick))
    if "overhead" in chosen:
        results.measure("overhead", lambda: fresh(overhead, args.quick))
    for who in ("search", "trial") if "kills" in chosen else ():
        for number in range(1 if args.quick else KILLS):
            results.measure(f"kill {who} {number}", lambda w=who, n=number: fresh(killed, w, n))
    for seed in range(1 if args.quick else 3):
        for name in ("random", "tpe") if "samplers" in chosen else ():
            results.measure(
                f"sampler {name} {seed}", lambda n=name, s=seed: fresh(sampler, n, s, args.quick)
            )
        for name in ("none", "pbt") if "population" in chosen else ():
            results.measure(
                f"population {name} {seed}",
                lambda n=name, s=seed: fresh(population, n, s, args.quick),
            )
    if "ray" in chosen:
        results.measure("tutorial: Ray Tune and RLlib", lambda: ray_tune(args.quick), lasting=True)
    about = all_versions({"poise": Path(sys.executable)}, ("poise", "torch", "optuna", "numpy"))
    results.publish("Searches", section(results), list(results.items.values()), about)
    return 0


if __name__ == "__main__":
    sys.exit(main())
