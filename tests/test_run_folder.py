"""Guards what a run leaves on disk.

Complete files, one writer, a run that is found again, and a full disk survived.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import poise
import warm
from environments import Scripted
from poise.cli.main import poise as command
from poise.config.ppo import PPOConfig
from poise.config.resolve import resolve
from poise.errors import RunError
from poise.tracking import recorder
from poise.tracking.find import all_runs, find_run, new_folder, run_names
from poise.tracking.folder import RunFolder, json_line
from poise.tracking.launch import Run
from poise.training import checkpoint
from poise.training.stopping import DEFAULT_STEPS, default_stop
from poise.training.trainer import Trainer

TINY: dict[str, Any] = {
    "preset": None,
    "seed": 5,
    "num_envs_per_worker": 4,
    "rollout_fragment_length": 16,
    "num_sgd_iter": 2,
    "model": {"fcnet_hiddens": [8]},
}


def small_run(root: Path, iterations: int = 4, env: Any = "CartPole-v1", **options: Any) -> Run:
    """A run of a few iterations, quiet and without TensorBoard unless told otherwise."""
    options = {
        "quiet": True,
        "tensorboard": False,
        "stop": {"training_iteration": iterations},
        **options,
    }
    run = poise.run("PPO", env, folder=root, **{**TINY, **options})
    run.trainer.close()
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run, whose files several tests read."""
    root = tmp_path_factory.mktemp("runs")
    return small_run(
        root, iterations=6, experiment="e", name="r", checkpoint_freq=1, keep_checkpoints_num=2
    )


# --- its files ------------------------------------------------------------------------------------


def test_it_has_the_files_that_are_promised(run: Run) -> None:
    assert {p.name for p in run.path.iterdir()} == {
        ".lock", "config.json", "metrics.jsonl", "episodes.csv", "status.json", "log.txt",
        "checkpoints", "about.json", "behaviour.jsonl",
    }  # fmt: skip
    assert run.path.parts[-2:] == ("e", "r")
    assert repr(run.folder) == f"<run {run.path}: finished>"
    assert repr(run).startswith(f"<Run {run.path}: PPO on CartPole-v1: 6 iterations, ")
    assert f", reward {run.result['episode_reward_mean']:.1f}; " in repr(run)


def test_runs_show_the_best_score_and_where_it_is(tmp_path: Path) -> None:
    """An evaluation's goes before those of training."""
    evaluation = "evaluation/episode_reward_mean"
    for n, score, of in (
        (8, 5.0, "episode_reward_mean"),
        (9, 3.0, evaluation),
        (10, 2.0, evaluation),
        (11, None, None),
    ):
        folder = tmp_path / f"runs/e/r/checkpoints/{n:06d}"
        folder.mkdir(parents=True)
        saved = {
            "algorithm": "PPO",
            "config": {"env": "CartPole-v1"},
            "score": score,
            "score_of": of,
        }
        (folder / "manifest.json").write_text(json.dumps(saved))
    (folder / "manifest.json").write_text("{")
    assert RunFolder(tmp_path / "runs/e/r").best == (3.0, 9)

    def listed(*more: str) -> str:
        return (
            CliRunner().invoke(command, ["runs", "--folder", str(tmp_path / "runs"), *more]).output
        )

    [row] = json.loads(listed("--json"))
    assert (row["best"], row["best_iteration"]) == (3.0, 9)
    assert " 3.0 at 9 " in listed()


def test_config_is_complete_and_resolved(run: Run) -> None:
    saved = json.loads((run.path / "config.json").read_text())
    assert saved["algorithm"] == "PPO"
    assert saved["preset"] is None
    assert saved["stop"] == {"training_iteration": 6}
    assert saved["options"]["keep_checkpoints_num"] == 2
    expected, _ = resolve(
        "PPO", "CartPole-v1", {k: v for k, v in TINY.items() if k != "preset"}, preset=None
    )
    config = saved["config"]
    wanted = json.loads(json.dumps(expected.to_dict()))
    assert (wanted.pop("num_threads"), config.pop("num_threads")) == ("auto", 1)
    assert (wanted["model"].pop("conv_dtype"), config["model"].pop("conv_dtype")) == (
        "auto",
        "float32",
    )
    assert config == wanted
    assert config["env"] == "CartPole-v1"
    assert config["train_batch_size"] == 64  # derived
    assert "auto" not in json.dumps(config)


