"""What files from strangers try, and what becomes of it: each sentence of docs/security.md is one of these."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import poise
from poise.cli.main import poise as command
from poise.errors import EnvError, PoiseError, shown
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
"""A name that sets a terminal's title, clears it, and is markup, a formula and text from right to left."""


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
    """Changes a run's configuration in its own file and in the manifests of its checkpoints, which have no hash."""
    for file in (run.path / "config.json", *run.path.glob("checkpoints/*/manifest.json")):
        saved = json.loads(file.read_text())
        for key, value in changes.items():
            owner, _, leaf = key.rpartition("__")
            (saved["config"][owner] if owner else saved["config"])[leaf] = value
        file.write_text(json.dumps(saved))


# --- names on the screen --------------------------------------------------------------------------------------------


def test_what_a_terminal_would_obey_is_shown_instead() -> None:
    assert shown("CartPole-v1, größer ☃") == "CartPole-v1, größer ☃"
    assert shown("a\x1b[2Jb\x07\x9b\u202e\n") == r"a\x1b[2Jb\x07\x9b\u202e\n"
    assert shown("a\n\tb\r", lines=True) == "a\n\tb\\r"
    assert str(PoiseError("There is no \x1b[31mred.\nIt ends.")) == "There is no \\x1b[31mred.\nIt ends."
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
        assert result.exit_code == (2 if args[0] in ("evaluate", "record", "resume") else 0), result.output
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
    study = poise.tune.run("PPO", config=space, stop={"timesteps_total": 320}, quiet=True, preset=None, experiment="s")
    search = json.loads((study.path / "study.json").read_text())
    search["config"]["env"] = EVIL
    (study.path / "study.json").write_text(json.dumps(search))
    assert call("plot", "runs/s").exit_code == 0


# --- links ----------------------------------------------------------------------------------------------------------

LINKED = [".lock", "log.txt", "metrics.jsonl", "episodes.csv", "status.json", "plots", "videos", "plots/episodes.png"]


@pytest.mark.parametrize("name", LINKED)
def test_nothing_is_written_through_a_link_that_leads_out(run: Run, folder: Path, name: str) -> None:
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
    for args in ([commands.get(name, "resume"), "r"], ["resume", "r", "--stop", "timesteps_total=400"]):
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
