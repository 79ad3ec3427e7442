"""What a run says it was made with."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

import poise
from poise.cli.main import poise as command
from poise.tracking.about import commit_of, dirty
from poise.tracking.folder import RunFolder

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    (folder / "inner").mkdir(parents=True)
    git(folder, "init", "-q", "-b", "topic/one")
    (folder / ".gitignore").write_text("runs\n")
    git(folder, "add", ".gitignore")
    git(folder, "commit", "-qm", "first")
    return folder


def test_the_commit_is_what_git_says_in_every_kind_of_checkout(
    repository: Path, tmp_path: Path
) -> None:
    first = git(repository, "rev-parse", "HEAD")
    assert commit_of(repository) == commit_of(repository / "inner") == first
    git(repository, "worktree", "add", "-qb", "two", str(tmp_path / "tree"))
    git(tmp_path / "tree", "commit", "-qm", "second", "--allow-empty")
    second = git(tmp_path / "tree", "rev-parse", "HEAD")
    assert (commit_of(repository), commit_of(tmp_path / "tree")) == (first, second)
    git(repository, "pack-refs", "--all")
    assert (commit_of(repository), commit_of(tmp_path / "tree")) == (first, second)
    git(repository, "checkout", "-q", "--detach", second)
    assert commit_of(repository) == second


def test_where_there_is_no_commit_there_is_none(tmp_path: Path, repository: Path) -> None:
    git(tmp_path, "init", "-q", "empty")
    assert commit_of(tmp_path / "empty") is None
    for text in ("", "ref: refs/heads/none", "ref: ../../code/.gitignore", "ab", "\0"):
        (repository / ".git" / "HEAD").write_text(text)
        assert commit_of(repository) is None
    assert dirty(tmp_path / "nowhere") is None


def test_a_run_notes_each_time_what_it_is_made_with(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    run = poise.run(
        "PPO",
        "CartPole-v1",
        stop={"training_iteration": 1},
        name="one",
        tensorboard=False,
        quiet=True,
    )
    run.trainer.close()
    (repository / ".gitignore").write_text("runs\nmore\n")
    poise.resume(run.path, stop={"training_iteration": 2}, quiet=True).trainer.close()
    first, second = RunFolder(run.path).sessions()
    assert first["commit"] == second["commit"] == git(repository, "rev-parse", "HEAD")
    assert (first["dirty"], second["dirty"]) == (False, True)
    assert set(first["versions"]) == {"poise", "python", "torch", "gymnasium", "numpy"}
    assert set(first["machine"]) == {"host", "system", "processor", "cores", "gpu"}
    assert first["command"]
    (row,) = json.loads(CliRunner().invoke(command, ["runs", "--json"]).stdout)
    assert (row["commit"], row["dirty"]) == (first["commit"], True)
    for damaged in (
        "{",
        "[]",
        '{"sessions": 5}',
        '{"sessions": [5]}',
        '{"sessions": [{"commit": [1]}]}',
    ):
        (run.path / "about.json").write_text(damaged)
        (row,) = json.loads(CliRunner().invoke(command, ["runs", "--json"]).stdout)
        assert (row["commit"], row["dirty"]) == (None, None)
