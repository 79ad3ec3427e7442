"""Action distributions as pure functions of a network's outputs.

Each class is the arithmetic of one family over flat outputs `inputs[..., num_inputs]`. Randomness
comes in from outside as `noise`, drawn for a whole rollout at once: sampling is then two or three
small operations a step, and whoever draws the noise decides how it is seeded or correlated in time.

    dist = Categorical(3)
    noise = dist.noise((T, B), generator)            # [T, B, 3]
    action = dist.sample(logits, noise[t])           # [B]
    action = dist.mode(logits)                       # [B], the deterministic choice
    log_prob = dist.log_prob(logits, action)         # [B]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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

MASKED = -1e30
"""The logit of a choice that a mask rules out: its probability is exactly 0, and all is finite."""

_PADDING = -3e38
"""The logit of a choice that does not exist: never chosen, even if all that exist are masked."""


class Distribution(Protocol):
    """What a policy asks of a distribution. `...` is any batch shape.

    Attributes:
        num_inputs: how many outputs of the network parametrise one action.
        action_shape, action_dtype: of one action.
        noise_size: how many numbers of noise one action takes: the noise's last axis.
        normal_noise: whether the noise is standard normal: only then may it be correlated in time.
    """

    num_inputs: int
    action_shape: tuple[int, ...]
    action_dtype: torch.dtype
    noise_size: int
    normal_noise: bool

    def noise(self, shape: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        """Draws noise for `shape` actions, to be given to `sample`: `[*shape, noise_size]`."""

    def sample(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """Actions `[..., *action_shape]` from inputs `[..., num_inputs]` and noise."""

    def mode(self, inputs: Tensor) -> Tensor:
        """The most likely actions, `[..., *action_shape]`."""

    def log_prob(self, inputs: Tensor, action: Tensor) -> Tensor:
        """The log-probabilities (or log-densities) of actions, `[...]`."""

    def entropy(self, inputs: Tensor) -> Tensor:
        """The entropies, `[...]`."""


class Categorical:
    """One of n choices; the inputs are unnormalised logits.

    Sampling is the Gumbel-max trick: argmax(logits + g) with g = -log(-log u) is distributed as
    softmax(logits).
    """

    action_shape: tuple[int, ...] = ()
    action_dtype = torch.int64
    normal_noise = False

    def __init__(self, n: int) -> None:
        self.num_inputs = self.noise_size = n

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


class EpsilonGreedy:
    """The best of n choices, or with probability ε any of them; the inputs are their values.

    What a mask rules out (`MASKED`) is not chosen at random either.

    Args:
        n: the number of choices.
        epsilon: ε at first.
        masked: whether values may be `MASKED`.

    Attributes:
        epsilon: ε, a tensor; of a policy that has one as a buffer, the very buffer.
    """

    action_shape: tuple[int, ...] = ()
    action_dtype = torch.int64
    normal_noise = False

    def __init__(self, n: int, epsilon: float = 0.0, *, masked: bool = True) -> None:
        self.num_inputs, self.noise_size = n, n + 1
        self.epsilon, self.masked = torch.tensor(epsilon), masked

    def noise(self, shape: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        return torch.rand(*shape, self.noise_size, generator=generator)

    def sample(self, inputs: Tensor, noise: Tensor) -> Tensor:
        anything = noise[..., 1:]
        if self.masked:
            anything = torch.where(inputs > MASKED, anything, inputs)
        return torch.where(noise[..., :1] < self.epsilon, anything, inputs).argmax(-1)

    def mode(self, inputs: Tensor) -> Tensor:
        return inputs.argmax(-1)

    def _probabilities(self, inputs: Tensor) -> Tensor:
        allowed = (inputs > MASKED).to(inputs.dtype)
        best = F.one_hot(inputs.argmax(-1), self.num_inputs).to(inputs.dtype)
        shares = allowed / allowed.sum(-1, keepdim=True).clamp(min=1)
        return torch.lerp(best, shares, self.epsilon.item())

    def log_prob(self, inputs: Tensor, action: Tensor) -> Tensor:
        return self._probabilities(inputs).gather(-1, action.unsqueeze(-1)).squeeze(-1).log()

    def entropy(self, inputs: Tensor) -> Tensor:
        p = self._probabilities(inputs)
        return -torch.xlogy(p, p).sum(-1)


class MultiCategorical:
    """K independent choices, the k-th one of n_k; the inputs are their logits, one after the other.

    The logits are padded to `[..., K, max n_k]`, so that all choices are one operation however they
    differ in size.
    """

    action_dtype = torch.int64
    normal_noise = False

    def __init__(self, sizes: Sequence[int]) -> None:
        self.num_inputs = sum(sizes)
        self.action_shape: tuple[int, ...] = (len(sizes),)
        self._grid = (len(sizes), max(sizes))
        self.noise_size = len(sizes) * max(sizes)
        exists = torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(1)
        # Where each choice's logit is among the inputs; those that do not exist share the column
        # after the last.
        columns = torch.full(self._grid, self.num_inputs)
        columns[exists] = torch.arange(self.num_inputs)
        self._columns = None if bool(exists.all()) else columns.flatten()

    def noise(self, shape: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        return torch.empty(*shape, self.noise_size).exponential_(generator=generator).log_().neg_()

    def grid(self, inputs: Tensor) -> Tensor:
        """The logits as `[..., K, max n_k]`; of choices that do not exist, they are least."""
        if self._columns is not None:
            inputs = F.pad(inputs, (0, 1), value=_PADDING).index_select(
                -1, self._columns.to(inputs.device)
            )
        return inputs.view(*inputs.shape[:-1], *self._grid)

    def sample(self, inputs: Tensor, noise: Tensor) -> Tensor:
        return (self.grid(inputs) + noise.view(*noise.shape[:-1], *self._grid)).argmax(-1)

    def mode(self, inputs: Tensor) -> Tensor:
        return self.grid(inputs).argmax(-1)

    def log_prob(self, inputs: Tensor, action: Tensor) -> Tensor:
        log_p = F.log_softmax(self.grid(inputs), -1)
        return log_p.gather(-1, action.unsqueeze(-1)).squeeze(-1).sum(-1)

    def entropy(self, inputs: Tensor) -> Tensor:
        log_p = F.log_softmax(self.grid(inputs), -1)
        return -(log_p.exp() * log_p).sum((-2, -1))


class Bernoulli:
    """n independent bits; the inputs are the logits l of a one: p = σ(l)."""

    action_dtype = torch.int64
    normal_noise = False

    def __init__(self, n: int) -> None:
        self.num_inputs = self.noise_size = n
        self.action_shape: tuple[int, ...] = (n,)

    def noise(self, shape: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        return torch.rand(*shape, self.num_inputs, generator=generator)

    def sample(self, inputs: Tensor, noise: Tensor) -> Tensor:
        return (noise < inputs.sigmoid()).long()

    def mode(self, inputs: Tensor) -> Tensor:
        return (inputs > 0).long()

    def log_prob(self, inputs: Tensor, action: Tensor) -> Tensor:
        return (action * inputs - F.softplus(inputs)).sum(-1)

    def entropy(self, inputs: Tensor) -> Tensor:
        return (F.softplus(inputs) - inputs.sigmoid() * inputs).sum(-1)


class Gaussian:
    """A diagonal Gaussian over R^d; the inputs are d means, then d log standard deviations.

    Actions are the unbounded samples; the policy scales and clips them to the space's bounds on
    their way to the environment, so that the probabilities stay those of the sample that was drawn.
    """

    action_dtype = torch.float32
    normal_noise = True
    # Of log σ. Beyond these, exp() makes a policy that is a single point, or overflows float32.
    _limits = (-20.0, 2.0)

    def __init__(self, dim: int) -> None:
        self.dim = self.noise_size = dim
        self.num_inputs = 2 * dim
        self.action_shape: tuple[int, ...] = (dim,)

    def noise(self, shape: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        return torch.empty(*shape, self.dim).normal_(generator=generator)

    def split(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log standard deviations, each `[..., d]`."""
        log_std = inputs[..., self.dim :]
        # Only the value is bounded, not the gradient: a parameter beyond the limits must be able to
        # come back.
        return inputs[..., : self.dim], log_std + (log_std.clamp(*self._limits) - log_std).detach()

    def sample(self, inputs: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = self.split(inputs)
        return torch.addcmul(mean, log_std.exp(), noise)

    def mode(self, inputs: Tensor) -> Tensor:
        return inputs[..., : self.dim]

    def log_prob(self, inputs: Tensor, action: Tensor) -> Tensor:
        mean, log_std = self.split(inputs)
        z = (action - mean) * (-log_std).exp()
        return -(0.5 * z * z + log_std).sum(-1) - 0.5 * _LOG_2PI * self.dim

    def entropy(self, inputs: Tensor) -> Tensor:
        return self.split(inputs)[1].sum(-1) + 0.5 * self.dim * (1 + _LOG_2PI)


class SquashedGaussian(Gaussian):
    """A Gaussian squashed by tanh into (-1, 1)^d.

    See Haarnoja et al. 2018 (arXiv 1801.01290, appendix C). Actions are the samples u before
    squashing, so that log-densities stay exact however close tanh(u) is to its bounds:

        log p(tanh u) = log N(u) - Σ log(1 - tanh² u)

    Args:
        dim: d.
        columns: which of the d are squashed, by default all; the others stay Gaussian.
    """

    def __init__(self, dim: int, columns: Sequence[int] | None = None) -> None:
        super().__init__(dim)
        whole = columns is None or len(columns) == dim
        self.columns = slice(None) if whole else torch.tensor(columns)

    def log_prob(self, inputs: Tensor, action: Tensor) -> Tensor:
        squashed = action[..., self.columns]
        return super().log_prob(inputs, action) - log_tanh_derivative(squashed).sum(-1)

    def entropy(self, inputs: Tensor) -> Tensor:
        """The Gaussian's entropy plus E log |d tanh/du|.

        That mean has no closed form: it is a Gauss-Hermite sum.
        """
        mean, log_std = (part[..., self.columns] for part in self.split(inputs))
        points = mean.unsqueeze(-1) + log_std.exp().unsqueeze(-1) * _NODES.to(mean)
        shrinkage = (log_tanh_derivative(points) * _WEIGHTS.to(mean)).sum(-1)
        return super().entropy(inputs) + shrinkage.sum(-1)


class Deterministic:
    """One action, d numbers, with white noise of a fixed deviation added where one is sampled.

    Actions are those after squashing: tanh of the input where it is bounded by -1 and 1, and the
    sum with noise is clipped to these.

    Args:
        dim: d.
        bounded: which of them are, `[d]` bool; None if none.
        deviation: of the noise.
    """

    action_dtype = torch.float32
    normal_noise = True

    def __init__(self, dim: int, bounded: Tensor | None, deviation: float) -> None:
        self.dim = self.noise_size = self.num_inputs = dim
        self.action_shape: tuple[int, ...] = (dim,)
        self.bounded, self.deviation = bounded, deviation

    def noise(self, shape: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        return torch.empty(*shape, self.dim).normal_(generator=generator)

    def sample(self, inputs: Tensor, noise: Tensor) -> Tensor:
        moved = torch.add(self.mode(inputs), noise, alpha=self.deviation)
        if self.bounded is None:
            return moved
        return torch.where(self.bounded.to(moved.device), moved.clamp(-1, 1), moved)

    def mode(self, inputs: Tensor) -> Tensor:
        if self.bounded is None:
            return inputs
        return torch.where(self.bounded.to(inputs.device), inputs.tanh(), inputs)

    def log_prob(self, inputs: Tensor, action: Tensor) -> Tensor:
        """A single point has no density: NaN."""
        return torch.full_like(inputs[..., 0], torch.nan)

    def entropy(self, inputs: Tensor) -> Tensor:
        """As for `log_prob`: NaN."""
        return torch.full_like(inputs[..., 0], torch.nan)


class Product:
    """Independent distributions side by side, for actions of several kinds.

    Inputs, noise and actions are those of the parts, one after the other. An action is one vector
    `[..., A]` of floats, which hold integers up to 2²⁴ exactly.
    """

    action_dtype = torch.float32

    def __init__(self, parts: Sequence[Distribution]) -> None:
        self.parts = tuple(parts)
        self.normal_noise = all(part.normal_noise for part in parts)
        self.num_inputs = sum(part.num_inputs for part in parts)
        self.noise_size = sum(part.noise_size for part in parts)
        self._widths = [math.prod(part.action_shape) for part in parts]
        self.action_shape: tuple[int, ...] = (sum(self._widths),)

    def _inputs(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return torch.split(inputs, [part.num_inputs for part in self.parts], -1)

    def _join(self, actions: list[Tensor], dtype: torch.dtype) -> Tensor:
        """The parts' actions as one vector."""
        rows = zip(self.parts, actions, strict=True)
        vectors = [a if part.action_shape else a.unsqueeze(-1) for part, a in rows]
        return torch.cat([vector.to(dtype) for vector in vectors], -1)

    def _actions(self, action: Tensor) -> list[Tensor]:
        """The parts' actions, in their own shapes and types, from one vector."""
        actions = []
        for part, a in zip(self.parts, torch.split(action, self._widths, -1), strict=True):
            shaped = a if part.action_shape else a.squeeze(-1)
            # Floats keep their type, which need not be float32.
            whole = not part.action_dtype.is_floating_point
            actions.append(shaped.to(part.action_dtype) if whole else shaped)
        return actions

    def noise(self, shape: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        return torch.cat([part.noise(shape, generator) for part in self.parts], -1)

    def sample(self, inputs: Tensor, noise: Tensor) -> Tensor:
        each = torch.split(noise, [part.noise_size for part in self.parts], -1)
        rows = zip(self.parts, self._inputs(inputs), each, strict=True)
        return self._join([part.sample(i, n) for part, i, n in rows], inputs.dtype)

    def mode(self, inputs: Tensor) -> Tensor:
        rows = zip(self.parts, self._inputs(inputs), strict=True)
        return self._join([part.mode(i) for part, i in rows], inputs.dtype)

    def log_prob(self, inputs: Tensor, action: Tensor) -> Tensor:
        rows = zip(self.parts, self._inputs(inputs), self._actions(action), strict=True)
        return torch.stack([part.log_prob(i, a) for part, i, a in rows]).sum(0)

    def entropy(self, inputs: Tensor) -> Tensor:
        rows = zip(self.parts, self._inputs(inputs), strict=True)
        return torch.stack([part.entropy(i) for part, i in rows]).sum(0)


def explained(dist: Distribution, inputs: Tensor) -> dict[str, Tensor]:
    """What a person reads of inputs `[..., num_inputs]`, by the kind of distribution.

    `probabilities` of choices `[..., n]` (of several `[..., K, max n_k]`) and bits, `mean` and
    `std` of numbers, and `q`, the values that ε-greedy choices go by; of a mixture, nothing.
    """
    if isinstance(dist, EpsilonGreedy):
        return {"q": inputs, "probabilities": dist._probabilities(inputs)}
    if isinstance(dist, (Categorical, MultiCategorical)):
        choices = dist.grid(inputs) if isinstance(dist, MultiCategorical) else inputs
        return {"probabilities": choices.softmax(-1)}
    if isinstance(dist, Bernoulli):
        return {"probabilities": inputs.sigmoid()}
    if isinstance(dist, Gaussian):
        mean, log_std = dist.split(inputs)
        return {"mean": mean, "std": log_std.exp()}
    return {}


def log_tanh_derivative(u: Tensor) -> Tensor:
    """log(1 - tanh²(u)), as 2 (log 2 - u - softplus(-2u)), which is exact for large |u| too."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))


def correlate_(noise: Tensor, previous: Tensor | None, correlation: float) -> Tensor:
    """Makes white noise a first-order autoregression of the same variance, in place.

        x_t = ρ x_{t-1} + √(1 - ρ²) ε_t,   and x_0 = ε_0 where nothing came before

    Args:
        noise: ε, `[T, ...]`, which becomes x.
        previous: x before the first row; None if there was none.
        correlation: ρ, from 0 to 1.

    Returns:
        A copy of the last row, to go on from.
    """
    fresh = math.sqrt(1 - correlation**2)
    for now in noise.unbind(0):
        if previous is not None:
            now.mul_(fresh).add_(previous, alpha=correlation)
        previous = now
    return noise[-1].clone()
