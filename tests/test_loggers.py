"""Guards what sends a run elsewhere: all of it arrives, and training is not held up or ended.

The tests of Weights & Biases, trackio and MLflow use the libraries themselves, without a network,
where they are installed: `make loggers` installs them apart and runs this file.
"""

from __future__ import annotations

import json
import math
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import poise
from poise.cli.main import poise as command
from poise.config.run import RunOptions
from poise.errors import ConfigError, PoiseError
from poise.tracking import loggers
from poise.tracking.folder import RunFolder
from poise.tracking.launch import Run
from poise.tracking.logger import LoggedRun, Logger, numbers

TINY: dict[str, Any] = {
    "preset": None,
    "seed": 5,
    "num_envs_per_worker": 4,
    "rollout_fragment_length": 16,
    "num_sgd_iter": 2,
    "model": {"fcnet_hiddens": [8]},
    "tensorboard": False,
}
SCORED = {"metrics_smoothing_episodes": 1}
"""So that checkpoints of so few episodes have a score, and one of them is the best."""


class Told(Logger):
    """Remembers what it was told, and by which thread."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.threads: set[threading.Thread] = set()

    def _hear(self, *what: Any) -> None:
        self.told.append(what)
        self.threads.add(threading.current_thread())

    def start(self, run: LoggedRun) -> None:
        self._hear("start", run.id)
        self.run = run
        run.id = run.id or "their-id"

    def log(self, result: dict[str, Any], steps: int) -> None:
        self._hear("log", steps, result)

    def film(self, path: Path, steps: int) -> None:
        self._hear("film", path.name, steps)

    def checkpoint(self, path: Path, names: list[str]) -> None:
        self._hear("checkpoint", int(path.name), names)

    def finish(self, state: str) -> None:
        self._hear("finish", state)

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [each[1:] for each in self.told if each[0] == kind]


class Releasing(poise.Callback):
    """Sets an event when the run ends: what was held until then may go on."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def on_run_end(self, trainer: poise.Trainer, reason: str) -> None:
        for result in list(trainer.history)[:-1]:
            result.clear()  # what was handed over is a copy
        self.event.set()


def small_run(root: Path, iterations: int = 4, **options: Any) -> Run:
    asked = {"stop": {"training_iteration": iterations}, "quiet": True, **TINY, **options}
    run = poise.run("PPO", "CartPole-v1", folder=root, **asked)
    run.trainer.close()
    return run


def log_of(run: Run) -> str:
    return (run.path / "log.txt").read_text()


def finite(record: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in record.items() if not math.isnan(value)}


# --- what arrives ---------------------------------------------------------------------------------


def test_a_logger_gets_all_of_a_run_and_finds_it_again_when_it_goes_on(tmp_path: Path) -> None:
    first = Told()
    asked = {"experiment": "e", "name": "r", "video": True, "log_checkpoints": True, **SCORED}
    run = small_run(tmp_path, 4, loggers=[first], **asked)
    metrics = run.folder.metrics()
    assert [steps for steps, _ in first.of("log")] == [r["timesteps_total"] for r in metrics]
    assert [finite(result) for _, result in first.of("log")] == [finite(r) for r in metrics]
    assert first.told[0] == ("start", None)
    assert first.told[1] == ("film", "before.mp4", 0)
    assert first.of("film")[1] == ("after.mp4", metrics[-1]["timesteps_total"])
    kept = {name: at for at, names in first.of("checkpoint") for name in names}
    assert run.folder.best is not None
    assert kept == {"latest": 4, "best": run.folder.best[1]}
    assert first.told[-1] == ("finish", "finished")
    assert (first.run.group, first.run.name, first.run.steps) == ("e", "r", 0)
    assert first.run.config["lr"] == run.trainer.config.to_dict()["lr"]
    assert first.run.config["algorithm"] == "PPO"
    assert first.run.config["stop"] == {"training_iteration": 4}
    assert len(first.threads) == 1
    assert threading.main_thread() not in first.threads
    assert not any(thread.is_alive() for thread in first.threads)

    again = Told()
    resumed = poise.resume(run.path, stop={"training_iteration": 6}, quiet=True, loggers=[again])
    assert again.of("start") == [("their-id",)]
    assert [r["training_iteration"] for _, r in again.of("log")] == [5, 6]
    assert again.run.steps == metrics[-1]["timesteps_total"]
    resumed.trainer.learn(stop={"training_iteration": 7})  # and whoever trains on with it
    resumed.trainer.close()
    assert [r["training_iteration"] for _, r in again.of("log")] == [5, 6, 7]
    assert again.of("finish") == [("finished",), ("finished",)]


