"""What is wrong with a space, an observation or a reward, one sentence each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from poise.checks.report import Level
from poise.errors import SpaceError
from poise.spaces.layout import Layout
from poise.stepping.intake import is_flag

Fault = tuple[Level, str]
"""A level and a sentence that says what is wrong and how to mend it."""


def _error(text: str) -> Fault:
    return "error", text


def _warning(text: str) -> Fault:
    return "warning", text


def space_faults(kind: str, space: Any) -> Iterator[Fault]:
    """What is wrong with `env.observation_space` or `env.action_space`.

    Args:
        kind: `observation` or `action`.
        space: whatever stands there.
    """
    if not isinstance(space, spaces.Space):
        what = "there is none" if space is None else f"it is {short(space)}"
        yield _error(
            f"{kind}_space must be a gymnasium.spaces.Space, and {what}: "
            f"set self.{kind}_space in __init__."
        )
        return
    try:
        leaves = Layout(space).leaves
    except SpaceError as error:
        yield _error(f"{kind}_space: {error}")
        return
    for leaf in leaves:
        name = _title(f"{kind}_space", leaf.name.split("/") if space is not leaf.space else [])
        if 0 in leaf.shape:
            yield _error(
                f"{name} has the shape {leaf.shape}, in which there is no number: leave it out."
            )
        elif isinstance(leaf.space, spaces.Box):
            yield from _bounds_faults(name, leaf.space, is_action=kind == "action")


def _bounds_faults(name: str, box: spaces.Box, *, is_action: bool) -> Iterator[Fault]:
    low, high = box.low, box.high
    if np.isnan(low).any() or np.isnan(high).any():
        yield _error(
            f"{name} has NaN among its bounds, so nothing is inside: give numbers, or ±np.inf."
        )
        return
    if (low > high).any():
        i = _first(low > high)
        yield _error(
            f"{name} has low {low[i]} above high {high[i]}{_at(i)}, so nothing is inside: "
            "exchange them."
        )
        return
    if is_action and not (np.isfinite(low).all() and np.isfinite(high).all()):
        i = _first(~(np.isfinite(low) & np.isfinite(high)))
        yield _warning(
            f"{name} is unbounded ([{low[i]}, {high[i]}]{_at(i)}), "
            "so a policy cannot know how large an action is meant to be: give finite bounds, "
            "best -1 to 1, and scale them in step()."
        )
    if is_action and (low == high).any():
        i = _first(low == high)
        yield _warning(
            f"{name} allows only {low[i]}{_at(i)}: there is nothing to choose; leave that part out."
        )


class ValueFault(NamedTuple):
    """What is wrong with an observation; those of one `kind` say the same of other numbers."""

    level: Level
    kind: str
    text: str


def value_faults(
    space: spaces.Space, value: Any, path: tuple[str, ...] = ()
) -> Iterator[ValueFault]:
    """Why an observation is not in its space; nothing where it is."""
    name = _title("the observation", list(path))
    built = f"{name}: structure"
    if isinstance(space, spaces.Dict):
        keys = [*space.spaces]
        if not isinstance(value, Mapping):
            text = (
                f"{name} is {short(value)}, and its space says Dict: "
                f"return a dict with the keys {keys}."
            )
            yield ValueFault("error", built, text)
            return
        missing, more = [k for k in keys if k not in value], [k for k in value if k not in keys]
        if missing or more:
            wrong = f"has the keys {more} more than its space"
            if missing:
                wrong = f"lacks the keys {missing}"
            yield ValueFault("error", built, f"{name} {wrong}: return exactly {keys}.")
        for key, inner in space.spaces.items():
            if key in value:
                yield from value_faults(inner, value[key], (*path, str(key)))
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
            text = (
                f"{name} is {short(value)}, "
                f"and its space says a tuple of {len(space.spaces)} parts: return that."
            )
            yield ValueFault("error", built, text)
            return
        for i, inner in enumerate(space.spaces):
            yield from value_faults(inner, value[i], (*path, str(i)))
    elif isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        yield from _leaf_faults(name, space, value)
    elif not space.contains(value):
        yield ValueFault("error", built, f"{name}, {short(value)}, is not in its space {space}.")


def _leaf_faults(name: str, space: spaces.Space, value: Any) -> Iterator[ValueFault]:
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        text = (
            f"{name} must be numbers, and is {short(value)}: return np.array(..., {_type(space)})."
        )
        yield ValueFault("error", f"{name}: numbers", text)
        return
    shape, dtype = tuple(space.shape or ()), np.dtype(space.dtype)
    if array.shape != shape:
        text = (
            f"{name} has the shape {array.shape}, and its space says {shape}: "
            f"{_shape_hint(array.shape, shape)}."
        )
        yield ValueFault("error", f"{name}: shape", text)
        return
    finite = np.isfinite(array)
    if not finite.all():
        i = _first(~finite)
        text = (
            f"{name} is {array[i]}{_at(i)}, and must be finite: "
            "look for a division by zero or an overflow."
        )
        yield ValueFault("error", f"{name}: finite", text)
        return
    yield from _type_faults(name, space, value, array)
    low, high = limits(space)
    with np.errstate(over="ignore"):  # bounds at the end of a type
        slack: Any = 0
        if dtype.kind == "f":  # for rounding
            slack = 1e-4 * np.maximum(1.0, np.minimum(np.abs(low), np.abs(high)))
        outside = (array < low - slack) | (array > high + slack)
    if outside.any():
        i = _first(outside)
        least, most = (_number(np.broadcast_to(bound, shape)[i]) for bound in (low, high))
        text = (
            f"{name} is {_number(array[i])}{_at(i)}, and its space says {least} to {most}: "
            "widen the space, or clip the value."
        )
        yield ValueFault("error", f"{name}: bounds", text)


def _type_faults(
    name: str, space: spaces.Space, value: Any, array: np.ndarray
) -> Iterator[ValueFault]:
    kind, dtype = f"{name}: type", np.dtype(space.dtype)
    if array.dtype.kind == "f" and dtype.kind in "iu":
        broken = array != np.round(array)
        mend = f"return whole numbers as {_type(space)}, or make the space a Box of np.float32"
        image = dtype == np.uint8 and array.ndim >= 2
        if image and broken.any() and array.min() >= 0 and array.max() <= 1:
            mend = "return 0 to 255 as np.uint8, or make the space Box(0.0, 1.0, ..., np.float32)"
        example = array[_first(broken)] if broken.any() else array.flat[0]
        text = (
            f"{name} holds {array.dtype} such as {example:.4g}, and its space says {dtype}: {mend}."
        )
        yield ValueFault("error" if broken.any() else "warning", kind, text)
    elif isinstance(space, spaces.Discrete):
        return  # any whole number will do
    elif not isinstance(value, (np.ndarray, np.generic)):
        what = f"{name} is a {type(value).__name__}, which is converted at every step"
        text = f"{what}: return np.array(..., {_type(space)})."
        yield ValueFault("warning", kind, text)
    elif array.dtype.kind != "b" and not np.can_cast(array.dtype, dtype):
        text = (
            f"{name} is {array.dtype}, and its space says {dtype}: Poise converts it, "
            f"where others refuse it; return .astype({_type(space)})."
        )
        yield ValueFault("warning", kind, text)


def reward_faults(reward: Any) -> Iterator[Fault]:
    """What is wrong with the reward of a step."""
    mend = "return a float"
    if not isinstance(reward, (bool, int, float, np.bool_, np.integer, np.floating)):
        try:
            number = float(reward)
        except (TypeError, ValueError):
            yield _error(f"the reward must be one number, and is {short(reward)}: {mend}.")
            return
        level: Level = "error" if isinstance(reward, str) or np.shape(reward) else "warning"
        text = (
            f"the reward must be a number, and is {short(reward)}: {mend}, such as float(reward)."
        )
        yield level, text
        reward = number
    if not math.isfinite(reward):
        yield _error(
            f"the reward is {float(reward)}: it must be finite; "
            "look for a division by zero or an overflow."
        )


def flag_faults(name: str, value: Any) -> Iterator[Fault]:
    """What is wrong with `terminated` or `truncated`."""
    if not isinstance(value, (bool, np.bool_)):
        text = (
            f"what step() returns as {name} must be True or False, and is {short(value)}: "
            "use bool(...)."
        )
        yield "warning" if is_flag(value) else "error", text


def frame_faults(frame: Any) -> Iterator[Fault]:
    """What is wrong with a frame that `render()` returned for `rgb_array`."""
    if not isinstance(frame, np.ndarray):
        yield _error(
            "render() must return an array [height, width, 3] of uint8, "
            f"and returned {short(frame)}."
        )
    elif frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        yield _error(
            "render() must return an array [height, width, 3], "
            f"and returned one of shape {frame.shape}."
        )
    elif frame.dtype != np.uint8:
        yield _error(
            f"render() must return uint8 from 0 to 255, and returned {frame.dtype}: "
            "convert the frame."
        )


def same(a: Any, b: Any) -> bool:
    """Whether two observations, actions or numbers are equal; NaN equals NaN."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    try:
        first, second = np.asarray(a), np.asarray(b)
        floats = first.dtype.kind == "f" and second.dtype.kind == "f"
        return bool(np.array_equal(first, second, equal_nan=floats))
    except (TypeError, ValueError):
        return bool(a == b)


