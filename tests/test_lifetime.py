"""A trainer that nobody holds any more is freed, with its environments, threads and processes."""

from __future__ import annotations

import gc
import os
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import ClassVar

import pytest

import poise
from environments import Echo
from poise import DQN, make_trainer
from poise.training.trainer import Trainer

SMALL = {
    "num_envs_per_worker": 2,
    "rollout_fragment_length": 8,
    "timesteps_per_iteration": 32,
    "evaluation_interval": 1,
    "evaluation_duration": 1,
    "env_config": {"max_episode_steps": 10},
}


def used(algorithm: str, num_workers: int) -> Trainer:
    """A trainer that has trained, evaluated and stands amid its episodes."""
    trainer = make_trainer(algorithm, "Acrobot-v1", num_workers=num_workers, **SMALL)
    trainer.learn(64)
    return trainer


@pytest.mark.parametrize(
    ("algorithm", "num_workers"), [("PPO", 0), ("PPO", 1), ("IMPALA", 0), ("DQN", 1)]
)
def test_a_dropped_trainer_is_freed_with_its_threads_and_processes(
    algorithm: str, num_workers: int
) -> None:
    before = set(threading.enumerate())
    trainer = used(algorithm, num_workers)
    batches = trainer.environments.batches
    pids = [worker.pid for batch in batches for worker in getattr(batch, "workers", ())]
    held = [
        weakref.ref(each)
        for each in (trainer, trainer.policy, trainer.samplers.members[0], batches[0])
    ]
    del trainer, batches
    gc.collect()
    assert [reference() for reference in held] == [None] * len(held)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    for thread in set(threading.enumerate()) - before:
        thread.join(60)  # it looks once a second whether its environments are still there
        assert not thread.is_alive()


def test_the_threads_of_a_closed_trainer_end_while_it_is_held() -> None:
    before = set(threading.enumerate())
    trainer = used("PPO", 0)
    trainer.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()
    trainer.learn(16)  # in new environments
    assert trainer.algorithm.timesteps >= 64


def test_a_name_that_is_given_again_and_again_holds_one_trainer() -> None:
    made = weakref.WeakSet[Trainer]()
    for _ in range(5):
        algo = DQN("Acrobot-v1", buffer_size=1000, learning_starts=16, **SMALL)
        algo.learn(32)
        made.add(algo)
    gc.collect()
    assert list(made) == [algo]


class ClosesBadly(Echo):
    """Says where it was closed, and raises."""

    closed: ClassVar[list[int]] = []

    def close(self) -> None:
        self.closed.append(id(self))
        raise ValueError("closed badly")


def test_all_environments_are_closed_where_a_warning_is_an_error(
    trainer: Callable[..., Trainer],
) -> None:
    algo = trainer("PPO", ClosesBadly, num_envs=3, n_steps=16, evaluation_duration=2)
    algo.train()
    algo.evaluate()
    with pytest.warns(poise.PoiseWarning) as told:
        algo.close()
    assert len(told) == 2  # one for each batch
    assert len({*ClosesBadly.closed}) == 5
    algo.evaluate()
    assert algo.train()["training_iteration"] == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", poise.PoiseWarning)
        with pytest.raises(poise.PoiseWarning, match="closed badly"):
            algo.close()
    assert len(ClosesBadly.closed) == 10
    assert algo.environments.batches == []
