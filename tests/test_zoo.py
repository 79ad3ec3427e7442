"""Files of RL Baselines3 Zoo as presets: what their keys become; nothing in them is run."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

import poise
from poise.config.resolve import resolve
from poise.errors import ConfigError
from poise.training.stopping import StopRule, default_stop

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
    assert (config.num_envs, config.rollout_fragment_length, config.sgd_minibatch_size) == (
        8,
        32,
        256,
    )
    assert (config.num_sgd_iter, config.gae_lambda, config.gamma, config.entropy_coeff) == (
        20,
        0.8,
        0.98,
        0.0,
    )
    assert config.lr == [(0, 0.001), (100_000, 0.0)]
    assert config.clip_param == [(0, 0.2), (100_000, 0.0)]
    assert (config.normalize_observations, config.normalize_rewards) == (True, False)
    assert (config.model.fcnet_hiddens, config.model.fcnet_activation) == ([256, 256], "relu")
    assert (config.model.initializer, config.model.log_std_init) == ("uniform", -2)


def test_dqns_fractions_become_steps(files: Path) -> None:
    config: Any = resolve("DQN", "CartPole-v1", preset=str(files / "dqn.yml"))[0]
    assert (config.epsilon_timesteps, config.final_epsilon) == (8000, 0.04)
    assert (config.train_batch_size, config.gradient_steps, config.lr) == (64, 128, 0.0023)
    # 128 gradient steps for 256 steps.
    assert (config.num_envs, config.rollout_fragment_length) == (1, 256)
    assert (config.double_q, config.tau, config.gamma) == (False, 1.0, 0.99)


def test_a_share_of_a_length_that_is_not_said_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "dqn.yml").write_text("CartPole-v1: {learning_rate: 1e-3}")
    config: Any = resolve("DQN", "CartPole-v1", preset=str(tmp_path / "dqn.yml"))[0]
    assert (config.lr, config.target_network_update_freq) == (0.001, 10_000)
    assert (
        config.epsilon_timesteps == resolve("DQN", "CartPole-v1", preset=None)[0].epsilon_timesteps
    )  # type: ignore


def test_goals_in_hindsight_are_read(tmp_path: Path) -> None:
    (tmp_path / "sac.yml").write_text(
        """
FetchReach-v4:
  replay_buffer_class: HerReplayBuffer
  replay_buffer_kwargs: "dict(
    online_sampling=True, goal_selection_strategy='final', n_sampled_goal=2, max_episode_length=9
  )"
