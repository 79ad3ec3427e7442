"""Weights & Biases, and trackio, whose interface is much the same."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from poise.errors import RunError
from poise.tracking.logger import LoggedRun, Logger, numbers

PROJECT = "poise"
"""The project of runs, unless the service's own environment variable names another."""


class Wandb(Logger):
    """Sends numbers, films and checkpoints to Weights & Biases.

    Its environment variables hold (`WANDB_MODE=offline`, `WANDB_PROJECT`, `WANDB_ENTITY`, ...).
    """

    name = "wandb"

    def start(self, run: LoggedRun) -> None:
        self._module: Any = importlib.import_module(self.name)
        self._group = run.group
        self._run = self._init(run)

    def _init(self, run: LoggedRun) -> Any:
        wandb = self._module
        # It would ask for a key in the terminal of a run; and capture what the run prints.
        wandb.setup(wandb.Settings(silent=True))
        made = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=run.group,
            name=run.name,
            id=run.id,
            resume=run.id and "allow",
            config=run.config,
            settings=wandb.Settings(console="off", silent=True),
            reinit="create_new",
        )
        # Its own steps must rise, and those of a run that goes on from a checkpoint fall.
        made.define_metric("*", step_metric="timesteps_total")
        run.id = made.id
        run.place = made.settings.sync_dir if made.offline else made.url
        return made

    def _send(self, values: dict[str, Any], steps: int) -> None:
        self._run.log({**values, "timesteps_total": steps})

    def log(self, result: dict[str, Any], steps: int) -> None:
        self._send(numbers(result), steps)

    def film(self, path: Path, steps: int) -> None:
        self._send({f"video/{path.stem}": self._module.Video(str(path), format="mp4")}, steps)

    def checkpoint(self, path: Path, names: list[str]) -> None:
        artifact = self._module.Artifact(f"{self._group}-{self._run.id}", type="model")
        artifact.add_dir(str(path))
        self._run.log_artifact(artifact, aliases=[*names, f"iteration-{int(path.name)}"])

    def finish(self, state: str) -> None:
        self._run.finish(exit_code=int(state == "failed"))


class Trackio(Wandb):
    """Sends the same to trackio: a file of this machine, unless `TRACKIO_SPACE_ID` is set."""

    name = "trackio"

    def _init(self, run: LoggedRun) -> Any:
        # It finds a run again by its name alone.
        made = self._module.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            group=run.group,
            name=f"{run.group}_{run.name}".replace("/", "_"),
            resume="must" if run.id else "never",
            config=run.config,
            embed=False,
        )
        if run.id not in (None, made.id):
            made.finish()
            raise RunError(f"a later run there is called {made.name} as well")
        run.id = made.id
        return made

    def _send(self, values: dict[str, Any], steps: int) -> None:
        self._run.log(values, step=steps)

    def finish(self, state: str) -> None:
        self._run.finish()
