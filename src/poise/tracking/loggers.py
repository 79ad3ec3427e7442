"""Hands a run to its loggers, each in a thread of its own, so that none of them holds up training.

A logger that is slow leaves results out, and one that fails ends; either is said once.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Full, Queue
from typing import Any

from poise.config.run import LoggerName, RunOptions
from poise.config.types import brief, coerce
from poise.errors import ConfigError, PoiseError
from poise.files import read_json, write_json
from poise.install import install
from poise.tracking.find import find_study
from poise.tracking.folder import RunFolder, plain
from poise.tracking.logger import LoggedRun, Logger
from poise.tracking.mlflow import Mlflow
from poise.tracking.tensorboard import TensorBoard
from poise.tracking.wandb import Trackio, Wandb
from poise.training import checkpoint
from poise.training.callbacks import Callback
from poise.training.trainer import Trainer

KNOWN: dict[str, type[Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
    "mlflow": Mlflow,
}
"""The loggers that Poise has, by the names of their modules and extras."""
QUEUE = 1_000
"""What a logger may be behind by: results and films."""
PATIENCE_S = 120.0
"""How long the end of a run waits for loggers to send what they have."""
SILENCE_S = 3.0
"""After so long, it is said that it waits."""
CAUSE = 300
"""Characters of a cause that are shown."""
IDS = "loggers.json"
"""The file of a run folder with the run's id at each service."""


def sorted_out(loggers: Sequence[str | Logger]) -> tuple[list[LoggerName], list[Logger]]:
    """The names and the objects among what a caller gave as `loggers`.

    Raises:
        ConfigError: a name is unknown, or something is neither.
    """
    given = loggers if isinstance(loggers, (list, tuple)) else [loggers]
    names = [each for each in given if isinstance(each, str)]
    objects = [each for each in given if isinstance(each, Logger)]
    if isinstance(loggers, str) or len(names) + len(objects) < len(given):
        raise ConfigError(
            f"loggers={brief(loggers)} is not allowed: it must be a list, each item a name "
            f"({', '.join(KNOWN)}) or an object of a class that derives from poise.Logger."
        )
    return coerce(list[LoggerName], names, "loggers"), objects


def loggers_of(options: RunOptions, say: Callable[[str], None] | None = None) -> list[Logger]:
    """The loggers that a run's options name; TensorBoard too, where it is installed.

    Args:
        options: of the run.
        say: is told what is missing, which is then left out.

    Raises:
        ConfigError: TensorBoard is both named and turned off.
        PoiseError: one is missing, and there is no `say`.
    """
    names = list(dict.fromkeys(options.loggers))
    if options.tensorboard is False and "tensorboard" in names:
        raise ConfigError("loggers names tensorboard, which tensorboard=False leaves out.")
    if options.tensorboard or (options.tensorboard is None and _installed("tensorboard")):
        names = list(dict.fromkeys([*names, "tensorboard"]))
    for name in names:
        if not _installed(name):
            asked = f"loggers={name}" if name in options.loggers else f"{name}=True"
            if say is None:
                raise PoiseError(f"{asked} needs {KNOWN[name].__name__}: {install(name)}")
            say(f"{KNOWN[name].__name__} gets nothing from here on: it is not installed.")
    return [KNOWN[name]() for name in names if _installed(name)]


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


