"""Checkpoints: folders without pickle, written whole or not at all, verified before they are read.

    checkpoint/
        policy.safetensors      parameters and normalisers, as `policies/<policy>/<name>`
        training.safetensors    every other array: optimiser, generators, episodes in progress
        state.json              everything that is not an array, with references to the arrays
        replay-N.safetensors    rows of a replay that will not change any more
        manifest.json           format, what it is of, each file's size and SHA-256; written last

A checkpoint is written into a temporary folder beside its target, flushed to the disk file by file,
and renamed into place: whenever the process dies, a folder with a verifying manifest is whole.
Segments of a replay are written and hashed once: later checkpoints link to the same file.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from poise.config.run import rank
from poise.errors import CheckpointError
from poise.files import DEEPEST_JSON, LARGEST_JSON, depth, make_folder, read_json, sync
from poise.sampling.segments import Segment
from poise.training.formats import from_format_1

FORMAT = 2
MANIFEST = "manifest.json"
_POLICY, _ARRAYS, _STATE = "policy.safetensors", "training.safetensors", "state.json"
_TEMPORARY = ".tmp-"
_REPLACED = "-old-"

Policies = dict[str, dict[str, torch.Tensor]]
"""Parameters and normalisers, by policy and by name."""


def write(path: Path, policies: Policies, state: dict[str, Any], about: dict[str, Any]) -> None:
    """Writes a checkpoint at `path`, replacing one that is there.

    Args:
        path: the folder; its parents are made.
        policies: the `state_dict` of each.
        state: nested dicts and lists of arrays, tensors and plain values.
        about: what the manifest says beside the files: algorithm, spaces, configuration, step,
            grade.

    Raises:
        CheckpointError: `path` is something else than a checkpoint, or `state` holds something
            else than these.
        OSError: the disk is full or not writable. What was at `path` is untouched.
    """
    make_folder(path.parent)
    temporary = path.parent / f"{_TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    try:
        arrays: dict[str, torch.Tensor] = {}
        segments: list[Segment] = []
        plain = _encode(state, "", arrays, segments)
        text = json.dumps(plain)
        if len(text) > LARGEST_JSON or depth(plain) > DEEPEST_JSON:  # what could not be read again
            raise CheckpointError(
                f"The state holds {len(text)} bytes beside its arrays, {depth(plain)} levels deep; "
                f"a checkpoint takes {LARGEST_JSON} and {DEEPEST_JSON}. "
                "Let get_state of the environment return arrays."
            )
        named = {
            f"policies/{name}/{key}": _on_cpu(value)
            for name, policy in policies.items()
            for key, value in policy.items()
        }
        _save_tensors(named, temporary / _POLICY)
        _save_tensors(arrays, temporary / _ARRAYS)
        (temporary / _STATE).write_text(text)
        files = {file.name: _fingerprint(file) for file in sorted(temporary.iterdir())}
        files |= {_file(segment): _write_segment(segment, temporary) for segment in segments}
        manifest = {"format": FORMAT, **about, "files": files}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        _put_in_place(temporary, path)
        for segment in segments:
            segment.is_at(path / _file(segment), files[_file(segment)])
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, SafetensorError):  # its way of saying that the disk is full
            raise OSError(str(error)) from error
        raise


def _save_tensors(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Writes a safetensors file that whoever may read the files beside it may read, too."""
    file.touch()  # with the usual rights: the library would make it the owner's alone
    mode = file.stat().st_mode
    save_file(tensors, file)
    file.chmod(mode)


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that a file can take: contiguous, and shared with no other tensor."""
    return tensor.detach().cpu().contiguous().clone()


def _file(segment: Segment) -> str:
    return f"{segment.name}.safetensors"


def _write_segment(segment: Segment, folder: Path) -> dict[str, Any]:
    """Puts a segment into `folder`, and returns its fingerprint.

    Where another checkpoint has it already, it becomes a link to that file.
    """
    target = folder / _file(segment)
    if segment.is_there:
        assert segment.file is not None
        assert segment.fingerprint is not None
        try:
            os.link(segment.file, target)
            return segment.fingerprint
        except OSError:  # it is gone, on another disk, or on one without links
            pass
    _save_tensors({k: torch.from_numpy(array) for k, array in segment.arrays().items()}, target)
    return _fingerprint(target)


def _put_in_place(temporary: Path, path: Path) -> None:
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
    if path.exists():
        read_manifest(path)  # refuses to replace a folder that is not a checkpoint
        old = path.parent / f"{_TEMPORARY}{path.name}{_REPLACED}{uuid.uuid4().hex[:8]}"
        os.rename(path, old)
        try:
            os.rename(temporary, path)
        except BaseException:
            os.rename(old, path)
            raise
        sync(path.parent)  # after a power loss, one of the two must be there
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(temporary, path)
        sync(path.parent)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, checked for its format but not against the files.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    bring_back(path.parent, path.name)
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint at {path}.")
    if path.is_file():
        raise CheckpointError(
            f"{path} is a file, not a checkpoint folder; Poise never loads pickles."
        )
    file = path / MANIFEST
    if not file.exists():
        raise CheckpointError(f"{path} is not a checkpoint: it has no {MANIFEST}.")
    try:
        manifest = read_json(file)
        version = manifest["format"]
        sound = all(isinstance(entry, dict) for entry in manifest["files"].values())
        if not isinstance(version, int) or not sound:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path, f"its {MANIFEST} cannot be read") from None
    if version > FORMAT:
        raise CheckpointError(
            f"{path} was written in format {version}, but this version of Poise reads up to "
            f"{FORMAT}: upgrade it."
        )
    return dict(manifest)


def bring_back(folder: Path, name: str = "*") -> None:
    """Gives checkpoints their names back.

    Whoever replaces one and dies between the two renames leaves it whole under another name.
    """
    pattern = name if name == "*" else glob.escape(name)
    for old in folder.glob(f"{_TEMPORARY}{pattern}{_REPLACED}*"):
        path = folder / old.name.removeprefix(_TEMPORARY).rpartition(_REPLACED)[0]
        if not path.exists():
            os.rename(old, path)


def _damaged(path: Path, how: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {how}.")


def verify(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are all there and unchanged.

    Raises:
        CheckpointError: it names the first file that is missing, truncated or changed.
    """
    manifest = read_manifest(path)
    for name in (_POLICY, _ARRAYS, _STATE):
        if name not in manifest["files"]:
            raise _damaged(path, f"its {MANIFEST} does not list {name!r}")
    for name, expected in manifest["files"].items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            raise _damaged(path, f"its file {name!r} is missing")
        size, declared = file.stat().st_size, expected.get("size")
        if size != declared:
            raise _damaged(path, f"{name!r} has {size} bytes instead of {declared}")
        if _fingerprint(file) != expected:
            raise _damaged(path, f"the content of {name!r} has changed since it was written")
    return manifest


