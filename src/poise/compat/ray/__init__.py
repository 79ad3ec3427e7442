"""`ray`, as RLlib's tutorials use it: nothing has to be started, since all runs on this machine."""

from __future__ import annotations

from typing import Any

from poise.compat.ray import rllib, tune
from poise.stepping.advice import available_cores

__all__ = ["init", "is_initialized", "rllib", "shutdown", "tune"]

_begun = False


def init(address: str | None = None, *, num_cpus: int | None = None, **_: Any) -> dict[str, Any]:
    """Says what differs from what was asked for: runs have this machine's cores, no cluster."""
    global _begun
    _begun = True
    cores = available_cores()
    if num_cpus is not None and num_cpus > cores:
        print(f"num_cpus={num_cpus}: this machine has {cores}, which are used.", flush=True)
    if address not in (None, "local", "auto"):
        print(f"address={address!r}: it runs on this machine.", flush=True)
    return {"node_ip_address": "127.0.0.1", "num_cpus": cores}


def is_initialized() -> bool:
    """Whether `init` was called."""
    return _begun


def shutdown(*_: Any, **__: Any) -> None:
    """There is nothing to end."""
    global _begun
    _begun = False
