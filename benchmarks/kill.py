"""`kill -9` and SIGTERM at any moment: every run goes on without repair, and ends with the very
numbers of a run never killed (IMPALA, whose runs are never the same twice, with every iteration
once).

python benchmarks/kill.py --kills 50 --only kills,exact
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import HERE, Record, Results, parser, table

FOREVER = 10_000_000
EXTRA = 20
"""Iterations after the last kill, before the comparison."""

SMALL: dict[str, Any] = {"num_envs_per_worker": 8, "rollout_fragment_length": 32, "num_sgd_iter": 2}
"""Short iterations, so that most of the time goes into checkpoints: there are more writes to hit.
"""

LOOPS: list[tuple[str, str, dict[str, Any]]] = [
    ("PPO", "CartPole-v1", SMALL),
    (
        "PPO",
        "Acrobot-v1",
        {"num_workers": 2, "num_envs_per_worker": 3, "rollout_fragment_length": 64},
    ),
    (
        "DQN",
        "CartPole-v1",
        {
            "num_envs_per_worker": 4,
            "buffer_size": 6000,
            "learning_starts": 500,
            "timesteps_per_iteration": 400,
        },
    ),
    ("IMPALA", "Acrobot-v1", {"num_workers": 2, "timesteps_per_iteration": 2000}),
]
"""Runs that are killed again and again: a native environment, worker processes, a replay, an actor.
"""

REPEATABLE = ("PPO", "A2C", "DQN")

EXACT = [
    ("PPO", "CartPole-v1", {"num_envs_per_worker": 8, "rollout_fragment_length": 64}),
    ("A2C", "CartPole-v1", {}),
    ("PPO", "Acrobot-v1", {"num_envs_per_worker": 4, "rollout_fragment_length": 64}),
    ("A2C", "Acrobot-v1", {"timesteps_per_iteration": 500}),
    ("PPO", "Pendulum-v1", {"num_envs_per_worker": 4, "rollout_fragment_length": 64}),
    ("A2C", "Pendulum-v1", {"timesteps_per_iteration": 500}),
]
"""CartPole's environments are native to Gymnasium and step together; the others step one by one in
the process."""


def launch(order: dict[str, Any]) -> subprocess.Popen[str]:
    """A child that starts a run or resumes it (`kill_child.py`); its errors go into a pipe."""
    command = [sys.executable, str(HERE / "kill_child.py"), json.dumps(order)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(order: dict[str, Any], expected: int = 0) -> None:
    """Runs a child to its end.

    Raises:
        SystemExit: it ended otherwise than expected.
    """
    process = launch(order)
    _, errors = process.communicate()
    if process.returncode != expected:
        raise SystemExit(
            f"\nThe child ended with {process.returncode} instead of {expected}:\n{errors[-2000:]}"
        )


# --- what a run came to ---------------------------------------------------------------------------


def fingerprint(run: Path) -> str:
    """SHA-256 of all parameters in a run's newest checkpoint, by name."""
    import poise

    digest = hashlib.sha256()
    for name, tensor in sorted(poise.load(run).policy.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def lines(run: Path) -> list[dict[str, Any]]:
    """The results of a run without what is measured in seconds."""
    whole = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if not k.startswith(("time_", "perf/"))} for r in whole]


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


# --- 50 kills -------------------------------------------------------------------------------------


class StuckError(Exception):
    """A run that was started or resumed ended by itself, when it should have gone on."""