"""
    )
    with pytest.warns(poise.PoiseWarning, match=r"left out: .*kwargs\.max_episode_length=9"):
        config: Any = resolve("SAC", "FetchReach-v4", preset=str(tmp_path / "sac.yml"))[0]
    assert (config.her, config.goal_selection_strategy, config.n_sampled_goal) == (True, "final", 2)
    with pytest.warns(poise.PoiseWarning, match="left out: replay_buffer_class=.*buffer_kwargs="):
        resolve("PPO", "FetchReach-v4", preset=str(tmp_path / "sac.yml"))


def test_games_share_an_entry(tmp_path: Path) -> None:
    (tmp_path / "ppo.yml").write_text(
        "atari: {n_envs: 4, env_wrapper: [AtariWrapper], frame_stack: 4, n_steps: 64}"
    )
    config: Any = resolve("PPO", "PongNoFrameskip-v4", preset=str(tmp_path / "ppo.yml"))[0]
    assert (config.num_envs, config.rollout_fragment_length, config.num_sgd_iter) == (4, 64, 10)
    with pytest.raises(ConfigError, match="has nothing for CartPole-v1"):
        resolve("PPO", "CartPole-v1", preset=str(tmp_path / "ppo.yml"))


SDE_LEFT = r"left out: use_sde=True, policy_kwargs\.log_std_init=-3\.67\.$"
EPISODES = "left out: gradient_steps=64, train_freq="
GOAL = "goal_selection_strategy='episode'"


@pytest.mark.parametrize(
    ("algorithm", "entry", "said", "expected"),
    [
        ("SAC", "{n_timesteps: 900}", None, {
            "train_batch_size": 256, "buffer_size": 1_000_000, "learning_starts": 100,
            "gradient_steps": 1.0, "rollout_fragment_length": 1, "num_envs": 1, "tau": 0.005,
            "lr": 3e-4, "learn_alpha": True, "initial_alpha": 1.0, "target_entropy": None,
            "num_critics": 2, "model.fcnet_hiddens": [256, 256], "model.initializer": "uniform",
            "model.fcnet_activation": "relu", "target_network_update_freq": 0, "grad_clip": None,
        }),
        ("SAC", "{train_freq: 32, gradient_steps: 32, learning_starts: 0, ent_coef: 0.1, "
            "use_sde: True, policy_kwargs: 'dict(log_std_init=-3.67, net_arch=[64, 64])'}",
         SDE_LEFT, {
            "rollout_fragment_length": 32, "gradient_steps": 32.0, "learning_starts": 0,
            "learn_alpha": False, "initial_alpha": 0.1, "model.fcnet_hiddens": [64, 64],
            "model.vf_fcnet_hiddens": None, "model.log_std_init": 0.0,
        }),
        ("SAC", "{n_timesteps: 500, learning_rate: lin_7.3e-4, ent_coef: auto_0.1, n_envs: 2, "
            "train_freq: 8, gradient_steps: 10, target_entropy: auto, normalize: true}", None, {
            "lr": [(0, 7.3e-4), (500, 0.0)], "learn_alpha": True, "initial_alpha": 0.1,
            "num_envs": 2, "gradient_steps": 10.0, "rollout_fragment_length": 8,
            "normalize_observations": True, "normalize_rewards": True,
        }),
        ("SAC", "{train_freq: [1, episode], gradient_steps: 64}", EPISODES, {
            "rollout_fragment_length": 1, "gradient_steps": 1.0,  # not 64 after each step
        }),
        ("SAC", "{noise_type: normal, noise_std: 0.1}", "left out: noise_type='normal', noise_std",
         {"exploration_correlation": 0.0}),
        ("SAC", "{policy_kwargs: 'dict(net_arch=dict(pi=[8], qf=[9]), n_critics=1)'}", None, {
            "model.fcnet_hiddens": [8], "model.vf_fcnet_hiddens": [9], "num_critics": 1,
        }),
        ("SAC", "{policy: CnnPolicy, policy_kwargs: {net_arch: [64]}}", None, {
            "model.fcnet_hiddens": [512, 64], "model.vf_share_layers": False,
        }),
        ("TQC", "{top_quantiles_to_drop_per_net: 5, policy_kwargs: {n_quantiles: 32}, "
            "replay_buffer_class: HerReplayBuffer, "
            "replay_buffer_kwargs: 'dict(goal_selection_strategy=\"episode\", n_sampled_goal=3)'}",
         GOAL, {
            "top_quantiles_to_drop": 5, "num_quantiles": 32, "her": True, "n_sampled_goal": 3,
            "goal_selection_strategy": "future",
        }),
        ("TQC", "{}", None, {"num_quantiles": 25, "top_quantiles_to_drop": 2, "num_critics": 2}),
        ("CrossQ", "{}", None, {
            "policy_delay": 3, "lr": 1e-3, "gradient_steps": 1.0, "learning_starts": 100,
            "model.fcnet_hiddens": [256, 256], "model.vf_fcnet_hiddens": [1024, 1024],
        }),
        ("TD3", "{}", None, {
            "exploration_noise": 0.0, "policy_delay": 2, "target_noise": 0.2,
            "target_noise_clip": 0.5, "lr": 1e-3, "model.fcnet_hiddens": [400, 300],
            "model.vf_fcnet_hiddens": None, "num_critics": 2, "gradient_steps": 1.0,
        }),
        ("TD3", "{noise_type: normal, noise_std: 0.3, train_freq: 4}", None, {
            "exploration_noise": 0.3, "exploration_correlation": 0.0, "gradient_steps": 1.0,
        }),
        ("DDPG", "{}", None, {
            "policy_delay": 1, "target_noise": 0.0, "num_critics": 1, "lr": 1e-3,
            "model.fcnet_hiddens": [400, 300], "exploration_noise": 0.0, "learning_starts": 100,
        }),
    ],
)  # fmt: skip
def test_entries_of_algorithms_with_critics(
    algorithm: str, entry: str, said: str | None, expected: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "x.yml").write_text(f"Pendulum-v1: {entry}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config: Any = resolve(algorithm, "Pendulum-v1", preset=str(tmp_path / "x.yml"))[0]
    found = [str(warning.message) for warning in caught]
    assert len(found) == (said is not None), found
    assert said is None or re.search(said, found[0]), found
    for key, value in expected.items():
        owner = config.model if key.startswith("model.") else config
        assert getattr(owner, key.rpartition(".")[2]) == value, key


def test_noise_that_is_correlated_is_stable_baselines3s(tmp_path: Path) -> None:
    """Its steps are x ← x + 0.15 (0 - x) dt + σ √dt ε, with dt = 0.01."""
    entry = "{noise_type: ornstein-uhlenbeck, noise_std: 0.5}"
    (tmp_path / "x.yml").write_text(f"Pendulum-v1: {entry}")
    with pytest.warns(poise.PoiseWarning, match="begins anew, at 0, with each episode"):
        config: Any = resolve("TD3", "Pendulum-v1", preset=str(tmp_path / "x.yml"))[0]
    rho, width = config.exploration_correlation, config.exploration_noise
    assert rho == pytest.approx(1 - 0.15 * 0.01)
    assert width**2 * (1 - rho**2) == pytest.approx(0.5**2 * 0.01)


DATA = Path(__file__).parent / "data"
FILES = {
    name: yaml.safe_load((DATA / f"zoo_{name}.yml").read_text()) for name in ("ppo", "a2c", "dqn")
}
ENTRIES = [(name, env) for name, entries in FILES.items() for env in entries]
SAME = {
    "n_envs": "num_envs_per_worker", "n_steps": "rollout_fragment_length",
    "train_freq": "rollout_fragment_length", "n_epochs": "num_sgd_iter", "gamma": "gamma",
    "gae_lambda": "gae_lambda", "ent_coef": "entropy_coeff", "vf_coef": "vf_loss_coeff",
    "max_grad_norm": "grad_clip", "n_timesteps": "total_timesteps", "tau": "tau",
    "buffer_size": "buffer_size", "learning_starts": "learning_starts",
    "exploration_final_eps": "final_epsilon",
    "target_update_interval": "target_network_update_freq",
    "normalize_advantage": "normalize_advantages",
}  # fmt: skip
"""What the Zoo's plain keys are called here."""
SDE = {"use_sde", "sde_sample_freq"}
WRAPPERS = {"env_wrapper", "frame_stack"}


