"""Guards the old names of Azure ML: the article's notebook runs from its first cell to its last."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.request import urlopen

import pytest

from poise.cluster import fetch as fetching
from poise.cluster import local, token
from poise.cluster.jobs import Job, Unreachable
from poise.compat import cluster
from poise.compat.azureml import submitted
from poise.compat.azureml.contrib.train.rl import (
    Ray,
    ReinforcementLearningEstimator,
    WorkerConfiguration,
    script_words,
)
from poise.compat.azureml.core import Experiment, Run, Workspace
from poise.compat.azureml.core.compute import AmlCompute, ComputeTarget, size_of
from poise.compat.azureml.submitted import SubmittedRun
from poise.compat.azureml.tensorboard import Tensorboard
from poise.compat.azureml.widgets import RunDetails
from poise.errors import ClusterError, ConfigError, PoiseError, RunError, TrustError
from poise.tracking.folder import RunFolder

TUTORIALS = Path(__file__).parent / "tutorials"
STEPS = 20_000
"""The notebook's run ends after so many: each environment has played an episode or more."""


def until(happened: Callable[[], Any]) -> Any:
    """What it returns once it is true; a hang is the test's own limit."""
    while not (found := happened()):
        time.sleep(0.1)
    return found


@pytest.fixture
def workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Workspace:
    """A folder that is the current one, where nothing was said yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "_said", set())
    return Workspace.from_config()


# --- without a cluster ----------------------------------------------------------------------------


def test_script_parameters_are_quoted_as_for_a_shell() -> None:
    article = {
        "--run": "IMPALA",
        "--config": '\'{"num_gpus": 1, "num_workers": 13}\'',
        "--stop": '\'{"episode_reward_mean": 18, "time_total_s": 3600}\'',
    }
    assert script_words(article) == [
        "--run", "IMPALA", "--config", '{"num_gpus": 1, "num_workers": 13}',
        "--stop", '{"episode_reward_mean": 18, "time_total_s": 3600}',
    ]  # fmt: skip
    assert script_words({"--v": "", "--n": 3, "--sizes": "64 64", "--config": '{"a": 1}'}) == [
        "--v", "--n", "3", "--sizes", "64", "64", "--config", '{"a": 1}',
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"script_params: --a=.* has no closing quotation"):
        script_words({"--a": "'b"})


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("STANDARD_NC6", (6, 1)), ("STANDARD_NC24", (24, 4)), ("STANDARD_D2_V2", (2, 0)),
        ("Standard_DS3_v2", (4, 0)), ("STANDARD_D11", (2, 0)), ("STANDARD_D4S_V3", (4, 0)),
        ("STANDARD_F8S_V2", (8, 0)), ("STANDARD_NC6S_V3", (6, 1)), ("Standard_E16d_v4", (16, 0)),
    ],
)  # fmt: skip
def test_machines_have_as_many_processors_as_azures(size: str, expected: tuple[int, int]) -> None:
    assert size_of(size) == expected


def test_targets_are_remembered_by_the_workspace(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    about = AmlCompute.provisioning_configuration(
        vm_size="standard_nc6", min_nodes=0, max_nodes=2, vnet_name="mine", subnet_name="default"
    )
    head = ComputeTarget.create(workspace, "head-gpu", about)
    head.wait_for_completion(show_output=True, min_node_count=None, timeout_in_minutes=20)
    out = capsys.readouterr().out
    assert "vnet_name='mine' is left out" in out
    assert "head-gpu: STANDARD_NC6 (6 CPUs, 1 GPU), at most 2 nodes" in out
    status = head.get_status().serialize()
    assert (status["currentNodeCount"], status["vmSize"]) == (0, "STANDARD_NC6")
    assert status["scaleSettings"] == {"minNodeCount": 0, "maxNodeCount": 2}
    again = Workspace.from_config().compute_targets["head-gpu"]
    assert type(again) is AmlCompute
    assert again == head
    head.delete()
    assert workspace.compute_targets == {}
    with pytest.raises(ConfigError, match=r"vm_size='STANDARD_NC' .* Did you mean 'STANDARD_NC6'"):
        AmlCompute.provisioning_configuration("STANDARD_NC")
    with pytest.raises(ConfigError, match="min_nodes=3 and max_nodes=2 are not allowed"):
        AmlCompute.provisioning_configuration(min_nodes=3, max_nodes=2)
    (workspace.folder / ".azureml" / "compute_targets.json").write_text('{"a": {"vm": 3}}')
    with pytest.raises(ConfigError, match=r"compute_targets.json is not what Poise wrote"):
        _ = workspace.compute_targets


def test_the_workspace_is_that_of_a_config_json_above(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "There is no config.json of Azure's here" in capsys.readouterr().out
    inside = workspace.folder / "a" / "b"
    inside.mkdir(parents=True)
    (inside / "config.json").write_text('{"algorithm": "PPO"}')  # of a run
    about = {"subscription_id": "s", "resource_group": "g", "workspace_name": "w"}
    (workspace.folder / ".azureml").mkdir()
    (workspace.folder / ".azureml" / "config.json").write_text(json.dumps(about))
    monkeypatch.chdir(inside)
    found = Workspace.from_config()
    assert (found.name, found.resource_group, found.folder) == ("w", "g", workspace.folder)
    assert capsys.readouterr().out == ""
    for text in ("{", "[]", '{"workspace_name": "w"}'):
        (inside / "config.json").write_text(text)
        assert Workspace.from_config().folder == workspace.folder
        with pytest.raises(
            ConfigError, match=r"config.json is no config.json of Azure's, with sub"
        ):
            Workspace.from_config(inside / "config.json")
    with pytest.raises(ConfigError, match=r"none.json is no config.json of Azure's"):
        Workspace.from_config("none.json")


def target(workspace: Workspace, name: str = "head", vm_size: str = "STANDARD_D1_V2") -> AmlCompute:
    about = AmlCompute.provisioning_configuration(vm_size)
    return ComputeTarget.create(workspace, name, about)


def test_what_an_estimator_cannot_do_is_said(workspace: Workspace) -> None:
    (workspace.folder / "files").mkdir()
    (workspace.folder / "files" / "train.py").touch()
    asked: dict[str, Any] = {"source_directory": "files", "compute_target": target(workspace)}
    with pytest.warns(UserWarning, match=r"inputs has no equivalent here and is left out"):
        estimator = ReinforcementLearningEstimator(entry_script="trian.py", **asked, inputs=[1])
    with pytest.raises(RunError, match=r"no entry_script 'trian.py' .* Did you mean 'train.py'"):
        Experiment(workspace, "e").submit(config=estimator)
    many = WorkerConfiguration(asked["compute_target"], node_count=2)
    estimator = ReinforcementLearningEstimator(
        entry_script="train.py", worker_configuration=many, **asked
    )
    with pytest.raises(ConfigError, match=r"node_count=2 .* the target 'head' has 1 to 1 nodes"):
        Experiment(workspace, "e").submit(config=estimator)
    with pytest.raises(ConfigError, match="compute_target='head' is not allowed"):
        ReinforcementLearningEstimator(
            "files", entry_script="train.py", compute_target=cast(Any, "head")
        )


def test_a_widget_prints_lines_where_there_is_no_notebook(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run: Any = SimpleNamespace(
        id="r", trouble=None, watchers=[], last_result={"cluster/workers": 2.0},
        nodes=[{"is_head_node": head, "state": "ALIVE"} for head in (True, False)],
        targets=[("h", "NC6", 1), ("w", "D2", 4)], get_status=lambda: "Running",
    )  # fmt: skip
    RunDetails(run).show()
    (watcher,) = run.watchers
    watcher()  # nothing is new
    expected = "r  Running\nhead: h  Running  1 of 1 node, NC6\n"
    expected += "worker: w  Running  1 of 4 nodes, D2; 2 workers of the run sample\n"
    assert capsys.readouterr().out.endswith(f".\n{expected}")


class OutOfReach:
    """A cluster that does not answer until it is `back`, when its job has ended."""

    back, over, address = False, False, "http://127.0.0.1:9"

    def get(self, name: str) -> Job:
        if not self.back:
            raise Unreachable("Nothing answers.")
        return Job(name, "SUCCEEDED", node="n", began=float(ord(name)))

    def read(self, job: Job, name: str | None, lines: int = -1) -> bytes:
        return b"printed\n"

    def files(self, job: Job) -> list[str]:
        return []

    nodes = list


def test_a_cluster_out_of_reach_is_said_and_waited_for(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "LOOK_S", 0.01)
    jobs, said = cast(Any, OutOfReach()), []

    def hear(text: str, **_: Any) -> None:
        said.append(text)
        jobs.back = True

    def run(name: str) -> SubmittedRun:
        job = Job(name, "RUNNING")
        return SubmittedRun(Experiment(workspace, "e"), jobs, job, [("h", "D2", 1)])

    monkeypatch.setattr(submitted, "print", hear, raising=False)
    followed = run("a")
    followed.watchers.append(lambda: 1 / 0)
    assert followed.wait_for_completion(show_output=True)["status"] == "Completed"
    assert not followed.watchers  # one that fails is dropped, with its traceback
    assert said == ["Nothing answers. The job goes on without us; trying again.", "printed\n"]
    monkeypatch.setattr(fetching, "PATIENCE_S", 0.0)
    jobs.back = False
    lost = run("b")
    with pytest.raises(Unreachable):
        lost.wait_for_completion()
    assert lost.get_status() == "NotResponding"


def test_another_session_finds_the_runs_of_an_experiment(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs, mine = cast(Any, OutOfReach()), Experiment(workspace, "e")
    jobs.back = True
    for name in "ab":
        job = Job(name, "RUNNING", began=float(ord(name)))
        SubmittedRun(mine, jobs, job, [("h", "D2", 1)]).wait_for_completion()
    (mine.folder / "b" / "azureml-logs" / "logged.jsonl").write_text(
        '{"time": 1.0, "name": "loss", "value": 3.0}\n'
    )
    about = json.loads((mine.folder / "a" / ".run.json").read_text())
    about["job"] |= {"state": "RUNNING", "began": 3.0}
    others = {"c": jobs.address, "d": "http://evil.example:8265"}
    for name, address in others.items():
        (mine.folder / name).mkdir()
        (mine.folder / name / ".run.json").write_text(json.dumps({**about, "jobs": address}))
    (mine.folder / "damaged").mkdir()
    (mine.folder / "damaged" / ".run.json").write_text('{"job": 3}')
    submitted._known.clear()

    runs = list(Workspace.from_config().experiments["e"].get_runs())
    assert [run.id for run in runs] == ["b", "a", "d", "c"]
    assert "damaged/.run.json is not what Poise wrote" in capsys.readouterr().out
    newest, _, evil, lost = runs
    assert (newest.status, newest.get_metrics()) == ("Completed", {"loss": 3.0})
    assert newest.wait_for_completion()["target"] == "h"
    assert newest.get_file_names() == ["azureml-logs/driver_log.txt", "azureml-logs/logged.jsonl"]
    newest.download_files("azureml-logs/driver", "there")
    assert Path("there/azureml-logs/driver_log.txt").read_text() == "printed\n"
    assert [run is other for run, other in zip(runs, mine.get_runs(), strict=True)] == [True] * 4
    with pytest.raises(ClusterError, match=r"Nothing answers at http://127\.0\.0\.1:9"):
        lost.wait_for_completion()
    with pytest.raises(TrustError, match=r"the cluster 'http://evil.example:8265'"):
        evil.cancel()
    assert (lost.status, workspace.get_run("d")) == ("NotResponding", evil)
    with pytest.raises(RunError, match=r"There is no run 'x' in"):
        workspace.get_run("x")


def test_what_azure_has_beside_is_refused_by_name(workspace: Workspace) -> None:
    run, mine = Run(workspace.folder), Experiment(workspace, "e")
    run.log_list("several", [1, 2])
    run.complete()
    assert (workspace.folder / "logged.jsonl").read_text().count('"several"') == 2
    for thing, name in ((run, "log_image"), (mine, "delete"), (workspace, "datastores")):
        with pytest.raises(PoiseError, match=rf"\w+\.{name} of Azure ML has no equivalent here"):
            getattr(thing, name)
    with pytest.raises(PoiseError, match="Did you mean 'get_runs'"):
        mine.get_run()  # type: ignore[operator]
    assert not hasattr(run, "_repr_html_")


@pytest.mark.slow
def test_tensorboard_listens_on_this_machine_alone(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run: Any = SimpleNamespace(root=tmp_path)
    board = Tensorboard([run], port=0)
    address = board.start()
    try:
        assert address.startswith("http://127.0.0.1:")
        with urlopen(address) as page:
            assert b"TensorBoard" in page.read()
    finally:
        board.stop()


# --- on a cluster of this machine -----------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A token and a cluster, once there is one, of this module's own."""
    pytest.importorskip("ray")
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in (token.VALUE, token.MODE, "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            patch.delenv(name, raising=False)
        patch.setenv("POISE_HOME", str(folder))
        patch.setenv(token.FILE, str(folder / "auth_token"))
        before = dict(os.environ)
        yield
        if (ended := local.stop()) is not None:
            shutil.rmtree(ended.folder, ignore_errors=True)  # it keeps the runs of jobs
        for name in os.environ.keys() - before.keys():
            del os.environ[name]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A shell that takes itself for a notebook's; `shell.shown` is what it was told to display."""
    interactiveshell = pytest.importorskip("IPython.core.interactiveshell")
    kind = type("ZMQInteractiveShell", (interactiveshell.InteractiveShell,), {})
    interactiveshell.InteractiveShell.clear_instance()
    made = kind.instance()
    made.history_manager.enabled = False
    made.shown = []

    def publish(
        data: dict[str, Any], *_: Any, transient: Any, update: bool = False, **__: Any
    ) -> None:
        made.shown.append((transient.get("display_id"), update, data["text/html"]))

    monkeypatch.setattr(made.display_pub, "publish", publish)
    yield made
    kind.clear_instance()


@pytest.mark.slow
def test_the_notebook_of_the_article(
    home: None, workspace: Workspace, shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is written, with its imports from `poise.compat`, but for its end: after some steps."""
    shutil.copytree(TUTORIALS / "utils", workspace.folder / "files" / "utils")
    shutil.copy(TUTORIALS / "pong_rllib.py", workspace.folder / "files")
    cells = json.loads((TUTORIALS / "pong_rllib.ipynb").read_text())["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert sum(code.count('"time_total_s": 3600') for code in codes) == 1
    for code in codes:
        ending = code.replace('"time_total_s": 3600', f'"timesteps_total": {STEPS}')
        shell.run_cell(ending).raise_error()
    out = capsys.readouterr().out
    assert "Starting 5 nodes with 6 + 4 x 2 = 14 CPUs. They share" in out
    assert "ray[rllib]==0.8.3 is not installed: Poise runs the script" in out
    assert "shm_size of 24 GiB is left out" in out

    run: SubmittedRun = shell.user_ns["run"]
    log = (run.root / "azureml-logs" / "driver_log.txt").read_text()
    assert run.get_status() == "Completed", log
    assert "this is the cluster at 127.0.0.1" in log
    assert f"Stopped: timesteps_total reached {STEPS}" in log
    assert "has no equivalent" not in log
    metrics = run.get_metrics()
    (folder,) = map(RunFolder, run.trainings)
    results = folder.metrics()
    assert metrics["episodes_total"] == [result["episodes_total"] for result in results]
    assert metrics["episodes_total"][-1] > 0
    _, workers = run.get_children(_rehydrate_runs=False)
    assert workers.id.endswith("_worker")
    assert workers.get_metrics(name="episode_reward_mean").keys() == {"episode_reward_mean"}
    settings = folder.config()["config"]
    assert (settings["train_batch_size"], settings["rollout_fragment_length"]) == (1000, 50)
    assert settings["cluster_timeout_s"] == 3600
    assert any("events.out.tfevents" in name for name in run.get_file_names())

    assert len({identity for identity, _, _ in shell.shown}) == 1  # drawn anew in its place
    last = shell.shown[-1][2]
    assert f"<td>{run.id}</td><td>Completed</td>" in last
    assert "<td>head: head-gpu</td><td>Completed</td><td>1 of 1 node, STANDARD_NC6" in last
    assert "<td>4 of 4 nodes, STANDARD_D2_V2" in last
    assert '<img alt="The mean reward of an episode" src="data:image/png;base64,' in last
    assert "Stopped: timesteps_total" in last
    assert shell.user_ns["worker_compute_target"].get_status().serialize()["currentNodeCount"] == 4


def submit(workspace: Workspace, script: str, **asked: Any) -> SubmittedRun:
    """Submits a script, on the nodes of the article or, where none run, on two."""
    files = workspace.folder / "files"
    files.mkdir()
    (files / "script.py").write_text(script)
    (files / "data.txt").write_text("of the folder")
    workers = WorkerConfiguration(target(workspace, "workers"), node_count=1)
    estimator = ReinforcementLearningEstimator(
        "files", entry_script="script.py", compute_target=target(workspace),
        rl_framework=Ray(), worker_configuration=workers, **asked,
    )  # fmt: skip
    run: SubmittedRun = Experiment(workspace, "scripts").submit(estimator)
    return run


FAILING = """
import os
from pathlib import Path
from poise.compat.azureml.core import Run
run = Run.get_context()
run.log("answer", 42)
for value in (1.0, float("nan")):
    run.log("several", value)
Path("outputs/copy.txt").write_text(Path("data.txt").read_text())
raise RuntimeError(os.environ["WHY"])
"""


@pytest.mark.slow
def test_a_script_that_fails_says_why_and_its_files_are_here(
    home: None, workspace: Workspace
) -> None:
    run = submit(workspace, FAILING, environment_variables={"WHY": "it is broken"})
    with pytest.raises(RunError, match=r"(?s)has ended: failed.*RuntimeError: it is broken"):
        run.wait_for_completion()
    assert run.wait_for_completion(raise_on_error=False)["status"] == "Failed"
    answer, several = run.get_metrics()["answer"], run.get_metrics("several")["several"]
    assert (answer, several[0], several[1] == several[1]) == (42, 1.0, False)
    assert {"azureml-logs/driver_log.txt", "outputs/copy.txt"} <= set(run.get_file_names())
    submitted._known.clear()  # as in another session
    [again] = Experiment(workspace, "scripts").get_runs()
    assert (again.id, again.status, again.get_metrics()["answer"]) == (run.id, "Failed", 42)
    run.download_file("outputs/copy.txt", "here/copy.txt")
    assert (workspace.folder / "here" / "copy.txt").read_text() == "of the folder"
    with pytest.raises(RunError, match=r"no file 'outputs/cpy.txt'. Did you mean"):
        run.download_file("outputs/cpy.txt")


TRAINING = """
from poise.compat import ray
ray.init(address="auto")
ray.tune.run("PPO", config={"env": "CartPole-v1", "num_workers": 2}, local_dir="logs")
"""


@pytest.mark.slow
def test_a_run_that_is_cancelled_has_a_checkpoint(home: None, workspace: Workspace) -> None:
    run = submit(workspace, TRAINING, max_run_duration_seconds=3600)
    until(lambda: run.last_result)  # it comes while it trains
    assert run.get_status() == "Running"
    run.cancel()
    assert run.wait_for_completion()["status"] == "Canceled"
    (folder,) = map(RunFolder, run.trainings)
    status = folder.status()
    assert status["state"] == "preempted"
    assert (folder.checkpoints / f"{status['training_iteration']:06d}" / "manifest.json").is_file()


@pytest.mark.slow
def test_the_cluster_of_a_file_is_used_and_a_limit_ends_the_run(
    home: None, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    found = local.running() or local.start(nodes=1)
    (workspace.folder / "cluster.toml").write_text(
        f'address = "{found.jobs}"\nhead = {{ machine = "127.0.0.1" }}\n'
    )
    script = "import os, time\nprint('in', os.getcwd(), flush=True)\ntime.sleep(3600)\n"
    run = submit(workspace, script, max_run_duration_seconds=1)
    assert "The cluster is that of" in capsys.readouterr().out
    assert run.wait_for_completion(show_output=True)["status"] == "Completed"
    out = capsys.readouterr().out
    assert "The job's limit of 1 s is reached" in out
    (line,) = [line for line in out.splitlines() if line.startswith("in ")]
    assert not Path(line.removeprefix("in ")).exists()  # Azure's copy of the folder, too, went
