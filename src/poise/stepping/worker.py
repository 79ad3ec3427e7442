"""The process that steps environments for a driver; `poise.stepping.process` starts it.

It imports no PyTorch, reads commands from its standard input and ends when that ends, so that no
worker outlives its driver. Observations, actions and rewards are in memory that it shares with the
driver.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from typing import Any

import cloudpickle

from poise.children.launch import begin
from poise.children.pipe import Pipe, encoded
from poise.envs.old_gym import WrongApiError
from poise.envs.raised import own_traceback, said
from poise.errors import EnvError
from poise.spaces.layout import Layout
from poise.stepping.arrays import SharedMemory, StepArrays
from poise.stepping.calls import Call
from poise.stepping.failures import Failure
from poise.stepping.inline import InlineVectorEnv


def main(driver: str, traces: str, lasting: str) -> None:
    """Serves the driver at the other end of the standard streams.

    Args:
        driver: the id of its process.
        traces: the file descriptor for tracebacks of a crash or a hang; -1 for none.
        lasting: `lasting` if the thread that started this process lives as long as the driver, else
            `passing`.
    """
    _die_with(int(driver), lasting=lasting == "lasting")
    pipe, trace = begin(), int(traces)
    # C code writes them, which needs no interpreter lock.
    if trace >= 0:
        faulthandler.enable(trace)
        if hasattr(faulthandler, "register"):
            faulthandler.register(signal.SIGUSR1, trace, all_threads=False)
    with contextlib.suppress(EOFError, BrokenPipeError):
        _serve(pipe)
    os._exit(0)  # whatever threads the environments have left behind


def _serve(pipe: Pipe) -> None:
    """Makes the environments and does what the driver asks, until the driver is gone."""
    about = pipe.receive()
    try:
        from poise.envs.make import recipe_maker

        # It comes from the driver, whose child this is, and from nobody else.
        about.update(cloudpickle.loads(pipe.receive()))
        env = InlineVectorEnv(
            recipe_maker(about),
            about["num_envs"],
            worker=about["worker"],
            total_envs=about.get("total_envs"),
        )
        layouts = Layout(env.single_observation_space), Layout(env.single_action_space)
        pipe.send({"spaces": [layout.to_json() for layout in layouts]})
    except BaseException as error:
        pipe.send({"error": _failure(error, about["worker"], "could not be made").to_json()})
        return
    where = pipe.receive()
    memory = SharedMemory.attach(where["key"], where["size"])
    arrays = StepArrays.carve(layouts, where["slots"], where["workers"], memory)
    arrays = arrays.part(where["first"], where["first"] + env.num_envs, where["place"])
    env.bind(arrays)
    for call in where["calls"]:  # those that changed the environments whose place these take
        env.call_each(Call(**call))
    actions = layouts[1].unflatten(arrays.actions)
    watch = _Memory(about["memory_limit"])
    while True:
        try:
            pipe.linger()
            command = pipe.receive()
        except EOFError:
            # Nobody is left to hear what went wrong.
            with contextlib.suppress(Exception):
                env.close()
            raise
        try:
            if command is None:
                env.send(actions)
                start = time.perf_counter_ns()
                infos = env.recv()[4]
                env.pulse[2] += time.perf_counter_ns() - start
                if not (infos or env.failures or watch.due()):
                    pipe.step()
                else:
                    pipe.send(_news(env, infos, watch))
            elif command["do"] == "reset":
                env.reset(seed=command["seed"], options=command["options"])
                pipe.send(_news(env, {}, watch))
            elif command["do"] == "call":
                pipe.send(_answer(env, Call(**command["call"])))
            elif command["do"] == "state":
                pipe.send({"state": env.state_dict()})
            elif command["do"] == "restore":
                fresh = env.load_state_dict(command["state"])
                pipe.send({"fresh": fresh, "failures": _failures(env)})
        except (EOFError, BrokenPipeError):
            raise
        except BaseException as error:
            pipe.send({"error": _failure(error, about["worker"], "failed").to_json()})
            return


def _answer(env: InlineVectorEnv, call: Call) -> dict[str, Any]:
    """The results of a call, or why there are none, for which the worker need not end."""
    try:
        results = env.call_each(call)
        encoded(results)
    except (EnvError, TypeError) as error:
        return {"problem": str(error)}
    return {"results": results}


def _news(env: InlineVectorEnv, infos: dict[str, Any], watch: _Memory) -> dict[str, Any]:
    """What a step has to tell beside the shared arrays."""
    return {"infos": infos, "failures": _failures(env), "memory": watch.excess()}


def _failures(env: InlineVectorEnv) -> list[dict[str, Any]]:
    return [failure.to_json() for failure in env.take_failures()]


def _failure(error: BaseException, worker: int, what: str) -> Failure:
    """Why this process ends."""
    if isinstance(error, EnvError):  # it is a sentence already
        return Failure("bug" if isinstance(error, WrongApiError) else "ended", str(error))
    sentence = f"The environment of worker {worker} {what}: {said(error)}."
    return Failure("ended", sentence, own_traceback(error))


class _Memory:
    """Looks now and then whether this process has become too large."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._next = 0.0

    def due(self) -> bool:
        """Whether the limit is exceeded; looks once a second."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + 1
        return self.excess() > 0

    def excess(self) -> int:
        """Bytes in use, if that is above the limit; else 0."""
        used = resident_bytes()
        return used if self.limit and used > self.limit else 0


def resident_bytes() -> int:
    """Memory that this process has in use; the most so far, if the system does not tell that."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _die_with(driver: int, *, lasting: bool) -> None:
    """Ends this process when its driver has ended, even while an environment hangs.

    On Linux the system sees to it. But to the system, the driver is the thread that started this
    process. If that thread may end before the driver does, or the system is not Linux, a thread of
    our own looks every second instead. That needs Python's interpreter lock, which an environment
    that hangs in C code may hold.
    """
    if sys.platform == "linux" and lasting:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != driver:
            os._exit(0)
    elif os.name == "posix":
        threading.Thread(target=_follow, args=(driver,), daemon=True).start()


def _follow(driver: int) -> None:
    while os.getppid() == driver:
        time.sleep(1)
    os._exit(0)
