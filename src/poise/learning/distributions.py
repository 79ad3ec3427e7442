"""Action distributions as pure functions of a network's outputs.

Each class is the arithmetic of one family over flat outputs `inputs[..., num_inputs]`. Randomness comes in from
outside as `noise`, drawn for a whole rollout at once: sampling is then two or three small operations a step, and
whoever draws the noise decides how it is seeded or correlated in time.

    dist = Categorical(3)
    noise = dist.noise((T, B), generator)            # [T, B, 3]
    action = dist.sample(logits, noise[t])           # [B]; dist.mode(logits) is the deterministic choice
    log_prob = dist.log_prob(logits, action)         # [B]
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

_LOG_2PI = math.log(2 * math.pi)
_ROOTS, _MASSES = np.polynomial.hermite.hermgauss(12)
_NODES = torch.tensor(_ROOTS * math.sqrt(2))
_WEIGHTS = torch.tensor(_MASSES / math.sqrt(math.pi))
"""Nodes z and weights w with E f(z) ≈ Σ w f(z) for a standard normal z."""


class Distribution(Protocol):
    """What a policy asks of a distribution. `...` is any batch shape."""

    num_inputs: int
    """Outputs of the network per action."""
    action_shape: tuple[int, ...]
    """Shape of one action."""
    action_dtype: torch.dtype

    def noise(self, shape: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        """Standard noise for `shape` actions, to be given to `sample`."""

    def sample(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """Actions `[..., *action_shape]` from inputs `[..., num_inputs]`."""

    def mode(self, inputs: Tensor) -> Tensor:
        """The most likely actions."""

    def log_prob(self, inputs: Tensor, action: Tensor) -> Tensor:
        """Log probability (density) of actions, `[...]`."""

    def entropy(self, inputs: Tensor) -> Tensor:
        """Entropy, `[...]`."""

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """KL(old || new), `[...]`, both given by their inputs."""


class Categorical:
    """One of n choices; the inputs are unnormalised logits.

    Sampling is the Gumbel-max trick: argmax(logits + g) with g = -log(-log u) is distributed as softmax(logits).
    """

    action_shape: tuple[int, ...] = ()
    action_dtype = torch.int64

    def __init__(self, n: int) -> None:
        self.num_inputs = n

    def noise(self, shape: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        return torch.empty(*shape, self.num_inputs).exponential_(generator=generator).log_().neg_()

    def sample(self, inputs: Tensor, noise: Tensor) -> Tensor:
        return (inputs + noise).argmax(-1)

    def mode(self, inputs: Tensor) -> Tensor:
        return inputs.argmax(-1)

    def log_prob(self, inputs: Tensor, action: Tensor) -> Tensor:
        if action.ndim > 1:
            return self.log_prob(inputs.flatten(0, -2), action.flatten()).view(action.shape)
        return -F.cross_entropy(inputs, action, reduction="none")

    def entropy(self, inputs: Tensor) -> Tensor:
        log_p = F.log_softmax(inputs, -1)
        return -(log_p.exp() * log_p).sum(-1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        log_p, log_q = F.log_softmax(old, -1), F.log_softmax(new, -1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)


class Gaussian:
    """A diagonal Gaussian over R^d; the inputs are d means, then d log standard deviations.

    Actions are the unbounded samples; the policy scales and clips them to the space's bounds on their way to the
    environment, so that the probabilities stay those of the sample that was drawn.
    """

    action_dtype = torch.float32
    _limits = (-20.0, 2.0)  # of log σ: beyond, exp() makes a policy that is a point or does not fit into float32

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.num_inputs = 2 * dim
        self.action_shape: tuple[int, ...] = (dim,)

    def noise(self, shape: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        return torch.empty(*shape, self.dim).normal_(generator=generator)

    def _split(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        log_std = inputs[..., self.dim :]
        # Bounded in value but not in gradient: a parameter that overshoots the bounds must be able to come back.
        return inputs[..., : self.dim], log_std + (log_std.clamp(*self._limits) - log_std).detach()

    def sample(self, inputs: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = self._split(inputs)
        return torch.addcmul(mean, log_std.exp(), noise)

    def mode(self, inputs: Tensor) -> Tensor:
        return inputs[..., : self.dim]

    def log_prob(self, inputs: Tensor, action: Tensor) -> Tensor:
        mean, log_std = self._split(inputs)
        z = (action - mean) * (-log_std).exp()
        return -(0.5 * z * z + log_std).sum(-1) - 0.5 * _LOG_2PI * self.dim

    def entropy(self, inputs: Tensor) -> Tensor:
        return self._split(inputs)[1].sum(-1) + 0.5 * self.dim * (1 + _LOG_2PI)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        (mean_p, log_p), (mean_q, log_q) = self._split(old), self._split(new)
        variance_ratio = (2 * (log_p - log_q)).exp()
        shift = (mean_p - mean_q) * (-log_q).exp()
        return (0.5 * (variance_ratio + shift * shift - 1) + log_q - log_p).sum(-1)


class SquashedGaussian(Gaussian):
    """A Gaussian squashed by tanh into (-1, 1)^d (Haarnoja et al. 2018, arXiv 1801.01290, appendix C).

    Actions are the samples u before squashing, so that log densities stay exact however close tanh(u) is to its
    bounds: log p(tanh u) = log N(u) - Σ log(1 - tanh² u), and log(1 - tanh² u) = 2 (log 2 - u - softplus(-2u)).
    """

    def log_prob(self, inputs: Tensor, action: Tensor) -> Tensor:
        return super().log_prob(inputs, action) - log_tanh_derivative(action).sum(-1)

    def entropy(self, inputs: Tensor) -> Tensor:
        """The Gaussian's entropy plus E log |d tanh/du|; the mean has no closed form and is a Gauss-Hermite sum."""
        mean, log_std = self._split(inputs)
        points = mean.unsqueeze(-1) + log_std.exp().unsqueeze(-1) * _NODES.to(mean.dtype)
        shrinkage = (log_tanh_derivative(points) * _WEIGHTS.to(mean.dtype)).sum(-1)
        return super().entropy(inputs) + shrinkage.sum(-1)


def log_tanh_derivative(u: Tensor) -> Tensor:
    """log(1 - tanh²(u)), exact for large |u| too."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))
