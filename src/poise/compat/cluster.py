"""The cluster that an old script means by `ray.init(address=...)`.

ray.init(address="10.0.0.4:6379")     # samplers live there from now on
"""

from __future__ import annotations

import os
import socket
from contextlib import closing
from typing import Any

from poise.cluster.local import running
from poise.stepping.advice import available_cores

RAY_ADDRESS = "RAY_ADDRESS"
"""Ray's own variable: the cluster of the job that this process is, or that the user has named."""
TIMEOUT = "POISE_CLUSTER_TIMEOUT_S"
"""Variable of a job: seconds in which its workers find machines, or the run ends."""
HERE = ("localhost", "127.0.0.1", "[::1]")

_said: set[str] = set()
_address: str | None = None


def say(sentence: str) -> None:
    """Tells the user something, once in a process."""
    if sentence not in _said:
        _said.add(sentence)
        print(sentence, flush=True)


def choose(address: str | None) -> str | None:
    """Takes the cluster that an address of Ray's means for the trainings that follow.

    Args:
        address: as `ray.init` takes it: None (that of `RAY_ADDRESS`), `local`, `auto`, `HOST:PORT`
            or `ray://...`. Where none is found here, trainings are on this machine alone.

    Returns:
        The cluster's own address; None for this machine.
    """
    global _address
    _address = None if address == "local" else os.environ.get(RAY_ADDRESS)
    if address in (None, "local"):
        return _address
    host, _, port = address.rpartition(":")
    if address == "auto":
        found = None if _address else running()
        _address = found.address if found else _address
    elif host not in HERE or _listens(host.strip("[]"), port):
        _address = address
    if _address is None:
        say(f"address={address!r}: no cluster is there, so it runs on this machine.")
    elif _address != address:
        say(f"address={address!r}: this is the cluster at {_address}.")
    return _address


def _listens(host: str, port: str) -> bool:
    try:
        with closing(socket.create_connection((host, int(port)), timeout=1.0)):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def forget() -> bool:
    """Takes this machine alone for the trainings that follow; whether there was a cluster."""
    global _address
    before, _address = _address, None
    return before is not None


def workers(asked: int | None) -> int | str | None:
    """`num_workers` of a training that was asked for so many; None where it is not to be set.

    Without a cluster it is "auto". On one, it is what the script says; but where all nodes are this
    machine, workers beyond its cores would be in each other's way.
    """
    if _address is None:
        return "auto" if asked else None
    found, cores = running(), available_cores()
    if found is None or found.address != _address or (asked is not None and asked <= cores):
        return asked
    say(
        f"num_workers={'auto' if asked is None else asked} becomes {cores}: all nodes are this"
        f" machine, which has {cores} core{'s' * (cores > 1)}."
    )
    return cores


def settings() -> dict[str, Any]:
    """What trainings are told of the cluster."""
    if _address is None:
        return {}
    limit = os.environ.get(TIMEOUT)
    return {"ray_address": _address, **({"cluster_timeout_s": float(limit)} if limit else {})}