@pytest.mark.parametrize(("name", "env"), ENTRIES, ids=lambda value: str(value))
def test_every_entry_of_the_zoo_means_the_same_or_says_what_it_leaves_out(
    name: str, env: str
) -> None:
    file, entry = DATA / f"zoo_{name}.yml", FILES[name][env]
    known = {"atari": "PongNoFrameskip-v4", "default": "Unheard-v0"}.get(env, env)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        config: Any = resolve(name, known, preset=str(file))[0]
    left = " ".join(str(warning.message) for warning in said)
    for key, value in entry.items():
        if key in SDE | (WRAPPERS if env != "atari" else set()):
            assert f"{key}=" in left, f"{key} is left out in silence"
        elif key in SAME:
            assert getattr(config, SAME[key]) == value, key
        elif key in ("learning_rate", "clip_range"):
            found = getattr(config, {"learning_rate": "lr", "clip_range": "clip_param"}[key])
            falls = isinstance(value, str) and value.startswith("lin_")
            assert found == (
                [(0, float(value[4:])), (entry["n_timesteps"], 0.0)] if falls else float(value)
            )
        elif key == "batch_size":
            batch = config.sgd_minibatch_size if name == "ppo" else config.train_batch_size
            assert batch == (min(value, config.train_batch_size) if name == "ppo" else value)
        elif key == "gradient_steps":
            assert config.gradient_steps == (entry["train_freq"] if value == -1 else value)
        elif key == "exploration_fraction":
            assert config.epsilon_timesteps == value * entry["n_timesteps"]
        elif key == "normalize":
            parts = (True, True) if value is True else (False, True)  # CarRacing's
            assert (config.normalize_observations, config.normalize_rewards) == parts
        else:
            assert key in (
                "policy",
                "policy_kwargs",
                "use_rms_prop",
                "optimize_memory_usage",
                *WRAPPERS,
            ), key
    model, given = config.model, " ".join(str(entry.get("policy_kwargs", "")).split())
    assert (
        "initializer" if "ortho_init=False" in given else model.initializer
    ) != "orthogonal" or name != "dqn"
    if "net_arch=dict(pi=[256, 256], vf=[256, 256])" in given:
        assert (model.fcnet_hiddens, model.vf_fcnet_hiddens, model.vf_share_layers) == (
            [256, 256],
            [256, 256],
            False,
        )
        assert model.fcnet_activation == "relu"
    elif entry.get("policy") == "MlpPolicy" and "net_arch" not in given:
        assert (model.fcnet_hiddens, model.vf_share_layers) == ([64, 64], False)
        assert model.fcnet_activation == ("relu" if name == "dqn" else "tanh")
    if env == "atari":
        assert config.env_config == {"stack": 4, "episodic_life": True}
        assert (config.clip_rewards, model.fcnet_hiddens, model.fcnet_activation) == (
            True,
            [512],
            "relu",
        )
        assert model.vf_share_layers is (name != "dqn")
    if "optimizer_class" in given:
        assert "policy_kwargs.optimizer_class" in left
    assert bool(left) == bool(
        entry.keys() & SDE or "optimizer" in given or (env != "atari" and entry.keys() & WRAPPERS)
    )


