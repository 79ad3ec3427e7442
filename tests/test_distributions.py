"""Guards the action distributions: densities, entropies and divergences against torch.distributions and integrals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from poise.learning.distributions import Categorical, Gaussian, SquashedGaussian, log_tanh_derivative

DOUBLE = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=DOUBLE)


# --- Categorical -----------------------------------------------------------------------------------------------------


def test_categorical_equals_torchs() -> None:
    dist, logits, other = Categorical(5), 2 * random(4, 3, 5), random(4, 3, 5, seed=1)
    judge, judge_other = torch.distributions.Categorical(logits=logits), torch.distributions.Categorical(logits=other)
    action = torch.randint(5, (4, 3), generator=generator())
    torch.testing.assert_close(dist.log_prob(logits, action), judge.log_prob(action))
    torch.testing.assert_close(dist.entropy(logits), judge.entropy())
    torch.testing.assert_close(dist.kl(logits, other), torch.distributions.kl_divergence(judge, judge_other))
    assert torch.equal(dist.mode(logits), logits.argmax(-1))


def test_categorical_golden_numbers() -> None:
    logits = torch.tensor([[math.log(0.5), math.log(0.25), math.log(0.25)]], dtype=DOUBLE)
    assert Categorical(3).log_prob(logits + 7, torch.tensor([1])).item() == pytest.approx(math.log(0.25))
    assert Categorical(3).entropy(logits).item() == pytest.approx(1.5 * math.log(2))
    uniform = torch.zeros(1, 3, dtype=DOUBLE)
    assert Categorical(3).kl(logits, uniform).item() == pytest.approx(math.log(3) - 1.5 * math.log(2))


def test_categorical_frequencies() -> None:
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    dist, n = Categorical(4), 100_000
    drawn = dist.sample(p.log().expand(n, 4), dist.noise((n,), generator(1)))
    found = torch.bincount(drawn, minlength=4) / n
    assert (found - p).abs().max() < 4 * math.sqrt(0.25 / n)


def test_categorical_draws_are_independent_between_rows() -> None:
    dist = Categorical(2)
    noise = dist.noise((1000, 50), generator(2))
    drawn = dist.sample(torch.zeros(1000, 50, 2), noise).float() - 0.5
    assert abs((drawn[:-1] * drawn[1:]).mean().item()) < 0.01
    assert abs((drawn[:, :-1] * drawn[:, 1:]).mean().item()) < 0.01


# --- Gaussian --------------------------------------------------------------------------------------------------------


def gaussian_inputs(*shape: int, seed: int = 0) -> Tensor:
    """Means and log deviations, the latter well within the limits."""
    return random(*shape, seed=seed) * torch.tensor([1.0, 0.5], dtype=DOUBLE).repeat_interleave(shape[-1] // 2)


def judge_of(inputs: Tensor) -> torch.distributions.Independent:
    mean, log_std = inputs.chunk(2, -1)
    return torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)


def test_gaussian_equals_torchs() -> None:
    dist, inputs, other = Gaussian(3), gaussian_inputs(6, 2, 6), gaussian_inputs(6, 2, 6, seed=1)
    action = 2 * random(6, 2, 3, seed=2)
    torch.testing.assert_close(dist.log_prob(inputs, action), judge_of(inputs).log_prob(action))
    torch.testing.assert_close(dist.entropy(inputs), judge_of(inputs).entropy())
    divergence = torch.distributions.kl_divergence(judge_of(inputs), judge_of(other))
    torch.testing.assert_close(dist.kl(inputs, other), divergence)
    assert torch.equal(dist.mode(inputs), inputs[..., :3])


def test_gaussian_moments() -> None:
    dist, n = Gaussian(2), 100_000
    inputs = torch.tensor([1.0, -2.0, math.log(0.5), math.log(3.0)]).expand(n, 4)
    drawn = dist.sample(inputs, dist.noise((n,), generator()))
    assert drawn.mean(0).tolist() == pytest.approx([1.0, -2.0], abs=0.04)
    assert drawn.std(0).tolist() == pytest.approx([0.5, 3.0], rel=0.02)
    assert abs(np.corrcoef(drawn.T.numpy())[0, 1]) < 0.02


def test_log_std_is_kept_within_limits() -> None:
    dist = Gaussian(1)
    at = lambda log_std: torch.tensor([[0.0, log_std]], dtype=DOUBLE)  # noqa: E731
    one = torch.ones(1, 1, dtype=DOUBLE)
    assert dist.sample(at(50.0), one).item() == pytest.approx(math.exp(2))
    assert dist.entropy(at(50.0)).item() == dist.entropy(at(2.0)).item()
    assert dist.sample(at(-50.0), one).item() == pytest.approx(math.exp(-20))


# --- SquashedGaussian ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.7, -1.0), (-2.0, 0.5)])
def test_squashed_density_integrates_to_one(mean: float, log_std: float) -> None:
    u = torch.linspace(-12, 12, 200_001, dtype=DOUBLE)
    a = u.tanh()
    inputs = torch.tensor([mean, log_std], dtype=DOUBLE).expand(len(u), 2)
    density = SquashedGaussian(1).log_prob(inputs, u.unsqueeze(1)).exp()
    assert torch.trapezoid(density, a).item() == pytest.approx(1, abs=1e-4)


def test_squashed_density_is_the_change_of_variables() -> None:
    inputs, u = gaussian_inputs(50, 4), random(50, 2, seed=1)
    plain = judge_of(inputs).log_prob(u) - torch.log(1 - u.tanh() ** 2).sum(-1)
    torch.testing.assert_close(SquashedGaussian(2).log_prob(inputs, u), plain)


def test_squashing_does_not_change_the_divergence() -> None:
    inputs, other = random(5, 4), random(5, 4, seed=1)
    torch.testing.assert_close(SquashedGaussian(2).kl(inputs, other), Gaussian(2).kl(inputs, other))


def test_squashed_entropy_of_a_narrow_gaussian_is_nearly_exact() -> None:
    inputs = torch.tensor([0.8, -5.0], dtype=DOUBLE).expand(200_000, 2)
    dist = SquashedGaussian(1)
    u = dist.sample(inputs, torch.randn(200_000, 1, generator=generator(), dtype=DOUBLE))
    sampled = -dist.log_prob(inputs, u).mean().item()
    assert dist.entropy(inputs[:1]).item() == pytest.approx(sampled, abs=0.01)


def test_log_derivative_of_tanh() -> None:
    u = torch.linspace(-5, 5, 101, dtype=DOUBLE, requires_grad=True)
    (slope,) = torch.autograd.grad(u.tanh().sum(), u)
    torch.testing.assert_close(log_tanh_derivative(u), slope.log())
    # log(1 - tanh²(20)) = log 4 - 40 to machine precision, where tanh(20) rounds to 1
    for sign in (-20.0, 20.0):
        found = log_tanh_derivative(torch.tensor(sign)).item()
        assert found == pytest.approx(math.log(4) - 40, rel=1e-6)


# --- all -------------------------------------------------------------------------------------------------------------

EVERY = [(Categorical(4), 4), (Gaussian(2), 4), (SquashedGaussian(2), 4)]


@pytest.mark.parametrize(("dist", "width"), EVERY)
def test_divergence_from_itself_is_zero_and_from_others_positive(dist: Categorical | Gaussian, width: int) -> None:
    inputs, other = random(100, width), random(100, width, seed=1)
    assert dist.kl(inputs, inputs).abs().max() < 1e-12
    assert (dist.kl(inputs, other) > 0).all()


@pytest.mark.parametrize(("dist", "width"), EVERY)
def test_divergence_is_the_mean_log_ratio(dist: Categorical | Gaussian, width: int) -> None:
    n = 200_000
    old, new = random(width).float(), (random(width) + 0.3 * random(width, seed=1)).float()
    drawn = dist.sample(old.expand(n, width), dist.noise((n,), generator()))
    ratio = dist.log_prob(old.expand(n, width), drawn) - dist.log_prob(new.expand(n, width), drawn)
    assert dist.kl(old, new).item() == pytest.approx(ratio.mean().item(), abs=4 * ratio.std().item() / math.sqrt(n))


@pytest.mark.parametrize(("dist", "width"), EVERY)
def test_same_generator_same_noise(dist: Categorical | Gaussian, width: int) -> None:
    assert torch.equal(dist.noise((3, 2), generator(5)), dist.noise((3, 2), generator(5)))
    assert not torch.equal(dist.noise((3, 2), generator(5)), dist.noise((3, 2), generator(6)))
    assert dist.sample(torch.zeros(3, 2, width), dist.noise((3, 2))).shape == (3, 2, *dist.action_shape)
    assert dist.sample(torch.zeros(3, 2, width), dist.noise((3, 2))).dtype == dist.action_dtype


def test_extreme_logits_stay_finite() -> None:
    dist = Categorical(3)
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4]], requires_grad=True)
    action = torch.tensor([1, 2])
    numbers = [dist.log_prob(logits, action), dist.entropy(logits), dist.kl(logits, logits.flip(0))]
    torch.cat(numbers).sum().backward()
    assert all(torch.isfinite(each).all() for each in numbers)
    assert torch.isfinite(logits.grad).all()
    assert dist.log_prob(logits, action).tolist() == pytest.approx([-2e4, 0.0])
    assert dist.sample(logits, dist.noise((2,))).tolist() == [0, 2]


@pytest.mark.parametrize("log_std", [-20.0, 0.0, 2.0])
def test_extreme_samples_stay_finite(log_std: float) -> None:
    dist = SquashedGaussian(2)
    inputs = torch.tensor([[20.0, -20.0, log_std, log_std]], requires_grad=True)
    u = torch.tensor([[20.0, -20.0]])
    numbers = [dist.log_prob(inputs, u), dist.entropy(inputs), dist.kl(inputs, inputs)]
    torch.cat(numbers).sum().backward()
    assert all(torch.isfinite(each).all() for each in numbers)
    assert torch.isfinite(inputs.grad).all()
