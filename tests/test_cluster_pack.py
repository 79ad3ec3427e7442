"""What goes along with a job, and what stays."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from poise.cluster import pack as packing
from poise.cluster.pack import pack
from poise.errors import ClusterError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    fill(folder, "train.py", "maze/__init__.py", "maze/token.py", "levels.json")
    return folder


def fill(folder: Path, *names: str) -> None:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {name}")


def sent(folder: Path) -> set[str]:
    return set(zipfile.ZipFile(io.BytesIO(pack(folder).data)).namelist())


def test_a_project_is_sent_whole(project: Path) -> None:
    assert sent(project) == {"train.py", "maze/__init__.py", "maze/token.py", "levels.json"}


@pytest.mark.parametrize(
    "name",
    [".env", ".env.local", "deep/.env", "id_rsa", "keys/id_ed25519.pub", "server.pem", "tls.KEY",
     ".netrc", ".aws/credentials", ".ssh/config", "api_token.txt", "hf-token", "TOKEN",
     "client_secret.json", "credentials.json", "passwords.txt", "api_key.yaml", ".ray/auth_token",
     "service-account-1.json", ".kaggle/kaggle.json", ".git-credentials"],
)  # fmt: skip
def test_secrets_stay_and_are_named(project: Path, name: str) -> None:
    before = sent(project)
    fill(project, name)
    assert sent(project) == before
    [named] = pack(project).left.pop("secrets")
    assert name.startswith(named)
    assert named in str(pack(project))


@pytest.mark.parametrize("name", ["tokenizer.json", "secrets.py", "monkey.txt", "keyboard.png"])
def test_what_only_sounds_like_one_is_sent(project: Path, name: str) -> None:
    fill(project, name)
    assert name in sent(project)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ([".git/config"], "version control"),
        ([".venv/bin/python", "maze/__pycache__/a.pyc", ".mypy_cache/x"], None),
        (["mine/pyvenv.cfg", "mine/lib/x.py"], "virtual environments"),
        (["runs/PPO/one/config.json", "runs/PPO/one/metrics.jsonl"], "run folders"),
        (["runs/search/study.json"], "run folders"),
    ],
)
def test_what_is_not_needed_stays(project: Path, names: list[str], why: str | None) -> None:
    before = sent(project)
    fill(project, *names)
    assert sent(project) == before
    left = pack(project).left
    assert left if why is None else why in left


def test_links_that_lead_elsewhere_stay(project: Path, tmp_path: Path) -> None:
    fill(tmp_path, "outside/passwd", "outside.txt")
    (project / "folder").symlink_to(tmp_path / "outside")
    (project / "file.txt").symlink_to(tmp_path / "outside.txt")
    (project / "alias.json").symlink_to(project / "levels.json")
    assert "alias.json" in sent(project)
    [names] = pack(project).left.values()
    assert names == ["file.txt", "folder/"]


def test_an_own_file_says_what_stays_and_what_does_not(project: Path) -> None:
    fill(project, "data/big.bin", "data/small.csv", ".env", "token.json")
    (project / ".poiseignore").write_text("# large\ndata/*\n!data/small.csv\n!token.json\n")
    assert sent(project) >= {"data/small.csv", "token.json"}
    assert not sent(project) & {"data/big.bin", ".env"}


def test_what_git_ignores_stays(project: Path) -> None:
    fill(project, "data.bin", "maze/cache.bin")
    (project / ".gitignore").write_text("*.bin\n")
    assert sent(project) == {
        ".gitignore", "train.py", "maze/__init__.py", "maze/token.py", "levels.json",
    }  # fmt: skip


def test_the_same_content_is_the_same_package(project: Path, tmp_path: Path) -> None:
    first = pack(project)
    os.utime(project / "train.py", (1, 1))
    assert pack(project).data == first.data
    assert pack(project).name == first.name
    (project / "train.py").write_text("another")
    assert pack(project).name != first.name


def test_what_is_too_large_is_said_before_it_is_sent(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "model.bin").write_bytes(os.urandom(3 * 2**20))
    monkeypatch.setattr(packing, "LARGEST", 2**20)
    with pytest.raises(ClusterError, match=r"3\.0 MiB to be sent.*1\.0 MiB at most.*model\.bin"):
        pack(project)
    monkeypatch.setattr(packing, "LARGEST_RAW", 2**20)
    with pytest.raises(ClusterError, match=r"model\.bin \(3\.0 MiB\).*\.poiseignore"):
        pack(project)


def test_a_home_folder_is_no_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project))
    monkeypatch.setenv("USERPROFILE", str(project))
    with pytest.raises(ClusterError, match="would be sent as a whole"):
        pack(project)


def test_a_run_that_goes_on_goes_along(project: Path) -> None:
    fill(project, "runs/e/one/config.json", "runs/e/one/metrics.jsonl", "runs/e/one/.lock",
         "runs/e/two/config.json", "runs/e/two/metrics.jsonl")  # fmt: skip
    names = {name for name, _ in pack(project, project / "runs/e/one").files}
    assert {name for name in names if "one" in name or "two" in name} == {
        ".poise/e/one/config.json", ".poise/e/one/metrics.jsonl",
    }  # fmt: skip


def job(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What a cluster runs, in a folder of its working copies."""
    command = [sys.executable, "-m", "poise.cluster.job", "one", *words]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True)


@pytest.mark.slow
def test_a_job_keeps_its_runs_where_they_are_found(tmp_path: Path) -> None:
    copy = tmp_path / "session" / "working_dir_files" / "copy"
    copy.mkdir(parents=True)
    done = job(copy, "0", "train", "PPO")
    assert "This is no job 'one' of a cluster" in done.stderr
    fill(tmp_path / "session", "logs/job-driver-one.log")
    done = job(copy, "0", "train", "PPO", "CartPole-v1", "--stop", "training_iteration=1",
               "--experiment", "e", "--name", "r")  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = tmp_path / "session" / "logs" / "one" / "e" / "r"
    assert (run / "checkpoints").is_dir()
    assert "Next:" not in done.stdout  # what may be typed here may not be typed there
    shutil.copytree(run, copy / ".poise" / "e" / "again")
    done = job(copy, "0", "resume", "e/again", "--stop", "training_iteration=2")
    assert "Resuming from iteration 1" in done.stdout
    assert (run.parent / "again" / "metrics.jsonl").read_text().count("\n") == 2


def test_a_limit_of_time_that_comes_before_training_ends_in_good_order(tmp_path: Path) -> None:
    fill(tmp_path, "logs/job-driver-one.log")
    (tmp_path / "copy").mkdir()
    done = job(tmp_path / "copy", "0.1", "train", "PPO", "CartPole-v1", "--stop",
               "timesteps_total=1000000000")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "The job's limit of 0.1 s is reached" in done.stdout
