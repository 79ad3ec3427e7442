"""Guards what the learner's side of samplers on Ray does, with workers that are none."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import poise
from poise.envs.old_gym import WrongApiError
from poise.sampling.episodes import STAGES
from poise.sampling.halt import Halt, HaltedError
from poise.sampling.rollout import rollout_for
from poise.sampling.sampler import Sampler
from poise.sampling.wire import arrays, blank
from poise.stepping.calls import Call
from poise.stepping.failures import Failure
from poise.training import checkpoint
from poise.training.saving import _exact
from poise.training.trainer import Trainer

pytest.importorskip("ray")

from ray.exceptions import RayActorError

from poise.cluster import connect, workers
from poise.cluster.actor import SamplerActor, telling
from poise.cluster.connect import cpus_now, free_cpus, ray_of, why
from poise.cluster.samplers import RayGroup, RayHome, RayStream
from poise.cluster.workers import Sent, Worker

STEPS, ENVS = 4, 2


class Fleet:
    """Workers that answer in a pump what they were asked for, each one call."""

    def __init__(self, policy: Any, workers: int) -> None:
        self.workers = [Worker(i, range(i * ENVS, (i + 1) * ENVS)) for i in range(workers)]
        for worker in self.workers:
            worker.ready = True
        self.inbox: deque[Any] = deque()
        self.rollout = arrays(rollout_for(policy, STEPS, ENVS))
        self.asked, self.pumps, self.dropped, self.halted = 0, 0, 0, False
        self.meanwhile: Callable[[], None] = lambda: None
        self.states: list[Any] = []

    @property
    def ready(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.ready]

    def begin(self, about: Any, policy: bytes) -> None:
        pass

    def sample(self, worker: Worker, version: int, broadcast: int, weights: Any) -> None:
        self.asked += 1
        worker.calls.append(Sent("sample", None, (worker.index, 0, 0, broadcast)))

    def pump(self, seconds: float) -> None:
        self.pumps += 1
        assert self.pumps < 200, "it waits without an end"
        if seconds:
            self.meanwhile()
        for worker in self.workers:
            if worker.calls:
                order = worker.calls.popleft().order
                answer = {"order": order, "filled": 0} if self.halted else self.full(order)
                self.inbox.append((worker, answer))

    def full(self, order: tuple[int, ...]) -> dict[str, Any]:
        nothing = {"episodes": [], "seconds": dict.fromkeys(STAGES, 0.0), "bytes": 0}
        return {"order": order, "rollout": self.rollout, **nothing}

    def halt(self, asked: bool) -> None:
        for worker in self.workers if asked else ():  # who were done when it came
            while worker.calls:
                self.inbox.append((worker, self.full(worker.calls.popleft().order)))
        self.halted = asked

    def ask(self, what: str, arguments: Any) -> list[Any]:
        while any(worker.calls for worker in self.workers):
            self.pump(0)
        return self.states


@pytest.fixture
def algo(trainer: Any) -> Trainer:
    made: Trainer = trainer("PPO", "CartPole-v1", preset=None, num_envs_per_worker=ENVS)
    return made


def group(algo: Trainer, workers: int, kind: Any = RayGroup, slots: int = 0) -> Any:
    policy = algo.algorithm.policy
    whole = rollout_for(policy, STEPS, slots or workers * ENVS)
    fleet: Any = Fleet(policy, workers)
    made = kind(fleet, whole, lambda worker: {}, Halt(), 1.0, whole.slots)
    made.follow(policy, algo.algorithm.flat, 0)
    return made


@pytest.mark.parametrize("ready", [1, 2, 3])
def test_few_workers_fill_a_batch_of_many_rollouts(ready: int, algo: Trainer) -> None:
    """Of a run with three workers, whose batches take seven rollouts of theirs."""
    stream = group(algo, 3, RayStream, slots=7 * ENVS)
    for worker in stream.fleet.workers[ready:]:
        worker.ready = False  # its machine is gone
    assert stream.collect().slots == 7 * ENVS
    assert stream.collect().valid.all()


def test_a_halt_that_comes_too_late_stops_no_later_rollout(algo: Trainer) -> None:
    ray = group(algo, 2)
    pump = ray.fleet.pump

    def stop(seconds: float) -> None:  # instead of the first pump that waits
        if seconds:
            ray.halt.asked, ray.fleet.pump = True, pump

    ray.fleet.pump = stop
    with pytest.raises(HaltedError):
        ray.collect()
    ray.halt.asked = False
    for _ in range(2):
        assert ray.collect().valid.all()
    assert ray.fleet.asked == 4


def test_what_an_interrupt_left_under_way_is_learnt_from(algo: Trainer) -> None:
    ray = group(algo, 2)

    def interrupt() -> None:
        ray.fleet.meanwhile = lambda: None
        raise KeyboardInterrupt

    ray.fleet.meanwhile = interrupt
    with pytest.raises(KeyboardInterrupt):
        ray.collect()
    ray.collect()
    assert ray.fleet.asked == 2
    ray.fleet.meanwhile = interrupt
    with pytest.raises(KeyboardInterrupt):
        ray.collect()
    ray.fleet.states = [{"state": {"underway": None}}] * 2
    saved = [state["underway"] for state in ray.state_dict()]
    assert all("rollout" in underway["complete"] for underway in saved)


def test_a_worker_that_was_absent_has_a_generator_of_its_own(algo: Trainer) -> None:
    ray = group(algo, 2)
    sampler = algo.samplers.members[0]
    ray.fleet.states = [{"state": sampler.state_dict()}, None]
    there, absent = ray.state_dict()
    own = Sampler(algo.algorithm.policy, sampler.env, STEPS, np.random.SeedSequence(7))
    before = own.state_dict()["generator"]
    actor = SamplerActor()
    actor.sampler = own
    assert actor.restore(absent) == {"lost": ENVS}
    assert (own.state_dict()["generator"] == before).all()
    assert not (own.state_dict()["generator"] == there["generator"]).all()
    assert not _exact(absent)


def test_a_save_without_any_worker_is_not_exact_and_says_what_begins_anew(
    algo: Trainer, tmp_path: Path
) -> None:
    algo.environments.pending = []  # what there is when all are being replaced
    algo.save(tmp_path / "a")
    assert checkpoint.read(tmp_path / "a")[0]["resume_grade"] == "statistical"
    with poise.load(tmp_path / "a") as again:
        again.train()
        assert f"{ENVS} of {ENVS} environments could not be restored" in again.notes[-1]


def test_a_restore_without_any_worker_does_not_blame_the_checkpoint(algo: Trainer) -> None:
    states = algo.samplers.state_dict() * 2
    ray = group(algo, 2)
    ray.fleet.states = [None, None]
    assert algo.environments._restore(ray, states) == 2 * ENVS


def test_a_call_that_fails_is_not_made_to_workers_that_come_later() -> None:
    home: Any = object.__new__(RayHome)
    home.fleet = SimpleNamespace(calls={}, workers=[None], ask=lambda *_: [{"problem": "no such"}])
    with pytest.raises(poise.EnvError, match="no such"):
        home.call(Call("call", "gravitas"))
    assert home.fleet.calls == {}


def test_what_cannot_be_sent_back_costs_no_worker() -> None:
    actor: Any = SamplerActor()
    actor.env = gym.make_vec("CartPole-v1", 1, vectorization_mode="sync")
    actor.env.envs[0].unwrapped.lock = threading.Lock()
    assert (
        "'lock' of the environment gave cannot be sent"
        in actor.call(Call("get", "lock").to_json())["problem"]
    )
    actor.env.close()


@pytest.mark.parametrize(
    ("machines", "cpus", "workers"),
    [([6, 2, 2, 2, 2], 1.0, 13), ([6, 2, 2], 2.0, 4), ([3, 3], 2.0, 2), ([4], 0.5, 6)],
)
def test_auto_has_workers_of_the_size_that_they_have(
    machines: list[int], cpus: float, workers: int
) -> None:
    assert free_cpus([(n, n) for n in machines], 1, cpus)[0] == workers


def test_auto_leaves_to_others_what_they_hold() -> None:
    has = [(6.0, 3.0), (2.0, 2.0), (2.0, 0.0)]
    why = "6 + 2 + 2 CPUs - 5 that others hold - 1 for the learner = 4 workers"
    assert free_cpus(has) == (4, why)
    assert free_cpus(has, 1, 2.0)[0] == 2
    assert free_cpus(has, 2, 2.0)[0] == 1
    why = (
        "2 CPUs - 2 that others hold - 1 for the learner leaves none, and there is always 1 worker"
    )
    assert free_cpus([(2.0, 0.0)]) == (1, why)


def test_what_a_run_has_just_given_back_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "LOOK_S", 0)
    looks = iter([{"0": {"CPU": 1}}, {"0": {"CPU": 2}}, {"0": {"CPU": 4}}])
    monkeypatch.setattr(connect, "free_now", lambda ray: next(looks))
    node = {"Alive": True, "NodeID": "0", "Resources": {"CPU": 4}}
    assert cpus_now(SimpleNamespace(nodes=lambda: [node])) == [(4, 4)]


@pytest.mark.parametrize(("free", "starting"), [(2.0, False), (1.0, True)])
def test_only_ones_own_workers_are_waited_for_to_start(
    free: float, starting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three CPUs, others held one before: a second is that of a worker which starts."""
    ray = SimpleNamespace(
        cluster_resources=lambda: {"CPU": 3.0}, available_resources=lambda: {"CPU": free}
    )
    monkeypatch.setattr(workers, "ray", ray)
    fleet: Any = object.__new__(workers.Fleet)
    fleet.workers, fleet.cpus, fleet._others = [Worker(i, range(2)) for i in range(2)], 1.0, 1.0
    assert fleet._starting() == starting


