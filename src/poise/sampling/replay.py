"""Replay: the rows of rollouts in a ring, from which steps are drawn again and again (Lin 1992).

    row           tail             head - 2     head - 1     head
    obs           o                o            o            where the newest step led to
    action, ...   a, r, ...        a, r, ...    a, r, ...    (not yet)

An observation is kept once: that of the row after a step is where the step led to. Where an
episode's last observation is not the next row (SAME_STEP autoreset, or an episode that a failure
cut), it is kept apart, if it is needed. Rows that only reset are kept but never drawn.

    replay = Replay(100_000, slots, layout)
    replay.add(rollout)                                  # overwrites the oldest rows
    batch = replay.batch(replay.draw(32, generator), n_step=3, gamma=0.99)
    rollout = replay.sequences(replay.draw_starts(32, 20, generator), 20)    # for policies with a memory
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poise.sampling.frames import Frames, stacked_leaves
from poise.sampling.rollout import Leaves, Rollout, stored_dtype
from poise.sampling.segments import Segment, segment_rows
from poise.spaces.layout import Layout

ActionKind = tuple[tuple[int, ...], torch.dtype]
"""Shape and type of an action."""

_FLAGS = ("terminated", "truncated", "valid")


@dataclass
class Batch:
    """N steps drawn from a replay, each with what came of it n steps later.

    Attributes:
        obs: leaves `[N, ...]`, where the steps begin.
        action: `[N, ...]`, as the distribution had it.
        reward: Σ γᵏ r of the n steps, fewer where the episode or what is kept of it ends, `[N]`.
        next_obs: leaves `[N, ...]`, where the last of these steps led to.
        discount: what a value there is worth here, `[N]`: γⁿ, or 0 after a true end. A time limit
            is none.
        index: where the steps are in the ring, `[N]`.
    """

    obs: Leaves
    action: Tensor
    reward: Tensor
    next_obs: Leaves
    discount: Tensor
    index: np.ndarray

    def to(self, device: torch.device) -> Batch:
        """The same on a device; `index` stays."""
        if device.type == "cpu":
            return self
        obs, after = (
            {name: leaf.to(device) for name, leaf in part.items()}
            for part in (self.obs, self.next_obs)
        )
        action, reward, discount = (
            part.to(device) for part in (self.action, self.reward, self.discount)
        )
        return Batch(obs, action, reward, after, discount, self.index)


class Replay:
    """The latest steps of all slots.

    Args:
        capacity: steps to keep; rows that only reset count as steps.
        slots: B.
        layout: of the single observation space.
        action: shape and type of an action, as the distribution has it.
        frame_stack: pictures `[C, H, W]` whose C is a multiple of it are stacks of so many frames
            along the first axis, the latest last. Of them, only the latest is kept, and the stack
            is put together again when it is drawn.
        segment: rows of a segment, as a checkpoint has them; 0 derives them.

    Attributes:
        live: rows that may be drawn from, when the ring is full.
        rows: rows of the ring; a few more, for the head, for stacks of the oldest row, and to make
            whole segments.
        head: rows added so far.
        steps: how many of the live rows' steps count.
    """

    def __init__(
        self,
        capacity: int,
        slots: int,
        layout: Layout,
        *,
        action: ActionKind = ((), torch.int64),
        frame_stack: int = 1,
        wide: bool = False,
        segment: int = 0,
    ) -> None:
        self.slots, self.layout = slots, layout
        kinds: dict[str, Any] = {"action": action, "frame_stack": frame_stack, "wide": wide}
        self.live, self.rows, self.segment = _rows(capacity, slots, layout, segment, **kinds)
        self.size = self.rows * slots
        self.head = self.steps = 0
        stacked = stacked_leaves(layout, frame_stack)
        shapes = {
            leaf.name: (leaf.shape, _numpy_dtype(leaf.dtype.name, wide=wide))
            for leaf in layout.leaves
        }
        self.frames = {n: Frames(frame_stack, self.rows, slots, *shapes.pop(n)) for n in stacked}
        # From the operating system as zeros, which take no memory before they are written.
        self.obs = {
            name: np.zeros((self.size, *shape), dtype) for name, (shape, dtype) in shapes.items()
        }
        self.action = np.zeros((self.size, *action[0]), _action_dtype(action))
        self.reward = np.zeros(self.size, np.float32)
        self.terminated, self.truncated, self.valid = (
            np.zeros(self.size, np.bool_) for _ in _FLAGS
        )
        self.first = np.zeros(slots, np.bool_)  # of the head
        self.finals: dict[int, dict[str, np.ndarray]] = {}
        self.segments: dict[int, Segment] = {}

    # --- writing
    # ------------------------------------------------------------------------------------------------

    def add(self, rollout: Rollout) -> np.ndarray:
        """Adds a rollout of at most `live` rows.

        Returns:
            The indices of its steps in the ring, `[T * B]`.

        Raises:
            ConfigError: observations are not stacks of `frame_stack` frames.
        """
        steps, start = rollout.steps, self.head
        first, valid = rollout.first.numpy(), rollout.valid.numpy() > 0
        if start:
            self._cut(first[0] & ~self.first)
        written = self.index(start, start + steps + 1)
        index, head = written[: -self.slots], written[-self.slots :]
        if self.finals:
            for i in written[
                self.slots :
            ].tolist():  # the first row is the head, which has been written
                self.finals.pop(i, None)
        if start + steps > self.live:
            self.steps -= int(
                self.valid[self.index(max(0, start - self.live), start + steps - self.live)].sum()
            )
        for name, ring in self.obs.items():
            ring[written] = rollout.obs[name].numpy().reshape(len(written), *ring.shape[1:])
        for name, frames in self.frames.items():
            frames.add(rollout.obs[name].numpy(), written, start, first, valid)
        self.action[index] = rollout.action.numpy().reshape(len(index), *self.action.shape[1:])
        self.reward[index] = rollout.reward.numpy().ravel()
        self.terminated[index] = rollout.terminated.numpy().ravel()
        self.truncated[index] = rollout.truncated.numpy().ravel()
        self.valid[index] = valid.ravel()
        self.valid[head] = False  # no step begins there yet
        for t, b, leaves in rollout.final:
            if not rollout.terminated[t, b]:  # else nobody asks what came after
                self.finals[int(index[t * self.slots + b])] = {
                    k: v.numpy().copy() for k, v in leaves.items()
                }
        self.first = first[-1].copy()
        self.head += steps
        self.steps += int(valid.sum())
        return index

    def _cut(self, slots: np.ndarray) -> None:
        """Ends the episodes of slots that came back with another one: an environment that could not be restored, or an
        iteration that was broken off. The head still holds where their last step led to."""
        for b in np.flatnonzero(slots).tolist():
            last, head = (int(self.index(row, row + 1)[b]) for row in (self.head - 1, self.head))
            self.truncated[last] = True
            self.finals[last] = {k: v[0] for k, v in self._rows_of(np.array([head])).items()}

    def index(self, start: int, end: int) -> np.ndarray:
        """Where the steps of rows from `start` to `end` are, counted from the first ever added; `[(end - start) B]`."""
        found: np.ndarray = np.arange(start * self.slots, end * self.slots) % self.size
        return found

    @property
    def tail(self) -> int:
        """The oldest row that may be drawn."""
        return max(0, self.head - self.live)

    # --- reading ------------------------------------------------------------------------------------------------

    def draw(self, count: int, generator: torch.Generator) -> np.ndarray:
        """Indices `[count]` of steps that count, each as likely as the others, and with replacement."""
        low, high = self.tail * self.slots, self.head * self.slots
        index: np.ndarray = (
            torch.randint(low, high, (count,), generator=generator).numpy() % self.size
        )
        while True:
            wrong = np.flatnonzero(~self.valid[index])
            if not len(wrong):
                return index
            index[wrong] = (
                torch.randint(low, high, (len(wrong),), generator=generator).numpy() % self.size
            )

    def batch(
        self,
        index: np.ndarray,
        *,
        n_step: int = 1,
        gamma: float = 1.0,
        rescale: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Batch:
        """The steps at `index[N]`, with n-step rewards.

        Args:
            index: from `draw`.
            n_step: n.
            gamma: γ.
            rescale: what becomes of rewards before they are summed.
        """
        rewards = (lambda at: rescale(self.reward[at])) if rescale else self.reward.__getitem__
        last, reward, going = index, rewards(index), np.ones(len(index), np.bool_)
        worth = np.full(len(index), gamma, np.float32)
        for _ in range(n_step - 1):
            after = (last + self.slots) % self.size
            # A row that only resets begins no step; neither does the head.
            going = going & ~(self.terminated[last] | self.truncated[last]) & self.valid[after]
            last = np.where(going, after, last)
            reward = reward + going * worth * rewards(last)
            worth = np.where(going, worth * gamma, worth).astype(np.float32, copy=False)
        worth[self.terminated[last]] = 0.0
        following = self._rows_of((last + self.slots) % self.size)
        if self.finals:
            for i, at in enumerate(last.tolist()):
                final = self.finals.get(at)
                if final is not None:
                    for name, value in final.items():
                        following[name][i] = value
        return Batch(
            obs=_tensors(self._rows_of(index)),
            action=torch.from_numpy(self.action[index]),
            reward=torch.from_numpy(reward),
            next_obs=_tensors(following),
            discount=torch.from_numpy(worth),
            index=index,
        )

    def draw_starts(self, count: int, steps: int, generator: torch.Generator) -> np.ndarray:
        """Indices `[count]` of rows that at least `steps` rows follow, each as likely as the others."""
        low, high = self.tail * self.slots, (self.head - steps + 1) * self.slots
        drawn: np.ndarray = (
            torch.randint(low, high, (count,), generator=generator).numpy() % self.size
        )
        return drawn

    def sequences(self, start: np.ndarray, steps: int) -> Rollout:
        """Consecutive rows from each of `start[B]` on, as the slots of a rollout `[T, B]`.

        They run over ends of episodes, as a rollout does. A memory begins empty at row 0, where `first` says so.
        Probabilities of the actions are not kept.
        """
        count = len(start)
        index = (start + self.slots * np.arange(steps + 1)[:, None]) % self.size
        at = index[:-1]
        valid, done = self.valid[at], self.terminated[at] | self.truncated[at]
        # A row that only reset leads to an episode's first; where none does, the row after an end begins the next.
        first = np.concatenate(
            [np.ones((1, count), np.bool_), ~valid | (done & self.valid[index[1:]])]
        )
        leaves = self._rows_of(index.ravel())
        finals = [
            (t, b, int(at[t, b])) for t, b in np.argwhere(np.isin(at, list(self.finals))).tolist()
        ]
        return Rollout(
            obs=_tensors(
                {name: leaf.reshape(*index.shape, *leaf.shape[1:]) for name, leaf in leaves.items()}
            ),
            action=torch.from_numpy(self.action[at]),
            log_prob=torch.zeros(at.shape),
            reward=torch.from_numpy(self.reward[at]),
            terminated=torch.from_numpy(self.terminated[at]),
            truncated=torch.from_numpy(self.truncated[at]),
            valid=torch.from_numpy(valid.astype(np.float32)),
            first=torch.from_numpy(first),
            ids=torch.arange(count),
            final=[(t, b, _tensors(self.finals[i])) for t, b, i in finals],
        )

    def _rows_of(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Observations at `index[N]`, as leaves `[N, ...]` in the layout's order."""
        return {
            leaf.name: (
                self.frames[leaf.name][index]
                if leaf.name in self.frames
                else self.obs[leaf.name][index]
            )
            for leaf in self.layout.leaves
        }

    # --- saving -------------------------------------------------------------------------------------------------

    def _rings(self) -> dict[str, np.ndarray]:
        """All arrays of the ring, by name."""
        rings = {f"obs/{name}": ring for name, ring in self.obs.items()}
        for name, frames in self.frames.items():
            rings |= {f"obs/{name}": frames.latest, f"begins/{name}": frames.begins}
        return {
            **rings,
            "action": self.action,
            "reward": self.reward,
            **{n: getattr(self, n) for n in _FLAGS},
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything, with rows that will not change any more as segments."""
        # The last row may yet be cut, which is why a segment that ends with it is not closed.
        closed = (self.head - 1) // self.segment if self.head else 0
        oldest = self.tail - self._reach
        self.segments = {
            n: self.segments.get(n) or Segment(f"replay-{n:06d}", lambda n=n: self._segment(n))  # type: ignore[misc]
            for n in range(max(0, oldest) // self.segment, closed)
        }
        rest = self.index(closed * self.segment, self.head + 1)
        return {
            "slots": self.slots,
            "segment": self.segment,
            "head": self.head,
            "first": self.first.copy(),
            "segments": list(self.segments.values()),
            "rest": {name: ring[rest] for name, ring in self._rings().items()},
            "finals": _pack(self.finals),
            "stacks": {name: frames.state_dict() for name, frames in self.frames.items()},
        }

    @property
    def _reach(self) -> int:
        """Rows before the tail that the stacks of its observations take frames from."""
        return max((frames.stack - 1 for frames in self.frames.values()), default=0)

    def _segment(self, number: int) -> dict[str, np.ndarray]:
        """Views of the ring where a segment is, or was."""
        start = number * self.segment % self.rows
        where = slice(start * self.slots, (start + self.segment) * self.slots)
        return {name: ring[where] for name, ring in self._rings().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.head, self.first = state["head"], np.array(state["first"])
        if self.first.dtype != np.bool_ or self.first.shape != (self.slots,):
            raise ValueError(f"'replay/first' is {self.first.dtype} {list(self.first.shape)}")
        self.segments = {
            int(segment.name.rpartition("-")[2]): segment for segment in state["segments"]
        }
        for n, segment in self.segments.items():
            arrays, target = segment.arrays(), self._segment(n)
            for name, ring in target.items():
                ring[:] = arrays[name]
            segment.arrays = lambda n=n: self._segment(n)  # type: ignore[misc]
        closed = (self.head - 1) // self.segment if self.head else 0
        rest = self.index(closed * self.segment, self.head + 1)
        for name, ring in self._rings().items():
            ring[rest] = state["rest"][name]
        self.finals = _unpack(state["finals"])
        for name, frames in self.frames.items():
            frames.load_state_dict(state["stacks"][name])
            frames.newest = frames[self.index(self.head, self.head + 1)]
        self.steps = int(self.valid[self.index(self.tail, self.head)].sum())


def step_bytes(
    layout: Layout,
    *,
    action: ActionKind = ((), torch.int64),
    frame_stack: int = 1,
    wide: bool = False,
) -> int:
    """Bytes that a step takes in a replay."""
    stacked = stacked_leaves(layout, frame_stack)
    total = math.prod(action[0]) * _action_dtype(action).itemsize + 4 + len(_FLAGS)
    for leaf in layout.leaves:
        size = math.prod(leaf.shape) * _numpy_dtype(leaf.dtype.name, wide=wide).itemsize
        total += size // frame_stack + 1 if leaf.name in stacked else size
    return total


def replay_bytes(
    capacity: int, slots: int, layout: Layout, *, frame_stack: int = 1, **kinds: Any
) -> int:
    """Bytes that a replay of this capacity takes when it is full; `kinds` as for `Replay`."""
    rows = _rows(capacity, slots, layout, frame_stack=frame_stack, **kinds)[1]
    return rows * slots * step_bytes(layout, frame_stack=frame_stack, **kinds)


def _rows(
    capacity: int,
    slots: int,
    layout: Layout,
    segment: int = 0,
    *,
    frame_stack: int = 1,
    **kinds: Any,
) -> tuple[int, int, int]:
    """How many rows may be drawn from, how many the ring has, and how many make a segment."""
    live = -(-capacity // slots)
    needed = live + (frame_stack if stacked_leaves(layout, frame_stack) else 1)
    size = step_bytes(layout, frame_stack=frame_stack, **kinds)
    length = segment or segment_rows(needed, needed * slots * size)
    if not 0 < length <= needed:
        raise ValueError(f"a segment of a replay has {length} of its {needed} rows")
    return live, -(-needed // length) * length, length


def _action_dtype(action: ActionKind) -> np.dtype:
    return np.dtype(str(action[1]).removeprefix("torch."))


def _numpy_dtype(dtype: str, *, wide: bool) -> np.dtype:
    return np.dtype(str(stored_dtype(dtype, wide=wide)).removeprefix("torch."))


def _tensors(leaves: dict[str, np.ndarray]) -> Leaves:
    return {name: torch.from_numpy(leaf) for name, leaf in leaves.items()}


def _pack(finals: dict[int, dict[str, np.ndarray]]) -> dict[str, Any]:
    """A sparse list of observations as arrays: where they are, and their leaves stacked."""
    names = next(iter(finals.values())) if finals else {}
    leaves = {name: np.stack([leaf[name] for leaf in finals.values()]) for name in names}
    return {"at": np.array(list(finals), np.int64), "leaves": leaves}


def _unpack(packed: dict[str, Any]) -> dict[int, dict[str, np.ndarray]]:
    leaves = packed["leaves"]
    return {
        at: {name: np.array(leaf[i]) for name, leaf in leaves.items()}
        for i, at in enumerate(packed["at"].tolist())
    }
