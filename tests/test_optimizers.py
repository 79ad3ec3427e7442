"""Guards the optimisers: torch.optim is the judge, and must not be needed by training itself."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from poise.errors import DivergedError
from poise.learning.learner import Learner
from poise.learning.optimizers import Adam, Flat, RMSProp

MAKERS = {
    "Adam": (Adam, lambda p: torch.optim.Adam(p, lr=1.0, eps=1e-5)),
    "Adam, other betas": (
        lambda flat: Adam(flat, betas=(0.5, 0.9), eps=1e-3),
        lambda p: torch.optim.Adam(p, lr=1.0, betas=(0.5, 0.9), eps=1e-3),
    ),
    "RMSProp": (RMSProp, lambda p: torch.optim.RMSprop(p, lr=1.0, alpha=0.99, eps=1e-5)),
    "RMSProp, other decay": (
        lambda flat: RMSProp(flat, decay=0.5, eps=1e-2),
        lambda p: torch.optim.RMSprop(p, lr=1.0, alpha=0.5, eps=1e-2),
    ),
}


def network(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)


def objective(module: nn.Module, step: int) -> torch.Tensor:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    loss: torch.Tensor = ((module(x) - x[:, :2]) ** 2).mean()
    return loss


@pytest.mark.parametrize(("ours", "judge"), MAKERS.values(), ids=MAKERS.keys())
def test_twenty_steps_equal_torchs(ours: Callable[..., Any], judge: Callable[..., Any]) -> None:
    module, other = network(), network()
    flat = Flat(module)
    optimizer, reference = ours(flat), judge(other.parameters())
    for step in range(20):
        lr = 1e-2 / (1 + step)  # it may change between steps
        flat.zero_grad()
        objective(module, step).backward()
        optimizer.step(lr)
        reference.zero_grad()
        reference.param_groups[0]["lr"] = lr
        objective(other, step).backward()
        reference.step()
    for found, expected in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("limit", [0.01, 0.5, 1e6, None])
def test_gradient_clipping_equals_torchs(limit: float | None) -> None:
    module, other = network(), network()
    flat = Flat(module)
    (100 * objective(module, 0)).backward()
    (100 * objective(other, 0)).backward()
    judged = nn.utils.clip_grad_norm_(other.parameters(), 1e30 if limit is None else limit)
    assert flat.clip_grad_norm(limit) == pytest.approx(judged.item())
    torch.testing.assert_close(flat.grad, torch.cat([p.grad.flatten() for p in other.parameters()]))
    if limit is not None and limit < 1:
        assert flat.grad.norm().item() == pytest.approx(limit, rel=1e-3)


def test_module_and_vector_are_one() -> None:
    module = network()
    before = torch.cat([p.detach().flatten() for p in module.parameters()])
    flat = Flat(module)
    assert torch.equal(flat.data, before)
    flat.data += 1
    assert torch.equal(torch.cat([p.detach().flatten() for p in module.parameters()]), before + 1)
    with torch.no_grad():
        next(module.parameters()).fill_(7)
    assert flat.data[:15].tolist() == [7] * 15
    module.load_state_dict(network(seed=1).state_dict())
    assert torch.equal(
        flat.data, torch.cat([p.detach().flatten() for p in network(seed=1).parameters()])
    )


def test_gradients_add_up_until_cleared() -> None:
    module = network()
    flat = Flat(module)
    objective(module, 0).backward()
    once = flat.grad.clone()
    assert once.abs().sum() > 0
    objective(module, 0).backward()
    torch.testing.assert_close(flat.grad, 2 * once)
    flat.zero_grad()
    assert all(p.grad.abs().sum() == 0 for p in module.parameters())


def test_frozen_parameters_are_left_out() -> None:
    module = network()
    module[0].weight.requires_grad_(False)
    frozen = module[0].weight.clone()
    flat = Flat(module)
    assert len(flat.data) == 5 + 10 + 2
    objective(module, 0).backward()
    Adam(flat).step(0.1)
    assert torch.equal(module[0].weight, frozen)


@pytest.mark.parametrize("kind", [Adam, RMSProp])
def test_state_survives_a_round_trip(kind: type) -> None:
    def steps(module: nn.Module, optimizer: Any, first: int, last: int) -> None:
        for step in range(first, last):
            optimizer.flat.zero_grad()
            objective(module, step).backward()
            optimizer.step(0.01)

    module, straight = network(), network()
    through = kind(Flat(straight))
    steps(straight, through, 0, 10)
    optimizer = kind(Flat(module))
    steps(module, optimizer, 0, 4)
    state = {
        k: v.clone() if isinstance(v, torch.Tensor) else v
        for k, v in optimizer.state_dict().items()
    }
    resumed = kind(Flat(module))
    resumed.load_state_dict(state)
    steps(module, resumed, 4, 10)
    assert torch.equal(resumed.flat.data, through.flat.data)


@pytest.mark.slow
def test_training_never_imports_the_compiler() -> None:
    code = (
        "import sys, poise\nfor make in (poise.PPO, poise.A2C):\n    made = make('CartPole-v1',"
        " num_envs=2, n_steps=8, timesteps_per_iteration=0, progress=False)\n    made.train();"
        " made.evaluate(1); made.close()\nprint(sorted(m for m in sys.modules if"
        " m.startswith(('torch._dynamo', 'torch._inductor'))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_learner_goes_on_counting_what_it_skipped() -> None:
    """Six gradients in a row that are not finite, a checkpoint, and four more."""
    learners = [Learner(network(0), Adam) for _ in range(2)]
    for learner in learners:
        learner.flat.grad.fill_(math.nan)
    for _ in range(6):
        assert math.isnan(learners[0].step(0.1))
    learners[1].load_state_dict(learners[0].state_dict())
    for _ in range(3):
        learners[1].step(0.1)
    with pytest.raises(DivergedError, match="10 times in a row"):
        learners[1].step(0.1)
    assert (learners[1].skipped, learners[1].updates) == (10, 0)
    learners[1].flat.grad.fill_(1.0)
    learners[1].step(0.1)
    assert (learners[1].skipped_in_a_row, learners[1].updates) == (0, 1)
    learners[1].flat.grad.fill_(math.nan)
    learners[1].step(0.1)  # the count begins anew
