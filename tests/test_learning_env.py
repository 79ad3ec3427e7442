"""Guards that the algorithms learn.

Identity tasks with a known optimum, and probes with a known value function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from environments import (
    Bandit,
    ConstantReward,
    DelayedReward,
    DiscreteEcho,
    Echo,
    Endless,
    Reach,
    ShortLived,
)
from poise.algorithms.ppo import KL
from poise.training.trainer import Trainer

Make = Callable[..., Trainer]

FAST: dict[str, dict[str, Any]] = {
    "PPO": {"lr": 3e-3, "num_envs": 16, "n_steps": 32, "minibatch_size": 128, "n_epochs": 6},
    "A2C": {"lr": [[0, 3e-3], [20_000, 0.0]], "num_envs": 16, "n_steps": 8, "entropy_coeff": 0.01},
}
STEPS = {"PPO": 8_000, "A2C": 20_000}
CONTINUOUS: dict[str, Any] = {"gamma": 0.5, "lr": [[0, 3e-3], [15_000, 0.0]], "entropy_coeff": 0.0}
BOTH = pytest.mark.parametrize("algorithm", ["PPO", "A2C"])


def learn(
    trainer: Make,
    algorithm: str,
    env: Callable[..., Any],
    steps: int | None = None,
    **settings: Any,
) -> Trainer:
    made = trainer(algorithm, env, **{**FAST[algorithm], **settings})
    made.learn(STEPS[algorithm] if steps is None else steps)
    return made


def values(made: Trainer, *observations: float) -> list[float]:
    """The value function at observations of one number."""
    obs = {"value": torch.tensor(observations).unsqueeze(1)}
    with torch.no_grad():
        found: list[float] = made.policy.critic(made.policy.prepare(obs)).tolist()
    return found


# --- identity tasks -------------------------------------------------------------------------------

IDENTITIES = {
    "discrete": lambda config: Echo(),
    "discrete with start": lambda config: Echo(start=7),
    "discrete observation": lambda config: DiscreteEcho(),
}


@BOTH
@pytest.mark.parametrize("env", IDENTITIES.values(), ids=IDENTITIES.keys())
def test_chooses_the_number_shown(trainer: Make, algorithm: str, env: Callable[..., Any]) -> None:
    made = learn(trainer, algorithm, env, gamma=0.9)
    assert made.evaluate(20)["episode_reward_mean"] >= 0.9 * 8


@BOTH
@pytest.mark.parametrize(
    ("low", "high", "finite"), [(-2.0, 6.0, True), (-1.0, 1.0, False)], ids=["bounded", "not"]
)
def test_reaches_the_number_shown(
    trainer: Make, algorithm: str, low: float, high: float, finite: bool
) -> None:
    model = {"log_std_init": -1.0}
    made = learn(
        trainer,
        algorithm,
        lambda config: Reach(low, high, finite=finite),
        15_000,
        model=model,
        **CONTINUOUS,
    )
    assert made.evaluate(20)["episode_reward_mean"] >= 0.9 * 8


@pytest.mark.parametrize(
    "model", [{"action_distribution": "squashed_gaussian"}, {"free_log_std": False}], ids=str
)
def test_other_gaussians_reach_it_too(trainer: Make, model: dict[str, Any]) -> None:
    model = {"log_std_init": -1.0, **model}
    made = learn(trainer, "PPO", lambda config: Reach(size=2), 15_000, model=model, **CONTINUOUS)
    assert made.evaluate(20)["episode_reward_mean"] >= 0.9 * 8


def test_learns_with_correlated_noise(trainer: Make) -> None:
    settings = {"exploration_correlation": 0.7, "model": {"log_std_init": -1.0}}
    made = learn(trainer, "PPO", lambda config: Reach(), 15_000, **CONTINUOUS, **settings)
    assert made.evaluate(20)["episode_reward_mean"] >= 0.9 * 8


def test_learns_with_normalised_observations_and_rewards(trainer: Make) -> None:
    class Scaled(Echo):
        """Echo in bad units: observations of 1000 ± 0.01, rewards in thousands."""

        def observe(self) -> np.ndarray:
            return 1000 + 0.05 * super().observe()

        def judge(self, action: Any) -> float:
            return 5000 * super().judge(action)

    def make(config: dict) -> Scaled:
        env = Scaled()
        env.observation_space = type(env.observation_space)(0, 2000, (4,), np.float32)
        return env

    both = {"normalize_observations": True, "normalize_rewards": True}
    assert learn(trainer, "PPO", make, **both).evaluate(20)["episode_reward_mean"] >= 0.9 * 8 * 5000
    without = learn(trainer, "PPO", make).evaluate(20)["episode_reward_mean"]
    assert without < 0.7 * 8 * 5000  # the task needs them


# --- probes ---------------------------------------------------------------------------------------


@BOTH
def test_value_of_a_constant_reward(trainer: Make, algorithm: str) -> None:
    made = learn(trainer, algorithm, lambda config: ConstantReward())
    assert values(made, 0.0) == pytest.approx([1.0], abs=0.05)


@BOTH
def test_value_is_discounted(trainer: Make, algorithm: str) -> None:
    made = learn(trainer, algorithm, lambda config: DelayedReward(), gamma=0.5)
    assert values(made, 0.0, 1.0) == pytest.approx([0.5, 1.0], abs=0.05)


@BOTH
def test_reward_that_depends_on_the_action(trainer: Make, algorithm: str) -> None:
    made = learn(trainer, algorithm, lambda config: Bandit())
    assert made.compute_action(np.zeros(1, np.float32)) == 1
    obs = {"value": torch.zeros(1, 1)}
    with torch.no_grad():
        probability = made.policy.actor(made.policy.prepare(obs)).softmax(-1)[0, 1].item()
    assert probability > 0.95
    assert values(made, 0.0) == pytest.approx([1.0], abs=0.15)


@BOTH
def test_a_time_limit_is_bootstrapped(trainer: Make, algorithm: str) -> None:
    made = learn(trainer, algorithm, lambda config: Endless(), gamma=0.8)
    assert values(made, 1.0) == pytest.approx([1 / (1 - 0.8)], rel=0.05)


@BOTH
def test_a_true_end_is_not(trainer: Make, algorithm: str) -> None:
    made = learn(trainer, algorithm, lambda config: ShortLived(), gamma=0.8)
    # With one observation the value is a mean over the five steps: of 1, 1.8, 2.44, 2.95, 3.36 at λ
    # = 1.
    assert 2.0 < values(made, 1.0)[0] < 3.2


# --- schedules and limits -------------------------------------------------------------------------


def test_the_learning_rate_follows_its_schedule(trainer: Make) -> None:
    made = trainer(
        "PPO", lambda config: Endless(), lr=[[0, 1e-3], [200, 0.0]], num_envs=2, n_steps=30
    )
    found = [made.train()["learner/cur_lr"] for _ in range(5)]
    # Of 30 rows, 5 only reset: an iteration is 50 steps.
    assert found == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4, 0.0])


def test_the_epochs_end_at_the_target_kl(trainer: Make) -> None:
    made = trainer(
        "PPO", lambda config: Echo(), lr=0.05, target_kl=0.01, n_epochs=50, num_envs=4, n_steps=32
    )
    result = made.train()
    assert 0 < result["learner/sgd_steps"] < 50 * 128 / made.config.sgd_minibatch_size
    assert result["learner/grad_norm"] > 0


def test_the_epochs_end_where_the_divergence_is_half_above_its_target(trainer: Make) -> None:
    made = trainer(
        "PPO",
        lambda config: Echo(),
        lr=2e-4,
        target_kl=0.01,
        n_epochs=400,
        num_envs=4,
        n_steps=32,
        batch_size=128,
    )
    loss, found = made.algorithm.loss, []

    def watched(*args: Any, **settings: Any) -> Any:
        total, parts = loss(*args, **settings)
        found.append(parts[KL].item() / 0.01)
        return total, parts

    made.algorithm.loss = watched
    made.train()
    *before, last = found
    assert 1.45 < max(before) <= 1.5 < last < 1.55


@BOTH
def test_one_seed_one_result(trainer: Make, algorithm: str) -> None:
    def parameters(seed: int) -> torch.Tensor:
        made = learn(
            trainer, algorithm, lambda config: Echo(), 600, seed=seed, timesteps_per_iteration=0
        )
        return made.algorithm.flat.data

    assert torch.equal(parameters(1), parameters(1))
    assert not torch.equal(parameters(1), parameters(2))
