"""Guards checkpoints.

What goes in comes out, nothing in them is executed, damage is named, writing is all or nothing.

Every refusal is one `CheckpointError` whose single sentence names the path; in a run folder, the
checkpoint before a damaged one is used, with a warning.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import pickle
import pickletools
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import poise
import warm
from poise.algorithms.ppo import PPO
from poise.errors import CheckpointError, ConfigError, ModelError, RunError
from poise.learning.learner import Learner
from poise.tracking import launch
from poise.training import checkpoint
from poise.training.trainer import Trainer

FILES = ("policy.safetensors", "training.safetensors", "state.json", "manifest.json")
SMALL = {
    "preset": None,
    "num_envs_per_worker": 4,
    "rollout_fragment_length": 16,
    "num_sgd_iter": 2,
    "model": {"fcnet_hiddens": [8]},
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a PPO that has trained a little; tests copy it before they damage it."""
    path = tmp_path_factory.mktemp("original") / "saved"
    with poise.PPO("CartPole-v1", seed=3, progress=False, normalize_rewards=True, **SMALL) as algo:
        for _ in range(3):
            algo.train()
        return algo.save(path)


@pytest.fixture
def saved(original: Path, tmp_path: Path) -> Path:
    """A copy of that checkpoint, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "saved"))


def refusal(path: Path) -> str:
    """The sentence with which `poise.load` refuses `path`, which must be one line that names it."""
    with pytest.raises(CheckpointError) as caught:
        poise.load(path)
    text = str(caught.value)
    assert "\n" not in text, text
    assert str(path) in text, text
    assert text.endswith((".", "it.")), text
    return text


def same(a: Any, b: Any) -> bool:
    """Equal in value, type and bits, through all nesting."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        equal = isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape
        return equal and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and bool(a == b)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` and its content."""
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()
    }


def rehash(path: Path, **manifest: Any) -> None:
    """Makes the manifest agree with the files again, as somebody who forges a checkpoint would."""
    about = json.loads((path / "manifest.json").read_text())
    for name in about["files"]:
        data = (path / name).read_bytes()
        about["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_text(json.dumps({**about, **manifest}))


# --- round trip -----------------------------------------------------------------------------------


def test_every_kind_of_value_comes_back(tmp_path: Path) -> None:
    number_types = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "?"]
    state = {
        "arrays": {name: np.arange(6).reshape(2, 3).astype(name) for name in number_types},
        "tensors": {
            str(t): torch.tensor([[0.5, -2.0], [3.0, 1.5]]).to(t)
            for t in (torch.float64, torch.bfloat16, torch.int8)
        },
        "scalar array": np.array(7.25),
        "empty": {
            "array": np.zeros((0, 3)),
            "tensor": torch.zeros(0),
            "list": [],
            "dict": {},
            "text": "",
        },
        "Fortran order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "transposed": {
            "array": np.arange(6.0).reshape(2, 3).T,
            "tensor": torch.arange(6.0).view(2, 3).t(),
        },
        "not this machine's byte order": np.arange(3).astype(">f4"),
        "strided": np.arange(10)[::3],
        "not finite": {
            "array": np.array([np.nan, np.inf, -np.inf]),
            "numbers": [math.nan, math.inf, -math.inf],
        },
        "plain": [None, True, False, 0, -1, 2**127, 0.1, 5e-324, 1e308, "a text: ü, \u2028, \n"],
        "nested": [[{"a": [np.array([1, 2])]}, torch.tensor(3)], {"b": {"c": np.float32(0.5)}}],
        "generator": np.random.Generator(np.random.MT19937(5)).bit_generator.state,
        "pcg": np.random.default_rng(5).bit_generator.state,
        "torch generator": torch.Generator().manual_seed(5).get_state(),
    }
    policy = {
        "weight": torch.randn(3, 4),
        "count": torch.tensor(4.0, dtype=torch.float64),
        "shared": torch.ones(2),
    }
    policy["view"] = policy["weight"][:, ::2]  # neither contiguous nor storage of its own
    checkpoint.write(
        tmp_path / "all",
        {"one": policy, "two": {"w": policy["shared"]}},
        state,
        {"algorithm": "PPO", "note": "kept"},
    )
    manifest, read_policy, read_state = checkpoint.read(tmp_path / "all")
    assert same({"one": policy, "two": {"w": policy["shared"]}}, read_policy)
    changed = {"nested": None, "not this machine's byte order": np.arange(3).astype("=f4")}
    assert same({**state, **changed}, {**read_state, "nested": None})
    nested = read_state["nested"]  # numpy's scalars come back as Python's numbers
    assert same(nested, [[{"a": [np.array([1, 2])]}, torch.tensor(3)], {"b": {"c": 0.5}}])
    assert (manifest["format"], manifest["note"]) == (checkpoint.FORMAT, "kept")


def test_names_with_slashes_do_not_collide(tmp_path: Path) -> None:
    state = {"a/b": np.array([1.0]), "a": {"b": np.array([2.0])}}
    checkpoint.write(tmp_path / "c", {"one": {"a/b": torch.ones(1)}}, state, {})
    assert same(checkpoint.read(tmp_path / "c")[1:], ({"one": {"a/b": torch.ones(1)}}, state))


@pytest.mark.parametrize(
    "value", [{1, 2}, object(), np.array([{}, None]), np.array(["text"]), b"bytes", 1 + 2j]
)
def test_what_it_cannot_hold_is_said_with_its_place(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match="samplers/0/env") as caught:
        checkpoint.write(tmp_path / "c", {}, {"samplers": [{"env": value}]}, {})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_saved_is_what_is_loaded(original: Path, tmp_path: Path) -> None:
    """A loaded trainer saves the same bytes again."""
    with poise.load(original) as algo:
        assert repr(algo).startswith("<PPO on CartPole-v1: 3 iterations")
        again = algo.save(tmp_path / "again")
    assert same(checkpoint.read(original)[1:], checkpoint.read(again)[1:])


def test_the_manifest_says_what_it_is_of(original: Path) -> None:
    manifest = checkpoint.verify(original)
    assert manifest["format"] == checkpoint.FORMAT
    assert (manifest["algorithm"], manifest["env"], manifest["iteration"]) == (
        "PPO",
        "CartPole-v1",
        3,
    )
    assert manifest["resume_grade"] == "bitwise"
    assert 0 < manifest["timesteps_total"] <= 3 * 64
    assert manifest["action_space"] == {"type": "Discrete", "n": 2, "start": 0}
    assert manifest["observation_space"]["shape"] == [4]
    assert manifest["config"]["seed"] == 3
    assert sorted([*manifest["files"], "manifest.json"]) == sorted(FILES) == sorted(tree(original))
    for name, expected in manifest["files"].items():
        data = (original / name).read_bytes()
        assert expected == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


# --- no pickle ------------------------------------------------------------------------------------


def looks_like_pickle(data: bytes) -> bool:
    """Whether bytes can be read as a pickle, or hold the frame of one, or of a zip archive."""
    if b"PK\x03\x04" in data or any(b"\x80" + bytes([v]) + b"\x95" in data for v in (3, 4, 5)):
        return True
    try:
        list(pickletools.genops(data))
    except Exception:
        return False
    return True


def test_no_file_of_a_checkpoint_is_a_pickle(original: Path) -> None:
    assert looks_like_pickle(pickle.dumps({"a": 1}))  # the detector detects
    for name, data in tree(original).items():
        assert not looks_like_pickle(data), name
        if name.endswith(".json"):
            json.loads(data)
        else:
            load_file(original / name)


def test_loading_never_unpickles(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(torch, "load", forbidden)
    monkeypatch.setattr(pickle, "load", forbidden)
    monkeypatch.setattr(pickle, "loads", forbidden)
    with poise.load(original) as algo:
        algo.train()


class Bomb:
    """Unpickling it makes a file: evidence that something was executed."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.evidence), "w"))


def test_a_pickle_file_is_refused_unopened(tmp_path: Path) -> None:
    file, evidence = tmp_path / "policy.pkl", tmp_path / "evidence"
    file.write_bytes(pickle.dumps(Bomb(evidence)))
    assert "never loads pickles" in refusal(file)
    assert not evidence.exists()


@pytest.mark.parametrize("name", FILES[:3])
def test_a_folder_with_a_pickle_dressed_as_its_file_is_refused(
    saved: Path, tmp_path: Path, name: str
) -> None:
    evidence = tmp_path / "evidence"
    (saved / name).write_bytes(pickle.dumps(Bomb(evidence)))
    rehash(saved)
    refusal(saved)
    torch.save({"a": Bomb(evidence)}, saved / name)
    rehash(saved)
    refusal(saved)
    assert not evidence.exists()


# --- damage ---------------------------------------------------------------------------------------


def flip(file: Path) -> None:
    """Changes one bit in the middle of a file, where only its hash tells."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def remove(file: Path) -> None:
    file.unlink()


DAMAGES: list[Callable[[Path], None]] = [flip, truncate, empty, remove]


@pytest.mark.parametrize("name", FILES[:3])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(saved: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(saved / name)
    assert repr(name) in refusal(saved)


@pytest.mark.parametrize("damage", [truncate, empty, remove])
def test_a_damaged_manifest_is_named(saved: Path, damage: Callable[[Path], None]) -> None:
    damage(saved / "manifest.json")
    assert "manifest.json" in refusal(saved)


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "{}",
        "null",
        '{"format": 1}',
        '{"format": "1", "files": {}}',
        '{"format": 1, "files": []}',
        '{"format": 1, "files": {}}',
        '{"format": 1, "files": {"state.json": 5}}',
        '{"format": 1, "files": {"state.json": {"size": 3}}}',
        "\xff\xfe",
    ],
)
def test_an_unreadable_manifest_is_refused(saved: Path, text: str) -> None:
    (saved / "manifest.json").write_bytes(text.encode("latin-1"))
    refusal(saved)


@pytest.mark.parametrize("key", ["algorithm", "config", "observation_space", "action_space"])
def test_a_manifest_that_lacks_something_is_refused(saved: Path, key: str) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    del manifest[key]
    (saved / "manifest.json").write_text(json.dumps(manifest))
    assert key in refusal(saved)


def test_a_future_format_asks_for_an_upgrade(saved: Path) -> None:
    rehash(saved, format=checkpoint.FORMAT + 1)
    assert "upgrade" in refusal(saved)


@pytest.mark.parametrize("outside", ["../secret", "/etc/hostname", "sub/../../secret", "..", "."])
def test_a_manifest_that_names_a_file_outside_the_folder_is_refused(
    saved: Path, tmp_path: Path, outside: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not a checkpoint's")
    manifest = json.loads((saved / "manifest.json").read_text())
    data = secret.read_bytes()
    manifest["files"][outside] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (saved / "manifest.json").write_text(json.dumps(manifest))
    refusal(saved)


def test_a_file_that_the_manifest_does_not_vouch_for_is_not_read(saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    del manifest["files"]["policy.safetensors"]
    (saved / "manifest.json").write_text(json.dumps(manifest))
    assert "policy.safetensors" in refusal(saved)


def test_what_is_not_a_checkpoint_is_said_so(tmp_path: Path) -> None:
    assert "no checkpoint" in refusal(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    assert "not a checkpoint" in refusal(tmp_path / "folder")


def test_a_state_that_is_none_is_refused(saved: Path) -> None:
    for text in (
        "[]",
        "{}",
        '{"learner": {"$tensor": "no such"}}',
        '{"learner": {}, "samplers": []}',
    ):
        (saved / "state.json").write_text(text)
        rehash(saved)
        refusal(saved)


def change_dtype(policy: dict[str, torch.Tensor], name: str) -> None:
    policy[name] = policy[name].double()


def change_shape(policy: dict[str, torch.Tensor], name: str) -> None:
    policy[name] = torch.cat([policy[name], policy[name]])


def leave_out(policy: dict[str, torch.Tensor], name: str) -> None:
    del policy[name]


@pytest.mark.parametrize("change", [change_dtype, change_shape, leave_out])
def test_parameters_that_do_not_fit_are_one_sentence(
    saved: Path, change: Callable[[dict[str, torch.Tensor], str], None]
) -> None:
    policy = load_file(saved / "policy.safetensors")
    name = next(n for n, value in policy.items() if value.dtype == torch.float32)
    change(policy, name)
    save_file(policy, saved / "policy.safetensors")
    rehash(saved)
    assert name.removeprefix("policies/default/") in refusal(saved)


def test_a_run_falls_back_to_the_checkpoint_before(original: Path, tmp_path: Path) -> None:
    inside = tmp_path / "run" / "checkpoints"
    for iteration in (9, 10, 11):  # 10 after 9: by number, not by name
        shutil.copytree(original, inside / str(iteration))
        rehash(inside / str(iteration), iteration=iteration)
    assert checkpoint.newest(inside) == (inside / "11", [])
    flip(inside / "11" / "policy.safetensors")
    remove(inside / "10" / "manifest.json")
    with (
        pytest.warns(UserWarning, match="9 is used instead") as caught,
        poise.load(tmp_path / "run") as algo,
    ):
        assert algo.iteration == 3
    texts = [str(warning.message) for warning in caught]
    assert [str(inside / "11") in texts[0], str(inside / "10") in texts[1]] == [True, True]
    assert checkpoint.newest(inside)[0] == inside / "9"
    empty(inside / "9" / "state.json")
    sentence = refusal(tmp_path / "run")
    assert "no intact checkpoint" in sentence
    assert sentence.count("is damaged") + sentence.count("no manifest") == 3, sentence


# --- writing --------------------------------------------------------------------------------------


def test_saving_over_a_checkpoint_replaces_it_whole(
    trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    algo = trainer("PPO", "CartPole-v1", **SMALL)
    path = algo.save(tmp_path / "a" / "saved")  # parents are made
    before = tree(path)
    (path / "left over").write_text("of the old one")
    algo.train()
    algo.save(path)
    assert checkpoint.verify(path)["iteration"] == 1
    assert tree(path).keys() == before.keys()
    assert [p.name for p in path.parent.iterdir()] == ["saved"]


def test_a_folder_that_is_no_checkpoint_is_never_replaced(
    trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    algo = trainer("PPO", "CartPole-v1", **SMALL)
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("years of work")
    for target in (precious, precious / "chapter.txt"):
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            algo.save(target)
    assert tree(tmp_path) == {"thesis/chapter.txt": b"years of work"}
    assert [p.name for p in tmp_path.iterdir()] == ["thesis"]


def fail(*args: Any, **kwargs: Any) -> Any:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("call", ["save_file", "os.fsync", "os.rename", "Path.write_text"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_write_that_fails_leaves_the_old_checkpoint(
    trainer: Callable[..., Trainer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    nth: int,
) -> None:
    algo = trainer("PPO", "CartPole-v1", **SMALL)
    path = algo.save(tmp_path / "saved")
    before = tree(tmp_path)
    algo.train()
    owner, name = {
        "save_file": (checkpoint, "save_file"),
        "os.fsync": (os, "fsync"),
        "os.rename": (os, "rename"),
        "Path.write_text": (Path, "write_text"),
    }[call]
    real, calls = getattr(owner, name), []

    def sometimes(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return fail() if len(calls) == nth else real(*args, **kwargs)

    monkeypatch.setattr(owner, name, sometimes)
    with pytest.raises(RunError, match=r"cannot be written: .*No space left"):
        algo.save(path)
    monkeypatch.undo()
    assert len(calls) >= nth
    assert tree(tmp_path) == before
    assert checkpoint.verify(path)["iteration"] == 0
    assert algo.save(path) == path  # and the next attempt succeeds
    assert checkpoint.verify(path)["iteration"] == 1


def test_everything_is_flushed_before_it_is_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and folder are fsynced before the rename, the parent after; the manifest is last."""
    events: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(descriptor: int) -> None:
        events.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def noted_rename(source: Any, target: Any) -> None:
        times = {f.name: f.stat().st_mtime_ns for f in Path(source).iterdir()}
        assert times["manifest.json"] == max(times.values())
        events.append(("rename", Path(target).name))
        rename(source, target)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to see which files are flushed")
    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    checkpoint.write(tmp_path / "c", {"one": {"w": torch.ones(1)}}, {}, {})
    at = events.index(("rename", "c"))
    flushed = [name for _, name in events[:at]]
    assert set(FILES) < set(flushed)
    assert any(name.startswith(".tmp-") for name in flushed)
    assert events[at + 1 :] == [("fsync", tmp_path.name)]


TOO_SMALL = """
    import resource, sys
    from pathlib import Path
    import poise

    path = Path(sys.argv[1])
    algo = poise.PPO("CartPole-v1", preset=None, seed=0, progress=False, num_envs_per_worker=4)
    algo.save(path)
    algo.train()
    for name in ("policy.safetensors", "training.safetensors", "state.json", "manifest.json"):
        limit = (path / name).stat().st_size // 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            algo.save(path)
        except poise.RunError as error:
            print("refused", [p.name for p in path.parent.iterdir()])
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of files")
def test_a_disk_that_is_too_small_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    """The operating system cuts writes short, also inside the library that writes tensors."""
    path = tmp_path / "saved"
    code = [sys.executable, "-c", textwrap.dedent(TOO_SMALL), str(path)]
    child = warm.run(code, capture_output=True, text=True, timeout=120)
    assert child.stdout.splitlines() == ["refused ['saved']"] * 4, child.stdout + child.stderr
    assert checkpoint.verify(path)["iteration"] == 0
    poise.load(path).close()


def test_leftovers_of_killed_writes_are_not_checkpoints_and_are_swept(
    original: Path, tmp_path: Path
) -> None:
    inside = tmp_path / "checkpoints"
    for name in (
        "000003",
        ".tmp-000004-0a1b2c3d",
        ".tmp-000003-old-0a1b2c3d",
        "notes",
        "000002.damaged",
    ):
        shutil.copytree(original, inside / name)
    assert [p.name for p in checkpoint.checkpoints(inside)] == ["000003"]
    checkpoint.sweep(inside)
    assert sorted(p.name for p in inside.iterdir()) == ["000002.damaged", "000003", "notes"]
    checkpoint.sweep(tmp_path / "nowhere")


# --- acting needs nothing that the checkpoint names -----------------------------------------------


def test_loading_imports_nothing_that_the_checkpoint_names(saved: Path, tmp_path: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["env"] = manifest["config"]["env"] = "no_such_module_anywhere:Env"
    (saved / "manifest.json").write_text(json.dumps(manifest))
    obs = np.array([0.01, -0.02, 0.03, -0.04], np.float32)
    with poise.load(saved) as algo:
        assert algo.compute_action(obs) in (0, 1)
        assert algo.predict(np.stack([obs, -obs]))[0].shape == (2,)
        algo.save(tmp_path / "again")
        with pytest.raises(poise.EnvError, match="no_such_module_anywhere"):
            algo.train()


def test_loading_runs_no_code_of_a_module_that_exists(saved: Path, tmp_path: Path) -> None:
    """Acting from a checkpoint does not import the environment's module even where it could."""
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["env"] = manifest["config"]["env"] = "evil:Env"
    (saved / "manifest.json").write_text(json.dumps(manifest))
    code = (
        "import poise, sys; print(poise.load(sys.argv[1]).compute_action([0.0] * 4), "
        "'evil' in sys.modules)"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    child = warm.run(
        [sys.executable, "-c", code, str(saved)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert child.stdout.split()[1:] == ["False"], child.stdout + child.stderr


def test_the_environment_can_be_given_anew(saved: Path) -> None:
    from gymnasium.envs.classic_control import CartPoleEnv

    with poise.load(saved, env=lambda config: CartPoleEnv()) as algo:
        before = algo.algorithm.timesteps
        assert algo.train()["timesteps_total"] > before


# --- what it declares -----------------------------------------------------------------------------


def rewrite(saved: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes a manifest, as somebody may who knows the format."""
    manifest = json.loads((saved / "manifest.json").read_text())
    change(manifest)
    (saved / "manifest.json").write_text(json.dumps(manifest))


BOX = {"type": "Box", "low": 0.0, "high": 1.0, "shape": [1_000_000, 1_000_000], "dtype": "float32"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda m: m["config"]["model"].update(fcnet_hiddens=[80_000, 80_000]),
            "declares networks of over",
        ),
        (
            lambda m: m["config"]["model"].update(fcnet_hiddens=[10**12]),
            "declares networks of over",
        ),
        (
            lambda m: m.update(observation_space=BOX),
            "declares an observation_space of 1,000,000,000,000 numbers",
        ),
        (
            lambda m: m.update(action_space={"type": "Discrete", "n": 10**12, "start": 0}),
            "declares an action_space",
        ),
        (
            lambda m: m.update(observation_space={"type": "Dict", "spaces": [["a", BOX]]}),
            "declares an observation",
        ),
    ],
)
def test_what_declares_more_than_it_holds_is_refused_before_memory_is_taken(
    saved: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    rewrite(saved, change)
    assert said in refusal(saved)


def test_numbers_that_are_not_finite_are_said_when_they_are_loaded(saved: Path) -> None:
    """A run that diverged may be looked at."""
    tensors = load_file(saved / "policy.safetensors")
    name = sorted(tensors)[-1]
    tensors[name][0] = math.nan
    save_file(tensors, saved / "policy.safetensors")
    name = name.removeprefix("policies/default/")
    content = (saved / "policy.safetensors").read_bytes()
    known = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(saved, lambda m: m["files"].update({"policy.safetensors": known}))
    with pytest.warns(
        UserWarning,
        match=f"parameter '{name}' holds numbers that are not finite: it may be looked at",
    ):
        algo = poise.load(saved)
    assert torch.isnan(algo.policy.state_dict()[name]).any()
    with algo, pytest.raises(ModelError, match=f"'{name}' holds numbers that are not finite"):
        algo.train()


def test_moments_that_are_not_finite_are_said_when_training_goes_on(original: Path) -> None:
    """Parameters that go by them would never move again, and nothing would say so."""
    with poise.load(original) as algo:
        algo.algorithm.optimizer.exp_avg_sq[:] = math.inf
        path = algo.save(original.parent / "inf")
    with (
        poise.load(path) as algo,
        pytest.warns(RuntimeWarning, match="The optimiser's 'exp_avg_sq' moments hold numbers"),
    ):
        algo.train()


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"format":' * 100_000, '{"format": 1, "files": ' + "[" * 90 + "]" * 90]
)
@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
def test_deep_nesting_is_refused(saved: Path, name: str, text: str) -> None:
    (saved / name).write_text(text)
    if name == "state.json":
        content = (saved / name).read_bytes()
        known = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        rewrite(saved, lambda m: m["files"].update({name: known}))
    refusal(saved)


def test_another_environment_begins_with_its_own_episodes(original: Path) -> None:
    """The window of the old one would stop the training on the new one at once."""

    class Long(gym.Wrapper):
        """CartPole that pays half."""

        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__(gym.make("CartPole-v1"))

        def step(self, action: Any) -> Any:
            obs, reward, *rest = self.env.step(action)
            return obs, reward / 2, *rest

    with poise.load(original) as same:
        assert len(same.metrics.window) > 0
        steps = same.algorithm.timesteps
    with poise.load(original, env=Long) as other:
        assert [len(other.metrics.window), other.algorithm.timesteps] == [0, steps]
        assert "CartPole-v1 is replaced by" in other.notes[-1]
        assert "begin anew" in other.notes[-1]
        other.train()
        assert all(episode.reward == episode.length / 2 for episode in other.metrics.window)


def test_an_environment_without_a_name_is_the_one_that_had_none(tmp_path: Path) -> None:
    """Another lambda is not another environment each time; what is given beside it may be."""
    with poise.PPO(lambda config: gym.make("CartPole-v1"), seed=3, progress=False, **SMALL) as algo:
        for _ in range(3):
            algo.train()
        saved = algo.save(tmp_path / "saved")

    def elsewhere() -> Any:
        return lambda config: gym.make("CartPole-v1")

    with poise.load(saved, env=elsewhere()) as algo:
        assert len(algo.metrics.window) > 0
        assert (
            "elsewhere.<locals>.<lambda> is taken for the environment that there was"
            in algo.notes[-1]
        )
    for given in (
        {"env": "CartPole-v1"},
        {"env": elsewhere(), "env_config": {"max_episode_steps": 9}},
    ):
        with poise.load(saved, **given) as algo:
            assert len(algo.metrics.window) == 0
            assert "is replaced by" in algo.notes[-1]
    assert poise.load(saved).notes == []


def test_a_run_goes_on_in_another_environment_without_the_episodes_of_the_old_one(
    tmp_path: Path,
) -> None:
    run = poise.run("PPO", "CartPole-v1", stop={"training_iteration": 3}, folder=tmp_path, seed=1,
                    quiet=True, tensorboard=False, **SMALL)  # fmt: skip
    run.trainer.close()
    limited = {"max_episode_steps": 9}
    later = launch.resume(
        run.folder, stop={"training_iteration": 6}, env_config=limited, quiet=True
    )
    later.trainer.close()
    assert {episode.length for episode in later.trainer.metrics.window} == {9}
    assert "CartPole-v1 is replaced by CartPole-v1" in (run.path / "log.txt").read_text()
    assert json.loads((run.path / "config.json").read_text())["config"]["env_config"] == limited


def test_an_environment_with_other_spaces_is_refused_in_one_sentence(original: Path) -> None:
    with poise.load(original, env="Acrobot-v1") as algo:
        for use in (algo.train, lambda: algo.evaluate(1)):
            with pytest.raises(
                CheckpointError,
                match="Acrobot-v1 has other spaces than the policy was trained with",
            ):
                use()


def test_the_best_and_any_other_checkpoint_of_a_run_are_loaded_by_name(tmp_path: Path) -> None:
    run = poise.run("PPO", "CartPole-v1", stop={"training_iteration": 6}, folder=tmp_path, seed=1,
                    checkpoint_freq=1, keep_checkpoints_num=9, metrics_smoothing_episodes=5,
                    quiet=True, tensorboard=False, **SMALL)  # fmt: skip
    run.trainer.close()
    means = {
        r["training_iteration"]: r["episode_reward_mean"]
        for r in run.folder.metrics()
        if r["episodes_total"] > 4
    }
    for iteration in list(means)[:-1]:  # the last one's own, moved to the front, must be found
        assert poise.load(run.path, which=iteration).iteration == iteration
    assert means[poise.load(run.path, which="best").iteration] == max(means.values())
    assert poise.load(run.path).iteration == 6
    with pytest.raises(
        CheckpointError, match=r"has no checkpoint '77'. It has: 1, 2, 3, 4, 5, 6; or best, latest"
    ):
        poise.load(run.path, which=77)


def test_a_mistake_in_what_is_asked_for_is_not_the_checkpoints(saved: Path) -> None:
    for settings, text in (
        ({"lrr": 1}, "Unknown config key 'lrr'"),
        ({"lr": "x"}, "lr='x' is not allowed"),
    ):
        with pytest.raises(ConfigError, match=f"^{text}"):
            poise.load(saved, **settings)


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        (("window",), [[1.0, 5, 0, "text"]], "does not fit"),
        (("window",), [[1.0, math.inf, 0, {}]], "does not fit"),
        (("window",), [[-math.inf, 5, 0, {}]], "a return of -inf"),
        (("time_total_s",), math.inf, "'time_total_s' is inf"),
    ],
)
def test_numbers_of_a_state_that_cannot_be_are_refused(
    saved: Path, place: Any, value: Any, text: str
) -> None:
    state = json.loads((saved / "state.json").read_text())
    state[place[0]] = value
    (saved / "state.json").write_text(json.dumps(state))
    rehash(saved)
    assert text in refusal(saved)


@pytest.mark.parametrize(
    "name", ["samplers/0/env/fields/state", "samplers/0/env/fields/prev_done", "samplers/0/returns"]
)
@pytest.mark.parametrize("change", ["shorter", "far", "other"])
def test_arrays_of_a_state_that_cannot_be_are_refused(saved: Path, name: str, change: str) -> None:
    """They are looked at when the environments are made."""
    arrays = load_file(saved / "training.safetensors")
    if change == "far" and arrays[name].dtype == torch.bool:
        pytest.skip("bits are near")
    others = {
        "shorter": lambda x: x[..., :-1],
        "far": lambda x: x * 0 + math.inf,
        "other": lambda x: x.double() if x.dtype == torch.bool else x.long(),
    }
    arrays[name] = others[change](arrays[name])
    arrays = {key: value.contiguous() for key, value in arrays.items()}
    save_file(arrays, saved / "training.safetensors")
    rehash(saved)
    with (
        poise.load(saved) as algo,
        pytest.raises(CheckpointError, match="does not fit its configuration"),
    ):
        algo.train()


def test_a_number_of_the_samplers_that_is_none_is_refused(saved: Path) -> None:
    state = json.loads((saved / "state.json").read_text())
    state["samplers"][0]["rows"] = None
    (saved / "state.json").write_text(json.dumps(state))
    rehash(saved)
    with poise.load(saved) as algo, pytest.raises(CheckpointError, match="'rows' is a NoneType"):
        algo.train()


def test_no_more_returns_are_carried_than_there_are_environments(
    tmp_path: Path, trainer: Callable[..., Trainer]
) -> None:
    algo = trainer(
        "PPO",
        "CartPole-v1",
        normalize_rewards=True,
        num_envs_per_worker=4,
        rollout_fragment_length=8,
    )
    algo.train()
    saved = algo.save(tmp_path / "saved")
    arrays = load_file(saved / "training.safetensors")
    arrays["algorithm/rewards/carry"] = arrays["algorithm/rewards/carry"].repeat(2)
    save_file(arrays, saved / "training.safetensors")
    rehash(saved)
    assert "and there are 4" in refusal(saved)


@pytest.mark.parametrize("config", [{}, [1], None, {"env": "CartPole-v1"}])
def test_a_manifest_without_its_configuration_is_damaged(saved: Path, config: Any) -> None:
    rewrite(saved, lambda manifest: manifest.update(config=config))
    assert "is damaged: its manifest" in refusal(saved)


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        ("owed", math.nan, "'algorithm/owed' is nan"),
        ("updates", None, "/updates' is a NoneType instead of a int"),
        ("start", [1], "index out of range"),
        ("replay/first", [True], "'replay/first' is bool [1]"),
        ("replay/first", {"a": 1}, "'replay/first' is object []"),
        ("replay/largest", "x", "'x'"),
        ("replay/largest", -1.0, "priorities that are no numbers from 0 on"),
        ("replay/priorities", [math.nan], "priorities that are no numbers from 0 on"),
    ],
)
def test_numbers_of_what_learns_that_cannot_be_are_refused(
    tmp_path: Path, place: str, value: Any, text: str
) -> None:
    """When the checkpoint is read, not when they are needed."""
    path = shutil.copytree(Path(__file__).parent / "data" / "format-1" / "dqn", tmp_path / "dqn")
    state = json.loads((path / "state.json").read_text())
    *outer, name = f"learner/{place}".split("/")
    functools.reduce(dict.__getitem__, outer, state)[name] = value
    (path / "state.json").write_text(json.dumps(state))
    rehash(path)
    assert text in refusal(path)


class Warm(nn.Module):
    """A number that is no part of the policy."""

    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.zeros(1))


class WithTemperature(PPO):
    """Two learners, each with an optimiser of its own."""

    def make_learners(self) -> dict[str, Learner]:
        return {**super().make_learners(), "temperature": Learner(Warm(), self.make_optimizer)}

    def descend(self, loss: torch.Tensor, lr: float) -> float:
        warm: Any = self.learners["temperature"]
        warm.descend((warm.module.log - 3).square().sum(), 0.1)
        return super().descend(loss, lr)


def test_what_learns_beside_the_policy_is_kept_too(tmp_path: Path, registries: None) -> None:
    poise.register_algorithm("WithTemperature", WithTemperature)
    with poise.make_trainer("WithTemperature", "CartPole-v1", seed=1, **SMALL) as algo:
        algo.train()
        saved = algo.save(tmp_path / "saved")
        with poise.load(saved) as again:
            for made in (algo, again):
                made.train()
            flats = [
                [each.flat.data for each in made.algorithm.learners.values()]
                for made in (algo, again)
            ]
    assert all(torch.equal(*pair) for pair in zip(*flats, strict=True))
    assert flats[0][1].item() > 0


def test_policies_that_nobody_learns_are_said(saved: Path) -> None:
    tensors = load_file(saved / "policy.safetensors")
    save_file({**tensors, "policies/rival/weight": torch.ones(1)}, saved / "policy.safetensors")
    rehash(saved)
    assert "holds policies that are not learnt here: rival." in refusal(saved)


# --- earlier formats ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ppo", "dqn", "impala"])
def test_what_an_earlier_format_holds_goes_on(
    name: str, trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    """Written in format 1: no names of policies and learners, and one frozen layer (PPO)."""
    old = Path(__file__).parent / "data" / "format-1" / name
    manifest = json.loads((old / "manifest.json").read_text())
    state = json.loads((old / "state.json").read_text())
    algo = poise.load(shutil.copytree(old, tmp_path / name))
    assert (algo.iteration, algo.algorithm.timesteps) == (
        manifest["iteration"],
        manifest["timesteps_total"],
    )
    assert algo.algorithm.updates == state["learner"]["updates"]
    for key, value in load_file(old / "policy.safetensors").items():
        assert torch.equal(algo.policy.state_dict()[key], value)
    arrays = load_file(old / "training.safetensors")
    was = {"exp_avg": "first", "exp_avg_sq": "second", "square_avg": "second"}
    for moment in algo.algorithm.optimizer.moments:
        assert torch.equal(
            getattr(algo.algorithm.optimizer, moment), arrays[f"learner/optimizer/{was[moment]}"]
        )
    if name == "dqn":
        assert torch.equal(algo.algorithm.targets["policy"].flat.whole, arrays["learner/target"])
        assert algo.algorithm.replay.steps > 16
    frozen = dict(algo.policy.named_parameters()).get(*state["learner"]["frozen"] or [""])
    before = None if frozen is None else frozen.clone()
    again = poise.load(algo.save(tmp_path / "anew"))
    assert (
        json.loads((tmp_path / "anew" / "manifest.json").read_text())["format"] == checkpoint.FORMAT
    )
    results = [made.train() for made in (algo, again)]
    assert results[0]["timesteps_total"] > manifest["timesteps_total"]
    if name != "impala":  # it samples while it learns
        assert torch.equal(algo.algorithm.flat.data, again.algorithm.flat.data)
    assert before is None or torch.equal(before, frozen)
    for made in (algo, again):
        made.close()
