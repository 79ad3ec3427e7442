"""The documentation is run.

Every Python block, every command, every link, every generated table, every example.

What a page may say to this test, in HTML comments just before a block:

    <!-- not run: reason -->    the block is shown only
    <!-- file: NAME -->         the block is written to NAME, where the page's other blocks run
    <!-- output -->             the block is exactly what the block before it prints
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import poise
import warm
from many_agents import Turns
from poise.config.algorithms import ALGORITHMS
from poise.stepping.advice import CORES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROSE = [
    *PAGES,
    *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "examples/README.md")),
]
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
OF_PROOF = [ROOT / "examples" / "cluster_pong" / "cluster_pong.py"]
"""What `make test` leaves out: the article's notebook, which it runs, does the same."""

SLOW_PYTHON = {
    *(
        "README.md",
        "quickstart.md",
        "callbacks.md",
        "continuous-control.md",
        "environments.md",
        "how-do-i.md",
    ),
    *("models.md", "runs.md", "tuning.md"),
}
"""Pages whose Python blocks train for more than a moment."""

_BLOCK = re.compile(
    r"(?:^<!-- (not run|file|output)(?:: ([^\n]*))? -->\n)?^```(\w*)\n(.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_LINK = re.compile(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"")
_SEPARATOR = "\x1e"


@dataclass
class Block:
    """A fenced block of a page; `line` is that of its first line of code, from 1."""

    language: str
    text: str
    line: int
    mark: str
    note: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            found[3],
            found[4],
            text[: found.start(4)].count("\n") + 1,
            found[1] or "",
            found[2] or "",
        )
        for found in _BLOCK.finditer(text)
    ]


def commands(block: Block) -> list[str]:
    """The lines of a shell block that begin with `poise`, continued lines joined."""
    lines = re.sub(r"\\\n\s*", " ", block.text).splitlines()
    return [
        line.removeprefix("$ ").split("   #")[0]
        for line in lines
        if re.match(r"(\$ )?poise\b", line)
    ]


def is_python(block: Block) -> bool:
    return block.language == "python" and block.mark == ""


def is_shell(block: Block) -> bool:
    return block.language in ("bash", "console") and block.mark == "" and bool(commands(block))


def write_files(page: Path, folder: Path) -> None:
    for block in blocks(page):
        if block.mark == "file":
            (folder / block.note).write_text(block.text)


def environment() -> dict[str, str]:
    """That of a user in a pipe with a wide screen, and one core: the other has the other test."""
    one = {"OMP_NUM_THREADS": "1", CORES: "1"}
    return {**os.environ, **one, "COLUMNS": "100", "PYTHONWARNINGS": "ignore", "MPLBACKEND": "agg"}


