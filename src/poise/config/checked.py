"""Configurations whose attributes are checked whenever they are set."""

from __future__ import annotations

import functools
import typing
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

from poise.config.types import brief, coerce
from poise.errors import ConfigError, nearest

_SETTLED = "_settled"


class Checked:
    """Base of the configurations, which are dataclasses.

    An unknown attribute is refused with the nearest name, a wrong value with what is allowed. After
    `settle`, so is every change that a policy which is learning could not follow.
    """

    adjustable: ClassVar[frozenset[str]] = frozenset()
    """Attributes that may change after `settle`; they count from the next iteration on."""

    def __setattr__(self, key: str, value: Any) -> None:
        kinds: dict[str, Any] = _kinds(typing.cast(Any, type(self)))
        if key not in kinds:
            aliases: dict[str, str] = getattr(self, "aliases", {})
            known = aliases.get(key)
            hint = f" It is called {known!r} here." if known else nearest(key, [*kinds, *aliases])
            raise ConfigError(f"A configuration has no {key!r}.{hint}")
        if self.__dict__.get(_SETTLED) and key not in self.adjustable:
            if value == getattr(self, key):
                return
            adjustable = ", ".join(name for name in kinds if name in self.adjustable)
            raise ConfigError(
                f"{key} cannot change while a policy learns: make a new trainer. "
                f"What may: {adjustable or 'nothing of this'}."
            )
        nested = is_dataclass(kinds[key])
        if nested and not isinstance(value, kinds[key]):
            raise ConfigError(
                f"{key}={brief(value)} is not allowed: "
                f"set its attributes, such as config.{key}.NAME."
            )
        self.__dict__[key] = value if nested else coerce(kinds[key], value, key)

    def settle(self) -> None:
        """Begins to refuse what cannot change while a policy learns."""
        self.__dict__[_SETTLED] = True


@functools.cache
def _kinds(config: Any) -> dict[str, Any]:
    """The types of a configuration's attributes."""
    hints = typing.get_type_hints(config, include_extras=True)
    return {each.name: hints[each.name] for each in fields(config)}


def quotient(batch: int, key: str, value: int) -> int:
    """`batch / value`, which must be whole."""
    if batch % value:
        raise ConfigError(
            f"train_batch_size={batch} contradicts {key}={value}: it must be a multiple of it, "
            f"such as {max(value, batch - batch % value)}."
        )
    return batch // value
