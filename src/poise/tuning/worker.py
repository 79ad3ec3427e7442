"""The process that runs trials for a search, one after the other; `poise.tuning.pool` starts it.

It imports PyTorch once, tells the search every result, and goes on when the search has gone: the
run that is underway ends at the next boundary with a checkpoint, from which a resumed search
continues.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium

from poise.children.launch import begin
from poise.children.pipe import Pipe
from poise.config.registry import register_algorithm
from poise.config.resolve import resolve
from poise.envs.changes import apply
from poise.envs.make import register_env
from poise.envs.raised import own_traceback, said
from poise.errors import PoiseError
from poise.models.catalog import register_model, register_preprocessor
from poise.tracking import launch
from poise.tracking.folder import RunFolder, plain
from poise.training.callbacks import Callback
from poise.training.trainer import Trainer
from poise.training.unused import unused
from poise.tuning.going_on import goes_on


def main() -> None:
    """Serves the search at the other end of the standard streams."""
    pipe = begin()
    try:
        while True:
            pipe.send({"ready": True})
            while not isinstance(data := pipe.receive(), bytes):
                pass  # told to stop a run that had ended by itself
            pipe.send(_end(pipe, data))
    except (EOFError, BrokenPipeError):
        os._exit(0)


def _end(pipe: Pipe, data: bytes) -> dict[str, Any]:
    """Does a job; returns how it ended."""
    try:
        job = cloudpickle.loads(data)  # from the search, whose child this is
    except Exception as error:
        return {
            "error": f"What the search sent cannot be read on {socket.gethostname()}: "
            f"{said(error)}."
        }
    with _output(Path(job["folder"]) / "output.txt"):
        return _run(pipe, job)


@contextmanager
def _output(file: Path) -> Iterator[None]:
    """Sends what environments and warnings print into a file: the terminal shows the trials."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(1), os.dup(2)
    with file.open("ab") as out:
        for number in (1, 2):
            os.dup2(out.fileno(), number)
    try:
        yield
    finally:
        sys.stderr.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)
        if not file.stat().st_size:
            file.unlink()


def _run(pipe: Pipe, job: dict[str, Any]) -> dict[str, Any]:
    """Runs a trial, from its checkpoint if there is one; returns how it ended."""
    folder = RunFolder(job["folder"])
    callbacks = [*job["callbacks"], Reporter(pipe)]
    try:
        going_on = goes_on(folder)
        _register(job["registered"])
        if going_on:
            asked, _ = resolve(job["algorithm"], None, job["settings"], preset=job["preset"])
            own = {"env": asked.env, "env_config": asked.env_config}  # by the search, not by a file
            run = launch.resume(folder, stop=job["stop"], callbacks=callbacks, quiet=True, **own)
        else:
            run = launch.start(
                job["algorithm"],
                settings=job["settings"],
                stop=job["stop"],
                preset=job["preset"],
                root=folder.path.parents[1],
                experiment=folder.path.parent.name,
                name=folder.path.name,
                options=job["options"],
                callbacks=callbacks,
                quiet=True,
            )
        with run.trainer:
            return {"done": plain(run.result), "unused": unused(run.trainer, job["stop"])}
    except (EOFError, BrokenPipeError):
        raise
    except PoiseError as error:
        return {"error": str(error)}
    except Exception as error:
        file = folder.path / "error.txt"
        folder.path.mkdir(parents=True, exist_ok=True)
        file.write_text(own_traceback(error))
        return {"error": f"{type(error).__name__}: {error} ({file} has the traceback)"}


def _register(named: dict[str, Any]) -> None:
    """Makes known what the search's process knows by name, and changes what it has changed."""
    apply(named["changes"])
    if named["algorithm"] is not None:
        register_algorithm(**named["algorithm"])
    for spec in named["specs"]:
        gymnasium.registry.setdefault(spec.id, spec)
    kinds: dict[str, Any] = {
        "envs": register_env,
        "models": register_model,
        "preprocessors": register_preprocessor,
    }
    for kind, register in kinds.items():
        for name, thing in named[kind].items():
            register(name, thing)


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
    main()
