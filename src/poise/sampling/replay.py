"""Replay: the rows of rollouts in a ring, from which steps are drawn again and again (Lin 1992).

    row           tail             head - 2     head - 1     head
    obs           obs              obs          obs          where the newest step led to
    action, ...   a, r, ...        a, r, ...    a, r, ...    (not yet)

An observation is kept once: the next observation of a step is that of the next row. If an episode's
last observation is not in the next row (SAME_STEP autoreset, or an episode that a failure cut), it
is kept apart, if it is needed. Rows that only reset are kept but never drawn.

    replay = Replay(100_000, slots, layout)
    replay.add(rollout)                                  # overwrites the oldest rows
    batch = replay.batch(replay.draw(32, generator), n_step=3, gamma=0.99)

For policies with a memory, it gives sequences of rows:

    rollout = replay.sequences(replay.draw_starts(32, 20, generator), 20)
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from poise.sampling.frames import Frames, stacked_leaves
from poise.sampling.rollout import Leaves, Rollout
from poise.sampling.segments import Segment
from poise.sampling.sizes import ActionKind, action_dtype, leaf_dtype, ring_rows
from poise.spaces.layout import Layout

_FLAGS = ("terminated", "truncated", "valid")


@dataclass
class Batch:
    """N steps drawn from a replay, each with what came of it n steps later.

    Attributes:
        obs: leaves `[N, ...]`, where the steps begin.
        action: as the distribution sampled it, `[N, ...]`.
        reward: Σ γᵏ r of the n steps, `[N]`; of fewer, if the episode or the replay ends before.
        next_obs: leaves `[N, ...]`, where the last of these steps led to.
        discount: what the value of `next_obs` is worth, `[N]`: γⁿ, or 0 if the episode terminated.
            A time limit does not terminate it.
        index: where the steps are in the ring, `[N]`.
        later: for each of the n - 1 steps that follow, where they are in the ring, `[N]`, and what
            their rewards are worth, `[N]`: γᵏ, or 0 if the episode or the replay ends before.
    """

    obs: Leaves
    action: Tensor
    reward: Tensor
    next_obs: Leaves
    discount: Tensor
    index: np.ndarray
    later: list[tuple[np.ndarray, Tensor]]

    def to(self, device: torch.device) -> Batch:
        """A copy on another device, but for `index` and `later`. On the CPU, the batch itself."""
        if device.type == "cpu":
            return self
        return Batch(
            obs={name: leaf.to(device) for name, leaf in self.obs.items()},
            action=self.action.to(device),
            reward=self.reward.to(device),
            next_obs={name: leaf.to(device) for name, leaf in self.next_obs.items()},
            discount=self.discount.to(device),
            index=self.index,
            later=self.later,
        )


class Replay:
    """The latest steps of all slots, in a ring.

    Args:
        capacity: how many steps to keep; rows that only reset count as steps.
        slots: B.
        layout: of the single observation space.
        action: shape and type of an action, as the distribution samples it.
        frame_stack: pictures `[C, H, W]` whose C is a multiple of it are stacks of so many frames
            along the first axis, the latest last. Only the latest of them is kept, and the stack is
            put together again when it is drawn.
        wide: whether float64 observations are stored as float64.
        segment: the rows of a segment, if a checkpoint has them already; 0 derives them.

    Attributes:
        live: how many rows may be drawn from, when the ring is full.
        rows: how many rows the ring has: a few more, for the head, for stacks of the oldest row,
            and to make whole segments.
        head: how many rows have been added so far.
        steps: how many steps of the live rows count.
        finals: last observations that are not in the next row, by the index of the step.
        keeps_ends: whether those of terminated episodes are kept, too.
    """

    keeps_ends: ClassVar[bool] = False

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
        self.live, self.rows, self.segment = ring_rows(capacity, slots, layout, segment, **kinds)
        self.size = self.rows * slots
        self.head = self.steps = 0
        stacked = stacked_leaves(layout, frame_stack)
        self.frames: dict[str, Frames] = {}
        self.obs: dict[str, np.ndarray] = {}
        # Zeros come from the operating system, and take no memory before they are written.
        for leaf in layout.leaves:
            dtype = leaf_dtype(leaf.dtype.name, wide=wide)
            if leaf.name in stacked:
                self.frames[leaf.name] = Frames(frame_stack, self.rows, slots, leaf.shape, dtype)
            else:
                self.obs[leaf.name] = np.zeros((self.size, *leaf.shape), dtype)
        self.action = np.zeros((self.size, *action[0]), action_dtype(action))
        self.reward = np.zeros(self.size, np.float32)
        self.terminated = np.zeros(self.size, np.bool_)
        self.truncated = np.zeros(self.size, np.bool_)
        self.valid = np.zeros(self.size, np.bool_)
        self.first = np.zeros(slots, np.bool_)  # of the head
        self.finals: dict[int, dict[str, np.ndarray]] = {}
        self.segments: dict[int, Segment] = {}

    # --- writing ---------------------------------------------------------------------------------

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
            # But for the first row, which is the head: what led there is kept.
            for i in written[self.slots :].tolist():
                self.finals.pop(i, None)
        tail = max(0, start + steps - self.live)
        self.steps -= int(self.valid[self.index(self.tail, tail)].sum())
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
            # What a terminated episode led to is worth nothing, unless as a goal.
            if self.keeps_ends or not rollout.terminated[t, b]:
                kept = {name: leaf.numpy().copy() for name, leaf in leaves.items()}
                self.finals[int(index[t * self.slots + b])] = kept
        self.first = first[-1].copy()
        self.head += steps
        self.steps += int(valid.sum())
        return index

    def _cut(self, slots: np.ndarray) -> None:
        """Ends the episodes of slots that came back with another one.

        Their environment could not be restored, or an iteration was broken off. The head still
        holds the observation that their last step led to.
        """
        for b in np.flatnonzero(slots).tolist():
            last = int(self.index(self.head - 1, self.head)[b])
            head = self.index(self.head, self.head + 1)[b : b + 1]
            self.truncated[last] = True
            self.finals[last] = {name: leaf[0] for name, leaf in self._rows_of(head).items()}

    def index(self, start: int, end: int) -> np.ndarray:
        """Where the steps of rows from `start` up to `end` are in the ring, `[(end - start) B]`.

        Rows are counted from the first one that was ever added.
        """
        found: np.ndarray = np.arange(start * self.slots, end * self.slots) % self.size
        return found

    @property
    def tail(self) -> int:
        """The oldest row that may be drawn."""
        return max(0, self.head - self.live)

    # --- reading ---------------------------------------------------------------------------------

    def draw(self, count: int, generator: torch.Generator) -> np.ndarray:
        """Draws the indices of valid steps, `[count]`, uniformly and with replacement."""
        index = self._draw(count, self.tail, self.head, generator)
        while True:
            wrong = np.flatnonzero(~self.valid[index])
            if not len(wrong):
                return index
            index[wrong] = self._draw(len(wrong), self.tail, self.head, generator)

    def _draw(self, count: int, start: int, end: int, generator: torch.Generator) -> np.ndarray:
        """Draws indices in the rows from `start` up to `end`, `[count]`."""
        low, high = start * self.slots, end * self.slots
        drawn = torch.randint(low, high, (count,), generator=generator)
        index: np.ndarray = drawn.numpy() % self.size
        return index

    def batch(
        self,
        index: np.ndarray,
        *,
        n_step: int = 1,
        gamma: float = 1.0,
        rescale: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Batch:
        """Reads steps, with n-step rewards.

        Args:
            index: from `draw`, `[N]`.
            n_step: n.
            gamma: γ.
            rescale: what is done to rewards before they are summed.
        """

        def rewards(at: np.ndarray) -> np.ndarray:
            return self.reward[at] if rescale is None else rescale(self.reward[at])

        last, reward, going = index, rewards(index), np.ones(len(index), np.bool_)
        discount = np.full(len(index), gamma, np.float32)
        later = []
        for _ in range(n_step - 1):
            after = (last + self.slots) % self.size
            # A row that only resets begins no step, and neither does the head.
            going = going & ~(self.terminated[last] | self.truncated[last]) & self.valid[after]
            last = np.where(going, after, last)
            worth = going * discount
            reward = reward + worth * rewards(last)
            later.append((last, torch.from_numpy(worth)))
            discount = np.where(going, discount * gamma, discount).astype(np.float32, copy=False)
        discount[self.terminated[last]] = 0.0
        return Batch(
            obs=self.observations(index),
            action=torch.from_numpy(self.action[index]),
            reward=torch.from_numpy(reward),
            next_obs=_tensors(self.led_to(last)),
            discount=torch.from_numpy(discount),
            index=index,
            later=later,
        )

    def led_to(
        self, index: np.ndarray, names: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """What the steps at `index[N]` led to, as leaves `[N, ...]`; only some of them if named."""
        found = self._rows_of((index + self.slots) % self.size, names)
        if self.finals:
            for i, at in enumerate(index.tolist()):
                final = self.finals.get(at)
                if final is not None:
                    for name, leaf in found.items():
                        leaf[i] = final[name]
        return found

    def observations(self, index: np.ndarray) -> Leaves:
        """Where the steps at `index[N]` begin, as leaves `[N, ...]`."""
        return _tensors(self._rows_of(index))

    def draw_starts(self, count: int, steps: int, generator: torch.Generator) -> np.ndarray:
        """Draws where sequences of so many rows may start, `[count]`, uniformly."""
        return self._draw(count, self.tail, self.head - steps + 1, generator)

    def sequences(self, start: np.ndarray, steps: int) -> Rollout:
        """Reads sequences of rows, as the slots of a rollout `[T, B]`.

        They run over the ends of episodes, as a rollout does. A memory begins empty at row 0, where
        `first` says so. Probabilities of the actions are not kept.

        Args:
            start: from `draw_starts`, `[B]`.
            steps: T.
        """
        index = (start + self.slots * np.arange(steps + 1)[:, None]) % self.size
        at = index[:-1]
        valid, done = self.valid[at], self.terminated[at] | self.truncated[at]
        # An episode begins after a row that only reset; under SAME_STEP, where no row does, it
        # begins after the end of the one before.
        begins = ~valid | (done & self.valid[index[1:]])
        first = np.concatenate([np.ones((1, len(start)), np.bool_), begins])
        leaves = self._rows_of(index.ravel())
        ends = np.argwhere(np.isin(at, list(self.finals))).tolist()
        return Rollout(
            obs={
                name: torch.from_numpy(leaf.reshape(*index.shape, *leaf.shape[1:]))
                for name, leaf in leaves.items()
            },
            action=torch.from_numpy(self.action[at]),
            log_prob=torch.zeros(at.shape),
            reward=torch.from_numpy(self.reward[at]),
            terminated=torch.from_numpy(self.terminated[at]),
            truncated=torch.from_numpy(self.truncated[at]),
            valid=torch.from_numpy(valid.astype(np.float32)),
            first=torch.from_numpy(first),
            ids=torch.arange(len(start)),
            final=[(t, b, _tensors(self.finals[int(at[t, b])])) for t, b in ends],
        )

    def _rows_of(
        self, index: np.ndarray, names: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Observations at `index[N]`, as leaves `[N, ...]` in the layout's order; all, or some."""
        rings: dict[str, Any] = {**self.obs, **self.frames}
        leaves = [leaf.name for leaf in self.layout.leaves]
        return {name: rings[name][index] for name in leaves if names is None or name in names}

    # --- saving ----------------------------------------------------------------------------------

    def _rings(self) -> dict[str, np.ndarray]:
        """All arrays of the ring, by the names that they have in checkpoints."""
        rings = {f"obs/{name}": ring for name, ring in self.obs.items()}
        for name, frames in self.frames.items():
            rings |= {f"obs/{name}": frames.latest, f"begins/{name}": frames.begins}
        rings |= {"action": self.action, "reward": self.reward}
        return rings | {name: getattr(self, name) for name in _FLAGS}

    def state_dict(self) -> dict[str, Any]:
        """Everything; rows that will not change any more are in segments."""
        # The last row may yet be cut, so that a segment which ends with it is not closed.
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
        """How many rows before the tail its stacks take frames from."""
        return max((frames.stack - 1 for frames in self.frames.values()), default=0)

    def _segment(self, number: int) -> dict[str, np.ndarray]:
        """Views of the ring's arrays, where a segment is or was."""
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


def _tensors(leaves: dict[str, np.ndarray]) -> Leaves:
    return {name: torch.from_numpy(leaf) for name, leaf in leaves.items()}


def _pack(finals: dict[int, dict[str, np.ndarray]]) -> dict[str, Any]:
    """`Replay.finals` as arrays: where they are, and their leaves stacked."""
    names = next(iter(finals.values())) if finals else {}
    leaves = {name: np.stack([leaf[name] for leaf in finals.values()]) for name in names}
    return {"at": np.array(list(finals), np.int64), "leaves": leaves}


def _unpack(packed: dict[str, Any]) -> dict[int, dict[str, np.ndarray]]:
    """Restores what `_pack` returned."""
    leaves = packed["leaves"]
    return {
        at: {name: np.array(leaf[i]) for name, leaf in leaves.items()}
        for i, at in enumerate(packed["at"].tolist())
    }
