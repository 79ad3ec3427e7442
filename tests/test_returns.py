"""Guards the one recursion for advantages.

Golden numbers, independent definitions, bootstrapping, reset rows.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from poise.learning.returns import advantages, vtrace_policy_advantages


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def flags(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool).unsqueeze(1)


def random_rollout(seed: int, steps: int = 12, slots: int = 3) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)

    def numbers() -> Tensor:
        return torch.from_numpy(rng.standard_normal((steps, slots)))

    def rare() -> Tensor:
        return torch.from_numpy(rng.random((steps, slots)) < 0.2)

    return {
        "reward": numbers(),
        "value": numbers(),
        "next_value": numbers(),
        "terminated": rare(),
        "truncated": rare(),
        "ratio": torch.from_numpy(np.exp(0.7 * rng.standard_normal((steps, slots)))),
    }


def without_ratio(rollout: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in rollout.items() if key != "ratio"}


def naive_gae(rollout: dict[str, Tensor], gamma: float, lambda_: float) -> np.ndarray:
    """Each advantage as a forward sum over the rest of its episode, one environment at a time."""
    r, v, v_next = (rollout[k].numpy() for k in ("reward", "value", "next_value"))
    term, trunc = rollout["terminated"].numpy(), rollout["truncated"].numpy()
    result = np.zeros_like(r)
    for b in range(r.shape[1]):
        for start in range(r.shape[0]):
            total, weight = 0.0, 1.0
            for t in range(start, r.shape[0]):
                after = 0.0 if term[t, b] else v_next[t, b]
                total += weight * (r[t, b] + gamma * after - v[t, b])
                if term[t, b] or trunc[t, b]:
                    break
                weight *= gamma * lambda_
            result[start, b] = total
    return result


def test_golden_numbers() -> None:
    # γ = 0.5, λ = 0.5. δ = (1 + .5 x 4 - 2, 2 + .5 x 6 - 4, 3 + .5 x 8 - 6) = (1, 1, 1)
    # A_2 = 1;  A_1 = 1 + .25 x 1;  A_0 = 1 + .25 x 1.25
    found = advantages(
        column(1, 2, 3),
        column(2, 4, 6),
        column(4, 6, 8),
        flags(0, 0, 0),
        flags(0, 0, 0),
        gamma=0.5,
        lambda_=0.5,
    )
    assert found.flatten().tolist() == [1.3125, 1.25, 1.0]


def test_golden_numbers_at_ends_of_episodes() -> None:
    kwargs = {"gamma": 0.5, "lambda_": 0.5}
    rewards, values, after = column(1, 2, 3), column(2, 4, 6), column(4, 6, 8)
    no = flags(0, 0, 0)
    # terminated at 1: δ_1 = 2 - 4 = -2, nothing of row 2 flows back
    assert advantages(rewards, values, after, flags(0, 1, 0), no, **kwargs).flatten().tolist() == [
        0.5,
        -2.0,
        1.0,
    ]
    # truncated at 1: δ_1 = 2 + .5 x 6 - 4 = 1, nothing of row 2 flows back
    assert advantages(rewards, values, after, no, flags(0, 1, 0), **kwargs).flatten().tolist() == [
        1.25,
        1.0,
        1.0,
    ]
    # both: terminated wins
    both = advantages(rewards, values, after, flags(0, 1, 0), flags(0, 1, 0), **kwargs)
    assert both.flatten().tolist() == [0.5, -2.0, 1.0]
    # terminated in the last row: δ_2 = 3 - 6
    assert advantages(rewards, values, after, flags(0, 0, 1), no, **kwargs).flatten().tolist() == [
        1.0625,
        0.25,
        -3.0,
    ]


@pytest.mark.parametrize("seed", range(30))
def test_equals_a_naive_double_loop(seed: int) -> None:
    rollout = random_rollout(seed)
    gamma, lambda_ = np.random.default_rng(seed).random(2)
    found = advantages(**without_ratio(rollout), gamma=gamma, lambda_=lambda_)
    np.testing.assert_allclose(found.numpy(), naive_gae(rollout, gamma, lambda_), atol=1e-12)


def test_lambda_0_is_the_one_step_error() -> None:
    rollout = random_rollout(0)
    found = advantages(**without_ratio(rollout), gamma=0.9, lambda_=0)
    going_on = 1 - rollout["terminated"].double()
    expected = rollout["reward"] + 0.9 * going_on * rollout["next_value"] - rollout["value"]
    torch.testing.assert_close(found, expected)


def test_lambda_1_is_the_discounted_return_less_the_value() -> None:
    reward, value = column(1, 10, 100), column(5, 6, 7)
    after = column(6, 7, 1000)
    none = flags(0, 0, 0)
    found = advantages(reward, value, after, none, none, gamma=0.5, lambda_=1.0)
    returns = [
        1 + 0.5 * 10 + 0.25 * 100 + 0.125 * 1000,
        10 + 0.5 * 100 + 0.25 * 1000,
        100 + 0.5 * 1000,
    ]
    torch.testing.assert_close(found + value, column(*returns))


def fixed_point(terminated: bool, gamma: float = 0.9, steps: int = 5) -> float:
    """The value that one shared V converges to, with reward 1 and episodes of `steps` steps."""
    value = 0.0
    end = flags(*[0] * (steps - 1), 1)
    no = torch.zeros_like(end)
    ones = torch.ones_like(end, dtype=torch.float64)
    for _ in range(2000):
        ends = (end, no) if terminated else (no, end)
        found = advantages(ones, ones * value, ones * value, *ends, gamma=gamma, lambda_=0.95)
        value += 0.5 * found.mean().item()
    return value


def test_a_time_limit_does_not_change_the_value_but_an_end_does() -> None:
    assert fixed_point(terminated=False) == pytest.approx(1 / (1 - 0.9), rel=1e-9)
    # All five rows share one V, and the last one's target is 1: far below 10, and near the mean of
    # a five-step return.
    assert 2 < fixed_point(terminated=True) < 5


@pytest.mark.parametrize("nonsense", [1e30, -1e30])
def test_reset_rows_do_not_leak_into_valid_ones(nonsense: float) -> None:
    rollout = random_rollout(1, steps=20)
    done = rollout["terminated"] | rollout["truncated"]
    reset = torch.zeros_like(done)
    for t in range(1, 20):
        reset[t] = done[t - 1] & ~reset[t - 1]
    assert reset.sum() > 5
    for key in ("terminated", "truncated"):
        rollout[key] &= ~reset
    clean = advantages(**without_ratio(rollout), gamma=0.99, lambda_=0.95)
    # The value of a reset row is that of the final observation: it counts.
    for key in ("reward", "next_value"):
        rollout[key][reset] = nonsense
    dirty = advantages(**without_ratio(rollout), gamma=0.99, lambda_=0.95)
    assert torch.equal(clean[~reset], dirty[~reset])


def vtrace_by_definition(
    rollout: dict[str, Tensor], gamma: float, rho_bar: float, c_bar: float, lambda_: float
) -> np.ndarray:
    """V-trace with every sum and product written out.

    v_s = V(x_s) + Σ_t γ^(t-s) (Π_{i<t} c_i) ρ_t (r_t + γ V(x_{t+1}) - V(x_t))
    """
    r, v, v_next = (rollout[k].numpy() for k in ("reward", "value", "next_value"))
    term, done = (
        rollout["terminated"].numpy(),
        (rollout["terminated"] | rollout["truncated"]).numpy(),
    )
    ratio = rollout["ratio"].numpy()
    steps, slots = r.shape
    result = np.zeros_like(r)
    for b in range(slots):
        for s in range(steps):
            result[s, b] = v[s, b]
            for t in range(s, steps):
                if done[s:t, b].any():
                    break
                product = np.prod([lambda_ * min(c_bar, ratio[i, b]) for i in range(s, t)])
                error = r[t, b] + gamma * (1 - term[t, b]) * v_next[t, b] - v[t, b]
                result[s, b] += gamma ** (t - s) * product * min(rho_bar, ratio[t, b]) * error
    return result


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("rho_bar", "c_bar", "lambda_"), [(1.0, 1.0, 1.0), (2.0, 1.0, 0.9), (1.5, 0.5, 1.0)]
)
def test_vtrace_targets_equal_their_definition(
    seed: int, rho_bar: float, c_bar: float, lambda_: float
) -> None:
    rollout = random_rollout(seed)
    rho, c = rollout["ratio"].clamp(max=rho_bar), rollout["ratio"].clamp(max=c_bar)
    found = (
        advantages(**without_ratio(rollout), gamma=0.95, lambda_=lambda_, rho=rho, c=c)
        + rollout["value"]
    )
    expected = vtrace_by_definition(rollout, 0.95, rho_bar, c_bar, lambda_)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_vtrace_on_policy_is_the_n_step_return() -> None:
    rollout = random_rollout(2)
    ones = torch.ones_like(rollout["reward"])
    with_weights = advantages(**without_ratio(rollout), gamma=0.95, lambda_=1.0, rho=ones, c=ones)
    torch.testing.assert_close(
        with_weights, advantages(**without_ratio(rollout), gamma=0.95, lambda_=1.0)
    )


def test_vtrace_policy_advantage() -> None:
    found = vtrace_policy_advantages(
        column(1, 2), column(3, 4), column(5, 6), flags(0, 1), gamma=0.5, rho=column(0.5, 2.0)
    )
    assert found.flatten().tolist() == [0.5 * (1 + 0.5 * 5 - 3), 2.0 * (2 - 4)]


def test_arguments_are_left_alone() -> None:
    rollout = random_rollout(3)
    before = {key: value.clone() for key, value in rollout.items()}
    ratio = rollout["ratio"]
    advantages(**without_ratio(rollout), gamma=0.9, lambda_=0.9, rho=ratio, c=ratio)
    vtrace_policy_advantages(
        rollout["reward"],
        rollout["value"],
        rollout["next_value"],
        rollout["terminated"],
        gamma=0.9,
        rho=ratio,
    )
    assert all(torch.equal(rollout[key], before[key]) for key in rollout)
