"""Takes what environments return into arrays, and refuses what breaks Gymnasium's contract."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from poise.errors import EnvError
from poise.spaces.layout import ROOT, Layout, Leaf
from poise.spaces.masks import KEY, is_masked, stuck


class ContractError(EnvError):
    """An environment returned what it may not; the text says what, and leaves out which one."""


FLAGS = frozenset((bool, np.bool_))
"""Types of `terminated` and `truncated` that need no second look."""
REALS = frozenset((float, np.float64))
"""Types of rewards that need none."""


def is_flag(value: Any) -> bool:
    """Whether a value says clearly that an episode ends or goes on.

    True, False, 1, 0 and an array of one of these without axes do. None, empty lists and texts
    mean something else, whatever `bool` makes of them.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)):
        return True
    return isinstance(value, (int, np.integer)) and value in (0, 1)


def check_flags(terminated: Any, truncated: Any) -> None:
    """Refuses `terminated` or `truncated` if it is no flag.

    Raises:
        ContractError: it names the flag and what it is.
    """
    for name, value in (("terminated", terminated), ("truncated", truncated)):
        if not is_flag(value):
            raise ContractError(
                f"gave {name}={short(value)}, which is neither True nor False: use bool(...)"
            )


LARGEST = float(np.finfo(np.float32).max)
"""The largest number of float32, in which policies compute."""


def too_large(what: str, value: Any) -> str:
    """Says what is wrong with a reward or an observation that is not within ±`LARGEST`."""
    value = value.item() if isinstance(value, np.generic) else value
    if np.isfinite(value).all():
        return (
            f"gave {what} beyond float32, whose largest number is {LARGEST:.2g}: {short(value)}; "
            "scale it down"
        )
    return f"gave {what} that is not finite, {short(value)}"


def number_of(reward: Any) -> float:
    """A reward as a number.

    Raises:
        ContractError: it is none.
    """
    is_complex = isinstance(reward, np.complexfloating)
    if isinstance(reward, (int, float, np.number, np.bool_)) and not is_complex:
        try:
            return float(reward)
        except OverflowError:  # a whole number that no float can hold
            return math.inf
    try:
        if isinstance(reward, str) or np.shape(reward):
            raise TypeError
        return float(reward)
    except (TypeError, ValueError):
        raise ContractError(
            f"gave a reward that is no number, {short(reward)}: return a float"
        ) from None


class Intake:
    """Writes observations into the rows of `arrays`, leaves `[B, ...]` of `layout`.

    Raises:
        SpaceError: observations hold an action mask that does not fit `action_space`.
    """

    def __init__(
        self, layout: Layout, action_space: spaces.Space, arrays: dict[str, np.ndarray]
    ) -> None:
        self.layout = layout
        self._action_space = action_space
        self._masks = arrays[KEY] if is_masked(layout.space, action_space) else None
        self.arrays = arrays
        first = next(iter(arrays.values()))
        # Row views are made once: indexing costs as much as copying a small observation.
        slots = range(len(first))
        self._rows = {name: [array[i, ...] for i in slots] for name, array in arrays.items()}
        # Most environments return one array, which has a fast path of its own.
        single = layout.leaves[0]
        plain = single.name == ROOT and isinstance(single.space, spaces.Box)
        self._root = self._rows[ROOT] if plain else None
        self._shape, self._dtype = first.shape[1:], first.dtype
        floats = {name: array for name, array in arrays.items() if array.dtype.kind == "f"}
        self._floats = [(name, array, array.reshape(-1)) for name, array in floats.items()]
        self._bounded = [(leaf, arrays[leaf.name]) for leaf in layout.leaves if _has_bounds(leaf)]

    def store(self, i: int, obs: Any) -> None:
        """Writes one environment's observation.

        Raises:
            ContractError: its structure, a shape or a type is not that of its space.
        """
        root = self._root
        if (
            root is not None
            and type(obs) is np.ndarray
            and obs.shape == self._shape
            and obs.dtype == self._dtype
        ):
            root[i][...] = obs
            return
        try:
            leaves = self.layout.flatten(obs)
        except (KeyError, IndexError, TypeError) as error:
            raise ContractError(
                f"gave an observation that is not built as its space says ({type(error).__name__}: "
                f"{error}): {short(obs)} is not in {self.layout.space}"
            ) from None
        for leaf in self.layout.leaves:
            self._rows[leaf.name][i][...] = _converted(leaf, leaves[leaf.name])

    @np.errstate(over="ignore", invalid="ignore")
    def faults(self, done: list[bool]) -> dict[int, str]:
        """Environments whose observation no policy can act on, each with what it gave.

        Such an observation holds NaN, infinity, or an action mask that allows nothing although the
        episode goes on (`done` tells which do not).

        The product of an array with itself finds NaN in one fast pass: it is finite only if all
        elements are. Where it overflows, or may hold what float32 cannot, each element is looked
        at.
        """
        found: dict[int, str] = {}
        if self._masks is not None:
            for i in np.flatnonzero(stuck(self._action_space, self._masks)).tolist():
                if not done[i]:
                    found[i] = "gave an action mask that allows no action"
        for name, array, flat in self._floats:
            if not flat.dot(flat) < LARGEST**2:
                # Compared as float32: to float16, a Python number this large would be infinity, so
                # that infinity would not exceed it.
                inside = np.abs(array.reshape(len(array), -1)) <= np.float32(LARGEST)
                for i in np.flatnonzero(~inside.all(1)).tolist():
                    found.setdefault(i, too_large(f"an observation {name!r}", array[i]))
        return found

    @np.errstate(over="ignore")
    def out_of_bounds(self) -> dict[int, str]:
        """Environments whose observation lies outside its `Box`, each with what it gave."""
        found: dict[int, str] = {}
        for leaf, array in self._bounded:
            low, high = leaf.space.low, leaf.space.high  # type: ignore[attr-defined]
            # Bounds may be rounded.
            slack = 1e-4 * np.maximum(1.0, np.minimum(np.abs(low), np.abs(high)))
            outside = ((array < low - slack) | (array > high + slack)).reshape(len(array), -1)
            for i in np.flatnonzero(outside.any(1)).tolist():
                value = array[i].reshape(-1)[outside[i]][0]
                where = np.flatnonzero(outside[i])[0]
                bounds = f"[{np.ravel(low)[where]}, {np.ravel(high)[where]}]"
                what = f"gave an observation {leaf.name!r} outside its space"
                found.setdefault(i, f"{what}: {value} is not in {bounds}")
        return found


