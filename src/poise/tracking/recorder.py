"""Writes a run to its folder while it trains.

A full disk never stops training: it is said once, and shown.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from poise.config.types import brief
from poise.errors import RunError
from poise.files import write_whole
from poise.stepping.failures import Failure
from poise.tracking.behaviour import EVERY_S, SHARE, look
from poise.tracking.folder import (
    EPISODES_HEADER,
    HEARTBEAT_S,
    RunFolder,
    episode_lines,
    json_line,
    plain,
)
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
        self.folder, self.say = folder, say
        self.interval_s, self.every, self.keep = interval_s, every, keep
        self._metrics: TextIO | None = None
        self._episodes: TextIO | None = None
        self._last_checkpoint = self._last_beat = self._start = time.monotonic()
        self._cost, self._spent = FIRST_COST_S, 0.0
        self._saved_iteration = -1
        self._best: tuple[float, Path] | None = None
        self._complained: set[str] = set()
        self._looked = -EVERY_S
        self._failures: Counter[tuple[str, str]] = Counter()
        self._settings: dict[str, Any] = {}  # that may change meanwhile, as config.json has them

    def on_run_start(self, trainer: Trainer) -> None:
        checkpoint.sweep(self.folder.checkpoints)
        self._best = checkpoint.best(self.folder.checkpoints)
        saved = self.folder.config()["config"]
        self._settings = {key: saved.get(key) for key in changeable(trainer)}
        self._guard("status", lambda: self.folder.stop_file.unlink(missing_ok=True))  # an old one
        self._guard("metrics", self._open)
        self._write_status("running", training_iteration=trainer.iteration)

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        self._guard("metrics", lambda: self._append(trainer, result))
        now = time.monotonic()
        if now - self._looked >= max(EVERY_S, SHARE * (now - self._start)):
            self._looked = now
            self._guard("metrics", lambda: self._look(trainer))
        if now - self._last_beat >= HEARTBEAT_S:
            self._last_beat = now
            self._write_status("running", **progress(trainer))
            if self.folder.stop_file.exists():
                self.say(f"Asked to end by {self.folder.stop_file}.")
                trainer.stop("interrupted")
        for key, value in changeable(trainer).items():
            if value != self._settings[key] and key not in self._complained:
                self._complained.add(key)
                was = f"(was {brief(self._settings[key])})"
                self.say(f"From here on, {key}={brief(value)} {was}, as a callback has set it.")
        due = now - self._last_checkpoint >= self.interval_s
        if due or (self.every and trainer.iteration % self.every == 0):
            self.checkpoint(trainer)
        elif self._improved(trainer.score) and self._affordable(now):
            self._guard("checkpoint", lambda: self._save(trainer))
            self._spent += self._cost

    def on_failure(self, trainer: Trainer, failure: Failure) -> None:
        """The first failure of a kind is told whole; of the same again, the 10th, the 100th, ..."""
        kind = failure.kind, failure.details.rpartition("\n")[2]
        self._failures[kind] += 1
        times = self._failures[kind]
        if times == 1:
            self.say(str(failure))
        elif str(times).rstrip("0") == "1":
            self.say(f"{failure.what} ({times} failures like this so far.)")

    def on_run_end(self, trainer: Trainer, reason: str) -> None:
        moved_on = trainer.iteration != self._saved_iteration or trainer.underway
        if trainer.error is None and (moved_on or trainer.confirmed):  # which manifests say
            self.checkpoint(trainer)
        for file in (self._metrics, self._episodes):
            if file is not None:
                self._guard("metrics", file.close)
        state = {"preempted": "preempted", "interrupted": "stopped"}.get(reason, "finished")
        if trainer.error is not None or self.unsaved(trainer):
            state = "stopped" if isinstance(trainer.error, KeyboardInterrupt) else "failed"
        self._write_status(state, reason=reason, **progress(trainer))

    def unsaved(self, trainer: Trainer) -> str | None:
        """One sentence, if the end of the run could not be saved."""
        if trainer.iteration == self._saved_iteration:
            return None
        last = checkpoint.newest(self.folder.checkpoints)[0]
        rest = f"its last whole checkpoint is {last}" if last else "it has no whole checkpoint"
        end = f"The end of the run {self.folder.path}, iteration {trainer.iteration},"
        return f"{end} was NOT saved: {rest}."

    def checkpoint(self, trainer: Trainer) -> None:
        """Writes one now, and removes those that are no longer kept."""
        self._last_checkpoint = time.monotonic()
        self._guard("metrics", self._flush)
        self._guard("checkpoint", lambda: self._save(trainer))

    def _affordable(self, now: float) -> bool:
        """Whether one more checkpoint of a new best stays within `BEST_SHARE` of the run's time.

        A best that comes too early is passed over; the next one has to be better than the best on
        the disk, not better than this one.
        """
        return self._spent + self._cost <= BEST_SHARE * (now - self._start)

    def _improved(self, score: tuple[str, float] | None) -> bool:
        return score is not None and (self._best is None or score[1] > self._best[0])

    def _save(self, trainer: Trainer) -> None:
        start = time.monotonic()
        self._keep_settings(trainer)
        trainer.save(self.folder.checkpoints / f"{trainer.iteration:06d}")
        if table := trainer.opponents:
            numbers = ((m.steps, f"{m.elo:.0f}", f"{m.win_rate:.3f}", m.games) for m in table)
            rows = [",".join(map(str, row)) for row in (table[0]._fields, *numbers)]
            write_whole(self.folder.opponents_file, "\n".join([*rows, ""]))
        self._cost = time.monotonic() - start
        self._saved_iteration = trainer.iteration
        self._best = checkpoint.best(self.folder.checkpoints)
        there = sorted(checkpoint.checkpoints(self.folder.checkpoints), key=lambda p: int(p.name))
        for old in there[: -self.keep]:
            if self._best is None or old != self._best[1]:
                shutil.rmtree(old, ignore_errors=True)

    def _keep_settings(self, trainer: Trainer) -> None:
        """Notes settings that were changed meanwhile in config.json, by which the run goes on."""
        before, now = self._settings, changeable(trainer)
        if changed := {key: (before[key], now[key]) for key in now if before[key] != now[key]}:
            saved = self.folder.config()
            entry = {"training_iteration": trainer.iteration, **changed}
            saved["config"] = trainer.config.to_dict()
            saved["changed_settings"] = [*saved.get("changed_settings", []), entry]
            self.folder.write_config(saved)
            self._settings = now

    def _open(self) -> None:
        self._metrics = self.folder.metrics_file.open("a")
        self._episodes = self.folder.episodes_file.open("a")
        if self._episodes.tell() == 0:
            self._episodes.write(EPISODES_HEADER)

    def _append(self, trainer: Trainer, result: dict[str, Any]) -> None:
        """A result and the episodes that it is of; one write each, however many episodes ended."""
        if self._metrics is not None and self._episodes is not None:
            self._metrics.write(json_line(result))
            self._metrics.flush()
            self._episodes.write(episode_lines(trainer.metrics.finished_this_iter))
            self._episodes.flush()

    def _look(self, trainer: Trainer) -> None:
        """Adds what the policy did of late."""
        if (seen := look(trainer)) is not None:
            with self.folder.behaviour_file.open("a") as file:
                file.write(json_line(seen))

    def _flush(self) -> None:
        """To the disk: what a checkpoint goes on from must have its results."""
        for file in (self._metrics, self._episodes):
            if file is not None:
                file.flush()
                os.fsync(file.fileno())

    def _write_status(self, state: str, **values: Any) -> None:
        self._guard("status", lambda: self.folder.write_status(state, **values))

    def _guard(self, what: str, write: Callable[[], Any]) -> None:
        """Writes; where it cannot, as on a full disk, that is said once and training goes on."""
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


def changeable(trainer: Trainer) -> dict[str, Any]:
    """The settings that may change while a policy learns, as JSON has them."""
    values = vars(trainer.config)
    return {key: plain(values[key]) for key in sorted(trainer.config.adjustable & values.keys())}


def progress(trainer: Trainer) -> dict[str, Any]:
    """What `status.json` says about how far a run is."""
    last = trainer.history[-1] if trainer.history else {}
    keys = ("episode_reward_mean", "episodes_total", "timesteps_total", "time_total_s")
    return {
        "training_iteration": trainer.iteration,
        **{key: last[key] for key in keys if key in last},
        **trainer.confirmed,
    }
