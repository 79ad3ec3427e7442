"""A cluster of several machines on this one, to learn and to test with: Ray's own processes, each
machine a raylet, all of them on the loopback interface and behind the token.

    cluster = start(nodes=3)    # a head and two nodes
    running() == cluster        # also in another process
    stop()

One process owns the cluster, holds a lock for as long as it lives, and replaces nodes that died.
However it ends, what it started ends with it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock

from poise.children.launch import begin
from poise.children.launch import start as start_child
from poise.cluster.token import authenticate, need_ray
from poise.errors import ClusterError, PoiseWarning
from poise.files import home, make_folder, read_json, write_json
from poise.startup import ENDING

HEALTH = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1500,
    "health_check_failure_threshold": 3,
}
"""A head that asks its nodes every second notices a dead or frozen one within 10 s; with Ray's own
numbers it takes 65."""
HEAD: dict[str, Any] = {
    "dashboard_host": "127.0.0.1",
    "dashboard_port": None,  # 8265, or the next that is free
    "dashboard_agent_listen_port": 0,
    "include_dashboard": True,
    "_system_config": HEALTH,
}
SAID = """\
A head with {head_cpus} CPUs and {others} more with {cpus} each, on this machine:
  {address}            Ray; `poise train ... --ray-address {address}`
  {jobs}    jobs and the dashboard
Both ask for the token, and all of it listens on the loopback interface only.

Next:
  poise submit -- train PPO --env CartPole-v1     run it there
  poise cluster stop                              end the cluster"""
ENDED = "The cluster at {address} has ended."
KEPT = " Runs that were not fetched stay in {folder}/jobs."
KILLED = (
    "The cluster before this one was killed. Runs of its jobs that were not fetched are in"
    " {folder}/jobs."
)
FETCHED = "fetched.txt"
"""In Poise's own folder: the jobs whose runs were brought whole."""
NONE = "No cluster of Poise's runs on this machine."
STOP_S = 30.0
"""Seconds in which a cluster ends in good order, before it is killed."""


@dataclass(frozen=True)
class LocalCluster:
    """A cluster that runs on this machine.

    Attributes:
        address: of its head, as `--ray-address` takes it.
        jobs: of its jobs and its dashboard, for `poise submit --address`.
        nodes: how many there were to be, the head among them.
        head_cpus, cpus: that the head offers, and each of the others.
        folder: Ray's files: logs, sockets, and what jobs leave.
        pid: of the process that owns it.
    """

    address: str
    jobs: str
    nodes: int
    head_cpus: int
    cpus: int
    folder: str
    pid: int

    def __str__(self) -> str:
        return SAID.format(others=self.nodes - 1, **asdict(self))


def running() -> LocalCluster | None:
    """The cluster that `start` has left running on this machine, if there is one."""
    try:
        with _lock().acquire(timeout=0):
            return None
    except filelock.Timeout:
        return _last()


