"""The sentence for runs in which nothing is learnt: when it is said, and what it says."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import poise
from environments import Reach
from poise.advice import stuck
from poise.advice.course import has_risen
from poise.sampling.episodes import Finished
from poise.training.trainer import Trainer

Make = Callable[..., Trainer]
SHORT = {"max_episode_steps": 120}
QUICK: dict[str, Any] = {
    "preset": None,
    "num_envs_per_worker": 4,
    "num_sgd_iter": 1,
    "env_config": SHORT,
}


def episodes(returns: Sequence[float], length: int = 200) -> list[Finished]:
    return [Finished((i + 1) * length, 0.0, float(r), length) for i, r in enumerate(returns)]


@pytest.mark.parametrize(
    ("name", "env", "key"),
    [
        ("SAC", "CartPole-v1", "target_entropy_share, now 0.3"),
        ("SAC", "Pendulum-v1", "exploration_correlation, now 0.0"),
        ("TD3", "Pendulum-v1", "exploration_noise, now 0.1"),
        ("DQN", "CartPole-v1", "epsilon_timesteps"),
        ("PPO", "CartPole-v1", "entropy_coeff"),
    ],
)
def test_each_algorithm_has_a_setting_that_explores_more(
    trainer: Make, name: str, env: str, key: str
) -> None:
    made = trainer(name, env, preset=None)
    made.config.__dict__["env"] = "mine:Env-v0"  # no algorithm has a preset for it
    assert f"a larger {key}" in stuck.advice(made, [1.0, 1.0])


def test_noise_is_no_rise_and_a_trend_is_one() -> None:
    """500 episodes: chance hardly ever looks like a rise, and a rise is never missed.

    The rise is one by two deviations.
    """
    noises = [np.random.default_rng(seed).normal(-200, 10, 500) for seed in range(200)]
    assert sum(has_risen(episodes(noise)) for noise in noises) <= 6
    assert all(has_risen(episodes(noise + np.linspace(0, 20, 500))) for noise in noises)


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ([-200.0] * 500, False),
        ([-200.0] * 450 + [-150.0] * 50, True),  # it has just begun
        (np.linspace(-100, -200, 500), False),  # it has unlearnt
        ([0.0] * 200 + [0.0, 1.0] * 100 + [0.0] * 100, True),  # and lost it again
        ([-200.0] * 9, True),  # too few to tell
        ([], True),
    ],
)
def test_rises(returns: Sequence[float], expected: bool) -> None:
    assert has_risen(episodes(returns)) is expected


def test_short_episodes_late_do_not_hide_a_start_that_was_long() -> None:
    """Learnt within the first half: of 11,000 episodes, ten show how it began."""
    slow = [Finished(500 * (i + 1), 0.0, -500.0, 500) for i in range(100)]
    fast = [Finished(50_000 + 5 * (i + 1), 0.0, -5.0, 5) for i in range(10_000)]
    assert has_risen(slow + fast)


def said_by(algo: Trainer, steps: int) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        algo.learn(steps)
    return [str(w.message) for w in caught if "has not risen" in str(w.message)]


@pytest.mark.slow
def test_a_car_in_its_valley_is_told_of_its_preset_once(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stuck, "LOOKED_AT", 16_000)
    algo = trainer("PPO", "MountainCar-v0", **QUICK)
    (said,) = said_by(algo, 17_000)
    assert "every episode returned -120" in said
    assert (
        "PPO has a preset for MountainCar-v0, which preset=None (--preset none) leaves out." in said
    )
    assert not said_by(algo, 17_000)


@pytest.mark.slow
def test_an_algorithm_without_a_preset_is_told_who_has_one(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stuck, "LOOKED_AT", 16_000)
    (said,) = said_by(trainer("APPO", "MountainCar-v0", **QUICK), 17_000)
    assert "try PPO or DQN, which have a preset for MountainCar-v0." in said


class Nowhere(Reach):
    """Never rewards anything."""

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, 0.0, *rest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "env", "setting"),
    [
        ("PPO", Nowhere, "a larger exploration_correlation, now 0.0"),
        ("PPO", "Silent-v0", "a larger entropy_coeff, now 0.0"),
        ("DQN", "Silent-v0", "a larger epsilon_timesteps, now 10000"),
    ],
)
def test_where_every_return_is_the_same_it_names_what_explores(
    trainer: Make,
    monkeypatch: pytest.MonkeyPatch,
    registries: None,
    algorithm: str,
    env: Any,
    setting: str,
) -> None:
    import gymnasium as gym

    def silent(config: dict[str, Any]) -> gym.Env:
        return gym.wrappers.TransformReward(
            gym.make("MountainCar-v0", max_episode_steps=20), lambda r: 0.0
        )

    poise.register_env("Silent-v0", silent)
    monkeypatch.setattr(stuck, "LOOKED_AT", 4000)
    (said,) = said_by(trainer(algorithm, env, preset=None, num_envs_per_worker=4), 5000)
    assert setting in said


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_what_learns_is_left_alone(
    trainer: Make, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    monkeypatch.setattr(stuck, "LOOKED_AT", 16_000)
    assert not said_by(trainer(algorithm, "CartPole-v1", preset=None), 17_000)


def test_a_run_says_it_in_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck, "LOOKED_AT", 16_000)
    stop = {"timesteps_total": 17_000}
    run = poise.run(
        "PPO", "MountainCar-v0", stop=stop, folder=tmp_path, quiet=True, seed=0, **QUICK
    )
    assert (run.path / "log.txt").read_text().count("The return has not risen in the first") == 1
    run.trainer.close()