def _has_bounds(leaf: Leaf) -> bool:
    """Whether values can lie outside a leaf's `Box` at all: a byte cannot outside 0 to 255."""
    if not isinstance(leaf.space, spaces.Box) or leaf.dtype.kind == "b":
        return False
    if leaf.dtype.kind in "iu":
        limits = np.iinfo(leaf.dtype)
        return bool((leaf.space.low > limits.min).any() or (leaf.space.high < limits.max).any())
    return bool(np.isfinite(leaf.space.low).any() or np.isfinite(leaf.space.high).any())


def _converted(leaf: Leaf, value: Any) -> np.ndarray:
    """A leaf's value in the type of its space.

    Raises:
        ContractError: its shape is another, or the conversion would change it.
    """
    space: spaces.Space = leaf.space
    whole: np.ndarray = value
    if type(value) is not np.ndarray or (value.shape, value.dtype) != (leaf.shape, leaf.dtype):
        whole = _retyped(leaf, value)
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        n = space.n if isinstance(space, spaces.Discrete) else space.nvec
        if not (np.all(whole >= space.start) and np.all(whole < space.start + n)):
            raise ContractError(
                f"gave an observation {leaf.name!r} outside its space: "
                f"{short(value)} is not in {space}"
            )
    elif isinstance(space, spaces.MultiBinary) and whole.tobytes().strip(b"\0\1"):
        raise ContractError(
            f"gave an observation {leaf.name!r} outside its space: {short(value)} is not in {space}"
        )
    return whole


def _retyped(leaf: Leaf, value: Any) -> np.ndarray:
    """A value as an array of a leaf's shape and type; errors as for `_converted`."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError
    except (TypeError, ValueError):
        raise ContractError(
            f"gave an observation {leaf.name!r} that is no array of numbers: {short(value)}"
        ) from None
    if array.shape != leaf.shape:  # NumPy would silently broadcast it
        raise ContractError(
            f"gave an observation {leaf.name!r} of shape {array.shape}, "
            f"but its space says {leaf.shape}"
        )
    if array.dtype == leaf.dtype:
        return array
    with np.errstate(invalid="ignore"):
        whole = array.astype(leaf.dtype)
    if leaf.dtype.kind != "f" and not np.array_equal(whole, array):
        raise ContractError(
            f"gave an observation {leaf.name!r} of type {array.dtype}, "
            f"which its space's {leaf.dtype} cannot hold: {short(value)}"
        )
    return whole


def short(value: Any) -> str:
    """A value in one line of at most 120 characters."""
    try:
        is_array = isinstance(value, np.ndarray) and value.ndim
        text = " ".join((str(value) if is_array else repr(value)).split())
    except Exception:  # a __repr__ that fails
        text = f"a {type(value).__name__}"
    return text if len(text) <= 120 else text[:117] + "..."
