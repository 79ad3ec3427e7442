"""Power losses: what a disk may hold of a run after one, at any moment, and whether the run goes
on.

A run trains in a watched folder. Whatever has not been flushed may then be lost: a file's content
may be any that it had since its last `fsync`, or part of one; the names in a folder any that it had
since its own, each folder on its own.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from benchmarks.fuzz.common import SilentError, Step

import poise
from poise.sampling import segments

ABOUT = "simulated power losses"
CASES = 160

ITERATIONS = 8
SMALL: dict[str, dict[str, Any]] = {
    "PPO": {"num_envs_per_worker": 4, "rollout_fragment_length": 32, "num_sgd_iter": 1},
    "DQN": {
        "num_envs_per_worker": 2,
        "buffer_size": 2_000,
        "timesteps_per_iteration": 200,
        "learning_starts": 50,
    },
}
SEGMENT = 4096
"""Bytes of a segment of the replay, so that a short run has many that are linked from checkpoint to
checkpoint."""
EVENTS = {
    "open",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.truncate",
    "shutil.rmtree",
}
"""Python says these before it does them; between two of them, a file may only grow."""

Content = bytes | dict[str, int]
"""Of a file, or the names in a folder and what each stands for."""


@dataclass
class Disk:
    """Everything that a folder has ever held, moment by moment.

    Attributes:
        root: the folder, which is there before.
        versions: of each file or folder, by its number: from which moment on it had which content.
        flushed: the moments at which each was flushed.
        kept: the moments at which a checkpoint was promised to be kept, and its iteration.
    """

    root: Path
    now: int = 0
    versions: dict[int, list[tuple[int, Content]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    flushed: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    kept: list[tuple[int, int]] = field(default_factory=list)
    _numbers: dict[int, int] = field(default_factory=dict)
    _seen: dict[int, tuple[int, int]] = field(default_factory=dict)
    _new: bool = False

    def look(self) -> None:
        """If something is new, a moment has passed."""
        there: set[int] = set()
        self._look_at(self.root, there)
        self.now += self._new
        self._new = False
        self._numbers = {inode: number for inode, number in self._numbers.items() if inode in there}

    def _look_at(self, path: Path, there: set[int]) -> int | None:
        """Keeps a file's or folder's content if it is new; returns its number.

        What is gone meanwhile has none.
        """
        try:
            about = path.stat()
            there.add(about.st_ino)
            number = self._numbers.setdefault(about.st_ino, len(self.versions))
            if path.is_dir():
                names = {
                    name: self._look_at(path / name, there) for name in sorted(os.listdir(path))
                }
                self._keep(
                    number, {name: inner for name, inner in names.items() if inner is not None}
                )
            elif self._seen.get(number) != (about.st_size, about.st_mtime_ns):
                self._keep(number, path.read_bytes())
                self._seen[number] = about.st_size, about.st_mtime_ns
        except FileNotFoundError:
            return None
        return number

    def _keep(self, number: int, content: Content) -> None:
        known = self.versions[number]
        if not known or known[-1][1] != content:
            known.append((self.now + 1, content))
            self._new = True

    def flush(self, descriptor: int) -> None:
        """A file or folder has been flushed as it was when last looked at."""
        number = self._numbers.get(os.fstat(descriptor).st_ino)
        if number is not None:
            self.now += 1
            self.flushed[number].append(self.now)

    def promise(self, iteration: int) -> None:
        """Whoever saved this iteration has been told that it is kept."""
        self.look()
        self.now += 1
        self.kept.append((self.now, iteration))

    def promised(self, moment: int) -> int:
        """The iteration that a power loss at a moment may not take; 0 before the first."""
        return max((iteration for when, iteration in self.kept if when <= moment), default=0)

    def lose_power(self, moment: int, rng: random.Random, target: Path) -> None:
        """Writes into `target` what may be left."""
        self._restore(0, moment, rng, target, {})

    def _restore(
        self, number: int, moment: int, rng: random.Random, target: Path, done: dict[int, Path]
    ) -> None:
        if number in done:
            os.link(done[number], target)
            return
        last = max(
            (when for when in self.flushed[number] if when <= moment), default=0 if number else 1
        )
        known = [(when, content) for when, content in self.versions[number] if when <= moment]
        safe = [content for when, content in known if when <= last][-1:]
        loose = [content for when, content in known if when > last]
        content = rng.choice([*safe, *loose])
        if isinstance(content, dict):
            target.mkdir()
            for name, inner in content.items():
                self._restore(inner, moment, rng, target / name, done)
            return
        flushed = next(
            (each for each in safe if isinstance(each, bytes) and content.startswith(each)), b""
        )
        target.write_bytes(flushed + _torn(content[len(flushed) :], rng))
        done[number] = target


def _torn(content: bytes, rng: random.Random) -> bytes:
    """What may stand in a file whose content was not flushed: its length and its blocks are written
    apart."""
    at = rng.randrange(len(content) + 1)
    block = at // 512 * 512
    zeros = b"\0" * (len(content) - at)
    hole = content[:block] + b"\0" * len(content[block : block + 512]) + content[block + 512 :]
    return rng.choice([content, content[:at], content[:at] + zeros, hole, b""])


_watched: list[Disk] = []
_looking = threading.RLock()
_own = threading.local()


def _hook(event: str, arguments: Any) -> None:
    if _watched and event in EVENTS and not getattr(_own, "work", False):
        with _unwatched():
            for disk in _watched:
                disk.look()


@contextmanager
def _unwatched() -> Iterator[None]:
    """What this thread does is the watcher's own work, and no other thread watches meanwhile."""
    with _looking:
        _own.work = True
        try:
            yield
        finally:
            _own.work = False