def test_a_seed_that_nobody_gave_is_written_down(tmp_path: Path) -> None:
    runs = [small_run(tmp_path, 1, name=name, seed=None) for name in ("a", "b")]
    seeds = [run.folder.config()["config"]["seed"] for run in runs]
    assert all(isinstance(seed, int) for seed in seeds)
    assert seeds[0] != seeds[1]
    again = small_run(tmp_path, 1, name="c", seed=seeds[0])
    assert (
        again.folder.metrics()[0]["learner/policy_loss"]
        == runs[0].folder.metrics()[0]["learner/policy_loss"]
    )


def no_constants(name: str) -> Any:
    raise AssertionError(f"{name} is not JSON")


def test_metrics_are_one_json_object_per_iteration(run: Run) -> None:
    lines = run.folder.metrics_file.read_text().splitlines()
    records = [json.loads(line, parse_constant=no_constants) for line in lines]
    assert [r["training_iteration"] for r in records] == [1, 2, 3, 4, 5, 6]
    assert all(r.keys() == records[0].keys() for r in records)
    assert records[-1] == {k: v for k, v in run.result.items() if k != "stop_reason"}


def test_nan_is_null_on_disk_and_nan_again_when_read(tmp_path: Path) -> None:
    run = small_run(tmp_path, 1, env=lambda config: Scripted(lengths=(1000,)))
    text = run.folder.metrics_file.read_text()
    assert json.loads(text, parse_constant=no_constants)["episode_reward_mean"] is None
    assert math.isnan(run.folder.metrics()[0]["episode_reward_mean"])
    status = json.loads((run.path / "status.json").read_text(), parse_constant=no_constants)
    assert status["episode_reward_mean"] is None


def test_whatever_a_callback_adds_becomes_json() -> None:
    record = {
        "a": math.nan,
        "b": math.inf,
        "c": np.float32("nan"),
        "d": np.float32(0.5),
        "e": np.int64(3),
        "f": np.bool_(True),
        "g": {"h": [math.nan, 1.0, np.float64("-inf")]},
        "i": "text",
        "j": np.array([1.0, math.nan]),
    }
    line = json_line(record)
    assert line.endswith("\n")
    assert "\n" not in line[:-1]
    assert json.loads(line, parse_constant=no_constants) == {
        "a": None, "b": None, "c": None, "d": 0.5, "e": 3, "f": True, "g": {"h": [None, 1.0, None]},
        "i": "text", "j": [1.0, None],
    }  # fmt: skip


class Noting(poise.Callback):
    """Reads the run's status file whenever it is called, as a dashboard would."""

    def __init__(self) -> None:
        self.folder: RunFolder | None = None
        self.seen: list[str] = []

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        self.seen.append(RunFolder(path.parent.parent).status()["state"])


