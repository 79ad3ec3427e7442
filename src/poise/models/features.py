"""From observation leaves to network input: which leaves make one vector, which are pictures, which
are looked up.

    features = Features(layout.leaves)
    x = features.gather(obs, dtype)         # one tensor, or a tuple of them
    encoder, size = features.encoder(config)

All numbers and small choices of an observation, however nested, become one float vector, so that a
network over them is as fast as one over a single `Box`. Its columns are the numbers of `Box` leaves
(these may be normalised), then the bits of `MultiBinary` leaves, then one-hot codes of `Discrete`
and `MultiDiscrete` leaves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from poise.config.base import ModelConfig
from poise.errors import SpaceError
from poise.learning.running import RunningMoments
from poise.models.encoders import ImageEncoder, byte_limit, is_image
from poise.spaces.layout import Leaf

LARGEST_ONE_HOT = 1024
"""Categories of one choice beyond which it is looked up in a table instead of one-hot encoded."""

LARGEST_TABLE = 10_000_000
"""Categories beyond which a table would not fit into memory."""

EMBEDDING = 64
"""Length of the vectors in such a table."""


class Features:
    """How the leaves of an observation enter a network.

    Args:
        leaves: those that the network sees.
        normalize_pictures: whether convolutions see each pixel shifted and scaled by its running
            moments.

    Attributes:
        numbers: `Box` leaves in the vector.
        width: columns of the vector that are theirs.
        size: length of the vector.
        pictures: leaves that go through convolutions, as they are.
        pixels: running moments of the pictures' pixels, by name of the leaf, where these are
            normalised.
        tables: leaves whose categories are looked up.
        plain: name of the only leaf, where it is the vector already.

    Raises:
        SpaceError: a choice has too many categories even for a table.
    """

    def __init__(self, leaves: Sequence[Leaf], *, normalize_pictures: bool = False) -> None:
        self.pictures = [leaf for leaf in leaves if is_image(leaf)]
        self.pixels = {
            leaf.name: RunningMoments(leaf.shape) for leaf in self.pictures if normalize_pictures
        }
        self.numbers = [
            leaf for leaf in leaves if isinstance(leaf.space, spaces.Box) and not is_image(leaf)
        ]
        self._bits = [leaf for leaf in leaves if isinstance(leaf.space, spaces.MultiBinary)]
        choices = [
            leaf
            for leaf in leaves
            if isinstance(leaf.space, (spaces.Discrete, spaces.MultiDiscrete))
        ]
        self.tables = [
            leaf for leaf in choices if categories(leaf).max(initial=0) > LARGEST_ONE_HOT
        ]
        self._choices = [leaf for leaf in choices if leaf not in self.tables]
        for leaf in self.tables:
            if categories(leaf).sum() > LARGEST_TABLE:
                raise SpaceError(
                    f"{leaf.space} has too many categories to learn something about each of them:"
                    " wrap the environment so that its observations are a Box of numbers."
                )
        codes = [categories(leaf) for leaf in self._choices]
        sizes = np.concatenate([np.zeros(0, np.int64), *codes])
        starts = np.concatenate([np.zeros(0, np.int64), *(start(leaf) for leaf in self._choices)])
        self._shift = torch.from_numpy(
            np.cumsum(sizes) - sizes - starts
        )  # from a value to the column of its code
        self._codes = int(sizes.sum())
        self.width = sum(math.prod(leaf.shape) for leaf in self.numbers)
        self.size = self.width + sum(math.prod(leaf.shape) for leaf in self._bits) + self._codes
        self.has_vector = bool(self.size) or not (self.pictures or self.tables)
        first = leaves[0] if len(leaves) == 1 and leaves[0] in self.numbers else None
        self.plain = (
            first.name if first and len(first.shape) == 1 and first.dtype.kind == "f" else None
        )

    def box_numbers(self, obs: Mapping[str, Tensor], *, exact: bool = False) -> Tensor:
        """The vector's numbers from `Box` leaves, `[N, width]`; bytes are divided by their upper
        bound, and whole numbers are float32, or float64 where they are to be `exact`."""
        parts = [_flat_numbers(leaf, obs[leaf.name], exact=exact) for leaf in self.numbers]
        return _side_by_side(parts, obs)

    def gather(
        self,
        obs: Mapping[str, Tensor],
        dtype: torch.dtype,
        normalizer: RunningMoments | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Network input from leaves `[N, ...]`.

        Args:
            obs: by name.
            dtype: of the vector.
            normalizer: of the vector's numbers.

        Returns:
            The vector, a picture or the categories for a table, whichever there is; a tuple in this
            order where there is more than one.
        """
        parts = [self._vector(obs, normalizer).to(dtype)] if self.has_vector else []
        parts += [obs[leaf.name] for leaf in self.pictures]
        parts += [_flat(leaf, obs[leaf.name]) for leaf in self.tables]
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _vector(self, obs: Mapping[str, Tensor], normalizer: RunningMoments | None) -> Tensor:
        parts = []
        if self.width:
            numbers = self.box_numbers(obs, exact=normalizer is not None)
            parts.append(numbers if normalizer is None else normalizer.normalize(numbers))
        parts += [_flat(leaf, obs[leaf.name]).float() for leaf in self._bits]
        if self._choices:
            chosen = [_flat(leaf, obs[leaf.name]) for leaf in self._choices]
            columns = chosen[0] if len(chosen) == 1 else torch.cat(chosen, 1)
            columns = columns + self._shift.to(columns.device)
            parts.append(
                torch.zeros(len(columns), self._codes, device=columns.device).scatter_(
                    1, columns, 1.0
                )
            )
        return _side_by_side(parts, obs)

    def encoder(self, config: ModelConfig) -> tuple[nn.Module | None, int]:
        """A module from `gather`'s result to vectors, and their length; None where it is a vector
        already."""
        made: list[ImageEncoder | Embeddings]
        made = [ImageEncoder(leaf, config, self.pixels.get(leaf.name)) for leaf in self.pictures]
        made += [Embeddings(leaf) for leaf in self.tables]
        size = self.size + sum(part.size for part in made)
        if self.has_vector:
            return (Joined([nn.Identity(), *made]) if made else None), size
        return (Joined(made) if len(made) > 1 else made[0]), size


