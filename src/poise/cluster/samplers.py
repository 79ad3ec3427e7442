"""Samplers on Ray, as one object that algorithms see.

A run's environments live in workers (`poise.cluster.workers`), each with its own copy of the
policy. Weights go out as one buffer of bytes, once for all machines; rollouts come back as arrays.
"""

from __future__ import annotations

import copy
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, cast

import cloudpickle
import numpy as np
import ray
import torch
from gymnasium.vector import VectorEnv

from poise.cluster.connect import cpus_now, free_cpus, nodes, ray_of
from poise.cluster.learners import Learners, require_several
from poise.cluster.workers import Fleet, Worker
from poise.config.base import AlgorithmConfig
from poise.envs.changes import sendable
from poise.envs.make import recipe
from poise.envs.raised import said
from poise.errors import ClusterError, ConfigError, EnvError, ModelError
from poise.learning.device import CPU
from poise.learning.optimizers import Flat
from poise.models.policy import Policy
from poise.sampling.episodes import STAGES, Episode, Harvest
from poise.sampling.group import SamplerGroup, largest
from poise.sampling.halt import Halt, HaltedError
from poise.sampling.rollout import Rollout, rollout_for
from poise.sampling.wire import Weights, blank, fill, writable
from poise.spaces.layout import Layout
from poise.stepping.calls import Call, remember
from poise.stepping.failures import Failure, Failures
from poise.stepping.process import Limits

SMALL = 90 * 1024
"""Bytes of weights up to which they are faster within each call than stored once for all."""

ACTING = ("spaces.", "learning.", "config.", "envs.", "stepping.", "models.", "sampling.")
"""Rooms of Poise whose changes by a script go to workers: what actions depend on."""

NODES_S = 5.0
"""Seconds between two looks at how many machines there are."""

AHEAD = 2
"""Rollouts that a worker may be asked for beyond those that a batch takes of it, less one: while
one travels, the next is sampled."""


