"""From observation leaves to network input: a vector, pictures, and categories for tables.

    features = Features(layout.leaves)
    x = features.gather(obs, dtype)         # one tensor, or a tuple of them
    encoder, size = features.encoder(config)

All numbers and small choices of an observation, however nested, become one float vector, so that a
network over them is as fast as one over a single `Box`. Its columns are, in this order, the numbers
of `Box` leaves (these may be normalised), the bits of `MultiBinary` leaves, and one-hot codes of
`Discrete` and `MultiDiscrete` leaves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from poise.config.model import ModelConfig
from poise.errors import SpaceError
from poise.learning.running import RunningMoments
from poise.models.encoders import ImageEncoder, byte_limit, is_image
from poise.spaces.layout import Leaf

LARGEST_ONE_HOT = 1024
"""A choice with more categories is looked up in a table instead of one-hot encoded."""

LARGEST_TABLE = 10_000_000
"""A table for more categories would not fit into memory."""

EMBEDDING = 64
"""The length of the vectors in such a table."""


class Features:
    """How the leaves of an observation enter a network.

    Args:
        leaves: the leaves that the network sees.
        normalize_pictures: whether convolutions see each pixel shifted and scaled by its running
            moments.

    Attributes:
        numbers: the `Box` leaves in the vector.
        width: how many columns of the vector are theirs.
        size: the length of the vector.
        has_vector: whether there is a vector; it may be an empty one.
        pictures: the leaves that go through convolutions, as they are.
        pixels: if pictures are normalised, the running moments of their pixels, by leaf.
        tables: the leaves whose categories are looked up.
        plain: the name of the only leaf, if it is the vector already.

    Raises:
        SpaceError: a choice has too many categories even for a table.
    """

    def __init__(self, leaves: Sequence[Leaf], *, normalize_pictures: bool = False) -> None:
        self.pictures = [leaf for leaf in leaves if is_image(leaf)]
        self.pixels: dict[str, RunningMoments] = {}
        if normalize_pictures:
            self.pixels = {leaf.name: RunningMoments(leaf.shape) for leaf in self.pictures}
        boxes = [leaf for leaf in leaves if isinstance(leaf.space, spaces.Box)]
        self.numbers = [leaf for leaf in boxes if leaf not in self.pictures]
        self._bits = [leaf for leaf in leaves if isinstance(leaf.space, spaces.MultiBinary)]
        self._choices: list[Leaf] = []
        self.tables: list[Leaf] = []
        for leaf in leaves:
            if isinstance(leaf.space, (spaces.Discrete, spaces.MultiDiscrete)):
                large = categories(leaf).max(initial=0) > LARGEST_ONE_HOT
                (self.tables if large else self._choices).append(leaf)
        for leaf in self.tables:
            if categories(leaf).sum() > LARGEST_TABLE:
                raise SpaceError(
                    f"{leaf.space} has too many categories to learn something about each of them: "
                    "wrap the environment so that its observations are a Box of numbers."
                )
        none = np.zeros(0, np.int64)
        sizes = np.concatenate([none, *(categories(leaf) for leaf in self._choices)])
        starts = np.concatenate([none, *(start(leaf) for leaf in self._choices)])
        # What to add to a category to get the column of its one-hot code.
        self._shift = torch.from_numpy(np.cumsum(sizes) - sizes - starts)
        self._codes = int(sizes.sum())
        self.width = sum(math.prod(leaf.shape) for leaf in self.numbers)
        self.size = self.width + sum(math.prod(leaf.shape) for leaf in self._bits) + self._codes
        self.has_vector = bool(self.size) or not (self.pictures or self.tables)
        self.plain: str | None = None
        if len(leaves) == len(self.numbers) == 1:
            leaf = leaves[0]
            self.plain = leaf.name if len(leaf.shape) == 1 and leaf.dtype.kind == "f" else None

    def box_numbers(self, obs: Mapping[str, Tensor], *, exact: bool = False) -> Tensor:
        """The vector's numbers from `Box` leaves, `[N, width]`.

        Bytes are divided by their upper bound. Integers become float32, or float64 if they are to
        be `exact`.
        """
        parts = [_flat_numbers(leaf, obs[leaf.name], exact=exact) for leaf in self.numbers]
        return _side_by_side(parts, obs)

    def gather(
        self,
        obs: Mapping[str, Tensor],
        dtype: torch.dtype,
        normalizer: RunningMoments | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Makes network input from leaves.

        Args:
            obs: the leaves `[N, ...]`, by name.
            dtype: of the vector.
            normalizer: normalises the vector's numbers, if given.

        Returns:
            The vector `[N, size]`, a picture or the categories for a table, whichever there is; if
            there are several, a tuple in this order.
        """
        parts = [self._vector(obs, normalizer).to(dtype)] if self.has_vector else []
        parts += [obs[leaf.name] for leaf in self.pictures]
        parts += [_flat(leaf, obs[leaf.name]) for leaf in self.tables]
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _vector(self, obs: Mapping[str, Tensor], normalizer: RunningMoments | None) -> Tensor:
        """The vector: numbers, bits, one-hot codes."""
        parts = []
        if self.width:
            numbers = self.box_numbers(obs, exact=normalizer is not None)
            parts.append(numbers if normalizer is None else normalizer.normalize(numbers))
        parts += [_flat(leaf, obs[leaf.name]).float() for leaf in self._bits]
        if self._choices:
            chosen = [_flat(leaf, obs[leaf.name]) for leaf in self._choices]
            columns = chosen[0] if len(chosen) == 1 else torch.cat(chosen, 1)
            columns = columns + self._shift.to(columns.device)
            zeros = torch.zeros(columns.shape[0], self._codes, device=columns.device)
            parts.append(zeros.scatter_(1, columns, 1.0))
        return _side_by_side(parts, obs)

    def encoder(self, config: ModelConfig) -> tuple[nn.Module | None, int]:
        """Makes the module that turns what `gather` made into one vector.

        Returns:
            The module, None if it is a vector already; and the length of the vector.
        """
        made: list[ImageEncoder | Embeddings]
        made = [ImageEncoder(leaf, config, self.pixels.get(leaf.name)) for leaf in self.pictures]
        made += [Embeddings(leaf) for leaf in self.tables]
        size = self.size + sum(part.size for part in made)
        if self.has_vector:
            return (Joined([nn.Identity(), *made]) if made else None), size
        return (Joined(made) if len(made) > 1 else made[0]), size


