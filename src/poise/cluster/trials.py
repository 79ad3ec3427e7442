"""Trials on Ray: each in an actor that reserves what it needs, on whatever machine has that.

The study stays where the search was begun. No disk is shared: a trial writes into a folder on its
machine, and what it writes comes into the study's folder as it goes, so that it can go on elsewhere
from its last checkpoint when the machine is lost.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from poise.cluster.connect import (
    about_here,
    check_same,
    crowd,
    end,
    free_now,
    nodes,
    ray_of,
    why,
)
from poise.cluster.fetch import FIRST, GROWING, LOG, bring, taken
from poise.errors import ClusterError
from poise.tracking.folder import RunFolder

LOOK_S = 2.0
"""Seconds between two looks at what a trial has written."""
LISTEN_S, GATHER_S = 0.5, 0.1
"""Seconds for which an actor waits for its trial to say something, and for more of it, before it
passes that on."""
ROOM_S = 5.0
"""Seconds between two looks at how much room there is."""
SAY_S = 15.0
"""Seconds for which a trial waits for a machine until that is said, and said again."""
FALSE_STARTS = 3
"""Actors in a row that may end before they have said which machine they are on."""


class TrialActor:
    """Runs trials on the machine that it is on: a process does, as where there is no cluster.

    Args:
        make: makes that process, given the cores to count on (`poise.tuning.process.Guest`).
        cores: so many.
        folders: where the driver imports from; what is there on this machine, too, is added.
        here: the driver's current folder, which becomes this one's where it is on this machine.
    """

    def __init__(self, make: Any, cores: int, folders: list[str], here: str) -> None:
        sys.path += [each for each in folders if each not in sys.path and os.path.isdir(each)]
        with suppress(OSError):
            os.chdir(here)
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray's: a trial's threads are as without Ray
        self.process = make(cores)
        self.home: Path = self.process.scratch.path

    def hello(self) -> dict[str, str]:
        """See `about_here`; and where trials write."""
        return {**about_here(), "home": str(self.home)}

    def begin(self, job: bytes) -> None:
        """Begins a job, pickled by the driver, whose child this is."""
        self.process.begin(job, bytes)

    def listen(self) -> list[dict[str, Any]]:
        """What the trial has said since the last call; `died` where its process has."""
        said: list[dict[str, Any]] = []
        end = time.monotonic() + LISTEN_S
        try:
            while self.process.pipe.ready(max(end - time.monotonic(), 0)):
                said.append(self.process.receive())
                if "result" not in said[-1]:
                    break
                end = min(end, time.monotonic() + GATHER_S)
        except (EOFError, OSError):
            said.append({"died": self.process.end()})
        return said

    def send(self, message: dict[str, Any]) -> None:
        """Tells the trial something; nothing, if it has ended."""
        with suppress(OSError):
            self.process.send(message)

    def kill(self) -> None:
        """Ends the trial's process at once."""
        self.process.kill()

    def files(self, folder: str) -> list[str]:
        """The names of what there is in a folder, but for what is empty."""
        top, names = self.home / folder, list[str]()
        for file in (Path(at, name) for at, _, found in os.walk(top) for name in found):
            with suppress(OSError):  # it is gone by now
                if file.stat().st_size:
                    names.append(file.relative_to(top).as_posix())
        return names

    def read(self, file: str, lines: int) -> bytes | None:
        """A file's last lines, or all of it for -1; None if it is gone."""
        try:
            data = (self.home / file).read_bytes()
        except OSError:
            return None
        return data if lines < 0 else b"".join(data.splitlines(keepends=True)[-lines:])

    def write(self, file: str, content: bytes | str) -> None:
        """Writes a file; in the place of its content there may be the name of one that is equal."""
        path = self.home / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            os.link(self.home / content, path)
        else:
            path.write_bytes(content)

    def drop(self, folder: str) -> None:
        """Removes a folder."""
        shutil.rmtree(self.home / folder, ignore_errors=True)

    def end(self) -> None:
        """Ends the process, and leaves nothing behind."""
        self.process.end()
        self.process.scratch.remove()


