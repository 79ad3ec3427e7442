"""All that is measured, one after the other; `make proof`.

What is there for this machine and source is not repeated.

python benchmarks/proof.py --only kill,profile_update
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from common import HERE, ROOT, load, parser, table

ITEMS = {
    "profile_update": "where PPO's time goes",
    "cases": "cases of tests that `make test` leaves out",
    "pythons": "the wheel in clean environments of Python 3.10 to 3.13",
    "export": "what an action costs in each form of an exported policy",
    "serve": "how long callers of `poise serve` wait, and how many are answered",
    "watch": "what the live page of 200 runs and of 100 million steps takes",
    "doctor": "what the doctor says of runs that are sick, and of runs that are well",
    "kill": "50 kills, and exact resume",
    "kill_search": "searches and sets of seeds, killed and taken up again and again",
    "past_goal": "presets of classic control and tables, trained on past their goal",
    "fuzz": "random and damaged input, and power losses: no traceback, no hang, no silence",
    "network": "a cluster of network namespaces: cut, slow and frozen links",
    "on_ray": "samplers on Ray, beside local processes and RLlib",
    "scaling": "one learner and 1 to 32 workers",
    "quality": "PPO's scores on four tasks, five seeds each",
    "workers": "stepping environments, beside Gymnasium, Stable-Baselines3 and RLlib",
    "tune": "searches: the tutorial's, short trials, kills, samplers, populations",
    "soak": "ten minutes in which workers are killed",
    "pong": "Pong from the screen",
    "cluster_article": "the cluster article's notebook, from its first cell to its last",
    "self_play": "connect four in 15 minutes, against players that have learnt nothing",
    "offpolicy": "SAC against Stable-Baselines3 and SBX: steps a second, time to good policies",
    "memory": "PPO with a memory against SB3-contrib's, where velocities are hidden",
    "dqn": "DQN on CartPole against Stable-Baselines3, RLlib and PyTorch's tutorial",
    "sb3_scripts": "scripts of Stable-Baselines3's kind on both libraries",
    "control": "MuJoCo against Stable-Baselines3",
    "cartpole": "CartPole against Stable-Baselines3 and RLlib",
}
"""Shortest first: a stopped proof has most of its rows."""
OPTIONAL = {
    "third_party": (
        "environments of other people's packages, each in a virtual environment of its own"
    )
}
"""Only with ENVS=1: it installs about 2 GB."""


def main() -> int:
    options = parser(__doc__)
    items = {**ITEMS, **(OPTIONAL if os.environ.get("ENVS") == "1" else {})}
    options.add_argument("--only", default=",".join(items), help="items, by comma")
    args = options.parse_args()
    chosen = [name for name in args.only.split(",") if name]
    wrong = [name for name in chosen if name not in items]
    if wrong:
        options.error(f"there is no {wrong[0]!r}; items are {', '.join(items)}")
    if load() > 0.5:
        print(
            f"The machine is busy (load average {load()}): times will be worse than they are, "
            "and ratios unsteady.\n"
        )
    flags = [flag for flag, given in (("--quick", args.quick), ("--fresh", args.fresh)) if given]
    rows = []
    for name in chosen:
        print(f"--- {name}: {items[name]}", flush=True)
        start = time.perf_counter()
        script = (
            [str(HERE / f"{name}.py")]
            if (HERE / f"{name}.py").is_file()
            else ["-m", f"benchmarks.{name}"]
        )
        code = subprocess.run([sys.executable, *script, *flags], cwd=ROOT).returncode
        outcome = "measured" if code == 0 else f"FAILED ({code})"
        rows.append([name, items[name], outcome, f"{time.perf_counter() - start:.0f}"])
        print(flush=True)
    print(table(["Item", "What", "Outcome", "Seconds now"], rows))
    return int(any(row[2] != "measured" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
