"""What comes back from a cluster, and what a client of its jobs says: against a server of the
test's own, which answers as Ray's does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

import poise
from poise.cluster import fetch as fetching
from poise.cluster import token
from poise.cluster.fetch import MARK, bring, expect, fetch, newer
from poise.cluster.jobs import Job, Jobs, Unreachable
from poise.errors import ClusterError, PoiseWarning
from poise.tracking.folder import RunFolder
from poise.training.checkpoint import checkpoints, verify


class Cluster:
    """What the server has, and what it was asked."""

    def __init__(self) -> None:
        self.token: str | None = None
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.sent = 0
        self.address = ""

    def answer(self, path: str, query: dict[str, list[str]], shown: str | None) -> tuple[int, Any]:
        if path == "/api/authentication_mode":
            return 200, {"authentication_mode": "token" if self.token else "disabled"}
        if self.token and shown != f"Bearer {self.token}":
            return (403 if shown else 401), "Forbidden"
        if path == "/api/version":
            return 200, {"ray_version": "2.60.0"}
        if path == "/api/v0/logs":
            names = [f"one/{name}" for name in self.files if not name.startswith("job-driver")]
            return 200, {"data": {"result": {"internal": names}}}
        if path == "/api/v0/logs/file":
            name = query["filename"][0].removeprefix("one/")
            data, lines = self.files.get(name), int(query["lines"][0])
            if data is None:
                return 500, "A file is not found"
            data = data if lines < 0 else b"".join(data.splitlines(keepends=True)[-lines:])
            self.sent += len(data)
            return 200, data
        return 302, "http://elsewhere.invalid/"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cluster]:
    for name in (token.MODE, token.FILE, token.LOOPBACK):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(token.VALUE, "the token")
    found = Cluster()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts, shown = urlsplit(self.path), self.headers["Authorization"]
            found.asked.append((parts.path, shown))
            status, body = found.answer(parts.path, parse_qs(parts.query), shown)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", body)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


def test_another_token_is_refused_at_once(cluster: Cluster) -> None:
    cluster.token = "of another cluster"
    with pytest.raises(ClusterError, match=r"does not know the token in \$RAY_AUTH_TOKEN") as said:
        Jobs(cluster.address)
    assert "the token" not in str(said.value).replace("does not know the token", "")


def test_an_unguarded_cluster_is_refused_and_shown_no_token(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="without token authentication"):
        Jobs(cluster.address)
    assert Jobs(cluster.address, allow_no_token=True).version == "2.60.0"
    assert {shown for _, shown in cluster.asked} == {None}


def test_the_token_follows_nobody_elsewhere(cluster: Cluster) -> None:
    cluster.token = "the token"
    with pytest.raises(ClusterError, match=r"says \(302\)"):
        Jobs(cluster.address).all()


def test_where_nobody_answers_it_is_said(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match=r"Nothing answers at http://127\.0\.0\.1:1 \("):
        Jobs("127.0.0.1:1")
    with pytest.raises(ClusterError, match="no address of a cluster's jobs"):
        Jobs("ray://127.0.0.1:10001")


def test_a_token_on_an_open_wire_is_said(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.token = "the token"
    monkeypatch.setattr("socket.gethostbyname", lambda _: "127.0.0.1")
    port = cluster.address.rpartition(":")[2]
    monkeypatch.setattr(
        Jobs, "_connect", lambda self, seconds: _connection("127.0.0.1", int(port), seconds)
    )
    with pytest.warns(PoiseWarning, match="unencrypted.*ssh -N -L 8265"):
        Jobs(f"http://head.example:{port}")


def _connection(host: str, port: int, seconds: float) -> Any:
    from http.client import HTTPConnection

    return HTTPConnection(host, port, timeout=seconds)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run as a job leaves it."""
    run = poise.run("PPO", "CartPole-v1", stop={"training_iteration": 2}, folder=tmp_path / "there",
                    experiment="e", name="r", seed=0, quiet=True, tensorboard=False)  # fmt: skip
    return run.path


def load(cluster: Cluster, run: Path) -> None:
    """Puts a run's files on the server."""
    cluster.token = "the token"
    cluster.files = {
        f"e/r/{file.relative_to(run).as_posix()}": file.read_bytes()
        for file in run.rglob("*")
        if file.is_file()
    }
    cluster.files["job-driver-one.log"] = b"printed\n"


RUNNING, DONE = Job("one", "RUNNING", node="n"), Job("one", "SUCCEEDED", node="n")


