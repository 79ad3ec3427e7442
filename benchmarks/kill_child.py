"""The process that `kill.py` kills: starts a run, or resumes the one that is there, as an order in
JSON says.

An order has `algorithm`, `env`, `settings`, `seed`, `folder` and `name` of the run, `every`
(iterations between checkpoints), `until` (the last iteration) and perhaps `kill_at`, the iteration
in which a new run kills itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import poise
from poise.config.run import RunOptions
from poise.startup import ENDING
from poise.tracking.folder import RunFolder
from poise.tracking.launch import resume, start


class Kill(poise.Callback):
    """Ends the process as `kill -9` does, before the iteration's checkpoint."""

    def __init__(self, iteration: int | None) -> None:
        self.iteration = iteration

    def on_iteration(self, trainer: poise.Trainer, result: dict[str, Any]) -> None:
        if trainer.iteration == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


def main(order: dict[str, Any]) -> None:
    stop = {"training_iteration": order["until"]}
    run = Path(order["folder"]) / "e" / order["name"]
    if (run / "config.json").exists():
        resume(RunFolder(run), stop=stop, signals=ENDING, quiet=True)
        return
    start(
        order["algorithm"],
        order["env"],
        {**order["settings"], "seed": order["seed"]},
        stop=stop,
        root=order["folder"],
        experiment="e",
        name=order["name"],
        options=RunOptions(
            checkpoint_freq=order["every"], checkpoint_interval_s=1e6, tensorboard=False
        ),
        callbacks=[Kill(order.get("kill_at"))],
        signals=ENDING,
        quiet=True,
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
