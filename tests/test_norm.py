"""Guards critics with norms: batch renormalisation by its formula, and CrossQ's joint pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.config.model import ModelConfig
from poise.config.resolve import resolve
from poise.errors import ConfigError
from poise.models.critics import Critics
from poise.models.norm import BatchRenorm, NormedMLP
from poise.training.trainer import Trainer

Make = Callable[..., Trainer]

SMALL: dict[str, Any] = {
    "preset": None, "seed": 3, "num_envs_per_worker": 2, "train_batch_size": 16,
    "learning_starts": 60, "buffer_size": 400, "timesteps_per_iteration": 100,
    "learner_dtype": "float32", "model": {"fcnet_hiddens": [16, 16]},
}  # fmt: skip


def renorm(size: int = 5, warm_up: int = 0) -> BatchRenorm:
    """A norm in float64 that has seen something, with γ and β of its own."""
    norm = BatchRenorm(size, warm_up).double()
    for name, tensor in {**dict(norm.named_parameters()), **dict(norm.named_buffers())}.items():
        if name != "steps":
            tensor.data.copy_(torch.rand(size) + 0.5)
    return norm


@pytest.mark.parametrize("shift", [0.1, 100.0])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 30.0])
def test_batch_renormalisation_is_the_papers_formula(shift: float, scale: float) -> None:
    """Value, gradients and running statistics, within the bounds of r and d and beyond them."""
    torch.manual_seed(0)
    norm = renorm()
    x = (torch.randn(40, 5, dtype=torch.float64) * scale + shift).requires_grad_()
    mean, var = norm.mean.clone(), norm.var.clone()
    mu, sigma = x.mean(0), (x.var(0, correction=0) + 1e-3).sqrt()
    r = (sigma / (var + 1e-3).sqrt()).clamp(1 / 3, 3).detach()
    d = ((mu - mean) / (var + 1e-3).sqrt()).clamp(-5, 5).detach()
    assert bool((d == 5).all()) is (shift == 100)
    assert bool(((r == 3) | (r == 1 / 3)).all()) is (scale != 1)
    expected = norm.weight * ((x - mu) / sigma * r + d) + norm.bias
    grad, given = torch.randn_like(x), [x, *norm.parameters()]
    exact = torch.autograd.grad(expected, given, grad)
    found = norm(x)
    assert torch.allclose(found, expected, atol=1e-10)
    for ours, theirs in zip(torch.autograd.grad(found, given, grad), exact, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-8)
    assert torch.allclose(norm.mean, mean + 0.01 * (mu - mean))
    assert torch.allclose(norm.var, var + 0.01 * (x.var(0, correction=0) - var))
    assert norm.steps == 1
    norm.eval()
    inside = norm.weight * (x - norm.mean) / (norm.var + 1e-3).sqrt() + norm.bias
    assert torch.allclose(norm(x), inside)
    assert norm.steps == 1


def test_at_first_it_is_batch_normalisation() -> None:
    torch.manual_seed(0)
    norm, torchs = renorm(warm_up=3), nn.BatchNorm1d(5, eps=1e-3, momentum=0.01).double()
    with torch.no_grad():
        for ours, theirs in zip(norm.parameters(), torchs.parameters(), strict=True):
            theirs.copy_(ours)
    torchs.running_mean.copy_(norm.mean)  # type: ignore[union-attr]
    for step in range(4):
        x = torch.randn(16, 5, dtype=torch.float64) + 1
        same = torch.allclose(norm(x), torchs(x))
        assert same is (step < 3)
        assert torch.allclose(norm.mean, torchs.running_mean)  # type: ignore[arg-type]


def test_a_batch_that_overflowed_leaves_no_trace_in_the_statistics() -> None:
    norm = BatchRenorm(2)
    norm(torch.tensor([[1.0, 2.0], [1e30, 4.0]]))
    assert norm.steps == 0
    assert norm.mean.tolist() == [0, 0]
    assert norm.var.tolist() == [1, 1]


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_norms_stand_where_the_papers_have_them(norm: str, dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    network, x = NormedMLP([70, 80, 90, 3], "relu", norm).eval(), torch.randn(800, 70)
    first, second, last = network.layers
    if norm == "layer":
        order = [first, network.norms[0], nn.ReLU(), second, network.norms[1], nn.ReLU(), last]
    else:
        a, b, c = network.norms
        order = [a, first, nn.ReLU(), b, second, nn.ReLU(), c, last]
    exact, found = nn.Sequential(*order)(x), network(x, dtype)
    assert torch.equal(found, exact) is (dtype is None)
    assert torch.allclose(found, exact, atol=0.05)


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("encoded", [False, True])
def test_one_pass_over_both_pairs(norm: str, encoded: bool) -> None:
    """Gradients are those of the first half, through statistics of both."""
    torch.manual_seed(0)
    encoder = (nn.Linear(4, 6), 6) if encoded else (None, 4)
    critics = Critics(encoder, 2, 3, 2, ModelConfig([8, 8]), norm).eval()
    for parameter in critics.parameters():
        parameter.grad = torch.zeros_like(parameter)
    pairs = torch.randn(6, 4), torch.randn(6, 2), torch.randn(6, 4) + 2, torch.randn(6, 2)
    grad, plain = torch.randn(2, 6, 3), copy.deepcopy(critics).train()
    both = plain(torch.cat(pairs[::2]), torch.cat(pairs[1::2]))
    expected = torch.autograd.grad(both[:, :6], [*plain.parameters()], grad)
    with torch.no_grad():
        q, backward, next_q = critics.trace_both(*pairs)
        backward(grad)
    assert torch.allclose(torch.cat([q, next_q], 1), both, atol=1e-6)
    for parameter, exact in zip(critics.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, exact, atol=1e-5)
    for ours, theirs in zip(critics.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert not any(module.training for module in critics.modules())


def statistics(critics: nn.Module) -> list[Tensor]:
    return [buffer.clone() for buffer in critics.buffers()]


def test_only_the_critics_own_step_moves_their_statistics(trainer: Make) -> None:
    made = trainer("CrossQ", "Pendulum-v1", **SMALL)
    made.learn(total_timesteps=100)
    algorithm: Any = made.algorithm
    assert algorithm.targets == {}
    [m] = algorithm.minibatches(algorithm.replay, 1)
    for step, moves in ((algorithm.update_actor, False), (algorithm.update_critics, True)):
        before = statistics(algorithm.critics)
        with torch.no_grad():
            step(m)
        for old, new in zip(before, statistics(algorithm.critics), strict=True):
            assert torch.equal(old, new) is not moves


def test_the_target_is_by_the_critics_themselves(trainer: Make) -> None:
    made = trainer("CrossQ", "Pendulum-v1", **SMALL)
    made.learn(total_timesteps=100)
    algorithm: Any = made.algorithm
    [m] = algorithm.minibatches(algorithm.replay, 1)
    plain, ε = copy.deepcopy(algorithm.critics).train(), torch.randn(16, 1)
    algorithm.noise = lambda x: ε
    with torch.no_grad():
        drawn = algorithm.act_on(m.next_x)
        numbers, _ = algorithm.policy.soft.replayed(m.action)
        q, next_q = plain(torch.cat([m.x, m.next_x]), torch.cat([numbers, drawn.numbers])).chunk(
            2, 1
        )
        y = m.reward + m.discount * (next_q.amin(0)[:, 0] - algorithm.alpha * drawn.log_prob)
        learnt = algorithm.update(m)
    assert torch.allclose(learnt.error, q[..., 0].mean(0) - y, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("SAC", {"critic_norm": "layer"}),
        ("SAC", {"critic_norm": "layer", "target_networks": False}),
        ("TQC", {"critic_norm": "batch"}),
        ("TD3", {"critic_norm": "batch", "prioritized_replay": True}),
    ],
)
def test_norms_go_with_the_others(trainer: Make, name: str, settings: dict[str, Any]) -> None:
    made = trainer(name, "Pendulum-v1", **SMALL, **settings)
    algorithm: Any = made.algorithm
    assert bool(algorithm.targets) is algorithm.config.target_networks
    for _ in range(2):
        result = made.train()
    assert result["learner/sgd_steps"] > 0
    assert result["learner/skipped_updates"] == 0
    assert not any(module.training for module in algorithm.critics.modules())


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"target_networks=True does not go with .*'batch'"):
        resolve("CrossQ", "Pendulum-v1", {"target_networks": True})
    with pytest.raises(ConfigError, match=r"target_networks=False .* give critic_norm 'batch'"):
        resolve("SAC", "Pendulum-v1", {"target_networks": False})
    with pytest.raises(ConfigError, match=r"'layer_norm'. Give critic_norm"):
        resolve("SAC", "Pendulum-v1", {"layer_norm": True})
