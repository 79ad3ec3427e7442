"""The checks in a process of their own, which tells its parent by files what it finds."""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import signal
import struct
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from poise.checks.probe import Phase
from poise.checks.report import Finding, Report

ORDER, FOUND, WHERE, DUMP, DONE = "order.json", "found.jsonl", "where", "dump.txt", "done"
"""Files: the order; findings, a line each; the call being made; tracebacks of a crash; the end."""

_WHERE = struct.Struct("<qqq")
"""Phase, step in its episode, calls so far."""


def read_where(data: bytes) -> tuple[Phase, int]:
    """Which call is being made: its phase, and the step in its episode."""
    phase, step, _ = _WHERE.unpack(data) if len(data) == _WHERE.size else (0, 0, 0)
    return Phase(phase), step


def main(name: str) -> None:
    """Checks what the order in the folder `name` says."""
    folder = Path(name)
    order = json.loads((folder / ORDER).read_text())
    with (
        open(folder / DUMP, "w") as dump,
        open(folder / WHERE, "w+b") as position,
        open(folder / FOUND, "a") as log,
    ):
        faulthandler.enable(dump)
        if hasattr(signal, "SIGUSR1"):
            faulthandler.register(signal.SIGUSR1, dump)
        position.write(bytes(_WHERE.size))
        position.flush()
        with mmap.mmap(position.fileno(), _WHERE.size) as here:
            _check(order, log, here)
    (folder / DONE).touch()
    sys.stdout.flush()
    os._exit(0)  # threads of the environment's must not keep a finished check waiting


def _check(order: dict[str, Any], log: Any, here: mmap.mmap) -> None:
    """Makes the checks; findings go into `log`, and the call that is being made into `here`."""
    from poise.checks.inspect import inspect_env
    from poise.checks.where import method_place
    from poise.envs.make import find_env, make_env
    from poise.errors import EnvError

    calls = 0

    def tell(kind: str, value: Any) -> None:
        log.write(json.dumps([kind, value]) + "\n")
        log.flush()

    def at(phase: Phase, step: int) -> None:
        nonlocal calls
        calls += 1
        _WHERE.pack_into(here, 0, phase, step, calls)

    def found(finding: Finding) -> None:
        tell("finding", asdict(finding))

    def made(env: Any) -> None:  # for a crash that leaves no traceback
        places = {phase.method: method_place(env, phase.method) for phase in Phase}
        tell("facts", {"places": places})

    name, config = order.pop("env"), order.pop("env_config")
    report = Report(name)
    try:
        find_env(name)
    except EnvError as error:
        tell("unknown", str(error))
        return
    except BaseException:
        pass  # its module cannot be imported: the checks meet that again, and report it
    make = partial(make_env, name, config)
    inspect_env(make, report, found=found, at=at, made=made, **order)
    tell("facts", {**report.facts, "places": None})