def test_only_who_has_sampled_leaves_its_seeds_behind(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    algo = trainer("PPO", "CartPole-v1", preset=None)
    monkeypatch.setattr(workers, "ray", SimpleNamespace(kill=lambda actor: None))
    home: Any = object.__new__(RayHome)
    home._config = algo.config
    home.fleet = fleet = object.__new__(workers.Fleet)
    worker: Any = Worker(1, range(8, 16))
    fleet.workers, fleet.lost, fleet._say = [worker], 0, lambda sentence: None
    group = home.samplers(
        algo.algorithm.policy,
        STEPS,
        lambda i: np.random.SeedSequence(3, spawn_key=(i,)),
        correlation=0.0,
        failures=algo.failures,
        halt=Halt(),
    )
    accident = Failure("ended", "Its machine is gone.")

    def lose() -> Any:
        with pytest.warns(poise.PoiseWarning, match="Its machine is gone"):
            fleet._lose(worker, accident)
        worker.incarnation += 1
        return group.about(worker)["spawn_key"]

    worker.incarnation = 0
    assert lose() == (1,)  # as if it had never been
    worker.actor = SimpleNamespace(sample=SimpleNamespace(remote=lambda *_: None))
    fleet.sample(worker, 0, 0, None)
    worker.rollouts = 1
    assert lose() == (1, 1)
    assert lose() == (1, 1)


@pytest.mark.parametrize("kind", [poise.EnvError, poise.SpaceError])
def test_what_ends_a_run_here_ends_it_there(
    kind: Any, algo: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a batch that steps as one, nothing can be replaced."""
    actor: Any = SamplerActor()
    actor.sampler = SimpleNamespace(tolerant=None)
    answer = telling(lambda self: raising(kind("no such thing")))(actor)
    assert answer["ends"] == kind.__name__
    fleet: Any = object.__new__(workers.Fleet)
    fleet.failures, fleet.lost = algo.failures, 0
    monkeypatch.setattr(workers, "ray", SimpleNamespace(get=lambda ref: ref))
    worker = Worker(0, range(2))
    worker.calls.append(Sent("sample", answer, ()))
    with pytest.raises(kind, match=r"^no such thing$"):
        fleet._hear(worker)
    assert not worker.calls  # it lives, and is told of once
    assert fleet.lost == 1


def test_where_environments_can_be_replaced_so_can_their_worker() -> None:
    actor: Any = SamplerActor()
    actor.sampler = SimpleNamespace(tolerant=object())
    assert actor.ends(poise.EnvError("it could not be replaced")) == ""
    assert actor.ends(ValueError("a bug of the environment")) == ""
    assert actor.ends(WrongApiError("the old API")) == "EnvError"
    assert actor.ends(poise.ModelError("another shape")) == "ModelError"


def raising(error: Exception) -> None:
    raise error


def test_what_fails_at_the_end_does_not_hide_why_it_ended(
    algo: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ = algo.samplers
    monkeypatch.setattr(algo.samplers, "state_dict", lambda: raising(poise.EnvError("The second.")))
    said = pytest.warns(poise.PoiseWarning, match="Where the environments stood is not kept: The s")
    with said, pytest.raises(poise.EnvError, match="The first"), algo:
        raise poise.EnvError("The first.")
    algo.train()
    assert f"{ENVS} of {ENVS} environments could not be restored" in algo.notes[-1]


def test_a_kept_rollout_that_does_not_fit_is_refused(algo: Trainer) -> None:
    ray = group(algo, 2)
    state = {"underway": {"complete": {**ray.fleet.full((0, 0, 0, 1)), "seconds": {"x": 1.0}}}}
    with pytest.raises(KeyError):
        ray.load_state_dict([state, {"underway": None}])


def test_a_process_that_is_connected_elsewhere_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(gcs_address="10.0.0.1:6379")
    ray = SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: context)
    monkeypatch.setattr(connect, "import_module", lambda name: ray)
    with pytest.raises(poise.ClusterError, match=r"the Ray at 10\.0\.0\.1:6379 already"):
        ray_of("10.0.0.2:6380")
    for same in ("auto", "local", "head:6379", "ray://head:10001"):
        assert ray_of(same) is ray


def test_a_worker_that_ends_while_the_run_starts_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "ray", SimpleNamespace(kill=lambda actor: None))
    fleet: Any = object.__new__(workers.Fleet)
    said: list[str] = []
    fleet.failures, fleet.lost, fleet._say = None, 0, said.append
    fleet._lose(Worker(0, range(2)), Failure("ended", "Worker 0 on host-1 ended."))
    assert said == ["Worker 0 on host-1 ended. It is started anew."]


def test_rollouts_of_a_policy_that_was_exchanged_are_dropped_and_counted(algo: Trainer) -> None:
    stream = group(algo, 2, RayStream)
    stream.collect()
    stream.fleet.pump(0)  # the next are there
    ahead = stream.fleet.asked - 2
    stream.follow(algo.algorithm.policy, algo.algorithm.flat, 0)
    assert stream.fleet.dropped == ahead > 0
    assert stream.ready == 0
    stream.collect()
    assert stream.fleet.dropped == ahead


def test_a_state_tells_of_rollouts_that_are_not_in_it(algo: Trainer) -> None:
    stream = group(algo, 2, RayStream)
    stream.collect()
    stream.fleet.pump(0)  # the next are there
    stream.fleet.states = [{"state": {"underway": None}}, None]  # of one that is being replaced
    ahead = stream.fleet.asked - 2
    assert sum(state["waiting"] for state in stream.state_dict()) == ahead * STEPS * ENVS > 0


def test_a_halt_that_was_overtaken_counts_no_more() -> None:
    actor = SamplerActor()
    actor.halting = Halt()
    actor.halt(2, False)
    actor.halt(1, True)  # sent before, and held up on its way
    assert not actor.halting.asked
    actor.halt(3, True)
    assert actor.halting.asked


@pytest.mark.parametrize("address", ["loacl", "", "somewhere"])
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    with pytest.raises(
        poise.ClusterError, match=r"it must be 'local', 'auto', HOST:PORT"
    ) as caught:
        ray_of(address)
    assert ("Did you mean 'local'?" in str(caught.value)) == (address == "loacl")


def test_a_vector_environment_that_is_made_stays_on_its_machine() -> None:
    env = gym.make_vec("CartPole-v1", num_envs=2)
    with pytest.raises(poise.ConfigError, match="give a function that makes it"):
        poise.PPO(env, ray_address="local", num_workers=1, num_envs_per_worker=2, preset=None)
    env.close()


def test_what_ray_says_of_an_end_is_its_cause() -> None:
    error = RayActorError()
    error.error_msg = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: SamplerActor\n"
        "The actor died because its node has died. Node Id: ab\n\tthe node was preempted."
        " Some common causes include: (1) others"
    )
    assert why(error) == "its node has died. Node Id: ab the node was preempted."
    assert why(ValueError("a traceback\nValueError: of it")) == "ValueError: of it"


def test_gradient_steps_follow_the_steps_that_were_sampled(trainer: Any) -> None:
    """Two of three workers are lost: so are their shares of the gradient steps."""
    settings = {"num_envs_per_worker": 6, "rollout_fragment_length": 4, "learning_starts": 24}
    algo = trainer("DQN", "CartPole-v1", preset=None, timesteps_per_iteration=0, **settings)
    algo.train()
    [sampler] = algo.samplers.members
    collect, steps = algo.samplers.collect, algo.algorithm.updates
    assert steps == 6

    def short() -> Any:
        rollout = collect()
        blank(rollout.part(2, 6))
        return rollout

    algo.samplers.collect = short
    for _ in range(6):
        algo.train()
    assert algo.algorithm.updates == steps + 6 * 2
    assert sampler.rollout.share == pytest.approx(1 / 3)


def test_rows_that_only_reset_are_no_loss(trainer: Any) -> None:
    """With one step a rollout, a whole rollout of an environment may be its reset."""
    settings = {"num_envs_per_worker": 4, "rollout_fragment_length": 1, "learning_starts": 4}
    algo = trainer("DQN", "CartPole-v1", preset=None, timesteps_per_iteration=0, **settings)
    while not (algo.samplers.members[0].rollout.valid == 0).any():
        algo.train()
    assert algo.samplers.members[0].rollout.share == 1
    assert algo.algorithm.owed == 0
