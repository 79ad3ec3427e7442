"""Guards what happens at the edges.

A broken rollout, a closed trainer, parts of a batch in which nothing counts.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

import poise
from poise.errors import EnvError, PoiseError
from poise.learning.distributions import SquashedGaussian
from poise.learning.losses import explained_variance, normalize
from poise.training.trainer import Trainer

Make = Callable[..., Trainer]
SMALL = {
    "num_envs_per_worker": 4,
    "rollout_fragment_length": 16,
    "sgd_minibatch_size": 32,
    "num_sgd_iter": 2,
}


class Breaks(gym.Env):
    """Counts its steps in the observation, and never ends.

    At a given step of its first episode somebody presses Ctrl-C twice.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, at: int = 20) -> None:
        self.at, self.now, self.episodes = at, 0, 0

    def observe(self) -> np.ndarray:
        return np.array([self.now], np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.now, self.episodes = 0, self.episodes + 1
        return self.observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.now += 1
        if self.now == self.at and self.episodes == 1:
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
        return self.observe(), 1.0, False, False, {}


class OneStep(gym.Env):
    """Every episode is one step: every second step of a slot only resets."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), float(action), True, False, {}


class Noisy(gym.Env):
    """Its steps draw from Gymnasium's generator, which its `get_state` leaves out."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)
    place = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place = 0.0
        return self.observe(), {}

    def observe(self) -> np.ndarray:
        return np.array([self.place], np.float32)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place += self.np_random.normal()
        return self.observe(), -abs(self.place), abs(self.place) > 5, False, {}

    def get_state(self) -> dict[str, Any]:
        return {"place": self.place}

    def set_state(self, state: dict[str, Any]) -> np.ndarray:
        self.place = state["place"]
        return self.observe()


def test_after_a_broken_rollout_rows_and_environments_agree(trainer: Make) -> None:
    algo = trainer("PPO", Breaks, **SMALL)
    algo.train()
    with pytest.raises(KeyboardInterrupt):
        algo.train()
    algo.train()
    (sampler,) = algo.samplers.members
    stands = [env.unwrapped.now for env in sampler.env.envs]
    assert sampler.rollout.obs["value"][-1, :, 0].tolist() == stands == [16] * 4
    assert sampler.rollout.first[0].all()  # new episodes: those that were broken off are gone
    assert sampler._lengths.tolist() == [16] * 4


def test_a_broken_rollout_is_not_saved_as_if_it_were_whole(trainer: Make, tmp_path: Path) -> None:
    algo = trainer("PPO", Breaks, **SMALL)
    with pytest.raises(KeyboardInterrupt):
        algo.learn(total_timesteps=1000, stop=lambda result: False)
    with poise.load(algo.save(tmp_path / "a"), env=lambda: Breaks(at=-1)) as loaded:
        loaded.train()
        assert loaded.samplers.members[0].rollout.first[0].all()


@pytest.mark.parametrize("env", ["CartPole-v1", "Acrobot-v1"])
def test_a_closed_trainer_goes_on_where_it_was(env: str, trainer: Make, tmp_path: Path) -> None:
    straight, closed = (
        trainer("PPO", env, preset=None, **SMALL),
        trainer("PPO", env, preset=None, **SMALL),
    )
    for algo in (straight, closed):
        algo.train()
    closed.close()
    closed.save(tmp_path / "a")
    for algo in (straight, closed):
        result = algo.train()
        assert 0 <= result["perf/env_share"] <= 1
    assert torch.equal(straight.algorithm.flat.data, closed.algorithm.flat.data)
    with poise.load(tmp_path / "a") as loaded:
        loaded.train()
        assert torch.equal(straight.algorithm.flat.data, loaded.algorithm.flat.data)


def test_an_environment_that_tells_its_state_keeps_its_generator(
    trainer: Make, tmp_path: Path
) -> None:
    algo = trainer("PPO", Noisy, **SMALL)
    algo.train()
    path = algo.save(tmp_path / "a")
    expected = algo.train()["episode_reward_mean"]
    with poise.load(path, env=Noisy) as loaded:
        found = loaded.train()["episode_reward_mean"]
        assert loaded.notes == []
        assert torch.equal(algo.algorithm.flat.data, loaded.algorithm.flat.data)
    assert found == expected or (math.isnan(found) and math.isnan(expected))


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
def test_rollouts_in_which_nothing_counts_do_no_harm(algorithm: str, trainer: Make) -> None:
    algo = trainer(
        algorithm,
        OneStep,
        num_envs_per_worker=4,
        rollout_fragment_length=1,
        timesteps_per_iteration=0,
    )
    for _ in range(30):
        algo.train()
    assert algo.algorithm.skipped == 0
    assert torch.isfinite(algo.algorithm.flat.data).all()


def test_nothing_to_normalise_or_explain() -> None:
    x = torch.tensor([1.0, 2.0])
    assert torch.isfinite(normalize(x, torch.zeros(2))).all()
    assert math.isnan(explained_variance(x, torch.ones(2), torch.ones(2)).item())


def test_threads_are_the_users_own_outside_training(trainer: Make) -> None:
    torch.set_num_threads(2)
    algo = trainer("PPO", "CartPole-v1", **SMALL)
    assert (algo.config.num_threads, torch.get_num_threads()) == (1, 2)
    algo.train()
    assert torch.get_num_threads() == 2


def test_a_seed_begins_with_the_same_weights_whatever_the_threads(trainer: Make) -> None:
    weights = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        weights.append(trainer("DQN", "CartPole-v1", seed=0).policy.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.5, -1.0), (0.0, 1.0), (-1.0, 0.5)])
