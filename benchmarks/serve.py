"""`poise serve`: how long callers wait, how many are answered, and what an answer costs.

    python benchmarks/serve.py

The server is a process of its own; so is each caller, which keeps one connection and asks again as
soon as it is answered. The policy is untrained: its size alone counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from statistics import median, quantiles

import psutil
from common import Record, Results, parser, table

import poise

TOKEN = "benchmark"
CASES = [
    (form, callers, batch)
    for form in ("JSON", "bytes")
    for callers, batch in ((1, 1), (8, 1), (32, 1), (1, 64))
]
"""How a question is written, how many callers ask at a time, and observations in a question."""
CALLER = """
import json, sys, time
from http.client import HTTPConnection
port, seconds, form, batch = json.loads(sys.argv[1])
headers = {"Authorization": "Bearer benchmark"}
if form == "bytes":
    body = bytes(16 * batch)
    headers["Content-Type"] = "application/octet-stream"
else:
    seen = [[0.01, 0.02, 0.03, 0.04]] * batch
    body = json.dumps({"observation": seen if batch > 1 else seen[0]})
connection, waited = HTTPConnection("127.0.0.1", port), []
end = time.perf_counter() + seconds
while (began := time.perf_counter()) < end:
    connection.request("POST", "/act", body, headers)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200
    waited.append(time.perf_counter() - began)
print(json.dumps(waited))
"""


def measure(port: int, server: int, form: str, callers: int, batch: int, seconds: float) -> Record:
    """Milliseconds that callers wait, answers a second, and the server's processor time of one."""

    def ask_for(duration: float, at_once: int) -> list[float]:
        command = [sys.executable, "-c", CALLER, json.dumps([port, duration, form, batch])]
        asking = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(at_once)]
        return [wait for each in asking for wait in json.loads(each.communicate()[0])]

    ask_for(0.2, 1)
    process = psutil.Process(server)
    before = process.cpu_times()
    waited = ask_for(seconds, callers)
    after = process.cpu_times()
    spent = after.user + after.system - before.user - before.system
    return {
        "median_ms": 1000 * median(waited),
        "p99_ms": 1000 * quantiles(waited, n=100)[98],
        "answers_per_s": len(waited) / seconds,
        "server_us": 1e6 * spent / len(waited),
    }


def main() -> int:
    args = parser(__doc__).parse_args()
    results = Results("serve", quick=args.quick, fresh=args.fresh)
    seconds = 2.0 if args.quick else 10.0
    with tempfile.TemporaryDirectory() as folder:
        with poise.PPO("CartPole-v1", seed=0, progress=False) as trainer:
            saved = trainer.save(Path(folder) / "policy")
        command = [sys.executable, "-m", "poise", "serve", str(saved), "--port", "0"]
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "POISE_TOKEN": TOKEN}
        )
        assert server.stdout is not None
        port = int(server.stdout.readline().rstrip().removesuffix("/act").rpartition(":")[2])
        wait_for(port)
        try:
            found = {
                case: results.measure(
                    f"{case[0]} {case[1]} {case[2]}",
                    lambda c=case: measure(port, server.pid, *c, seconds),
                )
                for case in CASES
            }
        finally:
            server.terminate()
            server.wait(30)
    rows = [
        [form, callers, batch, f"{r['median_ms']:.2f}", f"{r['p99_ms']:.2f}",
         f"{r['answers_per_s']:,.0f}", f"{r['answers_per_s'] * batch:,.0f}",
         f"{r['server_us']:,.0f}"]
        for (form, callers, batch), r in found.items()
    ]  # fmt: skip
    headers = ["Question", "Callers", "Observations in it", "Wait, ms (median)", "Wait, ms (99 %)",
               "Answers/s", "Observations/s", "Server's processor time of one, µs"]  # fmt: skip
    text = (
        "A policy of two layers of 64 for CartPole, a window of 1 ms, and callers that are "
        "processes of the same machine: with many of them, they and the server share its cores."
        "\n\n" + table(headers, rows)
    )
    results.publish("`poise serve`: waits and answers", text, [*found.values()])
    return 0


def wait_for(port: int) -> None:
    """Returns once the server answers."""
    for _ in range(100):
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            connection.getresponse().read()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"Nothing answers at port {port}.")


if __name__ == "__main__":
    sys.exit(main())