def _last() -> LocalCluster | None:
    """The last cluster that `start` has begun, if there was one."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return LocalCluster(**read_json(_file()))
    return None


def start(
    *,
    nodes: int = 3,
    cpus: int | None = None,
    head_cpus: int | None = None,
    gpus: int = 0,
    memory: int = 150 * 2**20,
) -> LocalCluster:
    """Starts a cluster, which goes on when this process ends.

    Args:
        nodes: raylets, the head among them.
        cpus: of each; None shares this machine's cores out, at least one for each. Nodes may offer
            more than the machine has: they share it.
        head_cpus: of the head; None is as many as the others have.
        gpus: of the head.
        memory: bytes of shared memory of each.

    Raises:
        ClusterError: one runs already, Ray is not installed, or it does not start.
    """
    need_ray()
    if found := running():
        raise ClusterError(
            f"A cluster of {found.nodes} runs already at {found.address}: use it, or end it with"
            " `poise cluster stop`."
        )
    if (killed := _last()) is not None and _clear(Path(killed.folder)):
        warnings.warn(KILLED.format(**vars(killed)), PoiseWarning, stacklevel=2)
    variables = {**authenticate(loopback=True), "RAY_USAGE_STATS_ENABLED": "0"}
    variables["POISE_PYTHON"] = sys.executable
    folder = tempfile.mkdtemp(prefix="poise-")  # short: a socket's path has 107 characters
    each = cpus or max(1, (os.cpu_count() or 1) // nodes)
    log = Path(folder, "cluster.log")
    asked = (nodes, each, head_cpus or each, gpus, memory, folder)
    with log.open("w") as file:
        process, pipe = start_child(
            "poise.cluster.local",
            *asked,
            env={**variables, "RAY_TMPDIR": folder},
            stderr=file,
            start_new_session=True,
        )
    try:
        return LocalCluster(**pipe.receive())
    except EOFError:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        why = f"{said[-1]} (all of it: {log})" if said else "it was ended"
        raise ClusterError(f"The cluster did not start: {why}.") from None
    except BaseException:
        process.terminate()
        raise


def stop() -> LocalCluster | None:
    """Ends the cluster that `start` began, and nothing else; what it was, or None without one.

    Raises:
        ClusterError: it does not end.
    """
    if (found := running()) is None:
        return None
    for number, seconds in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, number)
        with contextlib.suppress(filelock.Timeout), _lock().acquire(timeout=seconds):
            _clear(Path(found.folder))
            return found
    raise ClusterError(f"The cluster's process {found.pid} does not end.")


def _clear(folder: Path) -> bool:
    """Removes what a cluster has left, but for runs of its jobs that nobody has fetched; whether
    there are such that were not put aside before."""
    kept, fetched = folder / "jobs", home() / FETCHED
    known = fetched.read_text().splitlines() if fetched.is_file() else []
    fetched.unlink(missing_ok=True)
    jobs = folder.glob("ray/session_[0-9]*/logs/*")
    runs = [job for job in jobs if job.name not in known and any(job.glob("**/config.json"))]
    for job in runs:
        kept.mkdir(exist_ok=True)
        job.rename(kept / job.name)
    for other in [each for each in folder.glob("*") if each != kept]:
        is_folder = other.is_dir() and not other.is_symlink()
        shutil.rmtree(other, ignore_errors=True) if is_folder else other.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return bool(runs)


def _file() -> Path:
    return home() / "cluster.json"


def _lock() -> filelock.FileLock:
    make_folder(home())
    return filelock.FileLock(home() / ".cluster.lock")


def main(*asked: str) -> None:
    """What the owner of a cluster does: starts it, tells where it is, minds it until the end."""
    pipe = begin()
    nodes, cpus, head_cpus, gpus, memory = map(int, asked[:5])
    # Ray's agents outlive their raylet by a minute: when our end of this pipe closes, all is ended.
    order = ["sh", "-c", f"cat; kill -KILL -{os.getpgid(0)}"]
    reaper = subprocess.Popen(order, stdin=subprocess.PIPE, start_new_session=True)
    from ray.cluster_utils import Cluster

    place = {"node_ip_address": "127.0.0.1", "num_cpus": cpus, "object_store_memory": memory}
    head = {**HEAD, **place, "num_cpus": head_cpus, "num_gpus": gpus}
    with _lock().acquire(timeout=STOP_S):
        cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        ended = threading.Event()
        for number in (signal.SIGINT, *ENDING):  # Ray's own would leave the process waiting
            signal.signal(number, lambda *_: ended.set())
        try:
            numbers = itertools.count(1)
            for number in itertools.islice(numbers, nodes - 1):
                cluster.add_node(True, **place, temp_dir=f"{asked[-1]}/{number}")
            jobs = f"http://{cluster.webui_url}"
            found = LocalCluster(
                cluster.address, jobs, nodes, head_cpus, cpus, asked[-1], os.getpid()
            )
            write_json(_file(), asdict(found))
            with contextlib.suppress(BrokenPipeError):
                pipe.send(asdict(found))
            while not (ended.wait(1.0) or cluster.head_node.dead_processes() or reaper.poll()):
                known = cluster.global_state.node_table()
                dead = {each["NodeID"] for each in known if not each["Alive"]}
                for node in list(cluster.worker_nodes):
                    if not node.dead_processes() and node._node_id not in dead:
                        continue
                    print("A node has died, or does not answer: a new one takes its place.")
                    cluster.remove_node(node, allow_graceful=False)
                    cluster.add_node(True, **place, temp_dir=f"{asked[-1]}/{next(numbers)}")
        finally:
            cluster.shutdown()
