"""A policy whose most likely actions earn much less than sampled ones.

Evaluations and the end of a run say so.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gymnasium import spaces

import poise
from environments import Task
from poise.advice.greedy import falls_short
from poise.cli.main import poise as command
from poise.training.trainer import Trainer

SMALL: dict[str, Any] = {
    "num_envs_per_worker": 2,
    "rollout_fragment_length": 64,
    "seed": 1,
    "lr": 1e-12,
}


class Chance(Task):
    """Earns 1 if its first action is 1.

    That it nearly always is where actions are sampled, and never where they are all 0.
    """

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def observe(self) -> np.ndarray:
        self.earned = self.now > 0 and self.earned
        return np.zeros(1, np.float32)

    def judge(self, action: Any) -> float:
        earned, self.earned = self.earned, self.earned or bool(action)
        return float(self.earned and not earned)


class Idle(Task):
    """Earns 1 for each large action, which a policy never takes that has learnt nothing."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def observe(self) -> np.ndarray:
        return np.zeros(1, np.float32)

    def judge(self, action: Any) -> float:
        return float(abs(action[0]) > 0.5)


class Biased(poise.Callback):
    """Makes 0 the most likely action, by a little."""

    def on_run_start(self, trainer: Trainer) -> None:
        with torch.no_grad():
            for parameter in trainer.policy.parameters():
                if parameter.shape == (2,):
                    parameter.copy_(torch.tensor([0.2, -0.2]))


def test_only_a_gap_that_is_large_and_certain_counts() -> None:
    returns = [1.0] * 76 + [0.0] * 24
    assert falls_short(0.0, returns, 10)
    assert not falls_short(0.5, returns, 10), "as likely by chance"
    assert not falls_short(0.9, returns, 10), "better"
    assert falls_short(-300.0, [-200.0, -210.0] * 50, 10)
    assert not falls_short(-220.0, [-200.0, -210.0] * 50, 10), "a little"
    assert not falls_short(float("nan"), returns, 10)
    assert not falls_short(0.0, [], 10)


def test_random_first_steps_are_not_the_policys() -> None:
    """They may earn more than the policy does, sampled or not."""
    with (
        poise.make_trainer(
            "SAC",
            Idle,
            progress=False,
            seed=0,
            learning_starts=400,
            timesteps_per_iteration=400,
            evaluation_interval=1,
            model={"fcnet_hiddens": [8], "log_std_init": -3.0},
        ) as algo,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        result = algo.learn(stop={"training_iteration": 1})
    assert result["evaluation/episode_reward_mean"] == 0 < result["episode_reward_mean"]


def test_an_evaluation_while_training_says_it_once_with_the_sampled_score() -> None:
    with poise.make_trainer(
        "PPO",
        Chance,
        preset=None,
        progress=False,
        evaluation_interval=2,
        callbacks=[Biased()],
        **SMALL,
    ) as algo:
        with pytest.warns(RuntimeWarning) as told:
            algo.learn(stop={"training_iteration": 8})
        assert algo.history[-1]["evaluation/episode_reward_mean"] == 0
    assert len(told) == 1
    assert str(told[0].message).startswith(
        "The most likely actions earn 0, and sampled ones 1 (10 episodes each; "
    )
    with (
        poise.make_trainer(
            "PPO",
            Chance,
            preset=None,
            progress=False,
            evaluation_interval=2,
            evaluation_explore=True,
            **SMALL,
        ) as algo,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        algo.learn(stop={"training_iteration": 4})


def test_the_end_of_a_run_and_the_command_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = poise.run("PPO", Chance, stop={"training_iteration": 20}, folder=tmp_path, preset=None,
                    tensorboard=False, quiet=True, callbacks=[Biased()], **SMALL)  # fmt: skip
    run.trainer.close()
    log = (run.path / "log.txt").read_text()
    assert log.count("The most likely actions earn 0, and sampled ones 1") == 1
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    shown = CliRunner().invoke(command, ["evaluate", str(run.path), "--episodes", "10", "--trust"])
    assert (
        "The most likely actions earn 0, and sampled ones 1 (10 episodes each)" in shown.output
    ), shown.output
    found = (
        CliRunner()
        .invoke(command, ["evaluate", str(run.path), "--episodes", "10", "--json", "--trust"])
        .stdout
    )
    assert json.loads(found[found.index("{") :])["sampled_reward_mean"] == 1
