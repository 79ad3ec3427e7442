"""The types of configuration values, and the one function that checks a value against its type.

The annotation of a field says what is allowed (`Fraction`, `PositiveInt`, `Literal[...]`). `coerce`
turns a value from Python, JSON, YAML or the command line into that type, or raises one sentence
that names the key, the value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
import typing
from collections.abc import Callable
from itertools import pairwise
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from poise.errors import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval for a number; an open end excludes its bound."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.open_low else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.open_low else f"at least {self.low:g}"
        return f"{'above' if self.open_low else 'from'} {self.low:g} to {self.high:g}"


@dataclasses.dataclass(frozen=True)
class Kinds:
    """Classes of which one value may be, whatever it holds."""

    words: str
    classes: tuple[Any, ...]

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, self.classes)

    def __str__(self) -> str:
        return self.words


Fraction = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(0, open_low=True)]
NonNegative = Annotated[float, Range(0)]
PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
Seconds = Annotated[float, Range(0, 1_000_000, open_low=True)]
"""A time limit. It is bounded, since operating systems wait for no more than 24 days."""
ThreadCount = Annotated[int, Range(1, 1024)]
EnvCount = Annotated[int, Range(1, 100_000)]
"""Environments of one worker. It is bounded, since making a million would seem to take for ever."""
Policies = Annotated[
    Any,
    Kinds("a list of names, a mapping from names to settings or null", (list, dict, type(None))),
]
PolicyMapping = Annotated[Any, Kinds("a function, a mapping or null", (Callable, dict, type(None)))]
AnyPath = str | os.PathLike
Schedule = NonNegative | list[tuple[NonNegativeInt, NonNegative]]
"""A constant, or points `[[timestep, value], ...]` with straight lines between them."""


LARGEST_INT, LARGEST_FLOAT = 2**63 - 1, (2 - 2**-23) * 2.0**127
"""The largest numbers that arrays of int64 and float32 hold."""
LONGEST_SHOWN = 200
"""Characters of a value that a message shows."""


def a_path(value: Any, key: str = "path") -> Path:
    """A path as a person writes it: `~` is the home folder.

    Raises:
        ConfigError: it is no path, or in the home folder of an unknown user.
    """
    text = os.path.expanduser(coerce(AnyPath, value, key))
    if str(text).startswith("~"):
        raise ConfigError(
            f"{key}={value!r} is not allowed: there is no home folder {Path(text).parts[0]!r}."
        )
    return Path(text)


_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "null",
    os.PathLike: "a path",
    Any: "any value",
}


def describe(annotation: Any) -> str:
    """What a value of this type may be, in words: `'a number from 0 to 1'`."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation == Schedule:
        return "a number at least 0 or a schedule [[timestep, value], ...]"
    if origin is Annotated:
        return str(args[1]) if args[0] is Any else f"{describe(args[0])} {args[1]}"
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        choices = list(map(repr, args))
        return f"one of {', '.join(choices)}" if len(args) > 2 else " or ".join(choices)
    if origin is list:
        return f"a list, each item {describe(args[0])}"
    if origin is tuple:
        return f"[{', '.join(describe(arg) for arg in args)}]"
    if origin is dict or annotation is dict or dataclasses.is_dataclass(annotation):
        return "a mapping"
    return _WORDS.get(annotation) or f"a {annotation.__name__}"


def coerce(annotation: Any, value: Any, key: str) -> Any:
    """Returns `value` in the type of `annotation`.

    Integers pass for floats, and whole floats (`1e6`) for integers. Texts are never read as numbers
    here, so that `lr="fast"` and `lr="3e-4"` in a Python call are both refused: the command line
    parses its own.

    Raises:
        ConfigError: it is not allowed; the sentence names the key, the value and what is allowed.
    """
    try:
        return _coerce(annotation, value)
    except _MismatchError as error:
        raise ConfigError(
            f"{key}={brief(value)} is not allowed: it must be {describe(annotation)}.{error}"
        ) from None


