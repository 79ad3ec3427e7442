"""What files from strangers try, and what becomes of it.

Each sentence of docs/security.md is one of these.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

import poise
from poise.cli.main import poise as command
from poise.config import base
from poise.envs import trust
from poise.errors import (
    CheckpointError,
    EnvError,
    ModelError,
    PoiseError,
    PoiseWarning,
    TrustError,
    shown,
)
from poise.tracking import folder as tracked
from poise.tracking.folder import RunFolder
from poise.tracking.launch import Run

TINY: dict[str, Any] = {
    "preset": None,
    "seed": 5,
    "num_envs_per_worker": 2,
    "rollout_fragment_length": 16,
    "num_sgd_iter": 1,
    "model": {"fcnet_hiddens": [4]},
}
EVIL = "\x1b]0;owned\x07\x1b[2J[bold]$x_$[/maps]\u202e"
"""A name that sets a terminal's title, clears it, and is markup, a formula and text from right to
left."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def run() -> Run:
    """A small finished run with an episode in it."""
    options = {"quiet": True, "tensorboard": False, "stop": {"timesteps_total": 320}}
    made = poise.run("PPO", "CartPole-v1", experiment="e", name="r", **TINY, **options)
    made.trainer.close()
    return made


def call(*args: str) -> Result:
    return CliRunner().invoke(command, list(args), prog_name="poise")


def bad(*args: str) -> str:
    """The one sentence of a command that must refuse."""
    result = call(*args)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


def forge(run: Run, **changes: Any) -> None:
    """Changes a run's configuration in its own file and in the manifests of its checkpoints.

    Neither has a hash.
    """
    for file in (run.path / "config.json", *run.path.glob("checkpoints/*/manifest.json")):
        saved = json.loads(file.read_text())
        for key, value in changes.items():
            owner, _, leaf = key.rpartition("__")
            (saved["config"][owner] if owner else saved["config"])[leaf] = value
        file.write_text(json.dumps(saved))


# --- names on the screen --------------------------------------------------------------------------


def test_what_a_terminal_would_obey_is_shown_instead() -> None:
    assert shown("CartPole-v1, größer ☃") == "CartPole-v1, größer ☃"
    assert shown("a\x1b[2Jb\x07\x9b\u202e\n") == r"a\x1b[2Jb\x07\x9b\u202e\n"
    assert shown("a\n\tb\r", lines=True) == "a\n\tb\\r"
    for kind in (PoiseError, PoiseWarning):
        assert (
            str(kind("There is no \x1b[31mred.\nIt ends.")) == "There is no \\x1b[31mred.\nIt ends."
        )
    assert str(EnvError("\x07")) == r"\x07"


def test_a_run_with_an_evil_name_is_listed_and_drawn(run: Run, folder: Path) -> None:
    forge(run, env=EVIL)
    status = json.loads((run.path / "status.json").read_text())
    (run.path / "status.json").write_text(json.dumps({**status, "state": EVIL}))
    for args in (
        ["runs"],
        ["plot", "r", "--terminal"],
        ["plot", "r"],
        ["evaluate", "r"],
        ["record", "r"],
        ["resume", "r"],
    ):
        result = call(*args)
        assert not set(result.output) & set("\x1b\x07\u202e"), args
        assert result.exit_code == (2 if args[0] in ("evaluate", "record", "resume") else 0), (
            result.output
        )
        assert "Traceback" not in result.output
    assert (run.path / "plots/episodes.png").is_file()
    assert "[bold]" in call("runs").output  # as it is, not as markup
    assert "\x1b" not in (run.path / "log.txt").read_text()


def test_a_study_with_an_evil_name_is_drawn(folder: Path) -> None:
    space = {
        "env": "CartPole-v1",
        "lr": poise.tune.uniform(1e-4, 1e-3),
        **{k: v for k, v in TINY.items() if k != "preset"},
    }
    study = poise.tune.run(
        "PPO", config=space, stop={"timesteps_total": 320}, quiet=True, preset=None, experiment="s"
    )
    search = json.loads((study.path / "study.json").read_text())
    search["config"]["env"] = EVIL
    (study.path / "study.json").write_text(json.dumps(search))
    assert call("plot", "runs/s").exit_code == 0


# --- links ----------------------------------------------------------------------------------------

LINKED = [".lock", "log.txt", "metrics.jsonl", "episodes.csv", "status.json", "about.json"]
LINKED += ["behaviour.jsonl"]
LINKED += ["plots", "videos", "plots/episodes.png"]


