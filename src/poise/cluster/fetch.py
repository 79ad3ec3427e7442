"""Brings what a job leaves on its cluster to this machine, also while it runs: a run folder there
is the same folder here, for `poise runs`, plots and `poise resume`.

Beside what every run has, there are `driver_log.txt`, which the job printed, and `job.json`.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from poise.cluster.jobs import ENDED, Job, Jobs
from poise.errors import CheckpointError, ClusterError, shown, writing
from poise.files import make_folder, read_json, write_json
from poise.tracking.folder import RunFolder

FIRST, LAST = {"config.json", "about.json"}, "status.json"
"""Files that are written anew: those that make it a run, and the one that says how far it is."""
GROWING = {"metrics.jsonl", "episodes.csv", "log.txt"}
"""Files to which lines are appended: only what is new travels."""
LOG, MARK = "driver_log.txt", "job.json"
LOOK_S = 2.0
PATIENCE_S = 600.0
"""Seconds for which a cluster may be out of reach (a laptop sleeps) before fetching gives up."""
LEFT = """
The job {0} goes on without us.
  poise logs {0} -f         look at it again
  poise fetch {0} --watch   bring its run
  poise stop {0}            end it, with a checkpoint"""
_TAIL_LINES = 500


def watch(jobs: Jobs, job: Job, root: str | Path, say: Callable[[str], None]) -> list[Path]:
    """Brings the runs of a job until it has ended, and then all that they hold.

    Args:
        jobs, job: whose.
        root: the folder of all runs here.
        say: shows a sentence to the user.

    Returns:
        The folders of the runs, here.

    Raises:
        ClusterError: the cluster is out of reach for too long, or a folder is another's.
    """
    heard, silent = time.monotonic(), False
    while True:
        try:
            job = jobs.get(job.id)
            runs = fetch(jobs, job, root)
            heard, silent = time.monotonic(), False
            if job.state in ENDED:
                return runs
        except ClusterError as error:
            if time.monotonic() - heard > PATIENCE_S or "Nothing answers" not in str(error):
                raise
            if not silent:
                say(f"{error} The job goes on without us; trying again.")
            silent = True
        time.sleep(LOOK_S)


def attend(jobs: Jobs, job: Job, root: str | Path | None, say: Callable[[str], None]) -> Job:
    """Shows a job's log until the job ends, and brings its runs, where `root` says where to.

    Ctrl-C leaves the job running, and says how to look again.

    Returns:
        The job as it ended.
    """
    runs: Future[list[Path]] = Future()
    bring = threading.Thread(target=_watch_into, args=(runs, jobs, job, root, say), daemon=True)
    try:
        if root is not None:
            bring.start()
        for text in jobs.follow(job):
            print(shown(text, lines=True), end="", flush=True)
        for path in runs.result() if root is not None else ():
            say(f"The run is in {path}")
    except KeyboardInterrupt:
        say(LEFT.format(job.id))
        raise
    return jobs.get(job.id)


def _watch_into(runs: Future[list[Path]], *asked: Any) -> None:
    try:
        runs.set_result(watch(*asked))
    except BaseException as error:
        runs.set_exception(error)


def expect(run: Path, job: Job) -> None:
    """Notes in a run's folder that a job goes on with it, which then comes back into it."""
    sessions = len(RunFolder(run).sessions())
    write_json(run / MARK, {"job": job.id, "sessions": sessions, "whole": False})


def fetch(jobs: Jobs, job: Job, root: str | Path, say: Any = None) -> list[Path]:
    """Brings what is there of a job's runs: results and the newest checkpoint while it runs,
    everything once it has ended.

    Raises:
        ClusterError: a folder here is another run's or went on here, or what came is damaged.
    """
    base, whole = Path(root).absolute(), job.state in ENDED
    if job.node is None:
        return []
    inside: dict[PurePosixPath, list[PurePosixPath]] = {}
    names = [name for name in map(_checked, jobs.files(job)) if name is not None]
    for name in names:
        if name.name == "config.json" and "checkpoints" not in name.parts:
            inside[name.parent] = []
    for name in names:
        run = next((folder for folder in name.parents if folder in inside), None)
        if run is not None:
            inside[run].append(name)
        elif whole:  # of a search, or of several seeds
            _replace(base / name, jobs.read(job, str(name)))
    for run, files in inside.items():
        _Run(jobs, job, run, base / run).bring(files, whole=whole)
    return [base / run for run in inside]


