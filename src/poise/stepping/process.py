"""One worker process, seen from its driver: its start, its life and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np

from poise.children.launch import start
from poise.stepping.arrays import StepArrays
from poise.stepping.failures import Failure
from poise.stepping.inline import MAKING, RESETTING

_LOOK = 0.2  # seconds between two looks at a worker's pulse


@dataclass(frozen=True)
class Limits:
    """Seconds that one environment may take, and bytes that one worker may use.

    Attributes:
        make, reset, step: an environment that takes longer hangs.
        memory: a worker process that uses more is replaced; 0 is no limit.
    """

    make: float = 300.0
    reset: float = 120.0
    step: float = 60.0
    memory: int = 0

    def of(self, phase: int) -> float:
        """The time limit of a phase of `poise.stepping.inline`."""
        return {MAKING: self.make, RESETTING: self.reset}.get(phase, self.step)


class State(Enum):
    """What a worker is doing."""

    MAKING = auto()
    """It makes its environments."""
    RESETTING = auto()
    """It resets them, or answers a question about them."""
    READY = auto()
    """It waits for a command."""
    STEPPING = auto()
    """It has been told to step."""
    ENDED = auto()
    """Its process is gone, and a new one may be started at `again_at`."""


class WorkerDiedError(Exception):
    """A worker failed as a whole; it holds the `Failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Worker:
    """A process that steps some of a batch's environments.

    Args:
        index: its number among all workers of a run.
        place: its number among those of its batch.
        slots: the environments of the batch that it steps.
        limits: of its environments.

    Attributes:
        state: what it is doing.
        incarnation: how often it was started anew.
        again_at: when it may be started again, once it has ended.
        false_starts: how often in a row it failed before its first step.
    """

    def __init__(self, index: int, place: int, slots: slice, limits: Limits) -> None:
        self.index, self.place, self.slots, self.limits = index, place, slots, limits
        self.state = State.ENDED
        self.incarnation = -1
        self.again_at = 0.0
        self._process: subprocess.Popen | None = None
        self.false_starts = 0
        self._pulse: np.ndarray | None = None
        self._beat = 0
        self._since = 0.0  # when the present command was given, or the pulse last moved

    @property
    def size(self) -> int:
        """Its number of environments."""
        return int(self.slots.stop - self.slots.start)

    def start(self, recipe: bytes, descriptors: tuple[int, ...]) -> None:
        """Starts the process, which makes its environments by a pickled recipe."""
        self.incarnation += 1
        posix = os.name == "posix"
        # The file lives as long as the process, and is closed with it.
        self._trace = tempfile.TemporaryFile() if posix else None  # noqa: SIM115
        trace = self._trace.fileno() if self._trace else -1
        lasting = "lasting" if threading.current_thread() is threading.main_thread() else "passing"
        passed = {"pass_fds": (*descriptors, trace)} if posix else {}
        self._process, self.pipe = start(
            "poise.stepping.worker", os.getpid(), trace, lasting, **passed
        )
        self.begin(State.MAKING)
        about = {"worker": self.index, "num_envs": self.size, "memory_limit": self.limits.memory}
        self._send(lambda: self.pipe.send(about))
        self._send(lambda: self.pipe.send_bytes(recipe))

    def attach(self, arrays: StepArrays) -> None:
        """Watches the worker's pulse in the arrays of its batch."""
        self._pulse = arrays.part(self.slots.start, self.slots.stop, self.place).pulse

    @property
    def pid(self) -> int | None:
        """The id of its process, while it has one."""
        return None if self._process is None else self._process.pid

    @property
    def busy(self) -> float:
        """Seconds that it has spent stepping, those before it was started anew included."""
        return 0.0 if self._pulse is None else float(self._pulse[0, 2]) * 1e-9

    def begin(self, state: State) -> None:
        """Notes what it was told to do, and when."""
        self.state = state
        self._moved()
        self._since = time.monotonic()

    def step(self) -> None:
        """Tells it to step."""
        self.begin(State.STEPPING)
        self._send(self.pipe.step)

    def ask(self, message: dict[str, Any], state: State) -> None:
        """Tells it to do something else than to step."""
        self.begin(state)
        self._send(lambda: self.pipe.send(message))

    def _send(self, write: Any) -> None:
        """Writes to the pipe, and raises `WorkerDiedError` if nobody is at its other end."""
        try:
            write()
        except (BrokenPipeError, OSError):
            raise WorkerDiedError(self._how_it_ended()) from None

    def answered(self, wait: bool = True) -> bool:
        """Whether an answer is there; with `wait`, waits for it as long as it may take.

        Raises:
            WorkerDiedError: it hangs.
        """
        while not self.pipe.ready(_LOOK if wait else 0.0):
            if self._moved():  # on to the next environment, which has a time limit of its own
                self._since = time.monotonic()
            elif time.monotonic() - self._since > self._limit():
                raise WorkerDiedError(self._how_it_hangs())
            if not wait:
                return False
        return True

    def _moved(self) -> bool:
        """Whether its pulse has moved since the last look."""
        before, self._beat = self._beat, 0 if self._pulse is None else int(self._pulse[0, 0])
        return before != self._beat

    def _phase(self) -> int:
        if self.state == State.STEPPING and self._pulse is not None:
            return int(self._pulse[0, 1])  # a step may include a reset, and a fresh instance
        return MAKING if self.state == State.MAKING else RESETTING

    def _limit(self) -> float:
        """The time limit of what it does now.

        All environments are made before the pulse can be seen; later, each has a limit of its own.
        """
        return self.limits.of(self._phase()) * (self.size if self.state == State.MAKING else 1)

    def receive(self) -> Any:
        """Its answer: None for a step with nothing to tell, else a dict.

        Raises:
            WorkerDiedError: it ended, or it tells that it failed.
        """
        try:
            answer = self.pipe.receive()
        except (EOFError, OSError):
            raise WorkerDiedError(self._how_it_ended()) from None
        if answer is not None and "error" in answer:
            raise WorkerDiedError(Failure(**answer["error"]))
        if self.state == State.STEPPING:
            self.false_starts = 0
        self.state = State.READY
        return answer

    def _how_it_ended(self) -> Failure:
        """The failure of a worker whose process is gone, or does not talk any more."""
        assert self._process is not None
        try:
            code: int | None = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            code = None
        if code is None:
            how = "closed its end of the pipe"
        elif code >= 0:
            how = f"ended with exit code {code}"
        else:
            why = ", as the system does when memory runs out," if -code == signal.SIGKILL else ""
            how = f"was ended by {signal.Signals(-code).name}{why}"
        return Failure(
            "ended", f"Worker {self.index} {how} while it {self._doing()}.", self._last_trace()
        )

    def _how_it_hangs(self) -> Failure:
        """The failure of a worker that takes too long, with a traceback from where it is."""
        phase = {MAKING: "made", RESETTING: "reset"}.get(self._phase(), "stepped")
        # C code in the process writes a traceback, whoever holds the interpreter lock.
        if self._process is not None and self._trace is not None:
            self._process.send_signal(signal.SIGUSR1)
            time.sleep(0.1)
        limit = self.limits.of(self._phase())
        what = (
            f"An environment of worker {self.index} hangs: "
            f"it has been {phase} for more than {limit:g} s."
        )
        return Failure("hung", what, self._last_trace())

    def _doing(self) -> str:
        verbs = {State.MAKING: "made", State.RESETTING: "reset", State.STEPPING: "stepped"}
        verb = verbs.get(self.state)
        return f"{verb} its environments" if verb else "waited"

    def _last_trace(self) -> str:
        """The traceback that the process wrote, without lines that are not the environment's."""
        if self._trace is None:
            return ""
        self._trace.seek(0)
        text = self._trace.read().decode(errors="replace").strip()
        noise = "/poise/envs/", "/poise/stepping/", "<string>", "Extension modules:"
        lines = text.splitlines()
        kept = [x for x in lines if not any(part in x.replace(os.sep, "/") for part in noise)]
        return "\n".join(kept).rstrip()

    def restart_later(self) -> None:
        """Ends the process; a new one may follow, later if the last ones failed at the start."""
        if self.state in (State.MAKING, State.RESETTING):
            self.false_starts += 1
        self.end()
        wait = min(0.1 * 2**self.false_starts, 10.0) if self.false_starts else 0.0
        self.again_at = time.monotonic() + wait

    def dismiss(self) -> None:
        """Lets it close its environments and end by itself, if nothing holds it up."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def end(self, seconds: float = 0.0) -> None:
        """Ends the process, after it had so many seconds to end by itself."""
        self.state = State.ENDED
        if self._process is None:
            return
        self.dismiss()
        if seconds:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._trace):
            if stream is not None:
                stream.close()
        self._process = None