@pytest.mark.parametrize("name", LINKED)
def test_nothing_is_written_through_a_link_that_leads_out(
    run: Run, folder: Path, name: str
) -> None:
    outside = folder / "outside"
    if name in ("plots", "videos"):
        outside.mkdir()
    else:
        outside.write_text("mine")
    link = run.path / name
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(outside)
    commands = {"plots": "plot", "plots/episodes.png": "plot", "videos": "record"}
    for args in (
        [commands.get(name, "resume"), "r"],
        ["resume", "r", "--stop", "timesteps_total=400"],
    ):
        assert "is a symbolic link to" in bad(*args)
    assert (list(outside.iterdir()) == []) if outside.is_dir() else (outside.read_text() == "mine")


def test_a_film_of_a_checkpoint_is_not_written_through_a_link(run: Run, folder: Path) -> None:
    run.trainer.save("stranger/solved")
    (folder / "mine").write_text("mine")
    (folder / "stranger/solved.mp4").symlink_to(folder / "mine")
    assert "is a symbolic link to" in bad("record", "stranger/solved")
    assert (folder / "mine").read_text() == "mine"


def test_links_inside_a_run_and_a_linked_run_are_no_harm(run: Run, folder: Path) -> None:
    (run.path / "latest").symlink_to(run.path / "log.txt")
    os.symlink(run.path.resolve(), folder / "short")
    RunFolder(folder / "short").claim()
    assert call("plot", "short").exit_code == 0


# --- code that a file names -----------------------------------------------------------------------

PLAIN = {key: value for key, value in TINY.items() if key != "preset"}
SHELL = {"command": "touch owned"}
MODULE = """
import pathlib
import gymnasium
import torch
from os import system

pathlib.Path("imported").touch()


class Maze(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, config=None):
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample() * 0, {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.sample() * 0, 1.0, self.steps == 8, False, {}


def make(config):
    return Maze()


class Net(torch.nn.Module):
    def __init__(self, space, outputs):
        super().__init__()
        self.layer = torch.nn.Linear(4, outputs + 1)

    def forward(self, obs):
        x = self.layer(obs)
        return x[:, :-1], x[:, -1]


class Half:
    def __init__(self, space):
        self.space = space

    def transform(self, obs):
        return obs / 2
"""


