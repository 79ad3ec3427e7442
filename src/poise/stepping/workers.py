"""A batch of environments stepped by worker processes, over shared memory.

    driver                              worker 0, 1, ...
    actions into shared memory
    one byte to each worker     ->      step the environments one after the other
    (free until `recv`)                 observations and rewards into shared memory
    one byte from each worker   <-

No observation is copied or pickled on its way. A worker that ends, hangs or grows too large is
replaced while its siblings go on.
"""

from __future__ import annotations

import statistics
import time
import weakref
from itertools import pairwise
from typing import Any

import cloudpickle
import numpy as np

from poise.children.pipe import encoded
from poise.envs.raised import said
from poise.errors import EnvError
from poise.spaces.layout import Layout
from poise.stepping.advice import duration
from poise.stepping.arrays import SharedMemory, StepArrays
from poise.stepping.calls import Call, remember
from poise.stepping.failures import Failure
from poise.stepping.process import Limits, State, Worker, WorkerDiedError
from poise.stepping.tolerant import TolerantVectorEnv

_SPEED_EVERY = 200  # steps between two looks at how fast each worker is


def pickled(recipe: dict[str, Any]) -> bytes:
    """A recipe for environments (see `poise.envs.make.recipe`), for another process.

    Raises:
        EnvError: it cannot be sent.
    """
    try:
        sent: bytes = cloudpickle.dumps(recipe)
    except Exception as error:
        raise EnvError(
            f"{recipe['name']} cannot be sent to worker processes: {said(error)}. "
            "Use num_workers=0, "
            "or let the environment's creator make what it needs instead of holding it."
        ) from error
    return sent


