"""Tune's loggers. A run keeps its results by itself: metrics.jsonl, and TensorBoard's events."""

from __future__ import annotations

import warnings
from typing import Any

import yaml

from poise.errors import PoiseWarning
from poise.tracking.folder import plain


class Callback:
    """Tune's callbacks of trials; `on_trial_result` and what else they have is called for none."""

    def __init__(self, *_: Any, **__: Any) -> None:
        if type(self).__module__ != __name__:
            text = (f"{type(self).__name__} is a callback of Tune's and is never called: "
                    "poise.Callback has hooks into runs.")  # fmt: skip
            warnings.warn(text, PoiseWarning, stacklevel=2)


class Logger(Callback):
    """Where results go is a run's own folder."""


class _Reports(Logger):
    """Reports to a service, which a callback of yours may do."""

    def __init__(self, *_: Any, **__: Any) -> None:
        text = (f"{type(self).__name__} is left out: a callback may report to Weights & Biases or "
                "MLflow, see docs/how-do-i.md.")  # fmt: skip
        warnings.warn(text, PoiseWarning, stacklevel=2)


LoggerCallback = CSVLogger = CSVLoggerCallback = JsonLogger = JsonLoggerCallback = Logger
TBXLogger = TBXLoggerCallback = UnifiedLogger = Logger
WandbLogger = WandbLoggerCallback = MLflowLoggerCallback = _Reports
DEFAULT_LOGGERS = (JsonLogger, CSVLogger, TBXLogger)


def pretty_print(result: dict[str, Any], *_: Any) -> str:
    """A result as a text, without the configuration and the episodes one by one."""
    shown = {key: value for key, value in result.items() if key not in ("config", "hist_stats")}
    text: str = yaml.safe_dump(plain(shown), default_flow_style=False)
    return text
