"""What users write in `--stop` and `--config`: pairs, JSON, and files, also in RLlib's layout."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poise.config.reading import parse_json, read_file
from poise.config.types import brief, coerce, parse_text
from poise.errors import ConfigError

_EXPERIMENT_KEYS = ("run", "algorithm", "env", "stop", "config")
_SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


@dataclass
class Experiment:
    """What a configuration file says; what it leaves out is None or empty."""

    name: str | None = None
    algorithm: str | None = None
    stop: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def parse_stop(texts: Sequence[str]) -> dict[str, float] | None:
    """Stop rules from `KEY=NUMBER` texts, or JSON objects; None without any.

    Raises:
        ConfigError: a text is neither, or a value is not a number.
    """
    rules: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if text.lstrip().startswith("{"):
            rules.update(_mapping(parse_json(text, "--stop"), "--stop"))
        elif equals and key.strip() and value.strip():
            rules[key.strip()] = parse_text(value.strip())
        else:
            raise ConfigError(
                f"--stop {text!r} is not allowed: write KEY=NUMBER, "
                "for example episode_reward_mean=475, or a JSON object of such pairs."
            )
    _check_stop(rules)
    return rules or None


def read_experiment(text: str | None) -> Experiment:
    """What `--config` means: a JSON object, or the name of a `.yaml`, `.yml` or `.json` file.

    Either is a mapping of settings, or has the keys `run` (or `algorithm`), `env`, `stop` and
    `config`, by themselves or under the name of the experiment, as RLlib's files do.

    Raises:
        ConfigError: there is no such file, it cannot be parsed, or it has another shape.
    """
    if text is None:
        return Experiment()
    inline = text.lstrip().startswith("{")
    where = "--config" if inline else text
    data = _mapping(parse_json(text, where), where) if inline else _read_file(text)
    name = None
    if not _is_experiment(data) and any(map(_is_experiment, data.values())):
        if len(data) > 1:
            raise ConfigError(
                f"{where} has {len(data)} experiments ({', '.join(data)}); keep one of them in it."
            )
        [(name, data)] = data.items()
    if not _is_experiment(data):
        return Experiment(settings=data)
    return _experiment(data, name, where)


def _is_experiment(data: Any) -> bool:
    """Whether it is more than plain settings, of which `env` is one."""
    keys = (key for key in _EXPERIMENT_KEYS if key != "env")
    return isinstance(data, dict) and any(key in data for key in keys)


def _experiment(data: dict[str, Any], name: str | None, where: str) -> Experiment:
    """An experiment from a mapping with the keys of one; `where` is its file, for sentences."""
    data = importlib.import_module("poise.compat.files").as_poises(data)  # if it is RLlib's
    for key in data:
        if key not in _EXPERIMENT_KEYS:
            raise ConfigError(
                f"{where}: {key!r} is not allowed beside {', '.join(_EXPERIMENT_KEYS)}."
            )
    if "run" in data and "algorithm" in data:
        raise ConfigError(
            f"{where}: 'run' and 'algorithm' are two names of one thing: give only one of them."
        )
    settings, stop = data.get("config") or {}, data.get("stop")
    if not isinstance(settings, dict):
        raise ConfigError(
            f"{where}: config={settings!r} is not allowed: it must be a mapping of settings."
        )
    if stop is not None and not isinstance(stop, dict):
        raise ConfigError(
            f"{where}: stop={stop!r} is not allowed: it must be a mapping of result keys to "
            "numbers."
        )
    if "env" in data:
        if settings.get("env", data["env"]) != data["env"]:
            raise ConfigError(
                f"{where}: env is {data['env']!r}, and {settings['env']!r} in config: "
                "leave one out."
            )
        settings = {**settings, "env": data["env"]}
    _check_stop(stop or {})
    return Experiment(name, data.get("run", data.get("algorithm")), stop, settings)


def _check_stop(rules: dict[str, Any]) -> None:
    for key, value in rules.items():
        coerce(float, value, f"stop {key}")


def _mapping(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ConfigError(
            f"{where} must be a mapping of settings (in JSON: an object), and is {brief(data)}."
        )
    return data


def _read_file(name: str) -> dict[str, Any]:
    suffix = Path(name).suffix
    if suffix not in (".yaml", ".yml", ".json"):
        raise ConfigError(
            f"--config {name!r} is not allowed: give a JSON object, or a .yaml, .yml or .json file."
        )
    data = read_file(name)
    return _mapping(data if suffix == ".json" else _with_numbers(data), name)


def _with_numbers(data: Any) -> Any:
    """Makes numbers of texts such as `3e-4`: to YAML 1.1 it is none, since it has no point."""
    if isinstance(data, dict):
        return {str(key): _with_numbers(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_with_numbers(value) for value in data]
    return float(data) if isinstance(data, str) and _SCIENTIFIC.fullmatch(data) else data