def brief(value: Any) -> str:
    """A value for a message: its `repr` in one line, shortened where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception as error:
        # Such as a number of thousands of digits, or an object whose `__repr__` fails.
        text = f"<{type(value).__name__}: {error}>"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


class _MismatchError(Exception):
    """The value is not of the type; its text is a suggestion, or empty."""


def _coerce(annotation: Any, value: Any) -> Any:
    """`coerce` for any annotation; raises `_MismatchError`, since a union tries several types."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    # NumPy's numbers and arrays pass for Python's; by the name, since NumPy may not be imported.
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()
    if origin is Annotated:
        value = _coerce(args[0], value)
        if value not in args[1]:
            raise _MismatchError
        return value
    if origin in (Union, types.UnionType):
        hint = ""
        for arg in args:
            try:
                found = _coerce(arg, value)
            except _MismatchError as error:
                hint = str(error) or hint
            else:
                return _schedule(found) if annotation == Schedule else found
        raise _MismatchError(hint)
    if origin is Literal:
        if any(type(arg) is type(value) and arg == value for arg in args):
            return value
        texts = [arg for arg in args if isinstance(arg, str)]
        raise _MismatchError(nearest(value, texts) if isinstance(value, str) else "")
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise _MismatchError
        return [_coerce(args[0], item) for item in value]
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or len(value) != len(args):
            raise _MismatchError
        return tuple(_coerce(arg, item) for arg, item in zip(args, value, strict=True))
    if origin is dict or annotation is dict:
        if not isinstance(value, dict):
            broken = isinstance(value, str) and value.startswith("{")
            raise _MismatchError(" This is not valid JSON." if broken else "")
        if not all(isinstance(name, str) for name in value):
            raise _MismatchError(" Its keys must be texts.")
        return dict(value)
    return _coerce_scalar(annotation, value)


def _schedule(value: Any) -> Any:
    """A number or a schedule, whose points must be there and in order."""
    if isinstance(value, list):
        if not value:
            raise _MismatchError
        if any(later[0] < earlier[0] for earlier, later in pairwise(value)):
            raise _MismatchError(" Its timesteps must rise.")
    return value


def _coerce_scalar(annotation: Any, value: Any) -> Any:
    """`_coerce` for types without parts."""
    if annotation is bool:
        if not isinstance(value, bool):
            raise _MismatchError
        return value
    if annotation is int:
        # To Python, True is the integer 1.
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not (isinstance(value, Integral) or float(value).is_integer()):
            raise _MismatchError
        if not -LARGEST_INT <= value <= LARGEST_INT:
            raise _MismatchError(f" Integers here have 64 bits: {LARGEST_INT:.3g} is the largest.")
        return int(value)
    if annotation is float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise _MismatchError
        try:
            value = float(value)
        except OverflowError:
            value = LARGEST_FLOAT * 2
        if not math.isfinite(value):
            raise _MismatchError
        if abs(value) > LARGEST_FLOAT:
            raise _MismatchError(f" Numbers here have 32 bits: {LARGEST_FLOAT:.3g} is the largest.")
        return value
    if not isinstance(value, annotation):
        raise _MismatchError
    return value


def parse_text(text: str) -> Any:
    """A value typed on the command line.

    It is JSON where it can be read as such (`3e-4`, `[64, 64]`), else a list `64,64`, else a text.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # No JSON, or a number of thousands of digits, or nested too deep: a text.
        pass
    if text in ("None", "True", "False"):  # Python's spelling is not JSON's
        return {"None": None, "True": True, "False": False}[text]
    inner = text.strip("[]()")
    # Brackets inside mean that JSON was meant: an error should show it as it was typed.
    if "," in text and not set(inner) & set("[](){}"):
        return [parse_text(part.strip()) for part in inner.split(",") if part.strip()]
    return text