class Joined(nn.Module):
    """Several modules side by side: a tuple of inputs `[N, ...]`, one each, to `[N, sum of their
    sizes]`."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([part(each) for part, each in zip(self.parts, x, strict=True)], 1)


class Embeddings(nn.Module):
    """A learnt vector for each category of a leaf's K choices; `[N, K]` (as the environment counts)
    -> `[N, size]`.

    Attributes:
        size: length of the output vectors.
    """

    shift: Tensor

    def __init__(self, leaf: Leaf) -> None:
        super().__init__()
        sizes = categories(leaf)
        self.register_buffer(
            "shift", torch.from_numpy(np.cumsum(sizes) - sizes - start(leaf)), persistent=False
        )
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
    return x if len(leaf.shape) == 1 else x.reshape(len(x), math.prod(leaf.shape))


def _flat_numbers(leaf: Leaf, x: Tensor, *, exact: bool) -> Tensor:
    flat = _flat(leaf, x)
    if flat.is_floating_point():
        return flat
    return (
        flat.float().div_(byte_limit(leaf))
        if flat.dtype == torch.uint8
        else flat.to(torch.float64 if exact else torch.float32)
    )


def _side_by_side(parts: list[Tensor], obs: Mapping[str, Tensor]) -> Tensor:
    """The parts `[N, ...]` as one tensor, copied only where there are several; `[N, 0]` without
    any."""
    if len(parts) == 1:
        return parts[0]
    any_leaf = next(iter(obs.values()))
    return torch.cat(parts, 1) if parts else torch.zeros(len(any_leaf), 0, device=any_leaf.device)
