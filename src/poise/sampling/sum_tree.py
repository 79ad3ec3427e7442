"""A sum tree over priorities, for drawing in proportion to them.

See Schaul et al. 2016 (arXiv 1511.05952, appendix B.2.1). Each node holds the sum of its children.
With 64 children to a node instead of two, a million leaves are four levels deep, and a whole batch
goes down a level in five operations of NumPy.
"""

from __future__ import annotations

import numpy as np

FAN_OUT = 64
"""How many children a node has."""

_BELOW_ONE = 1 - 2**-52


class SumTree:
    """Priorities of `size` leaves, all 0 at first.

    Attributes:
        levels: the nodes, level by level from the leaves to the children of the root, in float64;
            each level is padded with zeros to a multiple of `FAN_OUT`.
    """

    def __init__(self, size: int) -> None:
        self.levels: list[np.ndarray] = []
        while True:
            size = -(-size // FAN_OUT)
            self.levels.append(np.zeros(size * FAN_OUT))
            if size == 1:
                break

    @property
    def total(self) -> float:
        """The sum of all priorities."""
        return float(self.levels[-1].sum())

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """The priorities of leaves `[N]`."""
        found: np.ndarray = self.levels[0][index]
        return found

    def update(self, index: np.ndarray, priority: np.ndarray | float) -> None:
        """Sets the priorities of leaves `[N]`; if a leaf is named twice, the last one counts.

        Nodes are summed anew from their children, so that rounding errors never add up: a tree that
        is made from the same leaves is the same to the bit.
        """
        self.levels[0][index] = priority
        for below, level in zip(self.levels, self.levels[1:], strict=False):
            index = index // FAN_OUT
            if len(index) > 1:
                # Neighbours have the same parent, which need be summed only once.
                index = index[np.flatnonzero(np.diff(index, prepend=-1))]
            level[index] = below.reshape(-1, FAN_OUT)[index].sum(1)

    def find(self, mass: np.ndarray) -> np.ndarray:
        """Finds the leaves where the running sum of priorities first exceeds each of `mass[N]`.

        No leaf of priority 0 is ever found, unless all are.

        Args:
            mass: numbers from 0 to `total`, `[N]`.
        """
        node = np.zeros(len(mass), np.int64)
        rows = np.arange(len(mass))
        for level in reversed(self.levels):
            sums = level.reshape(-1, FAN_OUT)[node].cumsum(1)
            # Rounding may have led beyond the last child.
            mass = np.minimum(mass, sums[:, -1] * _BELOW_ONE)
            child = (sums <= mass[:, None]).sum(1)
            mass = mass - np.where(child, sums[rows, child - 1], 0.0)
            node = node * FAN_OUT + child
        return node