@cache
def _add_hook() -> None:
    sys.addaudithook(_hook)  # for ever: it does nothing while no disk is watched


@contextmanager
def watched(root: Path) -> Iterator[Disk]:
    """Follows all that this process does in a folder."""
    _add_hook()
    disk, fsync = Disk(root), os.fsync

    def flush(descriptor: int) -> None:
        with _unwatched():
            disk.look()
            fsync(descriptor)
            disk.flush(descriptor)

    with _unwatched():
        disk.look()
    _watched.append(disk)
    os.fsync = flush  # type: ignore[assignment]
    try:
        yield disk
    finally:
        os.fsync = fsync
        _watched.remove(disk)


@contextmanager
def promising(disk: Disk) -> Iterator[None]:
    """Each checkpoint that is saved becomes a promise; every second one is saved twice, which
    replaces it."""
    save = poise.Trainer.save

    def promise(trainer: poise.Trainer, path: Any) -> Path:
        for _ in range(1 + trainer.iteration % 2):
            saved = save(trainer, path)
            with _unwatched():
                disk.promise(trainer.iteration)
        return saved

    poise.Trainer.save = promise  # type: ignore[method-assign]
    try:
        yield
    finally:
        poise.Trainer.save = save  # type: ignore[method-assign]


def record(algorithm: str, root: Path) -> Disk:
    """Trains in a folder, and says what was on the disk at each moment."""
    root.mkdir()
    with watched(root) as disk, promising(disk):
        run = poise.run(
            algorithm,
            "CartPole-v1",
            preset=None,
            stop={"training_iteration": ITERATIONS},
            folder=root / "runs",
            experiment="e",
            name="run",
            checkpoint_freq=1,
            tensorboard=False,
            seed=0,
            quiet=True,
            **SMALL[algorithm],
        )
    run.trainer.close()
    return disk


def prepare(work: Path) -> list[Disk]:
    """A run of each algorithm."""
    torch.set_num_threads(1)
    with small_segments():
        return [record(algorithm, work / algorithm) for algorithm in SMALL]


@contextmanager
def small_segments() -> Iterator[None]:
    """Segments of `SEGMENT` bytes."""
    before, segments._SMALLEST = segments._SMALLEST, SEGMENT
    try:
        yield
    finally:
        segments._SMALLEST = before


def case(rng: random.Random, base: list[Disk], work: Path) -> Iterator[Step]:
    disk = rng.choice(base)
    moment = rng.randrange(1, disk.now + 1)
    disk.lose_power(moment, rng, work / "left")
    shutil.copytree(work / "left", work / "resumed")
    left, again = (work / name / "runs" / "e" / "run" for name in ("left", "resumed"))
    promised = disk.promised(moment)
    what = f"at moment {moment} of {disk.now} of {disk.root.name}, with iteration {promised} saved"
    yield Step("load after a power loss", what, lambda: load(left, promised))
    yield Step("resume after a power loss", what, lambda: resume(again, promised))


@small_segments()
def load(run: Path, promised: int) -> None:
    """Loads what is left.

    Raises:
        SilentError: less is left than was promised.
    """
    try:
        trainer = poise.load(run)
    except poise.PoiseError as error:
        if promised:
            raise SilentError(f"Iteration {promised} was saved, and now: {error}") from error
        raise
    if trainer.iteration < promised:
        raise SilentError(f"Iteration {promised} was saved, and {trainer.iteration} is loaded.")
    trainer.compute_action(trainer.policy.obs_layout.space.sample())


@small_segments()
def resume(run: Path, promised: int) -> None:
    """Goes on with what is left.

    Raises:
        SilentError: less is left than was promised, or results of an iteration are missing or there
            twice.
    """
    try:
        poise.resume(run, stop={"training_iteration": ITERATIONS + 2}, quiet=True)
    except poise.PoiseError as error:
        if promised:
            raise SilentError(f"Iteration {promised} was saved, and now: {error}") from error
        raise
    start = [
        line
        for line in (run / "log.txt").read_text(errors="replace").splitlines()
        if "Resuming from" in line
    ]
    iteration = int(start[-1].partition("iteration ")[2].split()[0])
    if iteration < promised:
        raise SilentError(f"Iteration {promised} was saved, and the run went on from {iteration}.")
    found = [
        json.loads(line)["training_iteration"]
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    if found != list(range(1, ITERATIONS + 3)):
        raise SilentError(f"The iterations in metrics.jsonl are {found}.")
