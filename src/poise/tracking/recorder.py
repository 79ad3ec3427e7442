"""Writes a run to its folder while it trains.

A full disk never stops training: it is said once, and shown.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from poise.errors import PoiseError, RunError
from poise.install import install
from poise.stepping.failures import Failure
from poise.tracking.folder import EPISODES_HEADER, HEARTBEAT_S, RunFolder, episode_lines, json_line
from poise.training import checkpoint
from poise.training.callbacks import Callback
from poise.training.trainer import Trainer

BEST_SHARE = 0.01
"""The share of a run's time that checkpoints of new bests may take, beside those that are due."""
FIRST_COST_S = 0.02
"""What a checkpoint is taken to cost before one was written."""


class RunRecorder(Callback):
    """Metrics, episodes, status and checkpoints of one run.

    Args:
        folder: claimed by this process.
        interval_s: seconds between checkpoints.
        every: iterations between checkpoints; None goes by seconds alone.
        keep: checkpoints kept beside the best one.
        say: shows a sentence to the user.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        interval_s: float = 30.0,
        every: int | None = None,
        keep: int = 3,
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.interval_s, self.every, self.keep, self.say = (
            folder,
            interval_s,
            every,
            keep,
            say,
        )
        self._metrics: TextIO | None = None
        self._episodes: TextIO | None = None
        self._last_checkpoint = self._last_beat = self._start = time.monotonic()
        self._cost, self._spent = FIRST_COST_S, 0.0
        self._saved_iteration = -1
        self._best: tuple[float, Path] | None = None
        self._complained: set[str] = set()
        self._failures: Counter[tuple[str, str]] = Counter()

    def on_run_start(self, trainer: Trainer) -> None:
        checkpoint.sweep(self.folder.checkpoints)
        self._best = checkpoint.best(self.folder.checkpoints)
        self._guard("metrics", self._open)
        self._guard(
            "status",
            lambda: self.folder.write_status("running", training_iteration=trainer.iteration),
        )

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        self._guard("metrics", lambda: self._append(trainer, result))
        now = time.monotonic()
        if now - self._last_beat >= HEARTBEAT_S:
            self._last_beat = now
            self._guard("status", lambda: self.folder.write_status("running", **progress(trainer)))
        due = now - self._last_checkpoint >= self.interval_s
        if due or (self.every and trainer.iteration % self.every == 0):
            self.checkpoint(trainer)
        elif self._improved(trainer.score) and self._spent + self._cost <= BEST_SHARE * (
            now - self._start
        ):
            # A best that comes too early is passed over; the bar stays at the best on the disk, for
            # the next to clear.
            self._guard("checkpoint", lambda: self._save(trainer))
            self._spent += self._cost

    def on_failure(self, trainer: Trainer, failure: Failure) -> None:
        """The first failure of a kind is told whole; of the same again, the tenth, the hundredth,
        and so on."""
        kind = failure.kind, failure.details.rpartition("\n")[2]
        self._failures[kind] += 1
        times = self._failures[kind]
        if times == 1:
            self.say(str(failure))
        elif str(times).rstrip("0") == "1":
            self.say(f"{failure.what} ({times} failures like this so far.)")

    def on_run_end(self, trainer: Trainer, reason: str) -> None:
        if (
            trainer.iteration != self._saved_iteration or trainer.underway or trainer.confirmed
        ) and trainer.error is None:
            self.checkpoint(trainer)
        for file in (self._metrics, self._episodes):
            if file is not None:
                self._guard("metrics", file.close)
        state = {"preempted": "preempted", "interrupted": "stopped"}.get(reason, "finished")
        if trainer.error is not None or self.unsaved(trainer):
            state = "stopped" if isinstance(trainer.error, KeyboardInterrupt) else "failed"
        self._guard(
            "status", lambda: self.folder.write_status(state, reason=reason, **progress(trainer))
        )

    def unsaved(self, trainer: Trainer) -> str | None:
        """One sentence, if the end of the run could not be saved."""
        if trainer.iteration == self._saved_iteration:
            return None
        last = checkpoint.newest(self.folder.checkpoints)[0]
        rest = f"its last whole checkpoint is {last}" if last else "it has no whole checkpoint"
        return (
            f"The end of the run {self.folder.path}, iteration {trainer.iteration}, was NOT saved: "
            f"{rest}."
        )

    def checkpoint(self, trainer: Trainer) -> None:
        """Writes one now, and removes those that are no longer kept."""
        self._last_checkpoint = time.monotonic()
        self._guard("metrics", self._flush)
        self._guard("checkpoint", lambda: self._save(trainer))

    def _improved(self, score: tuple[str, float] | None) -> bool:
        return score is not None and (self._best is None or score[1] > self._best[0])

    def _save(self, trainer: Trainer) -> None:
        start = time.monotonic()
        trainer.save(self.folder.checkpoints / f"{trainer.iteration:06d}")
        self._cost = time.monotonic() - start
        self._saved_iteration = trainer.iteration
        self._best = checkpoint.best(self.folder.checkpoints)
        kept = sorted(checkpoint.checkpoints(self.folder.checkpoints), key=lambda p: int(p.name))[
            -self.keep :
        ]
        for old in checkpoint.checkpoints(self.folder.checkpoints):
            if old not in kept and (self._best is None or old != self._best[1]):
                shutil.rmtree(old, ignore_errors=True)

    def _open(self) -> None:
        self._metrics, self._episodes = (
            self.folder.metrics_file.open("a"),
            self.folder.episodes_file.open("a"),
        )
        if self._episodes.tell() == 0:
            self._episodes.write(EPISODES_HEADER)

    def _append(self, trainer: Trainer, result: dict[str, Any]) -> None:
        """A result and the episodes that it is of; one write each, however many episodes ended."""
        if self._metrics is not None and self._episodes is not None:
            self._metrics.write(json_line(result))
            self._metrics.flush()
            self._episodes.write(episode_lines(trainer.metrics.finished_this_iter))
            self._episodes.flush()

    def _flush(self) -> None:
        """To the disk: what a checkpoint goes on from must have its results."""
        for file in (self._metrics, self._episodes):
            if file is not None:
                file.flush()
                os.fsync(file.fileno())

    def _guard(self, what: str, write: Callable[[], Any]) -> None:
        try:
            write()
        except (OSError, RunError) as error:
            if what not in self._complained:
                self._complained.add(what)
                reason = error.__cause__ or error
                self.say(
                    f"Warning: the {what} of {self.folder.path} cannot be written ({reason}); "
                    "training goes on."
                )


def progress(trainer: Trainer) -> dict[str, Any]:
    """What `status.json` says about how far a run is."""
    last = trainer.history[-1] if trainer.history else {}
    keys = ("episode_reward_mean", "episodes_total", "timesteps_total", "time_total_s")
    return {
        "training_iteration": trainer.iteration,
        **{key: last[key] for key in keys if key in last},
        **trainer.confirmed,
    }


GROUPS = {
    "episode": "rollout",
    "env_": "rollout",
    "worker_": "rollout",
    "time": "time",
    "training_": "time",
}
"""Where TensorBoard shows results that have no group of their own, by what their names begin with.
"""


class TensorBoardSink(Callback):
    """Numbers of every result as TensorBoard scalars, by steps sampled, and the settings as its
    hyper-parameters. Needs the extra `tensorboard`.

    Args:
        folder: of the run.
        say: shows a sentence to the user.
        going_on: whether the run is resumed: points after its checkpoint, which come again, are
            purged.
    """

    def __init__(
        self, folder: RunFolder, say: Callable[[str], None] = print, *, going_on: bool = False
    ) -> None:
        self._folder, self._say, self._going_on = folder, say, going_on
        self._writer: Any = ""
        self._excepthook = threading.excepthook
        threading.excepthook = self._thread_failed

    @staticmethod
    def available() -> bool:
        """Whether the extra is installed."""
        return importlib.util.find_spec("tensorboard") is not None

    @classmethod
    def require(cls) -> None:
        """Says what to install, if it is not.

        Raises:
            PoiseError: it is not.
        """
        if not cls.available():
            raise PoiseError(f"tensorboard=True needs TensorBoard: {install('tensorboard')}")

    def on_run_start(self, trainer: Trainer) -> None:
        self._guard(lambda: self._open(trainer))

    def _open(self, trainer: Trainer) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        purge = trainer.algorithm.timesteps + 1 if self._going_on else None
        self._writer = SummaryWriter(str(self._folder.path), purge_step=purge)
        settings = {
            k: v if isinstance(v, (bool, int, float)) else str(v)
            for k, v in _flat(trainer.config.to_dict())
        }
        describe: Any = hparams
        for summary in describe(settings, {"rollout/episode_reward_mean": None}):
            self._writer.file_writer.add_summary(summary)

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        numbers = {k: float(v) for k, v in result.items() if isinstance(v, (int, float)) and v == v}
        steps = result["timesteps_total"]
        self._guard(
            lambda: [self._writer.add_scalar(grouped(k), v, steps) for k, v in numbers.items()]
        )

    def on_run_end(self, trainer: Trainer, reason: str) -> None:
        self._guard(lambda: (self._writer.flush(), self._writer.close()))
        threading.excepthook = self._excepthook

    def _thread_failed(self, args: threading.ExceptHookArgs) -> None:
        """TensorBoard's thread would print a traceback of the full disk that `_guard` tells in a
        sentence."""
        if not (
            isinstance(args.exc_value, OSError)
            and type(args.thread).__module__.startswith("tensorboard.")
        ):
            self._excepthook(args)

    def _guard(self, write: Callable[[], Any]) -> None:
        """Its thread reports a full disk at the next write; after that there is nothing to write
        with."""
        try:
            if self._writer is not None:
                write()
        except OSError as error:
            self._writer = None
            path = self._folder.path
            self._say(
                f"Warning: the TensorBoard events of {path} cannot be written ({error}); "
                "training goes on."
            )


def grouped(key: str) -> str:
    """A result's name in TensorBoard: `rollout/episode_reward_mean`, `time/timesteps_total`."""
    group = next((group for start, group in GROUPS.items() if key.startswith(start)), None)
    return key if "/" in key or group is None else f"{group}/{key}"


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
