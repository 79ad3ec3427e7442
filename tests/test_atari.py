"""Atari games, by names and options, in native batches and one by one.

The contract of the batch, films and clipped rewards are guarded, too.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import poise
from poise.config.atari import GAMES, AtariConfig, atari_config, atari_name
from poise.config.docs import field_docs
from poise.config.presets import find_preset
from poise.config.resolve import resolve
from poise.envs import atari
from poise.envs.atari import AtariVector, is_atari, make_atari, make_atari_vector
from poise.envs.make import reward_threshold
from poise.errors import ConfigError, EnvError
from poise.sampling.episodes import episode_info
from poise.sampling.sampler import Sampler
from poise.stepping.advice import available_cores
from poise.stepping.batches import make_vector_env
from poise.stepping.snapshot import reset_seeded
from poise.training.evaluation import run_episodes
from rollouts import sample

ale_py = pytest.importorskip("ale_py")
PAGE = Path(__file__).parent.parent / "docs" / "atari.md"
SMALL = {"size": 42, "num_threads": 1}


def play(env: AtariVector, steps: int, seed: int | None = 0, actions: int = 0) -> list[tuple]:
    """The results of `steps` random steps after a reset."""
    env.reset(seed=seed)
    rng = np.random.default_rng(actions)
    return [
        env.step(rng.integers(env.single_action_space.n, size=env.num_envs)) for _ in range(steps)
    ]


def same(a: list[tuple], b: list[tuple]) -> bool:
    return all(
        np.array_equal(x, y)
        for left, right in zip(a, b, strict=True)
        for x, y in zip(left[:4], right[:4], strict=True)
    )


# --- names and options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "game", "sticky"),
    [
        ("PongNoFrameskip-v4", "Pong", 0.0),
        ("PongDeterministic-v4", "Pong", 0.0),
        ("Pong-v4", "Pong", 0.0),
        ("Pong-v0", "Pong", 0.25),
        ("MsPacmanNoFrameskip-v0", "MsPacman", 0.25),
        ("ALE/Pong-v5", "Pong", 0.25),
        ("ale_py:ALE/Tetris-v5", "Tetris", 0.25),
        ("TetrisNoFrameskip-v4", "Tetris", 0.0),
    ],
)
def test_names_say_the_game_and_how_sticky_it_is(env_id: str, game: str, sticky: float) -> None:
    assert atari_name(env_id) == (game, sticky)
    assert atari_config(atari_name(env_id), {}).sticky_actions == sticky
    assert atari_config(atari_name(env_id), {"sticky_actions": 0.5}).sticky_actions == 0.5
    assert is_atari(env_id)


@pytest.mark.parametrize(
    "env_id", ["CartPole-v0", "Pong-v5", "ALE/Pong-v4", "Pong-ram-v4", "Tetris-v4", "Walk-v4", ""]
)
def test_other_names_are_not_theirs(env_id: str) -> None:
    assert atari_name(env_id) is None
    assert not is_atari(env_id)


def test_every_game_can_be_named_in_every_way() -> None:
    from ale_py.registration import rom_id_to_name

    assert set(GAMES) <= {rom_id_to_name(rom) for rom in ale_py.roms.get_all_rom_ids()}
    registered = [
        name
        for name in atari.gym.registry
        if str(atari.gym.registry[name].entry_point).startswith("ale_py")
    ]
    assert len(registered) > 300
    for name in registered:  # Gym's old names and the emulator's new ones
        assert is_atari(name)
        assert atari_name(name).game in atari._roms(), name


def test_a_name_that_somebody_else_registered_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = atari.gym.envs.registration.EnvSpec("Pong-v4", entry_point="somebody:Pong")
    monkeypatch.setitem(atari.gym.registry, "Pong-v4", spec)
    assert not is_atari("Pong-v4")


@pytest.mark.parametrize(
    ("env_id", "text"),
    [
        ("PnogNoFrameskip-v4", r"no Atari game 'Pnog', .* Did you mean 'PongNoFrameskip-v4'\?"),
        ("ALE/Brakout-v5", r"no Atari game 'Brakout', .* Did you mean 'ALE/Breakout-v5'\?"),
        (
            "PongNoFrameskp-v4",
            r"no environment 'PongNoFrameskp-v4'\. Did you mean 'PongNoFrameskip-v4'\?",
        ),
        ("Pnog-v4", r"no environment 'Pnog-v4'\. Did you mean 'Pong-v4'\?"),
        ("ALE/WarlordsNo-v5", "no Atari game 'WarlordsNo'"),
    ],
)
def test_a_wrong_game_is_told_the_nearest(env_id: str, text: str) -> None:
    for make in (poise.make_env, lambda env: make_vector_env(env, 2)):
        with pytest.raises(EnvError, match=text):
            make(env_id)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"frme_skip": 4},
            (
                r"Unknown option 'frme_skip' in the env_config of an Atari game\. Did you mean"
                r" 'frame_skip'"
            ),
        ),
        (
            {"frameskip": 4, "frame_skip": 4},
            "'frameskip' and 'frame_skip' are two names of one option",
        ),
        (
            {"stack": 10**9},
            r"env_config\.stack=1000000000 is not allowed: it must be an integer from 1 to 64",
        ),
        (
            {"size": "84"},
            r"env_config\.size='84' is not allowed: it must be an integer from 16 to 256",
        ),
        (
            {"sticky_actions": 2},
            r"env_config\.sticky_actions=2 is not allowed: it must be a number from 0 to 1 or null",
        ),
        (
            {"repeat_action_probability": -1},
            r"env_config\.repeat_action_probability=-1 is not allowed",
        ),
    ],
)
def test_a_wrong_option_is_one_sentence(options: dict[str, Any], text: str) -> None:
    for make in (poise.make_env, lambda env, options: make_vector_env(env, 2, options)):
        with pytest.raises(ConfigError, match=text):
            make("Pong-v4", options)


def test_options_of_other_libraries_are_understood() -> None:
    name = atari_name("Pong-v4")
    config = atari_config(
        name, {"dim": 42, "frameskip": 2, "framestack": 3, "repeat_action_probability": 0.1}
    )
    assert (config.size, config.frame_skip, config.stack, config.sticky_actions) == (42, 2, 3, 0.1)
    assert set(AtariConfig.aliases.values()) <= {
        field.name for field in dataclasses.fields(AtariConfig)
    }


def test_the_longest_episode_is_half_an_hour_of_the_console() -> None:
    assert atari_config(atari_name("Pong-v4"), {}).max_episode_steps == 27_000
    assert atari_config(atari_name("Pong-v4"), {"frame_skip": 1}).max_episode_steps == 108_000
    assert atari_config(atari_name("Pong-v4"), {"max_episode_steps": 9}).max_episode_steps == 9


def test_without_the_extra_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    atari._roms.cache_clear()
    with pytest.raises(EnvError, match=r"Atari games need ale-py .*pip install .*\[atari\]"):
        poise.make_env("PongNoFrameskip-v4")


# --- the batch ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (4, 84, 84)),
        ({"size": 42, "stack": 2}, (2, 42, 42)),
        ({"size": 42, "stack": 2, "grayscale": False}, (6, 42, 42)),
        ({"stack": 1}, (1, 84, 84)),
    ],
)
def test_observations_are_bytes_in_planes(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    env = make_vector_env("BreakoutNoFrameskip-v4", 3, options)
    obs, _ = env.reset(seed=0)
    assert obs.shape == (3, *shape)
    assert obs.dtype == np.uint8
    assert env.single_observation_space.shape == shape
    assert obs[0] in env.single_observation_space
    assert env.single_action_space.n == 4
    obs, reward, terminated, truncated, _ = env.step(np.zeros(3, np.int64))
    assert obs in env.observation_space
    assert reward.shape == terminated.shape == truncated.shape == (3,)
    env.close()
    one = poise.make_env("BreakoutNoFrameskip-v4", options)
    assert (one.observation_space, one.action_space) == (
        env.single_observation_space,
        env.single_action_space,
    )


def test_colour_planes_are_the_pictures_channels() -> None:
    colour = make_atari_vector(
        "Breakout-v4", 1, {**SMALL, "grayscale": False, "stack": 2, "noop_max": 0}
    )
    native = ale_py.vector_env.AtariVectorEnv(
        "breakout", 1, grayscale=False, img_height=42, img_width=42, stack_num=2, noop_max=0
    )
    colour.reset(seed=0), native.reset(seed=0)
    for _ in range(3):
        planes, pictures = colour.step(np.array([2]))[0], native.step(np.array([2]))[0]
    assert pictures.shape == (1, 2, 42, 42, 3)
    for picture in range(2):
        for channel in range(3):
            assert np.array_equal(
                planes[0, 3 * picture + channel], pictures[0, picture, ..., channel]
            )


def test_all_actions_of_the_joystick() -> None:
    assert make_atari_vector("Pong-v4", 1, {"full_action_space": True}).single_action_space.n == 18
    assert make_atari_vector("Pong-v4", 1).single_action_space.n == 6


def test_an_episode_ends_as_next_step_says() -> None:
    """The row of the end holds the final observation; the next step only resets, without reward."""
    env = make_atari_vector("Breakout-v4", 2, SMALL)
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    before = np.zeros(2, np.bool_)
    ends = 0
    for obs, reward, terminated, truncated, info in play(env, 600):
        assert not truncated.any()
        # A new episode: nothing came before its first picture.
        black = (obs[:, :3] == 0).all((1, 2, 3))
        assert np.array_equal(black, before)
        assert not reward[before].any()
        assert not (terminated & before).any()
        assert (info["lives"][terminated] == 0).all()
        assert (info["lives"][before] == 5).all()
        before = terminated
        ends += terminated.sum()
    assert ends >= 4


def test_a_limit_truncates_after_that_many_steps() -> None:
    env = make_atari_vector("PongNoFrameskip-v4", 2, {**SMALL, "max_episode_steps": 7})
    cuts = [truncated.tolist() for _, _, _, truncated, _ in play(env, 24)]
    # And each is followed by a reset.
    assert [t for t, cut in enumerate(cuts, 1) if all(cut)] == [7, 15, 23]
    assert not any(any(cut) for t, cut in enumerate(cuts, 1) if t not in (7, 15, 23))
    one = poise.make_env("PongNoFrameskip-v4", {**SMALL, "max_episode_steps": 7})
    one.reset(seed=0)
    assert [one.step(0)[3] for _ in range(7)] == [False] * 6 + [True]


def test_rewards_are_the_games_own() -> None:
    env = make_atari_vector("MsPacman-v4", 8, SMALL)
    assert max(result[1].max() for result in play(env, 100)) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_equal_seeds_are_equal_games_whatever_the_threads(sticky: float) -> None:
    def run(threads: int, seed: int = 3, actions: int = 0) -> list[tuple]:
        options = {"size": 42, "num_threads": threads, "sticky_actions": sticky}
        return play(make_atari_vector("Breakout-v4", 3, options), 250, seed, actions)

    assert same(run(1), run(2))
    assert not same(run(1), run(1, seed=4))


def test_sticky_actions_change_the_course() -> None:
    runs = [
        play(make_atari_vector("Pong-v4", 1, {**SMALL, "sticky_actions": p}), 60)
        for p in (0.0, 0.25)
    ]
    assert not same(*runs)


@pytest.mark.parametrize("seed", [2**32 - 2, 2**31 - 1])
def test_any_seed_of_32_bits_is_taken(seed: int) -> None:
    env = make_atari_vector("Breakout-v4", 3, SMALL)
    assert same(play(env, 40, seed), play(env, 40, seed))


def test_send_and_receive_are_a_step() -> None:
    env, other = (make_atari_vector("Breakout-v4", 2, SMALL) for _ in range(2))
    env.reset(seed=0), other.reset(seed=0)
    kept, expected = [], []
    for t in range(200):
        actions = np.array([t % 4, 1])
        env.send(actions)
        kept.append(env.recv())
        expected.append(tuple(np.copy(x) for x in other.step(actions)[:4]))
    assert same(kept, expected)  # and what was received stays as it was


@pytest.mark.parametrize("threads", [1, 2])
def test_a_reset_amid_a_step_begins_anew(threads: int) -> None:
    """Ctrl-C leaves a step behind: the emulator would crash, or take its result for the reset's."""
    env = make_atari_vector("PongNoFrameskip-v4", 2, {"num_threads": threads})
    expected = play(env, 5, seed=3)
    env.send(np.zeros(2, np.int64))
    assert same(play(env, 5, seed=3), expected)
    env.close()


