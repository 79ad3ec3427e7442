"""Damaged and hostile run folders, against everything that reads one."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from benchmarks.fuzz.common import SilentError, Step, command
from safetensors.torch import load_file, save_file

import poise

ABOUT = "damaged run folders"
CASES = 1000

ITERATIONS = 4
SMALL: dict[str, dict[str, Any]] = {
    "PPO": {
        "num_envs_per_worker": 4,
        "rollout_fragment_length": 32,
        "num_sgd_iter": 1,
        "normalize_rewards": True,
    },
    "DQN": {
        "num_envs_per_worker": 1,
        "buffer_size": 2_000,
        "timesteps_per_iteration": 200,
        "learning_starts": 50,
    },
}
TARGETS = {
    "config.json": 2,
    "status.json": 2,
    "metrics.jsonl": 1,
    "episodes.csv": 1,
    "manifest.json": 3,
    "state.json": 3,
    "policy.safetensors": 2,
    "training.safetensors": 3,
}
"""Files that are damaged, and how often."""

VALUES = [
    *(
        "null",
        "true",
        "0",
        "-1",
        "3",
        "1.5",
        "1e400",
        "NaN",
        "-Infinity",
        "1e308",
        "1" + "0" * 40,
        "1" + "0" * 5000,
    ),
    *(
        '""',
        '"nan"',
        '"latest"',
        '"../../x"',
        '"[/]"',
        r'"$\\frac{$"',
        r'"\u0000"',
        r'"\ud800"',
        f'"{"A" * 5000}"',
    ),
    *("[]", "{}", "[1, 2]", '{"a": 1}', "[" * 2000 + "]" * 2000, '"\\u001b[2J\\u001b]0;x\\u0007"'),
    *(
        '"$segment"',
        '{"$array": "x"}',
        '{"$tensor": "x"}',
        '{"$segment": "policy.safetensors"}',
        '{"$array": [1]}',
    ),
    *("[8000, 8000, 8000]", "[1000000, 1000000]", "100000000000"),
]
"""What a value in a JSON file is replaced by."""


def prepare(work: Path) -> list[Path]:
    """Short runs, whole."""
    torch.set_num_threads(1)
    made = []
    for algorithm, settings in SMALL.items():
        run = poise.run(
            algorithm,
            "CartPole-v1",
            preset=None,
            stop={"training_iteration": ITERATIONS},
            folder=work,
            experiment=algorithm,
            name="run",
            checkpoint_freq=2,
            tensorboard=False,
            seed=0,
            quiet=True,
            **settings,
        )
        run.trainer.close()
        made.append(Path(run.path))
    return made


def case(rng: random.Random, base: list[Path], work: Path) -> Iterator[Step]:
    source = rng.choice(base)
    run = work / "runs" / source.parent.name / source.name
    shutil.copytree(source, run)
    checkpoint = max((run / "checkpoints").iterdir())
    target = rng.choices(list(TARGETS), list(TARGETS.values()))[0]
    file = run / target if (run / target).exists() else checkpoint / target
    what = f"{target} of {source.parent.name}: {damage(file, rng)}"
    if file.parent == checkpoint and target != "manifest.json" and file.exists():
        vouch_for(file)
    goal = f"training_iteration={ITERATIONS + 2}"
    runs = str(run.parent.parent)
    if file.parent == checkpoint:
        yield Step("load", what, lambda: load(checkpoint))
        yield Step("evaluate", what, command("evaluate", str(run), "--episodes", "1"))
    else:
        yield Step("runs", what, command("runs", "--folder", runs))
        yield Step("plot", what, command("plot", str(run), "--out", str(work / "plot.png")))
    yield Step("resume", what, command("resume", str(run), "--stop", goal), lambda: went_on(run))


def load(checkpoint: Path) -> None:
    """Acts, trains and saves."""
    with poise.load(checkpoint) as trainer:
        trainer.compute_action(trainer.policy.obs_layout.space.sample())
        trainer.train()
        trainer.save(checkpoint.parent / "again")


def went_on(run: Path) -> None:
    """A resumed run has reached its goal, in whole and rising lines."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    iterations = [line["training_iteration"] for line in lines]
    if iterations != sorted(set(iterations)) or iterations[-1] < ITERATIONS + 2:
        raise SilentError(f"The iterations in metrics.jsonl are {iterations}.")


# --- damage ---------------------------------------------------------------------------------------


