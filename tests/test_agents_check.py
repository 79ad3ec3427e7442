"""`check_env` of environments of several agents: whole ones, and such as break their contract."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from tests.many_agents import Signs, Turns
from tests.test_agents import GAME, Rooms

import poise
from poise.checks.check import check_env


def report_of(env: Any) -> Any:
    return check_env(env, steps=60, seconds=0.1)


def errors(env: Any) -> list[str]:
    return [finding.text for finding in report_of(env).errors]


Change = Callable[[Any, Any], Any]
"""Changes `[obs, rewards, terminated, truncated, infos]` that an environment's step returns."""


class Broken(Signs):
    """What a step returns is changed from the third one on."""

    def __init__(self, change: Change) -> None:
        super().__init__(2)
        self.change = change

    def step(self, actions: dict[str, Any]) -> Any:
        found = [*super().step(actions)]
        if self.t > 2 and self.agents:
            found = [dict(each) for each in found]
            self.change(self, found)
        return found


def no(part: int) -> Change:
    return lambda env, found: found[part].pop("a1")


def put(part: int, agent: str, value: Any) -> Change:
    return lambda env, found: found[part].update({agent: value})


def ghost(env: Any, found: Any) -> None:
    env.agents = ["a0", "ghost"]


def falls(env: Any, found: Any) -> None:
    raise RuntimeError("the board fell down")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (no(0), "the agent 'a1' is to act, and has no observation"),
        (no(1), "step() gives no reward of the agent 'a1', which acted"),
        (no(2), "step() gives no termination of the agent 'a1', which acted"),
        (no(3), "step() gives no truncation of the agent 'a1', which acted"),
        (put(0, "ghost", np.zeros(1)), "tells of the agent 'ghost', and possible_agents are"),
        (put(1, "ghost", 1.0), "tells of the agent 'ghost', and possible_agents are"),
        (ghost, "tells of the agent 'ghost', and possible_agents are"),
        (put(0, "a1", np.full(1, 7.0, np.float32)), "observation['agents']['a1'] is 7 at [0]"),
        (put(0, "a1", np.zeros(3, np.float32)), "['agents']['a1'] has the shape (3,)"),
        (put(1, "a1", float("nan")), "The reward is nan"),
        (falls, "Step 3 of an episode raised RuntimeError: the board fell down"),
    ],
)
def test_what_is_broken_is_said_in_one_sentence(change: Change, sentence: str) -> None:
    found = errors(lambda config: Broken(change))
    assert sentence in found[0]
    assert len(found) == 1 or "nan" in sentence  # of both the sum and the agent's own


class Masked(Turns):
    """In its fifth step, nothing is allowed."""

    def __init__(self) -> None:
        super().__init__(GAME)

    def observation_space(self, agent: str) -> spaces.Space:
        mask: Any = spaces.Box(0, 1, (3,), np.int8)  # type: ignore[arg-type]
        return spaces.Dict({"observation": super().observation_space(agent), "action_mask": mask})

    def observe(self, agent: str) -> Any:
        return {
            "observation": super().observe(agent),
            "action_mask": np.full(3, self.at != 4, np.int8),
        }


class Stays(Turns):
    """Agents whose episode is over do not leave."""

    def step(self, action: Any) -> None:
        if not self.done[self.agent_selection]:
            super().step(action)


class Unseeded(Signs):
    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        return super().reset()


class Empty(Signs):
    def __init__(self) -> None:
        super().__init__(0)


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (Masked, "the action mask of agent 'b' allows no action"),
        (lambda config: Stays(GAME), "'a' is over, and it stays in agents: step(None) must"),
        (lambda config: Unseeded(2), "Two episodes of one instance with seed=0"),
        (Empty, "Empty has no agents: possible_agents must name all"),
        (lambda config: Rooms({"fails": 5}), "raised ValueError: the roof came down"),
    ],
)
def test_so_it_is_in_turns_and_by_dicts(env: Any, sentence: str) -> None:
    found = errors(env)
    assert sentence in found[0]
    assert len(found) == 1


@pytest.mark.parametrize("env", [lambda config: Signs(2), lambda config: Turns(GAME), Rooms])
def test_nothing_is_said_of_whole_ones(env: Any) -> None:
    assert errors(env) == []


def test_what_each_agent_sees_is_shown() -> None:
    shown = dict(report_of(lambda config: Signs(2)).measured())["observation"]
    assert shown.startswith("Dict('a0': Box(-1.0, 1.0, (1,), float32), 'a1': Box")
    assert "acts" not in shown


def test_games_of_others_are_whole() -> None:
    for game in ("mpe2.simple_spread_v3", "pettingzoo.classic.connect_four_v3"):
        pytest.importorskip(game.partition(".")[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert errors(game) == []


def test_a_broken_one_stops_training_with_the_same_sentence() -> None:
    trainer = poise.PPO(lambda config: Broken(no(1)), preset=None, num_envs_per_worker=2)
    with (
        pytest.warns(poise.PoiseWarning, match="gives no reward of the agent 'a1'"),
        pytest.raises(poise.EnvError, match="gives no reward of the agent 'a1'"),
    ):
        trainer.learn(20_000)