def test_infos_do_not_become_results() -> None:
    env = make_atari_vector("Breakout-v4", 2, {**SMALL, "episodic_life": True})
    assert all(episode_info(result[4], 0) == {} for result in play(env, 5))


@pytest.mark.slow
def test_a_life_is_an_end_only_for_learning() -> None:
    """The emulator's option restarts the game at the loss of a life: later ones are not played."""
    plain = play(make_atari_vector("Breakout-v4", 2, SMALL), 600)
    lives = play(make_atari_vector("Breakout-v4", 2, {**SMALL, "episodic_life": True}), 600)
    assert same(plain, lives)
    lost = np.array([result[4]["life_lost"] for result in lives])
    count = np.array([result[4]["lives"] for result in lives])
    done = np.array([result[2] for result in lives])
    assert "life_lost" not in plain[0][4]
    fell = np.vstack([np.zeros((1, 2), bool), count[1:] < count[:-1]])
    assert np.array_equal(lost, fell)
    assert (lost & ~done).sum() >= 3 * done.sum() > 0
    assert not lost[1:][done[:-1]].any()


def test_a_new_game_with_fewer_lives_than_the_last_has_lost_none() -> None:
    env = make_atari_vector(
        "Breakout-v4", 1, {**SMALL, "episodic_life": True, "max_episode_steps": 2}
    )
    env.reset(seed=0)
    assert env.step(np.array([0]))[3][0] is not True
    assert env.step(np.array([0]))[3][0]
    env._lives = np.array([9], np.int32)  # as if extra ones had been won
    assert not env.step(np.array([0]))[4]["life_lost"][0]


