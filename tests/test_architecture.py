"""Guards the house plan.

Imports point one way, files stay small, nothing unsafe, and `import poise` is light.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import poise

SOURCE = Path(poise.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

ROOMS = [
    "errors",
    "startup",
    "install",
    "files",
    "children",
    "spaces",
    "learning",
    "config",
    "envs",
    "stepping",
    "models",
    "sampling",
    "algorithms",
    "training",
    "advice",
    "tracking",
    "cluster",
    "tuning",
    "tune",
    "checks",
    "exporting",
    "watch",
    "api",
    "poise",  # the package's own __init__
    "cli",
    "__main__",
    "compat",  # nothing imports it
]
"""From the lowest to the highest: a room may import itself and those before it."""

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "shelve", "marshal", "joblib"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "torch.load",
    "torch.save",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "np.load",
    "numpy.load",
    "os.system",
}


READS_WEIGHTS = "torch.load(io.BytesIO(content), map_location='cpu', weights_only=True)"
"""The one call of these that is allowed, for the files of another library: it makes only tensors,
with a reader that PyTorch keeps (DESIGN: the floor of torch has its known holes closed)."""


def room(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return "poise" if parts == ("__init__",) else parts[0]


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, at its top or anywhere else, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            module = str(node.module)
            if module == "poise":  # from poise import errors
                for alias in node.names:
                    inside = (SOURCE / alias.name).exists() or (
                        SOURCE / f"{alias.name}.py"
                    ).exists()
                    yield f"poise.{alias.name}" if inside else "poise", node.lineno
            else:
                yield module, node.lineno


def name_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "poise"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_imports_point_one_way(file: Path) -> None:
    mine = ROOMS.index(room(file))
    for module, line in imported(ast.parse(file.read_text())):
        if module.split(".")[0] == "poise" and room(file) != "poise":
            assert ROOMS.index(name_of(module)) <= mine, (
                f"{file}:{line} imports {module}, which is above it"
            )


def test_every_room_is_in_the_plan() -> None:
    assert {room(file) for file in FILES} <= set(ROOMS)
    assert {"config", "learning", "models", "sampling", "algorithms", "training"} <= {
        room(file) for file in FILES
    }


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_files_are_small_safe_and_say_what_they_are_for(file: Path) -> None:
    text = file.read_text()
    tree = ast.parse(text)
    assert text.count("\n") <= 450, f"{file} is too long"
    assert ast.get_docstring(tree), f"{file} does not say what it is for"
    for module, line in imported(tree):
        assert module.split(".")[0] not in FORBIDDEN_MODULES, f"{file}:{line} imports {module}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if file.name == "sb3_file.py" and ast.unparse(node) == READS_WEIGHTS:
                continue
            assert ast.unparse(node.func) not in FORBIDDEN_CALLS, (
                f"{file}:{node.lineno} calls {ast.unparse(node.func)}"
            )
            shell = [
                k for k in node.keywords if k.arg == "shell" and ast.unparse(k.value) != "False"
            ]
            assert not shell, f"{file}:{node.lineno} starts a shell"


def statements(text: str) -> int:
    """Logical lines that hold code, whose number no line break changes: without docstrings."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    documented = sum(
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for node in ast.walk(ast.parse(text))
    )
    return sum(token.type == tokenize.NEWLINE for token in tokens) - documented