class RemoteWorker:
    """One actor and, while it runs a trial, the trial's folder here and there.

    Args:
        actor: a `TrialActor`, which has said which machine it is on.
        about: what it has said.
        home: where it lives.
    """

    def __init__(self, actor: Any, about: dict[str, str], home: RayTrials) -> None:
        self.actor, self.about, self.home = actor, about, home
        self.folder: RunFolder | None = None
        self.there = ""
        self._said: list[dict[str, Any]] = []
        self._looked = 0.0
        self._how = "its worker has ended"

    def begin(self, job: dict[str, Any], packed: Callable[[Any], bytes]) -> None:
        folder = RunFolder(job["folder"])
        going_on = self.home.goes_on(folder)
        folder.claim()
        self.folder, self._said = folder, []
        self.there = f"{folder.path.parent.name}/{folder.path.name}"
        if going_on:
            self._lend()
        self._looked = time.monotonic()
        there = f"{self.about['home']}/{self.there}"
        self._ask("begin", packed({**job, "folder": there}))

    def receive(self) -> dict[str, Any]:
        while not self._said:
            self._said += self._ask("listen")
            over = any("result" not in each for each in self._said)
            if over or time.monotonic() - self._looked > LOOK_S:
                self._look(whole=over)
        message = self._said.pop(0)
        if "died" in message:
            self._how = f"{message['died']} on {self.about['host']}"
            raise EOFError
        if "error" in message:
            message["error"] = self._here(message["error"].encode()).decode()
        return message

    def send(self, message: dict[str, Any]) -> None:
        self._ask("send", message)

    def end(self) -> str:
        with suppress(RayError):
            ray.wait([self.actor.end.remote()], timeout=5.0)
        end(self.actor)
        self.home.workers.discard(self)
        self._release()
        return self._how

    def kill(self) -> None:
        self.actor.kill.remote()

    def _ask(self, what: str, *arguments: Any) -> Any:
        """Calls a method of the actor.

        Raises:
            EOFError: it is gone.
        """
        try:
            return ray.get(getattr(self.actor, what).remote(*arguments))
        except RayError as error:
            self._how = f"its worker on {self.about['host']} is gone ({why(error)})"
            raise EOFError from None

    def _lend(self) -> None:
        """Sends what the run needs to go on: what it has kept, with all of its checkpoints."""
        from poise.training.checkpoint import checkpoints

        assert self.folder is not None
        top, sent = self.folder.path, dict[tuple[int, int], str]()
        saved = [file for found in checkpoints(self.folder.checkpoints) for file in found.iterdir()]
        for file in (*saved, *(top / name for name in FIRST | GROWING - {LOG})):
            if file.is_file():
                there = f"{self.there}/{file.relative_to(top).as_posix()}"
                found = file.stat()
                twin = sent.setdefault((found.st_dev, found.st_ino), there)
                self._ask("write", there, file.read_bytes() if twin == there else twin)

    def _look(self, *, whole: bool) -> None:
        """Brings what the trial has written; all of it, where it has ended."""
        assert self.folder is not None
        self._looked = time.monotonic()
        names = {name for name in self._ask("files", self.there) if taken(name)}
        bring(self.folder, names - {"trial.json", LOG}, self._read, whole=whole)
        if whole:
            self._ask("drop", self.there)
            self._release()

    def _read(self, name: str, lines: int = -1) -> bytes | None:
        data = self._ask("read", f"{self.there}/{name}", lines)
        text = name.endswith(".txt") and data is not None
        return self._here(data) if text else data

    def _here(self, data: bytes) -> bytes:
        """A text that names files there, as they are called here."""
        assert self.folder is not None
        there = f"{self.about['home']}/{self.there}"
        return data.replace(there.encode(), str(self.folder.path).encode())

    def _release(self) -> None:
        if self.folder is not None:
            self.folder.release()


