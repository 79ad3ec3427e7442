"""Samplers in a thread of their own, which act while the learner learns.

    background                               learner
    take up the latest parameters            take the oldest full rollout
    fill a free rollout              ->      learn from it
    take up the latest parameters    <-      publish the parameters, give the rollout back

There are a few rollouts, made once. Samplers that are ahead wait until one is given back, a learner
that is ahead until one is full. Environments in compiled code or in worker processes step while the
learner computes, and PyTorch lets go of the interpreter within its operations: the two overlap
although they are threads.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from poise.errors import EnvError
from poise.learning.optimizers import Flat
from poise.models.policy import Policy
from poise.sampling.group import SamplerGroup
from poise.sampling.halt import HaltedError
from poise.sampling.rollout import Rollout
from poise.sampling.sampler import Sampler

STALLED_S = 10.0
"""Seconds that one side may wait for the other before it is said, once."""

ABANDONED_S = 5.0
"""Seconds that a step may take to return after an error or Ctrl-C."""


class BackgroundGroup(SamplerGroup):
    """Samples in the background, with a copy of the policy, within `with` blocks; outside of them
    all is at rest.

        with group:
            while ...:
                rollout = group.collect()       # gives back the one before
                ...                             # learn from it
                group.publish(version)

    A block's end waits until the rollout that is being filled is full; after a halt its rows are
    given up. Full rollouts that were not collected are there in the next block. What fails while
    sampling is raised by `collect`, or at the block's end. Outside of a block, `collect` samples in
    the caller's thread.

    Args:
        group: whose members act with the copy from now on.
        policy, flat: the policy being learnt and its parameters.
        waiting: full rollouts that may wait for the learner. Two more are being filled and learnt
            from.
        version: of the policy as it is.

    Attributes:
        policy: the copy that acts.
        waited: seconds that the learner has waited for rollouts, since the start.
    """

    def __init__(
        self, group: SamplerGroup, policy: Policy, flat: Flat, waiting: int, version: int = 0
    ) -> None:
        super().__init__(group.members)
        self.waited = 0.0
        self._free = deque(_Buffer(self.members) for _ in range(waiting + 2))
        self._full: deque[_Buffer] = deque()
        self._taken: _Buffer | None = None
        self._thread: threading.Thread | None = None
        self._changed = (
            threading.Condition()
        )  # guards all that follows, the three above, and what is published
        self._stopping = False
        self._aborted = False
        self._error: BaseException | None = None
        self._told: set[str] = set()
        self.follow(policy, flat, version)

    def follow(self, policy: Policy, flat: Flat, version: int) -> None:
        """Acts from now on with a copy of this policy, and drops what was sampled with the one
        before."""
        self.rest(at_once=True)
        self.policy = copy.deepcopy(policy)
        # Parameters in one vector, and what a policy holds beside them, such as a normaliser's
        # moments.
        self._flat, mine = flat, Flat(self.policy, flat.places)
        self._acting = [mine.whole, *mine.beside]
        self._published = [tensor.clone() for tensor in (flat.whole, *flat.beside)]
        self._version, self._fresh = version, False
        for member in self.members:
            member.policy, member.version = self.policy, version
        self._free.extend([*self._full, *([self._taken] if self._taken else [])])
        self._full.clear()
        self._taken = None

    @property
    def ready(self) -> int:
        """Full rollouts that wait for the learner."""
        return len(self._full)

    def publish(self, version: int) -> None:
        """The policy being learnt, as it is now, is what the next rollout begins with."""
        with self._changed:
            _copy([self._flat.whole, *self._flat.beside], self._published)
            self._version, self._fresh = version, True

    def collect(self) -> Rollout:
        """The oldest full rollout, which is the learner's until the next call; waits for one.

        Raises:
            Exception: what failed while sampling.
            HaltedError: sampling was asked to stop.
        """
        if self._thread is None:
            return super().collect()
        with self._changed:
            self._give_back()
            start = perf_counter()
            while not (self._full or self._error or self.halt.asked):
                self._wait(
                    "The learner has waited {:.0f} s for a rollout: the environments are slow, or"
                    " one hangs."
                )
            self.waited += perf_counter() - start
            self._raise()
            if self.halt.asked:
                raise HaltedError
            self._taken = self._full.popleft()
        return self._taken.whole

    def __enter__(self) -> BackgroundGroup:
        if self._thread is not None and self._thread.is_alive():
            raise EnvError(
                "An environment has not returned from a step of the training before: make a new"
                " trainer."
            )
        self._stopping = self._aborted = False
        self._error = None
        self._thread = threading.Thread(target=self._run, name="poise-sampling", daemon=True)
        try:
            self._thread.start()
        except BaseException:  # Ctrl-C, when it runs already
            self.rest(at_once=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        start = perf_counter()
        try:
            self.rest(at_once=kind not in (None, HaltedError))
        except BaseException:
            self.rest(at_once=True)
            raise
        self.waited += perf_counter() - start
        with self._changed:
            self._give_back()
            if kind is None:
                self._raise()

    def rest(self, *, at_once: bool) -> None:
        """Ends the thread: when the rollout that it fills is full, or at once, amid it."""
        with self._changed:
            self._stopping, self._aborted = True, at_once
            self._changed.notify_all()
        if (
            self._thread is not None
        ):  # one in which an environment hangs cannot be ended, only left behind
            self._thread.join(ABANDONED_S if at_once else None)
            self._thread = self._thread if self._thread.is_alive() else None

    def close(self) -> None:
        self.rest(at_once=True)

    # --- the thread
    # ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        torch.set_num_threads(
            1
        )  # of this thread's operations alone: one observation of each slot is little work
        try:
            while (buffer := self._next()) is not None:
                whole = False
                try:
                    whole = self._fill(buffer)
                finally:
                    with self._changed:
                        (self._full if whole else self._free).append(buffer)
                        self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next(self) -> _Buffer | None:
        """A free buffer, with the policy brought up to date for it; None when it is time to rest."""
        with self._changed:
            while not (self._free or self._stopping or self.halt.asked):
                self._wait(
                    "The learner has not finished with a rollout for {:.0f} s: the environments"
                    " wait for it."
                )
            if self._stopping or self.halt.asked:
                return None
            if self._fresh:
                _copy(self._published, self._acting)
                self._fresh = False
            super().publish(self._version)
            return self._free.popleft()

    def _fill(self, buffer: _Buffer) -> bool:
        """Samples one rollout; False if it was cut short."""
        for member, part in zip(self.members, buffer.parts, strict=True):
            member.move_to(part)
        for _ in self.stages():
            if self._aborted:
                return False
        whole = self.full
        for member in self.members:
            member.finish() if whole else member.cut()
        if not whole:
            return False
        if len(buffer.parts) > 1:
            buffer.whole.describe(buffer.parts)
        return True

    # --- both sides
    # ---------------------------------------------------------------------------------------------

    def _wait(self, sentence: str) -> None:
        """Waits for a change; what never comes is said once."""
        if not self._changed.wait(STALLED_S) and sentence not in self._told:
            self._told.add(sentence)
            self.tell(sentence.format(STALLED_S))

    def _give_back(self) -> None:
        if self._taken is not None:
            self._free.append(self._taken)
            self._taken = None
            self._changed.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    for theirs, mine in zip(source, target, strict=True):
        mine.copy_(theirs)


class _Buffer:
    """A rollout of all samplers' slots, and each sampler's part of it: they fill it in place, side
    by side."""

    def __init__(self, members: Sequence[Sampler]) -> None:
        self.whole = members[0].make_rollout(sum(member.slots for member in members))
        self.parts, start = [], 0
        for member in members:
            self.parts.append(
                self.whole.part(start, start + member.slots) if len(members) > 1 else self.whole
            )
            start += member.slots