BUDGETS = {
    "what trains": (12729, ROOMS[ROOMS.index("children") : ROOMS.index("advice")]),
    "checks": (1000, ["checks"]),
    "what is kept and shown": (
        3348,
        ["tracking", "api", "cli", "poise", "errors", "startup", "install", "files", "__main__"],
    ),
    "clusters": (2250, ["cluster"]),
    "export": (1060, ["exporting"]),
    "advice": (420, ["advice"]),
    "watch": (1700, ["watch"]),
    "searches": (1750, ["tuning", "tune"]),
    "old names": (6360, ["compat"]),
}
"""Statements that each part of the house may have, and its rooms.

What trains has 3,229 more than the plan gave it: what travels between machines, and where samplers
live (300); SAC and its relatives, which the plan did not count: critics, actions of all kinds as
they are learnt from, and goals that are relabelled (1,150); memory, many agents, and self-play
(1,690); what a policy makes of an observation, and weights of another (66);
schedules by name, and wrappers of the old API (17). What is said where a
run does not go as it should (`advice`) has a room of its own: reasons by name (270), and what was
said before. Clusters have 1,050 more: samplers and their faults take
what the plan gave, and clusters of one's own, their descriptions, jobs, and what is sent and
fetched as much again; the last 50 are that a run there ends by the error that it ends by here,
leaves to others what they hold, and that warnings of workers are heard. Searches have 50 more:
trials that run elsewhere. What is kept and shown has 648 more: `poise export` (40), `poise doctor`
(80), `poise play` (110): a seat, a board, and moves that are asked for; `poise watch` (30), whose
page has 700 in its own room; and loggers (289): threads that hold up nothing, and what four
services want to be told in their own ways; settings that change while a run trains (22); what a
policy does, which nothing kept before (54); and `poise serve` (22), which has 230 more beside the
live page, whose guard and sockets it shares.
Export has 560 more: the file that runs a policy in NumPy (100), C (260), and that every export is
compared with Poise, on episodes too (170). Old names
have 4,560 more: whole scripts of RLlib, Tune, Gym and Stable-Baselines3 run by their import lines,
where before single calls did; 2,220 of them are for RLlib's two eras and Tune, whose callbacks,
models, policies, analyses, schedulers and trials of functions scripts reach into, and 2,340 for
Gym's wrappers and Stable-Baselines3's vector environments, callbacks, logs and files."""


def test_the_package_is_small() -> None:
    parts = {name: part for part, (_, rooms) in BUDGETS.items() for name in rooms}
    size = dict.fromkeys(BUDGETS, 0)
    for file in FILES:
        size[parts[room(file)]] += statements(file.read_text())
    assert all(size[part] <= most for part, (most, _) in BUDGETS.items()), size


def test_only_workers_and_their_driver_pickle_code() -> None:
    """What a driver sends to its own children is the one thing that is ever unpickled."""
    users = {
        str(f.relative_to(SOURCE))
        for f in FILES
        if "cloudpickle" in dict(imported(ast.parse(f.read_text())))
    }
    assert users == {
        "cluster/actor.py",
        "cluster/learner.py",
        "cluster/learners.py",
        "cluster/samplers.py",
        "stepping/worker.py",
        "stepping/workers.py",
        "tuning/pool.py",
        "tuning/worker.py",
    }


def test_workers_import_nothing_heavy() -> None:
    assert (
        modules_after("import poise.stepping.worker")
        & {"torch", "rich", "click", "yaml", "safetensors"}
        == set()
    )


def modules_after(code: str) -> set[str]:
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code", ["import poise", "import poise; dir(poise); poise.ConfigError; poise.__all__"]
)
def test_importing_poise_loads_nothing_heavy(code: str) -> None:
    assert (
        modules_after(code)
        & {"torch", "gymnasium", "numpy", "rich", "click", "yaml", "safetensors"}
        == set()
    )


def test_reading_a_configuration_needs_no_torch() -> None:
    code = "from poise.config.resolve import resolve; resolve('PPO', 'CartPole-v1', {'lr': 0.1})"
    assert modules_after(code) & {"torch", "gymnasium", "numpy"} == set()


def test_spaces_and_mathematics_keep_to_themselves() -> None:
    assert "torch" not in modules_after("import poise.spaces.layout")
    assert "gymnasium" not in modules_after("import poise.learning.returns, poise.learning.losses")


def test_every_public_name_exists() -> None:
    for name in poise.__all__:
        assert getattr(poise, name) is not None
    assert sorted(poise.__all__) == sorted(set(poise.__all__))
    with pytest.raises(AttributeError, match="has no attribute 'DQNN'"):
        poise.DQNN  # noqa: B018


def test_the_page_of_the_architecture_shows_what_is_there() -> None:
    """Its rooms are those of the plan; what it names is defined in the file that it links to."""
    root = SOURCE.parents[1]
    page = (root / "docs" / "architecture.md").read_text()
    rooms = [name for name in reversed(ROOMS) if (SOURCE / name).is_dir()]
    assert re.findall(r"^\| `(\w+)/` \|", page, re.M) == rooms
    links = re.findall(r"\[`([\w.]+)`\]\(\.\./(src/[\w/]+\.py)\)", page)
    assert len(links) > 30
    for name, file in links:
        for part in name.split("."):
            text = (root / file).read_text()
            assert re.search(rf"^\s*(def|class) {part}\b", text, re.M), f"{file} has no {part}"
