"""What is known of an algorithm before its class, and PyTorch with it, is imported."""

from __future__ import annotations

from typing import Any, NamedTuple

from poise.config.base import AlgorithmConfig, env_name

Presets = dict[str, dict[str, Any]]
"""Settings tuned for environments, by the environment's name."""


class AlgorithmSpec(NamedTuple):
    """An algorithm's entry among those that are known by name."""

    algorithm: str | type
    """Its class, or the `module:Class` that is imported when it is needed."""

    config: type[AlgorithmConfig]
    """Its settings."""

    summary: str
    """One line about it."""

    presets: Presets
    """Those that it was registered with; `poise.config.presets.PRESETS` has those that count."""

    search_space: dict[str, Any]
    """What is searched where nobody says, as in a file: `{"lr": "loguniform(1e-4, 1e-2)"}`."""

    @property
    def home(self) -> str:
        """`module:Class`."""
        return self.algorithm if isinstance(self.algorithm, str) else env_name(self.algorithm)
