"""What learns: the parameters of a module, their optimiser, and the rules of a gradient step.

    learner = Learner(policy, Adam, clip=lambda flat: flat.clip_grad_norm(0.5))
    norm = learner.descend(loss, lr)

An algorithm has one learner or several (an actor's, its critics'), each with its own optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from poise.errors import DivergedError
from poise.learning.group import ALONE, Group
from poise.learning.optimizers import Change, Flat, Optimizer

MAX_SKIPPED = 10
"""So many gradients in a row that are not finite stop training."""

COUNTERS = ("updates", "skipped", "skipped_in_a_row")
"""What a learner counts."""


class Learner:
    """Takes gradient steps for the parameters of a module.

    Args:
        module: its parameters learn, unless they are frozen.
        optimizer: makes the optimiser for the vector of parameters.
        clip: clips the vector's gradient and returns its norm before; by default, nothing is
            clipped.

    Attributes:
        flat: the parameters and their gradients, as two vectors.
        optimizer: moves them.
        group: the others that take each step together with it.
        updates: gradient steps taken.
        skipped: gradient steps not taken because the gradient was not finite.
        skipped_in_a_row: how many of these there were since the last step taken.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Callable[[Flat], Optimizer],
        clip: Callable[[Flat], float] = Flat.clip_grad_norm,
    ) -> None:
        self.module, self.clip = module, clip
        self.flat = Flat(module)
        self.optimizer = optimizer(self.flat)
        self.group: Group = ALONE
        self.updates = self.skipped = self.skipped_in_a_row = 0

    def bind(self) -> Change | None:
        """Takes up what was changed in the module (see `Flat.bind`); the optimiser follows.

        Returns:
            What was changed; None if nothing was.

        Raises:
            ModelError: a parameter cannot learn, or not in one vector with the others.
        """
        change = self.flat.bind()
        if change is not None and change.places is not None:
            self.optimizer.rearrange(change.places)
        return change

    def descend(self, loss: Tensor, lr: float) -> float:
        """Takes one step down the gradient of a loss; see `step`."""
        self.flat.zero_grad()
        if loss.requires_grad:  # a custom model may have nothing to learn
            loss.backward()  # type: ignore[no-untyped-call]
        return self.step(lr)

    def step(self, lr: float) -> float:
        """Clips the gradient that is there and takes one step, unless it is not finite.

        Where there are several learners, it is the mean of theirs, which is that of all rows.

        Returns:
            The gradient's norm before clipping.

        Raises:
            DivergedError: `MAX_SKIPPED` gradients in a row were not finite.
        """
        self.group.mean(self.flat.grad)
        norm = self.clip(self.flat)
        if math.isfinite(norm):
            self.optimizer.step(lr)
            self.updates += 1
            self.skipped_in_a_row = 0
            return norm
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MAX_SKIPPED:
            raise DivergedError(
                f"the gradient was not finite {MAX_SKIPPED} times in a row: training has diverged. "
                "Lower lr, or normalise observations and rewards. "
                "The parameters are those before it began."
            )
        return norm

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, beside the parameters themselves."""
        return {
            "frozen": self.flat.frozen,
            "optimizer": self.optimizer.state_dict(),
            **{key: getattr(self, key) for key in COUNTERS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> Change | None:
        """Restores what `state_dict` returned, once the module has its parameters.

        What was frozen then is frozen again, and nothing else is.

        Returns:
            What `bind` returned.
        """
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name not in state["frozen"])
        change = self.bind()
        moments = {name: torch.as_tensor(value) for name, value in state["optimizer"].items()}
        self.optimizer.load_state_dict(moments)
        self.updates, self.skipped, self.skipped_in_a_row = (int(state[key]) for key in COUNTERS)
        return change
