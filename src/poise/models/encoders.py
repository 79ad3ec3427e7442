"""From observations to vectors.

`prepare` turns stored observations into what networks read; it runs once per batch, not once per pass, so that ten
epochs over a batch normalise it once. Images stay bytes until the network scales them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from poise.config.base import ModelConfig
from poise.config.layout import Leaf
from poise.errors import ModelError, SpaceError
from poise.models.mlp import ACTIVATIONS, init_linear


def is_image(leaf: Leaf) -> bool:
    """Whether a leaf is a picture: three axes, or bytes in two."""
    return isinstance(leaf.space, spaces.Box) and (
        len(leaf.shape) == 3 or (len(leaf.shape) == 2 and leaf.dtype.name == "uint8")
    )


def vector_size(leaf: Leaf) -> int:
    """Length of the vector that `to_vector` makes of a leaf."""
    if isinstance(leaf.space, spaces.Discrete):
        return int(leaf.space.n)
    return math.prod(leaf.shape)


def to_vector(leaf: Leaf, x: Tensor) -> Tensor:
    """A leaf's values `[..., *shape]` as float vectors `[..., vector_size]`: one-hot for `Discrete`, flat for `Box`."""
    if isinstance(leaf.space, spaces.Discrete):
        return F.one_hot(x.long() - int(leaf.space.start), int(leaf.space.n)).float()
    if not isinstance(leaf.space, spaces.Box):
        raise SpaceError(
            f"{type(leaf.space).__name__} observations are not supported in this version; use Box or Discrete."
        )
    flat = x if len(leaf.shape) == 1 else x.reshape(*x.shape[: x.ndim - len(leaf.shape)], -1)
    if flat.is_floating_point():
        return flat
    return flat.float().div_(255) if flat.dtype == torch.uint8 else flat.float()


class ImageEncoder(nn.Module):
    """Convolutions over pictures of any size and channel order; `[N, *shape]` (bytes or floats) -> `[N, size]`.

    The channel axis is the smallest of the first and last axes. Bytes are scaled by 1/255. When no filters are given,
    the stack shrinks the picture to about ten pixels (for 84x84, that of Mnih et al. 2015: 8x8/4, 4x4/2, 3x3/1).

    Attributes:
        size: length of the output vectors.
    """

    def __init__(self, leaf: Leaf, config: ModelConfig) -> None:
        super().__init__()
        shape = leaf.shape if len(leaf.shape) == 3 else (1, *leaf.shape)
        self.two_axes = len(leaf.shape) == 2
        self.channels_last = shape[-1] < shape[0]
        channels, height, width = (shape[2], *shape[:2]) if self.channels_last else shape
        self.scale = 1 / 255 if leaf.dtype.name == "uint8" else 1.0
        self.activation = ACTIVATIONS[config.conv_activation]
        filters = config.conv_filters or default_filters(height, width)
        self.layers = nn.ModuleList()
        for out_channels, kernel, stride in filters:
            if min(height, width) < kernel:
                raise ModelError(
                    f"conv_filters={filters} do not fit images of {leaf.shape}: a kernel of {kernel} meets "
                    f"a picture of {height}x{width}."
                )
            self.layers.append(nn.Conv2d(channels, out_channels, kernel, stride))
            init_linear(self.layers[-1], math.sqrt(2))  # type: ignore[arg-type]
            channels, height, width = out_channels, (height - kernel) // stride + 1, (width - kernel) // stride + 1
        self.size = channels * height * width

    def forward(self, x: Tensor) -> Tensor:
        if self.two_axes:
            x = x.unsqueeze(-3)
        elif self.channels_last:
            x = x.permute(0, 3, 1, 2)
        x = x.float() * self.scale if self.scale != 1.0 else x.float()
        for layer in self.layers:
            x = self.activation(layer(x))
        return x.flatten(1)


def default_filters(height: int, width: int) -> list[tuple[int, int, int]]:
    """A stack of convolutions `(channels, kernel, stride)` for a picture of this size."""
    side = min(height, width)
    if side >= 60:
        return [(32, 8, 4), (64, 4, 2), (64, 3, 1)]
    if side >= 24:
        return [(32, 4, 2), (64, 4, 2), (64, 3, 1)]
    if side >= 8:
        return [(32, 3, 1), (64, 3, 2)]
    kernel = min(side, 3)
    return [(32, kernel, 1)]
