"""Guards several learners: what they learn together is what one learns alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import poise
from environments import Masked, Noise
from poise.learning.group import ALONE, Group, LostError, Ring, meeting
from poise.sampling.rollout import Rollout
from poise.training.trainer import Trainer
from test_against_sb3 import in_float64
from test_memory import Remembering

pytestmark = pytest.mark.usefixtures("registries")

Make = Callable[..., Trainer]
ON_POLICY = ["PPO", "A2C", "IMPALA", "APPO"]
SMALL: dict[str, Any] = {
    "preset": None,
    "num_envs_per_worker": 6,
    "rollout_fragment_length": 16,
    "timesteps_per_iteration": 0,
    "model": {"fcnet_hiddens": [16]},
    "lr": 0.01,
}


@pytest.fixture
def rings() -> Iterator[Callable[[int], list[Group]]]:
    """Makes groups of so many learners, each for a thread of its own."""
    made: list[Ring] = []

    def make(size: int) -> list[Group]:
        if size == 1:
            return [ALONE]
        store = meeting("127.0.0.1")

        def join(rank: int) -> Ring:
            own = meeting("127.0.0.1", store.port) if rank else store
            return Ring(own, rank, size, "127.0.0.1")

        together = at_once([lambda rank=rank: join(rank) for rank in range(size)])
        made.extend(together)
        return together

    yield make
    for each in made:
        each.leave()


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """What each call returns or raises, in threads that run at the same time."""
    results: list[Any] = [None] * len(calls)

    def run(index: int) -> None:
        try:
            results[index] = calls[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def sampled(algo: Trainer, count: int) -> list[Rollout]:
    """Rollouts of the trainer's samplers, in float64, with few rows of the first slot that count,
    and another policy than now."""
    rollouts = []
    with algo.samplers as samplers:
        for _ in range(count):
            own = samplers.collect()
            noise = torch.randn(own.log_prob.shape, generator=torch.Generator().manual_seed(1))
            rollout = Rollout(**{**vars(own), "obs": {k: v.clone() for k, v in own.obs.items()}})
            for name in ("action", "terminated", "truncated", "first"):
                setattr(rollout, name, getattr(own, name).clone())
            rollout.reward = own.reward.double()
            rollout.log_prob = own.log_prob.double() + 0.1 * noise.double()
            rollout.valid = own.valid.double()
            rollout.valid[2:, 0] = 0
            rollout.state = tuple(part.double() for part in own.state)
            rollouts.append(rollout)
    return rollouts


def learnt(algorithm: Any, ring: Group, rollouts: list[Rollout]) -> dict[str, float]:
    """Learns from rollouts as one of a group, and returns the last statistics."""
    for rollout in rollouts:
        with algorithm.in_group(ring):
            stats = algorithm.update(rollout)
        algorithm.finish_round(rollout)
    return stats


def pictures(config: Any) -> Any:
    return Noise(spaces.Box(0, 255, (40, 40, 1), np.uint8))


def masked(config: Any) -> Any:
    return Masked([])


PICTURES = {"model": {"conv_filters": [[4, 8, 4]], "conv_dtype": "float32", "fcnet_hiddens": [8]}}
CELLS = {
    "memory": "lstm", "lstm_cell_size": 8, "max_seq_len": 6, "lstm_use_prev_action": True,
    "lstm_use_prev_reward": True, "fcnet_hiddens": [8],
}  # fmt: skip
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    **{name: ("CartPole-v1", {}) for name in ON_POLICY},
    "PPO, one minibatch": ("Pendulum-v1", {"sgd_minibatch_size": 96, "entropy_coeff": 0.01}),
    "PPO, minibatches of 2": ("CartPole-v1", {"sgd_minibatch_size": 2, "num_sgd_iter": 1}),
    "PPO, stopped early": ("CartPole-v1", {"target_kl": 0.4, "lr": 0.2}),
    "PPO, pictures": (pictures, PICTURES),
    "APPO, pictures": (pictures, PICTURES),
    "PPO, masked": (masked, {}),
    "IMPALA, masked": (masked, {}),
    "PPO, cells": ("CartPole-v1", {"model": CELLS}),
    "IMPALA, cells": (masked, {"model": CELLS}),
    "A2C, normalised": ("Pendulum-v1", {"normalize_advantages": True}),
    "IMPALA, minibatches": ("Pendulum-v1", {"sgd_minibatch_size": 32, "num_sgd_iter": 2}),
}


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("case", CASES)
def test_an_update_of_several_is_that_of_one(
    case: str, scaled: bool, trainer: Make, rings: Any
) -> None:
    env, settings = CASES[case]
    settings = {**settings, "normalize_observations": scaled, "normalize_rewards": scaled}
    check_updates(trainer, rings, case.partition(",")[0], env, settings)


@pytest.mark.parametrize("name", ON_POLICY)
def test_policies_with_a_memory_share_slots(name: str, trainer: Make, rings: Any) -> None:
    def make_policy(self: Any, *layouts: Any) -> Any:
        return Remembering(*layouts, self.config.model)

    kind = type(poise.make_trainer(name, "CartPole-v1", progress=False).algorithm)
    mine = type(f"Mine{name}", (kind,), {"make_policy": make_policy})
    poise.register_algorithm(f"Mine{name}", mine)
    check_updates(trainer, rings, f"Mine{name}", "CartPole-v1", {})


def check_updates(trainer: Make, rings: Any, name: str, env: Any, settings: dict[str, Any]) -> None:
    """Two and three learners end where one does, with its statistics."""
    results: dict[int, tuple[torch.Tensor, dict[str, float]]] = {}
    settings = {**SMALL, **settings}
    rollouts = sampled(trainer(name, env, **settings), 3)
    for size in (1, 2, 3):
        algos = [in_float64(trainer(name, env, **settings)) for _ in range(size)]
        before = algos[0].flat.data.clone()
        each = list(zip(algos, rings(size), strict=True))
        stats = at_once([lambda a=a, r=r: learnt(a, r, rollouts) for a, r in each])
        assert all(isinstance(found, dict) for found in stats), stats
        for other, found in zip(algos, stats, strict=True):
            assert torch.equal(other.flat.data, algos[0].flat.data)  # to the bit
            assert found == pytest.approx(stats[0], rel=0, abs=0, nan_ok=True)
        results[size] = algos[0].flat.data, stats[0]
        assert (algos[0].flat.data - before).abs().max() > 1e-3
    alone, expected = results.pop(1)
    for data, found in results.values():
        assert (data - alone).abs().max() < 1e-6
        rel = 1e-5 if "pictures" in str(env) else 1e-6  # they are convolved in float32
        assert found == pytest.approx(expected, rel=rel, abs=1e-8, nan_ok=True)


def test_what_is_decided_is_the_same_everywhere(trainer: Make, rings: Any) -> None:
    """Also where a processor rounds otherwise, so that one learner alone would stop."""
    settings = {**SMALL, "target_kl": 1.0}
    algos = [trainer("PPO", "CartPole-v1", **settings).algorithm for _ in range(2)]
    [rollout] = sampled(trainer("PPO", "CartPole-v1", **settings), 1)
    for name in ("reward", "log_prob", "valid"):
        setattr(rollout, name, getattr(rollout, name).float())
    other: Any = algos[1]
    own = other.loss

    def loss(*arguments: Any, **options: Any) -> Any:
        found, parts = own(*arguments, **options)
        return found, parts + 4  # KL among them

    other.loss = loss
    each = list(zip(algos, rings(2), strict=True))
    found = at_once([lambda a=a, r=r: learnt(a, r, [rollout]) for a, r in each])
    assert all(isinstance(stats, dict) for stats in found), found
    assert [algorithm.updates for algorithm in algos] == [0, 0]


def test_a_learner_that_leaves_is_seen_by_the_others(rings: Any) -> None:
    first, second = rings(2)
    second.leave()
    with pytest.raises(LostError):
        first.mean(torch.ones(3))
    with pytest.raises(LostError):
        second.mean(torch.ones(3))


def test_one_that_is_told_gone_is_waited_for_no_longer(rings: Any) -> None:
    """It closes no connection, as where its machine is frozen: only somebody else can tell."""
    first, _ = rings(2)
    first.gone = lambda: True
    with pytest.raises(LostError, match="is gone"):
        first.mean(torch.ones(3))


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux lists its sockets")
def test_they_listen_on_one_address_alone(rings: Any) -> None:
    def listening() -> set[str]:
        tables = [Path(f"/proc/net/{kind}").read_text() for kind in ("tcp", "tcp6")]
        lines = [line.split() for table in tables for line in table.splitlines()]
        own = {os.readlink(file) for file in Path("/proc/self/fd").iterdir() if file.is_symlink()}
        return {at[1] for at in lines if at[3] == "0A" and f"socket:[{at[9]}]" in own}

    before = listening()
    rings(3)
    new = listening() - before
    assert new
    assert {address.partition(":")[0] for address in new} == {"0100007F"}  # 127.0.0.1


def test_they_need_a_cluster_and_say_so(trainer: Make) -> None:
    with pytest.raises(poise.ConfigError, match="num_learners=2 needs a Ray cluster"):
        trainer("PPO", "CartPole-v1", num_learners=2)
    with pytest.raises(poise.ConfigError, match="num_learners=2 needs a Ray cluster"):
        trainer("PPO", "CartPole-v1", num_learners=2, ray_address="local", num_workers=0)
    with pytest.raises(poise.ConfigError, match="num_learners=0 is not allowed"):
        trainer("PPO", "CartPole-v1", num_learners=0)
