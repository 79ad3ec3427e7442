"""`EnvironmentDefinition`: what a run would be installed with. Here it runs with what is there."""

from __future__ import annotations

from typing import Any


class EnvironmentDefinition:
    """Keeps what it is given, and has no effect; an estimator that is given one says so."""

    def __init__(self, name: str | None = None, **settings: Any) -> None:
        self.name, self.settings = name, settings