@pytest.mark.parametrize("name", ["ppo", "a2c", "dqn"])
def test_the_length_of_an_entry_ends_the_run_and_a_shorter_one_shortens_its_schedules(
    name: str,
) -> None:
    file = str(DATA / f"zoo_{name}.yml")
    config: Any = resolve(name, "LunarLander-v3", preset=file)[0]
    length = config.total_timesteps
    assert default_stop(config) == {"timesteps_total": length}
    assert (
        StopRule({"episode_reward_mean": 300}, config)({"timesteps_total": length})
        == f"total_timesteps={length}"
    )
    shorter: Any = resolve(name, "LunarLander-v3", preset=file, stop={"timesteps_total": 1000})[0]
    same: Any = resolve(name, "LunarLander-v3", {"total_timesteps": 1000}, preset=file)[0]
    assert shorter.total_timesteps == same.total_timesteps == 1000
    if name == "a2c":
        assert config.lr == [(0, 0.00083), (length, 0.0)]
        assert shorter.lr == same.lr == [(0, 0.00083), (1000, 0.0)]
    if name == "dqn":
        assert (config.epsilon_timesteps, shorter.epsilon_timesteps, same.epsilon_timesteps) == (
            12_000,
            120,
            120,
        )


def test_a_run_from_the_zoo_ends_by_itself(tmp_path: Path) -> None:
    text = "CartPole-v1: {n_envs: 4, n_steps: 32, n_timesteps: 300, learning_rate: lin_0.001}"
    (tmp_path / "ppo.yml").write_text(text)
    run = poise.run(
        "PPO", "CartPole-v1", preset=str(tmp_path / "ppo.yml"), folder=tmp_path, quiet=True
    )
    assert 300 <= run.result["timesteps_total"] < 500
    assert run.result["stop_reason"] == "timesteps_total reached 300"
    assert run.trainer.config.lr == [(0, 0.001), (300, 0.0)]
    longer = {"folder": tmp_path, "quiet": True, "stop": {"timesteps_total": 600}}
    run = poise.run("PPO", "CartPole-v1", preset=str(tmp_path / "ppo.yml"), **longer)
    assert 600 <= run.result["timesteps_total"] < 800
    assert run.trainer.config.lr == [(0, 0.001), (600, 0.0)]


