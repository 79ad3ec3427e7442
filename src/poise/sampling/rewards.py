"""Reward scaling: rewards divided by the running standard deviation of the return."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poise.learning.device import CPU
from poise.learning.running import RunningMoments
from poise.sampling.rollout import Rollout


class RewardScaler:
    """Divides rewards by the running standard deviation of the discounted return.

    Each slot carries its discounted return from step to step and from rollout to rollout:

        R_t  = γ (1 - done_{t-1}) R_{t-1} + r_t
        r_t <- clip(r_t / √(Var[R] + ε), -10, 10)

    See Engstrom et al. 2020 (arXiv 2005.12729).

    Args:
        gamma: γ.

    Attributes:
        moments: of R, over all slots and steps so far.
        carry: R of each slot of the run after its last step, `[slots]` in float64; None before
            the first rollout.
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self.moments = RunningMoments(())
        self.carry: Tensor | None = None

    def __call__(self, rollout: Rollout) -> Tensor:
        """Updates the moments with a rollout's returns and scales its rewards; `[T, B]`."""
        returns = self._returns(rollout)
        self.moments.update(returns.flatten(), rollout.valid.flatten())
        # A row that only reset has no reward, whatever the environment gave.
        reward = (rollout.reward * rollout.valid).to(CPU)
        scaled = reward * (self.moments.var + 1e-8).rsqrt().float()
        return scaled.clamp_(-10, 10).to(rollout.reward.device)

    def _returns(self, rollout: Rollout) -> Tensor:
        """R_t of every step, `[T, B]` in float64; what the last ones are is carried on."""
        carry = self._carry_of(int(rollout.ids.max()) + 1)
        reward = (rollout.reward * rollout.valid).to(CPU)
        going_on = (~(rollout.terminated | rollout.truncated)).to(CPU).double()
        begins = rollout.first[0].to(CPU)
        returns = torch.empty(rollout.steps, rollout.slots, dtype=torch.float64)
        for columns in _distinct(rollout.ids.tolist()):
            ids = rollout.ids[columns]
            # A slot that begins anew carries nothing, however its last episode was left.
            running = carry[ids].masked_fill(begins[columns], 0)
            for t in range(rollout.steps):
                gamma: Any = self.gamma
                if rollout.waits is not None:  # time passes only for who acts
                    gamma **= (~rollout.waits[t, columns]).to(CPU).double()
                returns[t, columns] = running * gamma + reward[t, columns]
                running = returns[t, columns] * going_on[t, columns]
            carry[ids] = running
        return returns

    def _carry_of(self, slots: int) -> Tensor:
        """What is carried, of as many slots at least."""
        known = 0 if self.carry is None else len(self.carry)
        if self.carry is None or known < slots:
            grown = torch.zeros(slots, dtype=torch.float64)
            if self.carry is not None:
                grown[:known] = self.carry
            self.carry = grown
        return self.carry

    def scale(self, reward: np.ndarray) -> np.ndarray:
        """Scales the rewards `[N]` of any steps by the deviation as it is now."""
        scaled = reward * np.float32(1 / math.sqrt(self.moments.var.item() + 1e-8))
        return np.clip(scaled, -10, 10)

    def state_dict(self) -> dict[str, Any]:
        return {**self.moments.state_dict(), "carry": self.carry}

    def load_state_dict(self, state: dict[str, Any], slots: int) -> None:
        """Restores what `state_dict` returned.

        Raises:
            ValueError: the state is of another number of slots.
        """
        self.carry = None if state["carry"] is None else torch.as_tensor(state["carry"])
        if self.carry is not None and not (self.carry.ndim == 1 and len(self.carry) <= slots):
            raise ValueError(
                f"returns of {list(self.carry.shape)} slots are carried, and there are {slots}"
            )
        moments = {name: torch.as_tensor(v) for name, v in state.items() if name != "carry"}
        self.moments.load_state_dict(moments)


def _distinct(ids: list[int]) -> list[slice]:
    """Neighbouring columns in as few pieces as there can be without a slot twice in one."""
    pieces, start, seen = [], 0, set[int]()
    for column, slot in enumerate(ids):
        if slot in seen:
            pieces.append(slice(start, column))
            start, seen = column, set()
        seen.add(slot)
    return [*pieces, slice(start, len(ids))]