def read(path: Path) -> tuple[dict[str, Any], Policies, dict[str, Any]]:
    """A verified checkpoint's manifest, policies and state, in today's form of them.

    Raises:
        CheckpointError: it is damaged, of a future format, or not a checkpoint.
    """
    manifest = verify(path)
    try:
        parameters = load_file(path / _POLICY)
        arrays = load_file(path / _ARRAYS)
        segments = {
            name: Segment.of_file(path / name, partial(_read_segment, path / name), about)
            for name, about in manifest["files"].items()
            if name not in (_POLICY, _ARRAYS, _STATE)
        }
        state = _decode(read_json(path / _STATE), {**arrays, **segments})
        if manifest["format"] == 1:
            parameters, state = from_format_1(parameters, state)
        policies: Policies = {}
        for key, value in parameters.items():
            policy, _, name = key.removeprefix("policies/").partition("/")
            policies.setdefault(policy, {})[name] = value
    except ValueError as error:
        raise _damaged(path, f"its {_STATE} {error}") from None
    except (SafetensorError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from None
    return manifest, policies, state


def _read_segment(file: Path) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in load_file(file).items()}


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint in `folder` that verifies.

    Returns:
        Its path, or None, and a sentence for each newer one that is damaged.
    """
    problems = []
    bring_back(folder)
    for path in sorted(checkpoints(folder), key=_iteration, reverse=True):
        try:
            verify(path)
        except CheckpointError as error:
            problems.append(str(error))
        else:
            return path, problems
    return None, problems


def best(folder: Path) -> tuple[float, Path] | None:
    """The highest score (see `rank`) of the checkpoints in `folder`, and its checkpoint's path."""
    found = []
    for path in checkpoints(folder):
        with suppress(CheckpointError):
            if known := rank(read_manifest(path)):
                found.append((*known, path))
    return max(found)[1:] if found else None


