"""Guards searches and seeds whose trials run on a Ray cluster: a head and three nodes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import poise
import warm
from poise.tracking.folder import RunFolder
from poise.tune import grid_search, loguniform

pytest.importorskip("ray")
pytest.importorskip("optuna")

from clusters import three_nodes
from poise.cluster.connect import why
from poise.cluster.trials import RemoteWorker

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "stop": {"timesteps_total": 768},
    "preset": None,
    "quiet": True,
    "tensorboard": False,
    "plot": False,
}
FAST: dict[str, Any] = {
    "num_envs_per_worker": 4,
    "rollout_fragment_length": 64,
    "num_sgd_iter": 1,
    "timesteps_per_iteration": 0,
    "model": {"fcnet_hiddens": [8]},
}
"""Iterations of at most 256 steps, which take little time."""
SPACE: dict[str, Any] = {
    **FAST,
    "env": "CartPole-v1",
    "lr": grid_search([1e-4, 1e-3]),
    "gamma": grid_search([0.9, 0.99]),
}
NUMBERS = ("timesteps_total", "episodes_total", "episode_reward_mean", "learner/entropy")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    parent = warm.address()[1:]  # which begins with the environment as it is
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        patch.setattr("poise.tuning.run.Guest", partial(warm.guest, parent))
        with three_nodes() as made:
            yield made


def wait_until(found: Callable[[], Any], of: subprocess.Popen[str] | None = None) -> Any:
    """Waits for something that a process is to do; a hang is bounded by the test's own limit."""
    while not (it := found()):
        ended = of is not None and of.poll() is not None
        assert not ended or found(), of.communicate()[0] if of else ""
        time.sleep(0.05)
    return it


def rows(folder: Path) -> list[tuple[Any, ...]]:
    """What a run has kept of its results, without what depends on the clock."""
    return [tuple(row[key] for key in NUMBERS) for row in RunFolder(folder).metrics()]


