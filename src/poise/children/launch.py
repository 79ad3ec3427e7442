"""Both ends of a child process: how a driver starts it, and how it begins.

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
"""Calls `main` of a module. `python -m` would look for modules in the current folder first."""

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Of many processes with small computations, threads would only be in each other's way."""


def command(module: str, *arguments: object) -> list[str]:
    """The command of a process that calls `main` of a module, with the arguments as texts.

    The process imports from the same folders as this one.
    """
    texts = [str(argument) for argument in arguments]
    return [sys.executable, "-c", _BOOT, module, str(len(texts)), *texts, *map(str, sys.path)]


def start(module: str, *arguments: object, **options: Any) -> tuple[subprocess.Popen[bytes], Pipe]:
    """Starts the process of `command`, with a pipe to it.

    Args:
        module, arguments: see `command`.
        options: of `subprocess.Popen`; `env` adds to this process's own environment variables.
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
    """Begins a child process: returns the pipe to whoever started it.

    From here on, what is printed goes to standard error, so that it does not get between the
    messages. Signals that would end the process do nothing: the driver decides about its end.
    """
    pipe = Pipe(os.dup(0), os.dup(1))
    os.dup2(2, 1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    # By lines, since the process may be killed before it could flush.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    # Not SIG_IGN, which programs that environments start would inherit.
    for number in (signal.SIGINT, *ENDING):
        signal.signal(number, lambda *_: None)
    return pipe
