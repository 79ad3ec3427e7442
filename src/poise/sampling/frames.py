"""Frame stacks for a replay, of which each frame is kept once.

An observation `[C, H, W]` of an environment that stacks frames is the observation before it, moved
on by one frame. A ring therefore keeps only the latest frame of each row, and takes the others of a
stack from the rows before. It goes back to where the stack begins: at an episode's first
observation, or wherever else a stack does not continue the one before.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from poise.errors import ConfigError
from poise.spaces.layout import Layout


def stacked_leaves(layout: Layout, frame_stack: int) -> set[str]:
    """The names of the leaves that are stacks of so many frames.

    These are the leaves with three axes of which the first is a multiple of `frame_stack`.
    """
    if frame_stack == 1:
        return set()
    pictures = [leaf for leaf in layout.leaves if len(leaf.shape) == 3]
    return {leaf.name for leaf in pictures if leaf.shape[0] % frame_stack == 0}


class Frames:
    """A ring of stacks `[C, H, W]`; what comes out is to the bit what went in.

    Args:
        stack: how many frames make an observation.
        rows, slots: of the ring.
        shape: `(C, H, W)` of an observation; a frame has C / stack planes.
        dtype: of its numbers.

    Attributes:
        latest: the latest frame of each row, `[rows * slots, C / stack, H, W]`.
        begins: whether a stack does not continue the one before, `[rows * slots]` bool.
        earlier: the earlier frames of those that do not, by index; left out if all are black.
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
            obs: `[T + 1, B, C, H, W]`. Row 0 is the head, which has been written before; it is
                written again if it has changed since.
            written: where the rows go in the ring, `[(T + 1) * B]`.
            start: how many rows were added before these; 0 if they are the first.
            first: whether an episode starts with the observation, `[T + 1, B]`.
            valid: whether the step counts, `[T, B]`.

        Raises:
            ConfigError: within an episode, the earlier frames of an observation are not those of
                the one before.
        """
        axes = (2, 3, 4)
        jumps = (obs[1:, :, : -self.planes] != obs[:-1, :, self.planes :]).any(axes)
        if (jumps & valid & ~first[1:]).any():
            raise ConfigError(
                f"frame_stack={self.stack} is not what the observations are: "
                "the earlier pictures of one are not those of the one before it. "
                "Set frame_stack=1."
            )
        head = written[: self.slots]
        changed = np.ones(self.slots, np.bool_)
        if start:
            changed = (obs[0] != self.newest).any((1, 2, 3))
        self.latest[written] = obs[:, :, -self.planes :].reshape(-1, *self.latest.shape[1:])
        begins = np.concatenate([changed[None] | self.begins[head], jumps | first[1:]])
        self.begins[written] = begins.ravel()
        if self.earlier:
            for i in np.setdiff1d(written, head[~changed]).tolist():
                self.earlier.pop(i, None)
        for t, b in np.argwhere(np.concatenate([changed[None], begins[1:]])).tolist():
            before = obs[t, b, : -self.planes]
            if before.any():
                self.earlier[int(written[t * self.slots + b])] = before.copy()
        self.newest = obs[-1].copy()

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """The stacks at `index[N]`, `[N, C, H, W]`."""
        shape = (len(index), self.stack * self.planes, *self.latest.shape[2:])
        found = np.zeros(shape, self.latest.dtype)
        frames = found.reshape(len(index), self.stack, *self.latest.shape[1:])
        going, at = np.arange(len(index)), index  # the stacks that are not complete, and their rows
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
        """The earlier frames; a replay saves the rest with its ring."""
        values = list(self.earlier.values())
        empty = np.zeros((0, *self.newest.shape[1:]), self.newest.dtype)[:, : -self.planes]
        return {
            "at": np.array(list(self.earlier), np.int64),
            "earlier": np.stack(values) if values else empty,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        pairs = zip(state["at"].tolist(), state["earlier"], strict=True)
        self.earlier = {at: np.array(frames) for at, frames in pairs}