def checkpoints(folder: Path) -> list[Path]:
    """All folders in `folder` that may be checkpoints, unverified; not what a dead write left."""
    inside = folder.iterdir() if folder.is_dir() else ()
    return [path for path in inside if path.is_dir() and path.name.isdigit()]


def set_aside(path: Path, why: str = "damaged") -> None:
    """Renames a checkpoint to `N.damaged` or `N.left`.

    So it is not taken for one any more, nor in the way of its successor.
    """
    target = path.with_name(f"{path.name}.{why}")
    shutil.rmtree(target, ignore_errors=True)
    os.rename(path, target)


def sweep(folder: Path) -> None:
    """Removes what a killed process left half-written."""
    bring_back(folder)
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith(_TEMPORARY):
                shutil.rmtree(path, ignore_errors=True)


def _iteration(path: Path) -> int:
    return int(path.name)


def _fingerprint(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def _encode(value: Any, path: str, arrays: dict[str, torch.Tensor], segments: list[Segment]) -> Any:
    """A state as plain JSON, with references to its arrays.

    Where tensors, arrays and segments were stands `{"$tensor": name}`, `{"$array": name}` or
    `{"$segment": file}`. A user's own key that begins with `$` gets a second one.

    Args:
        value: of the state, or a part of it.
        path: the keys that lead to it, with slashes between them.
        arrays, segments: take what the references are to.
    """
    if isinstance(value, dict):
        encoded = {}
        for key, item in ((str(key), item) for key, item in value.items()):
            own = f"${key}" if key.startswith("$") else key
            encoded[own] = _encode(item, f"{path}/{key}" if path else key, arrays, segments)
        return encoded
    if isinstance(value, (list, tuple)):
        return [_encode(v, f"{path}/{i}", arrays, segments) for i, v in enumerate(value)]
    if isinstance(value, Segment):
        segments.append(value)
        return {"$segment": _file(value)}
    name = path
    while name in arrays:  # a key with a slash in it
        name += "'"
    if isinstance(value, torch.Tensor):
        arrays[name] = _on_cpu(value)
        return {"$tensor": name}
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise CheckpointError(
                f"{path!r} is an array of {value.dtype}, which a checkpoint cannot hold."
            )
        arrays[name] = torch.from_numpy(np.array(value, value.dtype.newbyteorder("="), order="C"))
        return {"$array": name}
    plain = value.item() if isinstance(value, np.generic) else value
    if plain is not None and not isinstance(plain, (bool, int, float, str)):
        raise CheckpointError(
            f"{path!r} is a {type(plain).__name__}, which a checkpoint cannot hold."
        )
    return plain


def _decode(value: Any, arrays: dict[str, Any]) -> Any:
    """The state that `_encode` was given."""
    if isinstance(value, dict):
        if "$segment" in value:
            return arrays[value["$segment"]]
        if "$tensor" in value:
            return arrays[value["$tensor"]]
        if "$array" in value:
            return arrays[value["$array"]].numpy()
        return {k[1:] if k.startswith("$$") else k: _decode(v, arrays) for k, v in value.items()}
    return [_decode(v, arrays) for v in value] if isinstance(value, list) else value


def check_parameters(
    own: dict[str, torch.Tensor], found: dict[str, torch.Tensor], source: Any
) -> None:
    """Compares the parameters of a checkpoint with those that its configuration makes.

    Raises:
        CheckpointError: it names the first that is missing, unknown, or of another shape or type.
    """
    for name in sorted({*own, *found}):
        mine, theirs = _kind(own.get(name)), _kind(found.get(name))
        if mine != theirs:
            raise CheckpointError(
                f"{source} does not fit its own configuration: "
                f"parameter {name!r} is {theirs} instead of {mine}."
            )


def _kind(tensor: torch.Tensor | None) -> str:
    kind = "missing" if tensor is None else f"{tensor.dtype}{list(tensor.shape)}"
    return kind.removeprefix("torch.")