def test_learning_sees_lives_and_reports_see_games(trainer: Callable[..., Any]) -> None:
    settings = {"num_envs_per_worker": 2, "rollout_fragment_length": 400, "preset": None}
    algo = trainer("PPO", "Breakout-v4", env_config={**SMALL, "episodic_life": True}, **settings)
    sampler: Sampler = algo.samplers.members[0]
    rollout = sample(sampler)
    games = len(sampler.episodes)
    assert games >= 2
    assert rollout.terminated.sum() >= 4 * games
    assert (rollout.valid == 0).sum() <= games  # lives cost no reset rows


# --- one game -------------------------------------------------------------------------------------


def test_one_game_takes_the_course_of_its_slot() -> None:
    """Over several episodes: resets by hand and the batch's own resets begin the same games."""
    batch = make_atari_vector("ALE/Breakout-v5", 3, SMALL)
    one = make_atari("ALE/Breakout-v5", SMALL)
    obs, _ = batch.reset(seed=11)
    assert np.array_equal(one.reset(seed=13)[0], obs[2])
    rng, over, games = np.random.default_rng(0), False, 0
    for _ in range(700):
        actions = rng.integers(4, size=3)
        results = batch.step(actions)
        if over:
            found = (one.reset()[0], 0.0, False, False)
            games += 1
        else:
            found = one.step(actions[2])[:4]
        assert np.array_equal(found[0], results[0][2])
        assert found[1:] == (results[1][2], results[2][2], results[3][2])
        over = found[2]
    assert games >= 2