@pytest.mark.parametrize(
    ("entry", "algorithm", "expected"),
    [
        ("{normalize: 'dict(norm_obs=True, norm_reward=False)'}", "PPO",
         {"normalize_observations": True}),
        ("{normalize: {norm_obs: false}}", "PPO",
         {"normalize_observations": False, "normalize_rewards": True}),
        ("{train_freq: [8, step], gradient_steps: -1}", "DQN",
         {"rollout_fragment_length": 8, "gradient_steps": 8}),
        ("{n_envs: 2, train_freq: 8, gradient_steps: -1}", "DQN", {"gradient_steps": 16}),
        ("{policy_kwargs: 'dict(net_arch=[dict(pi=[8], vf=[9])])'}", "PPO",
         {"model.vf_fcnet_hiddens": [9]}),
        ("{policy_kwargs: {net_arch: {pi: [8], vf: [9]}}}", "PPO", {"model.fcnet_hiddens": [8]}),
        ("{policy_kwargs: 'dict(net_arch=[64, 32])'}", "PPO", {"model.fcnet_hiddens": [64, 32]}),
        ("{env_kwargs: {sutton_barto_reward: true}}", "PPO",
         {"env_config": {"sutton_barto_reward": True}}),
    ],
)  # fmt: skip
def test_forms_of_a_value(
    entry: str, algorithm: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "x.yml").write_text(f"CartPole-v1: {entry}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = resolve(algorithm, "CartPole-v1", preset=str(tmp_path / "x.yml"))[0].to_dict()
    for key, value in expected.items():
        outer, _, inner = key.rpartition(".")
        assert (config[outer] if outer else config)[inner] == value


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            "{policy_kwargs: 'dict(net_arch=[64, dict(pi=[8], vf=[9])])'}",
            "first layers, \\[64\\], each for itself",
        ),
        ("{train_freq: [1, episode]}", "train_freq=\\[1, 'episode'\\]"),
        ("{vec_env_wrapper: a.B, callback: [c.D]}", "vec_env_wrapper='a.B', callback=\\['c.D'\\]"),
        ("{policy: CnnLstmPolicy}", "a layer of 512 in front of the LSTM"),
        ("{normalize: 'dict(clip_obs=5)'}", "normalize.clip_obs=5"),
        ("{frame_stack: 2}", "frame_stack=2"),
        (
            "{policy_kwargs: 'dict(features_extractor_class=Mine, activation_fn=nn.Softsign)'}",
            "class='Mine', .*Softsign",
        ),
    ],
)
def test_what_is_left_out_is_named_once(entry: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text(f"CartPole-v1: {entry}")
    with pytest.warns(UserWarning, match=words) as said:
        resolve(
            "DQN" if "train_freq" in entry else "PPO", "CartPole-v1", preset=str(tmp_path / "x.yml")
        )
    assert len(said) == 1


def test_an_env_config_of_the_users_is_set_key_by_key() -> None:
    file = str(DATA / "zoo_ppo.yml")
    config = resolve("PPO", "PongNoFrameskip-v4", {"env_config": {"noop_max": 1}}, preset=file)[0]
    assert config.env_config == {"stack": 4, "episodic_life": True, "noop_max": 1}


def test_what_the_user_sets_wins_and_what_has_no_equivalent_is_said(files: Path) -> None:
    with pytest.warns(UserWarning, match="left out: use_sde=True"):
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
        ("a: [", "CartPole-v1", "is not valid YAML"),
        (
            "CartPole-v1: {policy_kwargs: 'dict(net_arch=__import__(1))'}",
            "CartPole-v1",
            "cannot be read",
        ),
        ("CartPole-v1: {gamma: 3}", "CartPole-v1", "gamma=3 is not allowed"),
    ],
)
def test_bad_files_get_a_sentence(tmp_path: Path, text: str, env: str, sentence: str) -> None:
    (tmp_path / "x.yml").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        resolve("PPO", env, preset=str(tmp_path / "x.yml"))
    with pytest.raises(ConfigError, match="There is no file"):
        resolve("PPO", env, preset=str(tmp_path / "nowhere.yml"))