def test_a_run_comes_back_whole_and_goes_on_here(
    cluster: Cluster, trained: Path, tmp_path: Path
) -> None:
    load(cluster, trained)
    here = tmp_path / "here"
    [path] = fetch(Jobs(cluster.address), DONE, here)
    assert path == here / "e" / "r"
    for file in trained.rglob("*"):
        if file.is_file() and not file.name.startswith("."):
            assert (path / file.relative_to(trained)).read_bytes() == file.read_bytes()
    assert (path / "driver_log.txt").read_text() == "printed\n"
    asked = len(cluster.asked)
    assert fetch(Jobs(cluster.address), DONE, here) == [path]  # it is whole: nothing is read anew
    assert not any(at == "/api/v0/logs/file" for at, _ in cluster.asked[asked:])
    resumed = poise.resume(path, stop={"training_iteration": 3}, quiet=True)
    assert resumed.result["training_iteration"] == 3
    fetch(Jobs(cluster.address), DONE, here)
    assert RunFolder(path).metrics()[-1]["training_iteration"] == 3


def test_only_new_lines_travel_and_torn_ones_come_whole(
    cluster: Cluster, trained: Path, tmp_path: Path
) -> None:
    load(cluster, trained)
    jobs, here = Jobs(cluster.address), tmp_path / "here"
    lines = [json.dumps({"training_iteration": i, "x": "y" * 200}) + "\n" for i in range(3000)]
    metrics, local = "e/r/metrics.jsonl", here / "e" / "r" / "metrics.jsonl"
    cluster.files[metrics] = ("".join(lines[:2000]) + lines[2000][:10]).encode()
    fetch(jobs, RUNNING, here)
    assert local.read_bytes() == cluster.files[metrics]
    cluster.files[metrics], cluster.sent = "".join(lines[:2100]).encode(), 0
    fetch(jobs, RUNNING, here)
    assert local.read_bytes() == cluster.files[metrics]
    assert cluster.sent < 1000 * 250
    cluster.files[metrics] = "".join(lines).encode()  # more than the tail that is asked for
    fetch(jobs, RUNNING, here)
    assert local.read_bytes() == cluster.files[metrics]
    cluster.files[metrics] = "".join(lines[:50] + lines[:1]).encode()  # it went back
    fetch(jobs, RUNNING, here)
    assert local.read_bytes() == cluster.files[metrics]


def test_lines_that_repeat_are_all_there(cluster: Cluster, trained: Path, tmp_path: Path) -> None:
    load(cluster, trained)
    for count in (19, 20, 21, 25, 60, 600, 1200, 1201):
        cluster.files["job-driver-one.log"] = b"begins\n" + b"waits\n" * count
        [path] = fetch(Jobs(cluster.address), RUNNING, tmp_path / "here")
        assert (path / "driver_log.txt").read_bytes() == cluster.files["job-driver-one.log"]
    kept, new = newer(b"waits\n" * 30, lambda lines: b"waits\n" * 40)
    assert (len(kept), len(new)) == (180, 60)  # what was printed is not printed again


def test_files_of_tensorboard_grow_here_as_there(
    cluster: Cluster, trained: Path, tmp_path: Path
) -> None:
    load(cluster, trained)
    jobs, name = Jobs(cluster.address), "events.out.tfevents.1.host.2.0"
    values = np.random.default_rng(0).integers(0, 256, 200_000).astype(np.uint8).tobytes()
    values += b"\n\r" * 3000 + values[:50_000]
    for end in (0, 1, 700, 701, 90_000, 200_900, 205_999, 206_010, len(values)):
        cluster.files[f"e/r/{name}"] = values[:end]
        fetch(jobs, RUNNING, tmp_path / "here")
        assert (tmp_path / "here" / "e" / "r" / name).read_bytes() == values[:end]
    fetch(jobs, DONE, tmp_path / "here")
    assert (tmp_path / "here" / "e" / "r" / name).read_bytes() == values


@pytest.mark.parametrize(
    "name", ["../../escaped", "/etc/escaped", "e/r/../../../escaped", "e\\..\\escaped",
             "c:/escaped", "e/r/a\x1b[2Jb"]
)  # fmt: skip
def test_nothing_is_written_outside_of_the_runs(
    cluster: Cluster, trained: Path, tmp_path: Path, name: str
) -> None:
    load(cluster, trained)
    cluster.files[name] = b"owned"
    before = {file for file in tmp_path.rglob("*") if "here" not in file.parts}
    with pytest.raises(ClusterError, match="which is in no run"):
        fetch(Jobs(cluster.address), DONE, tmp_path / "here")
    assert {file for file in tmp_path.rglob("*") if "here" not in file.parts} == before
    assert not (tmp_path / "here").exists()


def test_a_damaged_checkpoint_is_said_and_not_kept(
    cluster: Cluster, trained: Path, tmp_path: Path
) -> None:
    load(cluster, trained)
    [name] = [name for name in cluster.files if name.endswith("policy.safetensors")]
    cluster.files[name] = cluster.files[name][:-1] + b"?"
    [path] = fetch(Jobs(cluster.address), RUNNING, tmp_path / "here")  # being dropped, perhaps
    assert not list((path / "checkpoints").glob("0*"))
    with pytest.raises(ClusterError, match="came damaged"):
        fetch(Jobs(cluster.address), DONE, tmp_path / "here")
    assert not list((path / "checkpoints").glob("*"))


