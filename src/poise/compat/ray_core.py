"""Ray's own functions: on this machine nothing has to be started, and an address has trainings run
their samplers on that cluster. Tasks and actors run at once, in this process."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from poise.compat import cluster
from poise.errors import PoiseWarning, nearest
from poise.stepping.advice import available_cores

KNOWN = {
    "num_gpus", "local_mode", "ignore_reinit_error", "include_dashboard", "include_webui",
    "dashboard_host", "dashboard_port", "object_store_memory", "memory", "redis_max_memory",
    "logging_level", "log_to_driver", "webui_host", "redis_password", "redis_address", "resources",
    "temp_dir", "_temp_dir", "lru_evict", "runtime_env", "namespace", "job_config", "_memory",
    "configure_logging", "logging_format", "driver_object_store_memory", "_redis_password",
    "_system_config", "num_redis_shards", "storage", "_node_ip_address", "labels",
}  # fmt: skip
"""What else `ray.init` takes, which says how Ray does its work."""

_begun = False


def init(address: str | None = None, *, num_cpus: int | None = None, **more: Any) -> dict[str, Any]:
    """Takes a cluster for the trainings that follow, or this machine, and says what differs from
    what was asked for; see `poise.compat.cluster.choose`.

    Raises:
        TypeError: an argument that Ray has not, either; the sentence has the nearest.
    """
    global _begun
    for key in more:
        if key not in KNOWN:
            known = [*KNOWN, "address", "num_cpus"]
            raise TypeError(f"ray.init has no argument {key!r}.{nearest(key, known)}")
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


def cluster_resources() -> dict[str, float]:
    """The cores of this machine."""
    return {"CPU": float(available_cores())}


available_resources = cluster_resources


def nodes() -> list[dict[str, Any]]:
    """This machine."""
    return [{"Alive": True, "NodeManagerAddress": "127.0.0.1", "Resources": cluster_resources()}]


class Ref:
    """What a task has returned."""

    def __init__(self, value: Any) -> None:
        self.value = value


def put(value: Any) -> Ref:
    """A reference to a value."""
    return Ref(value)


def get(refs: Any, **_: Any) -> Any:
    """The value of a reference, or the values of several."""
    if isinstance(refs, (list, tuple)):
        return [get(each) for each in refs]
    return refs.value if isinstance(refs, Ref) else refs


def wait(refs: Sequence[Any], *, num_returns: int = 1, **_: Any) -> tuple[list[Any], list[Any]]:
    """The first so many, which are ready, and the others."""
    return list(refs[:num_returns]), list(refs[num_returns:])


def kill(*_: Any, **__: Any) -> None:
    """There is nothing to do: an actor is an object."""


class _Remote:
    """A function, a class or a method that is called by `.remote(...)`."""

    def __init__(self, called: Any) -> None:
        self._called = called
        self.__doc__ = called.__doc__

    def remote(self, *args: Any, **how: Any) -> Any:
        """Calls it at once."""
        made = self._called(*map(get, args), **{key: get(value) for key, value in how.items()})
        return _Actor(made) if isinstance(self._called, type) else Ref(made)

    def options(self, *_: Any, **__: Any) -> Any:
        """Itself."""
        return self


class _Actor:
    """An object whose methods are called by `.remote(...)`."""

    def __init__(self, own: Any) -> None:
        self.__dict__["_own"] = own

    def __getattr__(self, name: str) -> Any:
        return _Remote(getattr(self._own, name))


def remote(*given: Any, **_: Any) -> Any:
    """Makes a function or a class callable by `.remote(...)`, which runs it at once."""
    warnings.warn(
        "ray.remote runs tasks and actors at once, in this process: what Ray spreads over machines "
        "needs Ray itself.", PoiseWarning, stacklevel=2,
    )  # fmt: skip
    return _Remote(given[0]) if given else _Remote