def test_the_entropy_of_a_squashed_gaussian_is_that_of_its_samples(
    mean: float, log_std: float
) -> None:
    dist = SquashedGaussian(1)
    inputs = torch.tensor([[mean, log_std]]).expand(200_000, 2)
    actions = dist.sample(inputs, dist.noise((200_000,), torch.Generator().manual_seed(0)))
    sampled = -dist.log_prob(inputs, actions).mean().item()
    assert dist.entropy(inputs[:1]).item() == pytest.approx(sampled, abs=0.05)


def test_a_deviation_beyond_its_bounds_can_come_back() -> None:
    dist = SquashedGaussian(1)
    inputs = torch.tensor([[0.0, 2.5]], requires_grad=True)
    dist.log_prob(inputs, torch.tensor([[0.1]])).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad[0, 1] != 0


def test_an_evaluation_refuses_what_is_not_finite(trainer: Make) -> None:
    class Rotten(OneStep):
        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            return np.zeros(1, np.float32), math.nan, True, False, {}

    algo = trainer("PPO", Rotten, **SMALL)
    with pytest.raises(EnvError, match="not finite"):
        algo.evaluate(2)


def test_objects_in_the_env_config_do_not_hinder_saving(trainer: Make, tmp_path: Path) -> None:
    class Holds(OneStep):
        def __init__(self, config: dict[str, Any]) -> None:
            assert config["thing"] is not None

    algo = trainer("PPO", Holds, env_config={"thing": object(), "depth": {"x": 1}}, **SMALL)
    algo.train()
    path = algo.save(tmp_path / "a")
    with poise.load(path, env=Holds, env_config={"thing": 1}) as loaded:
        loaded.train()
    with poise.load(path) as loaded:
        assert loaded.config.env_config == {"thing": "<object>", "depth": {"x": 1}}


def test_a_checkpoint_is_found_though_its_replacement_died_between_two_renames(
    trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    algo = trainer("PPO", "CartPole-v1", **SMALL)
    algo.train()
    path = algo.save(tmp_path / "a")
    rename = os.rename

    def die_after_the_first(source: Any, target: Any) -> None:
        rename(source, target)
        monkeypatch.setattr(os, "rename", lambda *_: os._exit(9))

    if (child := os.fork()) == 0:  # a process that is gone runs none of its cleaning up
        os.rename = die_after_the_first  # type: ignore[assignment]
        algo.save(path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not path.exists()
    with poise.load(path) as loaded:
        assert loaded.iteration == 1
    assert path.is_dir()


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (lambda algo: algo.save(5), "path=5 is not allowed: it must be a text or a path."),
        (lambda algo: algo.save("/dev/null/x"), "/dev/null/x cannot be written: "),
        (lambda algo: poise.load(5), "path=5 is not allowed"),
        (lambda algo: poise.plot(5), "path=5 is not allowed"),
        (
            lambda algo: algo.learn(-1),
            "total_timesteps=-1 is not allowed: it must be an integer at least 1",
        ),
        (lambda algo: algo.learn("x"), "total_timesteps='x' is not allowed"),
        (lambda algo: algo.learn(stop={"evaluation/episodes": 5}), "set evaluation_interval"),
        (lambda algo: algo.evaluate("x"), "episodes='x' is not allowed"),
        (
            lambda algo: poise.PPO("CartPole-v1", callbacks=5),
            "callbacks=5 is not allowed: it must be a list",
        ),
        (
            lambda algo: poise.record("ck", "x.mp4"),
            "trainer='ck' is not allowed: poise.load makes a trainer",
        ),
        (lambda algo: poise.register_env(5, print), "name=5 is not allowed: it must be a text."),
        (lambda algo: poise.register_env("five", 5), "creator=5 is not allowed"),
    ],
)
def test_a_wrong_argument_is_answered_in_one_sentence(
    trainer: Make, mistake: Any, sentence: str
) -> None:
    with pytest.raises(PoiseError) as caught:
        mistake(trainer("PPO", "CartPole-v1", **SMALL))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", lambda config: OneStep()])
