"""From an action space to a distribution, and from its samples to what the environment takes.

Leaves of one kind share one distribution, however nested the space is:

    Box                         Gaussian, or SquashedGaussian
    Discrete, MultiDiscrete     MultiCategorical (Categorical if the space is one Discrete)
    MultiBinary                 Bernoulli

If there are several kinds, the action is their product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from poise.config.model import ModelConfig
from poise.errors import SpaceError
from poise.learning.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Gaussian,
    MultiCategorical,
    Product,
    SquashedGaussian,
)
from poise.models.features import categories
from poise.spaces.layout import ROOT, Layout, Leaf

# Gaussians last, so that their log σ are the last inputs.
_KINDS: tuple[tuple[type, ...], ...] = (
    (spaces.Discrete, spaces.MultiDiscrete),
    (spaces.MultiBinary,),
    (spaces.Box,),
)


Numbers = Callable[[int, Tensor | None], Distribution]
"""Makes a distribution of numbers: how many there are, and which are bounded, `[dim]` bool."""


def _gaussian(dim: int, squashed: Tensor | None) -> Distribution:
    if squashed is None:
        return Gaussian(dim)
    return SquashedGaussian(dim, squashed.nonzero().flatten().tolist())


class Actions:
    """What a policy's samples mean: their distribution, and the actions that they stand for.

    Args:
        layout: of the single action space.
        config: the `model` settings, whose `action_distribution` and `free_log_std` are for the
            `Box` leaves.
        numbers: makes the distribution of the `Box` leaves instead, from how many numbers there are
            and which of them have bounds; its samples lie within -1 and 1 there.

    Attributes:
        dist: the distribution. If there is a Gaussian, its log σ are the last of the inputs.
        dim: how many numbers all `Box` leaves have.
        squashed: which of the numbers tanh squashes, `[dim]` bool; None if none.
        free: how many log σ are parameters of the policy instead of outputs of the network.

    Raises:
        SpaceError: `squashed_gaussian` was asked for, and no `Box` has finite bounds.
    """

    def __init__(self, layout: Layout, config: ModelConfig, numbers: Numbers | None = None) -> None:
        self.layout = layout
        kinds = [[leaf for leaf in layout.leaves if isinstance(leaf.space, k)] for k in _KINDS]
        choices, bits, boxes = kinds
        self.columns: dict[str, slice] = {}  # of each leaf in a sample
        end = 0
        for leaf in (*choices, *bits, *boxes):
            start, end = end, end + math.prod(leaf.shape)
            self.columns[leaf.name] = slice(start, end)
        self.dim = sum(math.prod(leaf.shape) for leaf in boxes)
        squashed = []
        if config.action_distribution == "squashed_gaussian":
            squashed = self._squashed(boxes)
        columns = [leaf in squashed for leaf in boxes for _ in range(math.prod(leaf.shape))]
        self.squashed = torch.tensor(columns) if squashed else None
        self._numbers = numbers or _gaussian
        self.dist = self._distribution(choices, bits, boxes)
        self.free = self.dim if config.free_log_std and numbers is None else 0
        bounded = {
            leaf.name: Bounded(leaf, squashed=leaf in squashed and numbers is None)
            for leaf in boxes
        }
        self.decoders = {
            leaf.name: bounded[leaf.name] if leaf in boxes else Whole(leaf)
            for leaf in layout.leaves
        }
        self._single = ROOT if layout.leaves[0].space is layout.space else None

    def _squashed(self, boxes: list[Leaf]) -> list[Leaf]:
        """The `Box` leaves that tanh can squash: those with finite bounds."""
        found = [leaf for leaf in boxes if finite_bounds(leaf) is not None]
        if boxes and not found:
            raise SpaceError(
                "action_distribution='squashed_gaussian' needs finite action bounds; "
                "use 'gaussian'."
            )
        return found

    def _distribution(
        self, choices: list[Leaf], bits: list[Leaf], boxes: list[Leaf]
    ) -> Distribution:
        """The distribution of all leaves."""
        parts: list[Distribution] = []
        if isinstance(self.layout.space, spaces.Discrete):
            parts.append(Categorical(int(self.layout.space.n)))
        elif choices:
            parts.append(MultiCategorical([int(n) for leaf in choices for n in categories(leaf)]))
        if bits:
            parts.append(Bernoulli(sum(math.prod(leaf.shape) for leaf in bits)))
        if boxes:
            parts.append(self._numbers(self.dim, self.squashed))
        return parts[0] if len(parts) == 1 else Product(parts)

    def to_env(self, action: Tensor) -> Any:
        """Turns samples `[N, ...]` into actions, which are always inside the environments' space.

        Returns:
            An array `[N, ...]` of the space's type, or a dict or tuple of such arrays, as the space
            is nested.
        """
        if self._single is not None:
            return self.decoders[self._single](action)
        columns = self.columns
        parts = {name: decode(action[:, columns[name]]) for name, decode in self.decoders.items()}
        return self.layout.unflatten(parts)


class Whole:
    """Turns samples of choices and bits into actions of a leaf."""

    def __init__(self, leaf: Leaf) -> None:
        self.shape, self.dtype = leaf.shape, leaf.dtype
        first = np.asarray(getattr(leaf.space, "start", 0))  # samples count from 0
        self.start = first if first.any() else None

    def __call__(self, action: Tensor) -> np.ndarray:
        chosen: np.ndarray = action.numpy()
        if chosen.shape[1:] != self.shape:
            chosen = chosen.reshape(len(chosen), *self.shape)
        if chosen.dtype != self.dtype:
            chosen = chosen.astype(self.dtype)
        if self.start is not None:
            chosen = (chosen + self.start).astype(self.dtype, copy=False)
        return chosen


class Bounded:
    """Turns samples of numbers into actions of a `Box` leaf.

    Where it has finite bounds, -1 and 1 become these. Integers are rounded, and all are clipped.
    """

    def __init__(self, leaf: Leaf, *, squashed: bool) -> None:
        space = leaf.space
        assert isinstance(space, spaces.Box)
        self.shape, self.dtype, self.squashed = leaf.shape, leaf.dtype, squashed
        self.bounds = finite_bounds(leaf)
        self.low, self.high = space.low, space.high
        self.rounds = leaf.dtype.kind != "f"
        if self.rounds:
            # Limits that float64 can hold: beyond, turning a float into an integer overflows.
            self.limits = _inner(space.low, 1), _inner(space.high, -1)
        else:
            # An action is never infinite, even where the space is.
            finite = np.finfo(leaf.dtype)
            self.low = np.maximum(space.low, finite.min)
            self.high = np.minimum(space.high, finite.max)

    def __call__(self, action: Tensor) -> np.ndarray:
        if self.squashed:
            action = action.tanh()
        values = action.numpy().reshape(len(action), *self.shape)
        if self.bounds is not None:
            low, high = self.bounds
            values = low + (np.clip(values, -1.0, 1.0) + 1.0) * (0.5 * (high - low))
        if self.rounds:
            nearest = np.rint(values.astype(np.float64, copy=False))
            whole = np.clip(nearest, *self.limits).astype(self.dtype)
            rounded: np.ndarray = np.minimum(np.maximum(whole, self.low), self.high)
            return rounded
        clipped: np.ndarray = np.clip(values, self.low, self.high).astype(self.dtype, copy=False)
        return clipped


def _inner(bound: np.ndarray, direction: int) -> np.ndarray:
    """The float64 numbers nearest to integer bounds, not beyond them.

    Args:
        bound: the bounds.
        direction: where the inside is: 1 for a lower bound, -1 for an upper one.
    """
    flat = []
    for exact in bound.ravel().tolist():
        near = float(exact)
        if (int(near) - int(exact)) * direction < 0:
            near = math.nextafter(near, direction * math.inf)
        flat.append(near)
    return np.array(flat).reshape(bound.shape)


def finite_bounds(leaf: Leaf) -> tuple[np.ndarray, np.ndarray] | None:
    """The bounds of a `Box` leaf in float64; None unless all are finite.

    Bounds that are but the limits of a large integer type count as infinite, and so do those that
    are too far apart for float64.
    """
    space = leaf.space
    if not isinstance(space, spaces.Box):
        return None
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        return None
    if leaf.dtype.kind in "iu" and leaf.dtype.itemsize >= 4:
        limits = np.iinfo(leaf.dtype)
        below = limits.min < 0 and any(low <= limits.min + 2 for low in space.low.ravel().tolist())
        if below or any(high >= limits.max - 2 for high in space.high.ravel().tolist()):
            return None
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return (low, high) if (0.5 * high - 0.5 * low < np.finfo(np.float64).max / 2).all() else None
