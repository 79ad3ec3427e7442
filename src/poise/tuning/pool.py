"""Processes that run trials in parallel; they import PyTorch once, not for every trial.

Each has a thread here that gives it trials and takes its reports; the study decides, one call at a
time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from typing import Any

import cloudpickle

from poise.children.launch import start
from poise.errors import RunError
from poise.stepping.advice import CORES, available_cores
from poise.tuning.study import Study

GRACE_S = 120.0
"""Seconds that runs may take to end once they are told to.

Then their processes are killed: a search that is taken up again goes on from their checkpoints.
"""


class Pool:
    """Workers, each with its share of the cores.

    Args:
        desk: the study, which hands out what is to run; it is called by one thread at a time.
        size: how many.

    Attributes:
        changed: to be held by whoever looks at the desk meanwhile; notified when anything happens.
        stopping: the reason why no more is handed out, if there is one.
    """

    def __init__(self, desk: Study, size: int) -> None:
        self.desk, self.cores = desk, max(1, available_cores() // size)
        self.changed = threading.Condition()
        self.stopping: str | None = None
        self._told = 0.0
        self._error: BaseException | None = None
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(size)]
        self._workers: set[Worker] = set()

    def __enter__(self) -> Pool:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None:
            self.stop("interrupted")
        with self.changed:
            workers = list(self._workers)
        for thread in self._threads:
            thread.join(5.0)
        for worker in workers:
            worker.end()

    def wait(self, seconds: float) -> bool:
        """Waits so long for anything to happen; returns whether all is done.

        Raises:
            BaseException: what a method of the study raised in one of the threads.
        """
        with self.changed:
            self.changed.wait(seconds)
            if self._error is not None:
                raise self._error
            if self.stopping is not None and time.monotonic() > self._told + GRACE_S:
                for worker in self._workers:
                    worker.kill()
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self, reason: str) -> None:
        """Ends all runs at their next boundary, and hands out no more."""
        if self.stopping is None:  # without the lock: it may come from a signal's handler
            self._told = time.monotonic()
            self.stopping = reason

    def _serve(self) -> None:
        """What a thread does: it has jobs done by a worker, until there are no more."""
        worker: Worker | None = None
        try:
            while True:
                job = self._take()
                if job is None:
                    return
                worker = worker or self._hire()
                end = self._follow(worker, job)
                if "died" in end and self.stopping:
                    return  # ended from here: nothing is to be held against it
                with self.changed:
                    self.desk.finish(job, end)
                    self.changed.notify_all()
                if "died" in end:
                    worker = None
        except BaseException as error:
            with self.changed:
                self._error = self._error or error
                self.stop("failed")
                self.changed.notify_all()
        finally:
            if worker is not None:
                worker.end()

    def _take(self) -> dict[str, Any] | None:
        """The next job; None at the end. It may come only when that of another worker has ended."""
        with self.changed:
            while self.stopping is None:
                job = self.desk.next_job()
                if job is not None or self.desk.done:
                    return job
                self.changed.wait(1.0)
        return None

    def _hire(self) -> Worker:
        worker = Worker(self.cores)
        with self.changed:
            self._workers.add(worker)
        return worker

    def _follow(self, worker: Worker, job: dict[str, Any]) -> dict[str, Any]:
        """Has a job done, and passes on what is said about it; returns how it ended."""
        told = False
        try:
            worker.begin(job)
            while True:
                message = worker.pipe.receive()
                if "result" not in message:
                    return dict(message)
                with self.changed:
                    reason = self.desk.report(job, message["result"]) or self.stopping
                    self.changed.notify_all()
                if reason and not told:
                    told = True
                    worker.pipe.send({"stop": reason})
        except (EOFError, OSError):
            return {"died": worker.end()}


class Worker:
    """One process, which is told to count on so many processor cores."""

    def __init__(self, cores: int) -> None:
        own = {"start_new_session": os.name == "posix"}  # Ctrl-C is the search's
        self.process, self.pipe = start("poise.tuning.worker", env={CORES: str(cores)}, **own)
        self._ready = False

    def begin(self, job: dict[str, Any]) -> None:
        """Gives it a job; waits until it can take one."""
        try:
            data = cloudpickle.dumps(job)
        except Exception as error:
            raise RunError(f"What this search runs cannot go to other processes: {error}") from None
        self.pipe.receive()
        self.pipe.send_bytes(data)

    def end(self) -> str:
        """Ends it; returns how it ended."""
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
        if self.process.poll() is not None:
            return
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