def test_one_game_keeps_gymnasiums_contract() -> None:
    env = poise.make_env("Breakout-v4", {**SMALL, "episodic_life": True})
    with pytest.raises(EnvError, match=r"call reset\(\) before step"):
        env.step(0)
    obs, info = env.reset(seed=0)
    assert obs in env.observation_space
    assert info == {"lives": 5, "life_lost": False}
    obs, reward, terminated, truncated, info = env.step(np.int64(1))
    assert [type(x) for x in (reward, terminated, truncated, info["lives"])] == [
        float,
        bool,
        bool,
        int,
    ]
    while not terminated:
        terminated = env.step(0 if np.random.rand() < 0.5 else 1)[2]
    with pytest.raises(EnvError, match=r"call reset\(\) before step"):
        env.step(0)
    env.close()


def shrunk(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture's mean over each of `size * size` equal rectangles: what area interpolation is."""

    def weights(pixels: int) -> np.ndarray:
        edges = np.linspace(0, pixels, size + 1)
        low, high = np.arange(pixels), np.arange(1, pixels + 1)
        overlap = np.minimum(edges[1:, None], high) - np.maximum(edges[:-1, None], low)
        return overlap.clip(0) / (pixels / size)

    return weights(picture.shape[0]) @ picture @ weights(picture.shape[1]).T


@pytest.mark.slow
@pytest.mark.parametrize(("game", "fire"), [("pong", True), ("ms_pacman", False)])
def test_pictures_are_those_of_the_emulator_prepared_as_documented(game: str, fire: bool) -> None:
    """Against the emulator, by frames: skipping, maximum of the last two, grey, area, stack."""
    name = {"pong": "Pong", "ms_pacman": "MsPacman"}[game]
    env = make_atari(f"{name}NoFrameskip-v4", {"noop_max": 0}, "rgb_array")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", 5)
    ale.loadROM(ale_py.roms.get_rom_path(game))
    ale.reset_game()
    if fire:
        ale.act(ale_py.Action.FIRE)
    actions = ale.getMinimalActionSet()
    obs, _ = env.reset(seed=5)
    stack = [np.zeros((84, 84))] * 3 + [shrunk(ale.getScreenGrayscale(), 84)]
    assert np.abs(obs - np.array(stack)).max() <= 1
    rng = np.random.default_rng(1)
    for _ in range(150):
        action = rng.integers(len(actions))
        reward, grey, colour = 0, [], []
        for _ in range(4):
            reward += ale.act(actions[action])
            grey.append(ale.getScreenGrayscale())
            colour.append(ale.getScreenRGB())
        stack = [*stack[1:], shrunk(np.maximum(*grey[-2:]), 84)]
        obs, found, *_ = env.step(action)
        assert found == reward
        assert np.abs(obs - np.array(stack)).max() <= 1
        assert np.array_equal(env.render(), np.maximum(*colour[-2:]))


def test_filming_changes_nothing_in_the_game() -> None:
    filmed, plain = (make_atari("ALE/Breakout-v5", SMALL, mode) for mode in ("rgb_array", None))
    rng = np.random.default_rng(0)
    for episode in range(3):
        seed = 4 if episode == 0 else None
        assert np.array_equal(filmed.reset(seed=seed)[0], plain.reset(seed=seed)[0])
        over = False
        while not over:
            action = rng.integers(4)
            a, b = filmed.step(action), plain.step(action)
            assert np.array_equal(a[0], b[0])
            assert a[1:] == b[1:]
            assert filmed.render().shape == (210, 160, 3)
            over = a[2]
    assert plain.render() is None


@pytest.mark.parametrize(
    ("game", "shape"), [("Carnival", (214, 160, 3)), ("AirRaid", (250, 160, 3))]
)
def test_films_have_the_size_of_the_games_screen(game: str, shape: tuple[int, ...]) -> None:
    env = make_atari(f"{game}-v4", SMALL, "rgb_array")
    env.reset()  # without a seed, both pictures must still be of one game
    assert env.render().shape == shape
    with pytest.raises(EnvError, match="render_mode='human' is not allowed"):
        make_atari(f"{game}-v4", SMALL, "human")


def test_a_film_without_a_seed_shows_the_game_that_is_played() -> None:
    env = make_atari(
        "ALE/MsPacman-v5", {"grayscale": False, "stack": 1, "num_threads": 1}, "rgb_array"
    )
    for _ in range(2):
        obs, _ = env.reset()
        for _ in range(80):
            obs = env.step(env.action_space.sample())[0]
        for channel in range(3):
            assert np.abs(shrunk(env.render()[..., channel], 84) - obs[channel]).max() <= 1


@pytest.mark.parametrize(("frame_skip", "fps"), [(1, 60), (4, 15), (100, 1)])
def test_films_run_at_the_speed_of_the_console(frame_skip: int, fps: int) -> None:
    assert make_atari("Pong-v4", {"frame_skip": frame_skip}).metadata["render_fps"] == fps


# --- learning -------------------------------------------------------------------------------------


def test_presets_of_games() -> None:
    assert find_preset("PPO", "BreakoutNoFrameskip-v4", "auto")[0] == "Atari"
    assert find_preset("A2C", "ALE/Tetris-v5", "auto")[0] == "Atari"
    assert find_preset("PPO", "PongNoFrameskip-v4", "auto")[0] == "PongNoFrameskip-v4"
    assert find_preset("PPO", "Walk-v4", "auto")[0] is None
    for algorithm in ("PPO", "A2C"):
        config, used = resolve(algorithm, "BreakoutNoFrameskip-v4")
        assert used == "Atari"
        assert config.clip_rewards
        assert config.model.vf_share_layers
        assert not resolve(algorithm, "BreakoutNoFrameskip-v4", preset=None)[0].clip_rewards


def test_clipping_and_normalising_rewards_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="clip_rewards=True contradicts normalize_rewards=True"):
        resolve("PPO", "CartPole-v1", {"clip_rewards": True, "normalize_rewards": True})
    # The preset's clipping gives way.
    config, _ = resolve("PPO", "Breakout-v4", {"normalize_rewards": True})
    assert (config.clip_rewards, config.normalize_rewards) == (False, True)
    config, _ = resolve("PPO", "Acrobot-v1", {"clip_rewards": True})
    assert (config.clip_rewards, config.normalize_rewards) == (True, False)


