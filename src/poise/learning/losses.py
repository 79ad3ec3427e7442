"""Losses per step, before averaging: `[N]` in, `[N]` out. The algorithm weights and averages them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _ClippedLoss(torch.autograd.Function):
    """The clipped loss with its gradient written out: one operation instead of the dozen that autograd derives."""

    @staticmethod
    def forward(ctx: Any, log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
        ratio = (log_prob - old_log_prob).exp_()
        plain = ratio * -advantage
        clipped = ratio.clamp_(1 - clip, 1 + clip).mul_(-advantage)
        loss = torch.maximum(plain, clipped)
        ctx.save_for_backward(plain.masked_fill_(plain < clipped, 0))
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return grads[0] * ctx.saved_tensors[0], None, None, None


def clipped_policy_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's clipped surrogate, negated (arXiv 1707.06347, eq. 7): -min(r A, clip(r, 1 - ε, 1 + ε) A).

    Its gradient with respect to log π is -r A where the unclipped term is the smaller one, and 0 where clipping holds.

    Args:
        log_prob: log π(a|s), `[N]`.
        old_log_prob: log π_old(a|s), a constant; r = exp(log_prob - old_log_prob).
        advantage: A, a constant.
        clip: ε.
    """
    result: Tensor = _ClippedLoss.apply(log_prob, old_log_prob, advantage, clip)
    return result


def value_loss(value: Tensor, target: Tensor, old_value: Tensor | None = None, clip: float | None = None) -> Tensor:
    """Squared error (V - R)², or its clipped form max((V - R)², (V_old + clip(V - V_old, ±ε) - R)²)."""
    loss = F.mse_loss(value, target, reduction="none")
    if clip is None or old_value is None:
        return loss
    clipped = old_value + (value - old_value).clamp(-clip, clip)
    return torch.maximum(loss, F.mse_loss(clipped, target, reduction="none"))


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """KL(π_old || π) from samples of π_old: the unbiased, never negative estimate (r - 1) - log r (Schulman 2020)."""
    return log_ratio.exp() - 1 - log_ratio


def explained_variance(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 - Var[R - V] / Var[R] over weighted steps: 1 is a perfect value function, 0 as good as a constant."""
    weight = weight / weight.sum()

    def variance(x: Tensor) -> Tensor:
        return torch.dot(weight, (x - torch.dot(weight, x)) ** 2)

    return 1 - variance(target - prediction) / variance(target).clamp(min=1e-12)


def normalize(x: Tensor, weight: Tensor) -> Tensor:
    """Brings rows of `x[..., N]` to mean 0 and deviation 1 over steps with weight 1; weight 0 counts in neither.

    The deviation is the sample's (divided by n - 1), as in other implementations of PPO.
    """
    count = weight.sum(-1, keepdim=True)
    centred = x - (weight * x).sum(-1, keepdim=True) / count
    variance = (weight * centred * centred).sum(-1, keepdim=True) / (count - 1).clamp_(min=1)
    return centred.div_(variance.sqrt_().add_(1e-8))
