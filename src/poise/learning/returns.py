"""One recursion for generalized advantages, V-trace and λ-returns.

All three are the same backward sum over temporal-difference errors:

    δ_t = ρ_t (r_t + γ_t v'_t - v_t)               with  γ_t = γ (1 - terminated_t)
    A_t = δ_t + γ λ c_t (1 - done_t) A_{t+1}       with  done_t = terminated_t or truncated_t

A time limit is not the end of the world: the value v'_t of what came after the step counts unless
the episode truly terminated. The trace stops at the end of every episode.

* GAE (Schulman et al. 2016, arXiv 1506.02438, eq. 16): ρ = c = 1.
* λ-returns: v + A of GAE.
* V-trace targets (Espeholt et al. 2018, arXiv 1802.01561, eq. 1): v + A with ρ = min(ρ̄, π/μ) and
  c = min(1, π/μ).
"""

from __future__ import annotations

import torch
from torch import Tensor


def advantages(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    lambda_: float,
    rho: Tensor | None = None,
    c: Tensor | None = None,
    waits: Tensor | None = None,
) -> Tensor:
    """Advantages of a rollout; all tensors are `[T, B]`.

    Args:
        reward: r_t.
        value: v_t, the value of the observation that the step starts from.
        next_value: v'_t, the value of the observation that the step leads to: of the final one
            where an episode ends.
        terminated: whether the episode reached a terminal state at t: nothing is bootstrapped.
        truncated: whether the episode was cut at t: v'_t is bootstrapped, the trace is cut.
        gamma: discount factor γ.
        lambda_: trace decay λ.
        rho: clipped importance weights ρ_t of the error; None means 1.
        c: clipped importance weights c_t of the trace; None means 1.
        waits: rows that A passes through as it is, because an agent waits in them, unless they are
            an end; None means none.

    Returns:
        A_t, `[T, B]`, in the type of `value`. Value targets are `value + advantages`.
    """
    steps = reward.shape[0]
    delta = torch.addcmul(reward - value, next_value, ~terminated, value=gamma)
    if rho is not None:
        delta *= rho
    trace = (~(terminated | truncated)).to(delta.dtype).mul_(gamma * lambda_)
    if c is not None:
        trace *= c
    if waits is not None:
        delta.masked_fill_(waits, 0.0)
        trace.masked_fill_(waits & ~(terminated | truncated), 1.0)
    result = delta  # filled backwards in place: A_t = δ_t + trace_t A_{t+1}
    rows, traces = result.unbind(0), trace.unbind(0)
    for t in range(steps - 2, -1, -1):
        rows[t].addcmul_(traces[t], rows[t + 1])
    return result


def vtrace_policy_advantages(
    reward: Tensor,
    value: Tensor,
    next_target: Tensor,
    terminated: Tensor,
    *,
    gamma: float,
    rho: Tensor,
) -> Tensor:
    """V-trace's advantage for the policy gradient (arXiv 1802.01561, section 4.2).

        ρ_t (r_t + γ_t v_{t+1} - V(x_t))

    Args:
        reward, value, terminated: `[T, B]`, as in `advantages`.
        next_target: v_{t+1}, the V-trace target of the next step, `[T, B]`; the bootstrap value
            where the trace ends.
        gamma: discount factor γ.
        rho: clipped importance weights of the policy gradient, `[T, B]`.

    Returns:
        The advantages, `[T, B]`.
    """
    return rho * torch.addcmul(reward - value, next_target, ~terminated, value=gamma)


def vtrace(
    log_ratio: Tensor,
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    lambda_: float,
    rho_limit: float = 1.0,
    pg_rho_limit: float = 1.0,
    waits: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """V-trace for the value function and for the policy (arXiv 1802.01561, section 4).

    With λ < 1, the policy's estimate of what follows a step lies as far between value and target as
    it does in the target itself, v'_t + λ (v_{t+1} - V(x_{t+1})), as in RLax. On-policy, the
    advantage is then the generalized one.

    Args:
        log_ratio: log π(a|s) - log μ(a|s), where π learns and μ sampled, `[T, B]`.
        reward, value, next_value, terminated, truncated, gamma, lambda_: as in `advantages`.
        rho_limit, pg_rho_limit: ρ̄ of the targets and of the policy gradient.
        waits: as in `advantages`.

    Returns:
        What the targets add to `value`, and the advantages for the policy gradient; `[T, B]` each.
    """
    ratio = log_ratio.exp()
    rho, c = ratio.clamp(max=rho_limit), ratio.clamp(max=1.0)
    rows = (reward, value, next_value, terminated, truncated)
    correction = advantages(*rows, gamma=gamma, lambda_=lambda_, rho=rho, c=c, waits=waits)
    next_target = next_value.clone()
    next_target[:-1] += lambda_ * correction[1:] * ~(terminated | truncated)[:-1]
    pg_rho = rho if pg_rho_limit == rho_limit else ratio.clamp(max=pg_rho_limit)
    return correction, vtrace_policy_advantages(
        reward, value, next_target, terminated, gamma=gamma, rho=pg_rho
    )
