"""Jobs on a real cluster of this machine: two raylets, a job that trains, and all that may happen
to it and to whoever looks."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from poise.cli.main import poise as command
from poise.cluster import local, token
from poise.cluster.fetch import fetch, watch
from poise.cluster.jobs import ENDED, Job, Jobs, Unreachable
from poise.cluster.token import check_ray
from poise.errors import ClusterError, PoiseWarning
from poise.tracking.folder import RunFolder

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

NEVER = ("--stop", "timesteps_total=1000000000")


def until(happened: Callable[[], Any]) -> Any:
    """What it returns once it is true; a hang is the test's own limit."""
    while not (found := happened()):
        time.sleep(0.1)
    return found


def poise(*words: str, code: int | None = 0, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "poise", *words], cwd=cwd, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert code is None or done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder, and thus a token and a cluster, of this module's own."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in (token.VALUE, token.FILE, token.MODE, "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            patch.delenv(name, raising=False)
        for name in ("HOME", "POISE_HOME"):
            patch.setenv(name, str(folder))
        patch.setenv("COLUMNS", "200")
        before = dict(os.environ)
        yield folder
        for name in os.environ.keys() - before.keys():
            del os.environ[name]


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[local.LocalCluster]:
    poise("cluster", "local", "--nodes", "2", "--cpus", "1")
    found = local.running()
    assert found is not None
    yield found
    local.stop()
    shutil.rmtree(found.folder, ignore_errors=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "notes.txt").write_text("of the project")
    return tmp_path / "project"


@pytest.fixture
def jobs(cluster: local.LocalCluster) -> Iterator[Jobs]:
    found = Jobs()
    yield found
    for job in found.all():
        if job.state not in ENDED:
            found.stop(job)


def ours(cluster: local.LocalCluster) -> dict[int, str]:
    """The processes of a cluster by their ids, with their command lines."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            environment = (folder / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if f"RAY_TMPDIR={cluster.folder}\0" in environment or cluster.folder in words:
            found[int(folder.name)] = words
    return found


def listening(processes: dict[int, str]) -> set[str]:
    """The addresses, in hexadecimal, on which some processes listen, by /proc/net."""
    inodes = set()
    for process in processes:
        for link in Path(f"/proc/{process}/fd").glob("*"):
            try:
                inodes.update(re.findall(r"socket:\[(\d+)\]", os.readlink(link)))
            except OSError:
                continue
    rows = [
        row.split()
        for name in ("tcp", "tcp6")
        for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {row[1].rpartition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


LOOPBACK = {
    "0100007F",
    "00000000000000000000000001000000",
    "0000000000000000FFFF00000100007F",
}
"""127.0.0.1, ::1, and the former as the latter."""


def test_a_job_trains_and_its_run_comes_back_while_it_does(
    cluster: local.LocalCluster, jobs: Jobs, project: Path
) -> None:
    client = subprocess.Popen(
        [sys.executable, "-m", "poise", "submit", "--name", "first", "--", "train", "PPO",
         "--env", "CartPole-v1", "--seed", "1", "--experiment", "e", "--name", "r", *NEVER],
        cwd=project, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert client.stdout is not None
    assert "Sending 1 file," in client.stdout.readline()
    for line in client.stdout:  # the log streams
        if line.startswith("reward"):
            break
    run = RunFolder(project / "runs" / "e" / "r")
    until(lambda: len(run.metrics()) > 1)  # so do the results, to who reads them here
    until(lambda: run.status().get("state") == "running")
    assert "running" in poise("runs", cwd=project)
    client.kill()  # the laptop is lost: nothing happens to the job
    client.wait()

    job = jobs.get("first")
    assert job.state == "RUNNING"
    assert listening(ours(cluster)) <= LOOPBACK
    before = run.metrics()[-1]["training_iteration"]
    until(lambda: fetch(jobs, job, project / "runs") and len(run.metrics()) > before)
    assert poise("jobs", cwd=project).split()[:2] == ["first", "running"]

    assert "stopped" in poise("stop", "fir", cwd=project)  # with a checkpoint first
    poise("fetch", "first", cwd=project)
    assert "reward" in poise("logs", "first", cwd=project)
    status = json.loads((run.path / "status.json").read_text())
    assert (status["state"], status["training_iteration"]) == (
        "preempted",
        run.metrics()[-1]["training_iteration"],
    )
    assert (run.path / "checkpoints" / f"{status['training_iteration']:06d}").is_dir()

    further = status["timesteps_total"] + 5000  # on the laptop
    said = poise(
        "resume", "r", "--stop", f"timesteps_total={further}", "--ray-address", "null", cwd=project
    )
    assert f"Stopped: timesteps_total reached {further}" in said
    further += 5000  # and on the cluster, without a job
    said = poise("resume", "r", "--stop", f"timesteps_total={further}", "--ray-address", "auto",
                 cwd=project)  # fmt: skip
    assert f"Stopped: timesteps_total reached {further}" in said
    further += 5000  # and in a job again, into the same folder
    said = poise("submit", "--", "resume", "r", "--stop", f"timesteps_total={further}", cwd=project)
    assert f"Stopped: timesteps_total reached {further}" in said
    steps = [result["timesteps_total"] for result in run.metrics()]
    assert steps[-1] >= further
    assert steps == sorted(set(steps))
    assert run.status()["state"] == "finished"


SLOW = """
import time
import gymnasium