def test_learning_sees_signs_and_reports_see_scores(trainer: Callable[..., Any]) -> None:
    settings = {
        "num_envs_per_worker": 4,
        "rollout_fragment_length": 100,
        "env_config": SMALL,
        "preset": None,
    }
    algo = trainer("PPO", "MsPacman-v4", clip_rewards=True, **settings)
    rollout = algo.samplers.collect()
    assert rollout.reward.max() >= 10
    assert torch.equal(algo.algorithm.learner_reward(rollout), rollout.reward.sign())
    rollout.reward[0, :3] = torch.tensor([-0.5, 0.0, 400.0])
    assert algo.algorithm.learner_reward(rollout)[0, :3].tolist() == [-1.0, 0.0, 1.0]
    plain = trainer("PPO", "MsPacman-v4", **settings)
    assert torch.equal(plain.algorithm.learner_reward(rollout), rollout.reward)


def test_rows_that_only_reset_do_not_count(trainer: Callable[..., Any]) -> None:
    env_config = {**SMALL, "max_episode_steps": 5}
    settings = {
        "num_envs_per_worker": 2,
        "rollout_fragment_length": 12,
        "num_threads": 1,
        "preset": None,
    }
    result = trainer("PPO", "Pong-v4", env_config=env_config, **settings).train()
    assert result["timesteps_total"] == 2 * (5 + 5)
    assert result["episodes_total"] == 4
    assert result["episode_len_mean"] == 5
    assert not any(key.startswith("info/") for key in result)


