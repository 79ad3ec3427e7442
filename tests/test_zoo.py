"""Files of RL Baselines3 Zoo as presets: what their keys become, and that nothing in them is run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

import poise
from poise.config.resolve import resolve
from poise.errors import ConfigError

PPO = """
CartPole-v1:
  n_envs: 8
  n_timesteps: !!float 1e5
  policy: 'MlpPolicy'
  n_steps: 32
  batch_size: 256
  gae_lambda: 0.8
  gamma: 0.98
  n_epochs: 20
  ent_coef: 0.0
  learning_rate: lin_0.001
  clip_range: lin_0.2
  normalize: "{'norm_obs': True, 'norm_reward': False}"
  policy_kwargs: "dict(log_std_init=-2,
                       ortho_init=False,
                       activation_fn=nn.ReLU,
                       net_arch=dict(pi=[256, 256], vf=[256, 256]))"
Pendulum-v1:
  normalize: true
  learning_rate: 1e-3
  use_sde: True
"""
DQN = """
CartPole-v1:
  n_timesteps: !!float 5e4
  learning_rate: !!float 2.3e-3
  batch_size: 64
  buffer_size: 100000
  learning_starts: 1000
  target_update_interval: 10
  train_freq: 256
  gradient_steps: 128
  exploration_fraction: 0.16
  exploration_final_eps: 0.04
  policy_kwargs: "dict(net_arch=[256, 256])"
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "ppo.yml").write_text(PPO)
    (tmp_path / "dqn.yml").write_text(DQN)
    return tmp_path


def test_the_zoos_keys_become_ours(files: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config: Any
        config, used = resolve("PPO", "CartPole-v1", preset=str(files / "ppo.yml"))
    assert used == str(files / "ppo.yml")
    assert (config.num_envs, config.rollout_fragment_length, config.sgd_minibatch_size) == (8, 32, 256)
    assert (config.num_sgd_iter, config.gae_lambda, config.gamma, config.entropy_coeff) == (20, 0.8, 0.98, 0.0)
    assert config.lr == [(0, 0.001), (100_000, 0.0)]
    assert config.clip_param == [(0, 0.2), (100_000, 0.0)]
    assert (config.normalize_observations, config.normalize_rewards) == (True, False)
    assert (config.model.fcnet_hiddens, config.model.fcnet_activation) == ([256, 256], "relu")
    assert (config.model.initializer, config.model.log_std_init) == ("uniform", -2)


def test_dqns_fractions_become_steps(files: Path) -> None:
    config: Any = resolve("DQN", "CartPole-v1", preset=str(files / "dqn.yml"))[0]
    assert (config.epsilon_timesteps, config.final_epsilon) == (8000, 0.04)
    assert (config.train_batch_size, config.gradient_steps, config.lr) == (64, 128, 0.0023)
    assert (config.num_envs, config.rollout_fragment_length) == (1, 256)  # 128 gradient steps for 256 steps
    assert (config.double_q, config.tau, config.gamma) == (False, 1.0, 0.99)


def test_a_share_of_a_length_that_is_not_said_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "dqn.yml").write_text("CartPole-v1: {learning_rate: 1e-3}")
    config: Any = resolve("DQN", "CartPole-v1", preset=str(tmp_path / "dqn.yml"))[0]
    assert (config.lr, config.target_network_update_freq) == (0.001, 10_000)
    assert config.epsilon_timesteps == resolve("DQN", "CartPole-v1", preset=None)[0].epsilon_timesteps  # type: ignore


def test_games_share_an_entry(tmp_path: Path) -> None:
    (tmp_path / "ppo.yml").write_text("atari: {n_envs: 4, env_wrapper: [AtariWrapper], frame_stack: 4, n_steps: 64}")
    config: Any = resolve("PPO", "PongNoFrameskip-v4", preset=str(tmp_path / "ppo.yml"))[0]
    assert (config.num_envs, config.rollout_fragment_length, config.num_sgd_iter) == (4, 64, 10)
    with pytest.raises(ConfigError, match="has nothing for CartPole-v1"):
        resolve("PPO", "CartPole-v1", preset=str(tmp_path / "ppo.yml"))


def test_what_the_user_sets_wins_and_what_has_no_equivalent_is_said(files: Path) -> None:
    with pytest.warns(UserWarning, match="use_sde=True of .* is left out"):
        config: Any = resolve("PPO", "Pendulum-v1", {"lr": 0.5}, preset=str(files / "ppo.yml"))[0]
    assert (config.lr, config.normalize_observations, config.normalize_rewards) == (0.5, True, True)


def test_it_trains(files: Path) -> None:
    with poise.PPO("CartPole-v1", preset=str(files / "ppo.yml"), seed=0) as algo:
        assert algo.train()["timesteps_total"] > 200


@pytest.mark.parametrize(
    ("text", "env", "sentence"),
    [
        (PPO, "CartPole-v0", "has nothing for CartPole-v0. Did you mean 'CartPole-v1'"),
        ("- 1", "CartPole-v1", "has nothing for CartPole-v1"),
        ("a: [", "CartPole-v1", "cannot be read"),
        ("CartPole-v1: {policy_kwargs: 'dict(net_arch=__import__(1))'}", "CartPole-v1", "cannot be read"),
        ("CartPole-v1: {gamma: 3}", "CartPole-v1", "gamma=3 is not allowed"),
    ],
)
def test_bad_files_get_a_sentence(tmp_path: Path, text: str, env: str, sentence: str) -> None:
    (tmp_path / "x.yml").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        resolve("PPO", env, preset=str(tmp_path / "x.yml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        resolve("PPO", env, preset=str(tmp_path / "nowhere.yml"))
