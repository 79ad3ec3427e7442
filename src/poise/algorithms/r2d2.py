"""DQN's learning with a memory: R2D2 (Kapturowski et al. 2019, "Recurrent Experience Replay").

draw sequences from the replay, each with the memory h that the policy had at its start
for both Q and Q⁻: go through the first steps alone, which brings h up to date (burn-in)
for the steps t that follow:
    y_t ← Σ γᵏ r + γⁿ (1 - terminated) Q⁻(s_{t+n}, a'),  a' = argmax Q(s_{t+n}, ·)
one step along  -∇ Σ huber(Q(s_t, a_t) - y_t)
priority of a sequence ← η max |δ| + (1 - η) mean |δ|
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from poise.models.policy import rows
from poise.sampling.rollout import Rollout


def q_values(policy: Any, x: Any, rollout: Rollout, burn_in: int) -> Tensor:
    """Q(s, ·) of the rows from `burn_in` on, `[R - burn_in, B, n]`.

    Args:
        policy: Q or Q⁻.
        x: the prepared observations of all R rows.
        rollout: the sequences.
        burn_in: rows that only bring the memory up to date.
    """
    slots, state, first = rollout.slots, rollout.state, rollout.first
    if burn_in:
        with torch.no_grad():
            early = rows(x, slice(0, burn_in * slots))
            state = policy.run(early, state, first[:burn_in])[2]
    late = rows(x, slice(burn_in * slots, None))
    q: Tensor = policy.run(late, state, first[burn_in:])[0]
    return q.view(-1, slots, q.shape[-1])


def n_step_returns(
    reward: Tensor, terminated: Tensor, truncated: Tensor, valid: Tensor, n: int, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """n-step returns of the first M = L - n + 1 of L steps.

    Args:
        reward, terminated, truncated, valid: of L steps, `[L, B]`.
        n: rewards that are summed, fewer where the episode ends before.
        gamma: γ.

    Returns:
        Σ γᵏ r, what the value after is worth (γⁿ, or 0 if the episode terminated), and the row of
        the observation that has this value, `[M, B]` each.
    """
    steps = len(reward) - n + 1
    ends, counts = terminated | truncated, valid > 0
    total, going = torch.zeros_like(reward[:steps]), torch.ones_like(ends[:steps])
    discount = torch.ones_like(total)
    row = torch.arange(steps, device=reward.device).unsqueeze(1).expand(total.shape).clone()
    for k in range(n):
        if k:
            # A row that only resets begins no step.
            going = going & ~ends[k - 1 : k - 1 + steps] & counts[k : k + steps]
        total += going * discount * reward[k : k + steps]
        discount = torch.where(going, discount * gamma, discount)
        row += going.long()
    over = terminated.gather(0, row - 1)
    return total, discount * ~over, row
