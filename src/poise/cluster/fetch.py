"""Brings what a job leaves on its cluster to this machine, also while it runs: a run folder there
is the same folder here, for `poise runs`, plots and `poise resume`.

Beside what every run has, there are `driver_log.txt`, which the job printed, and `job.json`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from poise.cluster.jobs import ENDED, LOOK_S, Job, Jobs, Unreachable
from poise.cluster.local import FETCHED
from poise.errors import CheckpointError, ClusterError, shown, writing
from poise.files import home, make_folder, read_json, write_json
from poise.tracking.folder import RunFolder

FIRST, LAST = {"config.json", "about.json"}, {"status.json"}
"""Files that are written anew: those that make it a run, and the one that says how far it is."""
EVENTS = "events.out.tfevents"
"""How the names of TensorBoard's files begin, which grow as well."""
LOG, MARK = "driver_log.txt", "job.json"
GROWING = {
    "metrics.jsonl",
    "episodes.csv",
    "behaviour.jsonl",
    "log.txt",
    "output.txt",
    "logged.jsonl",
    LOG,
}
"""Files to which lines are appended: only what is new travels."""
PATIENCE_S = 600.0
"""Seconds for which a cluster may be out of reach (a laptop sleeps) before fetching gives up."""
TAIL = 500
"""Lines in which those that are new are looked for, before all are read."""
LEFT = """
The job {0} goes on without us.
  poise logs {0} -f         look at it again
  poise fetch {0} --watch   bring its run
  poise stop {0}            end it, with a checkpoint"""


class Look(NamedTuple):
    """A job as it was when it was last looked at."""

    job: Job
    log: bytes
    """All that it has printed."""
    runs: list[Path]
    """Its runs, here."""
    trouble: str | None
    """Why this look is an old one; None where the cluster answered."""


def follow(jobs: Jobs, job: Job, root: str | Path | None) -> Iterator[Look]:
    """Looks at a job once a second, until it has ended and all of it is here.

    Args:
        jobs, job: whose.
        root: the folder of all runs here, into which those of the job come; None brings none.

    Raises:
        ClusterError: the cluster is out of reach for too long, or a folder is another's.
    """
    heard, look = time.monotonic(), Look(job, b"", [], None)
    while True:
        try:
            job = jobs.get(job.id)
            kept, new = newer(look.log, partial(jobs.read, job, None)) if job.node else (b"", b"")
            runs = fetch(jobs, job, root) if root is not None else []
            heard, look = time.monotonic(), Look(job, kept + new, runs, None)
        except Unreachable as error:
            if jobs.over or time.monotonic() - heard > PATIENCE_S:
                here = [f"{run} has what came of it: `poise resume` goes on." for run in look.runs]
                raise Unreachable(" ".join([str(error), *here])) from None
            look = look._replace(trouble=f"{error} The job goes on without us; trying again.")
        yield look
        if not look.trouble and look.job.state in ENDED:
            return
        time.sleep(LOOK_S)


def watch(
    jobs: Jobs, job: Job, root: str | Path | None, say: Callable[[str], None], *, log: bool = False
) -> tuple[Job, list[Path]]:
    """Follows a job until it has ended. Ctrl-C leaves it running, and says how to look again.

    Args:
        jobs, job, root: as for `follow`.
        say: shows a sentence to the user.
        log: whether what the job prints is printed.

    Returns:
        The job as it has ended, and its runs here.

    Raises:
        ClusterError: as `follow`.
    """
    printed, before = 0, None
    try:
        for look in follow(jobs, job, root):
            if log and (new := look.log[printed:]):
                print(shown(new.decode(errors="replace"), lines=True), end="", flush=True)
                printed = len(look.log)
            if look.trouble and not before:
                say(look.trouble)
            before = look.trouble
    except KeyboardInterrupt:
        say(LEFT.format(job.id))
        raise
    return look.job, look.runs


def expect(run: Path, job: Job) -> None:
    """Notes in a run's folder that a job goes on with it, which then comes back into it."""
    _mark(RunFolder(run), job, whole=False)


