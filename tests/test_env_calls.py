"""Callbacks reach the environments wherever they step.

Methods, attributes, fresh instances, evaluations.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import poise
from poise.training.trainer import Trainer

SMALL: dict[str, Any] = {"rollout_fragment_length": 8, "timesteps_per_iteration": 32, "seed": 1}
PLACES = {
    "inline": ("PPO", {"num_envs_per_worker": 2}),
    "two halves of workers": ("PPO", {"num_workers": 2, "num_envs_per_worker": 1}),
    "an actor, inline": ("IMPALA", {"num_envs_per_worker": 2}),
    "an actor with a worker": ("IMPALA", {"num_workers": 1, "num_envs_per_worker": 2}),
}


class Levels(gym.Env):
    """Earns its level once an episode; may be told to fail."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.level, self.fails, self.seen = 1, False, None

    def set_level(self, level: int, *, note: Any = None) -> int:
        if level < 0:
            raise ValueError("levels are positive")
        self.level, self.seen = level, note
        return 10 * level

    def pid(self) -> int:
        return os.getpid()

    def itself(self) -> Any:
        return self

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.now = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self.fails:
            raise RuntimeError("as it was told")
        self.now += 1
        return (
            np.zeros(1, np.float32),
            float(self.level * (self.now == 4)),
            self.now == 4,
            False,
            {},
        )


def make(place: str, **settings: Any) -> Trainer:
    algorithm, where = PLACES[place]
    return poise.make_trainer(
        algorithm, Levels, preset=None, progress=False, **{**SMALL, **where, **settings}
    )


class Curriculum(poise.Callback):
    """The next level as soon as the present one is earned."""

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        trainer.call_envs("set_level", result["training_iteration"] + 1, note=[1, "two"])


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_curriculum_reaches_every_environment(place: str) -> None:
    with make(place, metrics_smoothing_episodes=2, callbacks=[Curriculum()]) as algo:
        result = algo.learn(stop={"training_iteration": 4})
        assert result["episode_reward_mean"] >= 3
        assert algo.get_env_attr("level") == [5, 5]
        assert algo.get_env_attr("seen") == [[1, "two"], [1, "two"]]
        assert algo.call_envs("set_level", 7) == [70, 70]
        algo.set_env_attr("level", 9)
        assert algo.get_env_attr("level") == [9, 9]
        algo.close()
        assert algo.get_env_attr("level") == [9, 9], "those that are made anew are told, too"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["inline", "two halves of workers"])
def test_mistakes_are_sentences_and_end_nothing(place: str) -> None:
    with make(place) as algo:
        with pytest.raises(poise.EnvError, match="Levels has no 'set_lvl'"):
            algo.call_envs("set_lvl", 1)
        with pytest.raises(poise.EnvError, match="Levels has no 'lvl'"):
            algo.set_env_attr("lvl", 1)
        with pytest.raises(
            poise.EnvError, match="'level' of the environment is a int, not a method"
        ):
            algo.call_envs("level")
        with pytest.raises(
            poise.EnvError, match="'set_level' of the environment raised ValueError: levels are pos"
        ):
            algo.call_envs("set_level", -1)
        assert algo.learn(64)["timesteps_total"] >= 64
        assert algo.get_env_attr("level") == [1, 1]


@pytest.mark.slow
def test_what_cannot_be_sent_to_a_worker_is_said() -> None:
    with make("two halves of workers") as algo:
        with pytest.raises(
            poise.EnvError, match="'set_level': object cannot be sent to another process; numbers"
        ):
            algo.call_envs("set_level", object())
        with pytest.raises(poise.EnvError, match="Levels cannot be sent to another process"):
            algo.call_envs("itself")
        assert algo.learn(64)["timesteps_total"] >= 64


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_fresh_instance_and_a_fresh_worker_are_told_what_the_others_were() -> None:
    with make("inline") as algo:
        algo.call_envs("set_level", 5)
        algo.environments.batches[0].envs[0].fails = True
        algo.train()
        assert algo.get_env_attr("level") == [5, 5]
        assert algo.failures.total == 1
    with make("two halves of workers") as algo:
        algo.call_envs("set_level", 5)
        algo.train()
        os.kill(algo.call_envs("pid")[0], signal.SIGKILL)
        while not algo.failures.restarts or None in algo.get_env_attr("level"):
            algo.train()
        assert algo.get_env_attr("level") == [5, 5]


def test_evaluations_are_told_where_it_is_asked_for() -> None:
    with make("inline") as algo:
        algo.call_envs("set_level", 5)
        assert algo.evaluate(2)["episode_reward_mean"] == 1
        algo.set_env_attr("level", 6, evaluation=True)
        assert algo.evaluate(2)["episode_reward_mean"] == 6
        assert algo.evaluate(3)["episode_reward_mean"] == 6, "in environments that are made later"


def test_a_native_batch_is_one_thing() -> None:
    with poise.make_trainer("PPO", "CartPole-v1", preset=None, progress=False, **SMALL) as algo:
        algo.set_env_attr("force_mag", 5.0)
        assert algo.get_env_attr("force_mag") == [5.0]
        with pytest.raises(
            poise.EnvError,
            match="CartPoleVectorEnv steps many environments as one, and has no 'lev",
        ):
            algo.call_envs("level")


def test_a_run_whose_environments_were_changed_is_not_bitwise(tmp_path: Path) -> None:
    with make("inline") as algo:
        algo.train()
        algo.get_env_attr("level")
        for name, grade in (("before", "bitwise"), ("after", "statistical")):
            saved = json.loads((algo.save(tmp_path / name) / "manifest.json").read_text())
            assert saved["resume_grade"] == grade
            algo.set_env_attr("level", 2)
