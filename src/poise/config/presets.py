"""Settings tuned for an environment, used unless `preset=None`.

Each was measured (see benchmarks/RESULTS.md); what is not named here keeps the algorithm's default.
"""

from __future__ import annotations

from typing import Any

from poise.errors import ConfigError, nearest

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "PPO": {},
    "A2C": {},
}


def find_preset(algorithm: str, env: str, preset: str | None) -> tuple[str | None, dict[str, Any]]:
    """The preset's name and its settings; `(None, {})` where there is none or none is wanted.

    Raises:
        ConfigError: a preset was asked for by name and does not exist.
    """
    presets = PRESETS.get(algorithm, {})
    if preset == "auto":
        name = env.split(":")[-1]
        return (name, presets[name]) if name in presets else (None, {})
    if preset is None:
        return None, {}
    if preset not in presets:
        known = ", ".join(presets) or "none"
        raise ConfigError(f"{algorithm} has no preset {preset!r}.{nearest(preset, presets)} Known: {known}.")
    return preset, presets[preset]