class RayHome:
    """Where a run's samplers live: on a Ray cluster.

    Args:
        config: `num_workers="auto"` is resolved in it.
        limits: of the environments.
        report: is told of what is waited for.
        note: takes a sentence about what was chosen.

    Raises:
        ClusterError: there is no such cluster, or it has too few machines.
        EnvError: the environments cannot be made.
    """

    def __init__(
        self,
        config: AlgorithmConfig,
        limits: Limits,
        report: Callable[[Failure], None],
        note: Callable[[str], None],
    ) -> None:
        assert config.ray_address is not None
        if isinstance(config.env, VectorEnv):
            raise ConfigError(
                "A vector environment that is made already is on this machine alone: with "
                "ray_address, give a function that makes it, env=lambda config: ...."
            )
        if config.num_learners > 1:
            require_several(config)
        ray_of(config.ray_address)
        cpus = cpus_now(ray)
        if config.num_workers == "auto":
            most, why = free_cpus(cpus, config.num_learners, config.num_cpus_per_worker)
            config.spread(most)
            config.__dict__["auto_workers"] = True
            chosen, envs = cast(int, config.num_workers), config.num_envs_per_worker
            fewer = f", of which {chosen} share the environments evenly" if chosen < most else ""
            note(f"num_workers='auto': {why}{fewer}, with {envs} environments each.")
        workers, self._config = config.num_envs // config.num_envs_per_worker, config
        self._learners: Learners | None = None
        self._say = lambda sentence: report(Failure("odd", sentence))
        self.fleet = Fleet(
            {**recipe(config.env, config.env_config), "changes": sendable(ACTING)},
            workers,
            config.num_envs_per_worker,
            cpus=config.num_cpus_per_worker,
            held=sum(total - free for total, free in cpus),
            limits=limits,
            say=self._say,
        )
        self.batches: list[Any] = []
        try:
            self.fleet.start(min(config.min_workers or workers, workers), config.cluster_timeout_s)
        except BaseException:
            self.fleet.close()
            raise

    @property
    def layouts(self) -> tuple[Layout, Layout]:
        """Of one environment's observations and actions."""
        assert self.fleet.layouts is not None
        return self.fleet.layouts

    def samplers(
        self,
        policy: Policy,
        steps: int,
        seed: Callable[[int], np.random.SeedSequence],
        *,
        correlation: float,
        failures: Failures,
        halt: Halt,
    ) -> RayGroup:
        self.fleet.failures = failures

        def about(worker: Worker) -> dict[str, Any]:
            own = seed(worker.index)
            key = (*own.spawn_key, worker.played) if worker.played else own.spawn_key
            return {
                "entropy": own.entropy,
                "spawn_key": key,  # no incarnation plays the episodes of another
                "steps": steps,
                "correlation": correlation,
                "first_slot": worker.slots.start,
                "compact": not worker.near,
            }

        config = self._config
        whole, batch = rollout_for(policy, steps, config.num_envs), config.train_batch_size or 0
        return RayGroup(self.fleet, whole, about, halt, config.cluster_timeout_s, batch // steps)

    def learners(self, algorithm: Any) -> None:
        if self._config.num_learners > 1:
            self._learners = Learners(algorithm, self._config, self._say)

    def call(self, call: Call) -> list[Any]:
        before = dict(self.fleet.calls)
        remember(self.fleet.calls, call)  # also for workers that are replaced meanwhile
        answers = self.fleet.ask("call", [(call.to_json(),)] * len(self.fleet.workers))
        for answer in filter(None, answers):
            if "problem" in answer:
                self.fleet.calls = before
                raise EnvError(answer["problem"])
        return [result for answer in filter(None, answers) for result in answer["results"]]

    def close(self) -> None:
        if self._learners is not None:
            self._learners.close()
        self.fleet.close()


class RayGroup(SamplerGroup):
    """Samplers on a cluster that wait for the learner, as the learner waits for them.

    With equal seeds and as many workers, rollouts are equal to the bit, wherever the workers are.
    The part of a worker that was lost does not count (`poise.sampling.wire.blank`).

    Args:
        fleet: the workers.
        whole: memory for the rollouts of all slots.
        about: what a worker's sampler is made with.
        halt: the flag that stops sampling between two steps.
        patience: seconds to wait for a machine where no worker is left.
        batch_slots: of a rollout of samplers that run ahead; a multiple of a worker's.
    """

    def __init__(
        self,
        fleet: Fleet,
        whole: Rollout,
        about: Callable[[Worker], dict[str, Any]],
        halt: Halt,
        patience: float,
        batch_slots: int,
    ) -> None:
        self.fleet, self.whole, self.halt, self.slots = fleet, whole, halt, whole.slots
        self.about, self.patience, self.batch_slots = about, patience, batch_slots
        each = len(fleet.workers[0].slots)
        self.parts = [whole.part(i, i + each) for i in range(0, whole.slots, each)]
        self._answers: dict[int, dict[str, Any]] = {}  # of the round under way, by worker
        self._halted = False  # whether workers were told to stop, and not yet to go on
        # The floor is the first broadcast of the policy that acts now.
        self._version = self._broadcast = self._floor = 0
        self._episodes: list[Episode] = []
        self._rows, self._seconds = 0, dict.fromkeys(STAGES, 0.0)
        self._bytes, self._nodes, self._looked = 0.0, 0, -math.inf

    def ahead(self, policy: Policy, flat: Flat, waiting: int, version: int) -> RayStream:
        whole = rollout_for(policy, self.whole.steps, self.batch_slots)
        shared = self.about, self.halt, self.patience, self.batch_slots
        stream = RayStream(self.fleet, whole, *shared)
        stream.follow(policy, flat, version)
        return stream

    def follow(self, policy: Policy, flat: Flat, version: int) -> None:
        copied = copy.deepcopy(policy).to(CPU)
        try:
            sent = cloudpickle.dumps((copied, list(flat.places)))
        except Exception as error:
            raise ModelError(
                f"The policy cannot be sent to other machines: {said(error)}."
            ) from error
        self.fleet.begin(self.about, sent)
        self._packer = Weights(flat)
        self.publish(version)
        self._floor = self._broadcast

    def publish(self, version: int) -> None:
        packed = self._packer.pack()
        self._weights = packed if packed.nbytes < SMALL else ray.put(packed)
        self._version, self._broadcast = version, self._broadcast + 1

    def collect(self) -> Rollout:
        if self.halt.asked:
            raise HaltedError
        start = perf_counter()
        self._hear(self.fleet.ready)  # what an interrupt has left under way
        self._go_on()
        self._answers = {i: a for i, a in self._answers.items() if "rollout" in a}
        self.fleet.pump(0)  # those who have come take part
        while True:
            asked = [worker for worker in self.fleet.ready if worker.index not in self._answers]
            for worker in asked:
                self._ask(worker)
            if self._hear(asked):
                raise HaltedError
            if self._answers:
                break
            self._wait_for_one()
        answers, self._answers = self._answers, {}
        for worker, part in zip(self.fleet.workers, self.parts, strict=True):
            self._fill(part, worker, answers.get(worker.index))
        return self._joined(perf_counter() - start)

    def _ask(self, worker: Worker) -> None:
        self.fleet.sample(worker, self._version, self._broadcast, self._weights)

    def _hear(self, asked: list[Worker]) -> bool:
        """Takes the answers of these workers, but for those that are lost; whether a halt stopped
        them."""
        waited_for = [(worker, worker.incarnation) for worker in asked]
        while any(worker.incarnation == n and worker.calls for worker, n in waited_for):
            if self.halt.asked and not self._halted:
                self._halted = True
                self.fleet.halt(True)
            self.fleet.pump(0.2)
            self._take()
        return self._halted

    def _go_on(self) -> None:
        """Has workers sample again that were told to stop."""
        if self._halted:
            self.fleet.halt(False)
            self._halted = False

    def _take(self) -> None:
        """Takes what has come."""
        while self.fleet.inbox:
            worker, answer = self.fleet.inbox.popleft()
            if answer["order"][-1] >= self._floor:
                self._keep(worker, answer)
            else:  # another policy has sampled it
                self.fleet.dropped += 1

    def _keep(self, worker: Worker, answer: dict[str, Any]) -> None:
        self._answers[worker.index] = answer

    def _wait_for_one(self) -> None:
        """Waits until a worker is there.

        Raises:
            ClusterError: none has come for too long.
            HaltedError: it was asked to stop.
        """
        end = time.monotonic() + self.patience
        while not self.fleet.ready:
            if self.halt.asked:
                raise HaltedError
            if time.monotonic() > end:
                raise ClusterError(
                    f"No worker is left, and none has found a machine for {self.patience:g} s "
                    "(cluster_timeout_s)."
                )
            self.fleet.pump(0.2)

    def _fill(self, part: Rollout, worker: Worker, answer: dict[str, Any] | None) -> None:
        if answer is None:
            blank(part)
            part.version = self._version
            return
        fill(part, answer["rollout"])
        part.ids = torch.arange(worker.slots.start, worker.slots.stop)
        for values in answer["episodes"]:
            episode = Episode.from_json(values)
            self._episodes.append(replace(episode, row=episode.row + self._rows))
        for stage, seconds in answer["seconds"].items():
            self._seconds[stage] += seconds / len(self.parts)
        self._bytes = answer["bytes"] / (part.steps * part.slots)

    def _joined(self, seconds: float) -> Rollout:
        """The rollout of all parts, for which the learner has waited so long."""
        self.whole.describe(self.parts)
        self._rows += self.whole.steps
        busy = self._seconds["env"] + self._seconds["inference"]
        self._seconds["waiting"] += max(0.0, seconds - busy)
        return self.whole

    def harvest(self) -> Harvest:
        if perf_counter() - self._looked > NODES_S:
            self._nodes, self._looked = len(nodes(ray)), perf_counter()
        numbers = {
            "cluster/workers": len(self.fleet.ready),
            "cluster/nodes": self._nodes,
            "cluster/rollouts_lost_total": self.fleet.lost,
            "cluster/rollouts_dropped_total": self.fleet.dropped,
            "cluster/bytes_per_step": self._bytes,
        }
        episodes = sorted(self._episodes, key=lambda episode: episode.row)
        taken = Harvest(episodes, self._rows, self._seconds, numbers)
        self._episodes, self._rows, self._seconds = [], 0, dict.fromkeys(STAGES, 0.0)
        return taken

    def tell(self, sentence: str) -> None:
        assert self.fleet.failures is not None
        self.fleet.failures.add([Failure("odd", sentence)], ())

    @property
    def underway(self) -> int:
        each = len(self.fleet.workers[0].slots)
        return sum(each * a.get("filled", self.whole.steps) for a in self._answers.values())

    def largest(self) -> tuple[float, float]:
        return largest([self.whole])

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of each worker's sampler; of one that is not there, that of one which has not
        started, without a generator: two workers with the same would explore alike."""
        answers = self.fleet.ask("state", [()] * len(self.fleet.workers))
        self._take()
        known = [writable(answer["state"]) for answer in answers if answer is not None]
        if not known:
            return []
        nothing = dict.fromkeys(("generator", "noise", "env", "underway"))
        fresh = {**known[0], **nothing, "started": False, "episodes": []}
        there = iter(known)
        states = [dict(fresh) if answer is None else next(there) for answer in answers]
        for index, answer in self._answers.items():
            if "rollout" in answer:  # complete, while others were halted
                states[index]["underway"] = {"complete": answer}
        return states

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> int:
        states = [dict(state) for state in states]
        for index, state in enumerate(states):
            if state["underway"] is not None and "complete" in state["underway"]:
                self._answers[index] = answer = state["underway"]["complete"]
                self._fill(self.parts[index], self.fleet.workers[index], answer)  # if it fits
                state["underway"] = None
        self._episodes, self._seconds = [], dict.fromkeys(STAGES, 0.0)  # they are counted later
        answers = self.fleet.ask("restore", [(state,) for state in states])
        for answer in filter(None, answers):
            if "misfit" in answer:
                raise ValueError(answer["misfit"])
        each = zip(self.fleet.workers, answers, strict=True)
        return sum(len(w.slots) if answer is None else answer["lost"] for w, answer in each)


class RayStream(RayGroup):
    """Samplers on a cluster that run ahead: the next rollouts are sampled while the learner learns.

    A batch is made of the workers' rollouts in the order in which they come: one that is slow keeps
    nobody waiting, and a fast one may be there twice. `AHEAD` bounds how old the policy is that has
    sampled them.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._full: deque[tuple[Worker, dict[str, Any]]] = deque()

    @property
    def ready(self) -> int:
        """Rollouts of all slots that wait for the learner."""
        return len(self._full) // len(self.parts)

    def follow(self, policy: Policy, flat: Flat, version: int) -> None:
        super().follow(policy, flat, version)
        self.fleet.dropped += len(self._full)
        self._full.clear()
        self._take()  # what has come meanwhile is of the policy before, too

    def collect(self) -> Rollout:
        start = perf_counter()
        if not self.halt.asked:
            self._go_on()
        self._work(0)
        while len(self._full) < len(self.parts):
            if self.halt.asked:
                raise HaltedError
            if not self.fleet.ready:
                self._wait_for_one()
            self._work(0.2)
        for part in self.parts:
            self._fill(part, *self._full.popleft())
        self._work(0)  # whoever has been waiting samples while the learner learns
        self.waited += perf_counter() - start
        return self._joined(0.0)

    def state_dict(self) -> list[dict[str, Any]]:
        """Where the samplers stand, which stop for it amid their rollouts."""
        self._halted = True
        self.fleet.halt(True)
        states, waiting = super().state_dict(), Counter(worker.index for worker, _ in self._full)
        each = self.parts[0].steps * self.parts[0].slots
        return [{**state, "waiting": waiting[i] * each} for i, state in enumerate(states)]

    def _keep(self, worker: Worker, answer: dict[str, Any]) -> None:
        if "rollout" in answer:
            self._full.append((worker, answer))

    def _work(self, seconds: float) -> None:
        """Takes what has come, and asks for more."""
        self.fleet.pump(seconds)
        self._take()
        waiting = Counter(worker.index for worker, _ in self._full)
        ready = self.fleet.ready
        # Of few workers a batch takes several rollouts each, without which it would never be full.
        most = -(-len(self.parts) // max(1, len(ready))) + AHEAD - 1
        for worker in ready:
            for _ in range(min(AHEAD, most - waiting[worker.index]) - len(worker.calls)):
                self._ask(worker)
