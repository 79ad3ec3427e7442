"""What samplers on Ray cost: two workers on Ray against two local processes, and against RLlib.

Poise's two sides train in one process and take turns, a few iterations each, so that the machine's
unrest meets both; RLlib has a process of its own, with the same settings, on the same Ray.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
from common import HERE, Record, Results, parser, table, venv_python

import poise

TURNS = 12
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "PPO, CartPole": (
        "PPO",
        "CartPole-v1",
        {"num_envs_per_worker": 16, "rollout_fragment_length": 64, "num_sgd_iter": 4,
         "sgd_minibatch_size": 256},
    ),
    "PPO, CartPole, as RLlib sets it": (
        "PPO",
        "CartPole-v1",
        {"num_envs_per_worker": 1, "rollout_fragment_length": 2000, "num_sgd_iter": 30,
         "sgd_minibatch_size": 128},
    ),
    "PPO, a step of 2 ms": (
        "PPO",
        "busy",
        {"num_envs_per_worker": 4, "rollout_fragment_length": 32, "num_sgd_iter": 4,
         "sgd_minibatch_size": 256},
    ),
    "IMPALA, CartPole": (
        "IMPALA",
        "CartPole-v1",
        {"num_envs_per_worker": 16, "rollout_fragment_length": 64},
    ),
    "IMPALA, Pong": (
        "IMPALA",
        "PongNoFrameskip-v4",
        {"num_envs_per_worker": 8, "rollout_fragment_length": 32},
    ),
}  # fmt: skip
RLLIB = tuple(case for case in CASES if "Pong" not in case)


def busy(config: dict[str, Any]) -> gym.Env:
    """An environment whose steps compute for 2 ms."""
    from busy import Busy

    return Busy({"burn_us": 2000})


def turns(case: str, count: int) -> Record:
    """Both sides of Poise, in turn: medians of steps a second and of processor time a step."""
    from spent import processor_s

    algorithm, env, settings = CASES[case]
    made: dict[str, Any] = {}
    found: dict[str, list[tuple[float, float]]] = {}
    for side, address in (("local", None), ("ray", "local")):
        made[side] = poise.make_trainer(
            algorithm, busy if env == "busy" else env, seed=0, progress=False, num_workers=2,
            ray_address=address, timesteps_per_iteration=8000 if env != "busy" else 0, **settings,
        )  # fmt: skip
        made[side].train()
        found[side] = []
    for turn in range(count):
        for side in ("local", "ray") if turn % 2 else ("ray", "local"):
            start, before = time.perf_counter(), processor_s()
            steps = made[side].train()["timesteps_this_iter"]
            took, spent = time.perf_counter() - start, processor_s() - before
            found[side].append((steps / took, spent / steps * 1e6))
    for trainer in made.values():
        trainer.close()
    medians = {
        f"{side}_{what}": statistics.median(each[i] for each in values)
        for side, values in found.items()
        for i, what in enumerate(("steps_per_s", "us"))
    }
    ratios = [ray[0] / local[0] for ray, local in zip(found["ray"], found["local"], strict=True)]
    return {
        **medians,
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "us_ratio": medians["ray_us"] / medians["local_us"],
    }


def start() -> Record:
    """Poise's start: seconds, and seconds of processor time of all its processes, until a first
    iteration of PPO is done."""
    code = (
        "import sys, time; begin = time.perf_counter(); import poise; "
        f"sys.path.insert(0, {str(HERE / 'peers')!r}); "
        "algo = poise.make_trainer('PPO', 'CartPole-v1', progress=False, num_workers=2, "
        "ray_address='local'); algo.train(); "
        "from spent import processor_s; print(time.perf_counter() - begin, processor_s())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, spent = map(float, done.stdout.split())
    return {"start_s": seconds, "start_cpu_s": spent}


def rllib(case: str, seconds: float) -> Record:
    """RLlib's steps a second."""
    algorithm, env, settings = CASES[case]
    python = venv_python("rllib")
    command = [
        str(python), str(HERE / "peers" / "rllib_on_ray.py"), str(HERE / "peers"), algorithm, env,
        str(seconds), json.dumps(settings),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--only", default="|".join(CASES), help="cases, by |")
    args = options.parse_args()
    sys.path.insert(0, str(HERE / "peers"))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(HERE / "peers"), str(Path(poise.__file__).parents[1])]
    )
    results = Results("on_ray", quick=args.quick, fresh=args.fresh)
    began = results.measure("start", start)
    rows, records = [], [began]
    for case in args.only.split("|"):
        mine = results.measure(case, lambda c=case: turns(c, 2 if args.quick else TURNS))
        records.append(mine)
        theirs: Record = {}
        if case in RLLIB:
            theirs = results.measure(
                f"{case}, RLlib", lambda c=case: rllib(c, 5 if args.quick else 20)
            )
            records.append(theirs)
        rate = theirs.get("steps_per_s")
        rows.append(
            [
                case,
                f"{mine['local_steps_per_s']:,.0f}",
                f"{mine['ray_steps_per_s']:,.0f}",
                f"{mine['ratio']:.2f} ({mine['least']:.2f} to {mine['most']:.2f})",
                f"{mine['us_ratio']:.2f}",
                f"{rate:,.0f}" if rate else "",
                f"{mine['ray_steps_per_s'] / rate:.1f}" if rate else "",
            ]
        )
    headers = [
        "", "Local processes, steps/s", "On Ray, steps/s", "Ray to local, in turn",
        "Processor time a step, Ray to local", "RLlib, steps/s", "Poise on Ray to RLlib",
    ]  # fmt: skip
    starts = [["Poise", f"{began['start_s']:.1f}", f"{began['start_cpu_s']:.1f}"]]
    theirs = results.items.get("PPO, CartPole, RLlib")
    if theirs:
        starts.append(["RLlib", f"{theirs['start_s']:.1f}", f"{theirs['start_cpu_s']:.1f}"])
    first = ["", "Seconds", "Of processor time, all processes"]
    body = f"### Two workers\n\n{table(headers, rows)}\n\n"
    body += f"### Until a first iteration\n\n{table(first, starts)}"
    results.publish("Samplers on Ray", body, records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