def _checked(name: str) -> PurePosixPath | None:
    """A file's path below the folder of runs; None for locks and unfinished files.

    Raises:
        ClusterError: it leads elsewhere. A cluster is not trusted with this machine.
    """
    path = PurePosixPath(name)
    bad = path.is_absolute() or not path.parts or not name.isprintable()
    if bad or any(part == ".." or set(part) & {"\\", ":"} for part in path.parts):
        raise ClusterError(f"The cluster names a file {name!r}, which is in no run: nothing of it.")
    return None if any(part.startswith(".") for part in path.parts) else path


class _Run:
    """One run of a job, there and here."""

    def __init__(self, jobs: Jobs, job: Job, there: PurePosixPath, here: Path) -> None:
        self.jobs, self.job, self.there, self.folder = jobs, job, there, RunFolder(here)
        self.path = here

    def bring(self, files: list[PurePosixPath], *, whole: bool) -> None:
        names = {name.relative_to(self.there).as_posix() for name in files}
        mark = self._mark()
        if mark.get("whole"):
            return
        self.folder.claim()
        try:
            self._replace(names & FIRST)
            for name in (*sorted(names & GROWING), LOG):
                with writing(self.path / name):
                    _grow(self.path / name, partial(self._read, name))
            self._checkpoints(names, whole=whole)
            if whole:
                rest = names - {*FIRST, *GROWING, LAST, LOG, MARK}
                self._replace({name for name in rest if not name.startswith("checkpoints/")})
            self._replace(names & {LAST})
            sessions = len(self.folder.sessions())
            write_json(self.path / MARK, {"job": self.job.id, "sessions": sessions, "whole": whole})
        finally:
            self.folder.release()

    def _replace(self, names: set[str]) -> None:
        for name in sorted(names):
            _replace(self.path / name, self._read(name))

    def _mark(self) -> dict[str, Any]:
        """What was noted here when the run was brought last; nothing for a new one."""
        mark: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            mark = read_json(self.path / MARK)
        if mark.get("job") == self.job.id and mark.get("whole"):
            return mark
        if self.folder.exists() and mark.get("job") != self.job.id:
            raise ClusterError(
                f"There is a run at {self.path} that is not of job {self.job.id}: take another"
                " --folder."
            )
        if mark and len(self.folder.sessions()) != mark.get("sessions"):
            raise ClusterError(
                f"The run {self.path} has gone on here since it was fetched: what job {self.job.id}"
                " did goes to another --folder."
            )
        return mark

    def _read(self, name: str, lines: int = -1) -> bytes | None:
        there = None if name == LOG else f"{self.there}/{name}"
        return self.jobs.read(self.job, there, lines)

    def _checkpoints(self, names: set[str], *, whole: bool) -> None:
        """Brings those that are not here, each whole or not at all, and drops those that the run
        has dropped."""
        from poise.training.checkpoint import verify

        of = {
            n: n.split("/")[1] for n in names if n.startswith("checkpoints/") and n.count("/") > 1
        }
        there = sorted({number for number in of.values() if number.isdigit()}, key=int)
        for number in there if whole else there[-1:]:
            target = self.folder.checkpoints / number
            if target.exists():
                continue
            part = target.with_name(f".fetched-{number}")
            shutil.rmtree(part, ignore_errors=True)
            for name in (name for name, its in of.items() if its == number):
                _replace(part / Path(*name.split("/")[2:]), self._read(name))
            try:
                verify(part)
            except CheckpointError as error:
                shutil.rmtree(part, ignore_errors=True)
                if whole:
                    raise ClusterError(f"A checkpoint came damaged: {error}") from None
                return  # the run has dropped it while it was read
            os.replace(part, target)
        if there and self.folder.checkpoints.is_dir():
            for old in self.folder.checkpoints.iterdir():
                if old.name.isdigit() and old.name not in there:
                    shutil.rmtree(old, ignore_errors=True)


def _grow(file: Path, read: Callable[[int], bytes | None]) -> None:
    """Appends the lines that are new; where these do not follow what is here, all are taken."""
    here = file.read_bytes() if file.is_file() else b""
    here = here[: here.rfind(b"\n") + 1]
    anchor = b"".join(here.splitlines(keepends=True)[-20:])
    tail = read(_TAIL_LINES) if anchor else None
    at = tail.rfind(anchor) if tail else -1
    if tail is None or at < 0:
        _replace(file, read(-1))
        return
    with file.open("r+b") as opened:
        opened.truncate(len(here))
        opened.seek(len(here))
        opened.write(tail[at + len(anchor) :])


def _replace(file: Path, data: bytes | None) -> None:
    """Puts a file in the place of the old one at once; nothing, where it is gone there by now."""
    if data is not None:
        with writing(file):
            make_folder(file.parent)
            part = file.with_name(f".{file.name}.part")
            part.write_bytes(data)
            os.replace(part, file)
