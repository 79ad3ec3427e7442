"""Guards the running statistics.

Equal to numpy over everything seen, masked, and changed only between rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

import poise
from environments import Noise, Task
from poise.learning.running import RunningMoments
from poise.models.policy import PICTURE_ROWS
from poise.sampling.rewards import RewardScaler
from poise.sampling.rollout import Rollout
from poise.spaces.layout import Layout
from rollouts import sample


def draw(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


# --- RunningMoments -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_moments_equal_numpys_over_all_batches(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    moments, seen = RunningMoments(shape), []
    for size in (1, 7, 100, 3):
        batch = 3 * draw(rng, size, *shape) + size
        weight = torch.from_numpy(rng.random(size) < 0.6).float() if size > 1 else torch.ones(1)
        moments.update(batch, weight)
        seen.append(batch[weight > 0].double().numpy())
        everything = np.concatenate(seen)
        np.testing.assert_allclose(moments.mean.numpy(), everything.mean(0), rtol=1e-9)
        np.testing.assert_allclose(moments.var.numpy(), everything.var(0), rtol=1e-9, atol=1e-12)
        assert moments.count.item() == len(everything)


def test_masked_elements_leave_no_trace() -> None:
    rng = np.random.default_rng(1)
    batch, weight = draw(rng, 10, 2), (torch.arange(10) % 3 > 0).float()
    clean, dirty = RunningMoments((2,)), RunningMoments((2,))
    clean.update(batch, weight)
    dirty.update(batch.masked_fill((weight == 0).unsqueeze(1), 1e30), weight)
    assert torch.equal(clean.mean, dirty.mean)
    assert torch.equal(clean.var, dirty.var)


def test_an_empty_batch_changes_nothing() -> None:
    moments = RunningMoments((2,))
    moments.update(torch.ones(4, 2), torch.zeros(4))
    assert (moments.mean.tolist(), moments.var.tolist(), moments.count.item()) == (
        [0, 0],
        [1, 1],
        0,
    )


def test_a_small_variance_around_a_large_mean_survives() -> None:
    rng = np.random.default_rng(2)
    moments = RunningMoments(())
    data = 1e6 + 0.01 * rng.standard_normal((50, 1000))
    for batch in data:
        moments.update(torch.from_numpy(batch), torch.ones(1000))
    assert moments.var.item() == pytest.approx(data.var(), rel=1e-5)


def test_normalise() -> None:
    moments = RunningMoments((1,))
    assert moments.normalize(torch.tensor([[3.0]])).item() == pytest.approx(3)
    moments.update(torch.tensor([[1.0], [5.0]]), torch.ones(2))
    assert moments.normalize(
        torch.tensor([[1.0], [3.0], [9.0], [1e6], [-1e6]])
    ).flatten().tolist() == pytest.approx([-1, 0, 3, 10, -10])


def test_moments_travel_with_the_parameters() -> None:
    moments, other = RunningMoments((2,)), RunningMoments((2,))
    moments.update(torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.ones(2))
    other.load_state_dict(moments.state_dict())
    assert (other.mean.tolist(), other.var.tolist(), other.count.item()) == ([2, 3.5], [1, 2.25], 2)


# --- observations ---------------------------------------------------------------------------------


def shifted(config: dict) -> Noise:
    return Noise(spaces.Box(-np.inf, np.inf, (3,), np.float32), scale=40.0)


ACTIONS = {"Discrete": spaces.Discrete(3), "Box": spaces.Box(-1, 1, (2,), np.float32)}


@pytest.mark.parametrize("actions", ACTIONS.values(), ids=ACTIONS.keys())
def test_the_first_ratio_is_one(trainer: Callable[..., Any], actions: spaces.Space) -> None:
    made = trainer(
        "PPO",
        lambda config: Noise(spaces.Box(-np.inf, np.inf, (3,), np.float32), actions, scale=40.0),
        lr=0,
        num_envs=4,
        n_steps=16,
        n_epochs=2,
        normalize_observations=True,
    )
    with torch.no_grad():  # a policy that depends on what it sees
        made.algorithm.flat.data.normal_(std=0.7, generator=torch.Generator().manual_seed(0))
    for _ in range(4):
        before = made.policy.normalizer.mean.clone()
        result = made.train()
        assert abs(result["learner/kl"]) < 1e-6
        assert result["learner/clip_fraction"] == 0
        assert not torch.equal(made.policy.normalizer.mean, before)


def test_a_normaliser_that_moves_too_early_would_be_seen(trainer: Callable[..., Any]) -> None:
    made = trainer("PPO", shifted, lr=0, num_envs=4, n_steps=16, normalize_observations=True)
    with torch.no_grad():
        made.algorithm.flat.data.normal_(std=0.7, generator=torch.Generator().manual_seed(0))
    (sampler,) = made.samplers.members
    rollout = sample(sampler)
    made.algorithm.finish_round(rollout)
    assert made.algorithm.learn(made.algorithm.batch(rollout))["kl"] > 1e-3


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
def test_the_normaliser_sees_every_valid_observation_once(
    trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    made = trainer(
        algorithm,
        shifted,
        num_envs=4,
        n_steps=16,
        normalize_observations=True,
        timesteps_per_iteration=0,
    )
    seen = []
    (sampler,) = made.samplers.members
    stages = sampler.stages

    def stages_and_note() -> Iterator[None]:
        yield from stages()
        r = sampler.rollout
        seen.append(r.obs["value"][:-1][r.valid > 0].double().numpy())

    monkeypatch.setattr(sampler, "stages", stages_and_note)
    for _ in range(3):
        made.train()
    # The first rollout only shows what observations are like; nothing is learnt from it.
    assert len(seen) == 4
    everything = np.concatenate(seen)
    np.testing.assert_allclose(made.policy.normalizer.mean.numpy(), everything.mean(0), rtol=1e-9)
    np.testing.assert_allclose(made.policy.normalizer.var.numpy(), everything.var(0), rtol=1e-9)
    assert made.policy.normalizer.count.item() == len(everything) == made.algorithm.timesteps


# --- rewards --------------------------------------------------------------------------------------


def random_rollout(
    rng: np.random.Generator, first_done: np.ndarray, steps: int = 12, slots: int = 3
) -> Rollout:
    """Rewards, ends and reset rows of NEXT_STEP; `first_done` says which slots row 0 resets."""
    r = Rollout.empty(steps, slots, Layout(spaces.Discrete(2)), (), torch.int64)
    r.reward = 5 * draw(rng, steps, slots)
    done = first_done
    for t in range(steps):
        r.valid[t] = torch.from_numpy(~done).float()
        ends = (rng.random((2, slots)) < 0.15) & ~done
        r.terminated[t], r.truncated[t] = torch.from_numpy(ends)
        done = ends.any(0)
    r.reward *= r.valid
    return r


@pytest.mark.parametrize("nonsense", [0.0, 1e6])
def test_reward_scaler_equals_a_naive_loop(nonsense: float) -> None:
    rng, gamma = np.random.default_rng(3), 0.9
    scaler = RewardScaler(gamma)
    running, seen, done = np.zeros(3), [], np.zeros(3, bool)
    for _ in range(4):
        r = random_rollout(rng, done)
        reward, valid = r.reward.double().numpy().copy(), r.valid.numpy() > 0
        r.reward[~torch.from_numpy(valid)] = nonsense  # what a reset row holds is nobody's business
        found = scaler(r)
        done = (r.terminated | r.truncated).numpy()
        for t in range(r.steps):
            for b in range(r.slots):
                if valid[t, b]:
                    running[b] = gamma * running[b] + reward[t, b]
                    seen.append(running[b])
                    if done[t, b]:
                        running[b] = 0
        done = done[-1]
        expected = np.clip(reward / np.sqrt(np.var(seen) + 1e-8), -10, 10)
        np.testing.assert_allclose(found.numpy()[valid], expected[valid], rtol=1e-5)
    assert scaler.moments.count.item() == len(seen)


def test_scaled_rewards_keep_their_sign_and_are_clipped() -> None:
    r = Rollout.empty(4, 1, Layout(spaces.Discrete(2)), (), torch.int64)
    r.reward[:, 0] = torch.tensor([1e-9, 0.0, -1e-9, 1e9])
    r.terminated[:] = True
    found = RewardScaler(0.0)(r).flatten()
    assert found[1].item() == 0
    assert found[0] > 0
    assert found[2] < 0
    assert found.abs().max() <= 10


def test_reports_stay_raw(trainer: Callable[..., Any]) -> None:
    settings = {"num_envs": 4, "n_steps": 40, "timesteps_per_iteration": 0}
    plain, scaled = (
        trainer("PPO", shifted, normalize_rewards=n, **settings).train() for n in (False, True)
    )
    assert plain["episode_reward_mean"] == scaled["episode_reward_mean"]
    assert plain["learner/vf_loss"] != scaled["learner/vf_loss"]


def test_reward_scaler_state_survives_a_round_trip() -> None:
    rng = np.random.default_rng(4)
    rollouts = [random_rollout(rng, np.zeros(3, bool)) for _ in range(2)]
    scaler, other = RewardScaler(0.9), RewardScaler(0.9)
    scaler(rollouts[0])
    state = {k: v.clone() for k, v in scaler.state_dict().items()}
    with pytest.raises(ValueError, match="there are 2"):
        other.load_state_dict(state, 2)
    other.load_state_dict(state, 3)
    assert torch.equal(other(rollouts[1]), scaler(rollouts[1]))


# --- pictures -------------------------------------------------------------------------------------

FRAME = spaces.Box(0, 255, (3, 12, 12), np.uint8)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_pixels_are_whitened_as_numpy_would(
    trainer: Callable[..., Any], dtype: str, tolerance: float
) -> None:
    frames = np.random.default_rng(3).integers(0, 256, (64, 3, 12, 12)).astype(np.uint8)
    frames[:, 0, :6] = 87  # a background that never changes
    frames[1:, 1, 5, 5], frames[0, 1, 5, 5] = 87, 236  # a ball, seen once
    made = trainer(
        "PPO",
        lambda config: Noise(FRAME, ACTIONS["Discrete"]),
        normalize_observations=True,
        model={"conv_dtype": dtype},
    )
    made.policy.update_normalizer({"value": torch.from_numpy(frames)[None]}, torch.ones(1, 64))
    encoder = made.policy.network.pi_encoder
    white = (
        encoder._whitened(torch.from_numpy(frames), encoder.pixels, getattr(torch, dtype))
        .float()
        .numpy()
    )
    mean, deviation = frames.mean(0, dtype=np.float64), frames.std(0, dtype=np.float64)
    np.testing.assert_allclose(
        white, np.clip((frames - mean) / np.maximum(deviation, 1), -5, 5), atol=tolerance
    )
    assert (white[:, 0, :6] == 0).all()
    assert white[0, 1, 5, 5] == 5
    x = made.policy.prepare({"value": torch.from_numpy(frames)})
    assert x.dtype == torch.uint8  # memory holds bytes
    assert torch.equal(x, torch.from_numpy(frames)), (
        "whitening is no work in place on what was sampled"
    )
    with torch.no_grad():
        made.policy(x)
    assert torch.equal(x, torch.from_numpy(frames))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(12, 12, 3), (12, 12)])
def test_pictures_of_any_order_are_whitened(
    trainer: Callable[..., Any], shape: tuple[int, ...]
) -> None:
    space = spaces.Box(0, 255, shape, np.uint8)
    made = trainer(
        "PPO",
        lambda config: Noise(space, ACTIONS["Discrete"]),
        num_envs=2,
        n_steps=8,
        normalize_observations=True,
    )
    made.train()
    (pixels,) = made.policy.moments
    assert pixels.mean.shape == shape


def test_two_towers_and_the_target_network_share_their_moments(trainer: Callable[..., Any]) -> None:
    make = lambda config: Noise(FRAME, ACTIONS["Discrete"])  # noqa: E731
    made = trainer("PPO", make, normalize_observations=True, model={"vf_share_layers": False})
    (pixels,) = made.policy.moments
    assert made.policy.network.pi_encoder.pixels is pixels
    assert made.policy.network.vf_encoder.pixels is pixels
    small = {"num_envs": 2, "n_steps": 4, "learning_starts": 8, "timesteps_per_iteration": 16}
    made = trainer("DQN", make, **small, normalize_observations=True)
    made.train()
    (pixels,) = made.policy.moments
    assert made.algorithm.target.network.encoder.pixels is pixels
    assert pixels.count > 0


def test_pixel_moments_see_some_rows_of_all_slots_and_travel_with_a_checkpoint(
    trainer: Callable[..., Any], tmp_path: Path
) -> None:
    make = lambda config: Noise(FRAME, ACTIONS["Discrete"])  # noqa: E731
    made = trainer("PPO", make, num_envs=4, n_steps=40, num_sgd_iter=1, normalize_observations=True)
    made.train()
    (pixels,) = made.policy.moments
    # Of the rollout that only shows what pictures are like, too.
    rows = 2 * len(range(0, 40, PICTURE_ROWS))
    assert 4 * (rows - 2) <= pixels.count <= 4 * rows  # fewer where a row was a reset
    frames = {"value": torch.from_numpy(np.stack([FRAME.sample() for _ in range(5)]))}
    made.save(tmp_path / "saved")
    with poise.load(tmp_path / "saved") as loaded, torch.no_grad():
        assert torch.equal(loaded.policy.moments[0].mean, pixels.mean)
        assert torch.equal(
            loaded.policy(loaded.policy.prepare(frames))[0],
            made.policy(made.policy.prepare(frames))[0],
        )


# --- numbers far from 0 ---------------------------------------------------------------------------


class Far(Task):
    """Which of two numbers is one larger? They are so large that float32 takes them for one."""

    action_space = spaces.Discrete(2)

    def __init__(self, dtype: Any = np.float64, offset: int = 2**40) -> None:
        low, high = (-np.inf, np.inf) if dtype != np.int64 else (-(2**62), 2**62)
        self.observation_space = spaces.Box(low, high, (2,), dtype)
        self.dtype, self.offset = dtype, offset

    def observe(self) -> np.ndarray:
        self.right = int(self.np_random.integers(2))
        return np.array(
            [self.offset + (self.right == 0), self.offset + (self.right == 1)], self.dtype
        )

    def judge(self, action: Any) -> float:
        return float(action == self.right)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.int64])
@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN", "IMPALA", "APPO"])
def test_what_differs_far_from_zero_is_learnt(
    trainer: Any, algorithm: str, dtype: Any, tmp_path: Path
) -> None:
    settings = {"learning_starts": 200, "epsilon_timesteps": 800} if algorithm == "DQN" else {}
    settings |= {"n_steps": 32, "num_envs": 4} if algorithm in ("PPO", "APPO") else {}
    made = trainer(
        algorithm,
        lambda config: Far(dtype),
        preset=None,
        normalize_observations=True,
        lr=3e-3,
        gamma=0.0,
        **settings,
    )
    made.learn(4000)
    assert made.evaluate(10)["episode_reward_mean"] == 8
    observation = np.array([2**40, 2**40 + 1], dtype)
    assert made.compute_action(observation) == 1
    again = poise.load(made.save(tmp_path / "far"), env=lambda config: Far(dtype))
    assert again.compute_action(observation) == 1
    again.train()
    again.close()


@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_near_zero_float64_is_what_float32_is(trainer: Any, algorithm: str) -> None:
    ends = []
    for dtype in (np.float32, np.float64):
        made = trainer(
            algorithm, lambda config, d=dtype: Far(d, 3), preset=None, normalize_observations=True
        )
        made.learn(1500)
        ends.append(made.algorithm.flat.data)
    assert torch.equal(*ends)
