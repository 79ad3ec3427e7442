"""Guards the losses.

Hand-written gradients against autograd, normalisation against numpy, the mask of reset rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from environments import Noise
from poise.learning.losses import approximate_kl, explained_variance, normalize, ppo_loss
from poise.sampling.rollout import Rollout
from rollouts import sample


def numbers(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_loss(
    log_prob: Tensor,
    value: Tensor,
    *,
    old_log_prob: Tensor,
    old_value: Tensor,
    advantage: Tensor,
    target: Tensor,
    weight: Tensor,
    clip: float,
    vf_clip: float | None,
    vf_coeff: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The formulas of the papers, left to autograd."""
    ratio = (log_prob - old_log_prob).exp()
    policy = -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    squared = (value - target) ** 2
    if vf_clip is not None:
        clipped = old_value + (value - old_value).clamp(-vf_clip, vf_clip)
        squared = torch.where(
            (value - old_value).abs() <= vf_clip, squared, squared.max((clipped - target) ** 2)
        )
    return weight @ (policy + vf_coeff * squared), weight @ policy, weight @ squared


def problem(n: int = 500, **changes: Any) -> dict[str, Any]:
    """A random minibatch in float64 with a fifth of its steps masked."""
    weight = (torch.arange(n) % 5 > 0).double()
    log_prob, value = numbers(n), numbers(n, 5)
    return {
        "log_prob": log_prob,
        "value": value,
        "old_log_prob": log_prob + 0.3 * numbers(n, 1),
        "old_value": value + 0.3 * numbers(n, 6),
        "advantage": numbers(n, 2),
        "target": numbers(n, 7),
        "weight": weight / weight.sum(),
        "clip": 0.2,
        "vf_clip": None,
        "vf_coeff": 0.5,
        **changes,
    }


def one(x: float) -> Tensor:
    return torch.tensor([x], dtype=torch.float64)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.5, 2.0, -2.4, 0.0),  # likely enough already: nothing more to earn
        (1.5, -2.0, 3.0, 3.0),  # a mistake made more likely: the full penalty
        (0.5, 2.0, -1.0, -1.0),
        (0.5, -2.0, 1.6, 0.0),
        (1.1, -2.0, 2.2, 2.2),
    ],
)
def test_policy_loss_golden_numbers(
    ratio: float, advantage: float, loss: float, slope: float
) -> None:
    log_prob = one(ratio).log().requires_grad_()
    given = {key: one(0) for key in ("old_log_prob", "old_value", "target")}
    found, policy, value = ppo_loss(
        log_prob, one(0), **given, advantage=one(advantage), weight=one(1), clip=0.2
    )
    found.backward()
    assert (found.item(), policy.item(), value.item()) == (
        pytest.approx(loss),
        pytest.approx(loss),
        0,
    )
    assert log_prob.grad.item() == pytest.approx(slope, abs=1e-15)


@pytest.mark.parametrize(
    ("value", "target", "old", "vf_clip", "loss", "slope"),
    [
        (1.0, 3.0, 0.0, None, 4.0, -4.0),
        (5.0, 3.0, 3.5, None, 4.0, 4.0),
        (1.0, 3.0, 0.0, 0.5, 6.25, 0.0),  # the clipped 0.5 is further off, and does not move
        (5.0, 3.0, 3.5, 0.5, 4.0, 4.0),  # the clipped 4.0 is nearer: it does not count
        (2.0, 9.0, 2.0, 0.5, 49.0, -14.0),
        (0.3, 0.1, 0.1 + 0.2, 10.0, 0.04, 0.4),  # far from the limits, whatever the rounding
    ],
)
def test_value_loss_golden_numbers(
    value: float, target: float, old: float, vf_clip: float | None, loss: float, slope: float
) -> None:
    v = one(value).requires_grad_()
    given = {
        "old_log_prob": one(0),
        "old_value": one(old),
        "advantage": one(0),
        "target": one(target),
    }
    found, _, value_part = ppo_loss(
        one(0), v, **given, weight=one(1), clip=0.2, vf_clip=vf_clip, vf_coeff=0.25
    )
    found.backward()
    assert (found.item(), value_part.item()) == (pytest.approx(0.25 * loss), pytest.approx(loss))
    assert v.grad.item() == pytest.approx(0.25 * slope)