@pytest.mark.parametrize("limit", ["a", -1, 0])
def test_a_time_limit_is_checked_for_all_environments_alike(env: Any, limit: Any) -> None:
    with pytest.raises(
        PoiseError,
        match=r"env_config\.max_episode_steps=.* is not allowed: it must be an integer at l",
    ):
        poise.PPO(env, env_config={"max_episode_steps": limit})


def test_an_algorithm_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(
        AttributeError, match=r"no attribute 'TRPO'\..* The algorithms are PPO, A2C, DQN"
    ):
        poise.TRPO  # noqa: B018
    with pytest.raises(AttributeError, match="Did you mean 'PPO'"):
        poise.PPOO  # noqa: B018


@pytest.mark.parametrize(
    ("found", "word"), [("garbage", "a str"), (None, "None"), ((1, 2, 3), "3 values")]
)
def test_a_reset_that_returns_something_else_is_told_what(
    trainer: Make, found: Any, word: str
) -> None:
    class Odd(OneStep):
        def reset(self, **options: Any) -> Any:
            return found

    with pytest.raises(EnvError, match=f"must return \\(obs, info\\), and returned {word}"):
        trainer("PPO", lambda config: Odd(), **SMALL).train()


class Huge(OneStep):
    """Numbers that float64 can hold and float32 cannot."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)

    def __init__(self, reward: float = 0.0, number: float = 0.0) -> None:
        super().__init__()
        self.given, self.number = reward, number

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return np.zeros(1), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.full(1, self.number), self.given, True, False, {}


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (
            {"reward": 1e300},
            r"gave a reward beyond float32, whose largest number is 3\.4e\+38: 1e\+300",
        ),
        (
            {"number": -1e60},
            r"gave an observation 'value' beyond float32, whose largest .*: \[-1\.e\+60\]",
        ),
        ({"reward": np.inf}, r"gave a reward that is not finite, inf"),
    ],
)
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_numbers_that_are_too_large_are_called_so(
    trainer: Make, env: Any, sentence: str, batch: bool
) -> None:
    def creator(config: Any) -> Any:
        return SyncVectorEnv([lambda: Huge(**env)] * 2) if batch else Huge(**env)

    with pytest.raises(EnvError, match=sentence):
        trainer("PPO", creator, num_envs=2, n_steps=4, sgd_minibatch_size=8).train()
    assert poise.DivergedError.__mro__[1] is poise.PoiseError


def test_a_board_is_computed_by_one_thread_and_a_screen_by_all_cores(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poise.training.trainer.available_cores", lambda: 4)

    class Pictures(gym.Env):
        action_space: Any = spaces.Discrete(2)

        def __init__(self, config: dict[str, Any]) -> None:
            self.observation_space = spaces.Box(0, 1, config["shape"], np.int8)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros(self.observation_space.shape, np.int8), {}

        def step(self, action: Any) -> Any:
            return np.zeros(self.observation_space.shape, np.int8), 0.0, True, False, {}

    for shape, threads in (((6, 7, 2), 1), ((64, 64, 3), 4), ((40,), 1)):
        made = trainer("PPO", Pictures, env_config={"shape": shape})
        assert made.config.num_threads == threads
