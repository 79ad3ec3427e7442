"""The memory that a replay takes, and how its rows are divided into segments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from poise.sampling.frames import stacked_leaves
from poise.sampling.rollout import stored_dtype
from poise.sampling.segments import segment_rows
from poise.spaces.layout import Layout

ActionKind = tuple[tuple[int, ...], torch.dtype]
"""The shape and the type of an action."""

REWARD_AND_FLAGS = 4 + 3
"""The bytes of a reward (float32) and of `terminated`, `truncated` and `valid`."""


def step_bytes(
    layout: Layout,
    *,
    action: ActionKind = ((), torch.int64),
    frame_stack: int = 1,
    wide: bool = False,
) -> int:
    """The bytes that a step takes in a replay; arguments as for `Replay`."""
    stacked = stacked_leaves(layout, frame_stack)
    total = math.prod(action[0]) * action_dtype(action).itemsize + REWARD_AND_FLAGS
    for leaf in layout.leaves:
        size = math.prod(leaf.shape) * leaf_dtype(leaf.dtype.name, wide=wide).itemsize
        total += size // frame_stack + 1 if leaf.name in stacked else size
    return total


def replay_bytes(
    capacity: int, slots: int, layout: Layout, *, frame_stack: int = 1, **kinds: Any
) -> int:
    """The bytes that a replay takes when it is full; arguments as for `Replay`."""
    rows = ring_rows(capacity, slots, layout, frame_stack=frame_stack, **kinds)[1]
    return rows * slots * step_bytes(layout, frame_stack=frame_stack, **kinds)


def ring_rows(
    capacity: int,
    slots: int,
    layout: Layout,
    segment: int = 0,
    *,
    frame_stack: int = 1,
    **kinds: Any,
) -> tuple[int, int, int]:
    """How many rows may be drawn from, how many the ring has, and how many make a segment.

    Raises:
        ValueError: a segment cannot have so many rows.
    """
    live = -(-capacity // slots)
    needed = live + (frame_stack if stacked_leaves(layout, frame_stack) else 1)
    size = step_bytes(layout, frame_stack=frame_stack, **kinds)
    length = segment or segment_rows(needed, needed * slots * size)
    if not 0 < length <= needed:
        raise ValueError(f"a segment of a replay has {length} of its {needed} rows")
    return live, -(-needed // length) * length, length


def action_dtype(action: ActionKind) -> np.dtype:
    """The type that actions are stored as."""
    return np.dtype(str(action[1]).removeprefix("torch."))


def leaf_dtype(dtype: str, *, wide: bool) -> np.dtype:
    """The type that a leaf of this type is stored as; see `stored_dtype`."""
    return np.dtype(str(stored_dtype(dtype, wide=wide)).removeprefix("torch."))
