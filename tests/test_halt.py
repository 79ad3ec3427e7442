"""A signal stops between two steps of the environments, wherever they are.

Nothing of what was sampled is lost.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import poise
from poise.sampling.episodes import Episode
from poise.training.evaluation import step_limit
from poise.training.trainer import Trainer

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")

SMALL: dict[str, Any] = {"num_envs_per_worker": 4, "rollout_fragment_length": 16, "seed": 3}
KINDS = {
    "PPO, native": ("PPO", "CartPole-v1", {}),
    "PPO, inline": ("PPO", "Acrobot-v1", {}),
    "PPO, two halves of workers": (
        "PPO",
        "Acrobot-v1",
        {"num_workers": 2, "num_envs_per_worker": 2},
    ),
    "PPO, normalised": (
        "PPO",
        "Pendulum-v1",
        {"normalize_observations": True, "normalize_rewards": True},
    ),
    "A2C, several rounds": ("A2C", "CartPole-v1", {"timesteps_per_iteration": 256}),
    "DQN, several rounds": (
        "DQN",
        "CartPole-v1",
        {
            "timesteps_per_iteration": 256,
            "learning_starts": 64,
            "buffer_size": 2000,
            "rollout_fragment_length": 4,
        },
    ),
}


def make(kind: str) -> Trainer:
    algorithm, env, settings = KINDS[kind]
    return poise.make_trainer(algorithm, env, preset=None, progress=False, **{**SMALL, **settings})


def preempt(trainer: Trainer, at: int) -> list[int]:
    """Sends SIGTERM when the policy acts for the `at`-th time.

    What is returned grows with every time.
    """
    act, times = trainer.policy.act, list[int]()

    def acting(*inputs: Any) -> Any:
        times.append(len(times))
        if len(times) == at:
            os.kill(os.getpid(), signal.SIGTERM)
            while not trainer.halt.asked:  # the main thread hears it, which may not be this one
                time.sleep(0.001)
        return act(*inputs)

    trainer.policy.act = acting
    return times


def timeless(result: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in result.items() if not key.startswith(("time_", "perf/"))}
    return {
        key: str(value) if isinstance(value, float) and math.isnan(value) else value
        for key, value in kept.items()
    }


@pytest.mark.parametrize(("kind", "at"), [("PPO, native", 1), *((kind, 21) for kind in KINDS)])
def test_a_run_that_was_stopped_amid_a_rollout_goes_on_to_the_bit(
    kind: str, at: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rule = {"training_iteration": 3}
    with make(kind) as straight, make(kind) as stopped:
        straight.learn(stop=rule)
        times = preempt(stopped, at)
        result = stopped.learn(stop=rule, signals=(signal.SIGTERM,))
        assert result["stop_reason"] == "preempted"
        assert len(times) <= at + 1, "each half of the environments takes one more step at most"
        assert "Preempted: stopping before the next step" in capfd.readouterr().err
        assert stopped.underway > 0
        stopped.save(tmp_path / "there")
        before = list(stopped.history)
        with poise.load(tmp_path / "there") as loaded:
            loaded.learn(stop=rule)
            for other in (stopped, loaded):  # in the same process, and in another
                other.learn(stop=rule)
                whole = [
                    timeless(each) for each in (*before, *list(other.history)[-(3 - len(before)) :])
                ]
                assert whole == [timeless(each) for each in straight.history]
                for name, tensor in straight.policy.state_dict().items():
                    assert torch.equal(tensor, other.policy.state_dict()[name]), name
            manifest = json.loads((tmp_path / "there" / "manifest.json").read_text())
            assert manifest["resume_grade"] == "bitwise"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_actor_that_was_stopped_gives_up_its_rows_but_not_its_episodes(
    workers: int, tmp_path: Path
) -> None:
    settings = {**SMALL, "num_envs_per_worker": 4 // max(1, workers), "num_workers": workers}
    settings["timesteps_per_iteration"] = 256
    with poise.make_trainer(
        "IMPALA", "Acrobot-v1", preset=None, progress=False, **settings
    ) as algo:
        algo.train()
        times = preempt(algo, 6)
        algo.samplers.follow(algo.policy, algo.algorithm.flat, 0)  # copies the policy again
        assert (
            algo.learn(stop={"training_iteration": 9}, signals=(signal.SIGTERM,))["stop_reason"]
            == "preempted"
        )
        assert len(times) <= 7
        assert algo.underway == 0
        played = [sampler._lengths.sum() for sampler in algo.samplers.members]
        assert all(played), "the episodes are as long as they were"
        algo.save(tmp_path / "there")
        with poise.load(tmp_path / "there") as loaded:
            assert [sampler._lengths.sum() for sampler in loaded.samplers.members] == played
            assert (
                loaded.learn(stop={"training_iteration": algo.iteration + 1})["timesteps_this_iter"]
                > 0
            )
        assert (
            algo.learn(stop={"training_iteration": algo.iteration + 1})["timesteps_this_iter"] > 0
        )


class Still(gym.Env):
    """An episode ends at action 1 only; the observation is always the same."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)
    signals_at = 0
    steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        type(self).steps += 1
        if type(self).steps == type(self).signals_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return np.zeros(1, np.float32), 1.0, bool(action), False, {}


