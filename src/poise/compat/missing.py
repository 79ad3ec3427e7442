"""What a module of old names says of a name that it has not: missing here, or misspelt."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any, NoReturn

from poise.errors import nearest


class Absent:
    """Takes the place of what Poise has nothing for: it can be imported, and says so when used.

    Args:
        name: of what it stands for.
        instead: a sentence that says what to take.
    """

    def __init__(self, name: str, instead: str) -> None:
        self.__dict__.update(_said=f"{name} is not carried over. {instead}", __name__=name)

    def __repr__(self) -> str:
        return f"<{self._said}>"

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(self._said)

    __getitem__ = __call__

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotImplementedError(self._said)

    def __mro_entries__(self, bases: Any) -> NoReturn:
        raise NotImplementedError(self._said)


def names_of(
    module: str, known: Iterable[str], absent: Mapping[str, str] | None = None
) -> Callable[[str], Any]:
    """A module's `__getattr__`.

    It raises an `ImportError`, since of an `AttributeError` the line `from module import name`
    would not show the text.

    Args:
        module: what it stands for, such as `gym.wrappers`.
        known: the names that it has.
        absent: names that the original has and Poise has not, each with what to take instead: they
            can be imported, and say so when they are used.
    """
    known, without = list(known), dict(absent or {})

    def find(name: str) -> Any:
        home = f"{__package__}.{module}"
        is_package = "__path__" in vars(sys.modules[home])
        if name.startswith("_") or (is_package and find_spec(f"{home}.{name}") is not None):
            raise AttributeError(name)  # a module is imported where it is no attribute
        if name in without:
            return Absent(f"{module}.{name}", without[name])
        close = nearest(name, [*known, *without])
        raise ImportError(
            f"{module}.{name} is not here: it is misspelt, or not among what Poise carries over "
            f"(docs/coming-from.md).{close}"
        )

    return find
