"""`Run.get_context().log(name, value)`: a callback's values go into the run's `logged.jsonl`."""

from __future__ import annotations

import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from poise.tracking.folder import json_line

FILE = "logged.jsonl"
LOGS = "azureml-logs"
"""Where a submitted run keeps what it logs, and its `driver_log.txt`."""

folder: ContextVar[Path | None] = ContextVar("folder", default=None)
"""The run folder whose callback is being called; in a job, else its own."""


class Run:
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
