"""Where something happened in the user's own code: not in Gymnasium, a library, or Poise."""

from __future__ import annotations

import inspect
import linecache
import os
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

_STDLIB = sysconfig.get_path("stdlib") + os.sep
_GYMNASIUM = Path(str(gym.__file__)).parent
_LIBRARIES = (Path(__file__).parents[2], _GYMNASIUM, Path(str(np.__file__)).parent)
_PACKAGES = tuple(f"{path}{os.sep}" for path in _LIBRARIES)
_DUMPED = re.compile(r'^  File "(.+)", line (\d+) in ', re.MULTILINE)
"""A line of the traceback that `faulthandler` writes."""


def layers(env: gym.Env) -> Iterator[gym.Env]:
    """The environment and all that it wraps, from the outside in."""
    while True:
        yield env
        if not isinstance(env, gym.Wrapper):
            return
        env = env.env


def method_place(env: Any, name: str) -> str | None:
    """`file:line` of a method such as `reset`: the outermost that is not Gymnasium's own."""
    for layer in layers(env):
        for cls in type(layer).__mro__:
            method = vars(cls).get(name)
            code = getattr(inspect.unwrap(method), "__code__", None) if callable(method) else None
            if code is not None and not _is_library(code.co_filename):
                return place(code.co_filename, code.co_firstlineno)
    return None


def error_place(error: BaseException) -> tuple[str | None, str]:
    """`file:line` of the last line of the user's in a traceback, and that line itself."""
    while error.__cause__ is not None:  # what Poise says of an error is raised from it
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if not _is_library(frame.filename)]
    if not mine:
        return None, ""
    last = mine[-1]
    return place(last.filename, last.lineno or 0), (last.line or "").strip()


def dump_place(dump: str) -> tuple[str | None, str]:
    """The same from what `faulthandler` wrote: the innermost call comes first."""
    for file, line in _DUMPED.findall(dump.rpartition("Current thread")[2]):
        if not _is_library(file):
            return place(file, int(line)), linecache.getline(file, int(line)).strip()
    return None, ""


def place(file: str, line: int) -> str:
    """`file:line`, relative where that is shorter to read."""
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"{path}:{line}"


def _is_library(file: str) -> bool:
    envs = _GYMNASIUM / "envs"
    if Path(file).parent != envs and Path(file).is_relative_to(envs):
        return False  # Gymnasium's own environments are environments
    if file.startswith((*_PACKAGES, "<frozen")) or file.endswith((".pyx", ".pxd", "<string>")):
        return True
    return file.startswith(_STDLIB) and "site-packages" not in file
