"""`ray`, as RLlib's tutorials use it: on this machine nothing has to be started, and an address has
trainings run their samplers on that cluster."""

from __future__ import annotations

import sys
from typing import Any

from poise.compat import cluster
from poise.compat.ray import rllib, tune
from poise.stepping.advice import available_cores

__all__ = ["init", "is_initialized", "rllib", "shutdown", "tune"]

_begun = False


def init(address: str | None = None, *, num_cpus: int | None = None, **_: Any) -> dict[str, Any]:
    """Takes a cluster for the trainings that follow, or this machine, and says what differs from
    what was asked for; see `poise.compat.cluster.choose`."""
    global _begun
    _begun = True
    cores, found = available_cores(), cluster.choose(address)
    if found is None and num_cpus is not None and num_cpus > cores:
        print(f"num_cpus={num_cpus}: this machine has {cores}, which are used.", flush=True)
    return {"node_ip_address": "127.0.0.1", "num_cpus": cores, "address": found}


def is_initialized() -> bool:
    """Whether `init` was called."""
    return _begun


def shutdown(*_: Any, **__: Any) -> None:
    """Leaves the cluster, if there is one."""
    global _begun
    _begun = False
    if cluster.forget() and "ray" in sys.modules:
        sys.modules["ray"].shutdown()
