"""Normalisation within critics.

Batch renormalisation (Ioffe 2017, arXiv 1702.03275), as CrossQ has it (Bhatt et al. 2024, arXiv
1902.05605). Of a batch with mean μ_B and standard deviation σ_B, while it learns:

    r = clip(σ_B / σ, 1/3, 3)        d = clip((μ_B - μ) / σ, -5, 5)        both constants
    y = γ ((x - μ_B) / σ_B · r + d) + β
    μ ← μ + 0.01 (μ_B - μ)           σ² ← σ² + 0.01 (σ_B² - σ²)

Within the bounds, that is y = γ (x - μ) / σ + β, as when it does not learn; but gradients know that
μ_B and σ_B follow from x. At first, while μ and σ are unknown, r = 1 and d = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.models.mlp import ACTIVATIONS, MLP, WORTH, by_autograd, linear

EPS = 1e-3
MOMENTUM = 0.01
R_MAX, D_MAX = 3.0, 5.0
WARM_UP = 100_000
"""So many batches are normalised by their own statistics alone, before r and d are used."""


class BatchRenorm(nn.Module):
    """Batch renormalisation: `[N, size]` -> `[N, size]`.

    Args:
        size: the features, each of which has a mean and a variance.
        warm_up: batches for which r = 1 and d = 0.

    Attributes:
        mean, var: μ and σ², the running statistics.
        steps: batches that they are of.
        weight, bias: γ and β.
    """

    mean: Tensor
    var: Tensor
    steps: Tensor

    def __init__(self, size: int, warm_up: int = WARM_UP) -> None:
        super().__init__()
        self.warm_up = warm_up
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("var", torch.ones(size))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.mean, self.var, self.weight, self.bias, eps=EPS)
        # With momentum 1, PyTorch leaves the batch's own statistics in these.
        mean, sample = torch.zeros_like(self.mean), torch.zeros_like(self.var)
        if self.steps < self.warm_up:
            y = F.batch_norm(x, mean, sample, self.weight, self.bias, True, 1.0, EPS)
            self._learn(mean, sample * (1 - 1 / len(x)))
            return y
        y = F.batch_norm(x, mean, sample, None, None, True, 1.0, EPS)
        var, std = sample * (1 - 1 / len(x)), (self.var + EPS).sqrt()
        r = ((var + EPS).sqrt() / std).clamp(1 / R_MAX, R_MAX)
        d = ((mean - self.mean) / std).clamp(-D_MAX, D_MAX)
        self._learn(mean, var)
        return torch.addcmul(torch.addcmul(self.bias, self.weight, d), y, self.weight * r)

    @torch.no_grad()
    def _learn(self, mean: Tensor, var: Tensor) -> None:
        """Moves the running statistics; those of a batch that overflowed would stay for ever."""
        if torch.isfinite(var).all():
            self.mean.lerp_(mean, MOMENTUM)
            self.var.lerp_(var, MOMENTUM)
            self.steps += 1


class NormedMLP(MLP):
    """Linear layers with a norm at each of them.

    - `layer`: layer normalisation (Ba et al. 2016, arXiv 1607.06450) in front of each activation,
      as in DroQ (Hiraoka et al. 2022, arXiv 2110.02034) and RLPD (Ball et al. 2023, 2302.02948).
    - `batch`: batch renormalisation in front of each linear layer, as in CrossQ.

    Args:
        sizes, activation: as for `MLP`.
        norm: `layer` or `batch`.
    """

    def __init__(self, sizes: Sequence[int], activation: str, norm: str) -> None:
        super().__init__(sizes, activation)
        self.batch = norm == "batch"
        each = map(BatchRenorm, sizes[:-1]) if self.batch else map(nn.LayerNorm, sizes[1:-1])
        self.norms = nn.ModuleList(each)

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The outputs, `[N, sizes[-1]]`.

        Args:
            x: `[N, sizes[0]]`.
            dtype: the type in which large hidden layers multiply; by default, the parameters'.
        """
        activate, norms = ACTIVATIONS[self.activation], iter(self.norms)
        x = x.to(self.weight.dtype)
        if self.batch:
            x = next(norms)(x)
        for layer in self.layers[:-1]:
            narrow = dtype is not None and len(x) * layer.weight.numel() >= WORTH  # type: ignore[operator]
            x = linear(x.to(dtype), layer.weight, layer.bias) if narrow else layer(x)  # type: ignore[arg-type]
            x = next(norms)(activate(x)) if self.batch else activate(next(norms)(x))
        y: Tensor = self.layers[-1](x)
        return y

    @property
    def is_traceable(self) -> bool:
        return True

    def trace(
        self, x: Tensor, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Callable[..., Tensor]]:
        narrow = dtype if self.stack() else None  # None if a layer has to be called
        return by_autograd(lambda given: self(given, narrow), x)
