"""The jobs of a cluster, by Ray's REST API and the standard library: the laptop needs no Ray running.

jobs = Jobs("http://127.0.0.1:8265")
job = jobs.submit("python train.py", package, name="first")
for text in jobs.follow(job): print(text, end="")
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import select
import shlex
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from poise.cluster.local import running
from poise.cluster.pack import Package
from poise.cluster.token import ANSWER_S, REFUSED, SILENT, UNPROTECTED, read_token, where_token
from poise.errors import ClusterError, PoiseWarning, nearest
from poise.files import time_stamp

PYTHON = '"${POISE_PYTHON:-python}"'
"""The cluster's own, in a command of its shell: that of `PATH` may be another."""
STOP_WAIT_S = 120
"""Seconds that a stopped job has for its last checkpoint; Ray's own are 3."""
UPLOAD_S = 600.0
LOOK_S = 1.0
"""Seconds between two looks at a job that is waited for."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Job:
    """What a cluster knows of a job.

    Attributes:
        id: under which it was submitted.
        state: PENDING, RUNNING, or one of `ENDED`.
        command: what it runs.
        began, ended: seconds since 1970; None before.
        node: that its driver runs on.
        message: the cluster's sentence on its state.
    """

    id: str
    state: str
    command: str = ""
    began: float | None = None
    ended: float | None = None
    node: str | None = None
    message: str = ""

    def __str__(self) -> str:
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.began or 0))
        words = self.command.partition("poise.cluster.job ")[2].split(" ", 2)[-1] or self.command
        return f"{self.id:<24} {self.state.lower():<10} {began}  {words}"

    @property
    def reason(self) -> str:
        """Why it failed; where its command did, the log says more."""
        said = self.message.strip() if self.state == "FAILED" else ""
        return said.partition(", last available logs")[0]


class Jobs:
    """The jobs of one cluster.

    Args:
        address: of its dashboard: `http://HOST:8265`, also that of a tunnel; None takes
            `RAY_API_SERVER_ADDRESS`, or the cluster of this machine.
        allow_no_token: whether a cluster may be used that asks for no token.

    Raises:
        ClusterError: nothing answers there, it refuses our token, or it asks for none.
    """

    def __init__(self, address: str | None = None, allow_no_token: bool = False) -> None:
        address = address or _default()
        self.address = address if "://" in address else f"http://{address}"
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClusterError(
                f"{address!r} is no address of a cluster's jobs: it must be http://HOST:PORT, whose"
                " port is usually 8265."
            )
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, parts.port
        self._headers: dict[str, str] = {}
        try:
            guarded = self._ask("GET", "/api/authentication_mode")["authentication_mode"] == "token"
        except (ValueError, KeyError, TypeError):
            guarded = False
        if not guarded and not allow_no_token:
            raise ClusterError(UNPROTECTED.format(address=self.address))
        if guarded:
            if not self._secure and self._host not in ("127.0.0.1", "localhost", "::1"):
                warnings.warn(
                    f"The token goes to {self._host} unencrypted, for all on the way to read. A"
                    f" tunnel hides it: ssh -N -L 8265:127.0.0.1:{self._port or 80} {self._host}",
                    PoiseWarning,
                    stacklevel=2,
                )
            self._headers = {"Authorization": f"Bearer {read_token()}"}
        self.version = str(self._ask("GET", "/api/version").get("ray_version"))

    def __str__(self) -> str:
        """The cluster and its nodes, in lines."""
        nodes = sorted(self.nodes(), key=lambda node: (node["state"], not node["is_head_node"]))
        alive = sum(node["state"] == "ALIVE" for node in nodes)
        lines = [f"{self.address}: Ray {self.version}, {alive} of {len(nodes)} nodes are there"]
        for node in nodes:
            total = node["resources_total"] or {}
            has = ", ".join(f"{total[kind]:g} {kind}" for kind in ("CPU", "GPU") if total.get(kind))
            kind, why = "head" if node["is_head_node"] else "node", node["state_message"] or ""
            lines.append(
                f"  {kind}  {node['node_ip']}  {node['state'].lower()}  {has}  {why}".rstrip()
            )
        return "\n".join(lines)

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are there or were: `state`, `is_head_node`, `resources_total`, `node_ip`."""
        found = self._ask("GET", "/api/v0/nodes?limit=10000&detail=true")
        return list(found["data"]["result"]["result"])

    def submit(
        self,
        words: list[str],
        package: Package,
        *,
        name: str | None = None,
        limit: float = 0.0,
        environment: dict[str, str] | None = None,
        packages: list[str] | None = None,
    ) -> Job:
        """Sends a working folder, where the cluster has it not yet, and runs the command `poise` in
        it.

        Args:
            words: of the command, the subcommand first.
            package: the working folder.
            name: the job's id, which no other has; None takes the time.
            limit: seconds after which it ends, with a checkpoint; 0 for none.
            environment: variables that it is to have.
            packages: that pip is to install for it, as requirements.

        Raises:
            ClusterError: the cluster refuses it.
        """
        name = name or f"{time_stamp()}-{secrets.token_hex(2)}"
        python = "python" if packages else PYTHON  # pip's environment has one of its own
        job = [*map(shlex.quote, (name, f"{limit:g}", *words))]
        command = f"exec {python} -m poise.cluster.job {' '.join(job)}"
        where = f"/api/packages/gcs/{package.name}"
        if self._request("GET", where)[0] == http.client.NOT_FOUND:
            self._ask("PUT", where, package.data)
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **(environment or {})}
        runtime: dict[str, Any] = {
            "working_dir": f"gcs://{package.name}",
            "env_vars": variables,
        }
        if packages:
            runtime["pip"] = packages
        asked = {"entrypoint": command, "submission_id": name, "runtime_env": runtime}
        self._ask("POST", "/api/jobs/", json.dumps(asked).encode())
        return self.get(name)

    def all(self) -> list[Job]:
        """The jobs that were submitted to the cluster, oldest first."""
        found = map(_job, self._ask("GET", "/api/jobs/"))
        return sorted((job for job in found if job.id), key=lambda job: job.began or 0.0)

    def get(self, name: str) -> Job:
        """How a job is doing now."""
        return _job(self._ask("GET", f"/api/jobs/{quote(name)}"))

    def find(self, name: str) -> Job:
        """The job that is meant: by its id, the beginning of it, or `latest`.

        Raises:
            ClusterError: there is none, or there are several.
        """
        known = self.all()
        found = [job for job in known if job.id == name] or [
            job for job in known if job.id.startswith(name)
        ]
        if name == "latest" and not found:
            found = known[-1:]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(job.id for job in found)
            raise ClusterError(f"{name!r} begins the names of {len(found)} jobs: {listed}.")
        raise ClusterError(
            f"There is no job {name!r} at {self.address}.{nearest(name, [job.id for job in known])}"
            " `poise jobs` lists them."
        )

    def stop(self, job: Job) -> None:
        """Asks a job to end: it writes a checkpoint first, for which it has `STOP_WAIT_S`."""
        self._ask("POST", f"/api/jobs/{quote(job.id)}/stop")

    def stop_all(self, say: Callable[[str], None]) -> None:
        """Ends all jobs that run, and says so of each."""
        running = [job for job in self.all() if job.state not in ENDED]
        for job in running:
            self.stop(job)
        for job in running:
            say(f"The job {job.id} has ended: {self.wait(job).state.lower()}.")

    def wait(self, job: Job, *states: str) -> Job:
        """Waits until a job is in one of these states, or has ended."""
        while (job := self.get(job.id)).state not in (*states, *ENDED):
            time.sleep(LOOK_S)
        return job

    def follow(self, job: Job) -> Iterator[str]:
        """The log of a job's driver, from its beginning, until the job ends."""
        job, sent = self.wait(job, "RUNNING"), 0
        if job.node and job.state not in ENDED:
            with closing(self._connect(ANSWER_S * 12)) as connection:
                connection.connect()
                wire = connection.sock
                connection.request("GET", _log(job, "stream", -1), headers=self._headers)
                # The head of the answer comes with the first line: until then, nothing is read.
                answer = None
                while self.get(job.id).state not in ENDED:
                    if select.select([wire], [], [], LOOK_S)[0]:
                        answer = answer or connection.getresponse()
                        if answer.status != http.client.OK or not (data := answer.read1(65536)):
                            break
                        sent += len(data)
                        yield data.decode(errors="replace")
        logs = self._ask("GET", f"/api/jobs/{quote(job.id)}/logs").get("logs") or ""
        yield logs.encode()[sent:].decode(errors="replace")

    def files(self, job: Job) -> list[str]:
        """What a job has left in its folder on the cluster, by paths from there."""
        query = urlencode({"node_id": job.node or "", "glob": f"{job.id}/**/*", "timeout": 60})
        listed = self._ask("GET", f"/api/v0/logs?{query}")["data"]["result"].values()
        names = (str(name) for group in listed for name in group if not str(name).endswith("/"))
        return sorted(name.removeprefix(f"{job.id}/") for name in names)

    def read(self, job: Job, name: str | None, lines: int = -1) -> bytes | None:
        """A file of those (the driver's log for None), or its last lines; None where it is gone."""
        status, data = self._request("GET", _log(job, "file", lines, name))
        return data if status == http.client.OK else None

    def _connect(self, seconds: float) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=seconds)

    def _request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Asks, and follows nobody elsewhere: the token is for this address alone."""
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            seconds = UPLOAD_S if body else ANSWER_S * 12 if self._headers else ANSWER_S
            with closing(self._connect(seconds)) as connection:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ClusterError(SILENT.format(address=self.address, reason=reason)) from None

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """The JSON of an answer, where there is one.

        Raises:
            ClusterError: the cluster refuses; the sentence is its own last line.
        """
        status, data = self._request(method, path, body)
        if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            raise ClusterError(REFUSED.format(address=self.address, where=where_token()))
        if status != http.client.OK:
            lines = data.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise ClusterError(f"The cluster at {self.address} says ({status}): {lines[-1]}")
        return json.loads(data) if data else {}


def _log(job: Job, kind: str, lines: int, name: str | None = None) -> str:
    file = f"job-driver-{job.id}.log" if name is None else f"{job.id}/{name}"
    query = {"node_id": job.node or "", "filename": file, "lines": lines, "timeout": 60}
    return f"/api/v0/logs/{kind}?{urlencode(query)}"


def _job(found: dict[str, Any]) -> Job:
    began, ended = (found.get(key) for key in ("start_time", "end_time"))
    return Job(
        id=str(found.get("submission_id") or ""),
        state=str(found.get("status")),
        command=str(found.get("entrypoint") or ""),
        began=began / 1000 if began else None,
        ended=ended / 1000 if ended else None,
        node=found.get("driver_node_id"),
        message=str(found.get("message") or ""),
    )


def _default() -> str:
    """The cluster that is meant where none is named: `RAY_API_SERVER_ADDRESS`, or this machine's."""
    found = running()
    if address := os.environ.get("RAY_API_SERVER_ADDRESS") or (found and found.jobs):
        return address
    raise ClusterError(
        "Which cluster? `poise cluster local` starts one on this machine, and --address"
        " http://HOST:8265 names another."
    )
