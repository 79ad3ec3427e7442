"""TensorBoard, which reads its events from the run folder."""

from __future__ import annotations

import threading
from typing import Any

from poise.tracking.curves import flatten
from poise.tracking.logger import LoggedRun, Logger, numbers

GROUPS = {
    "episode": "rollout",
    "env_": "rollout",
    "worker_": "rollout",
    "time": "time",
    "training_": "time",
}
"""The groups in which TensorBoard shows other results, by what their names begin with."""


class TensorBoard(Logger):
    """Writes the numbers of every result as scalars, by environment steps.

    The settings are its hyper-parameters. Points after the checkpoint from which a run goes on come
    again, and are purged.
    """

    name = "tensorboard"
    waits = True

    def __init__(self) -> None:
        self._excepthook = threading.excepthook

    def start(self, run: LoggedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        threading.excepthook = self._thread_failed
        purge = run.steps + 1 if run.steps else None
        writer: Any = SummaryWriter(str(run.folder), purge_step=purge)
        settings = {
            key: value if isinstance(value, (bool, int, float)) else str(value)
            for key, value in flatten(run.config).items()
        }
        describe: Any = hparams
        for summary in describe(settings, {"rollout/episode_reward_mean": None}):
            writer.file_writer.add_summary(summary)
        self._writer = writer

    def log(self, result: dict[str, Any], steps: int) -> None:
        for key, value in numbers(result).items():
            self._writer.add_scalar(grouped(key), value, steps)

    def finish(self, state: str) -> None:
        self._writer.flush()
        self._writer.close()
        threading.excepthook = self._excepthook

    def _thread_failed(self, args: threading.ExceptHookArgs) -> None:
        """Keeps TensorBoard's thread from printing a traceback of a full disk.

        It is said all the same: TensorBoard raises it at the write after.
        """
        theirs = type(args.thread).__module__.startswith("tensorboard.")
        if not (theirs and isinstance(args.exc_value, OSError)):
            self._excepthook(args)


def grouped(key: str) -> str:
    """A result's name in TensorBoard: `rollout/episode_reward_mean`, `time/timesteps_total`."""
    group = next((group for start, group in GROUPS.items() if key.startswith(start)), None)
    return key if "/" in key or group is None else f"{group}/{key}"
