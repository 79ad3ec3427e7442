"""Schedules by name: `lr="cosine"`."""

from __future__ import annotations

import pytest

from poise.config.resolve import resolve
from poise.errors import ConfigError
from poise.learning.schedules import schedule_value


def test_schedules_by_name_fall_to_zero_within_the_run() -> None:
    config, _ = resolve("PPO", None, {"lr": "cosine_0.001", "total_timesteps": 1000})
    values = [schedule_value(config.lr, step) for step in (0, 250, 500, 1000, 2000)]
    assert values == pytest.approx([1e-3, 8.53553e-4, 5e-4, 0, 0], abs=1e-6)
    config, _ = resolve("DQN", "CartPole-v1", {"lr": "linear"}, stop={"timesteps_total": 400})
    assert config.lr[::16] == [(0, 0.003), (200, 0.0015), (400, 0.0)]  # from the preset's
    config, _ = resolve("A2C", None, {"learning_rate": "linear", "total_timesteps": 10})
    assert (config.lr[0], config.lr[-1]) == ((0, 7e-4), (10, 0.0))


def test_other_texts_are_refused_and_other_settings_left_alone() -> None:
    with pytest.raises(ConfigError, match=r"lr='cosine' needs the run's length: total_timesteps"):
        resolve("PPO", None, {"lr": "cosine"})
    for text in ("cosine_x", "cosin"):
        with pytest.raises(ConfigError, match="must be a number at least 0 or a schedule"):
            resolve("PPO", None, {"lr": text, "total_timesteps": 10})
    settings = {"epsilon_schedule": "linear", "model": {"fcnet_activation": "linear"}}
    config, _ = resolve("DQN", None, {**settings, "total_timesteps": 10})
    assert (config.epsilon_schedule, config.model.fcnet_activation) == ("linear", "linear")
