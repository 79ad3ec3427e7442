"""What Tune's configurations search, as Poise has it."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

from poise.errors import PoiseWarning
from poise.tuning.space import Number
from poise.tuning.space import choice as choice
from poise.tuning.space import grid_search as grid_search
from poise.tuning.space import lograndint as lograndint
from poise.tuning.space import loguniform as _loguniform
from poise.tuning.space import quniform as quniform
from poise.tuning.space import randint as randint
from poise.tuning.space import sample_from as _sample_from
from poise.tuning.space import uniform as uniform


def loguniform(lower: float, upper: float, base: float = 10) -> Number:
    """A number whose logarithm is uniform, whatever its base."""
    return _loguniform(lower, upper)


def qrandint(lower: int, upper: int, q: int = 1) -> Number:
    """One of `lower`, `lower + q`, ... up to `upper`."""
    return Number(lower, upper, step=q, whole=True)


def qloguniform(lower: float, upper: float, q: float, base: float = 10) -> Number:
    """A number whose logarithm is uniform, which is not rounded here."""
    _instead(f"qloguniform({lower:g}, {upper:g}, {q:g})", "loguniform, without steps")
    return _loguniform(lower, upper)


def qlograndint(lower: int, upper: int, q: int, base: float = 10) -> Number:
    """An integer whose logarithm is uniform, which is not rounded further here."""
    _instead(f"qlograndint({lower}, {upper}, {q})", "lograndint, without steps")
    return lograndint(lower, upper)


def randn(mean: float = 0.0, sd: float = 1.0) -> Number:
    """A number near `mean`."""
    _instead(f"randn({mean:g}, {sd:g})", f"uniform({mean - 2 * sd:g}, {mean + 2 * sd:g})")
    return uniform(mean - 2 * sd, mean + 2 * sd)


def qrandn(mean: float, sd: float, q: float) -> Number:
    """The same in steps."""
    _instead(f"qrandn({mean:g}, {sd:g}, {q:g})", "quniform of two deviations around the mean")
    return quniform(mean - 2 * sd, mean + 2 * sd, q)


def sample_from(function: Callable[..., Any]) -> Any:
    """What a function of the trial's other settings, or of nothing, returns."""
    takes_none = not inspect.signature(function).parameters
    return _sample_from((lambda spec: function()) if takes_none else function)


def function(called: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is a setting itself."""
    return called


def _instead(what: str, given: str) -> None:
    warnings.warn(f"tune.{what} becomes {given}.", PoiseWarning, stacklevel=3)
