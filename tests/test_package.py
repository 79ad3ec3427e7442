"""Guards the package as it is installed: a wheel with everything and nothing else, in an environment of its own.

The wheel sees torch and the other dependencies through a `.pth` file, so that nothing is downloaded for it.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "poise").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_the_package_is_written_for_python_3_10(path: Path) -> None:
    ast.parse(path.read_text(), filename=str(path), feature_version=(3, 10))


def test_importing_poise_loads_nothing_heavy() -> None:
    code = "import sys, poise; print(sorted({'torch', 'gymnasium', 'numpy', 'matplotlib', 'rich'} & set(sys.modules)))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert child.stdout == "[]\n", child.stdout + child.stderr


def test_every_public_name_is_there() -> None:
    import poise

    for name in poise.__all__:
        assert getattr(poise, name) is not None
    assert dir(poise) == sorted(poise.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        poise.no_such_name  # noqa: B018


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the repository with the build backend that is installed here."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = target.glob("*.whl")
    return made


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata_name,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(metadata_name).decode())
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "poise = poise.cli.main:main" in archive.read(entry_points).decode()
    assert {f"poise/{path.relative_to(ROOT / 'src' / 'poise').as_posix()}" for path in SOURCES} <= set(names)
    assert "poise/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"poise", metadata_name.split("/")[0]}
    assert not [name for name in names if "test" in name or "__pycache__" in name]
    assert [name for name in names if name.endswith("LICENSE")]
    assert wheel.name.endswith("-py3-none-any.whl")
    assert metadata["Requires-Python"] == ">=3.10"
    assert len(wheel.read_bytes()) < 500_000


@pytest.mark.slow
def test_the_wheel_trains_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    where = [str(python), "-c", "import poise; print(poise.__file__)"]
    found = subprocess.run(where, capture_output=True, text=True, env=clean, cwd=tmp_path)
    assert found.stdout.strip() == str(site / "poise" / "__init__.py"), found.stdout + found.stderr
    command = [
        str(scripts / "poise"), "train", "PPO", "--env", "CartPole-v1", "--stop", "timesteps_total=4000",
        "--seed", "1", "--folder", str(tmp_path / "runs"), "--name", "r",
    ]  # fmt: skip
    trained = subprocess.run(command, capture_output=True, text=True, env=clean, cwd=tmp_path, timeout=200)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    run = tmp_path / "runs" / "PPO_CartPole-v1" / "r"
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["timesteps_total"] >= 4000