@pytest.mark.parametrize("clip", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("vf_clip", [None, 0.1, 0.5, 100.0])
def test_loss_and_gradients_equal_autograds(clip: float, vf_clip: float | None) -> None:
    given = problem(clip=clip, vf_clip=vf_clip, vf_coeff=0.7)
    inputs = [given["log_prob"].requires_grad_(), given["value"].requires_grad_()]
    found, plain = ppo_loss(**given), plain_loss(**given)
    torch.testing.assert_close(found, plain)
    slopes = [torch.autograd.grad(3 * each[0], inputs) for each in (found, plain)]
    torch.testing.assert_close(*slopes)
    assert 0.05 < (slopes[0][0] == 0).double().mean() < 0.9


@pytest.mark.parametrize("vf_clip", [None, 0.2])
def test_loss_passes_gradcheck(vf_clip: float | None) -> None:
    given = problem(60, vf_clip=vf_clip)
    off_ratio = ((given["log_prob"] - given["old_log_prob"]).exp() - 1).abs().sub(0.2).abs()
    off_value = (given["value"] - given["old_value"]).abs().sub(0.2).abs()
    away = (off_ratio > 1e-3) & (off_value > 1e-3)  # from the kinks
    given = {key: x[away] if isinstance(x, Tensor) else x for key, x in given.items()}
    inputs = given.pop("log_prob").requires_grad_(), given.pop("value").requires_grad_()
    assert torch.autograd.gradcheck(
        lambda log_prob, value: ppo_loss(log_prob, value, **given)[0], inputs
    )


def test_only_the_whole_loss_is_differentiable_and_arguments_are_left_alone() -> None:
    given = problem(vf_clip=0.3)
    copies = {key: x.clone() for key, x in given.items() if isinstance(x, Tensor)}
    given["log_prob"].requires_grad_()
    loss, policy, value = ppo_loss(**given)
    assert loss.requires_grad
    assert not policy.requires_grad
    assert not value.requires_grad
    loss.backward()
    assert all(torch.equal(given[key], x) for key, x in copies.items())


def test_normalize_equals_numpy_on_the_selected() -> None:
    x, weight = 3 * numbers(60) + 5, (numbers(60, 1) > 0).double()
    found = normalize(x.clone(), weight)[weight > 0].numpy()
    chosen = x.numpy()[weight.numpy() > 0]
    np.testing.assert_allclose(
        found, (chosen - chosen.mean()) / (chosen.std(ddof=1) + 1e-8), rtol=1e-12
    )


def test_normalize_takes_rows_apart() -> None:
    x, weight = numbers(60).view(3, 20), torch.ones(3, 20, dtype=torch.float64)
    found = normalize(x * torch.tensor([[1.0], [10.0], [100.0]]) + 7, weight)
    torch.testing.assert_close(
        found, torch.stack([normalize(row, weight[0]) for row in x]), rtol=1e-6, atol=1e-6
    )
    assert found.std(1).tolist() == pytest.approx([1.0] * 3, rel=1e-6)


def test_normalize_keeps_its_argument_and_survives_one_step() -> None:
    x = torch.tensor([3.0, 1e30])
    # There is nothing to compare it with.
    assert normalize(x, torch.tensor([1.0, 0.0]))[0].item() == 3.0
    assert x.tolist() == [3.0, pytest.approx(1e30)]


def test_explained_variance() -> None:
    target, every = numbers(200), torch.ones(200, dtype=torch.float64)
    assert explained_variance(target, target, every).item() == pytest.approx(1)
    # A constant off is explained.
    assert explained_variance(target - 4, target, every).item() == pytest.approx(1)
    assert explained_variance(torch.zeros_like(target), target, every).item() == pytest.approx(0)
    assert explained_variance(-target, target, every).item() == pytest.approx(-3)
    guess, some = numbers(200, 1), (numbers(200, 2) > 0).double()
    t, g = target.numpy()[some.numpy() > 0], guess.numpy()[some.numpy() > 0]
    assert explained_variance(guess, target, some).item() == pytest.approx(
        1 - np.var(t - g) / np.var(t)
    )


def test_approximate_kl() -> None:
    assert approximate_kl(torch.zeros(3)).tolist() == [0, 0, 0]
    assert approximate_kl(torch.log(torch.tensor([2.0, 0.5]))).tolist() == pytest.approx(
        [0.306853, 0.193147], abs=1e-5
    )
    assert (approximate_kl(numbers(1000)) >= 0).all()
    # Its mean under the old policy is the true divergence: p = (.5, .5), q = (.8, .2).
    ratio = torch.tensor([0.8, 0.2]).log() - torch.tensor([0.5, 0.5]).log()
    assert approximate_kl(ratio).mean().item() == pytest.approx(
        0.5 * np.log(0.5 / 0.8) + 0.5 * np.log(0.5 / 0.2)
    )


# --- reset rows -----------------------------------------------------------------------------------


def with_nonsense(rollout: Rollout) -> Rollout:
    """The same rollout with other rewards and actions in the rows that only reset."""
    reset = rollout.valid == 0
    assert reset.any()
    reward, action = rollout.reward.clone(), rollout.action.clone()
    reward[reset] = 1e6
    action[reset] = 1 if action.dtype == torch.int64 else 3.0
    return dataclasses.replace(rollout, reward=reward, action=action)


def gradient(algorithm: Any, rollout: Rollout) -> tuple[Tensor, list[float]]:
    """The gradient and the statistics of one pass over a whole rollout."""
    algorithm.flat.zero_grad()
    if hasattr(algorithm, "batch"):
        batch = algorithm.batch(rollout)
        (whole,) = batch.minibatches(len(batch.weight), normalize_advantages=True)
        loss, stats = algorithm.loss(whole, 0.2, 0.01, report=True)
        parts = stats.tolist()
    else:
        loss, stats = algorithm.loss(rollout, 0.01)
        parts = torch.stack(stats).tolist()
    loss.backward()
    return algorithm.flat.grad.clone(), [loss.item(), *parts]


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
@pytest.mark.parametrize(
    "actions", [spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)], ids=["Discrete", "Box"]
)
def test_reset_rows_reach_neither_gradient_nor_statistics(
    trainer: Callable[..., Any], algorithm: str, actions: spaces.Space
) -> None:
    made = trainer(
        algorithm,
        lambda config: Noise(action_space=actions),
        num_envs=4,
        rollout_fragment_length=20,
    )
    (sampler,) = made.samplers.members
    rollout = sample(sampler)
    clean, clean_stats = gradient(made.algorithm, rollout)
    dirty, dirty_stats = gradient(made.algorithm, with_nonsense(rollout))
    assert clean.abs().max() > 0
    torch.testing.assert_close(dirty, clean)
    assert dirty_stats == pytest.approx(clean_stats, rel=1e-5)


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
def test_the_entropy_bonus_lowers_the_loss(trainer: Callable[..., Any], algorithm: str) -> None:
    made = trainer(
        algorithm, lambda config: Noise(), num_envs=4, rollout_fragment_length=20
    ).algorithm
    rollout = trainer(
        algorithm, lambda config: Noise(), num_envs=4, rollout_fragment_length=20
    ).samplers.collect()

    def loss(coefficient: float) -> float:
        if algorithm == "A2C":
            return float(made.loss(rollout, coefficient)[0].item())
        batch = made.batch(rollout)
        (whole,) = batch.minibatches(len(batch.weight), normalize_advantages=True)
        return float(made.loss(whole, 0.2, coefficient)[0].item())

    entropy = np.log(3)  # the first policy is nearly uniform over three actions
    assert loss(0.0) - loss(0.5) == pytest.approx(0.5 * entropy, rel=1e-2)


def test_a_single_step_is_not_normalised_away() -> None:
    x = torch.tensor([[3.0], [-2.0]])
    assert torch.equal(normalize(x, torch.ones(2, 1)), x)
    rows = torch.tensor([[3.0, 9.0], [1.0, 3.0]])
    found = normalize(rows, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert found[0, 0] == 3.0  # the only one that counts
    torch.testing.assert_close(found[1], torch.tensor([-1.0, 1.0]) / 2**0.5)
