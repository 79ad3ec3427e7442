"""Stepping environments, alone and while PPO learns: Poise beside Gymnasium, Stable-Baselines3 and
RLlib.

python benchmarks/workers.py --repeats 3 --peers sb3,rllib
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import HERE, Record, Results, all_versions, parser, table, venv_python

PACKAGES = ("poise", "torch", "gymnasium", "numpy", "stable-baselines3", "ray")

POISE = (
    "Poise, in this process",
    "Poise, 1 worker",
    "Poise, 2 workers",
    "Poise, 4 workers",
    "Poise, auto",
)
PROCESSES, AUTO = POISE[1:4], POISE[4]
INLINE = ("Gymnasium Sync", "Gymnasium Sync, copy=False", "SB3 Dummy", "RLlib, local runner")
PARALLEL = (
    "Gymnasium Async",
    "Gymnasium Async, copy=False",
    "SB3 Subproc",
    "RLlib, 1 runner",
    "RLlib, 2 runners",
)
WHERE = {"Poise": "poise", "Gymnasium": "poise", "SB3": "sb3", "RLlib": "rllib"}
STEPPING = (*POISE, *INLINE, *PARALLEL)
LEARNING = (
    "Poise, in this process",
    "Poise, 1 worker",
    "Poise, 2 workers",
    "Poise, auto",
    "SB3 PPO, Dummy",
    "SB3 PPO, Subproc",
)
NEAR = (POISE[0], AUTO, *INLINE[:3])
"""What steps in one process is measured four times as often: at 0 µs the rates are so near to each
other that the unrest of the machine would decide."""
STEP_S = {"100 µs": 100e-6, "2 ms": 2e-3}
GOALS = {"0 µs": 3.0, "100 µs": 1.4}
"""How many times the best parallel peer worker processes are to reach; at 2 ms they are held to the
limit instead."""
LIMIT_GOAL = 0.9


def venv_of(system: str) -> str:
    """The virtual environment that a system is measured in."""
    return WHERE[system.replace(",", " ").split()[0]]


def run(python: Path, script: str, *arguments: str) -> Record:
    """One process; the record is its cells."""
    command = [str(python), str(HERE / "peers" / script), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"\n{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(lines[-1]))


def cells(
    results: Results, part: str, system: str, pick: Callable[[Record], dict[str, float]]
) -> dict[str, list[float]]:
    """All repeats of a system, by cell."""
    found = [
        pick(r["cells"])
        for key, r in results.items.items()
        if key.startswith(f"{part}: {system}, repeat ")
    ]
    return {cell: [each[cell] for each in found] for cell in (found[0] if found else {})}


def shown(rates: list[float]) -> str:
    """The median, and how far the repeats are from it."""
    middle = statistics.median(rates)
    spread = max(abs(rate - middle) for rate in rates) / middle
    return f"{middle:,.0f} ±{spread:.0%}"


def marked(value: float, goal: float | None, repeats: list[float]) -> str:
    """A ratio of medians, the range of it over the repeats, and whether it reaches its goal."""
    text = f"{value:.3g} ({min(repeats):.3g} to {max(repeats):.3g})"
    return text if goal is None else f"{text}, {'reached' if value >= goal else 'MISSED'}: {goal:g}"


def stepping(results: Results) -> str:
    """The rates and the ratios of stepping alone."""
    rates = {s: found for s in STEPPING if (found := cells(results, "step", s, lambda r: r))}
    if not all(system in rates for system in POISE):
        return ""
    names = list(rates[AUTO])
    middle = {
        s: {cell: statistics.median(found[cell]) for cell in names} for s, found in rates.items()
    }
    rows = [[system, *(shown(found[cell]) for cell in names)] for system, found in rates.items()]
    cores = os.cpu_count() or 1
    kinds = {cell: cell.split(",")[0] for cell in names}
    limits = {cell: cores / STEP_S[kinds[cell]] for cell in names if kinds[cell] in STEP_S}
    rows.append(
        [
            "the limit: cores / step time",
            *(f"{limits[c]:,.0f}" if c in limits else "-" for c in names),
        ]
    )
    chosen = [
        r["chose"]
        for key, r in sorted(results.items.items())
        if key.startswith(f"step: {AUTO}, repeat ")
    ]
    rows.append(
        [
            "workers that auto chose",
            *(" / ".join(dict.fromkeys(c[cell] for c in chosen)) for cell in names),
        ]
    )

    def best(systems: tuple[str, ...], cell: str) -> str:
        return max((s for s in systems if s in middle), key=lambda s: middle[s][cell])

    def ratio(mine: str, theirs: str, cell: str, goal: float | None = None) -> str:
        repeats = [a / b for a, b in zip(rates[mine][cell], rates[theirs][cell], strict=False)]
        return marked(middle[mine][cell] / middle[theirs][cell], goal, repeats)

    def to_limit(cell: str) -> str:
        if cell not in limits:
            return "-"
        mine = best(PROCESSES, cell)
        goal = LIMIT_GOAL if kinds[cell] == "2 ms" else None
        return marked(
            middle[mine][cell] / limits[cell],
            goal,
            [rate / limits[cell] for rate in rates[mine][cell]],
        )

    peers = INLINE + PARALLEL
    ratios = [
        ["auto / best peer of any kind", *(ratio(AUTO, best(peers, c), c, 1.0) for c in names)],
        ["that peer", *(best(peers, c) for c in names)],
        [
            "best number of workers / best parallel peer",
            *(ratio(best(PROCESSES, c), best(PARALLEL, c), c, GOALS.get(kinds[c])) for c in names),
        ],
        ["that peer", *(best(PARALLEL, c) for c in names)],
        *(
            [
                f"{system.removeprefix('Poise, ')} / that peer",
                *(ratio(system, best(PARALLEL, c), c) for c in names),
            ]
            for system in PROCESSES
        ),
        ["best number of workers / the limit", *map(to_limit, names)],
        [
            "in this process / best peer in one process",
            *(ratio(POISE[0], best(INLINE, c), c) for c in names),
        ],
    ]
    text = (
        "Environment steps a second of eight environments that compute for 0 µs, "
        "100 µs or 2 ms a step (`time.thread_time`), or sleep for 5 ms; "
        "observations are 4 numbers or 84x84x4 bytes. "
        "Calls that only reset are not counted as steps. Medians of repeats, "
        "and the largest distance from them; the repeats of all systems alternate, "
        "and there are four times as many of what steps in one process. "
        "Gymnasium's Async and SB3's Subproc have a process for each environment, "
        "Gymnasium with shared memory; with `copy=False` it hands out its buffers, as Poise does. "
        "RLlib's runners act at random: no network is asked, "
        "but its connectors run and episodes are kept, which the others do not do."
    )
    about = (
        "Ratios are of medians, in brackets their range over the repeats; "
        "a goal stands behind where there is one. The best of several is the one with the best "
        "median."
    )
    return (
        "### Stepping "
        f"alone\n\n{text}\n\n{table(['', *names], rows)}\n{about}\n\n{table(['', *names], ratios)}"
    )


def in_turn(results: Results) -> str:
    """What alternating blocks in one process say of the cells at 0 µs."""
    found = results.items.get("in turn")
    if not found:
        return ""
    parts = [
        f"{cell}: {r['ratio']:.2f} ({r['low']:.2f} to {r['high']:.2f})"
        for cell, r in found["cells"].items()
    ]
    return (
        "Where a step takes no time, `auto` steps in this process. Poise there, "
        "as a multiple of the better one of Gymnasium's two Sync rows, "
        "in blocks of 50 ms that alternate within one process (medians of 39 blocks, "
        f"and the middle half of them): {'; '.join(parts)}.\n"
    )


def learning(results: Results) -> str:
    """The rates and the shares of time while PPO learns."""
    rates = {
        s: f
        for s in LEARNING
        if (f := cells(results, "learn", s, lambda r: {k: v["rate"] for k, v in r.items()}))
    }
    if not rates:
        return ""
    names = list(next(iter(rates.values())))
    shares = ("env", "waiting", "inference", "learning")
    rows = []
    for system, found in rates.items():
        row = [system]
        for cell in names:
            each = {
                share: statistics.median(r["cells"][cell][share] for r in matching)
                for share in shares
                if (
                    matching := [
                        r for k, r in results.items.items() if k.startswith(f"learn: {system}, ")
                    ]
                )
                and share in matching[0]["cells"][cell]
            }
            parts = ", ".join(f"{share} {value:.0%}" for share, value in each.items())
            if system == AUTO:
                chosen = (
                    r["cells"][cell]["chose"]
                    for k, r in results.items.items()
                    if k.startswith(f"learn: {AUTO}")
                )
                parts = f"{' / '.join(dict.fromkeys(chosen))} workers; {parts}"
            row.append(shown(found[cell]) + (f" ({parts})" if parts else ""))
        rows.append(row)
    text = (
        "The same environments under PPO: 8 environments, 128 steps, minibatches of 256, "
        "10 epochs, two towers 64-64, one thread. In brackets what Poise's time goes into: "
        "`waiting` is time in which the learner does nothing but wait for workers, "
        "and `env` what stepping costs it itself."
    )
    return f"### While PPO learns\n\n{text}\n\n{table(['Steps/s', *names], rows)}"


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument(
        "--peers", default="sb3,rllib", help="beside Poise and Gymnasium, by comma; may be empty"
    )
    args = options.parse_args()
    wanted = ["poise", *(name for name in args.peers.split(",") if name)]
    pythons = {name: venv_python(name) for name in wanted}
    results = Results("workers", quick=args.quick, fresh=args.fresh)
    repeats = 1 if args.quick else args.repeats
    for repeat in range(4 * repeats):
        for part, script, systems, seconds in (
            ("step", "step_rates.py", STEPPING if repeat < repeats else NEAR, 0.5),
            ("learn", "learn_rates.py", LEARNING if repeat < repeats else (), 1.0),
        ):
            for system in systems if repeat % 2 == 0 else reversed(systems):
                if venv_of(system) in pythons:
                    item = f"{part}: {system}, repeat {repeat}"
                    given = ("--system", system, "--seconds", str(0.1 if args.quick else seconds))
                    results.measure(item, partial(run, pythons[venv_of(system)], script, *given))
    turns = (pythons["poise"], "in_turn.py")
    results.measure("in turn", lambda: {"cells": run(*turns)})
    body = "\n".join(
        text for text in (stepping(results), in_turn(results), learning(results)) if text
    )
    results.publish("Workers", body, list(results.items.values()), all_versions(pythons, PACKAGES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