class WorkerVectorEnv(TolerantVectorEnv):
    """`num_envs` environments in `num_workers` processes, as one batch with NEXT_STEP semantics.

    Making one starts the processes; it can be used after `connect`, so that several start at the
    same time.

    Args:
        recipe: what a worker needs to make the environments: see `poise.envs.make.recipe`.
        num_envs: number of environments in all.
        num_workers: number of processes; the environments are spread evenly.
        limits: of time and memory.
        first_worker: number of the first worker, if a run has several such batches.

    Raises:
        EnvError: the environment cannot be sent to a process.
    """

    def __init__(
        self,
        recipe: dict[str, Any],
        num_envs: int,
        num_workers: int,
        limits: Limits,
        *,
        first_worker: int = 0,
    ) -> None:
        self.num_envs = num_envs
        self._recipe, self._limits = recipe, limits
        edges = np.linspace(0, num_envs, min(num_workers, num_envs) + 1).round().astype(int)
        slots = [slice(start, end) for start, end in pairwise(edges.tolist())]
        self.workers = [Worker(first_worker + i, i, own, limits) for i, own in enumerate(slots)]
        self._memory = SharedMemory()
        self._finalizer = weakref.finalize(self, _end_all, self.workers, self._memory)
        # All workers of the run: whoever makes several batches sets it.
        self.team: list[Worker] = self.workers
        try:
            for worker in self.workers:
                self._start(worker)
        except WorkerDiedError as died:
            self._finalizer()
            raise EnvError(str(died.failure)) from None

    def connect(self) -> WorkerVectorEnv:
        """Waits until the workers have made their environments.

        Raises:
            EnvError: one of them could not.
        """
        try:
            answers = [self._wait(worker) for worker in self.workers]
        except WorkerDiedError as died:
            self._finalizer()
            raise EnvError(str(died.failure)) from None
        self._spaces = answers[0]["spaces"]
        for worker, answer in zip(self.workers, answers, strict=True):
            self._spaces_agree(answer, worker)
        self._layouts = Layout.from_json(self._spaces[0]), Layout.from_json(self._spaces[1])
        observed, acted = (layout.space for layout in self._layouts)
        TolerantVectorEnv.__init__(self, self.num_envs, observed, acted)
        shape = (self._layouts, self.num_envs, len(self.workers))
        self._size = StepArrays.size(*shape)
        self._arrays = arrays = StepArrays.carve(*shape, self._memory.map(self._size))
        self.observations = arrays.observations
        self._obs = self._layouts[0].unflatten(arrays.observations)
        # What the driver itself says about a step; a worker's own part is in the shared arrays.
        self.lost, self.begun = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        self._blank = {name: np.zeros_like(array[0]) for name, array in arrays.observations.items()}
        self._seeds: list[int | None] = [None] * self.num_envs
        self._infos: dict[str, Any] = {}
        self._calls: dict[tuple[str, str], Call] = {}  # for workers that are started anew
        self._steps = 0
        self._busy: list[float] = []
        self._told_slow = False
        for worker in self.workers:
            self._attach(worker)
        return self

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets all environments; a seed is as for `seed_of_each`.

        Raises:
            EnvError: one of them failed; at the start that is a bug, and nothing is tried again.
        """
        self._seeds = self.seed_of_each(seed)
        try:
            for worker in self.workers:
                if worker.state != State.READY:  # it was left amid a step, by an error or Ctrl-C
                    worker.end()
                    self._start(worker)
                    self._spaces_agree(self._wait(worker), worker)
                    self._attach(worker)
                self._reset(worker, options)
            for worker in self.workers:
                self._hear(worker, self._wait(worker))
        except WorkerDiedError as died:
            raise EnvError(str(died.failure)) from None
        self.lost[:] = self.begun[:] = False
        self._blank = {name: array[0].copy() for name, array in self.observations.items()}
        return self._obs, {}

    def send(self, actions: Any) -> None:
        for name, value in self._layouts[1].flatten(actions).items():
            self._arrays.actions[name][...] = value
        if self.disturbed:
            self.disturbed = False
            self.lost[:] = self.begun[:] = False
        for worker in self.workers:
            if worker.state == State.READY:
                try:
                    worker.step()
                except WorkerDiedError as died:
                    self._replace(worker, died.failure)

    def recv(self) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self._infos = {}
        for worker in self.workers:
            if worker.state == State.STEPPING:
                try:
                    self._hear(worker, self._wait(worker))
                except WorkerDiedError as died:
                    self._replace(worker, died.failure)
        if not all(worker.state == State.READY for worker in self.workers):
            self._bring_back()
        self._steps += 1
        if self._steps % _SPEED_EVERY == 0 and self.workers[0] is self.team[0]:
            self._look_for_the_slow()
        arrays = self._arrays
        return self._seen(), arrays.reward, arrays.terminated, arrays.truncated, self._infos

    def _seen(self) -> Any:
        """The observations, with harmless ones in the rows of workers that are not ready.

        Such a worker may be writing there.
        """
        absent = [worker.slots for worker in self.workers if worker.state != State.READY]
        if not absent:
            return self._obs
        copies = {name: array.copy() for name, array in self.observations.items()}
        for name, array in copies.items():
            for slots in absent:
                array[slots] = self._blank[name]
        return self._layouts[0].unflatten(copies)

    def _wait(self, worker: Worker) -> Any:
        """Waits for the answer of a worker, and counts the time."""
        start = time.perf_counter()
        worker.answered()
        self.waited += time.perf_counter() - start
        return worker.receive()

    def _hear(self, worker: Worker, answer: dict[str, Any] | None) -> None:
        """Takes in what a worker has to tell beside its arrays.

        Raises:
            WorkerDiedError: it is too large to go on.
        """
        if answer is None:
            return
        slots = worker.slots
        part = self._arrays.part(slots.start, slots.stop)
        self.failures += [Failure(**failure) for failure in answer["failures"]]
        if part.lost.any():
            self.disturbed = True
            self.lost[slots], self.begun[slots] = part.lost, part.begun
        for key, values in answer["infos"].items():
            whole = self._infos.setdefault(key, np.zeros(self.num_envs, values.dtype))
            whole[slots] = values
        if answer["memory"]:
            used, limit = answer["memory"] / 2**20, self._limits.memory / 2**20
            what = (
                f"Worker {worker.index} uses {used:,.0f} MiB of memory, "
                f"more than its limit of {limit:,.0f} MiB."
            )
            raise WorkerDiedError(Failure("memory", what))

    def _look_for_the_slow(self) -> None:
        """Says once that the others wait at every step for a worker that takes much longer."""
        before, self._busy = self._busy, [worker.busy / worker.size for worker in self.team]
        if len(before) < 2:
            return
        took = [(now - then) / _SPEED_EVERY for now, then in zip(self._busy, before, strict=True)]
        slowest, others = max(took), statistics.median_low(took)
        if slowest > 1e-3 and slowest > 5 * others and not self._told_slow:
            self._told_slow = True
            worker = self.team[took.index(slowest)]
            text = (
                f"Worker {worker.index} is slow: a step of its environments takes "
                f"{duration(slowest)}, and {duration(others)} in others, which wait for it."
            )
            self.failures.append(Failure("odd", text))

    # --- replacing workers ------------------------------------------------------------------------

    def _replace(self, worker: Worker, failure: Failure) -> None:
        """Drops what a worker was doing; `_bring_back` starts it anew.

        Raises:
            EnvError: that would not help.
        """
        if failure.kind == "bug":
            raise EnvError(failure.what)
        self.failures.append(failure)
        worker.restart_later()
        self._absent(worker)
        for array in (self._arrays.reward, self._arrays.terminated, self._arrays.truncated):
            array[worker.slots] = 0

    def _absent(self, worker: Worker) -> None:
        """Notes that nothing happened in the rows of a worker that is not ready."""
        self.disturbed = True
        self.lost[worker.slots] = True

    def _bring_back(self) -> None:
        """Moves every worker that is not ready one step towards it.

        It waits only if no worker of the whole run is at work.
        """
        while True:
            for worker in self.workers:
                if worker.state != State.READY:
                    try:
                        self._advance(worker)
                    except WorkerDiedError as died:
                        self._replace(worker, died.failure)
                        self._give_up_on(worker, died.failure)
            if any(worker.state in (State.READY, State.STEPPING) for worker in self.team):
                break
            start = time.perf_counter()
            time.sleep(0.002)
            self.waited += time.perf_counter() - start
        for worker in self.workers:
            if worker.state != State.READY:
                self._absent(worker)

    def _advance(self, worker: Worker) -> None:
        """Takes the next step with a worker: ended, making, resetting, ready."""
        if worker.state == State.ENDED:
            if time.monotonic() >= worker.again_at:
                self._start(worker)
        elif worker.answered(wait=False):
            if worker.state == State.MAKING:
                self._spaces_agree(worker.receive(), worker)
                self._attach(worker)
                self._reset(worker)
            else:
                answer = worker.receive()
                worker.state = State.RESETTING  # until it is known to be fit for work
                self._hear(worker, answer)
                worker.state = State.READY
                self.disturbed = True
                self.lost[worker.slots] = self.begun[worker.slots] = True

    def _give_up_on(self, worker: Worker, failure: Failure) -> None:
        """Raises where a worker cannot be brought back, however often it is started."""
        if worker.false_starts >= 5:
            raise EnvError(
                f"Worker {worker.index} failed {worker.false_starts} times in a row before its "
                f"first step: {failure}"
            )

    def _start(self, worker: Worker) -> None:
        """Starts the process of a worker, with the recipe for its environments."""
        recipe = pickled(self._recipe)
        worker.start(recipe, self._memory.descriptors)

    def _attach(self, worker: Worker) -> None:
        """Tells a worker that has made its environments where its arrays are."""
        worker.attach(self._arrays)
        where = {
            "key": self._memory.key,
            "size": self._size,
            "slots": self.num_envs,
            "workers": len(self.workers),
            "first": worker.slots.start,
            "place": worker.place,
            "calls": [call.to_json() for call in self._calls.values()],
        }
        worker.ask(where, State.READY)

    def _reset(self, worker: Worker, options: dict[str, Any] | None = None) -> None:
        """Resets a worker's environments, with seeds of its own for every incarnation."""
        seeds = self._seeds[worker.slots]
        if worker.incarnation:
            seeds = [s if s is None else _fresh(s, worker.incarnation) for s in seeds]
        worker.ask({"do": "reset", "seed": seeds, "options": options}, State.RESETTING)

    def _spaces_agree(self, answer: dict[str, Any], worker: Worker) -> None:
        if answer["spaces"] != self._spaces:
            name = f"The environment of worker {worker.index}"
            raise EnvError(f"{name} has other spaces than those before: {answer['spaces']}.")

    def call_each(self, call: Call) -> list[Any]:
        """Does something to every environment, and later to those of workers that are started anew.

        Those of a worker that is absent have None in the results.

        Raises:
            EnvError: arguments or results cannot be sent, or an environment refused.
        """
        try:
            encoded(call.to_json())
        except TypeError as error:
            raise EnvError(
                f"The arguments of {call.name!r}: {error}; numbers, texts, lists and arrays can."
            ) from None
        if any(worker.state == State.STEPPING for worker in self.workers):
            raise EnvError(
                f"{call.name!r} cannot be asked for amid a step: ask between iterations."
            )
        results: list[Any] = []
        for worker in self.workers:
            answer = {"results": [None] * worker.size}
            # It began with the calls before this one, and begins once more with all of them.
            if worker.state == State.RESETTING:
                worker.end()
            if worker.state == State.READY:
                try:
                    worker.ask({"do": "call", "call": call.to_json()}, State.RESETTING)
                    answer = self._wait(worker)
                except WorkerDiedError as died:
                    self._replace(worker, died.failure)
            if "problem" in answer:
                raise EnvError(answer["problem"])
            results += answer["results"]
        remember(self._calls, call)
        return results

    # --- where they stand -------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where every environment stands, by worker; those of an absent worker begin anew."""
        states: list[Any] = []
        for worker in self.workers:
            if worker.state == State.READY:
                try:
                    worker.ask({"do": "state"}, State.RESETTING)
                    states.append(self._wait(worker)["state"])
                    continue
                except WorkerDiedError as died:
                    self._replace(worker, died.failure)
            states.append(None)
        return {"workers": states}

    def load_state_dict(self, state: dict[str, Any]) -> list[int]:
        """Restores what `state_dict` returned; returns the slots that start a new episode instead.

        Raises:
            EnvError: a worker failed.
        """
        lost: list[int] = []
        asked = []
        try:
            for worker, saved in zip(self.workers, state["workers"], strict=True):
                if saved is None:
                    lost += range(worker.slots.start, worker.slots.stop)
                else:
                    asked.append(worker)
                    worker.ask({"do": "restore", "state": saved}, State.STEPPING)
            for worker in asked:
                answer = self._wait(worker)
                self.failures += [Failure(**failure) for failure in answer["failures"]]
                lost += [worker.slots.start + i for i in answer["fresh"]]
        except WorkerDiedError as died:
            raise EnvError(str(died.failure)) from None
        return sorted(lost)

    def close_extras(self, **kwargs: Any) -> None:
        self._finalizer()


def _fresh(seed: int, incarnation: int) -> int:
    """A seed for a worker that was started anew, so that no episode is played twice."""
    return int(np.random.SeedSequence((seed, 1, incarnation)).generate_state(1)[0])


def _end_all(workers: list[Worker], memory: SharedMemory) -> None:
    """Ends all workers; those that wait for a command may first close their environments."""
    polite = [worker for worker in workers if worker.state == State.READY]
    for worker in polite:
        worker.dismiss()
    for worker in workers:
        worker.end(seconds=2.0 if worker in polite else 0.0)
    memory.close()
