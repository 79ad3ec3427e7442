"""The settings of self-play: against which earlier selves a policy plays, and how often."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from poise.config.types import Fraction, Kinds, PositiveInt, brief, coerce
from poise.errors import ConfigError, nearest

OpponentsSetting = Annotated[
    Any,
    Kinds(
        "true, a mapping with some of pool, every, sampling and latest, or null",
        (bool, dict, type(None)),
    ),
]


@dataclass
class OpponentsConfig:
    """The keys of `opponents`."""

    pool: PositiveInt = 10
    """How many earlier selves are kept."""

    every: PositiveInt = 50_000
    """Environment steps after which the present self joins them."""

    sampling: Literal["pfsp", "uniform"] = "pfsp"
    """Which of them is played: `pfsp`, mostly those that win (prioritised fictitious self-play);
    `uniform`, each as often."""

    latest: Fraction = 0.5
    """The share of episodes in which the policy plays itself, as it is, on all seats."""


def read_opponents(given: Any) -> OpponentsConfig | None:
    """What `opponents` says; None where a policy plays only itself.

    Args:
        given: true for the defaults, or a mapping of some keys.

    Raises:
        ConfigError: an unknown key (with the nearest known one), or a value that is not allowed.
    """
    if given is None or given is False:
        return None
    hints = typing.get_type_hints(OpponentsConfig, include_extras=True)
    config = OpponentsConfig()
    for key, value in (given if isinstance(given, Mapping) else {}).items():
        if key not in hints:
            raise ConfigError(
                f"opponents has no key {brief(key)}.{nearest(str(key), hints)} "
                f"Its keys: {', '.join(hints)}."
            )
        setattr(config, key, coerce(hints[key], value, f"opponents.{key}"))
    return config


def resolved(given: Any) -> dict[str, Any] | None:
    """`opponents` with all of its keys, as configurations hold it; errors as `read_opponents`."""
    config = read_opponents(given)
    return None if config is None else dataclasses.asdict(config)