def test_a_cluster_out_of_reach_is_waited_for(
    cluster: Cluster, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(cluster, trained)
    jobs, answers = Jobs(cluster.address), iter("..xxx.xx.")
    said: list[str] = []

    def get(name: str) -> Job:
        if next(answers, "end") == "x":
            raise Unreachable("Nothing answers.")
        return DONE if len(said) > 1 else RUNNING

    monkeypatch.setattr(jobs, "get", get)
    monkeypatch.setattr(fetching, "LOOK_S", 0.0)
    job, runs = fetching.watch(jobs, RUNNING, tmp_path / "here", said.append)
    assert (job, runs) == (DONE, [tmp_path / "here" / "e" / "r"])
    assert said == ["Nothing answers. The job goes on without us; trying again."] * 2
    answers = iter(".x")
    said.clear()
    monkeypatch.setattr(Jobs, "over", True)  # a cluster of this machine, which has ended
    again = r"^Nothing answers\. .*/e/r has what came of it: `poise resume` goes on\.$"
    with pytest.raises(Unreachable, match=again):
        fetching.watch(jobs, RUNNING, tmp_path / "here", said.append)


def test_nothing_that_is_here_is_lost_while_a_cluster_dies(
    cluster: Cluster, trained: Path, tmp_path: Path
) -> None:
    load(cluster, trained)
    jobs, there = Jobs(cluster.address), dict[str, Any](cluster.files)
    [path] = fetch(jobs, RUNNING, tmp_path / "here")
    run = RunFolder(path)
    saved, results = checkpoints(run.checkpoints), run.metrics()
    assert saved
    old = "e/r/checkpoints/"
    newer = {f"{old}000009/{name.split('/')[-1]}": None for name in there if name.startswith(old)}
    kept = {name: data for name, data in there.items() if not name.startswith(old)}
    cluster.files = {**kept, **newer, "e/r/metrics.jsonl": b""}
    for job in (RUNNING, DONE):
        with suppress(Unreachable):
            fetch(jobs, job, tmp_path / "here")
        assert (checkpoints(run.checkpoints), run.metrics()) == (saved, results)
    with pytest.raises(Unreachable, match=r"does not give 'checkpoints/000009/.* of job one now"):
        fetch(jobs, DONE, tmp_path / "here")
    cluster.files = there
    fetch(jobs, DONE, tmp_path / "here")
    assert (path / "log.txt").read_bytes() == there["e/r/log.txt"]


def test_the_run_of_another_is_not_written_over(
    cluster: Cluster, trained: Path, tmp_path: Path
) -> None:
    load(cluster, trained)
    jobs = Jobs(cluster.address)
    with pytest.raises(ClusterError, match="not of job one: take another --folder"):
        fetch(jobs, DONE, trained.parent.parent)
    expect(trained, Job("one", "PENDING"))  # it was sent as a run that goes on
    assert fetch(jobs, RUNNING, trained.parent.parent) == [trained]
    poise.resume(trained, stop={"training_iteration": 3}, quiet=True)
    with pytest.raises(ClusterError, match="has gone on here since"):
        fetch(jobs, RUNNING, trained.parent.parent)
    assert (trained / MARK).is_file()


def test_rows_of_a_replay_that_have_not_changed_travel_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poise.sampling.segments._SMALLEST", 2000)
    given: dict[str, Any] = {"checkpoint_freq": 1, "keep_checkpoints_num": 9, "quiet": True}
    given |= {"buffer_size": 2000, "learning_starts": 9000, "tensorboard": False, "plot": False}
    run = poise.run(
        "DQN", "CartPole-v1", stop={"training_iteration": 3}, folder=tmp_path / "there", **given
    )
    asked: list[str] = []

    def read(name: str, lines: int = -1) -> bytes:
        asked.append(name)
        return (run.path / name).read_bytes()

    first, second = sorted(checkpoints(run.path / "checkpoints"))[:2]
    here, names = RunFolder(tmp_path / "here"), {"config.json"}
    for saved in (first, second):
        asked.clear()
        names |= {file.relative_to(run.path).as_posix() for file in saved.iterdir()}
        bring(here, names, read, whole=True)
    had, has = (verify(here.checkpoints / saved.name)["files"] for saved in (first, second))
    same = {name for name in had.keys() & has.keys() if had[name] == has[name]}
    assert any(name.startswith("replay-") for name in same)
    assert not same & {name.rpartition("/")[2] for name in asked}
