"""Losses and the statistics beside them, over flat lists of steps `[N]` with weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _PPOLoss(torch.autograd.Function):
    """`ppo_loss` with its gradient written out.

    That takes two products, instead of the dozens of operations that autograd would derive.
    """

    @staticmethod
    def forward(
        ctx: Any,
        log_prob: Tensor,
        value: Tensor,
        old_log_prob: Tensor,
        old_value: Tensor,
        advantage: Tensor,
        target: Tensor,
        weight: Tensor,
        clip: float,
        vf_clip: float | None,
        vf_coeff: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ratio = (log_prob - old_log_prob).exp_()
        plain = ratio * advantage
        clipped = ratio.clamp_(1 - clip, 1 + clip).mul_(advantage)
        policy_loss = torch.dot(weight, torch.minimum(plain, clipped)).neg_()
        # d/d log π of r A is r A itself; where the clipped term is smaller, it is constant.
        slope = plain.masked_fill_(plain > clipped, 0).mul_(weight)

        error = value - target
        if vf_clip is not None:
            moved = value - old_value
            near = moved.clamp(-vf_clip, vf_clip).add_(old_value).sub_(target)
            # Where the clipped error is the larger one, it counts, and it does not move with the
            # value. (Within the limits, the two are the same up to rounding, so that comparing
            # them alone would drop the gradient of many steps by chance.)
            fixed = (moved.abs() > vf_clip) & (near.abs() > error.abs())
            vf_loss = torch.dot(weight, torch.where(fixed, near, error).square_())
            error.masked_fill_(fixed, 0)
        else:
            vf_loss = torch.dot(weight, error * error)
        ctx.save_for_backward(slope, error.mul_(weight))
        ctx.vf_coeff = vf_coeff
        ctx.mark_non_differentiable(policy_loss, vf_loss)
        return torch.add(policy_loss, vf_loss, alpha=vf_coeff), policy_loss, vf_loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        slope, error = ctx.saved_tensors
        grad = grads[0]
        return -grad * slope, (2 * ctx.vf_coeff * grad) * error, *[None] * 8


def ppo_loss(
    log_prob: Tensor,
    value: Tensor,
    *,
    old_log_prob: Tensor,
    old_value: Tensor,
    advantage: Tensor,
    target: Tensor,
    weight: Tensor,
    clip: float,
    vf_clip: float | None = None,
    vf_coeff: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """PPO's loss without the entropy bonus (arXiv 1707.06347, eq. 7 and 9, negated).

        Σ w [ -min(r A, clip(r, 1 - ε, 1 + ε) A) + c (V - R)² ]
        with  r = exp(log π(a|s) - log π_old(a|s))

    All tensors are lists of steps `[N]`.

    Args:
        log_prob: log π(a|s) of the actions taken; differentiated.
        value: V(s); differentiated.
        old_log_prob, old_value: the same under the policy that sampled.
        advantage, target: A and R, constants.
        weight: w, which sum to 1.
        clip: ε.
        vf_clip: if given, the value error is the larger of (V - R)² and
            (V_old + clip(V - V_old, ±vf_clip) - R)².
        vf_coeff: c.

    Returns:
        The loss, its policy part and its value part (before c); only the first is differentiable.
    """
    result: tuple[Tensor, Tensor, Tensor] = _PPOLoss.apply(  # type: ignore[no-untyped-call]
        log_prob, value, old_log_prob, old_value, advantage, target, weight, clip, vf_clip, vf_coeff
    )
    return result


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Estimates KL(π_old || π) from actions of π_old, for each step `[N]`.

    It is (r - 1) - log r, whose mean is unbiased, and which is never negative (Schulman 2020,
    http://joschu.net/blog/kl-approx.html).
    """
    return log_ratio.exp() - 1 - log_ratio


def explained_variance(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """How much of the targets' variance the predictions explain: 1 - Var[R - V] / Var[R].

    1 is a perfect value function, and 0 is as good as a constant. It is NaN where the targets do
    not vary, since there is nothing to explain.

    Args:
        prediction: V, `[N]`.
        target: R, `[N]`.
        weight: of the steps, `[N]`.
    """
    weight = weight / weight.sum().clamp(min=1)

    def variance(x: Tensor) -> Tensor:
        return torch.dot(weight, (x - torch.dot(weight, x)) ** 2)

    total = variance(target)
    return torch.where(total > 1e-12, 1 - variance(target - prediction) / total, torch.nan)


def normalize(x: Tensor, weight: Tensor) -> Tensor:
    """Brings each row to mean 0 and standard deviation 1.

    The deviation is the sample's (divided by n - 1), as in other implementations of PPO. A single
    step has none: it stays as it is, since 0 would teach nothing.

    Args:
        x: rows of N steps, `[..., N]`.
        weight: 1 for the steps that count, 0 for those that do not, `[..., N]`.
    """
    count = weight.sum(-1, keepdim=True).clamp_(min=1)
    centred = x - (weight * x).sum(-1, keepdim=True) / count
    variance = (weight * centred * centred).sum(-1, keepdim=True) / (count - 1).clamp_(min=1)
    return torch.where(count > 1, centred.div_(variance.sqrt_().add_(1e-8)), x)


def huber_loss(error: Tensor) -> Tensor:
    """Huber's loss of errors δ: ½ δ² up to |δ| = 1, |δ| - ½ beyond.

    Its slope is δ clipped to ±1, which is how Mnih et al. 2015 put it.
    """
    slope = error.clamp(-1, 1)
    return slope * (error - 0.5 * slope)


def quantile_slopes(quantiles: Tensor, target: Tensor) -> Tensor:
    """The derivative of the quantile Huber loss (Dabney et al. 2018, arXiv 1710.10044, eq. 10).

        1/(M K) Σₘ Σₖ |τₘ - 1(δ < 0)| huber(δ)     with  δ = yₖ - zₘ,  τₘ = (m + ½) / M

    Args:
        quantiles: z, `[..., N, M]`.
        target: y, whatever their order, `[N, K]`.

    Returns:
        Its derivative by each z, `[..., N, M]`.
    """
    count = quantiles.shape[-1]
    tau = (torch.arange(count, device=target.device, dtype=target.dtype) + 0.5) / count
    delta = target.unsqueeze(-2) - quantiles.unsqueeze(-1)
    weight = (tau.unsqueeze(-1) - (delta < 0).to(target.dtype)).abs_()
    return delta.clamp_(-1, 1).mul_(weight).mean(-1).div_(-count)