class RayTrials:
    """Where trials live: on a Ray cluster.

    Args:
        address: see `ray_of`.
        cpus, gpus: that each trial reserves.
        size: trials at a time; as many as the cluster has room for, unless given.
        patience: seconds to wait for a machine where no trial has one.
        say: takes sentences for the user.
        make: see `TrialActor`.
        goes_on: whether a run has a checkpoint; without one, its folder is cleared.

    Raises:
        ClusterError: there is no such cluster.
    """

    def __init__(
        self,
        address: str,
        *,
        cpus: float,
        gpus: float,
        size: int | None,
        patience: float,
        say: Callable[[str], None],
        make: Any,
        goes_on: Callable[[RunFolder], bool],
    ) -> None:
        ray_of(address)
        self.cpus, self.gpus, self.size, self.patience = cpus, gpus, size, patience
        self.say, self.make, self.goes_on = say, make, goes_on
        remote: Any = ray.remote
        needs = {"num_cpus": cpus, "num_gpus": gpus}
        self._actor = remote(TrialActor).options(
            **needs, scheduling_strategy="SPREAD", max_restarts=0
        )
        self.workers: set[RemoteWorker] = set()
        self._seen = time.monotonic()
        self._looked, self._room = -math.inf, 1
        free, each = self._free()
        say(
            f"Trials run on the cluster {address!r}, each with {self._wants()}: its machines have "
            f"{each} free CPUs, room for {free} at a time.{crowd(ray)}"
            + " The others wait for machines."
            * ((size or 0) > free)
        )

    def _wants(self) -> str:
        gpus = f" and {self.gpus:g} GPUs" if self.gpus else ""
        return f"{self.cpus:g} CPU{'s' * (self.cpus != 1)}{gpus}"

    def _free(self) -> tuple[int, str]:
        """Trials that there is room for now, and the free CPUs of each machine, the head first."""
        free, room, there = free_now(ray), 0, nodes(ray)
        for node in there:
            has = free.get(node["NodeID"], {})
            fits = has.get("CPU", 0) / self.cpus
            fits = min(fits, has.get("GPU", 0) / self.gpus) if self.gpus else fits
            room += int(fits + 1e-6)
        each = (f"{free.get(node['NodeID'], {}).get('CPU', 0):g}" for node in there)
        return room, " + ".join(each)

    def room(self) -> int:
        """Trials at a time: those that have a machine, and as many as there is room for."""
        if self.size is None and time.monotonic() - self._looked > ROOM_S:
            self._looked = time.monotonic()
            self._room = max(1, len(self.workers) + self._free()[0])
        return self.size or self._room

    def hire(self, wanted: Callable[[], bool]) -> RemoteWorker | None:
        """A worker, once there is a machine for it; None where none is wanted any more.

        Raises:
            ClusterError: no trial has found a machine for too long, workers cannot begin on theirs,
                or have another Poise.
        """
        folders = [os.path.abspath(each) for each in sys.path]
        given = self.make, max(1, int(self.cpus)), folders, os.getcwd()
        problem = ""
        for times in range(FALSE_STARTS):
            actor = self._actor.remote(*given)
            greeting = actor.hello.remote()
            while not ray.wait([greeting], timeout=0.5)[0]:
                if not wanted():
                    return None
                self._look_for_machines()
            try:
                about = ray.get(greeting)
            except RayError as error:
                problem = why(error)
                time.sleep(2.0**times)
                continue
            check_same("A worker for trials", about)
            worker = RemoteWorker(actor, about, self)
            self.workers.add(worker)
            return worker
        raise ClusterError(f"No trial can begin on the cluster: {problem}")

    def _look_for_machines(self) -> None:
        now = time.monotonic()
        if self.workers:
            self._seen = now
        if now - self._seen > SAY_S:
            there = f"{self._free()[1]} free CPUs in {len(nodes(ray))} machines"
            missing = f"No machine has {self._wants()} for a trial: the cluster has {there}."
            if now - self._seen > self.patience:
                raise ClusterError(
                    f"{missing} None came in {self.patience:g} s (cluster_timeout_s). "
                    "Lower num_workers or num_cpus_per_worker."
                )
            self.say(f"{missing} It is waited for.")
