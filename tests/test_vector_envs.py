"""Vector environments that users make.

Taken as they are, in every autoreset mode, by every algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import poise
from environments import Noise, Scripted
from poise.errors import ConfigError, EnvError
from poise.training.trainer import Trainer

Make = Callable[..., Trainer]
QUICK = {"rollout_fragment_length": 16}


def sync(mode: str = "NEXT_STEP", envs: int = 4, make: Any = Scripted) -> SyncVectorEnv:
    return SyncVectorEnv([make] * envs, autoreset_mode=AutoresetMode[mode])


class Nested(Noise):
    """Its observations are a dict."""

    observation_space = spaces.Dict({"a": Scripted.observation_space, "b": spaces.Discrete(3)})
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.now = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        gym.Env.reset(self, seed=seed)
        self.now = 0
        return self.look(), {}

    def look(self) -> Any:
        return {"a": np.array([self.now, 1], np.float32), "b": self.now % 3}

    def step(self, action: Any) -> Any:
        self.now += 1
        return self.look(), 1.0, self.now == 5, False, {}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP", "DISABLED"])
@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "IMPALA"])
def test_every_autoreset_mode_plays_the_same_episodes(
    algorithm: str, mode: str, trainer: Make
) -> None:
    """Episodes of 2 and 3 steps with returns of 10 x number x length + 1 + 2 (+ 3).

    Each final observation is seen.
    """
    for env in (sync(mode), lambda config: sync(mode)):
        short = {"timesteps_per_iteration": 64} if algorithm == "IMPALA" else {}
        algo = trainer(algorithm, env, preset=None, **QUICK, **short)
        assert algo.config.num_envs_per_worker == 4
        assert "num_envs_per_worker=4: the vector environment has so many." in algo.notes
        episodes: list[Any] = []
        algo.callbacks.append(Keeps(episodes))
        for _ in range(3):
            algo.train()
        lengths = {slot: [e.length for e in episodes if e.slot == slot] for slot in range(4)}
        assert lengths[0][:6] == [2, 3] * 3
        numbers = [e.info["episode_number"] for e in episodes if e.slot == 0]
        assert numbers[:6] == [1, 2, 3, 4, 5, 6]
        assert [e.reward for e in episodes if e.slot == 0][:2] == [23.0, 66.0]
        algo.close()


class Keeps(poise.Callback):
    def __init__(self, into: list[Any]) -> None:
        self.into = into

    def on_episode_end(self, trainer: Trainer, episode: Any) -> None:
        self.into.append(episode)


@pytest.mark.parametrize("mode", ["SAME_STEP", "DISABLED"])
def test_final_observations_are_those_of_the_end(mode: str, trainer: Make) -> None:
    algo = trainer("PPO", lambda config: sync(mode, 3, Nested), **QUICK)
    rollout = algo.samplers.collect()
    assert rollout.valid.all()
    assert rollout.final
    for t, b, obs in rollout.final:
        assert obs["a"].tolist() == [5.0, 1.0]
        assert rollout.obs["a"][t + 1, b].tolist() == [0.0, 1.0]
        assert obs["b"] == 2
    algo.train()


def test_a_native_one_resumes_to_the_bit(trainer: Make, tmp_path: Any) -> None:
    def make(config: Any) -> gym.vector.VectorEnv:
        return gym.make_vec("CartPole-v1", num_envs=4, vectorization_mode="vector_entry_point")

    algo = trainer("PPO", make, preset=None, **QUICK)
    algo.train()
    algo.save(tmp_path / "a")
    with poise.load(tmp_path / "a", env=make) as other:
        algo.train()
        other.train()
        assert torch.equal(algo.algorithm.flat.data, other.algorithm.flat.data)
    assert algo.evaluate(3)["episodes"] == 3


def test_one_that_is_made_already_is_not_evaluated_in(trainer: Make) -> None:
    env = sync()
    algo = trainer("PPO", env, **QUICK)
    algo.train()
    with pytest.raises(
        EnvError, match=r"The same SyncVectorEnv was returned again while episodes are played"
    ):
        algo.evaluate(2)
    with pytest.raises(
        ConfigError, match=r"evaluation_interval=1 .* made already: .* env=lambda config"
    ):
        trainer("PPO", env, evaluation_interval=1, **QUICK)
    algo.close()
    assert not env.closed, "whoever made it may go on with it"
    algo.train()


def test_what_contradicts_a_vector_environment(trainer: Make, tmp_path: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"^num_envs=2 contradicts the vector environment, which has 4 env"
    ):
        trainer("PPO", sync(), num_envs=2)
    with pytest.raises(
        EnvError, match=r"made a vector environment, a SyncVectorEnv.*num_workers=0"
    ):
        trainer("PPO", lambda config: sync(), num_workers=1, num_envs_per_worker=4)
    with pytest.raises(EnvError, match=r"made a vector environment.* without max_episode_steps"):
        trainer("PPO", lambda config: sync(), env_config={"max_episode_steps": 9})
    shared = Scripted()
    with pytest.raises(EnvError, match=r"^The same Scripted was returned again"):
        trainer("PPO", sync(make=lambda: shared), num_envs_per_worker=4)
    algo = trainer("PPO", lambda config: sync(), num_workers="auto", **QUICK)
    assert algo.config.num_workers == 0
    with pytest.raises(
        EnvError, match="films, checks and worker processes need a function that makes a single"
    ):
        poise.record(algo, tmp_path / "a.mp4")


class Faulty(SyncVectorEnv):
    """Breaks what a vector environment must return."""

    def __init__(self, what: str) -> None:
        super().__init__([Scripted] * 3)
        self.what = what

    def step(self, actions: Any) -> Any:
        obs, reward, *rest = super().step(actions)
        if self.what == "raises":
            raise RuntimeError("no answer")
        if self.what == "reward":
            return (obs, 1.0, *rest)
        if self.what == "obs":
            return (obs[0], reward, *rest)
        return obs, reward


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (
            "raises",
            (
                r"step\(\) of the vector environment Faulty raised RuntimeError: no answer\."
                r" .*\nTraceback"
            ),
        ),
        ("reward", r"step\(\) of Faulty gave reward of shape \(\), which must be \(3,\)"),
        (
            "obs",
            (
                r"Faulty gave an observation 'value' of shape \(2,\), but its space says \(3, 2\)"
                r" for 3"
            ),
        ),
        ("two", r"step\(\) of Faulty must return \(obs, reward, terminated, truncated, info\)"),
    ],
)
def test_what_a_vector_environment_breaks_is_named(what: str, sentence: str, trainer: Make) -> None:
    with pytest.raises(EnvError, match=sentence):
        trainer("PPO", Faulty(what), **QUICK).train()


def test_a_single_instance_is_told_how_to_be_made(trainer: Make) -> None:
    with pytest.raises(
        EnvError,
        match=r"one environment, made already.*=lambda config: gym.make\('CartPole-v1'\), or",
    ):
        trainer("PPO", gym.make("CartPole-v1"))
    with pytest.raises(EnvError, match=r"env=lambda config: Scripted\(\.\.\.\)\.$"):
        trainer("PPO", Scripted())
