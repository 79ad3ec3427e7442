"""Guards numbers at the end of float32: what overflows is taken back or skipped, and told."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from poise.errors import DivergedError, EnvError, ModelError
from poise.learning.optimizers import Adam, Flat, RMSProp
from poise.sampling.prioritized import PrioritizedReplay
from poise.spaces.layout import Layout


class Huge(gym.Env):
    """Observations and rewards of a given size."""

    observation_space = spaces.Box(-3.4e38, 3.4e38, (3,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, size: float = 1.0) -> None:
        self.size = size

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.now = 0
        return self.observe(), {}

    def observe(self) -> np.ndarray:
        return (self.size * self.np_random.uniform(-1, 1, 3)).astype(np.float32)

    def step(self, action: Any) -> Any:
        self.now += 1
        return self.observe(), float(self.np_random.normal()), self.now >= 6, False, {}


FEW: dict[str, Any] = {
    "preset": None,
    "num_envs_per_worker": 2,
    "timesteps_per_iteration": 40,
    "seed": 1,
}
FEW_OF_DQN: dict[str, Any] = {
    "learning_starts": 8,
    "buffer_size": 200,
    "rollout_fragment_length": 4,
}


def settings(algorithm: str, **others: Any) -> dict[str, Any]:
    return {
        **FEW,
        **(FEW_OF_DQN if algorithm == "DQN" else {"rollout_fragment_length": 8}),
        **others,
    }


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN", "IMPALA", "APPO"])
def test_parameters_that_overflow_are_taken_back_and_told(trainer: Any, algorithm: str) -> None:
    algo = trainer(algorithm, lambda config: Huge(), **settings(algorithm, lr=1e38))
    with pytest.raises(DivergedError, match=r"overflowed float32 .* Lower lr \(1e\+38 now\)"):
        algo.learn(2000)
    assert algo.policy.overflown is None
    assert all(
        torch.isfinite(value).all() for value in algo.algorithm.optimizer.state_dict().values()
    )
    assert algorithm != "DQN" or torch.isfinite(algo.algorithm.targets["policy"].flat.whole).all()
    algo.config.lr = 1e-3
    with contextlib.suppress(DivergedError):  # parameters near 1e38 may be beyond help
        algo.train()
    assert algo.policy.overflown is None


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN", "IMPALA", "APPO"])
def test_observations_that_overflow_in_the_network_are_told_with_their_size(
    trainer: Any, algorithm: str
) -> None:
    model = {"fcnet_activation": "relu"}
    algo = trainer(algorithm, lambda config: Huge(3.4e38), **settings(algorithm, model=model))
    with pytest.raises(DivergedError, match=r"The latest observations reach 3\.\de\+38"):
        algo.learn(2000)
    assert algo.policy.overflown is None
    algo.algorithm.flat.data.mul_(1e3)
    sentence = (
        r"The observation '\w+' reaches \d\.?\d?e\+3\d, at which the numbers of the network"
        r" overflow"
    )
    with pytest.raises(EnvError, match=sentence):
        algo.evaluate(2)
    with pytest.raises(EnvError, match=sentence):
        algo.compute_action(np.array([3e38, -3e38, 3e38], np.float32))


def test_skipped_updates_are_told_once(trainer: Any) -> None:
    algo = trainer("PPO", lambda config: Huge(), **settings("PPO", sgd_minibatch_size=4))
    calls = itertools.count()
    hook = next(algo.policy.parameters()).register_hook(
        lambda grad: grad * (math.nan if next(calls) % 2 else 1)
    )
    with pytest.warns(RuntimeWarning, match="skipped whose gradient is not finite") as told:
        algo.learn(100)
    hook.remove()
    assert len(told) == 1
    assert "The latest observations reach" in str(told[0].message)


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN", "IMPALA", "APPO"])
def test_a_policy_that_is_not_finite_is_not_the_environments_fault(
    trainer: Any, algorithm: str
) -> None:
    algo = trainer(algorithm, lambda config: Huge(), **settings(algorithm))
    algo.train()
    name, parameter = next(iter(algo.policy.named_parameters()))
    with torch.no_grad():
        parameter[0] = math.nan
    sentence = f"The policy's parameter {re.escape(repr(name))} holds numbers that are not finite"
    with pytest.raises(ModelError, match=sentence):
        algo.train()
    with pytest.raises(ModelError, match=sentence):
        algo.evaluate(2)
    with pytest.raises(ModelError, match=sentence):
        algo.compute_action(np.zeros(3, np.float32))


@pytest.mark.parametrize("kind", ["adam", "amsgrad", "rmsprop"])
@pytest.mark.parametrize("size", [1e15, 1e19, 1e25, 3e38])
def test_moments_hold_every_gradient_that_is_applied(kind: str, size: float) -> None:
    flat = Flat(torch.nn.Linear(2, 2))
    made = RMSProp(flat) if kind == "rmsprop" else Adam(flat, amsgrad=kind == "amsgrad")
    for _ in range(2000):
        flat.grad.fill_(size)
        if math.isfinite(flat.clip_grad_norm(None)):
            made.step(1e-3)
    assert all(torch.isfinite(value).all() for value in (*made.state_dict().values(), flat.data))


def test_a_priority_is_finite_whatever_the_error() -> None:
    replay = PrioritizedReplay(16, 1, Layout(spaces.Box(-1, 1, (2,))), alpha=1.0)
    replay.update(np.array([0, 1]), np.array([np.inf, 1.0], np.float32))
    assert np.isfinite([replay.tree.total, replay.largest]).all()
