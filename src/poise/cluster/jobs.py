"""The jobs of a cluster, by Ray's REST API alone: the laptop needs no Ray running.

jobs = Jobs("http://127.0.0.1:8265")
job = jobs.submit(["train", "PPO", "--env", "CartPole-v1"], pack("."))
print(jobs.wait(job))
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shlex
import time
import warnings
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from poise.cluster.local import running
from poise.cluster.pack import Package
from poise.cluster.spec import ClusterSpec, read_spec
from poise.cluster.token import ANSWER_S, REFUSED, SILENT, UNPROTECTED, read_token, where_token
from poise.errors import ClusterError, PoiseWarning, nearest
from poise.files import folder_name, time_stamp

PYTHON = '"${POISE_PYTHON:-python}"'
"""The cluster's own, in a command of its shell: that of `PATH` may be another."""
JOB = "poise.cluster.job"
"""What runs the command `poise` there."""
STOP_WAIT_S = 120
"""Seconds that a stopped job has for its last checkpoint; Ray's own are 3."""
SOON_S, SLOW_S = 30.0, 600.0
"""Seconds in which a cluster answers, and in which it takes or gives what is large."""
LOOK_S = 1.0
"""Seconds between two looks at a job that is waited for."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class Unreachable(ClusterError):  # noqa: N818  (a sentence, as its base)
    """A cluster that does not answer, now."""


@dataclass(frozen=True)
class Job:
    """What a cluster knows of a job.

    Attributes:
        id: under which it was submitted.
        state: PENDING, RUNNING, or one of `ENDED`.
        command: what it runs.
        began: seconds since 1970.
        node: that its driver runs on; None before.
        message: the cluster's sentence on its state.
    """

    id: str
    state: str
    command: str = ""
    began: float = 0.0
    node: str | None = None
    message: str = ""

    def __str__(self) -> str:
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.began))
        words = self.command.partition(".job ")[2].split(" ", 2)[-1] or self.command
        return f"{self.id:<24} {self.state.lower():<10} {began}  {words}"

    @property
    def end(self) -> str:
        """A sentence on how it has ended; where its command has failed, the log says more."""
        why = f" {self.message.strip()}" if self.state == "FAILED" else ""
        why = why.partition(", last available logs")[0]
        return f"The job {self.id} has ended: {self.state.lower()}.{why}"


class Jobs:
    """The jobs of one cluster.

    Args:
        address: of its dashboard: `http://HOST:8265`, also that of a tunnel; or a `cluster.toml`.
            None takes `RAY_API_SERVER_ADDRESS`, or the cluster of this machine.
        allow_no_token: whether a cluster may be used that asks for no token.

    Raises:
        ClusterError: nothing answers there, it refuses our token, or it asks for none.
    """

    def __init__(self, address: str | None = None, allow_no_token: bool = False) -> None:
        address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or _own()
        self.spec = (
            read_spec(address) if address.endswith(".toml") else ClusterSpec(address=address)
        )
        address = self.spec.address
        self.address = address if "://" in address else f"http://{address}"
        self._parts, self._headers = urlsplit(self.address), dict[str, str]()
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise ClusterError(
                f"{address!r} is no address of a cluster's jobs: it must be http://HOST:PORT, whose"
                " port is usually 8265."
            )
        mode = self._ask("GET", "/api/authentication_mode", seconds=ANSWER_S)
        guarded = mode.get("authentication_mode") == "token"
        if not guarded and not allow_no_token:
            raise ClusterError(UNPROTECTED.format(address=self.address, how="--allow-no-token"))
        host, port = self._parts.hostname, self._parts.port or 80
        local = host in ("127.0.0.1", "localhost", "::1")
        if guarded and self._parts.scheme == "http" and not local:
            said = f"The token goes to {host} unencrypted, for all on the way to read. A tunnel"
            said += f" hides it: ssh -N -L 8265:127.0.0.1:{port} {host}"
            warnings.warn(said, PoiseWarning, stacklevel=2)
        if guarded:
            self._headers = {"Authorization": f"Bearer {read_token()}"}
        version = self._ask("GET", "/api/version", seconds=ANSWER_S)
        self.version = str(version.get("ray_version"))
        self._here = (found := running()) is not None and found.jobs == self.address

    def __str__(self) -> str:
        """The cluster and its nodes, in lines."""
        nodes = self.nodes()
        alive = sum(node["state"] == "ALIVE" for node in nodes)
        lines = [f"{self.address}: Ray {self.version}, {alive} of {len(nodes)} nodes are there"]
        for node in nodes:
            total = node["resources_total"] or {}
            has = ", ".join(f"{total[kind]:g} {kind}" for kind in ("CPU", "GPU") if total.get(kind))
            kind, why = "head" if node["is_head_node"] else "node", node["state_message"] or ""
            state = f"{node['state'].lower()}  {has}  {why}".rstrip()
            lines.append(f"  {kind}  {node['node_ip']}  {state}")
        return "\n".join(lines)

    @property
    def over(self) -> bool:
        """Whether it was the cluster of this machine, and has ended: it will not answer again."""
        return self._here and running() is None

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are there, the head first, then those that are gone; as Ray has them."""
        query = "/api/v0/nodes?limit=10000&detail=true"
        found = self._ask("GET", query)["data"]["result"]["result"]
        return sorted(found, key=lambda node: (node["state"], not node["is_head_node"]))

    def submit(
        self,
        words: list[str],
        package: Package,
        *,
        name: str | None = None,
        limit: float | None = None,
        module: str = JOB,
    ) -> Job:
        """Sends a working folder, where the cluster has it not yet, and runs the command `poise` in
        it.

        Args:
            words: of the command, the subcommand first.
            package: the working folder.
            name: the job's id, which no other has; None takes the time.
            limit: seconds after which it ends, with a checkpoint; None takes the cluster's own.
            module: whose `main` the job is; it takes the job's id, the limit and the words.

        Raises:
            ClusterError: the cluster refuses it.
            ConfigError: `name` is none of a folder, in which its runs are kept there.
        """
        name = folder_name("name", name or f"{time_stamp()}-{secrets.token_hex(2)}")
        packages = self.spec.packages if self.spec.provider == "kubernetes" else []
        python = "python" if packages else PYTHON  # pip's environment has one of its own
        seconds = limit if limit is not None else self.spec.max_run_time_s or 0
        flag, start = "--cluster-timeout-s", self.spec.start_timeout_s
        if (
            start
            and module == JOB
            and not any(word.replace("_", "-").startswith(flag) for word in words)
        ):
            words = [*words, flag, f"{start:g}"]
        job = shlex.join([name, f"{seconds:g}", *words])
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **self.spec.environment}
        runtime = {"working_dir": f"gcs://{package.name}", "env_vars": variables, "pip": packages}
        asked = {
            "entrypoint": f"exec {python} -m {module} {job}",
            "submission_id": name,
            "runtime_env": {key: value for key, value in runtime.items() if value},
        }
        where = f"/api/packages/gcs/{package.name}"
        if self._request("GET", where)[0] == http.client.NOT_FOUND:
            self._ask("PUT", where, package.data, SLOW_S)
        self._ask("POST", "/api/jobs/", json.dumps(asked).encode())
        return Job(name, "PENDING", str(asked["entrypoint"]), time.time())

    def all(self) -> list[Job]:
        """The jobs that were submitted to the cluster, oldest first."""
        found = [_job(each) for each in self._ask("GET", "/api/jobs/") if each.get("submission_id")]
        return sorted(found, key=lambda job: job.began)

    def get(self, name: str) -> Job:
        """How a job is doing now."""
        return _job(self._ask("GET", f"/api/jobs/{quote(name)}"))

    def find(self, name: str) -> Job:
        """The job that is meant: by its id, the beginning of it, or `latest`.

        Raises:
            ClusterError: there is none, or there are several.
        """
        known = {job.id: job for job in self.all()}
        ids = [name] if name in known else [id for id in known if id.startswith(name)]
        ids = ids or [*known][-1:] * (name == "latest")
        if len(ids) == 1:
            return known[ids[0]]
        raise ClusterError(
            f"{name!r} begins the names of {len(ids)} jobs: {', '.join(ids)}."
            if ids
            else f"There is no job {name!r} at {self.address}.{nearest(name, known)}"
            " `poise jobs` lists them."
        )

    def stop(self, job: Job) -> Job:
        """Ends a job, which writes a checkpoint first, for which it has `STOP_WAIT_S`."""
        self._ask("POST", f"/api/jobs/{quote(job.id)}/stop")
        return self.wait(job)

    def wait(self, job: Job) -> Job:
        """Waits until a job has ended."""
        while (job := self.get(job.id)).state not in ENDED:
            time.sleep(LOOK_S)
        return job

    def files(self, job: Job) -> list[str]:
        """What a job has left in its folder on the cluster, by paths from there."""
        query = urlencode({"node_id": job.node or "", "glob": f"{job.id}/**/*", "timeout": 60})
        listed = self._ask("GET", f"/api/v0/logs?{query}", seconds=SLOW_S)["data"][
            "result"
        ].values()
        names = (str(name) for group in listed for name in group if not str(name).endswith("/"))
        return sorted(name.removeprefix(f"{job.id}/") for name in names)

    def read(self, job: Job, name: str | None, lines: int = -1) -> bytes | None:
        """A file of those (the driver's log for None), or its last lines; None where it is gone."""
        file = f"job-driver-{job.id}.log" if name is None else f"{job.id}/{name}"
        query = {"node_id": job.node or "", "filename": file, "lines": lines, "timeout": 60}
        file = f"/api/v0/logs/file?{urlencode(query)}"
        status, data = self._request("GET", file, seconds=SLOW_S)
        return data if status == http.client.OK else None

    def _connect(self, seconds: float) -> http.client.HTTPConnection:
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        return kind(str(self._parts.hostname), self._parts.port, timeout=seconds)

    def _request(
        self, method: str, path: str, body: bytes | None = None, seconds: float = SOON_S
    ) -> tuple[int, bytes]:
        """Asks, and follows nobody elsewhere: the token is for this address alone."""
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            with closing(self._connect(seconds)) as connection:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unreachable(SILENT.format(address=self.address, reason=reason)) from None

    def _ask(
        self, method: str, path: str, body: bytes | None = None, seconds: float = SOON_S
    ) -> Any:
        """The JSON of an answer, where there is one.

        Raises:
            ClusterError: the cluster refuses; the sentence is its own last line.
        """
        status, data = self._request(method, path, body, seconds)
        if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            raise ClusterError(REFUSED.format(address=self.address, where=where_token()))
        try:
            if status == http.client.OK:
                return json.loads(data or b"{}")
        except ValueError:
            data = b"something that is no answer of Ray's"
        lines = data.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise ClusterError(f"The cluster at {self.address} says ({status}): {lines[-1]}")


def _own() -> str:
    if found := running():
        return found.jobs
    raise ClusterError(
        "Which cluster? `poise cluster local` starts one on this machine, and --address"
        " http://HOST:8265 names another."
    )


def _job(found: dict[str, Any]) -> Job:
    texts = {key: str(found.get(key) or "") for key in ("submission_id", "entrypoint", "message")}
    began = float(found.get("start_time") or 0) / 1000
    node = found.get("driver_node_id")
    return Job(texts["submission_id"], str(found.get("status")), texts["entrypoint"], began, node,
               texts["message"])  # fmt: skip
