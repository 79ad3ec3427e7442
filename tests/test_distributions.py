"""Guards the action distributions.

Densities, entropies and divergences against torch.distributions and integrals.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from poise.learning.distributions import (
    MASKED,
    Bernoulli,
    Categorical,
    Distribution,
    Gaussian,
    MultiCategorical,
    Product,
    SquashedGaussian,
    log_tanh_derivative,
)

DOUBLE = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=DOUBLE)


# --- Categorical ----------------------------------------------------------------------------------


def test_categorical_equals_torchs() -> None:
    dist, logits = Categorical(5), 2 * random(4, 3, 5)
    judge = torch.distributions.Categorical(logits=logits)
    action = torch.randint(5, (4, 3), generator=generator())
    torch.testing.assert_close(dist.log_prob(logits, action), judge.log_prob(action))
    torch.testing.assert_close(dist.entropy(logits), judge.entropy())
    assert torch.equal(dist.mode(logits), logits.argmax(-1))


def test_categorical_golden_numbers() -> None:
    logits = torch.tensor([[math.log(0.5), math.log(0.25), math.log(0.25)]], dtype=DOUBLE)
    assert Categorical(3).log_prob(logits + 7, torch.tensor([1])).item() == pytest.approx(
        math.log(0.25)
    )
    assert Categorical(3).entropy(logits).item() == pytest.approx(1.5 * math.log(2))


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


# --- Gaussian -------------------------------------------------------------------------------------


def gaussian_inputs(*shape: int, seed: int = 0) -> Tensor:
    """Means and log deviations, the latter well within the limits."""
    return random(*shape, seed=seed) * torch.tensor([1.0, 0.5], dtype=DOUBLE).repeat_interleave(
        shape[-1] // 2
    )


def judge_of(inputs: Tensor) -> torch.distributions.Independent:
    mean, log_std = inputs.chunk(2, -1)
    return torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)


def test_gaussian_equals_torchs() -> None:
    dist, inputs = Gaussian(3), gaussian_inputs(6, 2, 6)
    action = 2 * random(6, 2, 3, seed=2)
    torch.testing.assert_close(dist.log_prob(inputs, action), judge_of(inputs).log_prob(action))
    torch.testing.assert_close(dist.entropy(inputs), judge_of(inputs).entropy())
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


# --- SquashedGaussian -----------------------------------------------------------------------------


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


def test_columns_that_are_not_squashed_stay_gaussian() -> None:
    inputs, u = gaussian_inputs(5, 6), random(5, 3, seed=1)
    dist, both = SquashedGaussian(3, [2, 0]), inputs[:, [0, 2, 3, 5]]
    middle = Gaussian(1)
    rest = inputs[:, [1, 4]]
    expected = SquashedGaussian(2).log_prob(both, u[:, [0, 2]]) + middle.log_prob(rest, u[:, [1]])
    torch.testing.assert_close(dist.log_prob(inputs, u), expected)
    torch.testing.assert_close(
        dist.entropy(inputs), SquashedGaussian(2).entropy(both) + middle.entropy(rest)
    )


# --- MultiCategorical -----------------------------------------------------------------------------

SIZES = [[3, 2, 5], [4, 4], [1, 3], [6]]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_multi_categorical_equals_torchs(sizes: list[int]) -> None:
    dist, width = MultiCategorical(sizes), sum(sizes)
    logits = 2 * random(4, 3, width)
    action = torch.stack([torch.randint(n, (4, 3), generator=generator(n)) for n in sizes], -1)
    each = [torch.distributions.Categorical(logits=part) for part in logits.split(sizes, -1)]
    log_prob = sum(judge.log_prob(a) for judge, a in zip(each, action.unbind(-1), strict=True))
    torch.testing.assert_close(dist.log_prob(logits, action), log_prob)
    torch.testing.assert_close(dist.entropy(logits), sum(judge.entropy() for judge in each))
    assert torch.equal(
        dist.mode(logits), torch.stack([part.argmax(-1) for part in logits.split(sizes, -1)], -1)
    )


def test_multi_categorical_golden_numbers() -> None:
    dist = MultiCategorical([2, 4])
    logits = torch.tensor([[0.75, 0.25, 0.5, 0.25, 0.125, 0.125]], dtype=DOUBLE).log()
    found = dist.log_prob(logits + torch.tensor([1.0, 1, -3, -3, -3, -3]), torch.tensor([[1, 2]]))
    assert found.item() == pytest.approx(math.log(0.25 * 0.125))
    first = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert dist.entropy(logits).item() == pytest.approx(first + 1.75 * math.log(2))


def test_multi_categorical_frequencies() -> None:
    n, p = 100_000, torch.tensor([0.1, 0.9, 0.2, 0.3, 0.5])
    dist = MultiCategorical([2, 3])
    drawn = dist.sample(p.log().expand(n, 5), dist.noise((n,), generator(1)))
    first, second = (torch.bincount(column, minlength=3) / n for column in drawn.T)
    assert (torch.cat([first[:2], second]) - p).abs().max() < 4 * math.sqrt(0.25 / n)
    assert abs(np.corrcoef(drawn.T.numpy())[0, 1]) < 0.02


@pytest.mark.parametrize("shift", [0.0, 1e25, -1e25])
def test_choices_that_do_not_exist_are_never_drawn(shift: float) -> None:
    dist = MultiCategorical([2, 30, 1])
    logits = torch.full((500, 33), shift)
    drawn = dist.sample(logits, dist.noise((500,), generator()))
    assert (drawn.amax(0) <= torch.tensor([1, 29, 0])).all()
    assert torch.isfinite(dist.log_prob(logits, drawn)).all()


# --- Bernoulli ------------------------------------------------------------------------------------


def test_bernoulli_equals_torchs() -> None:
    dist, logits = Bernoulli(3), 3 * random(5, 2, 3)
    action = torch.randint(2, (5, 2, 3), generator=generator())
    judge = torch.distributions.Bernoulli(logits=logits)
    torch.testing.assert_close(
        dist.log_prob(logits, action), judge.log_prob(action.double()).sum(-1)
    )
    torch.testing.assert_close(dist.entropy(logits), judge.entropy().sum(-1))
    assert torch.equal(dist.mode(logits), (logits > 0).long())


def test_bernoulli_golden_numbers_and_frequencies() -> None:
    logits = torch.tensor([math.log(3), -math.log(3)])  # 3/4 and 1/4
    dist, n = Bernoulli(2), 100_000
    assert dist.log_prob(logits, torch.tensor([1, 1])).item() == pytest.approx(math.log(3 / 16))
    drawn = dist.sample(logits.expand(n, 2), dist.noise((n,), generator())).float()
    assert drawn.mean(0).tolist() == pytest.approx([0.75, 0.25], abs=4 * math.sqrt(0.25 / n))
    assert abs(np.corrcoef(drawn.T.numpy())[0, 1]) < 0.02


# --- Product --------------------------------------------------------------------------------------


def test_product_is_its_parts_side_by_side() -> None:
    parts: list[Distribution] = [
        Categorical(4),
        MultiCategorical([2, 3]),
        Bernoulli(2),
        Gaussian(2),
    ]
    dist, widths = Product(parts), [4, 5, 2, 4]
    assert (dist.num_inputs, dist.action_shape, dist.action_dtype) == (
        15,
        (1 + 2 + 2 + 2,),
        torch.float32,
    )
    inputs, noise = random(6, 3, 15), dist.noise((6, 3), generator())
    assert noise.shape[-1] == dist.noise_size == 4 + 6 + 2 + 2
    action = dist.sample(inputs, noise)
    split = inputs.split(widths, -1)
    drawn = [
        part.sample(i, z)
        for part, i, z in zip(parts, split, noise.split([4, 6, 2, 2], -1), strict=True)
    ]
    expected = torch.cat([drawn[0].unsqueeze(-1), *drawn[1:]], -1)
    torch.testing.assert_close(action, expected.to(action.dtype))
    for found, each in (
        (
            dist.log_prob(inputs, action),
            [p.log_prob(i, a) for p, i, a in zip(parts, split, drawn, strict=True)],
        ),
        (dist.entropy(inputs), [p.entropy(i) for p, i in zip(parts, split, strict=True)]),
    ):
        torch.testing.assert_close(found, sum(each))
    assert not dist.normal_noise
    assert Product([Gaussian(1), SquashedGaussian(1)]).normal_noise


def test_integers_in_a_product_are_exact() -> None:
    n = 2**24
    dist = Product([Categorical(n), Gaussian(1)])
    logits = torch.zeros(1, n + 2)
    logits[0, n - 1] = 5
    assert int(dist.mode(logits)[0, 0]) == n - 1


# --- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dist",
    [Categorical(4), MultiCategorical([4]), MultiCategorical([4, 2])],
    ids=["one", "one of many", "two"],
)
def test_masked_choices_have_no_probability_at_all(dist: Categorical | MultiCategorical) -> None:
    inputs = random(1000, dist.num_inputs).float()
    inputs[:, [1, 3]] = MASKED
    drawn = dist.sample(inputs, dist.noise((1000,), generator())).view(1000, -1)
    assert set(drawn[:, 0].tolist()) == {0, 2}
    small = Categorical(2).entropy(inputs[:, [0, 2]])
    rest = Categorical(2).entropy(inputs[:, 4:]) if dist.num_inputs > 4 else 0
    torch.testing.assert_close(dist.entropy(inputs), small + rest)


# --- all ------------------------------------------------------------------------------------------

EVERY = [
    (Categorical(4), 4),
    (Gaussian(2), 4),
    (SquashedGaussian(2), 4),
    (SquashedGaussian(2, [1]), 4),
    (MultiCategorical([3, 2]), 5),
    (MultiCategorical([2, 2]), 4),
    (Bernoulli(3), 3),
    (Product([Categorical(3), Bernoulli(1), Gaussian(2)]), 8),
]


@pytest.mark.parametrize(("dist", "width"), EVERY)
def test_same_generator_same_noise(dist: Distribution, width: int) -> None:
    assert torch.equal(dist.noise((3, 2), generator(5)), dist.noise((3, 2), generator(5)))
    assert not torch.equal(dist.noise((3, 2), generator(5)), dist.noise((3, 2), generator(6)))
    assert dist.sample(torch.zeros(3, 2, width), dist.noise((3, 2))).shape == (
        3,
        2,
        *dist.action_shape,
    )
    assert dist.sample(torch.zeros(3, 2, width), dist.noise((3, 2))).dtype == dist.action_dtype


def test_extreme_logits_stay_finite() -> None:
    dist = Categorical(3)
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4]], requires_grad=True)
    action = torch.tensor([1, 2])
    numbers = [dist.log_prob(logits, action), dist.entropy(logits)]
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
    numbers = [dist.log_prob(inputs, u), dist.entropy(inputs)]
    torch.cat(numbers).sum().backward()
    assert all(torch.isfinite(each).all() for each in numbers)
    assert torch.isfinite(inputs.grad).all()