class Loggers(Callback):
    """The loggers of one run.

    Args:
        loggers: what gets it.
        folder: of the run, claimed by this process.
        say: shows a sentence to the user.
        checkpoints: whether they get the last and the best checkpoint at the end.
    """

    def __init__(
        self,
        loggers: Sequence[Logger],
        folder: RunFolder,
        say: Callable[[str], None],
        *,
        checkpoints: bool = False,
    ) -> None:
        self._loggers, self._folder, self._say = loggers, folder, say
        self._checkpoints = checkpoints
        self._senders: list[_Sender] = []
        self._held = False
        self._ids_lock = threading.Lock()

    @contextmanager
    def during(self, trainer: Trainer) -> Iterator[None]:
        """Begins now, and ends with the block: films before and after training are its, too."""
        self._begin(trainer)
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self._end(trainer)

    def film(self, path: str | Path, steps: int) -> None:
        """Hands over a film."""
        for sender in self._senders:
            sender.put("film", Path(path), steps)

    def on_run_start(self, trainer: Trainer) -> None:
        if not self._held:  # somebody trains on with the trainer of a run
            self._begin(trainer)

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        copy, steps = dict(result), trainer.algorithm.timesteps
        for sender in self._senders:
            sender.put("log", copy, steps)

    def on_run_end(self, trainer: Trainer, reason: str) -> None:
        if not self._held:
            self._end(trainer)

    def _begin(self, trainer: Trainer) -> None:
        saved, ids, path = self._folder.config(), self._ids(), self._folder.path
        about = {key: saved[key] for key in ("algorithm", "preset", "stop")}
        config = plain({**about, **trainer.config.to_dict()})
        for logger in self._loggers:
            at = trainer.algorithm.timesteps, ids.get(logger.name)
            run = LoggedRun(path, *_place(path), config, *at)
            self._senders.append(_Sender(logger, run, self._say, self._keep))

    def _end(self, trainer: Trainer) -> None:
        state = self._folder.status().get("state", "failed" if trainer.error else "finished")
        senders, self._senders = self._senders, []
        kept: dict[Path, list[str]] = {}
        if self._checkpoints and senders:
            newest = checkpoint.newest(self._folder.checkpoints)[0]
            best = checkpoint.best(self._folder.checkpoints)
            for path, name in ((newest, "latest"), (best and best[1], "best")):
                if path is not None:
                    kept.setdefault(path, []).append(name)
        for sender in senders:
            sender.end(state, kept)
        until = time.monotonic() + PATIENCE_S
        for sender in senders:
            sender.wait(until)

    def _ids(self) -> dict[str, str]:
        """The run's ids at its services; a damaged file has none."""
        try:
            return {key: str(value) for key, value in read_json(self._folder.path / IDS).items()}
        except (OSError, ValueError):
            return {}

    def _keep(self, name: str, id: str) -> None:
        with self._ids_lock:
            write_json(self._folder.path / IDS, {**self._ids(), name: id})


class _Sender:
    """A logger in its thread, and what waits for it."""

    def __init__(
        self,
        logger: Logger,
        run: LoggedRun,
        say: Callable[[str], None],
        keep: Callable[[str, str], None],
    ) -> None:
        self._logger, self._run, self._say, self._keep = logger, run, say, keep
        self._waiting: Queue[tuple[str, tuple[Any, ...]]] = Queue(QUEUE)
        self._dropped = 0
        self._thread = threading.Thread(target=self._work, name=f"poise-{logger.name}", daemon=True)
        self._thread.start()

    def put(self, method: str, *values: Any) -> None:
        """Has a method called, when it comes to that; not at all, once the logger has failed."""
        while self._thread.is_alive():
            with suppress(Full):
                return self._waiting.put((method, values), self._logger.waits, timeout=0.1)
            if not self._logger.waits:
                return self._drop()
        return None

    def _drop(self) -> None:
        self._dropped += 1
        if self._dropped == 1:
            self._say(
                f"Warning: {self._logger.name} is {QUEUE:,} results behind: it does not get all "
                "of those that come now; the run folder has them."
            )

    def end(self, state: str, checkpoints: Mapping[Path, list[str]]) -> None:
        """Has the logger take checkpoints and finish, after all that waits for it."""
        if self._dropped:
            self._say(f"{self._logger.name} did not get {self._dropped:,} results.")
        with self._waiting.mutex:  # there is always room for the end
            self._waiting.maxsize = 0
        for at in checkpoints.items():
            self._waiting.put(("checkpoint", at))
        self._waiting.put(("finish", (state,)))

    def wait(self, until: float) -> None:
        """Waits until the logger has finished, or a time is over."""
        left = max(0.0, until - time.monotonic())
        self._thread.join(min(SILENCE_S, left))
        if self._thread.is_alive():
            self._say(f"Waiting for {self._logger.name}, for {left:.0f} s at most.")
            self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._say(
                f"Warning: {self._logger.name} has not taken everything within {PATIENCE_S:g} s of "
                f"the end ({self._waiting.qsize():,} calls wait); the run folder has it all."
            )

    def _work(self) -> None:
        try:
            self._logger.start(self._run)
            if self._run.id is not None:
                self._keep(self._logger.name, self._run.id)
            if self._run.place is not None:
                self._say(f"{self._logger.name}: {self._run.place}")
            method = ""
            while method != "finish":
                method, values = self._waiting.get()
                getattr(self._logger, method)(*values)
        except BaseException as error:  # such as the exit that a library may call
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            self._say(
                f"Warning: {self._logger.name} gets nothing more ({cause[:CAUSE]}); training goes "
                "on, and the run folder has everything."
            )


def _place(path: Path) -> tuple[str, str]:
    """The group and the name of the run in a folder: trials may have several seeds each."""
    if (study := find_study(path.parent.parent)) is not None:
        return study.name, f"{path.parent.name}/{path.name}"
    return path.parent.name, path.name
