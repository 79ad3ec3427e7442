"""The cases of tests that `make test` leaves out, since others there are much like them.

python benchmarks/cases.py
"""

from __future__ import annotations

import re
import subprocess
import sys
import time

from common import ROOT, Record, Results, parser, table

HEADERS = ["Cases", "Passed", "Skipped", "Failed", "Seconds on two cores"]


def run() -> Record:
    """Counts how the cases end; what fails is shown whole."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-n", "2", "-m", "proof", "--tb=short"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    counts = {
        what: int(n) for n, what in re.findall(r"(\d+) (passed|skipped|failed|error)", done.stdout)
    }
    if done.returncode:
        print(done.stdout, flush=True)
    failed = counts.get("failed", 0) + counts.get("error", 0)
    if not failed and done.returncode:
        raise RuntimeError(f"pytest ended with exit code {done.returncode}")
    passed, skipped = counts.get("passed", 0), counts.get("skipped", 0)
    return {
        "passed": passed,
        "skipped": skipped,
        "failed": failed,
        "seconds": time.perf_counter() - start,
    }


def main() -> int:
    args = parser(__doc__).parse_args()
    results = Results("cases", quick=args.quick, fresh=args.fresh)
    record = results.measure("cases", run)
    counts = [record[key] for key in ("passed", "skipped", "failed")]
    row = [str(value) for value in (sum(counts), *counts, round(record["seconds"]))]
    results.publish("Cases of tests that only proof runs", table(HEADERS, [row]), [record])
    return int(record["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
