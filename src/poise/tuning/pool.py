"""Workers that run trials in parallel; they import PyTorch once, not for every trial.

Each has a thread here that gives it trials and takes its reports; the study decides, one call at a
time. Workers are processes on this machine, or live on a cluster (`poise.cluster.trials`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cloudpickle

from poise.errors import RunError
from poise.stepping.advice import available_cores
from poise.tuning.process import Process
from poise.tuning.study import Study

GRACE_S = 120.0
"""Seconds that runs may take to end once they are told to.

Then their processes are killed: a search that is taken up again goes on from their checkpoints.
"""


class Here:
    """Workers are processes on this machine, each with its share of the cores."""

    def __init__(self, size: int) -> None:
        self.size = size

    def room(self) -> int:
        """Workers that there is room for now, one at least."""
        return self.size

    def hire(self, wanted: Callable[[], bool]) -> Worker | None:
        """A worker; None where none is wanted any more."""
        return Process(max(1, available_cores() // self.size)) if wanted() else None


if TYPE_CHECKING:
    from poise.cluster.trials import RayTrials, RemoteWorker

    Home = Here | RayTrials
    Worker = Process | RemoteWorker


def packed(job: dict[str, Any]) -> bytes:
    """A job as it travels to the process that does it, whose driver this is.

    Raises:
        RunError: it holds something that cannot.
    """
    try:
        return bytes(cloudpickle.dumps(job))
    except Exception as error:
        raise RunError(f"What this search runs cannot go to other processes: {error}") from None


class Pool:
    """Workers, as many as there is room for; where a cluster grows, there are more.

    Args:
        desk: the study, which hands out what is to run; it is called by one thread at a time.
        home: where workers live.
        most: so many at a time.

    Attributes:
        changed: to be held by whoever looks at the desk meanwhile; notified when anything happens.
        stopping: the reason why no more is handed out, if there is one.
    """

    def __init__(self, desk: Study, home: Home, most: int) -> None:
        self.desk, self.home, self.most = desk, home, most
        self.changed = threading.Condition()
        self.stopping: str | None = None
        self._told = 0.0
        self._over = False
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._workers: set[Worker] = set()

    @property
    def size(self) -> int:
        """Runs at a time."""
        return min(self.home.room(), self.most)

    def __enter__(self) -> Pool:
        self._grow()
        return self

    def _grow(self) -> None:
        while len(self._threads) < self.size and self._wanted():
            self._threads.append(threading.Thread(target=self._serve, daemon=True))
            self._threads[-1].start()

    def _wanted(self) -> bool:
        """Whether there may be something to do."""
        return self.stopping is None and not self._over

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
        self._grow()
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
                worker = worker or self._hire()
                if worker is None or (job := self._take()) is None:
                    return
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
                    self._over = self._over or job is None
                    return job
                self.changed.wait(1.0)
        return None

    def _hire(self) -> Worker | None:
        worker = self.home.hire(self._wanted)
        if worker is not None:
            with self.changed:
                self._workers.add(worker)
        return worker

    def _follow(self, worker: Worker, job: dict[str, Any]) -> dict[str, Any]:
        """Has a job done, and passes on what is said about it; returns how it ended."""
        told = False
        try:
            worker.begin(job, packed)
            while True:
                message = worker.receive()
                if "result" not in message:
                    return message
                with self.changed:
                    reason = self.desk.report(job, message["result"]) or self.stopping
                    self.changed.notify_all()
                if reason and not told:
                    told = True
                    worker.send({"stop": reason})
        except (EOFError, OSError):
            return {"died": worker.end()}