class Joined(nn.Module):
    """Several modules side by side, each with its own input; their outputs make one vector."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([part(each) for part, each in zip(self.parts, x, strict=True)], 1)


class Embeddings(nn.Module):
    """A learnt vector for each category of a leaf's K choices: `[N, K]` -> `[N, size]`.

    Attributes:
        size: the length of the output vectors.
    """

    shift: Tensor

    def __init__(self, leaf: Leaf) -> None:
        super().__init__()
        sizes = categories(leaf)
        # What to add to a category, as the environment counts, to get its row in the table.
        shift = torch.from_numpy(np.cumsum(sizes) - sizes - start(leaf))
        self.register_buffer("shift", shift, persistent=False)
        self.table = nn.Embedding(int(sizes.sum()), EMBEDDING)
        self.size = len(sizes) * EMBEDDING

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.table(x + self.shift)
        return found.flatten(1)


def categories(leaf: Leaf) -> np.ndarray:
    """How many categories each choice of a `Discrete` or `MultiDiscrete` leaf has, `[K]`."""
    space = leaf.space
    counts = space.nvec.ravel() if isinstance(space, spaces.MultiDiscrete) else [space.n]  # type: ignore[attr-defined]
    return np.asarray(counts, np.int64)


def start(leaf: Leaf) -> np.ndarray:
    """The first category of each choice of a `Discrete` or `MultiDiscrete` leaf, `[K]`."""
    return np.ravel(leaf.space.start).astype(np.int64)  # type: ignore[attr-defined]


def _flat(leaf: Leaf, x: Tensor) -> Tensor:
    return x if len(leaf.shape) == 1 else x.reshape(x.shape[0], math.prod(leaf.shape))


def _flat_numbers(leaf: Leaf, x: Tensor, *, exact: bool) -> Tensor:
    flat = _flat(leaf, x)
    if flat.is_floating_point():
        return flat
    if flat.dtype == torch.uint8:
        return flat.float().div_(byte_limit(leaf))
    return flat.to(torch.float64 if exact else torch.float32)


def _side_by_side(parts: list[Tensor], obs: Mapping[str, Tensor]) -> Tensor:
    """The parts `[N, ...]` as one tensor, copied only if there are several; `[N, 0]` if none."""
    if len(parts) == 1:
        return parts[0]
    any_leaf = next(iter(obs.values()))
    return (
        torch.cat(parts, 1) if parts else torch.zeros(any_leaf.shape[0], 0, device=any_leaf.device)
    )
