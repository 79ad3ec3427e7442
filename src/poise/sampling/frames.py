"""Stacks of pictures, of which each picture is kept once.

An observation `[C, H, W]` of an environment that stacks frames is the observation before it, moved
on by one frame. A ring therefore keeps the latest frame of each row, and puts the others of a stack
together from the rows before, back to where the stack begins: at an episode's first observation, or
wherever else a stack is not its predecessor's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from poise.errors import ConfigError
from poise.spaces.layout import Layout


def stacked_leaves(layout: Layout, frame_stack: int) -> set[str]:
    """Names of the leaves that are stacks of so many frames: those of three axes whose first is a
    multiple of it."""
    if frame_stack == 1:
        return set()
    return {
        leaf.name
        for leaf in layout.leaves
        if len(leaf.shape) == 3 and leaf.shape[0] % frame_stack == 0
    }


class Frames:
    """A ring of stacks `[C, H, W]`; what comes out is to the bit what went in.

    Args:
        stack: frames of an observation.
        rows, slots: of the ring.
        shape: `(C, H, W)` of an observation; a frame has C / stack planes.
        dtype: of its numbers.

    Attributes:
        latest: the latest frame of each row, `[rows * slots, C / stack, H, W]`.
        begins: where a stack is not its predecessor's, `[rows * slots]` bool.
        earlier: the earlier frames of those that begin, unless they are all black, by index.
        newest: the stacks of the head, `[slots, C, H, W]`.
    """

    def __init__(
        self, stack: int, rows: int, slots: int, shape: tuple[int, ...], dtype: np.dtype
    ) -> None:
        self.stack, self.slots, self.size = stack, slots, rows * slots
        self.planes = shape[0] // stack
        self.latest = np.zeros((self.size, self.planes, *shape[1:]), dtype)
        self.begins = np.zeros(self.size, np.bool_)
        self.earlier: dict[int, np.ndarray] = {}
        self.newest = np.zeros((slots, *shape), dtype)

    def add(
        self, obs: np.ndarray, written: np.ndarray, start: int, first: np.ndarray, valid: np.ndarray
    ) -> None:
        """Writes the T + 1 rows of a rollout.

        Args:
            obs: `[T + 1, B, C, H, W]`; row 0 is the head, which has been written before, unless it
                has changed since.
            written: indices of its rows, `[(T + 1) * B]`.
            start: rows before these; 0 if they are the first.
            first: `[T + 1, B]`, whether an episode starts with the observation.
            valid: `[T, B]`, whether the step counts.

        Raises:
            ConfigError: amid an episode, an observation's earlier frames are not those of the one
                before.
        """
        axes = (2, 3, 4)
        jumps = (obs[1:, :, : -self.planes] != obs[:-1, :, self.planes :]).any(axes)
        if (jumps & valid & ~first[1:]).any():
            raise ConfigError(
                f"frame_stack={self.stack} is not what the observations are: the earlier pictures"
                " of one are not those of the one before it. Set frame_stack=1."
            )
        changed = (
            np.ones(self.slots, np.bool_) if not start else (obs[0] != self.newest).any((1, 2, 3))
        )
        self.latest[written] = obs[:, :, -self.planes :].reshape(-1, *self.latest.shape[1:])
        begins = np.concatenate(
            [changed[None] | self.begins[written[: self.slots]], jumps | first[1:]]
        )
        self.begins[written] = begins.ravel()
        stale = written if self.earlier else written[:0]
        kept = set(written[: self.slots][~changed].tolist())
        for i in stale.tolist():
            if i not in kept:
                self.earlier.pop(i, None)
        for t, b in np.argwhere(np.concatenate([changed[None], begins[1:]])).tolist():
            before = obs[t, b, : -self.planes]
            if before.any():
                self.earlier[int(written[t * self.slots + b])] = before.copy()
        self.newest = obs[-1].copy()

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """The stacks at `index[N]`, `[N, C, H, W]`."""
        found = np.zeros(
            (len(index), self.stack * self.planes, *self.latest.shape[2:]), self.latest.dtype
        )
        frames = found.reshape(len(index), self.stack, *self.latest.shape[1:])
        going, at = np.arange(len(index)), index
        for i in range(self.stack - 1, -1, -1):
            frames[going, i] = self.latest[at]
            begins = self.begins[at]
            if self.earlier and i:
                for n, where in zip(going[begins].tolist(), at[begins].tolist(), strict=True):
                    if where in self.earlier:
                        found[n, : i * self.planes] = self.earlier[where][-i * self.planes :]
            going, at = going[~begins], (at[~begins] - self.slots) % self.size
        return found

    def state_dict(self) -> dict[str, Any]:
        """The earlier frames; the rest is the ring's."""
        values = list(self.earlier.values())
        empty = np.zeros((0, *self.newest.shape[1:]), self.newest.dtype)[:, : -self.planes]
        return {
            "at": np.array(list(self.earlier), np.int64),
            "earlier": np.stack(values) if values else empty,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.earlier = {
            at: np.array(state["earlier"][i]) for i, at in enumerate(state["at"].tolist())
        }