def test_the_runs_of_trials_and_seeds_are_of_their_group(tmp_path: Path) -> None:
    study = tmp_path / "search"
    assert loggers._place(tmp_path / "e" / "r") == ("e", "r")
    study.mkdir()
    (study / "study.json").write_text("{}")
    assert loggers._place(study / "trial_0001") == ("search", "trial_0001")
    assert loggers._place(study / "trial_0001" / "seed_0") == ("search", "trial_0001/seed_0")


def test_numbers_are_the_finite_ones() -> None:
    import numpy as np

    given = {"a": 1, "b": np.float32(0.5), "c": math.nan, "d": math.inf, "e": "text", "f": True}
    assert numbers({**given, "g": None}) == {"a": 1.0, "b": 0.5, "f": 1.0}


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["start", "log", "finish"])
@pytest.mark.parametrize("error", [ValueError("the service is gone"), SystemExit("bye")])
def test_a_logger_that_fails_says_so_once_and_training_goes_on(
    tmp_path: Path, where: str, error: BaseException
) -> None:
    class Failing(Told):
        pass

    def fail(self: Failing, *_: Any) -> None:
        self._hear(where)
        raise error

    setattr(Failing, where, fail)
    failing, well = Failing(), Told()
    run = small_run(tmp_path, 3, loggers=[failing, well])
    assert run.trainer.iteration == 3
    said = f"Failing gets nothing more ({type(error).__name__}: {error}); training goes on"
    assert log_of(run).count("gets nothing more") == log_of(run).count(said) == 1
    assert len(failing.of(where)) == 1
    assert len(well.of("log")) == 3
    assert run.folder.status()["state"] == "finished"


def test_a_logger_that_is_slow_leaves_results_out_and_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stuck in its first call until training is over: 2 results wait, and 5 are left out."""
    monkeypatch.setattr(loggers, "QUEUE", 2)
    until = Releasing()

    class Slow(Told):
        def start(self, run: LoggedRun) -> None:
            assert until.event.wait(60)
            super().start(run)

    slow = Slow()
    run = small_run(tmp_path, 7, loggers=[slow], callbacks=[until])
    assert [r["training_iteration"] for _, r in slow.of("log")] == [1, 2]
    assert slow.told[-1] == ("finish", "finished")
    assert log_of(run).count("Slow is 2 results behind") == 1
    assert "Slow did not get 5 results." in log_of(run)
    assert len(run.folder.metrics()) == 7


def test_training_waits_for_a_logger_that_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "QUEUE", 1)

    class Whole(Told):
        waits = True

    whole = Whole()
    run = small_run(tmp_path, 12, loggers=[whole])
    assert len(whole.of("log")) == 12
    assert "did not get" not in log_of(run)


def test_the_end_of_a_run_waits_for_a_stuck_logger_only_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "PATIENCE_S", 0.05)
    monkeypatch.setattr(loggers, "SILENCE_S", 0.01)
    monkeypatch.setattr(
        loggers, "QUEUE", 1
    )  # which is full: there is room for the end all the same
    release = threading.Event()

    class Stuck(Logger):
        def log(self, result: dict[str, Any], steps: int) -> None:
            release.wait(60)

    try:
        run = small_run(tmp_path, 3, loggers=[Stuck()])
        assert log_of(run).count("Waiting for Stuck, for 0 s at most.") == 1
        assert "Stuck has not taken everything within 0.05 s of the end" in log_of(run)
    finally:
        release.set()


# --- what is asked for ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["wandbb"], r"loggers=\['wandbb'\] is not allowed: .*'wandb'.* 'wandb'\?"),
        ("wandb", r"loggers='wandb' is not allowed: it must be a list"),
        ([print], "or an object of a class that derives from poise.Logger"),
        ([Told], "or an object of a class that derives from poise.Logger"),
    ],
)
def test_what_is_no_logger_is_refused(tmp_path: Path, given: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        small_run(tmp_path, 1, loggers=given)
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_missing_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that begins is refused; one that goes on elsewhere says it, and goes on."""
    run = small_run(tmp_path, 1, name="r")
    saved = run.folder.config()
    run.folder.write_config({**saved, "options": {**saved["options"], "loggers": ["mlflow"]}})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PoiseError, match=r"loggers=wandb needs Wandb: .*pip install .*\[wandb\]"):
        small_run(tmp_path, 1, loggers=["wandb"], name="s")
    assert [path.name for path in run.path.parent.iterdir()] == ["r"]
    with pytest.raises(PoiseError, match="loggers=trackio needs Trackio"):
        poise.resume(run.path, stop={"training_iteration": 2}, quiet=True, loggers=["trackio"])
    resumed = poise.resume(run.path, stop={"training_iteration": 2}, quiet=True)
    resumed.trainer.close()
    assert "Mlflow gets nothing from here on: it is not installed." in log_of(resumed)


