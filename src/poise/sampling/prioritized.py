"""Prioritized replay (Schaul et al. 2016, arXiv 1511.05952): large errors are drawn more often."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from poise.config.types import LARGEST_FLOAT
from poise.sampling.replay import Replay
from poise.sampling.rollout import Rollout
from poise.sampling.sum_tree import SumTree


class PrioritizedReplay(Replay):
    """A replay that draws steps in proportion to a power of their latest error δ.

        P(i) = p_i^α / Σ p^α   with  p_i = |δ_i| + ε

    New steps have the largest priority so far, so that each is drawn soon.

    Args:
        args, shared: as for `Replay`.
        alpha: α; 0 draws all alike.
        eps: ε, by which every step has a chance to be drawn again.

    Attributes:
        tree: p^α of each row; 0 for rows that are not drawn.
        largest: the largest p^α so far.
    """

    def __init__(self, *args: Any, alpha: float = 0.6, eps: float = 1e-6, **shared: Any) -> None:
        super().__init__(*args, **shared)
        self.alpha, self.eps = alpha, eps
        self.tree = SumTree(self.size)
        self.largest = 1.0

    def add(self, rollout: Rollout) -> np.ndarray:
        old = self.tail
        index = super().add(rollout)
        self.tree.update(self.index(old, self.tail), 0.0)
        self.tree.update(index, self.valid[index] * self.largest)
        return index

    def draw(self, count: int, generator: torch.Generator) -> np.ndarray:
        """Draws the indices of steps, `[count]`: one from each of `count` equal shares of Σ p^α."""
        offset = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
        return self.tree.find((np.arange(count) + offset) / count * self.tree.total)

    def weights(self, index: np.ndarray, beta: float) -> Tensor:
        """Importance weights (N P(i))^-β of steps `[N]`, divided by the largest of them.

        What is drawn often counts less. β = 1 makes up for it wholly.
        """
        priority = self.tree[index]
        weight = (priority / priority.min()) ** -beta
        return torch.from_numpy(weight.astype(np.float32))

    def update(self, index: np.ndarray, error: np.ndarray) -> None:
        """Sets the priorities of steps `[N]` by their latest errors δ."""
        # A step with an infinite priority would always be drawn.
        size = np.minimum(np.abs(error.astype(np.float64)), LARGEST_FLOAT)
        priority = (size + self.eps) ** self.alpha
        self.largest = max(self.largest, float(priority.max()))
        self.tree.update(index, priority)

    def state_dict(self) -> dict[str, Any]:
        live = self.tree[self.index(self.tail, self.head)]
        return {**super().state_dict(), "priorities": live, "largest": self.largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        priorities, self.largest = np.asarray(state["priorities"]), float(state["largest"])
        sound = (priorities >= 0).all() and np.isfinite(priorities).all()
        if not (sound and 0 < self.largest < np.inf):
            raise ValueError("the replay holds priorities that are no numbers from 0 on")
        self.tree.update(self.index(self.tail, self.head), priorities)