def short(value: Any, width: int = 70) -> str:
    """A value in one short line."""
    if isinstance(value, np.ndarray) and value.size > 8:
        return f"an array of shape {value.shape} and type {value.dtype}"
    try:
        text = " ".join((str if isinstance(value, np.generic) else repr)(value).split())
    except Exception:  # a __repr__ that fails
        text = f"a {type(value).__name__}"
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _title(whole: str, path: list[str]) -> str:
    return whole + "".join(f"[{part!r}]" for part in path)


def _first(mask: Any) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(np.asarray(mask))[0])


def _at(index: tuple[int, ...]) -> str:
    return f" at {list(index)}" if index else ""


def _number(number: Any) -> str:
    return f"{number:.6g}" if isinstance(number, np.floating) else str(number)


def _type(space: spaces.Space) -> str:
    return f"np.{np.dtype(space.dtype)}"


def limits(space: spaces.Space) -> tuple[Any, Any]:
    """The lowest and the highest value in a space, by element."""
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return 0, 1


def _shape_hint(found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if len(found) == 3 and wanted in ((found[2], *found[:2]), (*found[1:], found[0])):
        return "the channels are in another place; use np.moveaxis, or change the space"
    if math.prod(found) == math.prod(wanted):
        return "use .reshape, or change the space"
    return "change the space, or what you return"