def standing(**settings: Any) -> Trainer:
    """Its most likely action is always 0, so that no evaluation ends by itself."""
    trainer = poise.make_trainer(
        "PPO", Still, preset=None, progress=False, **{**SMALL, "lr": 1e-12, **settings}
    )
    with torch.no_grad():
        for parameter in trainer.policy.parameters():
            if parameter.shape == (2,):
                parameter.copy_(torch.tensor([0.5, -0.5]))
    return trainer


def test_an_evaluation_whose_episodes_do_not_end_is_cut_with_a_sentence() -> None:
    with standing(evaluation_max_steps=50) as algo, pytest.warns(RuntimeWarning) as told:
        found = algo.evaluate(25)
    assert (found["episodes"], found["episode_len_mean"], found["episode_reward_mean"]) == (
        25,
        50,
        50,
    )
    assert [str(each.message) for each in told] == [
        "25 of 25 evaluation episodes did not end and were cut after 50 steps "
        "(evaluation_max_steps); they count with what they had earned."
    ]


def test_the_limit_of_an_evaluation_is_the_largest_that_is_known() -> None:
    def limit(env: Any, longest: int = 0, **settings: Any) -> int:
        with poise.make_trainer("PPO", env, preset=None, progress=False, **settings) as algo:
            episodes = [Episode(0.0, length, 0, {}) for length in (1, longest)]
            return step_limit(algo.config, algo.environments.evaluation(2), episodes)

    assert limit(Still) == limit("CartPole-v1") == limit("CliffWalking-v1") == 10_000
    assert limit(Still, longest=5_000) == 50_000
    assert limit(Still, longest=5_000, evaluation_max_steps=70) == 70
    assert limit(Still, env_config={"max_episode_steps": 30_000}) == 30_000
    assert limit("Acrobot-v1", env_config={"max_episode_steps": 40_000}) == 40_000


def test_sampled_episodes_that_end_are_not_cut() -> None:
    with standing(evaluation_max_steps=50) as algo:
        found = algo.evaluate(40, explore=True)
        assert found["episodes"] == 40
        assert found["episode_len_mean"] < 10


def test_a_signal_is_heeded_amid_an_evaluation() -> None:
    with standing(evaluation_interval=1, evaluation_duration=4, evaluation_max_steps=10**9) as algo:
        Still.signals_at = Still.steps + 16 * 4 + 40
        result = algo.learn(stop={"training_iteration": 5}, signals=(signal.SIGTERM,))
        assert (result["stop_reason"], algo.iteration) == ("preempted", 1)
        assert Still.steps < Still.signals_at + 8
        assert "evaluation/episode_reward_mean" not in result


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with make("PPO, native") as algo:
            algo.callbacks.append(HangUp())
            assert (
                algo.learn(stop={"training_iteration": 3}, signals=(signal.SIGHUP,))[
                    "training_iteration"
                ]
                == 3
            )
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            assert (
                algo.learn(stop={"training_iteration": 9}, signals=(signal.SIGHUP,))["stop_reason"]
                == "preempted"
            )
    finally:
        signal.signal(signal.SIGHUP, before)


class HangUp(poise.Callback):
    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        signal.raise_signal(signal.SIGHUP)
