"""Learning on a second device.

There is no GPU where tests run, so PyTorch's `lazy` one stands in for it: like a GPU, it computes
nothing with tensors of the processor, and says so; unlike one, it is there.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch._lazy
import torch._lazy.ts_backend
from gymnasium import spaces

import poise
from poise.learning import device
from poise.learning.optimizers import Adam
from poise.models.encoders import fastest_conv_dtype
from poise.spaces.layout import Layout
from tiers import few

LAZY = torch.device("lazy")


start = functools.cache(torch._lazy.ts_backend.init)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU to learn on."""
    start()
    monkeypatch.setattr("poise.algorithms.base.GPU", LAZY)
    monkeypatch.setattr(device, "available", lambda: True)
    monkeypatch.setattr(Adam, "step", on_the_processor(Adam.step))
    # It forgets what is written through these views.
    monkeypatch.setattr(
        torch.Tensor,
        "unbind",
        lambda self, dim=0: [self.select(dim, i) for i in range(self.shape[dim])],
    )
    monkeypatch.setattr("torch.split", split)
    monkeypatch.setattr(
        torch.Tensor, "chunk", lambda self, n, dim: split(self, [self.shape[dim] // n] * n, dim)
    )


def split(x: torch.Tensor, sizes: int | Sequence[int], dim: int = 0) -> list[torch.Tensor]:
    if isinstance(sizes, int):
        starts = range(0, x.shape[dim], sizes)
        sizes = [min(sizes, x.shape[dim] - start) for start in starts]
    ends = itertools.accumulate(sizes)
    return [x.narrow(dim, end - size, size) for end, size in zip(ends, sizes, strict=True)]


def on_the_processor(step: Callable[..., None]) -> Callable[..., None]:
    """An optimiser's step with copies on the processor: this device has no fused one."""

    def stepping(self: Adam, lr: float) -> None:
        tensors = {
            name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        data, grad = self.flat.data, self.flat.grad
        kinds = {t.device.type for t in (data, grad, *tensors.values())}
        assert len(kinds) == 1
        if kinds == {"cpu"}:
            step(self, lr)
            return
        self.flat.data, self.flat.grad = data.cpu(), grad.cpu()
        vars(self).update({name: value.cpu() for name, value in tensors.items()})
        step(self, lr)
        data.copy_(self.flat.data)
        self.flat.data, self.flat.grad = data, grad
        for name, value in tensors.items():
            value.copy_(getattr(self, name))
        vars(self).update(tensors)

    return stepping


SMALL = {
    "num_envs": 4, "seed": 0, "preset": None, "progress": False, "normalize_observations": True,
    "normalize_rewards": True, "model": {"fcnet_hiddens": [16]},
}  # fmt: skip
REPLAY = {
    "learning_starts": 32, "timesteps_per_iteration": 48, "train_batch_size": 16,
    "gradient_steps": 1,
}  # fmt: skip
OF_EACH: dict[str, dict[str, Any]] = {
    "PPO": {"rollout_fragment_length": 16, "num_sgd_iter": 2},
    "A2C": {"rollout_fragment_length": 8, "timesteps_per_iteration": 64},
    "DQN": REPLAY,
    "IMPALA": {"rollout_fragment_length": 16, "timesteps_per_iteration": 128},
    "APPO": {"rollout_fragment_length": 16, "timesteps_per_iteration": 128, "num_sgd_iter": 2},
    "SAC": REPLAY,
}
CELLS = {
    "memory": "gru", "lstm_cell_size": 8, "fcnet_hiddens": [16], "max_seq_len": 6,
    "lstm_use_prev_action": True, "lstm_use_prev_reward": True,
}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {
    "prioritized": {"prioritized_replay": True, "dueling": True, "n_step": 3},
    "rmsprop": {"opt_type": "rmsprop"},
}
CASES = [
    *((name, {}) for name in OF_EACH if name != "SAC"),
    ("SAC", {"critic_norm": "batch", "num_quantiles": 5, "top_quantiles_to_drop": 1}),
    ("DQN", MORE["prioritized"]),
    ("IMPALA", MORE["rmsprop"]),
    ("PPO", {"model": CELLS}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "more"), few(*CASES[:3], CASES[5], of=CASES))
def test_learning_elsewhere_is_learning_the_same(
    gpu: None, tmp_path: Path, name: str, more: dict[str, Any]
) -> None:
    """On both devices the same steps, and all but the same parameters.

    A checkpoint of one is good for the other.
    """
    found = []
    for num_gpus in (1, 0):
        algo = poise.make_trainer(
            name, "CartPole-v1", num_gpus=num_gpus, **{**SMALL, **OF_EACH[name], **more}
        )
        with algo:
            results = [algo.train() for _ in range(2)]
            assert algo.policy.device.type == ("lazy" if num_gpus else "cpu")
            assert all(
                math.isfinite(results[-1][key])
                for key in ("learner/grad_norm", "episode_reward_mean")
            )
            path = algo.save(tmp_path / f"{num_gpus}")
            found.append([value.cpu() for value in algo.policy.state_dict().values()])
            action = algo.compute_action(np.zeros(4, np.float32), explore=False)
        again = poise.load(path)
        assert again.policy.device.type == ("lazy" if num_gpus else "cpu")
        assert again.compute_action(np.zeros(4, np.float32), explore=False) == action
        assert all(
            map(torch.equal, [v.cpu() for v in again.policy.state_dict().values()], found[-1])
        )
        again.close()
    if name not in ("IMPALA", "APPO"):  # which rollout meets which parameters is chance
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-2)


class Rich(gym.Env):
    """Observations and actions of every kind."""

    observation_space = spaces.Dict({
        "picture": spaces.Box(0, 255, (12, 12, 1), np.uint8),
        "numbers": spaces.Box(-1, 1, (3,), np.float32),
        "choices": spaces.MultiDiscrete([2, 3]),
        "many": spaces.Discrete(2000),
        "bits": spaces.MultiBinary(2),
    })  # fmt: skip
    action_space = spaces.Dict({
        "choices": spaces.MultiDiscrete([2, 3]), "bits": spaces.MultiBinary(2),
        "force": spaces.Box(-1, 1, (2,)),
    })  # fmt: skip

    def reset(self, **_: Any) -> Any:
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps == 5, False, {}


@pytest.mark.parametrize("name", ["PPO", "A2C", "IMPALA", "SAC"])
def test_every_space_finds_its_way_to_the_device(gpu: None, name: str) -> None:
    model = {
        "fcnet_hiddens": [8],
        "conv_dtype": "float32",
        "action_distribution": "squashed_gaussian",
    }
    settings = {**SMALL, **OF_EACH[name], "model": model}
    if name != "SAC":
        settings["entropy_coeff"] = 0.01
    with poise.make_trainer(name, lambda config: Rich(), num_gpus=1, **settings) as algo:
        result = algo.train()
        assert math.isfinite(result["learner/grad_norm"])
        assert result["learner/grad_norm"] > 0
        assert algo.evaluate(1)["episode_len_mean"] == 5


@pytest.mark.parametrize(("multiplies", "numbers"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_convolves_in_what_it_multiplies(
    monkeypatch: pytest.MonkeyPatch, multiplies: bool, numbers: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: multiplies)
    leaves = Layout(spaces.Box(0, 255, (12, 12, 3), np.uint8)).leaves
    assert fastest_conv_dtype(leaves, device.GPU) == numbers


def test_what_is_used_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.choose(0, pictures=True) == (0, "")
    assert device.choose("auto", pictures=False) == (
        0, "num_gpus='auto': no GPU is used (small networks are faster on the processor).",
    )  # fmt: skip
    monkeypatch.setattr(device, "available", lambda: False)
    assert device.choose("auto", pictures=True) == (
        0,
        "num_gpus='auto': no GPU is used (there is none).",
    )
    assert device.choose(0.5, pictures=True) == (
        0, "num_gpus=0.5: PyTorch sees no GPU, so it learns on the processor.",
    )  # fmt: skip
    monkeypatch.setattr(device, "available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert device.choose("auto", pictures=True) == (1, "num_gpus='auto': learns on a GPU.")
    assert device.choose(0.5, pictures=False) == (1, "")


def test_a_run_without_the_gpu_that_it_asks_for_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available", lambda: False)
    with poise.PPO("CartPole-v1", num_gpus=1, **SMALL) as algo:
        assert algo.config.num_gpus == 0
        assert algo.notes == ["num_gpus=1: PyTorch sees no GPU, so it learns on the processor."]
