"""Samplers in a thread of their own, which act while the learner learns.

    background                               learner
    take up the latest parameters            take the oldest full rollout
    fill a free rollout              ->      learn from it
    take up the latest parameters    <-      publish the parameters, give the rollout back

There are a few rollouts, allocated once. Samplers that are ahead wait until one is given back, and
a learner that is ahead waits until one is full.

Although they are threads, the two overlap: environments in compiled code or in worker processes
step while the learner computes, and PyTorch releases the interpreter's lock in its operations.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Sequence
from itertools import accumulate, pairwise
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
    """Samples in the background, with a copy of the policy, within `with` blocks.

        with group:
            while ...:
                rollout = group.collect()       # gives back the one before
                ...                             # learn from it
                group.publish(version)

    At the end of a block, the rollout that is being filled is filled up; after a halt its rows are
    given up. Full rollouts that were not collected are there in the next block. What fails while
    sampling is raised by `collect`, or at the end of the block. Outside of a block nothing runs,
    and `collect` samples in the caller's thread.

    Args:
        group: the samplers, which act with the copy from now on.
        policy: the policy being learnt.
        flat: its parameters.
        waiting: how many full rollouts may wait for the learner. There are two more: one that is
            being filled and one that is being learnt from.
        version: of the policy as it is now.

    Attributes:
        policy: the copy that acts.
        waited: seconds that the learner has waited for rollouts, since the start.
    """

    def __init__(
        self, group: SamplerGroup, policy: Policy, flat: Flat, waiting: int, version: int = 0
    ) -> None:
        super().__init__(group.members)
        self.waited = 0.0
        self._thread: threading.Thread | None = None
        # Guards all that follows, and what is published.
        self._changed = threading.Condition()
        self._free = deque(_Buffer(self.members) for _ in range(waiting + 2))
        self._full: deque[_Buffer] = deque()
        self._taken: _Buffer | None = None
        self._stopping = False
        self._aborted = False
        self._error: BaseException | None = None
        self._told: set[str] = set()
        self.follow(policy, flat, version)

    def follow(self, policy: Policy, flat: Flat, version: int) -> None:
        """Acts from now on with a copy of this policy; drops what was sampled with the one before.

        The parameters exist three times: `flat`, which the learner moves; what was last published;
        and the copy's own, which never change amid a rollout. Each is one vector with all
        parameters, and what a policy holds beside them, such as the moments of a normaliser.
        """
        self.rest(at_once=True)
        self.policy = copy.deepcopy(policy)
        self._flat, own = flat, Flat(self.policy, flat.places)
        self._acting = [own.whole, *own.beside]
        self._published = [tensor.clone() for tensor in (flat.whole, *flat.beside)]
        self._version, self._fresh = version, False
        for member in self.members:
            member.policy, member.version = self.policy, version
        with self._changed:
            self._give_back()
            self._free.extend(self._full)
            self._full.clear()

    @property
    def ready(self) -> int:
        """How many full rollouts wait for the learner."""
        return len(self._full)

    def publish(self, version: int) -> None:
        """Has the next rollout sampled by the policy as it is now."""
        with self._changed:
            _copy([self._flat.whole, *self._flat.beside], self._published)
            self._version, self._fresh = version, True

    def collect(self) -> Rollout:
        """Waits for the oldest full rollout, which belongs to the learner until the next call.

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
        except BaseException:
            # Ctrl-C may come when the thread runs already.
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
        """Ends the thread when its rollout is full, or `at_once`, after the current step."""
        with self._changed:
            self._stopping, self._aborted = True, at_once
            self._changed.notify_all()
        if self._thread is not None:
            # A thread in which an environment hangs cannot be ended, only left behind.
            self._thread.join(ABANDONED_S if at_once else None)
            self._thread = self._thread if self._thread.is_alive() else None

    def close(self) -> None:
        self.rest(at_once=True)

    # --- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        # This holds for the operations of this thread alone: a single observation of each slot is
        # too little work to share.
        torch.set_num_threads(1)
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
        """Waits for a free buffer and updates the policy for it; None when it is time to stop."""
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
        """Samples one rollout into a buffer; returns whether it is full."""
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

    # --- both sides ------------------------------------------------------------------------------

    def _wait(self, sentence: str) -> None:
        """Waits for a change for a while, and says so once if none came."""
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
    for old, new in zip(target, source, strict=True):
        old.copy_(new)


class _Buffer:
    """A rollout of all slots, and each sampler's part of it, which it fills in place.

    Attributes:
        whole: the rollout.
        parts: for each sampler, a view of its own slots; of a single one, the rollout itself.
    """

    def __init__(self, members: Sequence[Sampler]) -> None:
        self.whole = members[0].make_rollout(sum(member.slots for member in members))
        self.parts = [self.whole]
        if len(members) > 1:
            stops = list(accumulate(member.slots for member in members))
            self.parts = [self.whole.part(*pair) for pair in pairwise([0, *stops])]
