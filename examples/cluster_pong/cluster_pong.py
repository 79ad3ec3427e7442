"""The cluster article in one script: a cluster, a job that trains Pong, and its run here.

Then: a workspace, two compute targets, an estimator and a widget. Now (needs the extras `ray` and
`atari`):

    python cluster_pong.py 18                    # until the mean reward is 18, on this machine
    python cluster_pong.py 18 cluster.toml       # on the cluster that the file describes
"""

import json
import sys

from poise.cluster import local
from poise.cluster.fetch import watch
from poise.cluster.jobs import Jobs
from poise.cluster.pack import pack
from poise.tracking.folder import RunFolder

GOAL = {"timesteps_total": 3_000}
if len(sys.argv) > 1:
    GOAL = {"episode_reward_mean": float(sys.argv[1]), "time_total_s": 3600}
CLUSTER = sys.argv[2] if len(sys.argv) > 2 else None

# As `poise cluster local --nodes 2 --cpus 1`: real Ray processes, which share this machine's cores.
started = None if CLUSTER or local.running() else local.start(nodes=2, cpus=1)

# As `poise submit -- train IMPALA ...`: this folder goes along, and `num_workers` is computed.
words = ["train", "IMPALA", "--env", "PongNoFrameskip-v4", "--experiment", "cluster-pong"]
words += ["--stop", json.dumps(GOAL)]
package = pack(".")
print(package)
jobs = Jobs(CLUSTER)
job = jobs.submit([*words, "--ray-address", "auto"], package, limit=3600)

# As `RunDetails(run).show()` and `run.wait_for_completion()`: the log streams, the run comes here.
job, runs = watch(jobs, job, "runs", print, log=True)
print(job.end)
for path in runs:
    run = RunFolder(path)
    print(f"{run.status()['state']} after {len(run.metrics())} iterations: {path}")

if started is not None:
    local.stop()