def test_tensorboard_is_one_of_them(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    assert [each.name for each in loggers.loggers_of(RunOptions())] == ["tensorboard"]
    assert [x.name for x in loggers.loggers_of(RunOptions(loggers=["tensorboard"]))] == [
        "tensorboard"
    ]
    assert loggers.loggers_of(RunOptions(tensorboard=False)) == []
    with pytest.raises(ConfigError, match="which tensorboard=False leaves out"):
        small_run(tmp_path, 1, loggers=["tensorboard"])


def test_the_command_takes_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    monkeypatch.setitem(loggers.KNOWN, "wandb", lambda: told)  # type: ignore[arg-type]
    monkeypatch.setitem(loggers.KNOWN, "mlflow", Told)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name != "tensorboard" or None)
    args = ["train", "PPO", "--env", "CartPole-v1", "--stop", "training_iteration=1"]
    args += ["--folder", str(tmp_path), "--name", "r", "--quiet", "--log"]
    done = CliRunner().invoke(command, [*args, "wandb"])
    assert done.exit_code == 0, done.output
    folder = RunFolder(tmp_path / "PPO_CartPole-v1" / "r")
    assert folder.config()["options"]["loggers"] == ["wandb"]
    assert len(told.of("log")) == 1
    more = ["--stop", "training_iteration=2", "--log", "mlflow", "--quiet"]
    done = CliRunner().invoke(command, ["resume", str(folder.path), *more])
    assert done.exit_code == 0, done.output
    assert folder.config()["options"]["loggers"] == ["wandb", "mlflow"]
    assert len(told.of("log")) == 2
    done = CliRunner().invoke(command, [*args, "wandb,mlfow"])
    assert done.exit_code == 2
    assert "log=['wandb', 'mlfow'] is not allowed" in done.output
    assert "'mlflow'?" in done.output


# --- the services themselves, without a network ---------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, in which the libraries keep what they are sent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


def twice(place: Path, name: str) -> tuple[Run, Run]:
    """A run with films, and how it went on."""
    asked = {"loggers": [name], "log_checkpoints": True, "video": True, "name": "r", **SCORED}
    run = small_run(place / "runs", 3, **asked)
    assert "gets nothing more" not in log_of(run), log_of(run)
    more = {"stop": {"training_iteration": 5}, "quiet": True, "lr": 1e-5}
    resumed = poise.resume(run.path, **more)
    resumed.trainer.close()
    assert "gets nothing more" not in log_of(run), log_of(run)
    return run, resumed


