"""Presets of Gymnasium's own environments: each has one, and what a student tries first learns."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import pytest

from poise.config.presets import PRESETS, find_preset
from poise.config.resolve import resolve
from poise.training.trainer import Trainer

Make = Callable[..., Trainer]
OURS = ("classic_control", "toy_text", "box2d", "mujoco")
SHIPPED = sorted(
    name
    for name, spec in gym.registry.items()
    if isinstance(spec.entry_point, str)
    and spec.entry_point.startswith(tuple(f"gymnasium.envs.{x}." for x in OURS))
)
TABLES = (
    "FrozenLake-v1",
    "FrozenLake8x8-v1",
    "Taxi-v4",
    "CliffWalking-v1",
    "CliffWalkingSlippery-v1",
    "Blackjack-v1",
)


@pytest.mark.parametrize("env", SHIPPED)
def test_every_environment_of_gymnasium_has_a_preset(env: str) -> None:
    assert find_preset("PPO", env, "auto")[0] == env
    assert resolve("PPO", env)[0].num_envs >= 1


@pytest.mark.parametrize(
    "env",
    sorted(
        {name.rpartition("-")[0] for name in PRESETS["PPO"] if "NoFrameskip" not in name} - {""}
    ),
)
def test_versions_of_an_environment_share_a_preset(env: str) -> None:
    found = [PRESETS["PPO"][name] for name in PRESETS["PPO"] if name.rpartition("-")[0] == env]
    assert env == "CartPole" or all(settings == found[0] for settings in found)


@pytest.mark.parametrize(
    ("algorithm", "env"),
    [
        (name, env)
        for name in ("PPO", "DQN")
        for env in TABLES
        if env in gym.registry and env in PRESETS[name]
    ],
)
def test_one_iteration_of_a_table(trainer: Make, algorithm: str, env: str) -> None:
    made = trainer(algorithm, env)
    assert made.train()["timesteps_total"] > 0
    assert made.preset == env


@pytest.mark.slow
def test_frozen_lake_is_crossed(trainer: Make) -> None:
    """Three in four crossings is the best there is; chance gets one in seventy across."""
    made = trainer("PPO", "FrozenLake-v1")
    assert made.learn(50_000)["episode_reward_mean"] > 0.3


@pytest.mark.slow
def test_the_cliff_is_not_walked_over(trainer: Make) -> None:
    """-13 is the best there is; chance falls dozens of times a walk."""
    made = trainer("PPO", "CliffWalking-v1")
    assert made.learn(50_000)["episode_reward_mean"] > -40


@pytest.mark.slow
def test_the_taxi_finds_its_passengers(trainer: Make) -> None:
    """About 8 is the best there is, -770 chance."""
    made = trainer("PPO", "Taxi-v4")
    assert made.learn(120_000)["episode_reward_mean"] > 5


@pytest.mark.slow
def test_the_car_leaves_its_valley(trainer: Make) -> None:
    """-100 is about the best there is; -200 is a car that never gets out."""
    made = trainer("PPO", "MountainCar-v0")
    assert made.learn(120_000)["episode_reward_mean"] > -130
