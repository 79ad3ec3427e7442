"""The way to a Ray cluster: a new one on this machine, or one that runs already."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import version
from typing import Any

from poise.cluster.local import running
from poise.cluster.token import MODE, authenticate, check_ray, need_ray
from poise.envs.trust import admit_address
from poise.errors import ClusterError, nearest
from poise.install import version_of_poise
from poise.startup import ENDING
from poise.stepping.advice import available_cores

LOOKS, LOOK_S = 10, 0.1
"""How often it is looked whether CPUs are held, and seconds in between: a run that has just ended
gives its own back in a moment."""

LOCAL = "local"
"""The address of a Ray of this process's own, on this machine."""


def ray_of(address: str) -> Any:
    """The package `ray`, connected to a cluster.

    Args:
        address: `local`, `auto` (the cluster that `RAY_ADDRESS` names, that of `poise cluster
            local`, or another of this machine), `HOST:PORT`, or `ray://HOST:PORT`. A process that
            is connected to a Ray already stays with it.

    Raises:
        ClusterError: Ray is not installed, there is no such cluster, or it lets nobody in; or this
            process is connected to another than the one at `HOST:PORT`.
    """
    admit_address(address)
    address = str(address)  # Ray takes no text of another class
    if address not in (LOCAL, "auto") and ":" not in address:
        raise ClusterError(
            f"ray_address={address!r} is not allowed: it must be 'local', 'auto', HOST:PORT or "
            f"ray://HOST:PORT.{nearest(address, (LOCAL, 'auto'))}"
        )
    need_ray()
    ray: Any = import_module("ray")
    if ray.is_initialized():
        there = getattr(ray.get_runtime_context(), "gcs_address", address)
        # Ports decide: a head has several names.
        if _is_head(address) and there.rpartition(":")[2] != address.rpartition(":")[2]:
            raise ClusterError(
                f"ray_address={address!r}: this process is connected to the Ray at {there} already."
                " Call ray.shutdown() first, or use another process."
            )
        return ray
    if address == "auto" and "RAY_ADDRESS" not in os.environ and (found := running()):
        address = found.address
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray tells its makers else
    own: dict[str, Any] = {}
    if address == LOCAL:
        authenticate(loopback=True)
        own = {"num_cpus": available_cores(), "include_dashboard": False}
    elif (host := _head(address)) is not None:
        check_ray(host, allow_no_token=os.environ.get(MODE) == "disabled")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    with _own_handlers():
        try:
            ray.init(address=address, namespace="poise", **own, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            said = " ".join(str(error).split())
            raise ClusterError(
                f"ray_address={address!r}: no Ray cluster answers there ({said}). 'local' starts "
                "one on this machine, and null samples here without Ray."
            ) from None
    _silence()
    return ray


def _head(address: str) -> str | None:
    """Where the head of a cluster answers; None where only Ray can tell."""
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address

        address = os.environ.get("RAY_ADDRESS") or canonicalize_bootstrap_address("auto") or ""
    return address if _is_head(address.removeprefix("ray://")) else None


def _is_head(address: str) -> bool:
    return ":" in address and "://" not in address


def _silence() -> None:
    """Keeps Ray from printing the ends of workers and machines, with pages of its own logs: they
    are Poise's to tell, with their cause."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    with suppress(ImportError, AttributeError):
        import ray._private.worker as worker

        worker.print_to_stdstream = lambda *_, **__: None


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Puts the handlers of signals back that Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def about_here() -> dict[str, str]:
    """Which machine this is, and what must be the same on all machines."""
    import ray

    return {
        "host": socket.gethostname(),
        "node": ray.get_runtime_context().get_node_id(),
        "Python": ".".join(map(str, sys.version_info[:2])),
        "Poise": version_of_poise(),
        "PyTorch": version("torch").partition("+")[0],
    }


def check_same(who: str, theirs: dict[str, str]) -> None:
    """Compares what `about_here` is elsewhere.

    Raises:
        ClusterError: it is not the same.
    """
    own = {name: it for name, it in about_here().items() if name not in ("host", "node")}
    if others := [f"{name} {theirs[name]}" for name, it in own.items() if theirs[name] != it]:
        listed = ", ".join(f"{name} {it}" for name, it in own.items())
        raise ClusterError(
            f"{who} on {theirs['host']} has {', '.join(others)}, "
            f"and this process {listed}: all machines of a cluster need the same."
        )


def why(error: Exception) -> str:
    """The cause that Ray tells of an actor's end, or of what failed in it."""
    from ray.exceptions import RayActorError

    told = str(error).partition("Some common causes")[0].strip()
    # Of a traceback, also that of what an actor began with, the last line is the error.
    if not isinstance(error, RayActorError) or "in its creation task" in told:
        return (told.splitlines() or [type(error).__name__])[-1].strip()[:600]
    told = " ".join(told.split())
    for beginning in ("The actor is dead because ", "The actor died because "):
        told = told.rpartition(beginning)[2]
    return told[:600]


def end(actor: Any) -> None:
    """Ends an actor at once, if there is one."""
    import ray

    with suppress(ray.exceptions.RayError, ValueError):
        ray.kill(actor) if actor is not None and ray.is_initialized() else None


def crowd(ray: Any) -> str:
    """A sentence, where nodes on this machine offer more CPUs than it has; nothing else."""
    name, cores = socket.gethostname(), available_cores()
    here = [each["Resources"] for each in nodes(ray) if each["NodeManagerHostname"] == name]
    if (offered := sum(each.get("CPU", 0) for each in here)) <= cores:
        return ""
    return f" Nodes on this machine offer {offered:g} CPUs and share its {cores} cores."


def nodes(ray: Any) -> list[dict[str, Any]]:
    """The machines that are there now, the head first."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return sorted(alive, key=lambda node: "node:__internal_head__" not in node["Resources"])


def free_now(ray: Any) -> Any:
    """What is free on each machine, by its node's id."""
    found, elsewhere = ray._private.state.available_resources_per_node, ray.remote(num_cpus=0)
    return ray.get(elsewhere(found).remote()) if ray.util.client.ray.is_connected() else found()


def cpus_now(ray: Any) -> list[tuple[float, float]]:
    """CPUs of each machine, the head first, and how many of them are free."""
    for look in range(LOOKS):
        time.sleep(LOOK_S if look else 0)
        free, there = free_now(ray), nodes(ray)
        has = [
            (n["Resources"].get("CPU", 0), free.get(n["NodeID"], {}).get("CPU", 0)) for n in there
        ]
        if all(total == free for total, free in has):
            break
    return has


def free_cpus(
    has: list[tuple[float, float]], learners: int = 1, cpus: float = 1.0
) -> tuple[int, str]:
    """Workers of so many CPUs each that there is place for beside the learners, and the arithmetic.

    Args:
        has: what `cpus_now` returned.
        learners: how many there are.
        cpus: of each worker.
    """
    free = sum(each for _, each in has)
    held = sum(total for total, _ in has) - free
    # A worker is on one machine: what is left over on several does not add up.
    places = [int(each / cpus + 1e-9) for each in (free - learners, *(each for _, each in has))]
    workers = min(places[0], sum(places[1:]))
    others = f" - {held:g} that others hold" if held else ""
    whom = "the learner" if learners == 1 else "learners"
    each_has = "" if cpus == 1 else f", {cpus:g} for each worker on one machine"
    listed = " + ".join(f"{total:g}" for total, _ in has)
    why = f"{listed} CPUs{others} - {learners} for {whom}{each_has}"
    if workers < 1:
        return 1, f"{why} leaves none, and there is always 1 worker"
    return workers, f"{why} = {workers} worker{'s' * (workers > 1)}"