def test_status_says_how_it_goes(tmp_path: Path) -> None:
    noting = Noting()
    run = small_run(tmp_path, 2, callbacks=[noting], checkpoint_freq=1)
    assert noting.seen == ["running", "running"]
    status = json.loads((run.path / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("finished", "training_iteration reached 2")
    assert (status["training_iteration"], status["timesteps_total"]) == (
        2,
        run.result["timesteps_total"],
    )
    assert status["pid"] == os.getpid()
    assert status["heartbeat"] > 0


class Ending(poise.Callback):
    """Ends its run in the second iteration, in one way or another."""

    def __init__(self, end: Callable[[Trainer], Any]) -> None:
        self.end = end

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        if trainer.iteration == 2:
            self.end(trainer)


def interrupt(trainer: Trainer) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def explode(trainer: Trainer) -> None:
    raise ZeroDivisionError("the callback divided by zero")


def test_status_of_a_run_that_was_stopped(tmp_path: Path) -> None:
    run = small_run(tmp_path, 9, callbacks=[Ending(interrupt)])
    assert run.folder.status()["state"] == "stopped"
    assert run.folder.status()["reason"] == "interrupted"
    assert run.result["stop_reason"] == "interrupted"
    assert checkpoint.newest(run.folder.checkpoints)[0] == run.folder.checkpoints / "000002"


def test_status_of_a_run_that_failed_names_the_cause(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        small_run(tmp_path, 9, name="r", callbacks=[Ending(explode)], checkpoint_freq=1)
    folder = find_run("r", tmp_path)
    status = folder.status()
    assert status["state"] == "failed"
    assert "ZeroDivisionError" in status["reason"]
    assert "the callback divided by zero" in status["reason"]
    # The last good one is kept.
    assert checkpoint.newest(folder.checkpoints)[0] == folder.checkpoints / "000001"
    folder.claim()  # and the folder was given back
    folder.release()


def test_status_of_a_process_that_is_gone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.status() == {}
    folder.write_status("running")
    assert folder.status()["state"] == "running"
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    for change, state in (
        ({"pid": int(gone.stdout)}, "died"),
        ({"host": "elsewhere"}, "running"),
        ({"host": "elsewhere", "heartbeat": 0}, "died"),
        ({"pid": None}, "died"),
    ):
        folder.write_status("running")
        status = {**json.loads((tmp_path / "status.json").read_text()), **change}
        (tmp_path / "status.json").write_text(json.dumps(status))
        assert folder.status()["state"] == state, change
    (tmp_path / "status.json").write_text("{torn")
    assert folder.status() == {"state": "damaged"}


def test_log_holds_what_was_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_run(tmp_path, 2, quiet=False)
    printed = capsys.readouterr().out
    log = (run.path / "log.txt").read_text()
    assert log.splitlines()[0] == "PPO on CartPole-v1, seed 5"
    assert (
        log.splitlines()[-1] == f"Stopped: training_iteration reached 2. The run is in {run.path}"
    )
    assert log == printed
    quiet = small_run(tmp_path, 2)
    assert capsys.readouterr().out == ""
    assert "Stopped" in (quiet.path / "log.txt").read_text()


def test_a_run_that_never_started_leaves_no_folder(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"env": "NoSuchEnv-v1"},
        {"lr": "fast"},
        {"stop": {"training_iteration": "soon"}},
        {"stop": 7},
    ]
    for settings in wrong:
        with pytest.raises(poise.PoiseError):
            small_run(tmp_path, 1, **settings)
    assert list(tmp_path.iterdir()) == []


# --- which runs there are -------------------------------------------------------------------------


def test_runs_are_named_by_the_time_or_as_asked(tmp_path: Path) -> None:
    names = {new_folder(tmp_path, "e", None).path.name for _ in range(5)}
    assert len(names) == 5
    small_run(tmp_path, 1, experiment="e", name="mine")
    with pytest.raises(RunError, match="already") as caught:
        small_run(tmp_path, 1, experiment="e", name="mine")
    assert "poise resume" in str(caught.value)


def test_the_experiment_is_named_after_algorithm_and_environment(tmp_path: Path) -> None:
    assert small_run(tmp_path, 1, name="r").path == tmp_path / "PPO_CartPole-v1" / "r"
    assert (
        small_run(tmp_path, 1, env="environments:Echo", name="r").path
        == tmp_path / "PPO_environments-Echo" / "r"
    )


def test_runs_of_trials_with_several_seeds_are_listed(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    new_folder(root, "e", "first").write_config({"algorithm": "PPO"})
    for trial, name in (
        ("trial_00000", "seed_0"),
        ("trial_00000", "held_out_0"),
        ("trial_00001", "seed_0"),
    ):
        new_folder(root / "search", trial, name).write_config({"algorithm": "PPO"})
    names = run_names(all_runs(root), root)
    assert set(names) == {
        "first",
        "held_out_0",
        "search/trial_00000/seed_0",
        "search/trial_00001/seed_0",
    }
    for name, run in zip(names, all_runs(root), strict=True):
        assert find_run(name, root).path == run.path
    (root / "search" / "study.json").touch()
    (root / "search" / "best").write_text("trial_00000/seed_0")
    os.utime(root / "search/trial_00001/seed_0/config.json", (2e9, 2e9))
    assert find_run("latest", root).path == root / "search/trial_00000/seed_0"


def test_find_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, name in enumerate(("first", "second", "third")):
        folder = new_folder(tmp_path / "runs", f"e{i % 2}", name)
        folder.write_config({"algorithm": "PPO"})
        os.utime(folder.path / "config.json", (1000 + i, 1000 + i))
    second = tmp_path / "runs" / "e1" / "second"
    assert find_run(second, tmp_path / "runs").path == second
    assert find_run("second", tmp_path / "runs").path == second
    assert find_run("e1/second", tmp_path / "runs").path == second
    assert find_run("latest", tmp_path / "runs").path.name == "third"
    assert [r.path.name for r in all_runs(tmp_path / "runs")] == ["first", "second", "third"]
    monkeypatch.chdir(tmp_path)
    assert find_run("second").path == Path("runs/e1/second")
    with pytest.raises(RunError) as caught:
        find_run("secnd", tmp_path / "runs")
    assert "no run at secnd" in str(caught.value)
    assert "second" in str(caught.value).replace("secnd", "")
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match="no run"):
        find_run("latest", tmp_path / "nowhere")
    new_folder(tmp_path / "runs", "e0", "second").write_config({"algorithm": "PPO"})
    with pytest.raises(RunError, match="2 runs are called second: give the path"):
        find_run("second", tmp_path / "runs")


def test_a_folder_without_a_run_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run at"):
        RunFolder(tmp_path).config()
    with pytest.raises(RunError, match="no run at"):
        poise.resume(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        RunFolder(tmp_path).config()


# --- one writer -----------------------------------------------------------------------------------

HOLD = """
    import sys, time
    from poise.tracking.folder import RunFolder
    folder = RunFolder(sys.argv[1])
    folder.claim()
    folder.write_status("running")
    print("has it", flush=True)
    time.sleep(600)
"""


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    path = small_run(tmp_path, 1, name="r", checkpoint_freq=1).path
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(path)], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"has it\n"
        before = (path / "metrics.jsonl").read_bytes()
        for attempt in (
            lambda: RunFolder(path).claim(),
            lambda: poise.resume(path, stop={"training_iteration": 3}),
        ):
            with pytest.raises(RunError, match="in use") as caught:
                attempt()
            assert str(holder.pid) in str(caught.value)
            assert "\n" not in str(caught.value)
        assert (path / "metrics.jsonl").read_bytes() == before
        assert RunFolder(path).metrics()  # reading needs no lock
    finally:
        holder.kill()
        holder.communicate()
    run = poise.resume(path, stop={"training_iteration": 3}, quiet=True)
    run.trainer.close()
    assert run.trainer.iteration == 3


def test_the_same_process_cannot_write_a_run_twice(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    first.claim()
    with pytest.raises(RunError, match="in use"):
        second.claim()
    first.release()
    second.claim()
    second.release()
    second.release()  # giving back what one does not have is harmless


# --- which checkpoints are kept -------------------------------------------------------------------


class Rewards(poise.Callback):
    """Says what the mean reward of each iteration was, whatever happened."""

    def __init__(self, *rewards: float) -> None:
        self.rewards = rewards

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        result["episode_reward_mean"] = self.rewards[trainer.iteration - 1]


def kept(run: Run) -> list[int]:
    return sorted(int(p.name) for p in checkpoint.checkpoints(run.folder.checkpoints))


def test_the_last_and_the_best_checkpoints_are_kept(tmp_path: Path) -> None:
    rewards = Rewards(math.nan, 5.0, 9.0, 1.0, 2.0, 3.0, 4.0)
    options = {"checkpoint_freq": 1, "keep_checkpoints_num": 2, "metrics_smoothing_episodes": 1}
    run = small_run(tmp_path, 7, name="a", callbacks=[rewards], **options)
    assert kept(run) == [3, 6, 7]
    assert checkpoint.verify(run.folder.checkpoints / "000003")["episode_reward_mean"] == 9.0
    resumed = poise.resume(
        run.path, stop={"training_iteration": 9}, callbacks=[Rewards(*[8.0] * 9)], quiet=True
    )
    resumed.trainer.close()
    assert kept(resumed) == [3, 8, 9]  # the best of before counts after a resume
    better = poise.resume(
        run.path, stop={"training_iteration": 12}, callbacks=[Rewards(*[10.0] * 12)], quiet=True
    )
    better.trainer.close()
    assert kept(better) == [11, 12]


def best_of(run: Run) -> tuple[int, float, str]:
    found = checkpoint.best(run.folder.checkpoints)
    assert found is not None
    return int(found[1].name), found[0], checkpoint.verify(found[1])["score_of"]


def test_each_new_best_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "BEST_SHARE", math.inf)
    options: dict[str, Any] = {"keep_checkpoints_num": 1, "metrics_smoothing_episodes": 1}
    rewards = 1.0, 5.0, 9.0, 2.0, 9.0, 4.0
    run = small_run(tmp_path, 6, name="a", callbacks=[Rewards(*rewards)], **options)
    assert kept(run) == [3, 6]
    assert best_of(run) == (3, 9.0, "episode_reward_mean")
    assert poise.load(run.path, which="best").iteration == 3

    class Evaluations(Rewards):
        def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
            super().on_iteration(trainer, result)
            if trainer.iteration % 2 == 0:
                result["evaluation/episode_reward_mean"] = -result["episode_reward_mean"]

    options |= {"evaluation_interval": 2, "evaluation_duration": 1}
    run = small_run(tmp_path, 6, name="b", callbacks=[Evaluations(*rewards)], **options)
    assert kept(run) == [4, 6]  # at 3 the training mean is higher, which does not count
    assert best_of(run) == (4, -2.0, "evaluation/episode_reward_mean")


def test_a_partial_window_is_never_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "BEST_SHARE", math.inf)
    run = small_run(
        tmp_path, 4, callbacks=[Rewards(9.0, 1.0, 2.0, 3.0)], metrics_smoothing_episodes=1000
    )
    assert kept(run) == [4]
    assert checkpoint.best(run.folder.checkpoints) is None


def test_new_bests_cost_a_hundredth_of_the_time_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every iteration of 40 s is a new best, and a checkpoint costs one second."""

    class Clock(poise.Callback):
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
            self.now += 40.0
            result["episode_reward_mean"] = float(trainer.iteration)

        def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
            self.now += 1.0

    clock = Clock()
    monkeypatch.setattr(recorder, "time", clock)
    options = {
        "checkpoint_interval_s": 1e6,
        "keep_checkpoints_num": 99,
        "metrics_smoothing_episodes": 1,
    }
    assert kept(small_run(tmp_path, 9, callbacks=[clock], **options)) == [1, 5, 8, 9]


def test_checkpoints_come_by_iterations_by_seconds_and_at_the_end(tmp_path: Path) -> None:
    options = {"keep_checkpoints_num": 99}
    assert kept(small_run(tmp_path, 5, name="a", **options)) == [5]
    assert kept(small_run(tmp_path, 5, name="b", checkpoint_freq=2, **options)) == [2, 4, 5]
    assert kept(small_run(tmp_path, 5, name="c", checkpoint_interval_s=1e-9, **options)) == [
        1,
        2,
        3,
        4,
        5,
    ]


# --- a full disk ----------------------------------------------------------------------------------


def full(*args: Any, **kwargs: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


class FillingUp(poise.Callback):
    """The disk is full from the end of the first iteration on: all the recorder's writes fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        if trainer.iteration == 1:
            from poise.tracking import folder, recorder

            self.monkeypatch.setattr(checkpoint, "save_file", full)
            self.monkeypatch.setattr(folder, "write_json", full)
            self.monkeypatch.setattr(recorder, "json_line", full)
            self.monkeypatch.setattr(recorder, "HEARTBEAT_S", 0.0)


def test_a_full_disk_never_stops_training_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_run(tmp_path, 6, callbacks=[FillingUp(monkeypatch)], checkpoint_freq=1, quiet=False)
    assert run.result["training_iteration"] == 6
    warnings = [line for line in capsys.readouterr().out.splitlines() if "Warning" in line]
    assert len(warnings) == 3, warnings
    for what in ("metrics", "status", "checkpoint"):
        assert sum(f"the {what} of {run.path} cannot be written" in line for line in warnings) == 1
    assert str(run.unsaved).endswith("iteration 6, was NOT saved: it has no whole checkpoint.")
    assert run.folder.status()["state"] == "running"  # what was written last
    assert [path.name for path in run.path.glob(".*.json.*")] == []
    assert all("No space left" in line and "training goes on" in line for line in warnings)


FULL_DISK = """
    import resource, sys
    import poise

    class Fill(poise.Callback):
        def on_iteration(self, trainer, result):
            if trainer.iteration == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))

    run = poise.run("PPO", "CartPole-v1", callbacks=[Fill()], folder=sys.argv[1], name="r",
                    checkpoint_freq=1, seed=1, stop={"training_iteration": 8},
                    num_envs_per_worker=4, rollout_fragment_length=16)
    print("trained", run.trainer.iteration)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of files")
def test_a_full_disk_of_the_operating_systems_own(tmp_path: Path) -> None:
    """No file may grow: metrics, log, checkpoints and TensorBoard events fail in their own ways."""
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path)]
    child = warm.run(command, capture_output=True, text=True, timeout=120)
    assert "trained 8" in child.stdout, child.stdout + child.stderr
    assert child.returncode == 0, child.stderr
    assert child.stdout.count("the checkpoint of") == 1
    assert (
        "its last whole checkpoint is"
        f" {tmp_path / 'PPO_CartPole-v1' / 'r' / 'checkpoints' / '000002'}." in child.stdout
    )
    assert "Traceback" not in child.stderr  # of TensorBoard's thread
    folder = find_run("r", tmp_path)
    newest, problems = checkpoint.newest(folder.checkpoints)
    assert problems == []
    assert newest is not None
    assert newest.name == "000002"
    run = poise.resume(folder.path, stop={"training_iteration": 4}, quiet=True)
    run.trainer.close()
    assert [r["training_iteration"] for r in folder.metrics()][-2:] == [3, 4]


# --- TensorBoard, the default stop rule -----------------------------------------------------------


def test_tensorboard_events_hold_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = small_run(tmp_path, 4, tensorboard=True)
    events = EventAccumulator(str(run.path))
    events.Reload()
    tags = events.Tags()
    numbers = tags["scalars"] or tags["tensors"]
    grouped = {
        "rollout/episode_reward_mean",
        "time/timesteps_total",
        "learner/policy_loss",
        "perf/env_steps_per_s",
    }
    assert grouped <= set(numbers)
    assert all("/" in name for name in numbers)
    assert "_hparams_/experiment" in events.summary_metadata
    rows = events.Scalars("learner/kl") if tags["scalars"] else events.Tensors("learner/kl")
    metrics = run.folder.metrics()
    assert [row.step for row in rows] == [r["timesteps_total"] for r in metrics]
    if tags["scalars"]:
        assert [row.value for row in rows] == pytest.approx([r["learner/kl"] for r in metrics])


def test_points_after_the_checkpoint_are_purged_when_a_run_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = small_run(tmp_path, 6, tensorboard=True, checkpoint_freq=2, keep_checkpoints_num=9)
    shutil.rmtree(run.path / "checkpoints" / "000006")
    again = poise.resume(run.path, stop={"training_iteration": 8}, quiet=True)
    events = EventAccumulator(str(run.path))
    events.Reload()
    steps = [row.step for row in events.Scalars("learner/kl")]
    assert steps == [r["timesteps_total"] for r in again.folder.metrics()]
    assert len(steps) == 8


def test_tensorboard_without_the_extra_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        poise.PoiseError, match=r"tensorboard=True needs TensorBoard: .*pip install"
    ):
        small_run(tmp_path, 1, tensorboard=True)
    assert not all_runs(tmp_path)
    small_run(tmp_path, 1, tensorboard=None)


def test_without_a_stop_rule_a_run_ends_where_the_environment_counts_as_solved(
    tmp_path: Path,
) -> None:
    assert default_stop(PPOConfig("CartPole-v1")) == {
        "episode_reward_mean": 475.0,
        "timesteps_total": DEFAULT_STEPS,
    }
    assert default_stop(PPOConfig("Pendulum-v1")) == {"timesteps_total": DEFAULT_STEPS}
    assert default_stop(PPOConfig(Scripted)) == {"timesteps_total": DEFAULT_STEPS}
    run = small_run(tmp_path, stop=None, callbacks=[Ending(lambda trainer: trainer.stop("enough"))])
    assert run.folder.config()["stop"] == {
        "episode_reward_mean": 475.0,
        "timesteps_total": DEFAULT_STEPS,
    }
    assert "No stop rule was given" in (run.path / "log.txt").read_text()
    assert run.result["stop_reason"] == "enough"


# --- damage, and other places ---------------------------------------------------------------------


def test_small_files_are_written_whole_and_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power loss leaves old content or new: flushed before the rename, the folder after."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("flush"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b)))
    for write in (
        lambda: RunFolder(tmp_path).write_config({"a": 1}),
        lambda: RunFolder(tmp_path).write_status("x"),
    ):
        done.clear()
        write()
        assert done == ["flush", "rename", "flush"]


@pytest.mark.parametrize(
    "torn", ["", "{", "[1]", "[" * 100_000, '{"algorithm": 5}', '{"algorithm": "PPO"}']
)
def test_a_damaged_config_is_rebuilt_from_the_newest_checkpoint(tmp_path: Path, torn: str) -> None:
    run = small_run(tmp_path, 2, name="r")
    config = run.path / "config.json"
    before = json.loads(config.read_text())
    config.write_text(torn) if torn else config.unlink()
    assert find_run("r", tmp_path).path == run.path
    resumed = poise.resume(run.path, stop={"training_iteration": 3}, quiet=True)
    assert resumed.result["training_iteration"] == 3
    rebuilt = json.loads(config.read_text())
    kept = ("algorithm", "preset", "config")
    assert {key: rebuilt[key] for key in kept} == {key: before[key] for key in kept}
    assert rebuilt["stop"] == {"training_iteration": 3}
    assert "Warning: its config.json" in (run.path / "log.txt").read_text()


def test_one_damaged_run_does_not_hide_the_others(tmp_path: Path) -> None:
    """Each file of a run is damaged in turn, as something that is JSON, and that is not."""
    from click.testing import CliRunner

    from poise.cli.main import poise as command

    run = small_run(tmp_path / "runs", 2, name="r")
    for name in ("config.json", "status.json", "metrics.jsonl"):
        for i, text in enumerate(
            ("", "[[1]]", "5\n", '{"state": 3, "config": 5}', "[" * 9999, '{"heartbeat": "x"}')
        ):
            copy = run.path.parent / f"{name[:3]}{i}"
            shutil.copytree(run.path, copy)
            shutil.rmtree(copy / "checkpoints")
            (copy / name).write_text(text)
    shown = CliRunner().invoke(
        command, ["runs", "--folder", str(tmp_path / "runs")], catch_exceptions=False
    )
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert len(lines) == 1 + 1 + 18
    assert sum("damaged" in line for line in lines) >= 10
    assert any(line.split()[:4] == ["r", "PPO", "CartPole-v1", "finished"] for line in lines)


def test_files_of_a_checkpoint_have_one_mode(tmp_path: Path) -> None:
    run = small_run(tmp_path, 1)
    [saved] = (run.path / "checkpoints").iterdir()
    assert len({file.stat().st_mode for file in saved.iterdir()}) == 1


def test_a_run_stays_where_it_is_when_the_script_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(poise.Callback):
        def on_iteration(self, trainer: Any, result: Any) -> None:
            os.chdir(elsewhere)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    run = small_run(Path("runs"), 2, callbacks=[Elsewhere()])
    assert run.path.is_absolute()
    assert not any(elsewhere.iterdir())
    assert (tmp_path / "runs").is_dir()
    assert run.folder.status()["state"] == "finished"


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    run = small_run(Path("~/runs"), 1, name="r")
    assert run.path.is_relative_to(tmp_path / "home" / "runs")
    run.trainer.save("~/saved")
    assert poise.load("~/saved").iteration == 1
    assert find_run("r", "~/runs").path == run.path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]
    with pytest.raises(poise.ConfigError, match="there is no home folder '~no-such-user'"):
        small_run(Path("~no-such-user/runs"), 1)


@pytest.mark.parametrize("name", ["../..", "a/b", "", ".", "..", "a\0b", "a\nb", "x" * 300, "a\\b"])
def test_names_of_folders_are_names(tmp_path: Path, name: str) -> None:
    for key in ("experiment", "name"):
        with pytest.raises(poise.ConfigError, match=rf"{key}=.* must be the name of a folder"):
            small_run(tmp_path / "runs", 1, **{"name": "r", "experiment": "e", key: name})
    with pytest.raises(poise.ConfigError, match=r"experiment=.* must be the name of a folder"):
        poise.run_seeds(
            "PPO",
            "CartPole-v1",
            seeds=1,
            folder=tmp_path / "runs",
            experiment=name or "..",
            quiet=True,
        )
    assert not (tmp_path / "runs").exists()


def overridden(run: Run, **settings: Any) -> Trainer:
    with poise.load(run.path, **settings) as algo:
        algo.train()
        algo.train()
        return algo


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN", "IMPALA", "APPO"])
def test_a_checkpoint_goes_on_with_other_workers_and_environments(
    tmp_path: Path, algorithm: str
) -> None:
    """Of the algorithm's own settings, the number of environments stays, unless it is asked for."""
    stop = {"training_iteration": 2}
    run = poise.run(algorithm, "CartPole-v1", stop=stop, folder=tmp_path, preset=None, seed=1,
                    num_envs_per_worker=4, rollout_fragment_length=8, timesteps_per_iteration=64,
                    normalize_rewards=True, quiet=True, tensorboard=False)  # fmt: skip
    run.trainer.close()
    steps = run.trainer.algorithm.timesteps
    for settings, envs in [
        ({"num_workers": 2}, 4),
        ({"num_envs_per_worker": 6}, 6),
        ({"rollout_fragment_length": 5}, 4),
        ({"num_envs": 3, "lr": 1e-4, "gamma": 0.9}, 3),
    ]:
        algo = overridden(run, **settings)
        assert algo.config.num_envs == envs
        assert algo.algorithm.timesteps > steps
        for key in settings:
            assert key == "num_envs" or any(f"{key}=" in note for note in algo.notes)
        assert any("pisodes under way" in note and "begin anew" in note for note in algo.notes)
        # What a replay that began anew has of the new steps.
        left = algo.algorithm.timesteps - steps
        if algorithm == "DQN":
            assert (algo.algorithm.replay.steps > left) == (envs == 4)  # type: ignore[attr-defined]


def test_overrides_are_derived_again_and_recorded(tmp_path: Path) -> None:
    run = small_run(tmp_path, 2)
    assert (run.trainer.config.train_batch_size, run.trainer.config.sgd_minibatch_size) == (64, 64)
    resumed = poise.resume(
        run.path, stop={"training_iteration": 4}, quiet=True, learning_rate=1e-4, num_envs=40
    )
    resumed.trainer.close()
    config = resumed.folder.config()
    assert (config["config"]["lr"], config["config"]["train_batch_size"]) == (1e-4, 640)
    assert config["config"]["sgd_minibatch_size"] == 80  # it was derived, and is again
    (change,) = config["changed_settings"]
    assert change["training_iteration"] == 2
    assert change["lr"] == [3e-4, 1e-4]
    log = (run.path / "log.txt").read_text()
    assert "lr=0.0001 (was 0.0003)" in log
    assert "num_envs_per_worker=40 (was 4)" in log
    assert "Episodes under way begin anew" in log
    assert "Resuming from iteration 2" in log
    again = poise.resume(run.path, stop={"training_iteration": 5}, quiet=True)
    again.trainer.close()
    assert again.trainer.config.num_envs == 40
    assert len(again.folder.config()["changed_settings"]) == 1


def test_samplers_of_a_cluster_begin_anew_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are as many as there are workers, and here more than two act in two groups."""
    run = small_run(tmp_path, 2, num_workers=1)
    read = checkpoint.read

    def of_a_cluster(path: Path) -> Any:
        manifest, policies, state = read(path)
        manifest["config"]["ray_address"] = "auto"
        return manifest, policies, state

    monkeypatch.setattr(checkpoint, "read", of_a_cluster)
    with poise.load(run.path, ray_address=None) as again:
        assert any("Episodes under way begin anew" in note for note in again.notes)
        assert again.environments.pending is None


def test_a_checkpoint_of_other_settings_than_the_config_goes_on(tmp_path: Path) -> None:
    """As when a run died between a resume with other settings and its first checkpoint."""
    run = small_run(tmp_path, 2)
    config = run.folder.config()
    config["config"] |= {"num_envs_per_worker": 2, "train_batch_size": 32, "sgd_minibatch_size": 32}
    run.folder.write_config(config)
    resumed = poise.resume(run.path, stop={"training_iteration": 3}, quiet=True)
    resumed.trainer.close()
    assert resumed.trainer.iteration == 3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"fcnet_hiddens": [16]}, r"Unknown config key 'fcnet_hiddens'"),
        (
            {"model": {"fcnet_hiddens": [16]}},
            r"model.fcnet_hiddens=\[16\] cannot go on .*: its network stays",
        ),
        (
            {"wrappers": ["a:B"]},
            r"wrappers=.* cannot go on from a checkpoint: its environment stays",
        ),
        (
            {"normalize_observations": True},
            r"cannot go on with normalize_observations=True \(was False\): parameter",
        ),
        ({"num_worker": 2}, r"Unknown config key 'num_worker'. Did you mean 'num_workers'"),
        ({"lr": -1}, "lr=-1 is not allowed"),
        ({"num_envs": 4, "train_batch_size": 6}, "must be a multiple"),
    ],
)
def test_overrides_that_cannot_be_are_one_sentence(
    run: Run, settings: dict[str, Any], sentence: str
) -> None:
    before = run.folder.config()
    for use in (
        lambda: poise.load(run.path, **settings),
        lambda: poise.resume(run.path, quiet=True, **settings),
    ):
        with pytest.raises(poise.PoiseError, match=sentence):
            use()
    assert run.folder.config() == before


def test_a_run_goes_back_to_an_iteration_and_keeps_what_came_after(tmp_path: Path) -> None:
    run = small_run(tmp_path, 4, checkpoint_freq=1, keep_checkpoints_num=9)
    resumed = poise.resume(run.path, stop={"training_iteration": 3}, which=2, quiet=True, lr=1e-4)
    resumed.trainer.close()
    assert kept(resumed) == [1, 2, 3]
    assert [(run.folder.checkpoints / f"00000{i}.left").is_dir() for i in (3, 4)] == [True, True]
    assert len((run.path / "metrics-2.jsonl").read_text().splitlines()) == 4
    assert [r["training_iteration"] for r in resumed.folder.metrics()] == [1, 2, 3]


def test_resume_takes_names_as_the_command_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = small_run(tmp_path / "runs", 1, name="first")
    for iterations, name in enumerate(("first", "latest"), 2):
        resumed = poise.resume(name, stop={"training_iteration": iterations}, quiet=True)
        resumed.trainer.close()
        assert (resumed.path, resumed.trainer.iteration) == (run.path, iterations)
    with pytest.raises(RunError, match=r"There is no run at frist, .* Did you mean 'first'"):
        poise.resume("frist")


def test_load_takes_names_and_learns_as_a_new_trainer_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = small_run(tmp_path / "runs", 2, name="first")
    for name in (
        "first",
        "latest",
        run.path,
        run.path / "checkpoints/000002",
        f"{run.path.parent.name}/first",
    ):
        with poise.load(name) as algo:
            assert algo.iteration == 2
    assert [type(each).__name__ for each in algo.callbacks] == ["Stuck", "Greedy"]
    with pytest.raises(
        poise.CheckpointError,
        match=r"There is no checkpoint at frist\. There is no run .* Did you mean 'first'",
    ):
        poise.load("frist")
