"""Python processes that have PyTorch in memory when they begin.

Forks of one that has imported it, in 0.1 s for 3 s.

`run` and `Popen` are those of `subprocess`. Where a command begins with `sys.executable`, they make
a process of its own, with its streams, folder, environment, session and signals, which imports
Poise anew; only `HEAVY` is there before it begins. After `install`, searches that this process or
such a one begins have warm workers as well.

The usual ones remain where what is imported, or how a process ends, is what is tested, and on
systems other than Linux.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import importlib
import inspect
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

HEAVY = (
    "torch",
    "torch.utils.tensorboard",
    "gymnasium",
    "matplotlib.pyplot",
    "pandas",
    "optuna",
    "rich.live",
)
"""What is imported beforehand, where it is installed."""

ADDRESS = "POISE_TESTS_WARM"
"""The environment variable with the parent's socket, in Linux's own name space: it has no file."""

WORKER = "poise.tuning.worker"
"""In the command of a search's worker."""

_Usual = subprocess.Popen
_GIVEN = inspect.signature(_Usual._execute_child)  # type: ignore[attr-defined]

_beginning = threading.Lock()
_parent: subprocess.Popen[bytes] | None = None


class Popen(_Usual):
    """A process of the command `[sys.executable, ...]`."""

    _end: socket.socket | None = None

    def _execute_child(self, *given: Any) -> None:
        of = _GIVEN.bind(self, *given).arguments
        if not self._is_warm(of["args"]):
            super()._execute_child(*given)  # type: ignore[misc]
            return
        assert of["preexec_fn"] is None
        pipes = [
            of[name]
            for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        ]
        streams = [
            end if end >= 0 else number for number, end in enumerate((pipes[0], pipes[3], pipes[5]))
        ]
        request = {
            "args": [os.fspath(each) for each in of["args"][1:]],
            "folder": os.fspath(of["cwd"] or os.getcwd()),
            "environment": dict(os.environ if of["env"] is None else of["env"]),
            "session": bool(of["start_new_session"]),
        }
        self._end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._end.connect(address())
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(request).encode())
            file.flush()
            files = array.array("i", [*streams, file.fileno()])
            self._end.sendmsg([b"begin"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
            self.pid = int(self._end.recv(99))
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _is_warm(self, args: Any) -> bool:
        return (
            sys.platform == "linux" and not isinstance(args, str) and str(args[0]) == sys.executable
        )

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        """As `os.waitpid`, which knows a process's own children.

        The status comes from the one whose child it is.
        """
        if self._end is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc, no-any-return]
        if wait_flags and not select.select([self._end], [], [], 0)[0]:
            return 0, 0
        return self.pid, int(self._end.recv(99))

    def _internal_poll(self, *args: Any, **options: Any) -> int | None:
        if self._end is None:
            return super()._internal_poll(*args, **options)  # type: ignore[misc, no-any-return]
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)  # type: ignore[attr-defined]
        return self.returncode


class _Workers(Popen):
    """Warm where it is a search's worker."""

    def _is_warm(self, args: Any) -> bool:
        return super()._is_warm(args) and any(WORKER in str(each) for each in args)


def run(*args: Any, **options: Any) -> subprocess.CompletedProcess[Any]:
    with mock.patch.object(subprocess, "Popen", Popen):
        return subprocess.run(*args, **options)


def install() -> None:
    """From now on, searches of this process have warm workers."""
    subprocess.Popen = _Workers  # type: ignore[misc]


def guest(name: str, cores: int) -> Any:
    """A worker for trials of a search on a cluster, whose processes begin warm.

    Args:
        name: what `ADDRESS` is where the search is.
        cores: as `poise.tuning.process.Guest` takes them.
    """
    from poise.tuning.process import Guest

    os.environ[ADDRESS] = name
    install()
    return Guest(cores)


def address() -> str:
    """That of the parent, which begins when it is needed, and ends with this process."""
    global _parent
    with _beginning:
        if ADDRESS not in os.environ:
            name = f"poise-tests-{os.getpid()}"
            environment = {**os.environ, ADDRESS: name, "MPLBACKEND": "agg"}
            command = [sys.executable, __file__]
            _parent = _Usual(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
            assert _parent.stdout is not None
            _parent.stdout.read(1)
            os.environ[ADDRESS] = name
    return f"\0{os.environ[ADDRESS]}"


# --- in the parent --------------------------------------------------------------------------------


def serve() -> dict[str, Any]:
    """Returns in the new processes only, each with what it is to do."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(address())
    server.listen(64)
    os.write(1, b"!")
    while True:
        # Now and then, whoever has ended is let go.
        ready, _, _ = select.select([server, 0], [], [], 1.0)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if 0 in ready:  # the tests have ended
            os._exit(0)
        if server in ready:
            end, _ = server.accept()
            if os.fork() == 0:
                server.close()
                return begin(end)
            end.close()


def begin(end: socket.socket) -> dict[str, Any]:
    """Forks the process itself, where it returns; here its status is waited for."""
    _, files, _, _ = socket.recv_fds(end, 99, 4)
    child = os.fork()
    if child:
        for each in (0, 1, 2, *files):
            os.close(each)
        with contextlib.suppress(OSError):  # whoever asked has ended
            end.send(str(child).encode())
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(OSError):
            end.send(str(status).encode())
        os._exit(0)
    end.close()
    with open(files.pop(), "rb") as file:
        file.seek(0)
        request = dict(json.load(file))
    for number, each in enumerate(files):
        os.dup2(each, number)
    for each in files:
        os.close(each)
    return request


def become(request: dict[str, Any]) -> tuple[str, str]:
    """Takes what a new interpreter would have: environment, folder, path, arguments, streams.

    Returns what it runs, and how.
    """
    import numpy as np
    import torch

    if request["session"]:
        os.setsid()
    old = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    libraries = [each for each in sys.path[1:] if each not in old]
    parent = os.environ[ADDRESS]
    os.environ.clear()
    os.environ.update({**request["environment"], ADDRESS: parent})
    os.chdir(request["folder"])
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if "PYTHONWARNINGS" in os.environ:
        warnings.simplefilter(os.environ["PYTHONWARNINGS"])  # type: ignore[arg-type]
    np.random.seed()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        raw = open(number, "wb" if number else "rb", closefd=False)  # noqa: SIM115
        by_line = number == 2 or (
            number == 1 and (raw.isatty() or "PYTHONUNBUFFERED" in os.environ)
        )
        setattr(sys, name, io.TextIOWrapper(raw, encoding="utf-8", line_buffering=by_line))
    how, *rest = request["args"]
    if how not in ("-c", "-m"):
        how, rest = "script", [how, *rest]
    first = {"-c": "", "-m": os.getcwd(), "script": str(Path(rest[0]).resolve().parent)}[how]
    theirs = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [first, *theirs, *libraries]
    sys.argv[:] = ["-c" if how == "-c" else rest[0], *rest[1:]]
    return how, rest[0]


def execute(how: str, what: str) -> int:
    """Runs it as `__main__`; its exit code."""
    try:
        if how == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            name = what if how == "script" else "<string>"
            if how == "script":
                main.__file__ = what
            exec(
                compile(Path(what).read_bytes() if how == "script" else what, name, "exec"),
                main.__dict__,
            )
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        traceback.print_exception(
            type(error), error, error.__traceback__ and error.__traceback__.tb_next
        )
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the tests'
    for library in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    gc.collect()
    gc.freeze()  # what is not looked at is not copied
    task = become(serve())
    install()
    code = execute(*task)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)  # without freeing one by one what the parent had in memory


if __name__ == "__main__":
    main()
