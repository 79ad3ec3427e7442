"""Runs a fuzzer: all of its cases for the report, or one of them to look at.

python -m benchmarks.fuzz files --cases 1000 --seed 7
python -m benchmarks.fuzz files --seed 7 --case 123
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.common import Results, parser, table
from benchmarks.fuzz.common import OUTCOMES, prepared, run_cases

HERE = Path(__file__).resolve().parent
FUZZERS = sorted(
    file.stem for file in HERE.glob("*.py") if file.stem[0] != "_" and file.stem != "common"
)
CHUNK = 25
"""Cases that are measured at a time: a stopped run goes on with the next ones."""


def main() -> int:
    options = parser(__doc__)
    options.add_argument(
        "fuzzers", nargs="*", help=f"which; all unless given: {', '.join(FUZZERS)}"
    )
    options.add_argument(
        "--cases", type=int, help="how many cases; as many as for the report unless given"
    )
    options.add_argument("--seed", type=int, default=0, help="other seeds give other cases")
    options.add_argument(
        "--case", type=int, help="runs this case alone and prints all of what it prints"
    )
    args = options.parse_args()
    for name in args.fuzzers:
        if name not in FUZZERS:
            options.error(f"there is no {name!r}; the fuzzers are {', '.join(FUZZERS)}")
    faults = 0
    for name in args.fuzzers or FUZZERS:
        fuzzer = importlib.import_module(f"benchmarks.fuzz.{name}")
        if args.case is not None:
            faults += show(fuzzer, args.case, args.seed)
        else:
            cases = args.cases or (CHUNK if args.quick else fuzzer.CASES)
            results = Results(f"fuzz_{name}", quick=args.quick, fresh=args.fresh)
            faults += measure(fuzzer, cases, args.seed, results)
    return int(faults > 0)


def show(fuzzer: ModuleType, number: int, seed: int) -> int:
    """Runs one case; returns its faults."""
    with prepared(fuzzer) as base:
        count, faults = run_cases(fuzzer, range(number, number + 1), seed, base)
    for fault in faults:
        print(f"{fault.outcome.text}\n{fault}\n")
    print(*(f"{step}: {kind}" for (step, kind) in count), sep="\n")
    return len(faults)


def measure(fuzzer: ModuleType, cases: int, seed: int, results: Results) -> int:
    """Runs all cases, in chunks that are kept, and writes the report; returns the faults."""
    records = []
    with prepared(fuzzer) as base:
        for start in range(0, cases, CHUNK):
            numbers = range(start, min(start + CHUNK, cases))

            def chunk(numbers: range = numbers) -> dict[str, Any]:
                count, faults = run_cases(fuzzer, numbers, seed, base)
                steps = [[step, kind, times] for (step, kind), times in sorted(count.items())]
                return {
                    "faults": len(faults),
                    "steps": steps,
                    "list": [str(fault) for fault in faults],
                }

            records.append(
                results.measure(f"seed {seed}, cases {numbers[0]} to {numbers[-1]}", chunk)
            )
            for fault in records[-1]["list"]:
                print(f"    {fault}", flush=True)
    total: Counter[tuple[str, str]] = Counter()
    for record in records:
        for step, kind, times in record["steps"]:
            total[step, kind] += times
    rows = [
        [
            step,
            sum(total[step, kind] for kind in OUTCOMES),
            *(total[step, kind] for kind in OUTCOMES),
        ]
        for step in dict.fromkeys(step for step, _ in sorted(total))
    ]
    faults = [fault for record in records for fault in record["list"]]
    listed = "\n".join(f"- {fault}" for fault in faults[:20])
    body = f"{cases} cases of seed {seed}; each step in a process of its own.\n\n"
    body += table(["step", "runs", *OUTCOMES], rows) + (f"\n{listed}\n" if faults else "")
    results.publish(f"Fuzzing: {fuzzer.ABOUT}", body, records)
    return len(faults)


if __name__ == "__main__":
    sys.exit(main())
