"""From pictures to vectors: convolutional encoders.

Pictures are stored as bytes, and stay bytes until the network scales them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import conv2d

from poise.config.model import ModelConfig
from poise.errors import ModelError
from poise.learning.device import CPU, fastest_dtype
from poise.learning.running import RunningMoments
from poise.models.mlp import ACTIVATIONS, init_linear
from poise.spaces.layout import Leaf

LARGE = 2_000
"""Numbers from which a picture is a large one: a screen, and not the board of a game."""
WHITE_LIMIT = 5.0
"""A normalised pixel is clipped to so many standard deviations from its mean."""


def is_image(leaf: Leaf) -> bool:
    """Whether a leaf is a picture: three axes, or bytes in two."""
    axes = len(leaf.shape)
    pictured = axes == 3 or (axes == 2 and leaf.dtype.name == "uint8")
    return pictured and isinstance(leaf.space, spaces.Box) and math.prod(leaf.shape) > 0


def is_large(leaf: Leaf) -> bool:
    """Whether a leaf is a picture whose convolutions are worth several threads."""
    return is_image(leaf) and math.prod(leaf.shape) >= LARGE


def byte_limit(leaf: Leaf) -> int:
    """What the bytes of a leaf are divided by: their upper bound, 255 for common pictures."""
    return max(1, int(leaf.space.high.max(initial=1)))  # type: ignore[attr-defined]


class ImageEncoder(nn.Module):
    """Convolutions over pictures of any size and channel order: `[N, *shape]` -> `[N, size]`.

    The channel axis is the smaller of the first and the last axis. Bytes are divided by their upper
    bound. By default, the stack shrinks the picture to about ten pixels (for 84x84, it is that of
    Mnih et al. 2015: 8x8/4, 4x4/2, 3x3/1). The output is in bfloat16 if that is what convolutions
    are computed in; the layer that follows goes on in it.

    Args:
        leaf: the pictures.
        config: the `model` settings.
        pixels: the moments of each pixel. If given, pictures are normalised by them (see
            `_whitened`) instead of divided by their upper bound.

    Attributes:
        size: the length of the output vectors.
    """

    def __init__(
        self, leaf: Leaf, config: ModelConfig, pixels: RunningMoments | None = None
    ) -> None:
        super().__init__()
        self.pixels = pixels
        shape = leaf.shape if len(leaf.shape) == 3 else (1, *leaf.shape)
        self.two_axes = len(leaf.shape) == 2
        self.channels_last = shape[-1] < shape[0]
        channels, height, width = (shape[2], *shape[:2]) if self.channels_last else shape
        bytes_ = leaf.dtype.name == "uint8"
        self.scale = 1 / byte_limit(leaf) if bytes_ and pixels is None else 1.0
        self.least_deviation = 1.0 if bytes_ else 1e-4
        self.activation = ACTIVATIONS[config.conv_activation]
        filters = config.conv_filters or default_filters(height, width)
        self.reduced = config.conv_dtype == "bfloat16" and bytes_
        self.layers = nn.ModuleList()
        for out_channels, kernel, stride in filters:
            if min(height, width) < kernel:
                raise ModelError(
                    f"conv_filters={filters} do not fit images of {leaf.shape}: "
                    f"a kernel of {kernel} meets a picture of {height}x{width}."
                )
            layer = nn.Conv2d(channels, out_channels, kernel, stride)
            init_linear(layer, math.sqrt(2))
            self.layers.append(layer)
            channels = out_channels
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        self.size = channels * height * width

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.layers[0].weight  # type: ignore[assignment]
        dtype = torch.bfloat16 if self.reduced else first.dtype
        if self.pixels is not None:
            x = self._whitened(x, self.pixels, dtype)
        if self.two_axes:
            x = x.unsqueeze(-3)
        elif self.channels_last:
            x = x.permute(0, 3, 1, 2)
        if not self.reduced:
            # CPUs convolve float32 faster in this order.
            x = x.contiguous(memory_format=torch.channels_last)
        x = x.to(dtype)
        # Scaling the first weights scales the pictures, and there are far fewer of them.
        scaled = first * self.scale if self.scale != 1.0 else first
        for i, layer in enumerate(self.layers):
            weight: Tensor = layer.weight if i else scaled  # type: ignore[assignment]
            x = conv2d(x, weight.to(dtype), layer.bias.to(dtype), layer.stride)  # type: ignore
            x = self.activation(x)
        return x.flatten(1)

    def _whitened(self, x: Tensor, pixels: RunningMoments, dtype: torch.dtype) -> Tensor:
        """Normalises each pixel: minus its mean, over its deviation, within ±`WHITE_LIMIT`.

        What never changes vanishes, and what is small and rare, such as a ball, stands out (Burda
        et al. 2018, arXiv 1810.12894, section 2.4). A byte that hardly ever changes is treated as
        if it deviated by one grey level.
        """
        scale = pixels.var.sqrt().clamp_(min=self.least_deviation).reciprocal_()
        white = x.to(dtype, copy=True).sub_(pixels.mean.to(dtype)).mul_(scale.to(dtype))
        return white.clamp_(-WHITE_LIMIT, WHITE_LIMIT)


def fastest_conv_dtype(
    leaves: Sequence[Leaf], device: torch.device = CPU
) -> Literal["float32", "bfloat16"]:
    """The type to compute convolutions of these leaves in: the fastest, if they are bytes."""
    pictures = any(is_image(leaf) and leaf.dtype.name == "uint8" for leaf in leaves)
    return fastest_dtype(device) if pictures else "float32"


def default_filters(height: int, width: int) -> list[tuple[int, int, int]]:
    """Convolutions `(channels, kernel, stride)` that suit pictures of this size."""
    side = min(height, width)
    if side >= 60:
        return [(32, 8, 4), (64, 4, 2), (64, 3, 1)]
    if side >= 24:
        return [(32, 4, 2), (64, 4, 2), (64, 3, 1)]
    if side >= 8:
        return [(32, 3, 1), (64, 3, 2)]
    kernel = min(side, 3)
    return [(32, kernel, 1)]
