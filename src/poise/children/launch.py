"""Both ends of a process of our own: how a driver starts it, and how it begins.

process, pipe = start("poise.tuning.worker")        # in the driver
pipe = begin()                                      # in that module's `main`
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

from poise.children.pipe import Pipe
from poise.startup import ENDING

_BOOT = (
    "import sys, importlib; module, count, *rest = sys.argv[1:]; sys.path[:] = rest[int(count):]; "
    "importlib.import_module(module).main(*rest[:int(count)])"
)
"""Not `-m`, which would look for modules in the current folder first."""

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Small computations of many processes: more threads in each would only be in each other's way."""


def command(module: str, *arguments: object) -> list[str]:
    """The command of a process that calls `main(*arguments)` of a module, with texts, and imports
    from where this one does."""
    texts = [str(argument) for argument in arguments]
    return [sys.executable, "-c", _BOOT, module, str(len(texts)), *texts, *map(str, sys.path)]


def start(module: str, *arguments: object, **options: Any) -> tuple[subprocess.Popen[bytes], Pipe]:
    """Starts such a process, with a pipe to it.

    Args:
        module, arguments: see `command`.
        options: of `subprocess.Popen`; `env` adds to this process's own environment.
    """
    environment = {**_ONE_THREAD, **os.environ, **options.pop("env", {})}
    process = subprocess.Popen(
        command(module, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env=environment,
        **options,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    return process, Pipe(process.stdout.fileno(), process.stdin.fileno())


def begin() -> Pipe:
    """The pipe to whoever started this process.

    What is printed goes to standard error, so that it does not get between
    the messages, and what usually ends a process is the driver's to decide about."""
    pipe = Pipe(os.dup(0), os.dup(1))
    os.dup2(2, 1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it may end without a chance to flush
    for number in (signal.SIGINT, *ENDING):
        signal.signal(
            number, lambda *_: None
        )  # not SIG_IGN, which programs that environments start would inherit
    return pipe