def fetch(jobs: Jobs, job: Job, root: str | Path) -> list[Path]:
    """Brings what is there of a job's runs: results and the newest checkpoint while it runs,
    everything once it has ended.

    Returns:
        The folders of the runs, here.

    Raises:
        ClusterError: a folder here is another run's or went on here, or what came is damaged.
    """
    base, whole = Path(root).absolute(), job.state in ENDED
    names = [PurePosixPath(name) for name in jobs.files(job) if taken(name)] if job.node else []
    inside: dict[PurePosixPath, set[str]] = {
        name.parent: {LOG} for name in names if name.name == "config.json"
    }
    for name in names:
        run = next((folder for folder in name.parents if folder in inside), None)
        if run is not None:
            inside[run].add(name.relative_to(run).as_posix())
        elif whole:  # of a search, or of several seeds
            _replace(base, [str(name)], partial(jobs.read, job))
    for run, files in inside.items():
        folder = RunFolder(base / run)
        if not _is_whole(folder, job):
            folder.claim()
            try:
                bring(folder, files, partial(_read, jobs, job, run), whole=whole)
                _mark(folder, job, whole=whole)
            finally:
                folder.release()
    if whole:
        make_folder(home())
        with writing(home() / FETCHED), (home() / FETCHED).open("a") as done:
            done.write(f"{job.id}\n")
    return [base / run for run in inside]


def taken(name: str) -> bool:
    """Whether a file of a job's is brought: no lock, and nothing unfinished.

    Raises:
        ClusterError: it leads elsewhere. A cluster is not trusted with this machine.
    """
    path = PurePosixPath(name)
    odd = path.is_absolute() or not path.parts or not name.isprintable()
    if odd or any(part == ".." or set(part) & {"\\", ":"} for part in path.parts):
        raise ClusterError(f"The cluster names a file {name!r}, which is in no run: nothing of it.")
    return not any(part.startswith(".") for part in path.parts)


def _read(jobs: Jobs, job: Job, run: PurePosixPath, name: str, lines: int = -1) -> bytes | None:
    data = jobs.read(job, None if name == LOG else f"{run}/{name}", lines)
    if data is None and job.state in ENDED:  # when nothing goes any more
        raise Unreachable(f"{jobs.address} does not give {name!r} of job {job.id} now.")
    return data


def _is_whole(folder: RunFolder, job: Job) -> bool:
    """Whether all of a run is here; raises `ClusterError` where its folder is not the job's."""
    mark: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        mark = read_json(folder.path / MARK)
    if folder.exists() and mark.get("job") != job.id:
        raise ClusterError(
            f"There is a run at {folder.path} that is not of job {job.id}: take another --folder."
        )
    if mark and not mark.get("whole") and len(folder.sessions()) != mark.get("sessions"):
        raise ClusterError(
            f"The run {folder.path} has gone on here since it was fetched: what job {job.id} did"
            " goes to another --folder."
        )
    return bool(mark.get("whole"))


def _mark(folder: RunFolder, job: Job, *, whole: bool) -> None:
    """Notes whose the run is, and what was brought, so that nothing of it is lost."""
    mark = {"job": job.id, "sessions": len(folder.sessions()), "whole": whole}
    write_json(folder.path / MARK, mark)


