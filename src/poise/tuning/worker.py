"""The process that runs trials for a search, one after the other; `poise.tuning.pool` starts it.

It imports PyTorch once, tells the search every result, and goes on when the search has gone: the run that is underway
ends at the next boundary with a checkpoint, from which a resumed search continues.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import cloudpickle

from poise.envs.failures import own_traceback
from poise.envs.pipe import Pipe
from poise.errors import PoiseError
from poise.tracking import launch
from poise.tracking.folder import RunFolder, plain
from poise.training.callbacks import Callback
from poise.training.checkpoint import checkpoints
from poise.training.trainer import Trainer


def main() -> None:
    """Serves the search at the other end of the standard streams."""
    pipe = Pipe(os.dup(0), os.dup(1))
    os.dup2(2, 1)  # what environments print must not get between the messages
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for number in (signal.SIGINT, signal.SIGTERM):  # these are the search's to decide about
        signal.signal(number, lambda *_: None)
    try:
        while True:
            pipe.send({"ready": True})
            pipe.send(_run(pipe, cloudpickle.loads(pipe.receive())))  # from the search, whose child this is
    except (EOFError, BrokenPipeError):
        os._exit(0)


def _run(pipe: Pipe, job: dict[str, Any]) -> dict[str, Any]:
    """Runs a trial, from its checkpoint if there is one; how it ended."""
    folder = RunFolder(job["folder"])
    reporter = Reporter(pipe)
    callbacks = [*job["callbacks"], reporter]
    try:
        if folder.exists() and checkpoints(folder.checkpoints):
            run = launch.resume(folder, stop=job["stop"], callbacks=callbacks, quiet=True)
        else:
            path = Path(job["folder"])
            run = launch.start(
                job["algorithm"],
                None,
                job["settings"],
                stop=job["stop"],
                preset=job["preset"],
                root=path.parent.parent,
                experiment=path.parent.name,
                name=path.name,
                options=job["options"],
                callbacks=callbacks,
                quiet=True,
            )
        run.trainer.close()
    except (EOFError, BrokenPipeError):
        raise
    except PoiseError as error:
        return {"error": str(error), "traceback": ""}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "traceback": own_traceback(error)}
    return {"done": plain(run.result)}


class Reporter(Callback):
    """Tells the search every result, and stops where it says so, or where it has gone."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        try:
            self.pipe.send({"result": plain(result)})
            while self.pipe.ready(0):
                trainer.stop(self.pipe.receive()["stop"])
        except (EOFError, BrokenPipeError):
            trainer.stop("preempted")


if __name__ == "__main__":
    sys.exit(main())
