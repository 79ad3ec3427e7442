"""Guards the package as it is installed.

A wheel with everything and nothing else, in an environment of its own.

The wheel sees torch and the other dependencies through a `.pth` file, so that nothing is downloaded
for it.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import yaml

from poise.install import install

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "poise").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_the_package_is_written_for_python_3_10(path: Path) -> None:
    ast.parse(path.read_text(), filename=str(path), feature_version=(3, 10))


def test_importing_poise_loads_nothing_heavy() -> None:
    code = (
        "import sys, poise; print(sorted({'torch', 'gymnasium', 'numpy', 'matplotlib', 'rich'} & "
        "set(sys.modules)))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert child.stdout == "[]\n", child.stdout + child.stderr


def test_every_public_name_is_there() -> None:
    import poise

    for name in poise.__all__:
        assert getattr(poise, name) is not None
    assert set(poise.__all__) <= set(dir(poise))
    with pytest.raises(AttributeError, match="no_such_name"):
        poise.no_such_name  # noqa: B018


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the repository with the build backend that is installed here."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    target = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(target),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = target.glob("*.whl")
    return made


@pytest.mark.slow
def test_the_source_distribution_holds_what_it_is_made_of_and_what_readme_shows(
    tmp_path: Path,
) -> None:
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    command = [
        sys.executable,
        "-m",
        "build",
        "--sdist",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(made) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {path.relative_to(ROOT).as_posix() for path in SOURCES} <= names
    tops = {name.partition("/")[0] for name in names}
    assert tops <= {"src", "docs", "examples", "benchmarks", "README.md", "CONTRIBUTING.md",
                    "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "PKG-INFO",
                    ".gitignore"}  # fmt: skip
    assert not [
        name
        for name in names
        if "__pycache__" in name or ".venv" in name or name.endswith((".pyc", ".so"))
    ]
    readme = (ROOT / "README.md").read_text()
    shown = {*re.findall(r'src="([^"]+)"', readme), *re.findall(r"\]\(([^):#]+)[^):]*\)", readme)}
    assert not {target for target in shown if target not in names and not (ROOT / target).is_dir()}


@pytest.mark.parametrize(
    ("direct", "command"),
    [
        (None, '"poise[plot]"'),
        ({"url": "file:///home/me/my%20poise", "dir_info": {"editable": True}},
         '-e "/home/me/my poise[plot]"'),
        ({"url": "file:///home/me/poise", "dir_info": {}}, '"/home/me/poise[plot]"'),
        ({"url": "file:///x/poise-0.1.0-py3-none-any.whl", "archive_info": {}},
         '"poise[plot] @ file:///x/poise-0.1.0-py3-none-any.whl"'),
        ({"url": "https://host/poise", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
         '"poise[plot] @ git+https://host/poise@abc"'),
    ],
)  # fmt: skip
def test_what_is_missing_is_installed_as_poise_was(
    direct: dict[str, object] | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return None if direct is None else json.dumps(direct)

    monkeypatch.setattr("poise.install.distribution", lambda name: Installed())
    monkeypatch.setattr("shutil.which", lambda name: str(Path(sys.executable).parent / name))
    assert install("plot") == f"pip install {command}"
    monkeypatch.setattr("shutil.which", lambda name: f"/elsewhere/{name}")
    assert install("plot") == f"{sys.executable} -m pip install {command}"


def test_every_message_about_an_extra_says_how_to_install_it() -> None:
    """There is one way to say it: no message names a package that the index does not have."""
    for path in SOURCES:
        if path.name != "install.py":
            assert "pip install 'poise" not in path.read_text(), path
            assert 'pip install "poise' not in path.read_text(), path


def test_nothing_is_installed_and_the_sources_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("poise.install.distribution", missing)
    assert install("tune").endswith(f'install -e "{ROOT}[tune]"')


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata_name,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(metadata_name).decode())
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "poise = poise.cli.main:main" in archive.read(entry_points).decode()
    assert {
        f"poise/{path.relative_to(ROOT / 'src' / 'poise').as_posix()}" for path in SOURCES
    } <= set(names)
    assert "poise/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"poise", metadata_name.split("/")[0]}
    assert not [name for name in names if "test" in name or "__pycache__" in name]
    assert [name for name in names if name.endswith("LICENSE")]
    assert wheel.name.endswith("-py3-none-any.whl")
    assert metadata["Requires-Python"] == ">=3.10"
    assert len(wheel.read_bytes()) < 1_000_000


@pytest.mark.slow
def test_the_wheel_trains_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    done = subprocess.run(install, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    where = [str(python), "-c", "import poise; print(poise.__file__)"]
    found = subprocess.run(where, capture_output=True, text=True, env=clean, cwd=tmp_path)
    assert found.stdout.strip() == str(site / "poise" / "__init__.py"), found.stdout + found.stderr
    command = [
        str(scripts / "poise"), "train", "PPO", "--env", "CartPole-v1", "--stop",
        "timesteps_total=4000", "--seed", "1", "--folder", str(tmp_path / "runs"), "--name", "r",
    ]  # fmt: skip
    trained = subprocess.run(
        command, capture_output=True, text=True, env=clean, cwd=tmp_path, timeout=200
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
    run = tmp_path / "runs" / "PPO_CartPole-v1" / "r"
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert (
        json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["timesteps_total"] >= 4000
    )


def test_the_version_is_said_once() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    written = re.search(r'^version = "(.+)"$', project, re.M)
    assert written is not None
    code = "import sys, poise; print(poise.__version__, 'torch' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert child.stdout == f"{written[1]} False\n", child.stdout + child.stderr
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    # What its schema requires.
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["cff-version"], citation["version"]) == ("1.2.0", written[1])
    assert f'license = "{citation["license"]}"' in project


def test_what_is_checked_before_a_commit_is_what_make_lint_checks() -> None:
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.M))
    assert {"ruff", "mypy"} <= set(pins)
    ruff, own = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert ruff["rev"] == f"v{pins['ruff']}"
    assert [hook["id"] for hook in ruff["hooks"]] == ["ruff-check", "ruff-format"]
    assert [hook["entry"] for hook in own["hooks"]] == [".venv/bin/mypy"]


def test_continuous_integration_runs_what_a_contributor_runs() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert [job["steps"][-1]["run"] for job in jobs.values()] == [".ci/run", "make test-fast"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