def bring(folder: RunFolder, names: set[str], read: Any, *, whole: bool) -> None:
    """Brings a run in the order in which readers want it.

    Args:
        folder: the run here, claimed.
        names: its files there, all of which are `taken`.
        read: `read(name, lines)` is what is in one: its last lines, or all; None if it is gone.
        whole: whether it has ended: then everything comes, and not its newest checkpoint alone.

    Raises:
        ClusterError: a checkpoint came damaged.
        RunError: the folder cannot be written.
    """
    _replace(folder.path, names & FIRST, read)
    growing = {name for name in names if name in GROWING or name.startswith(EVENTS)}
    for name in sorted(growing):
        file = folder.path / name
        before = file.read_bytes() if file.is_file() else b""
        kept, new = newer(before, partial(read, name))
        if new or len(kept) < len(before) or not file.is_file():
            with writing(file), file.open("r+b" if before else "wb") as opened:
                opened.truncate(len(kept))
                opened.seek(len(kept))
                opened.write(new)
    saved = {name for name in names if name.startswith("checkpoints/")}
    _bring_checkpoints(folder.checkpoints, saved, read, whole=whole)
    if whole:
        _replace(folder.path, names - saved - FIRST - growing - LAST - {MARK}, read)
    _replace(folder.path, names & LAST, read)


def _bring_checkpoints(folder: Path, names: set[str], read: Any, *, whole: bool) -> None:
    """Brings the checkpoints that are not here, each whole or not at all, and drops those that the
    run has dropped."""
    from poise.training.checkpoint import MANIFEST, checkpoints, verify

    there = sorted({n.split("/")[1] for n in names if n.split("/")[1].isdigit()}, key=int)
    for number in there if whole else there[-1:]:
        if (folder / number).exists():
            continue
        part = folder.parent / f".fetched-{number}"
        shutil.rmtree(part, ignore_errors=True)
        start = f"checkpoints/{number}/"
        _replace(part, [f"{start}{MANIFEST}"], read)
        _link(part / start, folder)
        missing = [n for n in names if n.startswith(start) and not (part / n).exists()]
        _replace(part, missing, read)
        try:
            verify(part / start)
            make_folder(folder)
            os.replace(part / start, folder / number)
        except CheckpointError as error:
            if whole:
                raise ClusterError(f"A checkpoint came damaged: {error}") from None
        finally:  # else the run has dropped it while it was read
            shutil.rmtree(part, ignore_errors=True)
    # Where the newest has not come, who knows whether the cluster still is: nothing is dropped.
    for old in checkpoints(folder) if there and (folder / there[-1]).exists() else ():
        if old.name not in there:
            shutil.rmtree(old, ignore_errors=True)


def _link(new: Path, folder: Path) -> None:
    """Takes the files of a checkpoint that an earlier one has, too: rows of a replay that have not
    changed are the most of it, and do not travel again."""
    from poise.training.checkpoint import checkpoints, read_manifest

    with suppress(CheckpointError, OSError):
        wanted = read_manifest(new)["files"]
        for old in checkpoints(folder):
            has = read_manifest(old)["files"]
            for name in has.keys() & wanted.keys():
                if has[name] == wanted[name] and Path(name).name == name:
                    os.link(old / name, new / name)
                    del wanted[name]


def newer(before: bytes, read: Callable[[int], bytes | None]) -> tuple[bytes, bytes]:
    """What is to be kept of a file's content as it was, and what follows it now.

    Args:
        before: the content as it was; a torn last line is not kept.
        read: its last lines as they are now, so many of them; all for -1.
    """
    kept = before[: before.rfind(b"\n") + 1]
    last = b"".join(kept[-(2**16) :].splitlines(keepends=True)[-20:])
    tail = (read(TAIL) if last else None) or b""
    ends = accumulate(len(line) for line in tail.splitlines(keepends=True))
    known = [end for end in ends if end >= len(last) and kept.endswith(tail[:end])]
    if len(known) != 1:  # it is new, went back, has far more, or repeats itself
        if not (whole := read(-1)):  # it cannot be read now
            return before, b""
        kept = kept if whole.startswith(kept) else b""
        return kept, whole[len(kept) :]
    return kept, tail[known[0] :]


def _replace(folder: Path, names: Iterable[str], read: Any) -> None:
    """Puts files in the place of old ones, each at once; not one that is gone there by now."""
    for name in sorted(names):
        file = folder / name
        if (data := read(name)) is not None:
            with writing(file):
                make_folder(file.parent)
                part = file.with_name(f".{file.name}.part")
                part.write_bytes(data)
                os.replace(part, file)