def test_mlflow_has_it_all_in_one_run(place: Path) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed: make loggers")
    from mlflow.tracking import MlflowClient

    run, resumed = twice(place, "mlflow")
    client = MlflowClient()
    experiment = client.get_experiment_by_name("PPO_CartPole-v1")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert json.loads((run.path / "loggers.json").read_text()) == {"mlflow": found.info.run_id}
    assert (found.info.run_name, found.info.status) == ("r", "FINISHED")
    kl = client.get_metric_history(found.info.run_id, "learner/kl")
    metrics = resumed.folder.metrics()
    assert [(m.step, m.value) for m in kl] == [
        (r["timesteps_total"], r["learner/kl"]) for r in metrics
    ]
    assert found.data.params["model.fcnet_hiddens"] == "[8]"
    assert found.data.params["lr"] == "0.0003"
    assert found.data.tags["changed.lr"] == "1e-05"

    def files(path: str) -> list[str]:
        return sorted(Path(f.path).name for f in client.list_artifacts(found.info.run_id, path))

    assert files("videos") == ["after.mp4", "before.mp4"]
    assert files("checkpoints") == ["best", "latest"]
    assert "manifest.json" in files("checkpoints/latest")


def test_seeds_at_a_time_make_one_file_of_mlflow(place: Path) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed: make loggers")
    from mlflow.tracking import MlflowClient

    asked = {"stop": {"training_iteration": 2}, "quiet": True, **TINY, "seed": 0}
    found = poise.run_seeds(
        "PPO", "CartPole-v1", seeds=2, parallel=2, experiment="two", loggers=["mlflow"], **asked
    )
    assert found.errors == {}
    client = MlflowClient()
    experiment = client.get_experiment_by_name("two")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.params["seed"] for run in runs) == ["0", "1"]
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_trackio_has_it_all_in_one_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed: make loggers")
    import sqlite3

    from trackio import sqlite_storage, utils

    for module in (sqlite_storage, utils):  # read from the environment when they were imported
        monkeypatch.setattr(module, "TRACKIO_DIR", place / "trackio", raising=False)
    monkeypatch.setenv("TRACKIO_PROJECT", "tests")
    run, resumed = twice(place, "trackio")
    (file,) = place.rglob("tests.db")
    with sqlite3.connect(file) as base:
        rows = base.execute("SELECT run_id, step, metrics FROM metrics ORDER BY id").fetchall()
    ids = json.loads((run.path / "loggers.json").read_text())
    assert {row[0] for row in rows} == {ids["trackio"]}
    kl = [(step, json.loads(m)["learner/kl"]) for _, step, m in rows if b"learner/kl" in m]
    metrics = resumed.folder.metrics()
    assert kl == [(r["timesteps_total"], r["learner/kl"]) for r in metrics]
    assert sum(b"trackio.video" in m for _, _, m in rows) == 3


def test_wandb_has_it_all_under_one_id(place: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: make loggers")
    run, resumed = twice(place, "wandb")
    id = json.loads((run.path / "loggers.json").read_text())["wandb"]
    parts = sorted(place.glob("wandb/offline-run-*"))
    assert [part.name.rpartition("-")[2] for part in parts] == [id, id]
    kl, films, groups = [], 0, set()
    for part in parts:
        for record in records(part / f"run-{id}.wandb"):
            items = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
            if "learner/kl" in items:
                kl.append((json.loads(items["timesteps_total"]), json.loads(items["learner/kl"])))
            films += any("video" in value for value in items.values())
            if record.run.run_id:
                groups.add((record.run.run_group, record.run.display_name))
    metrics = resumed.folder.metrics()
    assert kl == [(r["timesteps_total"], r["learner/kl"]) for r in metrics]
    assert films == 3
    assert groups == {("PPO_CartPole-v1", "r")}


def records(file: Path) -> Iterator[Any]:
    """What is in a file of an offline run: a log as LevelDB writes it, after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32_768 - at % 32_768 < 7:  # the end of a block
            at += 32_768 - at % 32_768
        size, kind = struct.unpack_from("<HB", content, at + 4)
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a full one, or the last part
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def test_wandb_without_a_key_asks_nobody(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Online, and nobody is logged in: it is said, and training goes on without it."""
    pytest.importorskip("wandb", reason="wandb is not installed: make loggers")
    import wandb

    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("NETRC", str(place / "netrc"))
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    run = small_run(place / "runs", 2, loggers=["wandb"])
    wandb.teardown()
    assert "wandb gets nothing more (UsageError: No API key configured." in log_of(run)
    assert run.trainer.iteration == 2
