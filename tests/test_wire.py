"""Guards what travels between a learner and samplers elsewhere."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from poise.learning.optimizers import Flat
from poise.sampling.episodes import STAGES, Episode, Harvest
from poise.sampling.rewards import RewardScaler
from poise.sampling.rollout import Rollout
from poise.sampling.wire import Weights, arrays, blank, fill, packed, size_of, unpack
from poise.training.trainer import Trainer
from rollouts import sample


def test_all_that_acting_depends_on_is_in_one_buffer(trainer: Any) -> None:
    algo: Trainer = trainer("PPO", "Pendulum-v1", preset=None, normalize_observations=True)
    algo.train()
    policy = algo.algorithm.policy
    twin = copy.deepcopy(policy)
    for tensor in twin.state_dict().values():
        tensor.zero_()
    packed = Weights(algo.algorithm.flat).pack()
    packed.flags.writeable = False  # as Ray's are
    Weights(Flat(twin, algo.algorithm.flat.places)).load(packed)
    for mine, theirs in zip(policy.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.dtype == theirs.dtype


def test_a_rollout_comes_as_it_went(trainer: Any) -> None:
    algo: Trainer = trainer("PPO", "CartPole-v1", preset=None, num_envs_per_worker=3)
    sampler = algo.samplers.members[0]
    sent = sample(sampler)
    got = sampler.make_rollout(3)
    fill(got, arrays(sent))
    for name, leaf in sent.obs.items():
        assert torch.equal(leaf, got.obs[name])
    for name in ("action", "log_prob", "reward", "terminated", "truncated", "valid", "first"):
        assert torch.equal(getattr(sent, name), getattr(got, name))
    assert got.version == sent.version


def rollout(reward: list[float], first: bool, ids: list[int]) -> Rollout:
    """One step of each slot, with these rewards."""
    slots = len(ids)
    return Rollout(
        obs={},
        action=torch.zeros(1, slots),
        log_prob=torch.zeros(1, slots),
        reward=torch.tensor([reward]),
        terminated=torch.zeros(1, slots, dtype=torch.bool),
        truncated=torch.zeros(1, slots, dtype=torch.bool),
        valid=torch.ones(1, slots),
        first=torch.tensor([[first] * slots, [False] * slots]),
        ids=torch.tensor(ids),
    )


def test_returns_are_carried_by_the_number_of_a_slot() -> None:
    scaler = RewardScaler(0.5)
    scaler(rollout([1.0, 2.0], True, [0, 1]))
    scaler(rollout([10.0, 20.0], False, [1, 0]))  # the other way round
    assert scaler.carry is not None
    assert scaler.carry.tolist() == [20 + 0.5, 10 + 1]


def test_slots_that_have_not_come_yet_are_no_damage() -> None:
    scaler, again = RewardScaler(0.5), RewardScaler(0.5)
    scaler(rollout([1.0, 2.0], True, [0, 1]))  # of four, whose others are slower
    again.load_state_dict(scaler.state_dict(), 4)
    again(rollout([3.0, 4.0], False, [3, 0]))
    assert again.carry is not None
    assert again.carry.tolist() == [4.5, 2, 0, 3]
    with pytest.raises(ValueError, match="slots"):
        again.load_state_dict(again.state_dict(), 2)


def test_a_slot_that_is_there_twice_goes_on_from_itself() -> None:
    scaler = RewardScaler(0.5)
    scaler(rollout([1.0, 4.0, 2.0], False, [0, 1, 0]))
    assert scaler.carry is not None
    assert scaler.carry.tolist() == [2 + 0.5, 4]


def test_a_slot_that_begins_anew_carries_nothing() -> None:
    scaler = RewardScaler(0.5)
    scaler(rollout([8.0], False, [0]))
    scaler(rollout([1.0], True, [0]))  # its worker was lost amid an episode
    assert scaler.carry is not None
    assert scaler.carry.tolist() == [1.0]


def test_nothing_happens_in_a_lost_rollout(trainer: Any) -> None:
    algo: Trainer = trainer("PPO", "CartPole-v1", preset=None, num_envs_per_worker=2)
    part = sample(algo.samplers.members[0])
    last = {name: leaf[-1].clone() for name, leaf in part.obs.items()}
    blank(part)
    assert part.valid.sum() == 0
    for name, leaf in part.obs.items():
        assert torch.equal(leaf[0], last[name])
    assert part.first.tolist() == [[True] * 2] + [[False] * 2] * part.steps


def test_episodes_of_samplers_of_other_speeds_are_in_their_order() -> None:
    seconds = dict.fromkeys(STAGES, 1.0)
    fast = Harvest([Episode(1.0, 1, 0, {}, row=50)], 100, seconds)
    slow = Harvest([Episode(2.0, 1, 1, {}, row=20)], 50, seconds)
    gone = Harvest([], 0, seconds)
    whole = Harvest.of([fast, slow, gone])
    assert whole.rows == 100
    assert [(episode.reward, episode.row) for episode in whole.episodes] == [(2.0, 40), (1.0, 50)]
    assert whole.seconds == dict.fromkeys(STAGES, 3.0)


@pytest.mark.parametrize("steps", [1, 7])
def test_views_stay_in_the_rollout(steps: int, trainer: Any) -> None:
    algo: Trainer = trainer("PPO", "CartPole-v1", preset=None, rollout_fragment_length=steps)
    sampler = algo.samplers.members[0]
    whole = sampler.make_rollout(4)
    part = whole.part(1, 3)
    for leaf in part.obs.values():
        leaf.numpy()[...] = 1.0
    assert all(np.all(leaf.numpy()[:, 1:3] == 1) for leaf in whole.obs.values())
    assert part.ids.tolist() == [1, 2]


def frames(steps: int, slots: int, shape: tuple[int, ...], planes: int) -> np.ndarray:
    """Stacks of random frames `[steps, slots, *shape]`, some of which begin anew."""
    numbers = np.random.default_rng(steps)
    stacks = np.zeros((steps, slots, *shape), np.uint8)
    stacks[0] = numbers.integers(0, 255, (slots, *shape))
    for t in range(1, steps):
        stacks[t, :, :-planes] = stacks[t - 1, :, planes:]
        stacks[t, :, -planes:] = numbers.integers(0, 255, (slots, planes, *shape[1:]))
        anew = numbers.random(slots) < 0.1
        stacks[t, anew] = numbers.integers(0, 255, (int(anew.sum()), *shape))
    return stacks


@pytest.mark.parametrize(("channels", "planes"), [(4, 1), (12, 3), (3, 3), (1, 1), (5, 5)])
def test_pictures_are_packed_without_a_loss(channels: int, planes: int) -> None:
    pictures = frames(9, 3, (channels, 6, 5), planes)
    sent, got = packed(pictures), np.zeros_like(pictures)
    unpack(got, sent)
    assert np.array_equal(got, pictures)
    wide = np.zeros((9, 7, channels, 6, 5), np.uint8)
    unpack(wide[:, 2:5], sent)  # a part of a rollout of more slots
    assert np.array_equal(wide[:, 2:5], pictures)
    assert all(isinstance(part, np.ndarray) for part in sent.values())  # a checkpoint may hold it


def test_a_step_of_pong_is_small_on_the_wire(trainer: Any) -> None:
    pytest.importorskip("ale_py")
    env = {"num_envs_per_worker": 2, "rollout_fragment_length": 50}
    algo: Trainer = trainer("IMPALA", "PongNoFrameskip-v4", preset=None, **env)
    sampler = algo.samplers.members[0]
    sample(sampler)
    rollout = sample(sampler)  # the game is going on
    sent, got = arrays(rollout, compact=True), sampler.make_rollout(2)
    fill(got, sent)
    assert all(torch.equal(leaf, got.obs[name]) for name, leaf in rollout.obs.items())
    # Bytes of a step: the newest frame's changes; docs/clusters.md says about 130.
    assert size_of(sent) / 100 < 200
    assert size_of(arrays(rollout)) / 100 > 28_000