class Slow(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        time.sleep(0.002)
        return self.observation_space.sample(), 0.0, self.np_random.random() < 0.05, False, {}
"""
"""An environment that leaves the cores to other tests."""


def test_a_limit_of_time_ends_a_job_with_a_checkpoint(jobs: Jobs, project: Path) -> None:
    (project / "slow.py").write_text(SLOW)  # what is sent is what runs
    client = subprocess.Popen(
        [sys.executable, "-m", "poise", "submit", "--name", "limited", "--max-run-time", "20", "--",
         "train", "PPO", "slow:Slow", "--experiment", "e", "--name", "l", *NEVER],
        cwd=project, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert client.stdout is not None
    for line in client.stdout:
        if line.startswith("PPO on slow:Slow"):
            break
    client.send_signal(signal.SIGINT)  # is no end of the job
    assert "poise fetch limited --watch" in client.stdout.read()
    assert client.wait() == 130
    assert "limited has ended: succeeded" in poise("wait", "limited", cwd=project)
    assert "The job's limit of 20 s is reached" in poise("logs", "limited", cwd=project)
    poise("fetch", "limited", cwd=project)
    assert list((project / "runs" / "e" / "l" / "checkpoints").iterdir())


def test_a_job_that_fails_says_why(jobs: Jobs, project: Path) -> None:
    said = poise("submit", "--", "train", "PPO", "--env", "NoSuchEnv-v0", cwd=project, code=1)
    assert "NoSuchEnv" in said
    assert "has ended: failed. Job entrypoint command failed with exit code 2" in said


def test_mistakes_are_said_before_anything_is_sent(jobs: Jobs, project: Path) -> None:
    before = jobs.all()
    for words, sentence in (
        (["trian", "PPO"], "Did you mean 'train'?"),
        (["train", "PPO", "--learnin_rate", "1"], "There is no flag --learnin_rate"),
        (["train", "PPO", "CartPole-v1", "--folder", "x"], "--folder stands before"),
        (["resume", "nothing"], "There is no run at nothing"),
    ):
        assert sentence in poise("submit", "--", *words, cwd=project, code=2)
    assert jobs.all() == before
    with pytest.raises(ClusterError, match="There is no job 'frist'"):
        jobs.find("frist")


def test_a_real_head_asks_for_the_token(
    cluster: local.LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_ray(cluster.address)["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv(token.VALUE, "of another cluster")
    for ask in (lambda: check_ray(cluster.address), lambda: Jobs(cluster.jobs)):
        with pytest.raises(ClusterError, match="does not know the token"):
            ask()


def test_there_is_one_cluster_at_a_time(cluster: local.LocalCluster) -> None:
    assert "runs already at 127.0.0.1" in poise("cluster", "local", code=2)
    assert poise("cluster", "status").count("alive  1 CPU") == 2
    file = Path(os.environ["POISE_HOME"]) / "cluster.json"
    assert json.loads(file.read_text()) == asdict(cluster)


def test_a_dead_or_frozen_node_is_noticed_and_replaced(
    cluster: local.LocalCluster, jobs: Jobs
) -> None:
    def states() -> list[str]:
        return re.findall(r"  (alive|dead)  ", str(jobs))

    for number in (signal.SIGKILL, signal.SIGSTOP):
        raylets = {pid: words for pid, words in ours(cluster).items() if "/raylet/raylet" in words}
        [node] = [pid for pid, words in raylets.items() if "--head" not in words]
        gone = states().count("dead")
        os.kill(node, number)
        until(lambda gone=gone: states().count("dead") > gone)
        until(lambda: states().count("alive") == 2)


@pytest.mark.parametrize("kept", [True, False])
def test_what_was_not_fetched_is_named_where_there_is_any(
    kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = local.LocalCluster("127.0.0.1:1", "http://127.0.0.1:2", 1, 1, 1, str(tmp_path), 0)
    (tmp_path / "jobs").mkdir() if kept else None
    monkeypatch.setattr(local, "running", lambda: found)
    monkeypatch.setattr(local, "stop", lambda: found)
    monkeypatch.setattr("poise.cli.cluster.Jobs", lambda _: SimpleNamespace(all=list))
    said = CliRunner().invoke(command, ["cluster", "stop"]).output
    assert ("were not fetched" in said, "has ended." in said) == (kept, True)


def test_nothing_is_left_of_a_killed_cluster(home: Path, cluster: local.LocalCluster) -> None:
    """The last test: the cluster of this module ends here."""
    assert len(ours(cluster)) > 6
    [session] = Path(cluster.folder).glob("ray/session_[0-9]*")
    (session / "logs" / "lost" / "run").mkdir(parents=True)
    (session / "logs" / "lost" / "run" / "config.json").touch()
    watched = Jobs()
    os.kill(cluster.pid, signal.SIGKILL)
    until(lambda: local.running() is None)
    with pytest.raises(Unreachable, match="Nothing answers at"):  # at once
        watch(watched, Job("lost", "RUNNING"), None, print)
    until(lambda: not ours(cluster))
    with pytest.raises(ClusterError, match="Which cluster"):
        Jobs()
    assert "No cluster of Poise's runs" in poise("cluster", "stop")


def test_nothing_is_left_of_a_cluster_that_is_stopped(home: Path, project: Path) -> None:
    last = json.loads((Path(os.environ["POISE_HOME"]) / "cluster.json").read_text())
    assert Path(last["folder"], "ray").is_dir()  # that of the cluster which was killed
    with pytest.warns(PoiseWarning, match=r"was killed. Runs .* are in .*/jobs"):
        found = local.start(nodes=1, cpus=1)
    [kept] = Path(last["folder"]).iterdir()
    assert (kept.name, [job.name for job in kept.iterdir()]) == ("jobs", ["lost"])
    poise("submit", "--name", "early", "--", "train", "PPO", "CartPole-v1",
          "--stop", "training_iteration=1", cwd=project)  # fmt: skip
    poise("submit", "--name", "last", "--no-wait", "--", "train", "PPO", "CartPole-v1", *NEVER,
          cwd=project)  # fmt: skip
    jobs = Jobs()
    until(lambda: b"reward" in (jobs.read(jobs.get("last"), None) or b""))
    said = poise("cluster", "stop")
    assert "The job last has ended: stopped." in said
    until(lambda: not ours(found))
    [kept] = Path(found.folder).iterdir()  # what was not fetched is not thrown away
    assert list(kept.glob("last/*/*/checkpoints/*/manifest.json"))
    assert f"{found.folder}/jobs" in said
    shutil.rmtree(found.folder)