def test_trials_on_a_cluster_are_those_of_this_machine(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poise.cluster.connect.available_cores", lambda: 2)
    here = poise.tune.run("PPO", config=SPACE, folder=tmp_path / "here", parallel=1, **SMALL)
    there = poise.tune.run(
        "PPO", config=SPACE, folder=tmp_path / "there", ray_address=cluster.address, **SMALL
    )
    assert [trial.state for trial in there.trials] == ["finished"] * 4
    for mine, theirs in zip(here.trials, there.trials, strict=True):
        assert mine.params == theirs.params
        assert rows(mine.path) == rows(theirs.path)
        own, other = RunFolder(mine.path), RunFolder(theirs.path)
        assert own.config() == other.config()
        assert other.status()["state"] == "finished"
        names = [{file.name for file in path.iterdir()} for path in (mine.path, theirs.path)]
        assert names[0] == names[1]
        assert "poise-trials-" not in (theirs.path / "log.txt").read_text()
    assert here.best_config == there.best_config
    with poise.load(here.best_checkpoint) as mine, poise.load(there.best_checkpoint) as theirs:
        assert mine.algorithm.flat.data.equal(theirs.algorithm.flat.data)
    [said] = [said for said in there.study.said if "room for" in said]
    assert "0 + 1 + 1 + 1 free CPUs, room for 3 at a time. Nodes on this machine offer 3" in said
    assert said.endswith("CPUs and share its 2 cores.")


class Slow(gym.Wrapper):
    """Goes on with its later steps once there is a file."""

    def __init__(self, env: gym.Env, file: str) -> None:
        super().__init__(env)
        self.file, self.count = Path(file), 0

    def step(self, action: Any) -> Any:
        self.count += 1
        while self.count > 100 and not self.file.exists():
            time.sleep(0.01)
        return super().step(action)


def slow(config: dict[str, Any]) -> gym.Env:
    return Slow(gym.make("CartPole-v1"), config["file"])


LONG: dict[str, Any] = {**SMALL, "checkpoint_freq": 1, "keep_checkpoints_num": 1}


def saved(folder: Path) -> int:
    """The iteration of a run's newest checkpoint."""
    found = folder.glob("checkpoints/*/manifest.json")
    return max((int(f.parent.name) for f in found if f.parent.name.isdigit()), default=0)


def paid(config: dict[str, Any]) -> gym.Env:
    return gym.wrappers.TransformReward(slow(config), lambda _: config["pays"])


def test_trials_that_fall_behind_are_pruned_where_they_run(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go on with their second iteration when they have been told to stop."""
    files = [tmp_path / str(number) for number in range(3)]
    usual, waiting = RemoteWorker.send, iter(files)

    def send(self: RemoteWorker, message: dict[str, Any]) -> None:
        usual(self, message)
        next(waiting).touch()

    monkeypatch.setattr(RemoteWorker, "send", send)
    next(waiting).touch()
    ways = [{"file": str(file), "pays": 3.0 - n} for n, file in enumerate(files)]
    given = {"config": {**FAST, "env": paid, "env_config": grid_search(ways)}, "folder": tmp_path}
    given |= {"scheduler": "asha", "parallel": 1, "ray_address": cluster.address, **LONG}
    best, *others = poise.tune.run("PPO", **given).trials
    assert (best.state, len(rows(best.path)) > 2) == ("finished", True)
    for trial in others:
        assert trial.state == "pruned"
        assert re.fullmatch(r"pruned at \d\d % of its limit", trial.result["stop_reason"])
        assert saved(trial.path) == len(rows(trial.path)) <= 2


@pytest.mark.proof
def test_a_population_that_ctrl_c_ends_goes_on_as_one_that_nothing_did(
    cluster: Any, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    config = {**FAST, "env": slow, "env_config": {"file": str(go)}, "lr": loguniform(1e-4, 1e-2)}
    given = {**LONG, "config": config, "num_samples": 3, "scheduler": "pbt", "generations": 2}
    given |= {"sampler": "random", "stop": {"timesteps_total": 1024}}
    go.touch()
    alone = poise.tune.run("PPO", folder=tmp_path / "alone", parallel=2, **given)
    go.unlink()
    given |= {"folder": tmp_path, "experiment": "e", "ray_address": cluster.address}
    paths = [tmp_path / "e" / f"trial_{n:05d}" for n in range(3)]

    def interrupt() -> None:
        wait_until(lambda: all(map(saved, paths)))
        os.kill(os.getpid(), signal.SIGINT)
        go.touch()

    threading.Thread(target=interrupt, daemon=True).start()
    first = poise.tune.run("PPO", **given)
    assert first.ended == "interrupted"
    assert {trial.state for trial in first.trials} == {"running"}
    again = poise.tune.run("PPO", resume=True, **given)
    assert any(trial.lineage for trial in again.trials)
    for mine, theirs in zip(alone.trials, again.trials, strict=True):
        assert (theirs.state, theirs.params) == ("finished", mine.params)
        assert (theirs.lineage, rows(theirs.path)) == (mine.lineage, rows(mine.path))


def test_a_lost_machine_and_a_lost_process_cost_what_was_since_the_last_checkpoint(
    cluster: Any, tmp_path: Path
) -> None:
    """Three trials on three nodes; one node goes, and on another the trial's process is killed."""
    go = tmp_path / "go"
    config = {**FAST, "env": slow, "env_config": {"file": str(go)}}
    config |= {"lr": grid_search([1e-4, 3e-4, 1e-3])}
    go.touch()
    alone = poise.tune.run("PPO", config=config, folder=tmp_path / "alone", parallel=1, **LONG)
    go.unlink()
    folder, found = tmp_path / "tune_PPO_slow", list[Any]()
    given = {"config": config, "folder": tmp_path, "ray_address": cluster.address, **LONG}
    search = threading.Thread(
        target=lambda: found.append(poise.tune.run("PPO", experiment="tune_PPO_slow", **given)),
        daemon=True,
    )
    search.start()
    paths = [folder / f"trial_{n:05d}" for n in range(3)]
    wait_until(lambda: all(map(saved, paths)))
    os.kill(RunFolder(paths[0]).status()["pid"], signal.SIGKILL)
    wait_until(lambda: "Resuming from" in (paths[0] / "log.txt").read_text())
    cluster.remove_node(cluster.own.pop(), allow_graceful=False)
    wait_until(lambda: sum(trial.deaths for trial in poise.tune.load(folder).trials) == 2)
    cluster.own.append(cluster.add_node(num_cpus=1))
    go.touch()
    search.join()
    trials = found[0].trials
    assert [trial.state for trial in trials] == ["finished"] * 3
    for mine, theirs in zip(alone.trials, trials, strict=True):
        assert rows(mine.path) == rows(theirs.path)
        assert ("Resuming from" in (theirs.path / "log.txt").read_text()) == (theirs.deaths > 0)
    killed, lost = (text for text in found[0].study.said if "It goes on from" in text)
    assert re.fullmatch(
        r"trial 0: its process ended with code -9 on \S+\. It goes on from its checkpoint of "
        r"iteration \d, and does 0 iterations again \(1 so far\)\.",
        killed,
    )
    assert re.match(r"trial \d: its worker on \S+ is gone \(", lost), lost


COMMAND = """
import functools, os, warm
import poise.tuning.run
poise.tuning.run.Guest = functools.partial(warm.guest, os.environ[warm.ADDRESS])
from poise.cli.main import main
main()
"""
"""`poise`, whose trials on a cluster begin warm."""


@pytest.mark.proof
def test_seeds_that_were_told_to_end_and_killed_go_on_and_are_those_of_this_machine(
    cluster: Any, tmp_path: Path
) -> None:
    env = "test_trials_on_ray:slow"
    go = tmp_path / "go"
    go.touch()
    config = {**FAST, "env_config": {"file": str(go)}}
    alone = poise.run_seeds(
        "PPO", env, seeds=3, config=config, folder=tmp_path / "alone", parallel=1, **LONG
    )
    go.unlink()
    folder = tmp_path / "e"
    paths = [folder / f"seed_{n}" for n in range(3)]

    def begun(*arguments: str) -> subprocess.Popen[str]:
        places = os.pathsep.join(filter(None, sys.path))
        return warm.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": places},
        )

    (tmp_path / "config.json").write_text(json.dumps(config))
    flags = ["--config", str(tmp_path / "config.json"), "--stop", "timesteps_total=768"]
    flags += ["--preset", "none", "--no-tensorboard", "--no-plot", "--checkpoint-freq", "1"]
    flags += ["--keep-checkpoints-num", "1"]
    flags += ["--folder", str(tmp_path), "--experiment", "e", "--ray-address", cluster.address]
    first = begun("train", "PPO", "--env", env, "--seeds", "3", *flags)
    wait_until(lambda: all(map(saved, paths)), first)
    first.send_signal(signal.SIGTERM)
    go.touch()
    out, _ = first.communicate()
    assert "3 seeds, 3 at a time" in out
    assert "room for 3 at a time" in out
    assert first.returncode == 128 + signal.SIGTERM
    go.unlink()
    second = begun("resume", str(folder))
    logs = [path / "log.txt" for path in paths]
    wait_until(lambda: any("Resuming" in log.read_text() for log in logs), second)
    second.kill()
    second.communicate()
    go.touch()
    third = begun("resume", str(folder), "--ray-address", "null")
    out, _ = third.communicate()
    assert third.returncode == 0, out
    assert "cluster" not in out
    found = poise.load_seeds(folder)
    for mine, theirs in zip(alone.runs.values(), found.runs.values(), strict=True):
        assert rows(mine) == rows(theirs)
    for key in NUMBERS:
        assert alone.aggregate(key) == found.aggregate(key)


def broken(config: dict[str, Any]) -> gym.Env:
    raise LookupError("no such simulator")


def test_an_error_is_told_as_from_this_machine(cluster: Any, tmp_path: Path) -> None:
    given = {"config": {"env": broken, "lr": grid_search([1e-3])}, "folder": tmp_path}
    with pytest.raises(poise.RunError, match=r"The only trial of .* failed: .*no such simulator"):
        poise.tune.run("PPO", ray_address=cluster.address, **given, **SMALL)


def test_a_search_that_fits_on_no_machine_ends_with_the_reason(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poise.cluster.trials.SAY_S", 0.0)
    config = {**SPACE, "num_workers": 1, "cluster_timeout_s": 1.0}
    said = r"No machine has 2 CPUs for a trial: .* None came in 1 s \(cluster_timeout_s\)"
    with pytest.raises(poise.ClusterError, match=said):
        poise.tune.run("PPO", config=config, ray_address=cluster.address, folder=tmp_path, **SMALL)


def test_another_version_is_named(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poise.cluster.connect.version_of_poise", lambda: "0.0.1")
    with pytest.raises(poise.ClusterError, match=r"has Poise .*, and this process .*Poise 0.0.1"):
        poise.tune.run("PPO", config=SPACE, ray_address=cluster.address, folder=tmp_path, **SMALL)


def test_a_machine_that_lacks_a_module_is_told_in_one_sentence() -> None:
    from ray.exceptions import ActorDiedError, RayTaskError

    missing = ModuleNotFoundError("No module named 'poise'")
    trace = f"Traceback (most recent call last):\n  File\nModuleNotFoundError: {missing}"
    error = ActorDiedError(RayTaskError("TrialActor.__init__", trace, missing))
    assert why(error) == "ModuleNotFoundError: No module named 'poise'"
