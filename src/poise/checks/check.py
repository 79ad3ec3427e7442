"""`check_env`: everything that is wrong with an environment, in one report.

An environment that is given by name is checked in a process of its own, which may crash or hang:
the report then says where. The two talk through a folder: the child appends findings to a file, and
keeps where it is in another.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gymnasium as gym

from poise.checks.child import DONE, DUMP, FOUND, ORDER, WHERE, read_where
from poise.checks.inspect import inspect_env
from poise.checks.probe import Phase
from poise.checks.report import Finding, Report
from poise.checks.where import dump_place
from poise.children.launch import command
from poise.envs import make
from poise.envs.make import find_env, make_env
from poise.errors import EnvError

_POLL_S = 0.02


def check_env(
    env: Any,
    env_config: dict[str, Any] | None = None,
    *,
    steps: int = 1000,
    seed: int = 0,
    seconds: float = 5.0,
    timeout: float = 20.0,
    num_envs: int = 8,
) -> Report:
    """Plays an environment at random, and reports all violations of Gymnasium's contract at once.

    Args:
        env: a Gymnasium id, `module:Env-v0`, `module:Class`, a registered name, a class, or a
            function. By name, it is checked in a process of its own, unless only this process knows
            the name.
        env_config: as for `poise.make_env`.
        steps: of random play that are looked at, at most.
        seed: of the episodes and the actions.
        seconds: that the checks may take together, about; a slow environment is checked with fewer
            steps.
        timeout: seconds after which a call that has not returned is reported as hanging, in a
            process of its own.
        num_envs: for how many environments the number of worker processes is advised.

    Returns:
        A report: `report.ok`, `report.errors`, `report.warnings`, `report.facts`; `print(report)`
        shows it.

    Raises:
        EnvError: there is no environment of that name.
    """
    how: dict[str, Any] = {"steps": steps, "seed": seed, "seconds": seconds, "num_envs": num_envs}
    if isinstance(env, str) and _known_elsewhere(env):
        return _check_in_child({"env": env, "env_config": env_config or {}, **how}, timeout)
    find_env(env)  # raises where there is none of this name: that is no finding
    report = Report(env if isinstance(env, str) else getattr(env, "__qualname__", repr(env)))
    inspect_env(lambda mode: make_env(env, env_config, mode), report, **how)
    return report


def _known_elsewhere(env: str) -> bool:
    """Whether another process finds an environment by its name, which knows no registered ones."""
    module, colon, _ = env.partition(":")
    if env in make._creators or module == "__main__":
        return False
    if colon:
        return True
    find_env(env)
    return env not in gym.registry or str(gym.registry[env].entry_point).startswith("gymnasium.")


def _check_in_child(order: dict[str, Any], timeout: float) -> Report:
    """Has an environment checked in a process of its own; `order` are the arguments of that."""
    with (
        tempfile.TemporaryDirectory(prefix="poise-check-") as name,
        _started(Path(name), order) as child,
    ):
        folder = Path(name)
        hangs = _wait(child, folder, timeout)
        report = Report(order["env"])
        for line in (folder / FOUND).read_text().splitlines():
            kind, value = json.loads(line)
            if kind == "unknown":
                raise EnvError(value)
            if kind == "finding":
                report.findings.append(Finding(**value))
            else:
                report.facts.update(value)
        places = report.facts.pop("places", None) or {}
        if hangs or not (folder / DONE).exists():
            report.findings.append(_end(child, folder, places, timeout if hangs else None))
        return report


@contextmanager
def _started(folder: Path, order: dict[str, Any]) -> Iterator[subprocess.Popen]:
    """Starts a child that checks.

    It has a session of its own, so that nothing that the environment starts outlives the check.
    """
    try:
        (folder / ORDER).write_text(json.dumps(order))
    except TypeError:
        raise EnvError(
            "The env_config of an environment that is given by name must be plain JSON values."
        ) from None
    (folder / FOUND).touch()
    silent: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    started = command("poise.checks.child", folder)
    with subprocess.Popen(started, start_new_session=True, **silent) as child:
        try:
            yield child
        finally:
            if hasattr(os, "killpg"):
                with suppress(ProcessLookupError, PermissionError):  # it has ended
                    os.killpg(child.pid, signal.SIGKILL)
            child.kill()


def _wait(child: subprocess.Popen, folder: Path, timeout: float) -> bool:
    """Waits for the child to end; True if one call took too long."""
    seen, since = b"", time.monotonic()
    while child.poll() is None:
        time.sleep(_POLL_S)
        now = _bytes(folder / WHERE)
        if now != seen:
            seen, since = now, time.monotonic()
        phase = read_where(now)[0]
        if time.monotonic() - since > _limit(phase, timeout):
            if hasattr(signal, "SIGUSR1"):  # asks where it is: it writes its traceback
                child.send_signal(signal.SIGUSR1)
                time.sleep(0.3)
            return True
    return False


def _bytes(file: Path) -> bytes:
    """What is in a file; nothing, if the child has not made it yet."""
    return file.read_bytes() if file.exists() else b""


def _limit(phase: Phase, timeout: float) -> float:
    """Seconds that a call may take; thrice as many to make an environment, which imports much."""
    return 3 * timeout if phase is Phase.MAKE else timeout


def _end(
    child: subprocess.Popen, folder: Path, places: dict[str, str | None], timeout: float | None
) -> Finding:
    """What to say of a child that did not come to its end, and where in the user's code it was."""
    phase, step = read_where(_bytes(folder / WHERE))
    dump = _bytes(folder / DUMP).decode(errors="replace")
    where, line = dump_place(dump)
    doing = phase.title(step) + (f", at `{line}`" if line else "")
    if timeout is not None:
        text = f"{doing[:1].upper()}{doing[1:]} has not returned for {_limit(phase, timeout):g} s"
    elif child.returncode < 0:
        text = f"The process was killed by {signal.Signals(-child.returncode).name} during {doing}"
    else:
        text = f"The process ended with exit code {child.returncode} during {doing}"
    text = f"{text}; the checks that remained were not made."
    return Finding("error", "process", text, where or places.get(phase.method))
