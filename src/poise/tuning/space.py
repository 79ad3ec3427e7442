"""Search spaces: what takes the place of a setting, and what a trial gets instead.

    config = {"lr": loguniform(1e-5, 1e-2), "model": {"fcnet_hiddens": choice([[64], [64, 64]])}}

They may stand anywhere in a configuration: in nested mappings, in lists, and within the options of
a `choice`, whose own searches are made only where the option is chosen.
"""

from __future__ import annotations

import ast
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from poise.config.types import brief
from poise.errors import ConfigError, nearest

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Primitive = None | bool | int | float | str

MAX_TRIALS = 100_000
"""Trials of one search at most, and so the points of its grid."""
MAX_OPTIONS = 10_000
"""Values among which one search chooses at most."""
MAX_DEPTH = 40
"""Mappings and lists inside each other in a configuration that is searched, at most."""
LARGEST = 1e300
"""The largest bound of a search."""
LARGEST_WHOLE = 2**53
"""The largest bound of whole numbers: up to it, floating-point numbers tell them apart."""


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`.

    Attributes:
        low, high: bounds; both can be drawn.
        log: whether its logarithm is uniform.
        step: with it, only `low`, `low + step`, ... can be drawn.
        whole: whether it is an integer.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        most = LARGEST_WHOLE if self.whole else LARGEST
        for bound in (self.low, self.high, self.step or 0):
            if isinstance(bound, bool) or not isinstance(bound, (int, float)):
                raise ConfigError(f"{bound!r} is no number to search from or to.")
            if not -most <= bound <= most:  # which NaN is not, either
                raise ConfigError(
                    f"A search cannot reach {brief(bound)}: its bounds go up to {most:g}."
                )
            if self.whole and bound != int(bound):
                raise ConfigError(f"A search of whole numbers cannot have the bound {bound:g}.")
        if self.low > self.high:
            raise ConfigError(f"There is no number from {self.low:g} to {self.high:g} to search.")
        if self.log and self.low <= 0:
            raise ConfigError(f"A search by the logarithm must begin above 0, not at {self.low:g}.")
        step = self.step
        if step is not None and not (step > 0 and (self.high - self.low) / step <= LARGEST_WHOLE):
            raise ConfigError(
                f"A search in steps of {step:g} gets nowhere: they must be above 0, and no finer."
            )

    def suggest(self, trial: BaseTrial | Fixed, name: str) -> float:
        if self.whole:
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return trial.suggest_int(name, low, high, log=self.log, step=step)
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)


@dataclass(frozen=True)
class Choice:
    """One of several values of any kind.

    A `grid` is gone through from first to last, in every sample.
    """

    options: tuple[Any, ...]
    grid: bool = False

    def __post_init__(self) -> None:
        name = "grid_search" if self.grid else "choice"
        if not self.options:
            raise ConfigError(f"{name}([]) has nothing to choose from.")
        if len(self.options) > MAX_OPTIONS:
            given = f"{name} of {len(self.options):,} values"
            raise ConfigError(f"{given} is not allowed: there are at most {MAX_OPTIONS:,}.")
        seen: set[Primitive] = set()
        for label in self.labels:
            if label in seen:
                raise ConfigError(
                    f"{label!r} stands twice among the values of one search: leave one out."
                )
            if label != label or (isinstance(label, int) and abs(label) > 2**63):
                raise ConfigError(
                    f"{name} of {brief(label)} is not allowed: it is no value to choose."
                )
            seen.add(label)

    @cached_property
    def labels(self) -> list[Primitive]:
        """The options as they are written down: numbers and texts themselves, the rest as text."""
        return [each if isinstance(each, Primitive) else as_text(each) for each in self.options]

    def suggest(self, trial: BaseTrial | Fixed, name: str) -> Any:
        return self.options[self.labels.index(trial.suggest_categorical(name, self.labels))]


@dataclass(frozen=True)
class Computed:
    """A value that follows from the others: `function(spec)`, which has them in `spec.config`."""

    function: Callable[[Any], Any]


def uniform(low: float, high: float) -> Number:
    """A number from `low` to `high`."""
    return Number(low, high)


def quniform(low: float, high: float, q: float) -> Number:
    """One of `low`, `low + q`, ... up to `high`."""
    return Number(low, high, step=q)


def loguniform(low: float, high: float) -> Number:
    """A number from `low` to `high` whose logarithm is uniform, as suits learning rates."""
    return Number(low, high, log=True)


def randint(low: int, high: int | None = None) -> Number:
    """An integer from `low` up to, but without, `high`; `randint(n)` is one from 0 to n - 1."""
    low, high = (0, low) if high is None else (low, high)
    return Number(low, _below(high), whole=True)


def lograndint(low: int, high: int) -> Number:
    """An integer from `low` up to, but without, `high`, whose logarithm is about uniform."""
    return Number(low, _below(high), log=True, whole=True)


def _below(high: Any) -> Any:
    return high - 1 if isinstance(high, (int, float)) else high  # `Number` refuses the rest


def _listed(values: Any, name: str) -> tuple[Any, ...]:
    if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__iter__"):
        raise ConfigError(f"{name}({values!r}) is no search: it takes a list.")
    return tuple(values)


def choice(options: Sequence[Any]) -> Choice:
    """One of these values, whatever they are; they may hold searches themselves."""
    return Choice(_listed(options, "choice"))


def grid_search(values: Sequence[Any]) -> Choice:
    """Each of these values in turn: `num_samples` repeats the whole grid."""
    return Choice(_listed(values, "grid_search"), grid=True)


def sample_from(function: Callable[[Any], Any]) -> Computed:
    """What `function(spec)` returns.

    `spec.config` holds all other settings of the trial, as attributes and as keys.
    """
    return Computed(function)


FUNCTIONS: dict[str, Callable[..., Number | Choice]] = {
    made.__name__: made
    for made in (uniform, quniform, loguniform, randint, lograndint, choice, grid_search)
}
"""Searches that can be written as text in JSON, YAML and commands: `"loguniform(1e-5, 1e-2)"`."""

BAD_TEXT = (
    ValueError, SyntaxError, TypeError, RecursionError, MemoryError, OverflowError,
)  # fmt: skip
"""What a text may raise that cannot be read as the arguments of a search."""
_CALL = re.compile(r"\s*(\w+)\s*(\(.*\))\s*", re.DOTALL)


def parse(value: Any, depth: int = 0) -> Any:
    """A configuration from JSON or YAML, with objects for the searches that are written in it.

    They are texts such as `uniform(0, 1)`, which are read and not run, and mappings
    `{"grid_search": [...]}`.

    Args:
        value: a configuration, or a part of one.
        depth: mappings and lists around it.

    Raises:
        ConfigError: a text that looks like a search and is none, or a nest too deep.
    """
    check_depth(depth)
    if isinstance(value, Mapping):
        if len(value) == 1 and (name := next(iter(value))) in ("grid_search", "choice"):
            if not isinstance(value[name], (list, tuple)):
                raise ConfigError(f"{name} of {value[name]!r} is no search: it takes a list.")
            return FUNCTIONS[name]([parse(option, depth + 1) for option in value[name]])
        return {key: parse(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [parse(item, depth + 1) for item in value]
    found = _CALL.fullmatch(value) if isinstance(value, str) else None
    name, arguments = found.groups() if found else ("", "")
    if name not in FUNCTIONS:
        if hint := found and nearest(name, FUNCTIONS):
            raise ConfigError(f"{brief(value)} is no search.{hint} Known: {', '.join(FUNCTIONS)}.")
        return value  # a text like any other
    try:
        read = ast.literal_eval(f"[{arguments[1:-1]}]")
        given = json.loads(json.dumps(read))  # only what a file can hold, too
        return FUNCTIONS[name](*given)
    except ConfigError:
        raise
    except BAD_TEXT as error:
        raise ConfigError(
            f"{brief(value)} cannot be read as a search ({error}): "
            "write, for example, uniform(0, 1)."
        ) from None


def check_depth(depth: int) -> None:
    """Refuses what lies deeper in a configuration than any setting does.

    Raises:
        ConfigError: it does.
    """
    if depth > MAX_DEPTH:
        raise ConfigError(
            f"Searches stand at most {MAX_DEPTH} mappings and lists deep in a configuration."
        )


def is_search(value: Any) -> bool:
    """Whether it takes the place of a value."""
    return isinstance(value, (Number, Choice, Computed))


def searches(
    config: Any, path: str = "", depth: int = 0
) -> Iterator[tuple[str, Number | Choice | Computed]]:
    """All searches in a configuration, each with its place (`model.fcnet_hiddens.0`).

    Those within the options of another are left out.

    Raises:
        ConfigError: a nest too deep.
    """
    check_depth(depth)
    if is_search(config):
        yield path, config
    elif isinstance(config, Mapping):
        for key, item in config.items():
            yield from searches(item, f"{path}.{key}" if path else str(key), depth + 1)
    elif isinstance(config, (list, tuple)):
        for number, item in enumerate(config):
            yield from searches(item, f"{path}.{number}" if path else str(number), depth + 1)


def grid(config: Mapping[str, Any]) -> list[dict[str, Primitive]]:
    """The points of a configuration's grid; without a grid, one empty point.

    A point has the labels of the chosen options, by place.

    Raises:
        ConfigError: there are more than a search can have trials.
    """
    axes = [
        (place, found.labels)
        for place, found in searches(config)
        if isinstance(found, Choice) and found.grid
    ]
    if (size := math.prod(len(labels) for _, labels in axes)) > MAX_TRIALS:
        product = " x ".join(f"{len(labels):,} of {place}" for place, labels in axes)
        raise ConfigError(
            f"A grid of {size:,} points ({product}) is not allowed: "
            f"a search has at most {MAX_TRIALS:,} trials. Write choice instead of grid_search, "
            "and how many to try."
        )
    places, labels = [place for place, _ in axes], [labels for _, labels in axes]
    return [dict(zip(places, point, strict=True)) for point in itertools.product(*labels)]


class Fixed:
    """Suggests what was proposed before, in Optuna's place.

    Args:
        params: what was proposed, by its place in the configuration.

    Attributes:
        unused: what nobody has asked for yet.
    """

    def __init__(self, params: Mapping[str, Primitive]) -> None:
        self.params = dict(params)
        self.unused = set(params)

    def suggest_categorical(self, name: str, choices: Sequence[Primitive]) -> Primitive:
        value = self._take(name)
        known = [(type(choice), choice) for choice in choices]  # 1 is not True, nor 1.0
        if name not in self.params or (type(value), value) not in known:
            raise ValueError(f"{name} has no {value!r}")
        return value

    def suggest_float(self, name: str, low: float, high: float, **_: Any) -> float:
        value = self._take(name)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not low <= value <= high
        ):
            raise ValueError(f"{name} does not reach {value!r}")
        return value

    suggest_int: Any = suggest_float

    def _take(self, name: str) -> Primitive | None:
        self.unused.discard(name)
        return self.params.get(name)


def sample(config: Mapping[str, Any], trial: BaseTrial | Fixed) -> dict[str, Any]:
    """A configuration without searches.

    Each is replaced by what `trial` suggests, and then what is computed by its value.

    Raises:
        ConfigError: a function of `sample_from` failed.
    """
    later: list[tuple[Any, Any, str, Computed]] = []
    result: dict[str, Any] = _sampled(config, trial, "", later)
    for owner, key, path, computed in later:
        try:
            owner[key] = computed.function(SimpleNamespace(config=Known(result)))
        except Exception as error:
            raise ConfigError(
                f"sample_from of {path!r} failed with {type(error).__name__}: {error}"
            ) from error
    return result


class Known(dict[str, Any]):
    """A configuration whose keys are attributes, too: so functions of `sample_from` read it."""

    def __getattr__(self, name: str) -> Any:
        try:
            value = self[name]
        except KeyError:
            raise AttributeError(
                f"the configuration has no {name!r}.{nearest(name, self)}"
            ) from None
        return Known(value) if isinstance(value, dict) else value


def _sampled(
    value: Any, trial: BaseTrial | Fixed, path: str, later: list[tuple[Any, Any, str, Computed]]
) -> Any:
    """A part of a configuration without searches; what is to be computed goes into `later`."""
    if isinstance(value, Number):
        return value.suggest(trial, path)
    if isinstance(value, Choice):
        option = value.suggest(trial, path)
        if not any(searches(option)):
            return option
        return _sampled(option, trial, f"{path}={as_text(option)}", later)
    result: Any
    if isinstance(value, Mapping):
        result = dict(value)
    elif isinstance(value, (list, tuple)):
        result = list(value)
    else:
        return value
    for key, item in result.items() if isinstance(result, dict) else enumerate(result):
        place = f"{path}.{key}" if path else str(key)
        if isinstance(item, Computed):
            result[key] = None
            later.append((result, key, place, item))
        else:
            result[key] = _sampled(item, trial, place, later)
    return result


def as_text(value: Any) -> str:
    """A value as a short text that tells it from others."""
    return json.dumps(value, default=repr)
