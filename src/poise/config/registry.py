"""Registering algorithms and finding their classes.

PyTorch is imported only when a class is asked for.
"""

from __future__ import annotations

import importlib
import json
import re
import typing
from collections.abc import Mapping
from typing import Any

from poise.config.algorithms import ALGORITHMS, TAKEN, algorithm_spec, known_name
from poise.config.base import AlgorithmConfig
from poise.config.presets import PRESETS, SPACES
from poise.config.spec import AlgorithmSpec
from poise.config.types import brief, coerce
from poise.errors import ConfigError

BASE = "poise.algorithms.base:Algorithm"
"""The class that all algorithms are derived from."""


def register_algorithm(
    name: str,
    algorithm: Any,
    config: type[AlgorithmConfig] | None = None,
    summary: str = "",
    *,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    search_space: Mapping[str, Any] | None = None,
) -> None:
    """Makes an algorithm known as `name`, everywhere.

    That is `poise.NAME`, `poise.make_trainer`, `poise.run`, searches, and the command with its
    help.

        class Careful(PPO):
            def loss(self, ...): ...

        poise.register_algorithm("Careful", Careful)

    Args:
        name: any that no algorithm of Poise has.
        algorithm: the class, or `"module:Class"`, which is imported when it is needed.
        config: a dataclass derived from `AlgorithmConfig`. Unless given, the algorithm has the
            configuration of the algorithm that it is derived from.
        summary: one line about it, for lists.
        presets: settings tuned for environments, by the environment's name.
        search_space: what `poise tune` searches where nobody says, such as
            `{"lr": "loguniform(1e-4, 1e-2)"}`.

    Raises:
        ConfigError: the name is taken, the class is no algorithm, or it is derived from none whose
            configuration it could have.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[^\W\d_][\w.-]*", name):
        raise ConfigError(
            f"name={brief(name)} is not allowed: letters first, then digits, '_', '-' and '.', too."
        )
    before = known_name(name)
    if before is not None and _is_ours(before):
        raise ConfigError(
            f"name={name!r} is not allowed: Poise has an algorithm of this name. "
            "Give it one of its own."
        )
    if name in TAKEN:
        raise ConfigError(
            f"name={name!r} is not allowed: poise.{name} is something else. Give it one of its own."
        )
    lazy = isinstance(algorithm, str) and ":" in algorithm
    if lazy and config is None:
        algorithm, lazy = _imported(algorithm), False
    if not lazy and BASE not in homes(algorithm):
        raise ConfigError(
            f"algorithm={algorithm!r} is not allowed: it must be a class derived from an algorithm."
        )
    if config is None:
        parents = parents_of(algorithm)
        if not parents:
            raise ConfigError(
                f"config=None is not allowed for {algorithm.__name__}: "
                "it is derived from no algorithm."
            )
        config = ALGORITHMS[parents[0]].config
    is_config = isinstance(config, type) and issubclass(config, AlgorithmConfig)
    if not is_config or "__dataclass_fields__" not in vars(config):
        raise ConfigError(
            f"config={config!r} is not allowed: "
            "it must be a @dataclass derived from AlgorithmConfig."
        )
    _read_annotations(config)
    own = {
        env: coerce(dict[str, Any], preset, f"presets[{env!r}]")
        for env, preset in (presets or {}).items()
    }
    # Other processes get them as they are, by way of JSON.
    try:
        json.dumps(own)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"presets={brief(own)} is not allowed: {error}; they must be plain, as in a file."
        ) from None
    if before is not None:
        del ALGORITHMS[before]
    ALGORITHMS[name] = AlgorithmSpec(algorithm, config, summary, own, dict(search_space or {}))
    PRESETS[name], SPACES[name] = own, ALGORITHMS[name].search_space


def _read_annotations(config: type) -> None:
    """Replaces annotations that are texts by the types that they mean.

    Another process may not have what the user's script imported for them.
    """
    for base in config.__mro__:
        if "__annotations__" in vars(base) and not base.__module__.startswith("poise."):
            hints = typing.get_type_hints(base, include_extras=True)
            base.__annotations__ = {key: hints[key] for key in vars(base)["__annotations__"]}


def homes(algorithm: Any) -> list[str]:
    """`module:Class` of a class and of all that it is derived from."""
    return [f"{base.__module__}:{base.__qualname__}" for base in getattr(algorithm, "__mro__", ())]


def parents_of(algorithm: Any) -> list[str]:
    """The names of the algorithms that a class is derived from (or is), the nearest first."""
    return [
        name for home in homes(algorithm) for name, spec in ALGORITHMS.items() if spec.home == home
    ]


def find_algorithm(name: str) -> type:
    """The class registered as `name`; imported now, where only its place was given."""
    found = algorithm_spec(name)[1].algorithm
    return _imported(found) if isinstance(found, str) else found


def _imported(home: str) -> Any:
    module, _, name = home.partition(":")
    return getattr(importlib.import_module(module), name)


def _is_ours(name: str) -> bool:
    found = ALGORITHMS[name].algorithm
    return isinstance(found, str) and found.startswith("poise.algorithms.")


def home_of(name: str) -> str:
    """`module:Class` of what registers an algorithm when its module is imported.

    It is empty for Poise's own algorithms, and for those of a script, which cannot be imported.
    """
    name, spec = algorithm_spec(name)
    own = f"{spec.config.__module__}:{spec.config.__qualname__}"
    home = spec.home if own.startswith("poise.") else own
    return "" if _is_ours(name) or home.startswith("__main__:") or "<" in home else home


def registered_algorithm(name: str) -> dict[str, Any] | None:
    """The arguments with which another process registers it; None for one of Poise's own."""
    name, spec = algorithm_spec(name)
    now = {"name": name, "presets": PRESETS.get(name), "search_space": SPACES.get(name)}
    return None if _is_ours(name) else {**spec._asdict(), **now}
