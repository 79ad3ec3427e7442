"""The workers of a run on a Ray cluster: they are started, watched, and replaced.

A worker is an actor of Ray's. One that ends, hangs, or whose machine is gone is replaced by its
next incarnation, on whatever machine has a free CPU, while the others go on. Ray restarts and
repeats nothing by itself, so that no rollout can come twice unseen.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast

import ray
from ray.exceptions import RayError

from poise import errors
from poise.cluster.actor import SamplerActor
from poise.cluster.connect import check_same, end, nodes, why
from poise.errors import ClusterError, EnvError
from poise.spaces.layout import Layout
from poise.stepping.calls import Call
from poise.stepping.failures import Failure, Failures
from poise.stepping.inline import MAKING, RESETTING, STEPPING
from poise.stepping.process import Limits
from poise.stepping.workers import pickled

FEEL_S = 5.0
"""Seconds that an answer may take before it is asked whether the worker still moves."""

SAY_S = 15.0
"""Seconds between two sentences about workers that wait for a machine."""

FALSE_STARTS = 3
"""How often a worker may end before its first rollout in a row, until that ends the run."""


class Sent(NamedTuple):
    """A call that was sent to a worker and is not answered yet."""

    what: str
    ref: Any
    order: tuple[int, ...]


class Worker:
    """One worker, through all its incarnations.

    Attributes:
        index: its number.
        slots: the numbers of its environments among all of the run.
        incarnation: how often it was started anew.
        host: its machine, once it is known.
        near: whether that is the learner's.
        ready: whether it has made its environments, and can sample.
        broadcast: number of the weights that it has.
        rollouts: of the present incarnation.
        sampled: whether that was asked for one.
        played: how many incarnations before it were.
        asked, taken: rollouts that were asked for, and that came, of all incarnations.
        calls: what it was sent, the oldest first.
    """

    def __init__(self, index: int, slots: range) -> None:
        self.index, self.slots = index, slots
        self.incarnation, self.false_starts, self.again_at = -1, 0, 0.0
        self.rollouts = self.asked = self.taken = self.played = 0
        self.answer: Any = None
        self.gone()

    def gone(self) -> None:
        """It has no actor."""
        self.actor: Any = None
        self.calls: deque[Sent] = deque()
        self.ready = self.placed = self.sampled = False
        self.host, self.near, self.broadcast = "no machine yet", True, -1
        self.pulse = self.beat = cast(Any, None)
        self.since = time.monotonic()

    def send(self, what: str, *arguments: Any, order: tuple[int, ...] = ()) -> None:
        """Sends a call, which is answered after those before it."""
        if not self.calls:
            self.since = time.monotonic()
        self.calls.append(Sent(what, getattr(self.actor, what).remote(*arguments), order))


class Fleet:
    """All workers of a run.

    Args:
        recipe: what a worker needs to make its environments: see `poise.envs.make.recipe`.
        workers: how many.
        envs: environments of each.
        cpus: that Ray reserves for each.
        held: CPUs that others hold.
        limits: of time, for environments.
        say: takes sentences about what is waited for.

    Attributes:
        workers: all of them, also those that are not there.
        inbox: rollouts that came and were not taken yet, with their worker.
        layouts: of one environment's observations and actions, once the workers have started.
        failures: counts what fails; None until samplers are made, when a failure is a bug.
        lost: rollouts that were asked for and never came.
        dropped: rollouts that came and were not those that were waited for.
    """

    def __init__(
        self,
        recipe: dict[str, Any],
        workers: int,
        envs: int,
        *,
        cpus: float,
        held: float,
        limits: Limits,
        say: Callable[[str], None],
    ) -> None:
        self._recipe, self._envs, self._limits, self._say = recipe, envs, limits, say
        make = cast(Any, ray.remote)(concurrency_groups={"meanwhile": 2})(SamplerActor)
        self._actor = make.options(num_cpus=cpus, scheduling_strategy="SPREAD", max_restarts=0)
        self.cpus, self._others = cpus, held
        self.workers = [Worker(i, range(i * envs, (i + 1) * envs)) for i in range(workers)]
        self.inbox: deque[tuple[Worker, dict[str, Any]]] = deque()
        self.layouts: tuple[Layout, Layout] | None = None
        self.failures: Failures | None = None
        self.lost = self.dropped = self._halts = 0
        self.calls: dict[tuple[str, str], Call] = {}
        self._about: Callable[[Worker], dict[str, Any]] | None = None
        self._policy: Any = None
        self._warned: set[str] = set()
        self._node = ray.get_runtime_context().get_node_id()
        self._said_at = time.monotonic()

    # --- coming and going

    def start(self, at_least: int, seconds: float) -> None:
        """Starts all workers, and waits until they have made their environments.

        Args:
            at_least: so many are enough when the time is over; the others may come later.
            seconds: how long to wait for them.

        Raises:
            ClusterError: fewer have found a machine in this time, or one has another Poise.
            EnvError: an environment could not be made.
        """
        end = time.monotonic() + seconds
        for worker in self.workers:
            self._launch(worker)
        while (made := sum(worker.ready for worker in self.workers)) < len(self.workers):
            now = time.monotonic()
            if now > end and not (self._starting() and now < end + self._limits.make):
                if made >= at_least:
                    self._say(f"Training begins with {self._who_is_there()}")
                    return
                raise ClusterError(
                    f"After {seconds:g} s (cluster_timeout_s), {self._who_is_there()} "
                    f"Lower num_workers, or set min_workers to begin with fewer."
                )
            self.pump(0.2)

    def _starting(self) -> bool:
        """Whether a worker has found a machine, and is not ready yet."""
        cluster = cast(Any, ray)
        resources = cluster.cluster_resources(), cluster.available_resources()
        everything, free = (found.get("CPU", 0) for found in resources)
        taken = int((everything - free - self._others) / self.cpus + 1e-9)
        placed = sum(worker.placed for worker in self.workers)
        return placed < min(taken, len(self.workers)) or len(self.ready) < placed

    def _launch(self, worker: Worker) -> None:
        worker.incarnation += 1
        worker.actor = self._actor.remote()
        worker.since = time.monotonic()
        worker.send("hello")

    def _make(self, worker: Worker) -> None:
        about = {
            **self._recipe,
            "worker": worker.index,
            "num_envs": self._envs,
            "total_envs": self._envs * len(self.workers),
            "calls": [call.to_json() for call in self.calls.values()],
        }
        worker.send("make", worker.index, sys.path, pickled(about))

    def begin(self, about: Callable[[Worker], dict[str, Any]], policy: bytes) -> None:
        """Has all workers sample with this policy, those that come later, too.

        Args:
            about: what a worker's sampler is made with.
            policy: pickled.
        """
        self._about, self._policy = about, ray.put(policy)  # once for all machines
        for worker in self.workers:
            worker.broadcast = -1
            if worker.ready:
                worker.send("follow", self._policy, about(worker))

    def _greeted(self, worker: Worker, found: dict[str, str]) -> None:
        worker.host, worker.near = found["host"], found["node"] == self._node
        worker.placed = True
        check_same(f"Worker {worker.index}", found)
        self._make(worker)

    def _made(self, worker: Worker, answer: dict[str, Any]) -> None:
        observation, action = answer["spaces"]
        layouts = Layout.from_json(observation), Layout.from_json(action)
        if answer["slots"] != self._envs:
            raise EnvError(
                f"The vector environment of worker {worker.index} has {answer['slots']} "
                f"environments, and num_envs_per_worker is {self._envs}: they must be equal."
            )
        self.layouts = self.layouts or layouts
        if [each.space for each in layouts] != [each.space for each in self.layouts]:
            raise EnvError(
                f"Worker {worker.index} has other spaces than the others: {layouts[0].space} and "
                f"{layouts[1].space}."
            )
        worker.ready = True
        if self._about is not None:
            worker.send("follow", self._policy, self._about(worker))

    def _lose(self, worker: Worker, failure: Failure) -> None:
        """Gives up a worker's actor; the next one follows.

        Raises:
            EnvError: this is a bug, and no accident.
        """
        self.lost += sum(call.what == "sample" for call in worker.calls)
        end(worker.actor)
        worker.false_starts = 0 if worker.rollouts else worker.false_starts + 1
        worker.played += worker.sampled
        worker.rollouts = 0
        worker.gone()
        wait = min(0.1 * 2**worker.false_starts, 10.0) if worker.false_starts else 0.0
        worker.again_at = time.monotonic() + wait
        bug = self.failures is None and failure.details
        if bug or worker.false_starts >= FALSE_STARTS:
            raise EnvError(str(failure))
        if self.failures is not None:
            self.failures.add([failure], worker.slots)
        else:
            self._say(f"{failure} It is started anew.")

    # --- talking with them

    def sample(self, worker: Worker, version: int, broadcast: int, weights: Any) -> None:
        """Asks for a rollout; the weights, which are those of this broadcast, go with it if it
        lacks them."""
        sent = None if worker.broadcast == broadcast else weights
        worker.broadcast, worker.asked, worker.sampled = broadcast, worker.asked + 1, True
        number = worker.rollouts + sum(call.what == "sample" for call in worker.calls)
        order = (worker.index, worker.incarnation, number, broadcast)
        worker.send("sample", order, version, sent, order=order)

    def pump(self, seconds: float) -> None:
        """Waits for answers, at most so long, and deals with all that are there.

        Raises:
            EnvError: failures are no accidents any more.
        """
        now = time.monotonic()
        for worker in self.workers:
            if worker.actor is None and now >= worker.again_at:
                self._launch(worker)
        oldest = {worker.calls[0].ref: worker for worker in self.workers if worker.calls}
        if not oldest:
            time.sleep(min(seconds, 0.1))
            return
        refs = list(oldest)
        there, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        if not there and seconds:
            there, _ = ray.wait(refs, num_returns=1, timeout=seconds)
        for ref in there:
            self._hear(oldest[ref])
        for worker in self.workers:
            if worker.calls and worker.placed and time.monotonic() - worker.since > FEEL_S:
                self._feel(worker)
        self._say_who_waits()

    def _hear(self, worker: Worker) -> None:
        call = worker.calls[0]
        try:
            answer = ray.get(call.ref)
        except RayError as error:
            return self._lose(worker, _ended(worker, error))
        told = answer or {}
        for sentence in told.pop("warned", ()):
            if sentence not in self._warned:  # also where several workers say it
                self._warned.add(sentence)
                self._say(f"In a worker on {worker.host}: {sentence}")
        # What one machine cannot make when training has begun, another may.
        final = told.get("ends") and (call.what != "make" or self.failures is None)
        if "error" in told and not final:
            return self._lose(worker, Failure(**told["error"]))
        worker.calls.popleft()
        worker.since = time.monotonic()
        if final:
            self.lost += call.what == "sample"
            raise getattr(errors, told["ends"])(told["error"]["what"])
        if call.what == "hello":
            self._greeted(worker, answer)
        elif call.what == "make":
            self._made(worker, answer)
        elif call.what == "sample":
            self._take(worker, call, answer)
        else:
            worker.answer = answer

    def _take(self, worker: Worker, call: Sent, answer: dict[str, Any]) -> None:
        if tuple(answer["order"]) != call.order:
            self.dropped += 1
            return
        worker.rollouts += "rollout" in answer
        worker.taken += 1
        self.inbox.append((worker, answer))
        assert self.failures is not None
        for event in answer.get("events", ()):
            if isinstance(event, int):
                self.failures.episode_finished(event)
            else:
                failures, slots = event
                self.failures.add([Failure(**each) for each in failures], slots)

    def _feel(self, worker: Worker) -> None:
        """Looks whether a worker that has not answered for a while still moves."""
        phase, oldest = STEPPING, worker.calls[0].what
        if worker.pulse is None:
            worker.pulse = worker.actor.pulse.remote()
        elif ray.wait([worker.pulse], timeout=0)[0]:
            with suppress(RayError):  # its end shows in its answer
                beat, phase = ray.get(worker.pulse)
                if beat != worker.beat:
                    worker.beat, worker.since = beat, time.monotonic()
            worker.pulse = None
        phase = MAKING if oldest == "make" else phase
        limit = self._limits.of(phase) * (self._envs if oldest == "make" else 1)
        if time.monotonic() - worker.since > limit + FEEL_S:
            doing = {MAKING: "made", RESETTING: "reset"}.get(phase, "stepped")
            what = f"An environment of worker {worker.index} on {worker.host} hangs: it has been"
            self._lose(worker, Failure("hung", f"{what} {doing} for more than {limit:g} s."))

    def ask(self, what: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Asks every worker that is ready the same; None for one that is not there, or went.

        Args:
            what: a method of `SamplerActor`.
            arguments: of each worker.
        """
        asked = []
        for worker, given in zip(self.workers, arguments, strict=True):
            worker.answer = None
            if worker.ready:
                worker.send(what, *given)
                asked.append((worker, worker.incarnation))
        while any(w.incarnation == n and w.calls for w, n in asked):
            self.pump(0.2)
        return [worker.answer for worker in self.workers]

    def halt(self, asked: bool) -> None:
        """Has workers stop between two steps, or go on."""
        self._halts += 1
        self._tell("halt", self._halts, asked)

    def _tell(self, what: str, *arguments: Any) -> None:
        """Tells workers that can sample, without much waiting."""
        refs = [getattr(worker.actor, what).remote(*arguments) for worker in self.ready]
        with suppress(RayError):
            ray.wait(refs, num_returns=len(refs), timeout=FEEL_S) if refs else None

    @property
    def ready(self) -> list[Worker]:
        """Workers that can sample."""
        return [worker for worker in self.workers if worker.ready]

    def _who_is_there(self) -> str:
        there, cluster = nodes(ray), cast(Any, ray)
        cpus = " + ".join(f"{node['Resources'].get('CPU', 0):g}" for node in there)
        free = cluster.available_resources().get("CPU", 0)
        return (
            f"{len(self.ready)} of {len(self.workers)} workers. The others wait for a machine with "
            f"{self.cpus:g} free CPU{'s' * (self.cpus != 1)}: the cluster has {len(there)} with "
            f"{cpus} CPUs, and {free:g} of them are free."
        )

    def _say_who_waits(self) -> None:
        waits = [w for w in self.workers if not w.placed and time.monotonic() - w.since > SAY_S]
        if waits and time.monotonic() - self._said_at > SAY_S:
            self._said_at = time.monotonic()
            self._say(f"There are {self._who_is_there()}")

    def close(self) -> None:
        """Lets workers close their environments, and ends them."""
        self._tell("close")
        for worker in self.workers:
            end(worker.actor)
            worker.gone()
            worker.again_at = float("inf")


def _ended(worker: Worker, error: RayError) -> Failure:
    """How an actor ended, from what Ray tells of it."""
    call = worker.calls[0].what
    known = {"sample": "sampled", "make": "made its environments", "hello": "started"}
    known |= {"follow": "took up the policy", "restore": "went back to its state"}
    doing = known.get(call, f"was asked for its {call}")
    what = f"Worker {worker.index} on {worker.host} ended while it {doing}: {why(error)}"
    return Failure("ended", what if what.endswith(".") else f"{what}.")
