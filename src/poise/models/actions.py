"""From an action space to a distribution, and from its samples to what the environment takes.

Leaves of one kind share one distribution, however nested the space is: all `Box` leaves one
Gaussian, all `Discrete` and `MultiDiscrete` ones one `MultiCategorical`, all `MultiBinary` ones one
`Bernoulli`; where there are several kinds, the action is their product.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor

from poise.config.base import ModelConfig
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

_KINDS: tuple[tuple[type, ...], ...] = (
    (spaces.Discrete, spaces.MultiDiscrete),
    (spaces.MultiBinary,),
    (spaces.Box,),
)


class Actions:
    """What a policy's samples mean.

    Args:
        layout: of the single action space.
        config: `action_distribution` and `free_log_std` are for the `Box` leaves.

    Attributes:
        dist: the distribution. Where it is or holds a Gaussian, the log σ are the last of its
            inputs.
        dim: numbers in all `Box` leaves.
        free: how many log σ are parameters of the policy instead of outputs of the network.

    Raises:
        SpaceError: `squashed_gaussian` was asked for, and no `Box` has finite bounds.
    """

    def __init__(self, layout: Layout, config: ModelConfig) -> None:
        self.layout = layout
        # Gaussians last, so that their log σ are the last inputs.
        ordered = [
            leaf for kind in _KINDS for leaf in layout.leaves if isinstance(leaf.space, kind)
        ]
        ends = np.cumsum([math.prod(leaf.shape) for leaf in ordered]).tolist()
        self._columns = dict(
            zip([leaf.name for leaf in ordered], zip([0, *ends], ends, strict=False), strict=True)
        )
        boxes = [leaf for leaf in ordered if isinstance(leaf.space, spaces.Box)]
        self.dim = sum(math.prod(leaf.shape) for leaf in boxes)
        squashed = (
            self._squashed(boxes) if config.action_distribution == "squashed_gaussian" else []
        )
        self.dist = self._distribution(ordered, squashed)
        self.free = self.dim if config.free_log_std else 0
        self._decoders = {
            leaf.name: _Bounded(leaf, squashed=leaf in squashed) if leaf in boxes else _Whole(leaf)
            for leaf in layout.leaves
        }
        self._single = ROOT if layout.leaves[0].space is layout.space else None

    def _squashed(self, boxes: list[Leaf]) -> list[Leaf]:
        found = [leaf for leaf in boxes if finite_bounds(leaf) is not None]
        if boxes and not found:
            raise SpaceError(
                "action_distribution='squashed_gaussian' needs finite action bounds; use"
                " 'gaussian'."
            )
        return found

    def _distribution(self, ordered: list[Leaf], squashed: list[Leaf]) -> Distribution:
        choices, bits, boxes = (
            [leaf for leaf in ordered if isinstance(leaf.space, kind)] for kind in _KINDS
        )
        parts: list[Distribution] = []
        if isinstance(self.layout.space, spaces.Discrete):
            parts.append(Categorical(int(self.layout.space.n)))
        elif choices:
            parts.append(MultiCategorical([int(n) for leaf in choices for n in categories(leaf)]))
        if bits:
            parts.append(Bernoulli(sum(math.prod(leaf.shape) for leaf in bits)))
        if boxes:
            columns = [leaf in squashed for leaf in boxes for _ in range(math.prod(leaf.shape))]
            where = [i for i, is_squashed in enumerate(columns) if is_squashed]
            parts.append(SquashedGaussian(self.dim, where) if squashed else Gaussian(self.dim))
        return parts[0] if len(parts) == 1 else Product(parts)

    def to_env(self, action: Tensor) -> Any:
        """Samples `[N, ...]` as the environment's batched space has them: always inside it, in its
        types.

        Returns:
            An array `[N, ...]`, or a dict or tuple of them as the space is nested.
        """
        if self._single is not None:
            return self._decoders[self._single](action)
        parts = {
            name: decode(action[:, slice(*self._columns[name])])
            for name, decode in self._decoders.items()
        }
        return self.layout.unflatten(parts)


class _Whole:
    """Choices and bits: counted from where the space starts, in its shape and type."""

    def __init__(self, leaf: Leaf) -> None:
        self.shape, self.dtype = leaf.shape, leaf.dtype
        first = np.asarray(getattr(leaf.space, "start", 0))
        self.start = first if first.any() else None

    def __call__(self, action: Tensor) -> np.ndarray:
        chosen = action.numpy()
        if chosen.shape[1:] != self.shape:
            chosen = chosen.reshape(len(chosen), *self.shape)
        if chosen.dtype != self.dtype:
            chosen = chosen.astype(self.dtype)
        return (
            chosen if self.start is None else (chosen + self.start).astype(self.dtype, copy=False)
        )


class _Bounded:
    """Numbers of a `Box`: -1 and 1 become its bounds where it has both, whole numbers are rounded,
    all are clipped."""

    def __init__(self, leaf: Leaf, *, squashed: bool) -> None:
        space = leaf.space
        assert isinstance(space, spaces.Box)
        self.shape, self.dtype, self.squashed = leaf.shape, leaf.dtype, squashed
        self.bounds = finite_bounds(leaf)
        self.low, self.high = space.low, space.high
        self.rounds = leaf.dtype.kind != "f"
        if (
            self.rounds
        ):  # limits that float64 can hold: beyond them, turning a float into an integer overflows
            self.limits = _inner(space.low, 1), _inner(space.high, -1)
        else:  # never infinite, even where the space is
            finite = np.finfo(leaf.dtype)
            self.low, self.high = (
                np.maximum(space.low, finite.min),
                np.minimum(space.high, finite.max),
            )

    def __call__(self, action: Tensor) -> np.ndarray:
        if self.squashed:
            action = action.tanh()
        values = action.numpy().reshape(len(action), *self.shape)
        if self.bounds is not None:
            low, high = self.bounds
            values = low + (np.clip(values, -1.0, 1.0) + 1.0) * (0.5 * (high - low))
        if self.rounds:
            whole = np.clip(np.rint(values.astype(np.float64, copy=False)), *self.limits).astype(
                self.dtype
            )
            rounded: np.ndarray = np.minimum(np.maximum(whole, self.low), self.high)
            return rounded
        clipped: np.ndarray = np.clip(values, self.low, self.high).astype(self.dtype, copy=False)
        return clipped


def _inner(bound: np.ndarray, direction: int) -> np.ndarray:
    """The float64 nearest to a whole bound that is not beyond it (above it for 1, below it for -1)."""
    flat = []
    for exact in bound.ravel().tolist():
        near = float(exact)
        flat.append(
            near
            if (int(near) - int(exact)) * direction >= 0
            else math.nextafter(near, direction * math.inf)
        )
    return np.array(flat).reshape(bound.shape)


def finite_bounds(leaf: Leaf) -> tuple[np.ndarray, np.ndarray] | None:
    """A `Box` leaf's bounds in float64, if all are finite.

    The limits of a large type bound nothing.
    """
    space = leaf.space
    if not isinstance(space, spaces.Box) or not (
        np.isfinite(space.low).all() and np.isfinite(space.high).all()
    ):
        return None
    if leaf.dtype.kind in "iu" and leaf.dtype.itemsize >= 4:
        limits = np.iinfo(leaf.dtype)
        below = limits.min < 0 and any(low <= limits.min + 2 for low in space.low.ravel().tolist())
        if below or any(high >= limits.max - 2 for high in space.high.ravel().tolist()):
            return None
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return (low, high) if (0.5 * high - 0.5 * low < np.finfo(np.float64).max / 2).all() else None
