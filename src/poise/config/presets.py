"""Presets and search spaces by algorithm.

A preset is settings tuned for an environment, used unless `preset=None`; what it does not name
keeps the algorithm's default. Those named in benchmarks/RESULTS.md were measured there, over seeds.
The others come from single trials, or from the literature where a comment says so.
"""

from __future__ import annotations

from typing import Any

from poise.config.algorithms import ALGORITHMS
from poise.config.atari import atari_name
from poise.config.shared import ATARI
from poise.config.spec import Presets
from poise.errors import ConfigError, nearest

PRESETS: dict[str, Presets] = {name: spec.presets for name, spec in ALGORITHMS.items()}
"""By algorithm and environment; a script may change them."""

SPACES: dict[str, dict[str, Any]] = {name: spec.search_space for name, spec in ALGORITHMS.items()}
"""What `poise tune` searches where nobody says, by algorithm, written as in a file."""


def find_preset(algorithm: str, env: str, preset: str | None) -> tuple[str | None, dict[str, Any]]:
    """The preset's name and its settings; `(None, {})` where there is none or none is wanted.

    Raises:
        ConfigError: a preset was asked for by name and does not exist.
    """
    presets = PRESETS.get(algorithm, {})
    if preset == "auto":
        name = env.split(":")[-1]
        if name not in presets and atari_name(env) is not None:
            name = ATARI
        return (name, presets[name]) if name in presets else (None, {})
    if preset in (None, "none"):
        return None, {}
    if preset not in presets:
        known = ", ".join(presets) or "none"
        raise ConfigError(
            f"{algorithm} has no preset {preset!r}.{nearest(preset, presets)} Known: {known}."
        )
    return preset, presets[preset]