@pytest.mark.slow
def test_train_evaluate_film_save_and_load(trainer: Callable[..., Any], tmp_path: Path) -> None:
    settings = {
        "num_envs_per_worker": 2,
        "rollout_fragment_length": 16,
        "num_threads": 1,
        "num_sgd_iter": 1,
    }
    algo = trainer(
        "PPO", "PongNoFrameskip-v4", env_config={**SMALL, "max_episode_steps": 40}, **settings
    )
    assert algo.train()["timesteps_total"] == 64  # the first 32 only show what pictures are like
    assert algo.evaluate(3)["episode_len_mean"] == 40
    film = poise.record(algo, tmp_path / "film.mp4")
    assert film["episode_len"] == [40]
    assert (tmp_path / "film.mp4").stat().st_size > 1000
    algo.save(tmp_path / "saved")
    assert (
        json.loads((tmp_path / "saved" / "manifest.json").read_text())["resume_grade"]
        == "statistical"
    )
    loaded = poise.load(tmp_path / "saved")
    obs, _ = poise.make_env("PongNoFrameskip-v4", SMALL).reset(seed=0)
    assert loaded.compute_action(obs) == algo.compute_action(obs)
    assert loaded.train()["timesteps_total"] == 96
    assert loaded.notes == ["2 of 2 environments could not be restored and began a new episode."]
    loaded.close()


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["DQN", "IMPALA"])
def test_a_resumed_run_keeps_what_it_learnt_and_plays_new_games(
    trainer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """Games cannot be put back; all that was learnt from them is."""
    starts: list[int] = []
    monkeypatch.setattr(
        "poise.sampling.sampler.reset_seeded",
        lambda env, seed: (starts.append(int(seed.generate_state(1)[0])), reset_seeded(env, seed))[
            1
        ],
    )
    games = {**SMALL, "max_episode_steps": 20}
    settings: dict[str, Any] = {"num_envs_per_worker": 4, "num_threads": 1, "env_config": games}
    if algorithm == "DQN":
        settings |= {"buffer_size": 500, "learning_starts": 100, "timesteps_per_iteration": 200}
    else:
        settings |= {"timesteps_per_iteration": 512}
    made = trainer(algorithm, "PongNoFrameskip-v4", **settings)
    for _ in range(2):
        last = made.train()
    assert made.algorithm.updates > 0
    made.save(tmp_path / "saved")
    with poise.load(tmp_path / "saved") as loaded:
        mine, theirs = made.algorithm, loaded.algorithm
        assert torch.equal(mine.flat.data, theirs.flat.data)
        assert [m.count.item() for m in mine.policy.moments] == [
            m.count.item() for m in theirs.policy.moments
        ]
        if algorithm == "DQN":
            drawn = np.arange(100) % len(mine.replay.valid)
            drawn = drawn[mine.replay.valid[drawn]]
            batches = [
                a.replay.batch(drawn, n_step=1, gamma=0.99, rescale=None) for a in (mine, theirs)
            ]
            assert theirs.replay.steps == mine.replay.steps > 300
            assert len(drawn) > 50
            assert all(
                torch.equal(x, y) for x, y in zip(*(b.obs.values() for b in batches), strict=True)
            )
        result = loaded.train()
        assert result["timesteps_total"] == last["timesteps_total"] + result["timesteps_this_iter"]
        assert result["episodes_total"] > last["episodes_total"]
    assert len(starts) == len(set(starts)) == 2, "the games that were played already began anew"


@pytest.mark.slow
def test_who_samples_meanwhile_has_a_core_of_its_own(trainer: Callable[..., Any]) -> None:
    for algorithm, cores in (("PPO", available_cores()), ("IMPALA", max(1, available_cores() - 1))):
        assert (
            trainer(algorithm, "PongNoFrameskip-v4", env_config=SMALL).config.num_threads == cores
        )


def test_a_program_may_end_without_closing_its_games() -> None:
    """The emulator's binding complains at length of what outlives the interpreter.

    Frames do that a callback or a handler of signals keeps.
    """
    code = f"""
import ctypes
from poise.envs.atari import make_atari_vector
kept = make_atari_vector("Pong-v4", 2, {SMALL})
kept.reset(seed=0)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_training_is_repeatable(trainer: Callable[..., Any]) -> None:
    settings = {
        "num_envs_per_worker": 2,
        "rollout_fragment_length": 16,
        "num_threads": 1,
        "num_sgd_iter": 1,
    }
    few = {"num_envs_per_worker": 4, "num_threads": 1, "timesteps_per_iteration": 0}
    results = [trainer("A2C", "ALE/Pong-v5", env_config=SMALL, **few).train() for _ in range(2)]
    assert results[0]["learner/policy_loss"] == results[1]["learner/policy_loss"]
    results = [
        trainer("PPO", "ALE/Pong-v5", env_config=SMALL, **settings).train() for _ in range(2)
    ]
    assert results[0]["learner/vf_loss"] == results[1]["learner/vf_loss"]


def test_episodes_are_played_to_their_ends(trainer: Callable[..., Any]) -> None:
    algo = trainer("PPO", "Breakout-v4", env_config={**SMALL, "episodic_life": True}, num_threads=1)
    env = make_vector_env("Breakout-v4", 2, {**SMALL, "episodic_life": True})
    episodes = run_episodes(algo.policy, env, 2, np.random.SeedSequence(0), explore=True)
    assert [e.info for e in episodes] == [{}, {}]
    assert min(e.length for e in episodes) > 60  # five lives, not one


def test_the_registry_knows_no_threshold() -> None:
    assert reward_threshold("PongNoFrameskip-v4") is None


def test_the_page_lists_every_option_and_alias() -> None:
    text = PAGE.read_text()
    docs = field_docs(AtariConfig)
    for field in dataclasses.fields(AtariConfig):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{field.name}` |"))
        assert f"`{json.dumps(field.default)}`" in row
        assert docs[field.name] in row
        for alias, target in AtariConfig.aliases.items():
            assert (f"`{alias}`" in row) == (target == field.name)
    assert len(re.findall(r"^\| `\w+` \|", text, re.MULTILINE)) == len(docs)
