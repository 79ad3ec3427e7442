"""Small files: written whole, read within bounds; and the names that folders may have.

`write_json` writes every small JSON file of a run or a search: a reader, also one after a power
loss, finds the old content or the new one, never half of it. `read_json` reads files that may be
damaged or hostile.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from poise.errors import ConfigError, writing

LARGEST_JSON = 64 * 2**20
"""Bytes of the largest JSON file that is read."""
DEEPEST_JSON = 64
"""Lists and mappings inside each other, in the deepest JSON file that is read."""


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file's content at once.

    Raises:
        RunError: it cannot be written.
    """
    write_whole(path, json.dumps(value, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Replaces a file's content at once, and flushes it to the disk before its name points to it.

    Raises:
        RunError: it cannot be written. What was there is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with writing(path):
        try:
            temporary.write_text(text, encoding="utf-8")
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it where they are missing, and flushes their names to disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync(folder.parent)


def sync(path: Path) -> None:
    """Flushes a file, or the names in a folder, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot flush a folder
    # Windows flushes only what it may write.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        ValueError: it is no mapping, or larger or deeper than any that Poise writes. The text
            completes a sentence that begins with the file's name.
        OSError: there is no such file, or nobody may read it.
    """
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"has more than {LARGEST_JSON // 2**20} MiB")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"is nested more than {DEEPEST_JSON} deep") from None
    except ValueError:
        raise ValueError("is not valid JSON") from None
    if not isinstance(value, dict):
        raise ValueError("does not hold a mapping")
    if depth(value) > DEEPEST_JSON:
        raise ValueError(f"is nested more than {DEEPEST_JSON} deep")
    return value


def depth(value: Any) -> int:
    """How many lists and mappings are inside each other.

    It goes layer by layer, without recursion, which a hostile file would exhaust.
    """
    layers, layer = 0, [value]
    while layer:
        layers += 1
        parts = [each.values() if isinstance(each, dict) else each for each in layer]
        layer = [item for part in parts for item in part if isinstance(item, (dict, list))]
    return layers


def near(path: Path) -> Path:
    """A path as a person would write it: relative, if it lies below the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def home() -> Path:
    """Where Poise keeps what it knows of this machine, for whoever uses it."""
    if own := os.environ.get("POISE_HOME"):
        return Path(own)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "poise"


def time_stamp() -> str:
    """The time here and now as a part of a folder's name, which sorts by time."""
    return time.strftime("%Y%m%d-%H%M%S")


def folder_name(key: str, text: Any) -> str:
    """Returns `text` if it is the name of one folder.

    Raises:
        ConfigError: it is empty, a path, too long, or has a character that no name may have; the
            sentence names `key`.
    """
    is_name = isinstance(text, str) and text not in ("", ".", "..")
    if is_name and not set(text) & {"/", "\\"} and text.isprintable() and len(text.encode()) <= 200:
        return str(text)
    raise ConfigError(
        f"{key}={text!r} is not allowed: it must be the name of a folder, without a path to it."
    )
