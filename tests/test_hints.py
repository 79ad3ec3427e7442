"""Words of other libraries.

One table answers in Python, in files and as flags, and never suggests something else.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import poise
from poise.cli.main import poise as command
from poise.config.algorithms import ALGORITHMS, algorithm_spec, known_name
from poise.config.hints import ALGORITHMS as OTHERS
from poise.config.hints import SETTINGS
from poise.config.resolve import canonical, field_types, resolve
from poise.errors import ConfigError


def bad(*args: str) -> str:
    result = CliRunner().invoke(command, list(args), prog_name="poise")
    assert result.exit_code == 2, result.output
    [line] = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("key", SETTINGS)
def test_one_sentence_in_python_in_files_and_as_a_flag(key: str) -> None:
    for name in (key, f"model.{key}"):
        with pytest.raises(ConfigError) as caught:
            resolve("PPO", "CartPole-v1", {name: 1})
        sentence = SETTINGS[key].replace("{flag}", "")
        assert str(caught.value) == f"Unknown config key {name!r}. {sentence}"
        line = bad("train", "PPO", "--env", "CartPole-v1", f"--{name}", "1")
        assert line.startswith(
            f"Error: There is no flag --{name}. {SETTINGS[key].replace('{flag}', '--')}"
        )


def test_the_table_names_nothing_that_there_is() -> None:
    for name, spec in ALGORITHMS.items():
        known = {*field_types(spec.config), *spec.config.aliases}
        assert not known & {*SETTINGS, *spec.config.untranslatable}, name


@pytest.mark.parametrize(
    ("algorithm", "settings", "words"),
    [
        (
            "PPO",
            {"model": {"use_attention": True}},
            "A memory is an LSTM or a GRU: give model.memory",
        ),
        ("PPO", {"model.use_attention": True}, "A memory is an LSTM or a GRU: give model.memory"),
        ("PPO", {"model.use_lstm": 3}, "model.use_lstm=3 is not allowed"),
        ("PPO", {"model.use_lstm": True, "model.memory": "gru"}, "two names of one setting"),
        ("DQN", {"model": {"exploration_config": {}}}, "Give initial_epsilon"),
        ("IMPALA", {"momentum": 0.9}, "RMSProp has no momentum"),
        ("PPO", {"model": {"custom_modell": 1}}, "Did you mean 'model.custom_model'?"),
    ],
)
def test_nested_keys_get_their_true_sentence(
    algorithm: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        resolve(algorithm, "CartPole-v1", settings)


LAYERS = {"fcnet_hiddens": [8]}
RATES = dict(zip(("actor", "critic", "entropy"), (1e-3, 2e-3, 3e-3), strict=True))


@pytest.mark.parametrize(
    ("algorithm", "settings", "meant"),
    [
        ("SAC", {"ent_coef": "auto"}, {"learn_alpha": True}),
        ("SAC", {"ent_coef": "auto_0.1"}, {"learn_alpha": True, "initial_alpha": 0.1}),
        ("SAC", {"ent_coef": 0.2}, {"learn_alpha": False, "initial_alpha": 0.2}),
        ("TQC", {"ent_coef": "0.2"}, {"learn_alpha": False, "initial_alpha": 0.2}),
        ("SAC", {"autotune": False, "target_entropy_scale": 0.5},
         {"learn_alpha": False, "target_entropy_share": 0.5}),
        ("SAC", {"q_lr": 1e-3}, {"critic_lr": 1e-3, "alpha_lr": 1e-3}),  # CleanRL's
        ("TD3", {"q_lr": 1e-3}, {"critic_lr": 1e-3}),
        ("SAC", {"target_update_interval": 1}, {"target_network_update_freq": 0}),
        ("DQN", {"target_update_interval": 9}, {"target_network_update_freq": 9}),
        ("SAC", {"twin_q": False}, {"num_critics": 1}),
        ("DDPG", {"twin_q": True}, {"num_critics": 2}),
        ("TD3", {"policy_frequency": 3}, {"policy_delay": 3}),
        ("SAC", {"optimization": {f"{k}_learning_rate": v for k, v in RATES.items()}},
         {"lr": 1e-3, "critic_lr": 2e-3, "alpha_lr": 3e-3}),
        ("SAC", {"Q_model": LAYERS}, {"model.vf_fcnet_hiddens": [8]}),
        ("SAC", {"policy_model_config": {**LAYERS, "fcnet_activation": "tanh"}},
         {"model.fcnet_hiddens": [8], "model.fcnet_activation": "tanh"}),
        ("TD3", {"actor_hiddens": [8], "critic_hiddens": [9]},
         {"model.fcnet_hiddens": [8], "model.vf_fcnet_hiddens": [9]}),
        ("PPO", {"stats_window_size": 7}, {"metrics_smoothing_episodes": 7}),
    ],
)  # fmt: skip
def test_what_others_say_in_other_words(
    algorithm: str, settings: dict[str, Any], meant: dict[str, Any]
) -> None:
    assert canonical(ALGORITHMS[algorithm].config, settings) == meant


@pytest.mark.parametrize(
    ("algorithm", "settings", "words"),
    [
        ("SAC", {"ent_coef": "most"}, "ent_coef='most' is not allowed. Give initial_alpha"),
        ("SAC", {"twin_q": 3}, "twin_q=3 is not allowed. Give num_critics"),
        ("SAC", {"target_update_interval": 8}, "=8 is not allowed. It counts gradient steps"),
        ("SAC", {"policy_frequency": 2}, "takes as many gradient steps at once"),
        ("SAC", {"alpha": 0.2}, "Give initial_alpha; with learn_alpha=False"),
        ("SAC", {"random_timesteps": 9}, "give learning_starts"),
        ("SAC", {"optimization": 3}, "Give lr, critic_lr and alpha_lr themselves"),
        ("SAC", {"Q_model": {"fcnet_activation": "relu"}}, "have one activation"),
        ("SAC", {"ent_coef": 0.1, "initial_alpha": 0.1}, "two names of one setting"),
        ("TD3", {"ent_coef": 0.1}, "There is no entropy"),
        ("TD3", {"smooth_target_policy": True}, "Give target_noise; 0 does not smooth"),
        ("TD3", {"optimization": {"entropy_learning_rate": 0.1}}, "There is no entropy"),
        ("TD3", {"exploration_config": {"stddev": 0.1}}, "Give exploration_noise"),
        ("DDPG", {"action_noise": 0.1}, "Give exploration_noise, a standard deviation"),
    ],
)  # fmt: skip
def test_what_means_something_else_gets_its_true_sentence(
    algorithm: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        canonical(ALGORITHMS[algorithm].config, settings)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_name_means_two_things(name: str) -> None:
    config = ALGORITHMS[name].config
    assert not config.spellings.keys() & {*config.aliases, *field_types(config)}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ["--local-dir", "out"],
            "There is no flag --local_dir. Say where runs are kept by folder (--folder",
        ),
        (["--algo", "ppo"], "The algorithm stands by itself"),
        (["PPO", "--kl_coeff", "0.2"], "without a KL penalty"),
        (["PPO", "--anneal-lr", "true"], "Give lr as a schedule"),
        (["PPO", "--verbose", "1"], "or --quiet is silent"),
        (["PPO", "--device", "cuda"], "Give num_gpus"),
        (["IMPALA", "--her", "true"], "Goals in hindsight need a replay"),
        (["TRPO"], "There is no algorithm 'TRPO'. PPO is nearest. Known: PPO"),
        (["--run", "recurrent-ppo"], "It is a setting of PPO: give model.memory"),
        (["SAC", "Pendulum-v1", "--twin-q", "x"], "twin_q='x' is not allowed. Give num_critics"),
        (["SAC", "Pendulum-v1", "--ent-coef", "auto_x"], "Give initial_alpha"),
        (["SAC", "--random-timesteps", "3"], "give learning_starts"),
        (["SAC", "--model.use_lstm", "true"], "model.memory='lstm' does not go with a replay"),
        (["SAC", "--twin-q", "false", "--num-critics", "2"], "two names of one setting"),
        (["CartPole-v1"], "It looks like an environment: say the algorithm, too"),
        (["PPO", "CartPole-v1", "--env", "Acrobot-v1"], "leave one out"),
        (["PPO", "CartPol-v1"], "Did you mean 'CartPole-v"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_get_their_true_sentence(args: list[str], words: str) -> None:
    line = bad("train", *args)
    assert words in line
    assert "A2C'?" not in line


@pytest.mark.parametrize("name", [name for name in OTHERS if known_name(name) is None])
def test_other_algorithms_are_said_to_be_missing_with_what_is_near(name: str) -> None:
    for spelling in (name, name.lower()):
        with pytest.raises(ConfigError) as caught:
            algorithm_spec(spelling)
        assert str(caught.value).startswith(
            f"There is no algorithm {spelling!r}. {OTHERS[name]} Known: PPO, A2C"
        )
    if name.isidentifier():
        with pytest.raises(AttributeError, match="has no attribute"):
            getattr(poise, name)


def test_the_environment_may_stand_behind_the_algorithm(tmp_path: Path) -> None:
    args = [
        "train",
        "PPO",
        "CartPole-v1",
        "--timesteps",
        "500",
        "--folder",
        str(tmp_path),
        "--no-tensorboard",
    ]
    result = CliRunner().invoke(command, args, prog_name="poise")
    assert result.exit_code == 0, result.output
    assert "PPO on CartPole-v1" in result.stdout
    assert "stopping at timesteps_total=500" in result.stdout


@pytest.mark.parametrize(
    "flag", ["--total-timesteps", "--total_timesteps", "--n-timesteps", "--timesteps"]
)
def test_a_length_is_a_flag(flag: str) -> None:
    assert "total_timesteps=0 is not allowed" in bad("train", "PPO", "CartPole-v1", flag, "0")


@pytest.mark.parametrize(
    "positional", [("MlpPolicy", "CartPole-v1"), ("CnnPolicy",), ("CartPole-v1", 3)]
)
def test_the_calls_of_other_libraries_get_a_sentence(positional: tuple[Any, ...]) -> None:
    with pytest.raises(
        ConfigError, match=r"poise\.PPO takes the environment alone: poise\.PPO\('CartPole-v1'\)"
    ):
        poise.PPO(*positional)
    with pytest.raises(ConfigError, match=r"poise\.load\(path\) loads"):
        poise.PPO.load("path")


def test_wrappers_are_given_in_one_place() -> None:
    flat, clip = "gymnasium.wrappers:FlattenObservation", "gymnasium.wrappers:ClipAction"
    both = {"wrappers": [flat], "env_config": {"wrappers": [clip]}}
    with pytest.raises(ConfigError, match=r"FlattenObservation.*ClipAction.*give only one of them"):
        resolve("PPO", "Pendulum-v1", both)


@pytest.mark.parametrize("key", ["n_lstm_layers", "enable_critic_lstm", "shared_lstm"])
def test_what_a_memory_is_called_elsewhere_is_not_another_setting(key: str) -> None:
    with pytest.raises(ConfigError, match=r"[Mm]emory") as caught:
        poise.PPO("CartPole-v1", policy_kwargs={key: 1})
    assert "Did you mean" not in str(caught.value)
