"""A cluster whose machines are network namespaces: cut, slow and frozen links, no shared disk.

    bridge --- head 10.77.0.1    the learner
           |-- one  10.77.0.2    a worker
           `-- two  10.77.0.3    a worker

Each has an address, a /tmp and a /dev/shm of its own. It needs root, `ip` and `unshare`.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import json
import os
import queue
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from common import Record, Results, parser, table

from poise.cluster.local import HEALTH

BRIDGE, NET = "poise-br", "10.77.0"
HOSTS = {"head": 1, "one": 2, "two": 3}
PORT = 6379
DRIVER = f"""
import json, sys, time
import poise
algo = poise.make_trainer(
    "IMPALA", "CartPole-v1", seed=0, progress=False, ray_address="{NET}.1:{PORT}",
    num_workers=int(sys.argv[1]), num_envs_per_worker=8, rollout_fragment_length=32,
    timesteps_per_iteration=1000, cluster_timeout_s=120.0,
)
while True:
    result = algo.train()
    told = {{key: result[key] for key in result if key.startswith("cluster/")}}
    told |= {{key: result[key] for key in ("timesteps_total", "worker_restarts_total")}}
    print(json.dumps(told), flush=True)
"""
SETTLE_S = 120.0
"""Seconds in which a cluster is up, or counts as broken."""


def run(*command: str) -> None:
    """Runs a command as root, which must succeed."""
    subprocess.run(command, check=True, capture_output=True, text=True)


def why_not() -> str:
    """Why this cannot run here; empty where it can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "it needs root, to make network namespaces"
    missing = [tool for tool in ("ip", "unshare", "nsenter") if shutil.which(tool) is None]
    return f"it needs {', '.join(missing)}" if missing else ""


class Relay(threading.Thread):
    """Carries the packets between two network devices, each when its time has come.

    Kernels without `netem` have no other way to make a link slow.

    Args:
        devices: names of the two, which it makes.

    Attributes:
        delay: seconds that each packet takes.
    """

    def __init__(self, *devices: str) -> None:
        super().__init__(daemon=True)
        self.delay = 0.0
        self._ends = [os.open("/dev/net/tun", os.O_RDWR) for _ in devices]
        for end, device in zip(self._ends, devices, strict=True):
            # TUNSETIFF, with IFF_TAP | IFF_NO_PI
            fcntl.ioctl(end, 0x400454CA, struct.pack("16sH14x", device.encode(), 0x1002))
        self._due: list[tuple[float, int, int, bytes]] = []
        self.start()

    def run(self) -> None:
        for count in itertools.count():
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                _, _, end, packet = heapq.heappop(self._due)
                with suppress(OSError):  # the device may be down
                    os.write(end, packet)
            wait = self._due[0][0] - now if self._due else 0.5
            for end in select.select(self._ends, [], [], wait)[0]:
                try:
                    packet = os.read(end, 65536)
                except OSError:
                    continue
                other = self._ends[1 - self._ends.index(end)]
                heapq.heappush(self._due, (time.monotonic() + self.delay, count, other, packet))


