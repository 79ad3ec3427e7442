"""Self-play against earlier selves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file
from tests.many_agents import Turns
from tests.test_agents import GAME, Rooms, parameters

import poise
from poise.advice.stuck import course_of
from poise.config.opponents import OpponentsConfig
from poise.config.presets import PRESETS
from poise.sampling.opponents import PRESENT, Earlier, Pool
from poise.tracking.curves import History, panels
from poise.tracking.folder import RunFolder
from poise.tracking.progress import line

SETTINGS: dict[str, Any] = {
    "num_envs_per_worker": 8,
    "rollout_fragment_length": 16,
    "model": {"fcnet_hiddens": [8]},
    "preset": None,
    "seed": 2,
}


class Higher:
    """Two agents say a number at once, three times; the higher sum wins."""

    possible_agents = ("left", "right")

    def __init__(self, config: Any = None) -> None:
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(0, 3, (1,), np.float32)

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.t, self.sums = list(self.possible_agents), 0, dict[str, int]()
        return self._seen(), {}

    def _seen(self) -> dict[str, Any]:
        return {agent: np.full(1, self.t, np.float32) for agent in self.possible_agents}

    def step(self, actions: dict[str, Any]) -> Any:
        self.t += 1
        self.sums = {agent: self.sums.get(agent, 0) + int(a) for agent, a in actions.items()}
        over, left, right = self.t == 3, *self.sums.values()
        rewards = {"left": np.sign(left - right) * over, "right": np.sign(right - left) * over}
        ends = dict.fromkeys(self.possible_agents, over)
        self.agents = [] if over else self.agents
        return self._seen(), rewards, ends, dict.fromkeys(ends, False), {}

    def close(self) -> None:
        pass


def playing(env: Any = Higher, **how: Any) -> Any:
    """A trainer of PPO whose pool has its first member, and its next rollout with its parts."""
    opponents = {"every": 300, "pool": 3, "latest": 0.25}
    trainer = poise.PPO(env, **{**SETTINGS, "opponents": opponents, **how})
    trainer.algorithm.selfplay.begin(0)
    joint = trainer.samplers.collect()
    return trainer, joint, trainer.algorithm.split(joint)


def test_only_the_present_self_learns_and_its_seat_is_drawn_anew() -> None:
    _, joint, parts = playing(num_envs_per_worker=64)
    part = parts["default"]
    actors = joint.action[..., -2:]  # [T, E, seats]
    frozen = torch.cat([actors[..., 0], actors[..., 1]], -1) != PRESENT
    assert not part.valid[frozen].any()
    assert torch.equal(part.valid > 0, ~frozen & (joint.valid > 0).repeat(1, 2))
    starts = joint.first[:-1] & (joint.valid > 0)
    both, left, right = (
        float((actors[starts] == torch.tensor(who)).all(-1).float().mean())
        for who in ([-1, -1], [-1, 0], [0, -1])
    )
    assert both + left + right == 1
    assert both == pytest.approx(0.25, abs=0.08)
    assert left == pytest.approx(0.375, abs=0.08)
    # Who plays stays for the whole episode.
    goes_on = ~joint.first[1:-1] & (joint.valid[1:] > 0)
    assert torch.equal(actors[1:][goes_on], actors[:-1][goes_on])


def test_an_earlier_self_acts_as_it_was() -> None:
    trainer, _, _ = playing()
    with torch.no_grad():
        for value in trainer.policy.policies["default"].parameters():
            value.zero_()
        bias = trainer.policy.policies["default"].network.pi.bias
        bias[:] = torch.tensor([0.0, 0.0, 50.0])  # the present self says 2, always
        first = trainer.algorithm.opponents.members[0].policy.network.pi.bias
        first[:] = torch.tensor([50.0, 0.0, 0.0])
    trainer.samplers.collect()  # with episodes under way
    joint = trainer.samplers.collect()
    said, actors = joint.action[joint.valid > 0].split(2, -1)
    assert torch.equal(said, torch.where(actors == PRESENT, 2.0, 0.0))
    trainer.algorithm.opponents.follow(joint, trainer.algorithm.selfplay.own)
    table = trainer.opponents
    assert table[1].games > 10
    assert table[1].win_rate > 0.9
    assert table[0].elo > 1300
    assert trainer.compute_action(np.zeros(1, np.float32)) == 2
    assert trainer.evaluate(3)["info/reward/left"] == 0  # a tie: it plays itself


@pytest.mark.parametrize(("seat", "score"), [("a", 0.5), ("b", 1.0), ("c", 0.0)])
def test_a_seat_is_compared_with_each_of_the_others(seat: str, score: float) -> None:
    """In the script, a returns 15, b 150, and c 0.75."""
    trainer, joint, _ = playing(lambda config: Turns(GAME), rollout_fragment_length=7)
    actors = torch.full((7, 8, 3), 0.0)
    actors[..., "abc".index(seat)] = PRESENT
    joint.action[..., -3:] = actors
    pool = trainer.algorithm.opponents
    pool.follow(joint, trainer.algorithm.selfplay.own)
    assert pool.members[0].played == pool.played == 8
    assert pool.members[0].won / pool.members[0].games == pytest.approx(score)
    own = trainer.algorithm.split(joint)["default"].valid
    turns = {"a": 3, "b": 2, "c": 1}[seat]
    assert own.sum() == turns * 8


def pool_of(rates: list[float], **how: Any) -> Pool:
    pool = Pool(OpponentsConfig(**how), 2, 1, torch.Generator())
    for number, rate in enumerate(rates):
        # With the game won and the game lost before the first, the win rate is this one.
        policy: Any = torch.nn.Linear(1, 1)
        pool.members.append(Earlier(number, 0, 1000.0, policy, games=98, won=100 * rate - 1))
    pool.joined = len(rates)
    return pool


def test_elo_is_that_of_the_formula() -> None:
    assert pool_of([0.75]).elo == pytest.approx(1000 + 400 * math.log10(3), abs=0.02)
    assert pool_of([0.9, 0.9]).elo == pytest.approx(1000 + 400 * math.log10(9), abs=0.02)
    assert pool_of([]).elo == 1000
    pool = pool_of([0.5, 0.5])
    pool.members[1].elo = 1400.0
    assert pool.elo == pytest.approx(1200, abs=0.02)


def test_opponents_are_drawn_by_how_often_they_win() -> None:
    pool, counts = pool_of([0.9, 0.5, 0.1]), np.zeros(3)
    for _ in range(2000):
        pool.draw()
        counts += np.bincount(pool.drawn, minlength=3)
    weights = np.array([0.01, 0.25, 0.81])
    assert counts / counts.sum() == pytest.approx(weights / weights.sum(), abs=0.02)


@pytest.mark.parametrize(("sampling", "left"), [("pfsp", [0, 2, 3]), ("uniform", [1, 2, 3])])
def test_of_a_full_pool_one_leaves(sampling: str, left: list[int]) -> None:
    pool = pool_of([0.5, 0.9, 0.1], pool=3, sampling=sampling)
    elo, policy = pool.elo, torch.nn.Linear(1, 1)
    pool.join(policy, 70)  # type: ignore[arg-type]
    assert [each.number for each in pool.members] == left
    assert pool.members[-1].elo == elo
    assert pool.members[-1].steps == 70
    frozen = pool.members[-1].policy
    assert torch.equal(frozen.weight, policy.weight)  # type: ignore[arg-type]
    assert not frozen.weight.requires_grad  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("workers", "memory"), [(0, None), (0, "gru"), pytest.param(2, None, marks=pytest.mark.slow)]
)
def test_a_run_goes_on_exactly_with_its_pool(
    tmp_path: Path, workers: int, memory: str | None
) -> None:
    opponents = {"every": 150, "pool": 2, "latest": 0.3}
    how = {**SETTINGS, "num_workers": workers, "num_envs_per_worker": 8 // (workers or 1)}
    how["model"] = {"fcnet_hiddens": [8], "memory": memory}
    trainer = poise.PPO(f"{__name__}:Higher", opponents=opponents, **how)
    for _ in range(4):
        trainer.train()
    path = trainer.save(tmp_path / "saved")
    names = load_file(path / "training.safetensors").keys()
    assert any(name.startswith("algorithm/opponents/members/1/policy/") for name in names)
    again = poise.load(path)
    assert again.opponents == trainer.opponents
    assert len(again.opponents) == 3
    for _ in range(3):
        expected, found = trainer.train(), again.train()
    trainer.close()
    again.close()
    same = [key for key in expected if not key.startswith(("time_", "perf/"))]
    assert {key: found[key] for key in same} == {key: expected[key] for key in same}
    assert torch.equal(parameters(again), parameters(trainer))
    assert again.opponents == trainer.opponents
    pools = again.algorithm.opponents, trainer.algorithm.opponents
    for one, other in zip(*(pool.members for pool in pools), strict=True):
        for key, value in one.policy.state_dict().items():
            assert torch.equal(value, other.policy.state_dict()[key]), key


def test_other_opponents_may_be_asked_for_when_a_run_goes_on(tmp_path: Path) -> None:
    trainer = poise.PPO(f"{__name__}:Higher", opponents={"every": 100, "pool": 3}, **SETTINGS)
    for _ in range(4):
        trainer.train()
    path = trainer.save(tmp_path / "saved")
    smaller = poise.load(path, opponents={"pool": 2})
    assert len(smaller.opponents) == 1 + 2
    assert "selfplay/elo" in smaller.train()
    none = poise.load(path, opponents=None)
    assert "selfplay/elo" not in none.train()
    assert "selfplay/elo" in poise.load(none.save(tmp_path / "none"), opponents=True).train()


def test_a_pool_that_begins_late_says_what_its_first_member_has_learnt_from(tmp_path: Path) -> None:
    before = poise.PPO(f"{__name__}:Higher", **SETTINGS)
    learnt = before.train()["timesteps_total"]
    after = poise.load(before.save(tmp_path / "before"), opponents={"every": 10_000})
    after.train()
    assert [each.steps for each in after.opponents[1:]] == [learnt]
    warmed = poise.PPO(Higher, opponents=True, normalize_observations=True, **SETTINGS)
    warmed.train()
    assert [each.steps for each in warmed.opponents[1:]] == [0]


def test_where_agents_play_against_each_other_no_return_need_rise() -> None:
    trainer = poise.PPO(Higher, metrics_smoothing_episodes=5, **SETTINGS)
    trainer.train()
    assert course_of(trainer).contest  # what one wins, the other loses
    together = poise.PPO(Rooms, **{**SETTINGS, "model": {}})
    together.train()
    assert len(together.metrics.window) > 1
    assert not course_of(together).contest
    rated = poise.PPO(Higher, opponents=True, metrics_smoothing_episodes=5, **SETTINGS)
    rated.train()
    assert course_of(rated).contest
    assert trainer.score == ("episode_reward_mean", 0.0)
    assert rated.score == ("selfplay/elo", rated.opponents[0].elo)


@pytest.mark.parametrize("algorithm", ["A2C", "IMPALA", "DQN", "SAC"])
def test_other_algorithms_play_earlier_selves(algorithm: str) -> None:
    how = {**SETTINGS, "timesteps_per_iteration": 0}
    if algorithm in ("DQN", "SAC"):
        how |= {"learning_starts": 8, "buffer_size": 400, "gradient_steps": 1}
    trainer = poise.make_trainer(algorithm, Higher, opponents={"every": 200}, **how)
    for _ in range(4):
        result = trainer.train()
    assert result["selfplay/pool"] == 2
    assert result["selfplay/games"] == trainer.opponents[0].games > 20
    assert result["agent_timesteps_total"] < 2 * result["timesteps_total"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"pol": 3}, r"opponents has no key 'pol'. Did you mean 'pool'\? Its keys: pool, every"),
        ({"pool": 0}, r"opponents.pool=0 is not allowed: it must be an integer at least 1"),
        ({"every": "often"}, r"opponents.every='often' is not allowed"),
        ({"sampling": "pfps"}, r"'pfsp' or 'uniform'. Did you mean 'pfsp'"),
        ({"latest": 2}, r"opponents.latest=2 is not allowed: it must be a number from 0 to 1"),
        (3, r"opponents=3 is not allowed: it must be true, a mapping with some of pool, every"),
    ],
)
def test_what_is_said_of_opponents_is_checked(given: Any, sentence: str) -> None:
    with pytest.raises(poise.ConfigError, match=sentence):
        poise.PPO(Higher, opponents=given, **SETTINGS)


def test_opponents_take_agents_that_share_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(poise.ConfigError, match="the environment has one agent"):
        poise.PPO("CartPole-v1", opponents=True)
    with pytest.raises(poise.ConfigError, match="share, and there is none"):
        poise.PPO(Rooms, policies_to_train=["late"], opponents=True, **SETTINGS)
    model = {"memory": "gru"}
    with pytest.raises(poise.ConfigError, match="opponents with DQN and a memory"):
        poise.DQN(Higher, opponents=True, **{**SETTINGS, "model": model})
    monkeypatch.setitem(PRESETS["PPO"], "Higher", {"opponents": True})
    given_way = poise.PPO(Rooms, policies_to_train=["late"], **{**SETTINGS, "preset": "Higher"})
    assert given_way.opponents == []
    assert any("No earlier selves are played" in note for note in given_way.notes)
    trainer = poise.PPO(Higher, opponents=True, **SETTINGS)
    defaults = {"pool": 10, "every": 50_000, "sampling": "pfsp", "latest": 0.5}
    assert trainer.config.opponents == defaults
    assert poise.PPO(Higher, **SETTINGS).opponents == []


def test_a_run_keeps_the_table_of_its_pool_and_draws_the_rating(tmp_path: Path) -> None:
    opponents = {"every": 200, "pool": 2}
    settings = {**SETTINGS, "opponents": opponents, "preset": None}
    run = poise.run("PPO", Higher, stop={"timesteps_total": 600}, folder=tmp_path, **settings)
    lines = (run.path / "opponents.csv").read_text().splitlines()
    assert lines[0] == "steps,elo,win_rate,games"
    steps = [int(row.split(",")[0]) for row in lines[1:]]
    assert steps == [each.steps for each in run.trainer.opponents]
    assert steps == sorted(steps, reverse=True)
    assert len(steps) == 1 + 2
    last = run.trainer.history[-1]
    assert line(last).startswith(f"Elo {last['selfplay/elo']:5.0f}   ")
    history = History.of_folder(RunFolder(run.path))
    assert [panel.y_label for panel in panels([history])][2:] == ["Elo rating"]
    assert len(panels([history], y="return")) == 1
