"""Acting in a thread of its own, while the learner learns.

    actor                                    learner
    take up the latest parameters            take the oldest full rollout
    fill a free rollout              ->      learn from it
    take up the latest parameters    <-      publish the parameters, give the rollout back

There are a few rollouts, made once. An actor that is ahead waits until one is given back, a learner that is ahead
until one is full. Environments in compiled code or in worker processes step while the learner computes, and PyTorch
lets go of the interpreter within its operations: the two overlap although they are threads.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from poise.envs.failures import Failure
from poise.errors import EnvError
from poise.learning.optimizers import Flat
from poise.models.policy import Policy
from poise.sampling.halt import HaltedError
from poise.sampling.rollout import Rollout
from poise.sampling.sampler import Sampler, stages_together

STALLED_S = 10.0
"""Seconds that one side may wait for the other before it is said, once."""

ABANDONED_S = 5.0
"""Seconds that a step may take to return after an error or Ctrl-C."""


class Actor:
    """Samples in the background, with a copy of the policy, within `with` blocks; outside of them all is at rest.

        actor.publish(version)
        with actor:
            while ...:
                rollout = actor.take()          # gives back the one before
                ...                             # learn from it
                actor.publish(version)

    A block's end waits until the rollout that is being filled is full; after a halt its rows are given up. Full
    rollouts that were not taken are there in the next block. What fails while sampling is raised by `take`, or at the
    block's end.

    Args:
        samplers: they act with the copy from now on.
        policy, flat: the policy being learnt and its parameters.
        waiting: full rollouts that may wait for the learner. Two more are being filled and learnt from.

    Attributes:
        samplers: as given.
        policy: the copy that acts.
        waited: seconds that the learner has waited for rollouts, since the start.
    """

    def __init__(self, samplers: list[Sampler], policy: Policy, flat: Flat, waiting: int) -> None:
        self.samplers, self.policy = samplers, copy.deepcopy(policy)
        self.halt = samplers[0].halt
        self.waited = 0.0
        # Parameters in one vector, and what a policy holds beside them, such as a normaliser's moments.
        self._flat, mine = flat, Flat(self.policy, flat.places)
        self._acting = [mine.whole, *mine.beside]
        self._published = [tensor.clone() for tensor in (flat.whole, *flat.beside)]
        self._version, self._fresh = 0, False
        self._free = deque(_Buffer(samplers) for _ in range(waiting + 2))
        self._full: deque[_Buffer] = deque()
        self._taken: _Buffer | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()  # guards all that follows, the three above, and what is published
        self._stopping = False
        self._aborted = False
        self._error: BaseException | None = None
        self._told: set[str] = set()
        for sampler in samplers:
            sampler.policy = self.policy

    @property
    def ready(self) -> int:
        """Full rollouts that wait for the learner."""
        return len(self._full)

    def publish(self, version: int) -> None:
        """The policy being learnt, as it is now, is what the next rollout begins with."""
        with self._changed:
            _copy([self._flat.whole, *self._flat.beside], self._published)
            self._version, self._fresh = version, True

    def take(self) -> Rollout:
        """The oldest full rollout, which is the learner's until the next call; waits for one.

        Raises:
            Exception: what failed while sampling.
            HaltedError: sampling was asked to stop.
        """
        with self._changed:
            self._give_back()
            start = perf_counter()
            while not (self._full or self._error or self.halt.asked):
                self._wait("The learner has waited {:.0f} s for a rollout: the environments are slow, or one hangs.")
            self.waited += perf_counter() - start
            self._raise()
            if self.halt.asked:
                raise HaltedError
            self._taken = self._full.popleft()
        return self._taken.whole

    def __enter__(self) -> Actor:
        if self._thread is not None and self._thread.is_alive():
            raise EnvError("An environment has not returned from a step of the training before: make a new trainer.")
        self._stopping = self._aborted = False
        self._error = None
        self._thread = threading.Thread(target=self._run, name="poise-actor", daemon=True)
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
        if self._thread is not None:  # one in which an environment hangs cannot be ended, only left behind
            self._thread.join(ABANDONED_S if at_once else None)

    # --- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        torch.set_num_threads(1)  # of this thread's operations alone: one observation of each slot is little work
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
                self._wait("The learner has not finished with a rollout for {:.0f} s: the environments wait for it.")
            if self._stopping or self.halt.asked:
                return None
            if self._fresh:
                _copy(self._published, self._acting)
                self._fresh = False
            for sampler in self.samplers:
                sampler.version = self._version
            return self._free.popleft()

    def _fill(self, buffer: _Buffer) -> bool:
        """Samples one rollout; False if it was cut short."""
        for sampler, part in zip(self.samplers, buffer.parts, strict=True):
            sampler.move_to(part)
        for _ in stages_together(self.samplers):
            if self._aborted:
                return False
        whole = all(sampler.full for sampler in self.samplers)
        for sampler in self.samplers:
            sampler.finish() if whole else sampler.cut()
        if not whole:
            return False
        if len(buffer.parts) > 1:
            buffer.whole.describe(buffer.parts)
        return True

    # --- both sides ---------------------------------------------------------------------------------------------

    def _wait(self, sentence: str) -> None:
        """Waits for a change; what never comes is said once."""
        if not self._changed.wait(STALLED_S) and sentence not in self._told:
            self._told.add(sentence)
            self.samplers[0].failures.add([Failure("odd", sentence.format(STALLED_S))], ())

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
    """A rollout of all samplers' slots, and each sampler's part of it: they fill it in place, side by side."""

    def __init__(self, samplers: list[Sampler]) -> None:
        self.whole = samplers[0].make_rollout(sum(sampler.slots for sampler in samplers))
        self.parts, start = [], 0
        for sampler in samplers:
            self.parts.append(self.whole.part(start, start + sampler.slots) if len(samplers) > 1 else self.whole)
            start += sampler.slots