class Machine:
    """A network namespace with an address, in which processes have a /tmp of their own.

    Args:
        name: one of `HOSTS`.
        folder: holds the token of all machines.
        relayed: whether this process carries its packets, and can delay them.
    """

    def __init__(self, name: str, folder: Path, *, relayed: bool = False) -> None:
        self.name, self.space, self.folder = name, f"poise-{name}", folder
        self.address = f"{NET}.{HOSTS[name]}"
        self.veth = f"poise-{name}"
        run("ip", "netns", "add", self.space)
        self.relay = Relay(self.veth, "poise-far") if relayed else None
        if self.relay:
            run("ip", "link", "set", "poise-far", "name", "eth0", "netns", self.space)
        else:
            peer = ["peer", "name", "eth0", "netns", self.space]
            run("ip", "link", "add", self.veth, "type", "veth", *peer)
        run("ip", "link", "set", self.veth, "master", BRIDGE, "up")
        for command in (
            ["addr", "add", f"{self.address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["link", "set", "lo", "up"],
        ):
            run("ip", "-n", self.space, *command)

        # Its mounts last as long as this process, into whose namespaces all others go.
        private = "mount --make-rprivate / && mount -t tmpfs tmpfs /tmp"
        private += " && mount -t tmpfs -o size=1g tmpfs /dev/shm && echo there && exec sleep inf"
        enter = ["ip", "netns", "exec", self.space, "unshare", "-m", "sh", "-c", private]
        self.holder = subprocess.Popen(enter, stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == "there\n"
        self.processes = [self.holder]

    def start(self, script: str, **options: Any) -> subprocess.Popen[str]:
        """Starts a shell script on this machine."""
        environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        enter = ["nsenter", "-t", str(self.holder.pid), "-m", "-n", "sh", "-c", script]
        process = subprocess.Popen(
            enter, env=environment, text=True, start_new_session=True, **options
        )
        self.processes.append(process)
        return process

    def pids(self) -> list[int]:
        """Of all processes on this machine."""
        found = subprocess.run(
            ["ip", "netns", "pids", self.space], capture_output=True, text=True, check=True
        )
        return [int(pid) for pid in found.stdout.split()]

    def signal(self, number: int) -> None:
        """Sends all of Ray's processes on this machine a signal."""
        for pid in set(self.pids()) - {self.holder.pid}:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def link(self, state: str) -> None:
        """Cuts the link to the bridge (`down`), or mends it (`up`)."""
        run("ip", "link", "set", self.veth, state)

    def close(self) -> None:
        """Ends its processes and removes it."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self.holder.kill()
        for process in self.processes:
            process.wait()
        run("ip", "netns", "del", self.space)


class Training:
    """The driver on the head, and its results as they come."""

    def __init__(self, head: Machine, workers: int = 2) -> None:
        file = head.folder / "driver.py"
        file.write_text(DRIVER)
        self.process = head.start(
            f"cd {head.folder} && exec {sys.executable} driver.py {workers}",
            stdout=subprocess.PIPE,
            stderr=(head.folder / "driver.log").open("w"),
        )
        self.lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self.last: dict[str, Any] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(json.loads(line))

    def until(self, done: Callable[[dict[str, Any]], bool], limit: float = SETTLE_S) -> Record:
        """Follows results until one is as wanted.

        Returns:
            The seconds that it took, and the longest pause between two results.
        """
        begin = latest = time.monotonic()
        pause = 0.0
        while time.monotonic() - begin < limit:
            try:
                result = self.lines.get(timeout=0.5)
            except queue.Empty:
                if self.process.poll() is not None:
                    raise RuntimeError("the driver has ended: see driver.log") from None
                continue
            now = time.monotonic()
            pause, latest, self.last = max(pause, now - latest), now, result
            if done(result):
                return {"seconds": round(now - begin, 1), "pause": round(pause, 1)}
        raise RuntimeError(f"not within {limit:g} s; the last result was {self.last}")

    def for_(self, seconds: float) -> Record:
        """Follows results for so long."""
        end = time.monotonic() + seconds
        return self.until(lambda _: time.monotonic() > end, seconds + SETTLE_S)

    def workers(self, count: int) -> Callable[[dict[str, Any]], bool]:
        """Whether so many workers sample."""
        return lambda result: result["cluster/workers"] == count


NODE = (
    "while true; do ray start --address={head}:{port} --node-ip-address={address} --num-cpus=1 "
    "--object-store-memory=100000000 --disable-usage-stats --block; sleep 1; done"
)
HEAD = (
    "exec ray start --head --port={port} --node-ip-address={address} --num-cpus=0 "
    "--object-store-memory=100000000 --include-dashboard=false --disable-usage-stats --block "
    "--system-config='{health}'"
)


@contextmanager
def cluster(
    *, late: float = 0.0, relayed: bool = False
) -> Iterator[tuple[dict[str, Machine], Training]]:
    """Machines, Ray on them, and a training; the head comes so many seconds after its nodes."""
    with ExitStack() as stack:
        for name in HOSTS:  # what an earlier run may have left
            subprocess.run(["ip", "netns", "del", f"poise-{name}"], capture_output=True)
            subprocess.run(["ip", "link", "del", f"poise-{name}"], capture_output=True)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)
        folder = Path(tempfile.mkdtemp(prefix="poise-net", dir=Path.home()))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / "token").write_text(os.urandom(16).hex())
        (folder / "token").chmod(0o600)
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        stack.callback(run, "ip", "link", "del", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        machines = {}
        for name in HOSTS:
            machines[name] = Machine(name, folder, relayed=relayed and name == "one")
            stack.callback(machines[name].close)
        head = machines["head"]
        order = ["one", "two", "head"] if late else ["head", "one", "two"]
        for name in order:
            machine = machines[name]
            if late and name == "head":
                time.sleep(late)
            script = (HEAD if name == "head" else NODE).format(
                port=PORT, address=machine.address, head=head.address, health=json.dumps(HEALTH)
            )
            log = (folder / f"{name}.log").open("w")
            machine.start(script, stdout=log, stderr=log)
        training = None
        for _ in range(30):  # the driver needs the head
            training = Training(head)
            try:
                training.until(training.workers(2))
                break
            except RuntimeError:
                if training.process.poll() is None:
                    raise
                time.sleep(2)
        assert training is not None
        yield machines, training


def up() -> Record:
    """Both workers sample, and nothing is lost."""
    with cluster() as (_, training):
        return {**training.for_(10), **state(training)}


def cut(seconds: float) -> Record:
    """A link is cut for so long."""
    with cluster() as (machines, training):
        machines["one"].link("down")
        during = training.for_(seconds)
        machines["one"].link("up")
        back = training.until(training.workers(2), 60)
        return {"pause": during["pause"], "back": back["seconds"], **state(training)}


def slow() -> Record:
    """A worker's link takes 200 ms."""
    with cluster(relayed=True) as (machines, training):
        before = training.for_(10)
        relay = machines["one"].relay
        assert relay is not None
        relay.delay = 0.1  # each way
        return {"before": before, **training.for_(20), **state(training)}


def frozen() -> Record:
    """All processes of a machine are stopped."""
    with cluster() as (machines, training):
        machines["one"].signal(signal.SIGSTOP)
        noticed = training.until(training.workers(1), 60)
        return {"noticed": noticed["seconds"], "pause": noticed["pause"], **state(training)}


def late() -> Record:
    """The head comes 20 s after its nodes."""
    with cluster(late=20) as (_, training):
        return {**training.for_(5), **state(training)}


def state(training: Training) -> Record:
    """What the last result counts."""
    keys = ("workers", "rollouts_lost_total", "rollouts_dropped_total")
    return {
        **{key: training.last[f"cluster/{key}"] for key in keys},
        "restarts": training.last["worker_restarts_total"],
    }


ITEMS: dict[str, tuple[str, Callable[[], Record]]] = {
    "up": ("three machines, no shared disk", up),
    "cut 5": ("a link cut for 5 s", lambda: cut(5)),
    "cut 60": ("a link cut for 60 s", lambda: cut(60)),
    "slow": ("a worker 200 ms away", slow),
    "frozen": ("a frozen machine", frozen),
    "late": ("a head 20 s after its nodes", late),
}


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--only", default=",".join(ITEMS), help="items, by comma")
    args = options.parse_args()
    if reason := why_not():
        print(f"Skipped: {reason}.")
        return 0
    results = Results("network", quick=args.quick, fresh=args.fresh)
    rows, records = [], []
    for name in args.only.split(","):
        what, measure = ITEMS[name]
        record = results.measure(name, measure)
        records.append(record)
        rows.append(
            [
                what,
                record.get("pause", ""),
                record.get("noticed", ""),
                record.get("back", ""),
                record["restarts"],
                record["rollouts_lost_total"],
                record["workers"],
            ]
        )
    headers = [
        "What",
        "Longest pause, s",
        "Noticed after, s",
        "Both again after, s",
        "Workers replaced",
        "Rollouts lost",
        "Workers at the end",
    ]
    results.publish("A cluster of network namespaces", table(headers, rows), records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