@pytest.fixture
def evil(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that lies where the user stands, and says when it is imported."""
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("POISE_HOME", str(folder / "home"))
    name = f"evil_{os.urandom(4).hex()}"
    (folder / f"{name}.py").write_text(MODULE)
    yield name
    sys.modules.pop(name, None)


def use(run: Run) -> list[str]:
    """What all commands that play say about a run."""
    return [
        bad(*args)
        for args in (
            ["evaluate", "r"],
            ["record", "r"],
            ["resume", "r", "--stop", "timesteps_total=640"],
        )
    ]


def nothing_ran(folder: Path) -> bool:
    return not (folder / "owned").exists() and not (folder / "imported").exists()


FUNCTIONS = {
    "os:system": SHELL,
    "subprocess:Popen": {"args": ["touch", "owned"]},
    "subprocess:check_call": {"args": ["touch", "owned"]},
    "shutil:copy": {"src": "runs/e/r/config.json", "dst": "owned"},
    "builtins:exec": {"source": "open('owned', 'w')"},
    "numpy:save": {"file": "owned", "arr": [1]},
    "pathlib:Path.touch": {"self": "owned"},
    "poise.envs.old_gym:inspect.os.system": SHELL,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_run_cannot_have_functions_called(run: Run, folder: Path, name: str) -> None:
    forge(run, env=name, env_config=FUNCTIONS[name])
    assert all(
        "which this machine has not used before" in said and name in said for said in use(run)
    )
    algo = poise.load(run.path)  # acting needs no environment
    assert algo.compute_action([0.0, 0.0, 0.0, 0.0]) in (0, 1)
    for attempt in (
        algo.train,
        algo.evaluate,
        lambda: poise.record(algo, "film.mp4"),
        lambda: poise.resume(run.path),
    ):
        with pytest.raises(TrustError, match="If you trust it, add --trust"):
            attempt()
    algo.save("copy")  # which does not make the name known
    assert "has not used before" in bad("evaluate", "copy")
    assert nothing_ran(folder)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "numpy:save"])
def test_trust_does_not_make_an_environment_of_what_is_none(
    run: Run, folder: Path, name: str
) -> None:
    forge(run, env=name, env_config=FUNCTIONS[name])
    for args in (
        ["evaluate", "r", "--trust"],
        ["record", "r", "--trust"],
        ["resume", "r", "--trust"],
    ):
        assert "It was not called." in bad(*args)
    with pytest.raises(TrustError, match="is no environment"):
        poise.make_env(name, FUNCTIONS[name])
    assert nothing_ran(folder)


def test_no_module_is_imported_that_only_a_file_names(run: Run, folder: Path, evil: str) -> None:
    for name in (f"{evil}:Maze", f"{evil}:make", f"{evil}:CartPole-v1"):
        forge(run, env=name)
        assert all(f"{evil!r}" in said for said in use(run))
    forge(run, env="CartPole-v1", model__custom_model=f"{evil}:Net")
    assert all("the model" in said for said in use(run))
    with pytest.raises(TrustError, match="register a model"):
        poise.load(run.path)
    forge(run, model__custom_model=None, model__custom_preprocessor=f"{evil}:Half")
    assert all("the preprocessor" in said for said in use(run))
    assert nothing_ran(folder)


def test_trust_is_given_once(run: Run, folder: Path, evil: str) -> None:
    run = poise.run(
        "PPO",
        f"{evil}:make",
        experiment="m",
        name="m",
        quiet=True,
        stop={"timesteps_total": 64},
        **TINY,
    )
    run.trainer.close()
    (folder / "imported").unlink()
    trust._granted.clear()
    (folder / "home/known.json").unlink()
    sys.modules.pop(evil)
    assert "has not used before" in bad("evaluate", "m")
    assert nothing_ran(folder)
    assert call("evaluate", "m", "--episodes", "1", "--trust").exit_code == 0
    assert (folder / "home/known.json").stat().st_mode & 0o777 == 0o600
    trust._granted.clear()
    assert call("evaluate", "m", "--episodes", "1").exit_code == 0  # remembered


def test_what_a_user_has_trained_with_is_known_until_it_is_another_file(
    folder: Path, evil: str
) -> None:
    settings = {**PLAIN, "model": {"custom_model": f"{evil}:Net"}, "env": "CartPole-v1"}
    run = poise.run(
        "PPO",
        config=settings,
        experiment="m",
        name="m",
        quiet=True,
        preset=None,
        stop={"timesteps_total": 64},
    )
    run.trainer.close()
    trust._granted.clear()
    sys.modules.pop(evil)
    poise.load(run.path)
    (folder / "elsewhere").mkdir()
    (folder / f"{evil}.py").rename(folder / "elsewhere" / f"{evil}.py")
    sys.modules.pop(evil)
    trust._granted.clear()
    importlib.invalidate_caches()
    with pytest.raises(
        ModelError,
        match=rf"It was in {folder}/{evil}.py before: go to {folder}, or set PYTHONPATH=",
    ):
        poise.load(run.path)
    sys.path.insert(0, str(folder / "elsewhere"))
    with pytest.raises(
        TrustError, match=r"The one that it has used is in .* this one is in .*elsewhere"
    ):
        poise.load(run.path)
    sys.path.remove(str(folder / "elsewhere"))


def test_a_terminal_is_asked(
    run: Run, folder: Path, evil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge(run, env=f"{evil}:Maze")
    asked: list[str] = []
    monkeypatch.setattr(trust, "ask", lambda said: bool(asked.append(said)))
    assert "has not used before" in bad("evaluate", "r")
    monkeypatch.setattr(trust, "ask", lambda said: True)
    assert "does not fit" in bad("resume", "r", "--stop", "timesteps_total=640")  # it was made
    assert len(asked) == 1
    assert f"{evil}:Maze" in json.loads((folder / "home/known.json").read_text())


def test_an_unwritable_home_is_said_once(run: Run, folder: Path, evil: str) -> None:
    (folder / "home").write_text("a file")
    with pytest.warns(UserWarning, match=r"known.json cannot be written"):
        trust.remember("a:B")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trust.remember("a:C")
    assert trust.known("a:B")


def test_settings_that_may_be_paths_or_modules_wait_too(run: Run, folder: Path, evil: str) -> None:
    for config in (
        {"xml_file": "/etc/passwd"},
        {"a": [{"b": "os:system"}]},
        {"xml_file": "~/x"},
        {"x": "..\\x"},
        {"x": ".x"},
    ):
        forge(run, env_config=config)
        assert all("settings of the environment 'CartPole-v1'" in said for said in use(run))
    forge(run, env_config={"render_mode": "rgb_array", "max_episode_steps": 20})
    assert call("evaluate", "r", "--episodes", "1").exit_code == 0


def test_loaded_environments_registered_ids_and_ones_own_need_no_word(run: Run, evil: str) -> None:
    module = importlib.import_module(evil)
    made = poise.run(
        "PPO",
        module.Maze,
        experiment="m",
        name="m",
        quiet=True,
        stop={"timesteps_total": 64},
        **TINY,
    )
    made.trainer.close()
    trust._granted.clear()
    (Path(os.environ["POISE_HOME"]) / "known.json").unlink()
    poise.load(made.path).evaluate(1)  # a class of a module that the program has imported itself
    forge(made, env=f"{evil}:make")
    with pytest.raises(TrustError):
        poise.load(made.path).evaluate(1)  # but no function
    poise.load(made.path, env=module.make).evaluate(1)
    poise.load(made.path, env=f"{evil}:make").evaluate(1)
    poise.load(made.path, trust=True).evaluate(1)
    poise.load(run.path).evaluate(1)


def test_a_study_cannot_have_functions_called(folder: Path, evil: str) -> None:
    config = {"env": "CartPole-v1", "lr": poise.tune.uniform(1e-4, 1e-3), **PLAIN}
    study = poise.tune.run(
        "PPO", config=config, stop={"timesteps_total": 64}, quiet=True, preset=None, experiment="s"
    )
    file = study.path / "study.json"
    saved = json.loads(file.read_text())
    crafted = [
        {"env": "os:system", "env_config": SHELL},
        {"env": f"{evil}:make"},
        {"model.custom_model": f"{evil}:Net"},
        {
            "model": {"custom_model": f"{evil}:Net", "fcnet_hiddens": [4]},
            "model.fcnet_hiddens": None,
        },
        {"model.custom_model": {"choice": [f"{evil}:Net", "os:system"]}},
        {"model.custom_preprocessor": f"{evil}:Half"},
        {"env_config": {"xml_file": "/etc/passwd"}},
        {"env_config": {"grid_search": [{}, {"xml_file": "/etc/passwd"}]}},
        {"env_config": {"choice": [{}, {"grid_search": [{"wrappers": [f"{evil}:Net"]}]}]}},
        {"wrappers": {"choice": [[], [f"{evil}:Net"]]}},
    ]
    for changes in crafted:
        changed = {
            key: value for key, value in {**saved["config"], **changes}.items() if value is not None
        }
        file.write_text(json.dumps({**saved, "config": changed}))
        assert "has not used before" in bad("tune", "--resume", "runs/s", "--trials", "3")
    assert nothing_ran(folder)


def test_an_experiment_of_several_seeds_cannot_have_functions_called(
    folder: Path, evil: str
) -> None:
    stop = {"timesteps_total": 64}
    found = poise.run_seeds(
        "PPO",
        "CartPole-v1",
        seeds=1,
        config=PLAIN,
        preset=None,
        stop=stop,
        quiet=True,
        experiment="s",
    )
    [file] = [
        file for file in found.path.glob("*.json") if "config" in json.loads(file.read_text())
    ]
    saved = json.loads(file.read_text())
    for changes in (
        {"env": "os:system", "env_config": SHELL},
        {"model.custom_model": f"{evil}:Net"},
    ):
        file.write_text(json.dumps({**saved, "config": {**saved["config"], **changes}}))
        assert "has not used before" in bad("resume", "runs/s")
    assert nothing_ran(folder)


def test_a_configuration_file_cannot_have_functions_called(folder: Path, evil: str) -> None:
    for settings in (
        {"env": f"{evil}:make"},
        {"env": "CartPole-v1", "model": {"custom_model": f"{evil}:Net"}},
    ):
        (folder / "x.json").write_text(json.dumps({"run": "PPO", "config": settings}))
        for word in ("train", "tune"):
            assert "x.json names" in bad(word, "--config", "x.json")
    assert nothing_ran(folder)
    (folder / "x.json").write_text(
        json.dumps({"run": "PPO", "env": "os:system", "config": {"env_config": SHELL}})
    )
    assert "It was not called." in bad("train", "--config", "x.json", "--trust")
    assert nothing_ran(folder)
    (folder / "x.json").write_text(
        json.dumps({"run": "PPO", "env": f"{evil}:make", "stop": {"timesteps_total": 64}})
    )
    assert call("train", "--config", "x.json", "--trust", "--quiet").exit_code == 0


SIZES = {
    "num_workers": (40_000, "Fewer share the same environments: num_workers="),
    "rollout_fragment_length": (
        10**12,
        "A rollout of 1,000,000,000,000 steps in 2 environments takes",
    ),
    "sgd_minibatch_size": (10**12, "sgd_minibatch_size=1000000000000 takes"),
    "metrics_smoothing_episodes": (10**12, "metrics_smoothing_episodes=1000000000000 takes"),
    "model__conv_filters": ([[10**6, 8, 4], [10**6, 4, 2]], "declares networks of over"),
}


@pytest.mark.parametrize("key", SIZES)
def test_numbers_in_a_run_are_held_against_the_machine(
    run: Run, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    value, words = SIZES[key]
    forge(run, **{key: value})
    monkeypatch.setattr(
        "poise.stepping.batches.make_vector_env",
        lambda *args: pytest.fail("an environment was made"),
    )
    if "declares" not in words:
        assert words in bad("resume", "r", "--stop", "timesteps_total=640")
        assert poise.load(run.path).compute_action([0.0] * 4) in (0, 1)  # which takes nothing of it
    with pytest.raises(PoiseError, match=words):
        poise.load(run.path).train()


def test_a_replay_of_many_slots_is_not_made(folder: Path) -> None:
    rest = {key: value for key, value in TINY.items() if key != "num_sgd_iter"}
    with poise.DQN("CartPole-v1", progress=False, **rest) as algo:
        algo.train()
        saved = algo.save("dqn")
    manifest, state = (
        json.loads((saved / name).read_text()) for name in ("manifest.json", "state.json")
    )
    state["algorithm"]["replay"]["slots"] = 10**14
    (saved / "state.json").write_text(json.dumps(state))
    content = (saved / "state.json").read_bytes()
    manifest["files"]["state.json"] = {
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"buffer_size=100000 takes .*, and this machine has"):
        poise.load(saved)


def test_no_cluster_that_only_a_file_names_is_asked(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever answers there would be shown the token."""
    connect = pytest.importorskip("poise.cluster.connect")
    asked: list[str] = []

    def ask(address: str, **_: Any) -> None:
        asked.append(address)
        raise poise.ClusterError("nothing answers")

    monkeypatch.setattr(connect, "check_ray", ask)
    ray = SimpleNamespace(is_initialized=lambda: False)
    monkeypatch.setattr(connect, "import_module", lambda name: ray)
    file = folder / "runs/e/r/config.json"
    saved = json.loads(file.read_text())
    saved["config"] |= {"ray_address": "evil.example:6379", "num_workers": 1}
    file.write_text(json.dumps(saved))
    goes_on = {"stop": {"timesteps_total": 640}, "quiet": True}
    with pytest.raises(TrustError, match=r"the cluster 'evil.example:6379'.*ray_address=\.\.\."):
        poise.resume("r", **goes_on)
    assert not asked
    with pytest.raises(poise.ClusterError):  # the user's own word
        poise.resume("r", ray_address="evil.example:6379", **goes_on)
    with pytest.raises(poise.ClusterError):
        poise.resume("r", trust=True, **goes_on)
    assert asked == ["evil.example:6379"] * 2
    with pytest.raises(poise.ClusterError):  # it was confirmed
        poise.resume("r", **goes_on)
    assert [type(address) for address in asked] == [str] * 3  # Ray takes no other text


@pytest.mark.parametrize("written", [base.plain, tracked.plain])
def test_a_name_out_of_a_file_is_written_down_as_plain_text(written: Callable[[Any], Any]) -> None:
    yaml = pytest.importorskip("yaml")
    name = trust.Foreign("m:E", "a file")
    found = written({"env": name, "wrappers": [[name, {}]]})
    assert yaml.safe_load(yaml.safe_dump(found)) == {"env": "m:E", "wrappers": [["m:E", {}]]}


def test_listing_and_drawing_import_nothing(run: Run, folder: Path, evil: str) -> None:
    forge(run, env=f"{evil}:make", model__custom_model=f"{evil}:Net")
    for args in (["runs"], ["plot", "r"], ["plot", "r", "--terminal"]):
        assert call(*args).exit_code == 0
    assert nothing_ran(folder)
