"""A replay of sequences, each with the memory that the policy had at its start.

rollout    | k            | k + 1        | k + 2        |
memory     m_k            m_{k+1}        m_{k+2}
sequence   |<------------- of k ------------->|            L steps, from the start of rollout k

replay = SequenceReplay(100_000, slots, layout, every=8, length=40, state=policy.initial_state(1))
replay.add(rollout)                                     # T = every steps
rollout = replay.sequences(replay.draw(16, generator), 40)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from poise.sampling.prioritized import PrioritizedReplay
from poise.sampling.rollout import Rollout

ETA = 0.9
"""η: a sequence's priority is η max |δ| + (1 - η) mean |δ| of its steps, as in R2D2."""


class SequenceReplay(PrioritizedReplay):
    """A replay that draws sequences of L steps, in proportion to their priorities.

    A sequence is named by the index of its first step, where a rollout began. Its priority is kept
    there; steps within a rollout have none, and sequences whose last step has yet to come neither.

    Args:
        args, shared: as for `Replay`.
        every: T, the steps of a rollout.
        length: L.
        state: a memory of one slot, `[1, ...]` per part, for shapes and types.
        alpha, eps: as for `PrioritizedReplay`; α = 0 draws all sequences alike.

    Attributes:
        memories: the memory at the start of each rollout, `[rollouts * B, ...]` per part.
        begins: whether an episode begins there, `[rollouts * B]`.
    """

    def __init__(
        self, *args: Any, every: int, length: int, state: tuple[torch.Tensor, ...], **shared: Any
    ) -> None:
        super().__init__(*args, **shared)
        self.every, self.length = every, length
        # The ring's rows need be no multiple of T: memories have a ring of their own.
        self._count = self.rows // every + 2
        shape = (self._count * self.slots,)
        self.memories = [np.zeros(shape + part.shape[1:], _numpy(part).dtype) for part in state]
        self.begins = np.zeros(shape, np.bool_)
        self._starts = np.zeros(self.size, np.int64)  # of a step's row, counted from the first

    def add(self, rollout: Rollout) -> np.ndarray:
        start, before = self.head, self.tail
        index = super(PrioritizedReplay, self).add(rollout)
        self._starts[index] = np.repeat(np.arange(start, self.head), self.slots)
        at = self._memory_at(np.arange(start * self.slots, (start + 1) * self.slots))
        for ring, part in zip(self.memories, rollout.state, strict=True):
            ring[at] = _numpy(part)
        self.begins[at] = rollout.first[0].numpy()
        self.tree.update(self.index(before, self.tail), 0.0)
        self.tree.update(index, 0.0)
        # The sequences that are complete by now, and were not before.
        last = (self.head - self.length) // self.every
        first = max((start - self.length) // self.every + 1, -(-self.tail // self.every))
        for k in range(first, last + 1):
            self.tree.update(self.index(k * self.every, k * self.every + 1), self.largest)
        return index

    def _memory_at(self, step: np.ndarray) -> np.ndarray:
        """Where the memories of sequences are that begin with these steps, counted from the first
        step that was ever added."""
        row, slot = np.divmod(step, self.slots)
        found: np.ndarray = row // self.every % self._count * self.slots + slot
        return found

    @property
    def drawable(self) -> bool:
        """Whether there is a sequence to draw."""
        return self.tree.total > 0

    def sequences(self, start: np.ndarray, steps: int) -> Rollout:
        """As `Replay.sequences`, with the memory at the start; what came back otherwise, after an
        environment was lost, does not count."""
        rollout = super().sequences(start, steps)
        at = self._memory_at(self._starts[start] * self.slots + start % self.slots)
        rollout.state = tuple(torch.from_numpy(ring[at]) for ring in self.memories)
        rollout.first[0] = torch.from_numpy(self.begins[at])
        # A lost life, too, is a step that terminated; but the memory went on in acting.
        rollout.first[1:] = rollout.valid == 0
        for t, b, _ in rollout.final:
            rollout.valid[t, b], rollout.first[t + 1, b] = 0.0, True
        return rollout

    def state_dict(self) -> dict[str, Any]:
        memories = [ring.copy() for ring in self.memories]
        return {**super().state_dict(), "memories": memories, "memory_begins": self.begins.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._starts[self.index(self.tail, self.head)] = np.repeat(
            np.arange(self.tail, self.head), self.slots
        )
        self.begins[:] = state["memory_begins"]
        for ring, kept in zip(self.memories, state["memories"], strict=True):
            ring[:] = kept


def _numpy(part: torch.Tensor) -> np.ndarray:
    found: np.ndarray = part.numpy(force=True)
    return found


def sequence_priorities(error: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """η max |δ| + (1 - η) mean |δ| of sequences, `[B]`, over the steps that count.

    Args:
        error: δ, `[M, B]`.
        valid: 1 for steps that count, else 0, `[M, B]`.
    """
    size = np.abs(error) * valid
    mean = size.sum(0) / np.maximum(valid.sum(0), 1)
    found: np.ndarray = ETA * size.max(0) + (1 - ETA) * mean
    return found
