"""RLlib's files of an experiment (`run`, `env`, `stop`, `config`), for `poise train --config`."""

from __future__ import annotations

import warnings
from typing import Any

from poise.config.algorithms import known_name
from poise.errors import PoiseWarning

FLAGS = {
    "checkpoint_freq": "--checkpoint-freq", "keep_checkpoints_num": "--keep-checkpoints-num",
    "local_dir": "--folder", "storage_path": "--folder", "num_samples": "--seeds",
    "max_failures": "", "checkpoint_at_end": "", "resources_per_trial": "", "restore": "",
    "checkpoint_config": "--checkpoint-freq", "repeat": "--seeds", "pass_criteria": "",
}  # fmt: skip
"""What else such a file says, and the flag that says it here."""


def as_poises(data: dict[str, Any]) -> dict[str, Any]:
    """An experiment of RLlib's, which says `run`, as Poise has it; what is left out is said."""
    if "run" not in data:
        return data
    kept = {key: value for key, value in data.items() if key not in FLAGS}
    for key in data.keys() & FLAGS.keys() - {"checkpoint_at_end", "max_failures"}:
        hint = f": {FLAGS[key]} says it" if FLAGS[key] else ""
        text = f"{key}={data[key]!r} is left out{hint}."
        warnings.warn(text, PoiseWarning, stacklevel=2)
    config = kept.get("config")
    if not isinstance(config, dict) or not (name := known_name(str(kept["run"]))):
        return kept  # what is wrong is said by whoever reads it
    from poise.compat.translate import settings_of

    settings = settings_of(name, {"env": kept.get("env"), **config})
    return {**kept, "config": {k: v for k, v in settings.items() if k != "env" or v is not None}}
