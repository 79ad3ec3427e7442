"""The process that runs trials, from the side that has it run them: `poise.tuning.worker` is the
other."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

from poise.children.launch import start
from poise.children.pipe import Pipe
from poise.stepping.advice import CORES
from poise.tuning.scratch import Scratch


class Process:
    """One process, which is told to count on so many processor cores; it starts with its first job.

    Raises:
        EOFError, OSError: (from all that talks with it) it has ended.
    """

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self.process: subprocess.Popen[bytes] | None = None
        self.pipe: Pipe

    def begin(self, job: Any, packed: Callable[[Any], bytes]) -> None:
        """Gives it a job, as bytes; waits until it can take one."""
        data = packed(job)
        if self.process is None:
            own = {"start_new_session": os.name == "posix"}  # Ctrl-C is the search's
            env = {CORES: str(self.cores)}
            self.process, self.pipe = start("poise.tuning.worker", env=env, **own)
        self.pipe.receive()
        self.pipe.send_bytes(data)

    def receive(self) -> dict[str, Any]:
        """The next that it says."""
        return dict(self.pipe.receive())

    def send(self, message: dict[str, Any]) -> None:
        """Tells it something."""
        self.pipe.send(message)

    def end(self) -> str:
        """Ends it; returns how it ended."""
        if self.process is None:
            return "it was never begun"
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            code = self.process.wait(0.5)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return f"its process ended with code {code}"

    def kill(self) -> None:
        """Ends it at once, with the processes that its environments have begun."""
        if self.process is None or self.process.poll() is not None:
            return
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()


class Guest(Process):
    """One whose search is on another machine.

    Attributes:
        scratch: a folder here, for what its trials write; it outlives the process.
    """

    def __init__(self, cores: int) -> None:
        super().__init__(cores)
        self.scratch = Scratch("trials")
