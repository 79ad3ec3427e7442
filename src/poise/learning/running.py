"""Running mean and variance of a stream, merged batch by batch (Chan, Golub & LeVeque 1979)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FAR = 2.0**20
"""From this size on, float32 with its 24 bits may round away how observations differ."""


class RunningMoments(nn.Module):
    """Mean and variance of all elements seen so far.

    They are buffers, so that they travel with a policy's parameters. They are in float64, because
    a count of 10⁸ and small variances would drown in float32.

    Args:
        shape: of an element.

    Attributes:
        mean, var: of that shape; 0 and 1 before the first update.
        count: how many elements were seen.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, batch: Tensor, weight: Tensor) -> None:
        """Merges a batch.

        Args:
            batch: `[N, *shape]`.
            weight: `[N]`, 1 for elements that count and 0 for those that do not.
        """
        weight = weight.to(self.mean)
        count = weight.sum()
        if count == 0:
            return
        data = batch.to(self.mean)
        shares = (weight / count).view(-1, *[1] * (data.ndim - 1))
        mean = (data * shares).sum(0)
        var = ((data - mean) ** 2 * shares).sum(0)
        total = self.count + count
        delta = mean - self.mean
        old = self.var * self.count if self.count > 0 else torch.zeros_like(self.var)
        self.var.copy_((old + var * count + delta**2 * self.count * count / total) / total)
        self.mean.add_(delta * count / total)
        self.count.copy_(total)

    def exactly(self, x: Tensor) -> Tensor:
        """Brings values into the precision that `update` should get them in.

        That is float64 if they are far from 0. Otherwise it is float32, as `normalize` sees them.
        """
        return x.float() if x.dtype == torch.float64 and x.abs().max() < FAR else x

    def normalize(self, x: Tensor, limit: float = 10.0) -> Tensor:
        """(x - mean) / √(var + 1e-8) in float32, clipped to ±limit.

        If float64 values are far from 0, the difference is taken before they are rounded.
        """
        scale = (self.var + 1e-8).rsqrt()
        if x.dtype == torch.float64:
            if self.mean.abs().max() >= FAR:
                return ((x - self.mean) * scale).clamp_(-limit, limit).float()
            x = x.float()
        return (x - self.mean.float()).mul_(scale.float()).clamp_(-limit, limit)
