"""`Run.get_context().log(name, value)`: a callback's values go into the run's `logged.jsonl`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from poise.errors import PoiseError, nearest
from poise.tracking.folder import json_line

FILE = "logged.jsonl"
LOGS = "azureml-logs"
"""Where a submitted run keeps what it logs, and its `driver_log.txt`."""

folder: ContextVar[Path | None] = ContextVar("folder", default=None)
"""The run folder whose callback is being called; in a job, else its own."""


class AbsentError(PoiseError, AttributeError):
    """Something of Azure's that has no equivalent here."""


class Refusing:
    """Says so where it is asked for what Azure has, and is not here."""

    def __getattr__(self, name: str) -> Any:
        kind = type(self).__name__
        if name.startswith("_"):  # Python and notebooks ask for these by themselves
            raise AttributeError(f"{kind} has no {name!r}.")
        known = [each for each in dir(self) if not each.startswith("_")]
        raise AbsentError(
            f"{kind}.{name} of Azure ML has no equivalent here.{nearest(name, known)}"
        )


class Run(Refusing):
    """Logs values, one line each: when, what, how much.

    Args:
        path: the folder of the log; where None, the one of the run whose callback is being called,
            or `.`.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = (path or folder.get() or Path()) / FILE

    @classmethod
    def get_context(cls, **_: Any) -> Run:
        """The run that is underway."""
        return cls()

    def log(self, name: str, value: Any, description: str = "", **_: Any) -> None:
        """Adds one value."""
        with self.path.open("a") as file:
            file.write(json_line({"time": time.time(), "name": name, "value": value}))

    def log_list(self, name: str, value: Iterable[Any], description: str = "", **_: Any) -> None:
        """Adds several values, one by one."""
        for each in value:
            self.log(name, each)

    def complete(self, **_: Any) -> None:
        """There is nothing to do: a run ends with its script."""