def damage(file: Path, rng: random.Random) -> str:
    """Damages a file; says how."""
    if rng.random() < 0.25:
        return _damage_bytes(file, rng)
    if file.suffix == ".safetensors":
        return _damage_tensors(file, rng)
    if file.suffix == ".json":
        text, how = _damaged_json(file.read_text(), rng)
        file.write_text(text)
        return how
    lines = file.read_text().splitlines()
    at = rng.randrange(len(lines))
    if file.suffix == ".jsonl":
        lines[at], how = _damaged_json(lines[at], rng)
    else:
        how = rng.choice(
            ["1,2,3", "nan,nan,nan,nan", "1e400,x,,", "-5,-5,-5,-5", "9" * 400 + ",1,1,1"]
        )
        lines[at] = how
    file.write_text("\n".join(lines) + "\n")
    return f"line {at}: {how}"


def _damage_bytes(file: Path, rng: random.Random) -> str:
    whole = file.read_bytes()
    at = rng.randrange(len(whole) + 1)
    flipped = bytearray(whole)
    for _ in range(3):
        flipped[rng.randrange(len(whole))] = rng.randrange(256)
    ways: dict[str, Callable[[], bytes]] = {
        f"cut at {at}": lambda: whole[:at],
        f"zeros from {at}": lambda: whole[:at] + b"\0" * (len(whole) - at),
        "empty": lambda: b"",
        "three bytes changed": lambda: bytes(flipped),
        "deep lists": lambda: b"[" * 200_000,
        "deep mappings": lambda: b'{"a":' * 100_000,
        "another value": lambda: rng.choice([b"5", b"[]", b"null", b'"x"', b"{}", b'[["a", 1]]']),
        "a byte order mark": lambda: b"\xef\xbb\xbf" + whole,
        "UTF-16": lambda: whole.decode(errors="replace").encode("utf-16"),
    }
    way = rng.choice([*ways, "deleted"])
    file.unlink()  # a new file: the old one may have other names
    if way != "deleted":
        file.write_bytes(ways[way]())
    return way


def _damaged_json(text: str, rng: random.Random) -> tuple[str, str]:
    """JSON with some of its values replaced or left out, and which."""
    whole = json.loads(text)
    done = []
    for _ in range(rng.choice([1, 1, 1, 3])):
        places = [place for place in _places(whole) if place]
        if not places:
            break
        *path, last = rng.choice(places)
        owner = whole
        for key in path:
            owner = owner[key]
        name = "/".join(map(str, (*path, last)))
        if rng.random() < 0.2:
            del owner[last]
            done.append(f"without {name}")
        else:
            number = rng.randrange(len(VALUES))
            owner[last] = f"@{number}@"
            done.append(f"{name}={VALUES[number][:30]}")
    damaged = json.dumps(whole)
    for number, value in enumerate(VALUES):
        damaged = damaged.replace(f'"@{number}@"', value)
    return damaged, ", ".join(done)


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _places(item, (*place, key))
    elif isinstance(value, list):
        for i, item in enumerate(value[:5]):
            yield from _places(item, (*place, i))


def _damage_tensors(file: Path, rng: random.Random) -> str:
    tensors = load_file(file)
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    whole = not tensor.is_floating_point()
    unsigned = tensor.dtype in (torch.bool, torch.uint8)
    another = torch.int8 if tensor.dtype == torch.float64 else torch.float64
    extreme = 1 if tensor.dtype == torch.bool else 100 if whole else float("nan")
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "empty": lambda: torch.zeros(0),
        "shorter": lambda: tensor.reshape(-1)[:-1].clone(),
        "of another type": lambda: tensor.to(another),
        "out of range": lambda: torch.full_like(tensor, extreme),
        "negative": lambda: tensor if unsigned else torch.full_like(tensor, -1),
    }
    way = rng.choice([*ways, "missing", "beside another"])
    if way == "missing":
        del tensors[name]
    elif way == "beside another":
        tensors["extra"] = torch.zeros(3)
    else:
        tensors[name] = ways[way]()
    file.unlink()
    save_file(tensors, file)
    return f"{name} {way}"


def vouch_for(file: Path) -> None:
    """Writes a file's hash into its manifest: damage by somebody who knows the format."""
    manifest = file.parent / "manifest.json"
    listed = json.loads(manifest.read_text())
    content = file.read_bytes()
    listed["files"][file.name] = {
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    manifest.write_text(json.dumps(listed))
