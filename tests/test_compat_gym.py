"""Scripts of all of Gym's years: what they call returns what they take."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poise.compat.gym.envs.toy_text.frozen_lake import generate_random_map

import poise
from poise.compat import gym
from poise.compat.gym import core, spaces
from poise.compat.gym.ids import living
from poise.compat.gym.utils import seeding


@pytest.fixture(autouse=True)
def nothing_said() -> Iterator[None]:
    core._said.clear()
    yield
    core._said.clear()


class Corridor(gym.Env):
    """Of the old API, as scripts wrote them: three steps to the right."""

    metadata = {"render.modes": ["human"]}  # noqa: RUF012 - as scripts have it

    def __init__(self, length: int = 3) -> None:
        self.length = length
        self.observation_space = spaces.Box(0, length, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.seed()

    def seed(self, seed: int | None = None) -> list[Any]:
        self.np_random, seed = seeding.np_random(seed)
        return [seed]

    def reset(self) -> np.ndarray:  # type: ignore[override]
        self.at = 0
        self.drawn = self.np_random.randint(1000)
        return np.zeros(1, np.float32)

    def step(self, action: int) -> Any:
        self.at += action
        obs = np.full(1, self.at, np.float32)
        return obs, float(action), self.at >= self.length, {}


class Halved(gym.Wrapper):
    def step(self, action: int) -> Any:
        obs, reward, done, info = self.env.step(action)
        return obs, reward / 2, done, info


@pytest.fixture
def corridor() -> Iterator[str]:
    gym.register(id="Corridor-v0", entry_point=Corridor, max_episode_steps=5)
    yield "Corridor-v0"
    gym.envs.registry.pop("Corridor-v0")


def test_what_is_made_is_an_env_of_gym() -> None:
    env = gym.make("CartPole-v1")
    assert isinstance(env, gym.Env)
    assert isinstance(Halved(env), gym.Env)
    assert isinstance(env.unwrapped, gym.Env)


def test_a_line_gets_as_many_values_as_it_takes() -> None:
    env = gym.make("CartPole-v1")
    first = env.reset()
    obs, reward, done, info = env.step(0)
    assert (first.shape, obs.shape, reward, done, info) == ((4,), (4,), 1.0, False, {})
    first, info = env.reset(seed=3)
    obs, _reward, terminated, truncated, info = env.step(0)
    assert (obs.shape, terminated, truncated, info) == ((4,), False, False, {})
    again = env.reset(seed=3)[0]
    np.testing.assert_array_equal(again, first)
    whole = env.step(0)
    assert len(whole) == 5  # as the line before took it
    obs, _, done, _ = env.step(0)
    whole = env.step(0)
    assert len(whole) == 4


def test_where_nothing_tells_it_is_four_values_unless_make_said_otherwise() -> None:
    old = gym.make("CartPole-v1")
    new = gym.make("CartPole-v1", render_mode="rgb_array")
    found, found_new = old.reset(), new.reset()
    assert (np.shape(found), type(found_new)) == ((4,), tuple)
    found, found_new = old.step(0), new.step(0)
    assert (len(found), len(found_new)) == (4, 5)
    assert new.render().shape == (400, 600, 3)


def test_a_pair_of_two_numbers_is_an_observation_and_an_info_and_that_is_said() -> None:
    env = gym.make("MountainCar-v0")
    with pytest.warns(UserWarning, match="takes an observation and an info, not two numbers"):
        obs, info = env.reset()
    assert (obs.shape, info) == ((2,), {})


def test_wrappers_of_the_script_go_around_what_was_made() -> None:
    env = Halved(gym.make("CartPole-v1"))
    env.reset()
    _, reward, done, _ = env.step(0)
    assert (reward, done) == (0.5, False)
    assert env.unwrapped.gravity == 9.8
    env.unwrapped.gravity = 1.0
    assert env.env.gravity == 1.0

    class Zero(gym.ObservationWrapper):
        def observation(self, observation: Any) -> Any:
            return observation * 0

    class Other(gym.ActionWrapper):
        def action(self, action: int) -> int:
            return 1 - action

    class More(gym.RewardWrapper):
        def reward(self, reward: float) -> float:
            return reward + 1

    env = More(Other(Zero(gym.make("CartPole-v1"))))
    assert not env.reset().any()
    obs, reward, done, _ = env.step(0)
    assert (obs.any(), reward, done) == (False, 2.0, False)
    obs, reward, _terminated, _truncated, _ = env.step(0)
    assert (obs.any(), reward) == (False, 2.0)


def test_environments_of_the_old_api_are_made_by_id_and_played_by_all_of_poise(
    corridor: str,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(corridor)
        assert isinstance(env.unwrapped, Corridor)
        env.seed(1)
        env.reset()
        drawn = env.unwrapped.drawn
        env.seed(1)
        assert env.reset() == 0
        assert env.unwrapped.drawn == drawn
        assert [env.step(1)[2] for _ in range(3)] == [False, False, True]
        env.reset()
        for _ in range(5):
            _, _, done, info = env.step(0)
        assert (done, info["TimeLimit.truncated"]) == (True, True)
    algo = poise.PPO(corridor, n_envs=2, rollout_fragment_length=8, progress=False)
    algo.train()
    assert algo.metrics.window[0].length <= 5


@pytest.mark.slow
def test_they_are_played_by_workers_too(corridor: str) -> None:
    with poise.A2C(corridor, num_workers=1, n_envs=2, progress=False) as algo:
        assert algo.train()["episodes_this_iter"] > 100


def test_ids_that_are_retired_are_the_next_that_live_and_that_is_said_once() -> None:
    for old, new in {
        "Taxi-v3": "Taxi-v4",
        "FrozenLake-v0": "FrozenLake-v1",
        "Pendulum-v0": "Pendulum-v1",
        "LunarLander-v2": "LunarLander-v3",
        "HalfCheetah-v2": "HalfCheetah-v4",
    }.items():
        with pytest.warns(UserWarning, match=rf"{old} is retired: {new} takes its place"):
            assert living(old) == new
        assert living(old) == new  # silently
    assert living("CartPole-v0") == "CartPole-v0"
    with pytest.raises(poise.EnvError, match="There is no environment 'Copy-v0'"):
        gym.make("Copy-v0")


def test_atari_games_have_the_pictures_of_the_console() -> None:
    env = gym.make("BreakoutDeterministic-v4")
    assert env.reset().shape == (210, 160, 3)
    assert env.spec.id == "BreakoutDeterministic-v4"
    before = env.unwrapped.ale.getFrameNumber()
    env.step(0)
    assert env.unwrapped.ale.getFrameNumber() - before == 4
    assert gym.make("Pong-ram-v0").reset().shape == (128,)
    env = gym.wrappers.FrameStack(gym.wrappers.AtariPreprocessing(env, frame_skip=1), 4)
    assert env.reset().shape == (4, 84, 84)
    obs, _, done, _ = env.step(1)
    assert (obs.shape, obs.dtype, done) == ((4, 84, 84), np.uint8, False)


def test_tables_are_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    env = gym.make("FrozenLake-v1", desc=generate_random_map(4))
    assert (env.nS, env.nA, env.env.nS) == (16, 4, 16)
    assert len(env.env.P[0][1]) == 3
    env.reset()
    assert env.render() is None
    assert "\n" in capsys.readouterr().out
    assert "\n" in env.render(mode="ansi")


def test_monitors_film_and_count(tmp_path: Path) -> None:
    env = gym.wrappers.Monitor(
        gym.make("CartPole-v1"), str(tmp_path / "films"), force=True, video_callable=lambda k: k > 0
    )
    for _ in range(2):
        env.reset()
        done = False
        while not done:
            _, _, done, _ = env.step(0)
    env.close()
    (film,) = (tmp_path / "films").iterdir()
    assert film.name == "openaigym.video-episode-1.mp4"
    assert film.read_bytes()[4:8] == b"ftyp"
    assert env.get_episode_rewards() == [float(n) for n in env.get_episode_lengths()]
    assert env.get_total_steps() == sum(env.get_episode_lengths())
    assert [k for k in range(40) if gym.wrappers.monitor.is_cube(k)] == [0, 1, 8, 27]


def test_statistics_of_episodes_are_in_the_info() -> None:
    env = gym.wrappers.TimeLimit(
        gym.wrappers.RecordEpisodeStatistics(gym.make("Pendulum-v1")), max_episode_steps=7
    )
    env.reset()
    done, total = False, 0.0
    while not done:
        _, reward, done, info = env.step(env.action_space.sample())
        total += reward
    assert info["TimeLimit.truncated"]
    env._max_episode_steps = 9
    env.reset()
    assert sum(1 for _ in iter(lambda: env.step([0.0])[2], True)) == 8


def test_vectors_of_environments_reset_in_the_same_step() -> None:
    envs = gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 3)
    assert envs.reset().shape == (3, 4)
    dones, last = np.zeros(3, bool), {}
    while not dones.any():
        obs, rewards, dones, infos = envs.step(np.array([0, 1, 0]))
    last = infos[int(dones.argmax())]
    assert abs(last["terminal_observation"][2]) > 0.2 > abs(obs[dones.argmax()][2])
    assert (rewards.shape, last["TimeLimit.truncated"]) == ((3,), False)
    _obs, info = envs.reset(seed=[1, 2, 3])
    while "final_info" not in info:
        _obs, _rewards, ended, _cut, info = envs.step(np.array([1, 1, 1]))
    assert [each is not None for each in info["final_info"]] == ended.tolist()
    with pytest.warns(UserWarning, match="in this process"):
        assert gym.vector.make("CartPole-v1", 2).num_envs == 2


def test_names_that_are_not_there_say_so() -> None:
    with pytest.raises(ImportError, match=r"gym.Wraper is not here: .* Did you mean 'Wrapper'"):
        gym.Wraper  # noqa: B018
    with pytest.raises(ImportError, match="Did you mean 'FrameStack'"):
        from poise.compat.gym.wrappers import FrameStak  # noqa: F401
    with pytest.raises(NotImplementedError, match=r"gym.GoalEnv is not carried over. HER takes"):

        class Goal(gym.GoalEnv):  # type: ignore[misc, valid-type]
            pass


def test_random_numbers_have_the_names_of_both_generators() -> None:
    draws, seed = seeding.np_random(5)
    assert seed == 5
    assert 0 <= draws.randint(10) < 10
    assert (draws.rand(2).shape, draws.randn(3).shape) == ((2,), (3,))
    assert seeding.hash_seed(1) == seeding.hash_seed(1) != seeding.hash_seed(2)
