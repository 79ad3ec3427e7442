"""Several learners on a Ray cluster: the driver is the first, and the others are actors.

For each update, all of them get the same rollout, run the same code, and share what networks
compute (`poise.learning.group`). One that ends, or whose machine does, is left out: what was begun
is done again by the others, so that nothing of a rollout is lost, and another takes its place.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from torch import Tensor

from poise.algorithms.on_policy import OnPolicy
from poise.cluster.connect import check_same, end, nodes, why
from poise.cluster.learner import LearnerActor, fingerprint, message, own_address, pickled
from poise.cluster.workers import SAY_S
from poise.config.base import AlgorithmConfig
from poise.config.off_policy import OffPolicyConfig
from poise.envs.changes import sendable
from poise.errors import ClusterError, ConfigError
from poise.learning.group import ALONE, PATIENCE, Group, LostError, Ring, meeting
from poise.sampling.rollout import Rollout

TRIES = 3
"""How often an update is begun again although no learner was lost."""


def require_several(config: AlgorithmConfig) -> None:
    """Raises `ConfigError` where several learners cannot learn what a configuration asks for."""
    asked = f"num_learners={config.num_learners}"
    if isinstance(config, OffPolicyConfig):
        raise ConfigError(
            f"{asked} is not allowed: what learns from a replay has one learner, beside the replay."
        )
    if str(config.ray_address).startswith("ray://"):
        raise ConfigError(
            f"{asked} does not go with ray_address={config.ray_address!r}: learners talk with this "
            "process directly. Run it within the cluster, by poise submit."
        )


@dataclass(eq=False)
class Peer:
    """Another learner.

    Attributes:
        actor: its process.
        greeting: what it says when it is there.
        about: what it has said of itself and its machine.
        same: whether it has the driver's algorithm.
        updates: those that it has taken part in.
    """

    actor: Any
    greeting: Any
    about: dict[str, str] = field(default_factory=dict)
    same: bool = False
    updates: int = 0

    @property
    def where(self) -> str:
        return f" on {self.about['host']}" if self.about else ""


class _Outside(Group):
    """The group of a learner while it should take no step, since the others would not."""

    def __init__(self, name: str) -> None:
        self.name = name

    def mean(self, tensor: Tensor) -> Tensor:
        raise ConfigError(
            f"num_learners is not allowed above 1 here: {self.name} takes a gradient step outside "
            "of `update(rollout)`, where other learners do not follow."
        )


class Learners:
    """All learners of a run.

    Args:
        algorithm: the driver's; from now on, it learns together with the others.
        config: its own.
        say: takes sentences about what was lost.

    Raises:
        ClusterError: there is no room for them.
        ConfigError: the algorithm learns in another way than by `update`.
    """

    def __init__(self, algorithm: Any, config: AlgorithmConfig, say: Callable[[str], None]) -> None:
        name = type(algorithm).__name__
        if not isinstance(algorithm, OnPolicy) or type(algorithm).update is OnPolicy.update:
            raise ConfigError(
                f"num_learners={config.num_learners} is not allowed: {name} has no "
                "`update(rollout)`, which all learners would run."
            )
        self._algorithm, self._say = algorithm, say
        self._gpu, self._size = bool(config.num_gpus), config.num_learners
        self._address = own_address()
        self._changed = cloudpickle.dumps(sendable())
        self._peers: list[Peer] = []
        self._coming: list[Peer] = []
        self._ring: Ring | None = None
        self._known: Any = None
        self._told: set[str] = set()
        self._trouble = ""
        self._seat = _seat(config.cluster_timeout_s) if self._gpu else None
        try:
            self._start(config.cluster_timeout_s)
        except BaseException:
            self.close()
            raise
        algorithm.together = self.update
        for learner in algorithm.learners.values():
            learner.group = _Outside(name)

    def _start(self, seconds: float) -> None:
        began = said = time.monotonic()
        for _ in range(self._size - 1):
            self._launch()
        while self._coming:
            self._welcome(0.2)
            now, room = time.monotonic(), "CPU and a free GPU" if self._gpu else "CPU"
            there = (
                f"{1 + len(self._peers)} of {self._size} learners. The others wait for a machine "
                f"with a free {room}."
            )
            if self._coming and now - began > seconds:
                raise ClusterError(
                    f"After {seconds:g} s (cluster_timeout_s), {there} "
                    "Lower num_learners or num_workers."
                )
            if self._coming and now - said > SAY_S:
                said = now
                self._say(f"There are {there}")

    def _launch(self) -> None:
        remote: Any = ray.remote
        options = {"num_cpus": 1, "num_gpus": int(self._gpu), "max_restarts": 0}
        made = remote(concurrency_groups={"meanwhile": 1})(LearnerActor)
        actor = made.options(scheduling_strategy="SPREAD", **options).remote()
        self._coming.append(Peer(actor, actor.greet.remote(sys.path, self._changed)))

    def _welcome(self, seconds: float) -> None:
        """Takes in who has come."""
        refs = {peer.greeting: peer for peer in self._coming}
        for ref in ray.wait(list(refs), num_returns=1, timeout=seconds)[0] if refs else ():
            peer = refs[ref]
            self._coming.remove(peer)
            [found] = self._answers([peer], [ref])
            if found is not None:
                check_same("A learner", found)
                peer.about = found
                self._peers.append(peer)
                self._disband()  # the next group has it, too

    # --- learning

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Has all learners learn from a rollout.

        Returns:
            The statistics of the algorithm, and how many learners there were.

        Raises:
            ClusterError: one of the others failed, which is a bug and no accident.
        """
        algorithm, tries = self._algorithm, 0
        kept = copy.deepcopy(
            (algorithm.state_dict(), algorithm.policy.state_dict(), algorithm.reward_scaler)
        )
        while True:
            self._welcome(0)
            there = len(self._peers)
            if self._ring is not None or self._meet():
                stats = self._try(rollout)
                if stats is not None:
                    return {**stats, "learners": 1 + there}
                _restore(algorithm, kept)
            if not self._peers:
                with algorithm.in_group(ALONE):
                    return {**algorithm.update(rollout), "learners": 1}
            tries += there == len(self._peers)
            if tries >= TRIES:
                raise ClusterError(
                    f"{1 + there} learners could not reach one another in {TRIES} tries: "
                    f"{self._trouble}"
                )

    def _try(self, rollout: Rollout) -> dict[str, float] | None:
        """Learns from a rollout with the others; None if one was lost meanwhile."""
        assert self._ring is not None
        algorithm, peers = self._algorithm, list(self._peers)
        if self._known != self._state():  # something else has changed it since
            for peer in peers:
                peer.same = False
        sent = ray.put(message(algorithm, rollout))
        whole = None if all(peer.same for peer in peers) else ray.put(pickled(algorithm))
        refs = [peer.actor.update.remote(sent, None if peer.same else whole) for peer in peers]
        stats, self._ring.gone = None, lambda: _are_gone(peers)
        try:
            with algorithm.in_group(self._ring):
                stats = algorithm.update(rollout)
        except LostError as error:
            self._trouble = str(error)
            self._disband()
            for peer in peers:
                peer.actor.leave.remote()
        except BaseException:
            self._disband()
            raise
        self._known = self._state()
        for peer, found in zip(peers, self._answers(peers, refs), strict=True):
            peer.same = stats is not None and found == self._known[0]
            if stats is not None and found is not None:
                peer.updates += 1
                if not peer.same:
                    self._tell_once(
                        f"A learner{peer.where} has other parameters after the same update than "
                        "this process: its processor rounds otherwise. They are sent to it anew "
                        "with every update."
                    )
        return stats

    def _state(self) -> Any:
        """By which to tell whether something else than `update` has changed the algorithm."""
        algorithm = self._algorithm
        modules = list(map(id, algorithm.policy.modules()))
        frozen = [learner.flat.frozen for learner in algorithm.learners.values()]
        return fingerprint(algorithm), algorithm.updates, modules, frozen

    def _tell_once(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self._say(sentence)

    def _answers(self, peers: list[Peer], refs: list[Any]) -> list[Any]:
        """What the others answered; None for one that is lost, and is among the others no more.

        Raises:
            ClusterError: one of them failed.
        """
        answers = []
        for peer, ref in zip(peers, refs, strict=True):
            answer = None
            try:
                answer = ray.get(ref, timeout=PATIENCE.total_seconds())
            except (RayActorError, GetTimeoutError) as error:
                self._lost(peer, why(error))
            except RayError as error:
                self._disband()
                raise ClusterError(f"A learner failed{peer.where}: {error}") from None
            answers.append(answer)
        return answers

    # --- coming and going

    def _meet(self) -> bool:
        """Makes the group anew, of all that are there; whether all have come."""
        peers = list(self._peers)
        self._answers(peers, [peer.actor.__ray_ready__.remote() for peer in peers])
        peers = list(self._peers)
        if not peers:
            return False
        try:
            store, size = meeting(self._address), 1 + len(peers)
            at = self._address, store.port
            refs = [
                peer.actor.join.remote(at, rank, size, peer.about["address"], gpu=self._gpu)
                for rank, peer in enumerate(peers, 1)
            ]
            self._ring = Ring(store, 0, size, self._address, gpu=self._gpu)
        except LostError as error:
            self._trouble = str(error)
            return False
        if all(self._answers(peers, refs)):
            return True
        self._disband()
        return False

    def _disband(self) -> None:
        """Leaves the group: those who wait in it are told."""
        if self._ring is not None:
            self._ring.leave()
        self._ring = None

    def _lost(self, peer: Peer, reason: str) -> None:
        """Goes on without a learner; another takes its place, unless it never did anything."""
        self._disband()
        end(peer.actor)
        if peer in self._peers:
            self._peers.remove(peer)
        again = "Another takes its place when there is a machine."
        if peer.updates:
            self._launch()
        else:
            again = "It had learnt nothing yet, so that no other takes its place."
        self._say(
            f"A learner{peer.where} was lost ({reason}). "
            f"{1 + len(self._peers)} of {self._size} go on with what was begun. {again}"
        )

    def close(self) -> None:
        """Ends the others."""
        self._disband()
        for actor in [peer.actor for peer in (*self._peers, *self._coming)] + [self._seat]:
            end(actor)
        self._peers, self._coming = [], []
        self._algorithm.together = None
        for learner in self._algorithm.learners.values():
            learner.group = ALONE


def _are_gone(peers: list[Peer]) -> bool:
    """Whether the machine of one of them is not there any more."""
    return not {peer.about["node"] for peer in peers} <= {each["NodeID"] for each in nodes(ray)}


def _restore(algorithm: OnPolicy, kept: Any) -> None:
    """Puts an algorithm back to what was kept of it before an update, to begin it again."""
    state, policy, scaler = copy.deepcopy(kept)
    algorithm.load_state_dict({**state, "rewards": None}, policy)
    algorithm.reward_scaler, algorithm._restored = scaler, []  # what is frozen is not news


class _Seat:
    """Holds a GPU."""


def _seat(seconds: float) -> Any:
    """Takes the driver's own GPU out of those that Ray gives to the other learners.

    Raises:
        ClusterError: Ray knows of none on this machine.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote
    seat = remote(_Seat).options(num_cpus=0, num_gpus=1, scheduling_strategy=here).remote()
    try:
        ray.get(seat.__ray_ready__.remote(), timeout=seconds)
    except RayError:
        raise ClusterError(
            "num_learners with num_gpus=1: Ray has no free GPU on the machine of this process, "
            "which is the first learner."
        ) from None
    return seat
