"""What is kept of a policy's actions, and of how episodes ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import poise
from poise.tracking.behaviour import BINS, look
from poise.tracking.folder import json_line
from poise.watch.acts import behaviour, looks


class Short(gym.Env):
    """Episodes of four steps, of which every third is cut."""

    def __init__(self, action: spaces.Space) -> None:
        self.observation_space, self.action_space = spaces.Box(-1, 1, (2,)), action
        self.number = self.t = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.number, self.t = self.number + 1, 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        cut, over = self.number % 3 == 0, self.t == 4
        return np.zeros(2, np.float32), 0.0, over and not cut, over and cut, {}


@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_choices_and_ends_are_counted(algorithm: str) -> None:
    config: dict[str, Any] = {"num_envs_per_worker": 2, "seed": 0, "progress": False}
    if algorithm == "DQN":
        config |= {"timesteps_per_iteration": 100, "learning_starts": 10}
    else:
        config |= {"rollout_fragment_length": 50, "train_batch_size": 100}
    with getattr(poise, algorithm)(lambda _: Short(spaces.Discrete(3, start=5)), **config) as algo:
        assert look(algo) is None or algorithm == "DQN"  # nothing was sampled yet
        algo.train()
        seen = look(algo)
    assert seen is not None
    [choices] = seen["actions"]
    assert len(choices) == 3
    assert sum(choices) == seen["steps"] <= 110
    # Of steps, every fourth ends an episode; those that only reset do not count.
    assert seen["terminated"] + seen["truncated"] == pytest.approx(seen["steps"] / 4, abs=2)
    assert seen["terminated"] == pytest.approx(2 * seen["truncated"], abs=6)


def test_numbers_are_counted_by_parts_of_their_range() -> None:
    action = spaces.Box(np.array([-2, 0, -np.inf], np.float32), np.array([2, 1, 1], np.float32))
    made = {"num_envs_per_worker": 2, "rollout_fragment_length": 50, "train_batch_size": 100}
    with poise.PPO(lambda _: Short(action), seed=0, progress=False, **made) as algo:
        algo.train()
        seen = look(algo)
    assert seen is not None
    assert [len(counts) for counts in seen["actions"]] == [BINS, BINS]  # the third has no bound
    assert [sum(counts) for counts in seen["actions"]] == [seen["steps"]] * 2
    assert seen["actions"][0][0] + seen["actions"][0][-1] < seen["steps"]


def test_where_a_run_went_on_it_takes_the_place_of_what_came_later(tmp_path: Path) -> None:
    file = tmp_path / "behaviour.jsonl"
    lines = [json_line({"timesteps_total": steps, "n": n}) for n, steps in enumerate((10, 30, 20))]
    file.write_text("".join([*lines, "[1]\n", '{"timesteps_total": "x"}\n{"timesteps_total": 5']))
    assert [(seen["timesteps_total"], seen["n"]) for seen in looks(file)] == [(10, 0), (20, 2)]


def test_looks_are_put_together_as_shares() -> None:
    seen = [{"timesteps_total": 10 * i, "actions": [[i, 3 * i]], "terminated": 1} for i in (1, 2)]
    found = behaviour(seen, np.array([[0, 20], [0.0, 2.0], [0, 4]]))
    assert found["actions"] == [[[0.25, 0.75]], [[0.25, 0.75]]]
    assert (found["time"], found["terminated"], found["truncated"]) == ([1, 2], [1, 1], [0, 0])
    odd = [{"timesteps_total": 1, "actions": x} for x in ("<b>", [[1, "x"]], [[[1]]], {}, None)]
    assert behaviour(odd, np.zeros((3, 0)))["actions"] == [[]] * 5
