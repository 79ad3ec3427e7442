"""The cluster article's notebook, whole: Pong to 18 by IMPALA, submitted to a cluster of its own.

    python benchmarks/cluster_article.py --runs 3

Its cells run as they are in tests/tutorials, one after the other. Where there is no cloud, the head
and the four worker machines are nodes of a Ray cluster on this machine, and share its cores.
The article's own run, on a head with a GPU and four machines of two cores, took 30 to 45 minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from common import ROOT, Record, Results, all_versions, parser, table

TUTORIALS = ROOT / "tests" / "tutorials"
PACKAGES = ("torch", "ray", "ale-py")
GOAL = 18.0

CODE = """
import json, sys
from poise.tracking.folder import RunFolder
cells = json.load(open(sys.argv[1]))["cells"]
names = {"__name__": "__main__"}
for cell in cells:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]).replace('"time_total_s": 3600', sys.argv[2]), names)
run = names["run"]
(folder,) = map(RunFolder, run.trainings)
from poise.cluster import local
local.stop()
about = {"status": run.get_status(), "results": folder.metrics()}
print(json.dumps({**folder.status(), **about}))
"""


def article(limit: str) -> Record:
    """Runs the notebook in a folder and with a token of its own."""
    with tempfile.TemporaryDirectory(prefix="article-") as where:
        folder, home = Path(where, "notebook"), Path(where, "home")
        shutil.copytree(TUTORIALS / "utils", folder / "files" / "utils")
        shutil.copy(TUTORIALS / "pong_rllib.py", folder / "files")
        home.mkdir()
        own = {"POISE_HOME": str(home), "RAY_AUTH_TOKEN_PATH": str(home / "auth_token")}
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(TUTORIALS / "pong_rllib.ipynb"), limit],
            cwd=folder, env={**os.environ, **own}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stdout[-3000:])
    found = json.loads(done.stdout.strip().splitlines()[-1])
    results, last = found["results"], found["results"][-1]
    return {
        "status": found["status"],
        "minutes": seconds / 60,
        "training": last["time_total_s"] / 60,
        "reached": (last["episode_reward_mean"] or -21.0) >= GOAL,
        "return": last["episode_reward_mean"],
        "confirmed": found.get("confirmed_reward_mean"),
        "steps": last["timesteps_total"],
        "rate": last["timesteps_total"] / last["time_total_s"],
        "workers": last["cluster/workers"],
        "nodes": last["cluster/nodes"],
        "lost": last["cluster/rollouts_lost_total"],
        "curve": [[r["timesteps_total"], r["episode_reward_mean"]] for r in results],
    }


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=3)
    args = options.parse_args()
    limit = '"timesteps_total": 20000' if args.quick else '"time_total_s": 3600'
    results = Results("cluster_article", quick=args.quick, fresh=args.fresh)
    found, rows = [], []
    for number in range(1 if args.quick else args.runs):
        record = results.measure(f"run {number}", partial(article, limit))
        found.append(record)
        confirmed = record["confirmed"]
        rows.append([
            number, "yes" if record["reached"] else "no", f"{record['minutes']:.1f}",
            f"{record['training']:.1f}", f"{record['steps']:,}", f"{record['rate']:,.0f}",
            "-" if confirmed is None else f"{confirmed:.1f}",
            f"{record['workers']:.0f} on {record['nodes']:.0f} nodes", f"{record['lost']:.0f}",
        ])  # fmt: skip
    headers = [
        "Run", "18 reached", "Minutes, first cell to last", "of which training", "Steps",
        "Steps/s", "Fresh episodes", "Workers", "Rollouts lost",
    ]  # fmt: skip
    body = f"{(__doc__ or '').strip().rpartition(chr(10) * 2)[2]}\n\n{table(headers, rows)}"
    versions = all_versions({"poise": Path(sys.executable)}, PACKAGES)
    results.publish("The cluster article, from its first cell to its last", body, found, versions)
    return int(any(record["status"] != "Completed" for record in found))


if __name__ == "__main__":
    sys.exit(main())