def wait_until(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """Returns as soon as something has happened.

    Raises:
        StuckError: the child ended before.
    """
    while not happened():
        if process.poll() is not None:
            assert process.stderr is not None
            raise StuckError(process.stderr.read())
        time.sleep(0.0002)


def wait_for_line(process: subprocess.Popen[str], file: Path) -> None:
    """Returns as soon as `file` has grown."""
    before = size(file)
    wait_until(process, lambda: size(file) > before)


def says_that_it_runs(process: subprocess.Popen[str], run: Path) -> bool:
    """Whether the run's status is this child's."""
    try:
        return bool(json.loads((run / "status.json").read_text())["pid"] == process.pid)
    except (OSError, ValueError):
        return False


def one_kill(
    order: dict[str, Any], run: Path, moment: str, number: signal.Signals, rng: random.Random
) -> dict[str, Any]:
    """Starts or resumes the run, lets it get further, and ends it.

    Args:
        order: for the child.
        run: the run folder.
        moment: `write` kills within 20 ms of a new line in metrics.jsonl (a checkpoint is written
            after each line), `anywhere` within half a second of one, `start` while the process
            comes up.
        number: SIGKILL, or SIGTERM, after which it ends by itself.
        rng: of the delays.

    Raises:
        StuckError: it did not go on, or did not end.
    """
    metrics = run / "metrics.jsonl"
    process = launch(order)
    try:
        if moment == "start":
            time.sleep(rng.uniform(0.0, 3.0))
        else:
            # A resumed run first cuts the metrics back to its checkpoint, then says that it runs.
            wait_until(process, lambda: says_that_it_runs(process, run))
            wait_for_line(process, metrics)
            time.sleep(rng.uniform(0.0, 0.5))
            if moment == "write":
                wait_for_line(process, metrics)
                time.sleep(rng.uniform(0.0, 0.02))
    except BaseException:
        process.kill()
        raise
    process.send_signal(number)
    try:
        process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        raise StuckError(f"It was still there two minutes after {number.name}.") from None
    import poise

    with warnings.catch_warnings(record=True) as damaged:
        warnings.simplefilter("always")
        loaded = poise.load(run)
    text = metrics.read_text() if metrics.exists() else ""
    return {
        "iteration": loaded.iteration,
        "torn_write": any(p.name.startswith(".tmp-") for p in (run / "checkpoints").iterdir()),
        "torn_line": bool(text) and not text.endswith("\n"),
        "damaged": len(damaged),
        "lost": max(0, text.count("\n") - loaded.iteration),
    }


def kills(algorithm: str, env: str, settings: dict[str, Any], count: int, seed: int) -> Record:
    """Kills one run again and again, and compares its end with that of a run left alone."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        order: dict[str, Any] = {
            "algorithm": algorithm,
            "env": env,
            "settings": settings,
            "seed": seed,
        }
        order |= {"every": 1, "until": FOREVER, "folder": folder}
        run = Path(folder) / "e" / "killed"
        moments = rng.choices(["write", "anywhere", "start"], weights=[5, 3, 2], k=count)
        moments[0] = "write"  # there must be a checkpoint before there is anything to resume from
        ways = rng.choices([signal.SIGKILL, signal.SIGTERM], weights=[3, 1], k=count)
        seen: list[dict[str, Any]] = []
        try:
            for moment, number in zip(moments, ways, strict=True):
                seen.append(one_kill({**order, "name": "killed"}, run, moment, number, rng))
        except StuckError as error:  # nobody repairs anything: the kill before it was the last
            print(f"\nThe run did not go on after kill {len(seen)}:\n{error}", file=sys.stderr)
            if not seen:
                raise SystemExit(1) from None
            return {
                "loop": algorithm,
                "once": False,
                "kills": len(seen),
                "went_on": len(seen) - 1,
                "same_parameters": False,
                "same_results": False,
            }
        order["until"] = seen[-1]["iteration"] + EXTRA
        finish({**order, "name": "killed"})
        steps = [r["iteration"] for r in seen]
        found = lines(run)
        once = [r["training_iteration"] for r in found] == list(range(1, order["until"] + 1))
        same: dict[str, Any] = {"same_parameters": "-", "same_results": "-"}
        if algorithm in REPEATABLE:
            finish({**order, "name": "straight", "every": FOREVER})
            straight = run.with_name("straight")
            same = {
                "same_parameters": fingerprint(run) == fingerprint(straight),
                "same_results": found == lines(straight),
            }
        return {
            "loop": f"{algorithm} on {env}" + (", workers" if settings.get("num_workers") else ""),
            "kills": len(seen),
            "went_on": len(seen),
            "in_a_write": sum(r["torn_write"] for r in seen),
            "in_a_start": moments.count("start"),
            "terms": ways.count(signal.SIGTERM),
            "once": once,
            "torn_lines": sum(r["torn_line"] for r in seen),
            "damaged": sum(r["damaged"] for r in seen),
            "lost_iterations_at_most": max(r["lost"] for r in seen),
            "never_back": steps == sorted(steps),
            "iterations": order["until"],
            **same,
        }


# --- 15 + kill + 15 = 30 --------------------------------------------------------------------------


def exact(algorithm: str, env: str, settings: dict[str, Any], half: int) -> Record:
    """`2 * half` iterations straight, and as many with a kill in the iteration after the middle."""
    with tempfile.TemporaryDirectory() as folder:
        order = {
            "algorithm": algorithm,
            "env": env,
            "settings": settings,
            "seed": 1,
            "folder": folder,
            "every": half,
        }
        order["until"] = 2 * half
        finish({**order, "name": "straight"})
        finish({**order, "name": "killed", "kill_at": half + 1}, expected=-signal.SIGKILL)
        finish({**order, "name": "killed"})
        runs = [Path(folder) / "e" / name for name in ("straight", "killed")]
        hashes = [fingerprint(run) for run in runs]
        return {
            "straight": hashes[0],
            "resumed": hashes[1],
            "same_parameters": hashes[0] == hashes[1],
            "same_results": lines(runs[0]) == lines(runs[1]),
        }


COLUMNS = {
    "loop": "Run",
    "kills": "Kills",
    "terms": "of which SIGTERM",
    "went_on": "Went on",
    "in_a_write": "Left a half-written checkpoint",
    "in_a_start": "Hit the start",
    "damaged": "Checkpoints damaged",
    "lost_iterations_at_most": "Iterations lost in a kill, at most",
    "iterations": "Iterations in all",
    "once": "Each once",
    "same_parameters": "Parameters as if never killed",
    "same_results": "Results as if never killed",
}


def section(records: list[Record], half: int) -> str:
    """What was measured, as Markdown."""
    many = [[cell(r.get(key, "-")) for key in COLUMNS] for r in records if "kills" in r]
    pairs = [
        [
            r["item"].removeprefix("exact: ").partition(",")[0],
            *(f"`{r[key][:16]}`" for key in ("straight", "resumed")),
            *(cell(r[key]) for key in ("same_parameters", "same_results")),
        ]
        for r in records
        if "straight" in r
    ]
    headers = ["", "SHA-256 of the parameters, straight", "resumed", "Equal", "Results equal"]
    return (
        "Runs that write a checkpoint after each iteration are ended by `kill -9`, "
        "a quarter of the times by SIGTERM, at random moments, "
        "half of them within 20 ms of the start of a checkpoint, "
        "a fifth while the process comes up, and resumed each time with nothing cleaned "
        f"up.\n\n{table(list(COLUMNS.values()), many)}\n{2 * half} iterations straight, "
        f"and {half}, `kill -9`, resume, {half}:\n\n{table(headers, pairs)}"
    )


def cell(value: Any) -> Any:
    return ("NO", "yes")[value] if isinstance(value, bool) else value


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--only", default="kills,exact", help="parts, by comma")
    args = options.parse_args()
    results = Results("kill", quick=args.quick, fresh=args.fresh)
    count, half = (4, 3) if args.quick else (args.kills, 15)
    print("Kills:", flush=True)
    if "kills" in args.only:
        for i, (algorithm, env, settings) in enumerate(LOOPS):
            each = count if i == 0 else max(2, count // 2)
            results.measure(
                f"kills: {algorithm} on {env}, {each}",
                lambda a=algorithm, e=env, s=settings, n=each: kills(a, e, s, n, seed=1),
            )
    for algorithm, env, settings in (
        EXACT[: 1 if args.quick else None] if "exact" in args.only else []
    ):
        results.measure(
            f"exact: {algorithm} on {env}, {half} + {half}",
            lambda a=algorithm, e=env, s=settings: exact(a, e, s, half),
        )
    records = list(results.items.values())
    results.publish("Kills and exact resume", section(records, half), records)
    good = ("same_parameters", "same_results", "once")
    return int(not all(r.get(key, True) for r in records for key in good))


if __name__ == "__main__":
    sys.exit(main())