def python(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGS` in a process of its own."""
    command = [sys.executable, *args]
    return warm.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=280
    )


def script(name: str) -> ModuleType:
    """One of the programs that write documentation."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def python_pages() -> list:
    found = [page for page in PAGES if any(is_python(block) for block in blocks(page))]
    return [
        pytest.param(
            page, id=page.name, marks=[pytest.mark.slow] if page.name in SLOW_PYTHON else []
        )
        for page in found
    ]


@pytest.mark.parametrize("page", python_pages())
def test_python_blocks(page: Path, tmp_path: Path) -> None:
    """All blocks of a page are one script; its lines are numbered as on the page."""
    write_files(page, tmp_path)
    lines = [""] * page.read_text().count("\n")
    runs = [block for block in blocks(page) if is_python(block)]
    for block in runs:
        lines[block.line - 2] = f"print({_SEPARATOR!r}, end='')"
        lines[block.line - 1 : block.line - 1 + block.text.count("\n")] = block.text.splitlines()
    script = tmp_path / f"{page.stem}_page.py"
    script.write_text("\n".join(lines) + "\n")
    done = python(tmp_path, script.name)
    assert done.returncode == 0, done.stderr
    printed = dict(
        zip([block.line for block in runs], done.stdout.split(_SEPARATOR)[1:], strict=True)
    )
    for before, block in zip(blocks(page), blocks(page)[1:], strict=False):
        if block.mark == "output" and is_python(before):
            assert printed[before.line].strip() == block.text.strip(), (
                f"{page.name}, line {block.line}"
            )


def shell_pages() -> list[Path]:
    """Pages with commands that the README does not have, or with what a command prints.

    The README is run, too.
    """
    seen = {line for block in blocks(PAGES[0]) if is_shell(block) for line in commands(block)}
    found = PAGES[:1]
    for page in PAGES[1:]:
        for block, after in zip(blocks(page), [*blocks(page)[1:], None], strict=False):
            shown = after is not None and after.mark == "output"
            if (
                is_shell(block)
                and page not in found
                and (shown or not set(commands(block)) <= seen)
            ):
                found.append(page)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("page", shell_pages(), ids=lambda page: page.name)
def test_commands(page: Path, tmp_path: Path) -> None:
    """The commands of a page run one after the other in one folder."""
    write_files(page, tmp_path)
    expected = {
        a.line: b
        for a, b in zip(blocks(page), blocks(page)[1:], strict=False)
        if b.mark == "output"
    }
    for block in filter(is_shell, blocks(page)):
        printed = ""
        for line in commands(block):
            words = list(shlex.shlex(line, posix=True, punctuation_chars=True))
            assert not any(set(word) <= set("|&;<>") for word in words), f"{line} needs a shell"
            done = python(tmp_path, "-m", *shlex.split(line))
            printed += done.stdout + done.stderr
            if block.line not in expected:  # a block whose output is shown may show an error
                assert done.returncode == 0, (
                    f"{page.name}, line {block.line}: {line}\n{done.stdout}{done.stderr}"
                )
        if block.line in expected:
            assert printed.strip() == expected[block.line].text.strip(), (
                f"{page.name}, line {block.line}"
            )


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    """Relative links lead to files and, where they name one, to headings."""
    for found in _LINK.finditer(page.read_text()):
        target, _, heading = (found[1] or found[2]).partition("#")
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if heading:
            there = re.findall(
                r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", file.read_text(), flags=re.M | re.S), re.M
            )
            anchors = {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in there}
            assert heading in anchors, f"{page.name} links to {target}#{heading}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_marked_blocks_say_why(page: Path) -> None:
    for block in blocks(page):
        assert block.mark not in ("not run", "file") or block.note, (
            f"{page.name}, line {block.line}"
        )
        assert block.mark != "" or block.language, (
            f"{page.name}, line {block.line}: a block without a language"
        )


def test_generated_tables_are_current() -> None:
    assert not names(list(script("generate").stale())), "run `python docs/generate.py`"


def test_all_pages_are_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    missing = [
        page.name for page in PAGES[1:] if page.name != "index.md" and f"({page.name})" not in index
    ]
    assert not missing


def test_every_public_name_is_documented() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert not [name for name in poise.__all__ if f"poise.{name}" not in text]


def test_every_result_key_is_in_the_glossary() -> None:
    glossary = set(re.findall(r"^\| `([^`]+)`", (ROOT / "docs" / "callbacks.md").read_text(), re.M))
    keys: set[str] = set()
    for name in ALGORITHMS:
        with poise.make_trainer(
            name,
            "Pendulum-v1" if name in ("TD3", "DDPG") else "CartPole-v1",
            progress=False,
            evaluation_interval=1,
            num_envs=2,
        ) as trainer:
            keys |= set(trainer.learn(1))
    with poise.PPO(
        lambda config: Turns([("a", {"a": 1.0}), ("b", {"a": -1.0})]),
        opponents=True,
        num_envs=2,
        n_steps=16,
        progress=False,
    ) as trainer:
        keys |= {key for key in trainer.train() if key.startswith("selfplay/")}
    assert not sorted(keys - glossary), "these are not in the glossary"
    placeholders = {key for key in glossary if "<" in key}
    assert not sorted(key for key in glossary - keys - placeholders if "/" in key), (
        "these are not in results"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "example",
    [pytest.param(path, marks=pytest.mark.proof if path in OF_PROOF else []) for path in EXAMPLES],
    ids=[str(path.relative_to(ROOT / "examples")) for path in EXAMPLES],
)
def test_examples(example: Path, tmp_path: Path) -> None:
    assert len(example.read_text().splitlines()) < 60
    for file in example.parent.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    done = python(tmp_path, example.name)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_example_of_a_configuration_file(tmp_path: Path) -> None:
    done = python(
        tmp_path,
        "-m",
        "poise",
        "train",
        "--config",
        str(ROOT / "examples" / "config.yaml"),
        "--quiet",
    )
    assert done.returncode == 0, done.stdout + done.stderr
