"""Guards how a configuration comes about: precedence, aliases, derived values, types and errors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import pytest

import poise
from poise.config import types
from poise.config.a2c import A2CConfig
from poise.config.algorithms import ALGORITHMS
from poise.config.ppo import PPOConfig
from poise.config.presets import PRESETS
from poise.config.resolve import field_types, resolve
from poise.config.types import coerce, parse_text
from poise.errors import ConfigError
from poise.learning.schedules import schedule_value
from poise.training.loading import config_from_dict, override


def ppo(**settings: Any) -> PPOConfig:
    config, _ = resolve("PPO", "Some-v0", settings, preset=None)
    assert isinstance(config, PPOConfig)
    return config


# --- precedence -----------------------------------------------------------------------------------


@pytest.fixture
def preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        PRESETS["PPO"], "Tuned-v0", {"lr": 0.5, "gamma": 0.5, "model.fcnet_hiddens": [7]}
    )


def test_user_over_preset_over_defaults(preset: None) -> None:
    config, used = resolve("PPO", "Tuned-v0", {"gamma": 0.25})
    assert used == "Tuned-v0"
    assert (config.lr, config.gamma, config.model.fcnet_hiddens) == (0.5, 0.25, [7])
    assert config.grad_clip == PPOConfig().grad_clip


def test_an_alias_beats_the_preset_too(preset: None) -> None:
    assert resolve("PPO", "Tuned-v0", {"learning_rate": 0.125})[0].lr == 0.125


def test_preset_may_be_off_asked_for_or_unknown(preset: None) -> None:
    config, used = resolve("PPO", "Tuned-v0", preset=None)
    assert (config.lr, used) == (PPOConfig().lr, None)
    assert resolve("PPO", "Other-v0") == (ppo_for("Other-v0"), None)
    config, used = resolve("PPO", "Other-v0", preset="Tuned-v0")
    assert (config.lr, used) == (0.5, "Tuned-v0")
    with pytest.raises(
        ConfigError, match=r"PPO has no preset 'Tuned-v1'\. Did you mean 'Tuned-v0'"
    ):
        resolve("PPO", "Other-v0", preset="Tuned-v1")


def ppo_for(env: str) -> PPOConfig:
    config = PPOConfig(env=env)
    config.derive(set())
    return config


def test_a_presets_batch_gives_way_to_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = {"num_envs_per_worker": 8, "rollout_fragment_length": 32, "sgd_minibatch_size": 256}
    monkeypatch.setitem(PRESETS["PPO"], "Tuned-v0", tuned)
    config = resolve("PPO", "Tuned-v0", {"train_batch_size": 80})[0]
    assert (
        config.num_envs_per_worker,
        config.rollout_fragment_length,
        config.train_batch_size,
    ) == (5, 16, 80)
    assert isinstance(config, PPOConfig)
    assert config.sgd_minibatch_size == 80


def test_defaults_are_not_shared() -> None:
    ppo().model.fcnet_hiddens.append(1)
    ppo().env_config["x"] = 1
    assert ppo().model.fcnet_hiddens == [64, 64]
    assert ppo().env_config == {}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_preset_is_honoured(algorithm: str) -> None:
    known = field_types(ALGORITHMS[algorithm].config)
    for env, settings in PRESETS[algorithm].items():
        assert set(settings) <= set(known), f"preset {env} has keys that are not canonical"
        config, used = resolve(algorithm, env)
        assert used == env
        for key, value in settings.items():
            owner: Any = config
            for part in key.split("."):
                owner = getattr(owner, part)
            assert owner == coerce(known[key], value, key), f"preset {env} does not get its {key}"


def test_presets_are_of_algorithms_that_exist() -> None:
    assert set(PRESETS) <= set(ALGORITHMS)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_alias_points_at_a_key_and_hides_none(algorithm: str) -> None:
    config = ALGORITHMS[algorithm].config
    known = field_types(config)
    for alias, key in config.aliases.items():
        assert key in known or key == "model", f"{alias} points at {key}, which does not exist"
        assert alias not in known, f"{alias} hides the key of the same name"


@pytest.mark.parametrize(
    ("algorithm", "alias", "value", "key"),
    [
        ("PPO", "lambda", 0.5, "gae_lambda"),
        ("PPO", "n_epochs", 3, "num_sgd_iter"),
        ("PPO", "num_epochs", 3, "num_sgd_iter"),
        ("PPO", "batch_size", 64, "sgd_minibatch_size"),
        ("A2C", "batch_size", 64, "train_batch_size"),
        ("PPO", "n_steps", 12, "rollout_fragment_length"),
        ("A2C", "n_steps", 12, "rollout_fragment_length"),
        ("PPO", "num_env_runners", 0, "num_workers"),
        ("PPO", "ent_coef", 0.1, "entropy_coeff"),
        ("A2C", "alpha", 0.9, "rms_prop_decay"),
    ],
)
def test_aliases_mean_what_their_library_means(
    algorithm: str, alias: str, value: Any, key: str
) -> None:
    config = resolve(algorithm, "Some-v0", {alias: value})[0]
    assert getattr(config, key) == value


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.1, "learning_rate": 0.1},
        {"lambda": 0.9, "gae_lambda": 0.9},
        {"num_epochs": 3, "n_epochs": 3},
        {"model": {"net_arch": [2]}, "model.fcnet_hiddens": [2]},
        {"model": {"net_arch": {"pi": [2], "vf": [2]}}, "model.vf_fcnet_hiddens": [2]},
        {"model": {"fcnet_hiddens": [2]}, "policy_kwargs": {"fcnet_hiddens": [3]}},
    ],
)
def test_one_setting_under_two_names_is_an_error(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="two names of one setting: give only one of them"):
        resolve("PPO", "Some-v0", settings)


@pytest.mark.parametrize(
    ("net_arch", "layers"),
    [
        ([8, 4], ([8, 4], None, False)),
        ({"pi": [8], "vf": [4, 2]}, ([8], [4, 2], False)),
        ([{"pi": [8], "vf": [8]}], ([8], [8], False)),
        ({"vf": [4]}, ([], [4], False)),  # as there, what is not named has no hidden layers
        ([8, {"pi": [], "vf": []}], ([8], None, True)),
    ],
)
def test_layers_of_policy_and_value_function(net_arch: Any, layers: Any) -> None:
    model = ppo(model={"net_arch": net_arch}).model
    assert (model.fcnet_hiddens, model.vf_fcnet_hiddens, model.vf_share_layers) == layers


def test_layers_that_were_shared_only_at_first_are_each_towers_own() -> None:
    with pytest.warns(UserWarning, match=r"have their first layers, \[16\], each for itself"):
        model = ppo(policy_kwargs={"net_arch": [16, {"pi": [8], "vf": [4, 2]}]}).model
    assert (model.fcnet_hiddens, model.vf_fcnet_hiddens) == ([16, 8], [16, 4, 2])


def test_critics_are_called_qf() -> None:
    for name in ("qf", "vf"):
        arch = {"pi": [8], name: [64, 64]}
        model = resolve("CrossQ", "Some-v0", {"policy_kwargs": {"net_arch": arch}})[0].model
        assert (model.fcnet_hiddens, model.vf_fcnet_hiddens) == ([8], [64, 64])
    with pytest.raises(ConfigError, match="'vf' is neither 'pi' nor 'qf'"):
        resolve("SAC", "Some-v0", {"model.net_arch": {"pi": [8], "qf": [8], "vf": [8]}})


def test_a_value_stream_of_its_own_is_for_dueling_networks() -> None:
    assert resolve("DQN", "Some-v0", {"dueling": True, "model.vf_fcnet_hiddens": [8]})[
        0
    ].model.vf_fcnet_hiddens == [8]
    with pytest.raises(ConfigError, match=r"model.vf_fcnet_hiddens=\[8\] is for dueling=True"):
        resolve("DQN", "Some-v0", {"model.vf_fcnet_hiddens": [8]})


def test_own_layers_are_not_shared() -> None:
    """What the user set counts; the preset (all of Atari's share) gives way."""
    config = resolve("PPO", "PongNoFrameskip-v4", {"model": {"vf_fcnet_hiddens": [8]}})[0]
    assert (config.model.vf_share_layers, config.model.vf_fcnet_hiddens) == (False, [8])


@pytest.mark.parametrize("key", ["model", "policy_kwargs", "model_config"])
def test_nested_model_settings(key: str) -> None:
    config = ppo(
        **{key: {"fcnet_hiddens": [8], "activation_fn": "relu"}, "model.vf_share_layers": True}
    )
    assert (config.model.fcnet_hiddens, config.model.fcnet_activation) == ([8], "relu")
    assert config.model.vf_share_layers is True
    assert config.model.conv_activation == "relu"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"learning_rat": 1}, "Unknown config key 'learning_rat'. Did you mean 'learning_rate'?"),
        ({"gama": 1}, "Unknown config key 'gama'. Did you mean 'gamma'?"),
        (
            {"model": {"fcnet_hidens": []}},
            "key 'model.fcnet_hidens'. Did you mean 'model.fcnet_hiddens'?",
        ),
        ({"zzzz": 1}, "Unknown config key 'zzzz'."),
        ({"rms_prop_eps": 1e-5}, "Unknown config key 'rms_prop_eps'."),  # that is A2C's
        ({"model": None}, "model=None is not allowed: it must be a mapping of model settings."),
        (
            {"env": "Other-v0"},
            "env='Some-v0' contradicts env='Other-v0' in the config: leave one out.",
        ),
        ({"gamma": 1.5}, "gamma=1.5 is not allowed: it must be a number from 0 to 1."),
        ({"gamma": "0.9"}, "gamma='0.9' is not allowed: it must be a number from 0 to 1."),
        ({"lambda": -0.1}, "gae_lambda=-0.1 is not allowed: it must be a number from 0 to 1."),
        ({"num_epochs": 0}, "num_sgd_iter=0 is not allowed: it must be an integer at least 1."),
        (
            {"num_sgd_iter": 2.5},
            "num_sgd_iter=2.5 is not allowed: it must be an integer at least 1.",
        ),
        (
            {"num_sgd_iter": True},
            "num_sgd_iter=True is not allowed: it must be an integer at least 1.",
        ),
        ({"grad_clip": 0}, "grad_clip=0 is not allowed: it must be a number above 0 or null."),
        ({"normalize_rewards": 1}, "normalize_rewards=1 is not allowed: it must be true or false."),
        ({"env_config": [1]}, "env_config=[1] is not allowed: it must be a mapping."),
        (
            {"model": {"fcnet_hiddens": [0]}},
            "model.fcnet_hiddens=[0] is not allowed: it must be a list, each item an",
        ),
        (
            {"model": {"net_arch": {"qf": [1]}}},
            "model.net_arch={'qf': [1]} is not allowed: 'qf' is neither 'pi' nor",
        ),
        (
            {"model": {"net_arch": {"pi": 64}}},
            "model.fcnet_hiddens=64 is not allowed: it must be a list",
        ),
        (
            {"model": {"vf_fcnet_hiddens": [1], "vf_share_layers": True}},
            "contradicts model.vf_share_layers=True",
        ),
        (
            {"model": {"fcnet_activation": "tahn"}},
            "model.fcnet_activation='tahn' is not allowed: it must be ",
        ),
        ({"model": {"fcnet_activation": "tahn"}}, " Did you mean 'tanh'?"),
        (
            {"num_workers": "autoo"},
            "num_workers='autoo' is not allowed: it must be an integer at least 0 or 'auto'.",
        ),
        (
            {"num_workers": -1},
            "num_workers=-1 is not allowed: it must be an integer at least 0 or 'auto'.",
        ),
        ({"num_gpus": 2}, "num_gpus=2: one policy learns on one GPU at most."),
        (
            {"policies": math.inf},
            "policies=inf is not allowed: it must be a list of names, a mapping from names to "
            "settings or null.",
        ),
        (
            {"lr": "fast"},
            "lr='fast' is not allowed: it must be a number at least 0 or a schedule [[timestep",
        ),
        (
            {"timesteps_per_iteration": -1},
            "timesteps_per_iteration=-1 is not allowed: it must be an integer at least",
        ),
    ],
)
def test_errors_name_the_key_the_value_and_what_is_allowed(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("PPO", "Some-v0", settings)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_algorithms_agree_on_what_shared_keys_allow(algorithm: str) -> None:
    with pytest.raises(ConfigError, match="timesteps_per_iteration=-1 is not allowed"):
        resolve(algorithm, "Some-v0", {"timesteps_per_iteration": -1})


def test_algorithm_names_in_any_case_and_with_a_suggestion() -> None:
    assert isinstance(resolve("a2c")[0], A2CConfig)
    with pytest.raises(ConfigError, match=r"There is no algorithm 'PPPO'\. Did you mean 'PPO'"):
        resolve("PPPO")


# --- derived values -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "envs", "length", "batch"),
    [
        ({}, 16, 128, 2048),
        ({"train_batch_size": 1600}, 16, 100, 1600),
        ({"train_batch_size": 4000}, 16, 250, 4000),
        ({"train_batch_size": 5}, 1, 5, 5),
        ({"num_envs_per_worker": 4}, 4, 128, 512),
        ({"rollout_fragment_length": 32}, 16, 32, 512),
        ({"train_batch_size": 1600, "num_envs_per_worker": 4}, 4, 400, 1600),
        ({"train_batch_size": 1600, "rollout_fragment_length": 200}, 8, 200, 1600),
        ({"num_envs_per_worker": 3, "rollout_fragment_length": 7}, 3, 7, 21),
        (
            {"num_envs_per_worker": 3, "rollout_fragment_length": 7, "train_batch_size": 21},
            3,
            7,
            21,
        ),
        ({"train_batch_size": 1000}, 10, 100, 1000),  # as many environments as fill it exactly
        ({"train_batch_size": 997}, 1, 997, 997),
        # Rather fewer environments than fragments of a few steps.
        ({"train_batch_size": 40}, 2, 20, 40),
    ],
)
def test_batch_is_environments_times_length(
    settings: dict[str, Any], envs: int, length: int, batch: int
) -> None:
    config = ppo(**settings)
    assert config.num_envs_per_worker == envs
    assert (config.rollout_fragment_length, config.train_batch_size) == (length, batch)


def test_only_explicit_batch_settings_conflict() -> None:
    with pytest.raises(
        ConfigError, match="train_batch_size=22 contradicts num_envs_per_worker=3 x rollout"
    ):
        ppo(num_envs_per_worker=3, rollout_fragment_length=7, train_batch_size=22)
    with pytest.raises(
        ConfigError, match=r"train_batch_size=5 contradicts rollout_fragment_length=7: .* such as 7"
    ):
        ppo(rollout_fragment_length=7, train_batch_size=5)
    with pytest.raises(
        ConfigError,
        match=r"train_batch_size=1000 contradicts num_envs_per_worker=16: .* such as 992",
    ):
        ppo(num_envs_per_worker=16, train_batch_size=1000)
    with pytest.raises(ConfigError, match="contradicts"):
        ppo(num_envs=3, n_steps=7, train_batch_size=22)  # under other names too


@pytest.mark.parametrize(
    ("settings", "minibatch"),
    [
        ({}, 256),
        ({"train_batch_size": 160}, 64),
        ({"train_batch_size": 32}, 32),
        ({"train_batch_size": 160, "sgd_minibatch_size": 160}, 160),
        ({"train_batch_size": 160, "sgd_minibatch_size": 50}, 50),
    ],
)
def test_minibatch_fits_the_batch(settings: dict[str, Any], minibatch: int) -> None:
    assert ppo(**settings).sgd_minibatch_size == minibatch


def test_a_minibatch_larger_than_the_batch_is_an_error_when_asked_for() -> None:
    with pytest.raises(
        ConfigError, match="sgd_minibatch_size=100 is larger than train_batch_size=32"
    ):
        ppo(train_batch_size=32, minibatch_size=100)


def test_auto_waits_for_what_it_depends_on() -> None:
    # Of the environment's speed, and of its observations.
    config = ppo(num_workers="auto", num_gpus="auto")
    assert (config.num_workers, config.num_gpus) == ("auto", "auto")


def test_workers_share_the_environments_unless_each_is_given_some() -> None:
    shared = ppo(num_workers=2)
    assert (shared.num_envs_per_worker, shared.num_envs, shared.train_batch_size) == (8, 16, 2048)
    given = ppo(num_workers=2, num_envs_per_worker=4)
    assert (given.num_envs_per_worker, given.num_envs, given.train_batch_size) == (4, 8, 1024)
    exact = ppo(num_workers=4, train_batch_size=1024, rollout_fragment_length=64)
    assert (exact.num_envs_per_worker, exact.num_envs) == (4, 16)
    with pytest.raises(ConfigError, match="train_batch_size=1000 contradicts num_workers=3"):
        ppo(num_workers=3, train_batch_size=1000)
    with pytest.raises(
        ConfigError,
        match="contradicts 2 workers x num_envs_per_worker=4 x rollout_fragment_length=8",
    ):
        ppo(num_workers=2, num_envs_per_worker=4, rollout_fragment_length=8, train_batch_size=65)


# --- workers and the batch ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "envs", "length", "batch"),
    [
        # settings, environments of each worker, steps of each, train_batch_size
        ({}, 16, 128, 2048),
        ({"num_workers": 1}, 16, 128, 2048),
        ({"num_workers": 3}, 5, 128, 1920),
        ({"num_workers": 32}, 1, 128, 4096),  # one each at least
        ({"num_workers": 2, "rollout_fragment_length": 10}, 8, 10, 160),
        ({"num_workers": 2, "train_batch_size": 512}, 8, 32, 512),
        ({"num_workers": 2, "train_batch_size": 600}, 6, 50, 600),
        ({"num_workers": 3, "train_batch_size": 600}, 5, 40, 600),
        ({"num_workers": 2, "train_batch_size": 600, "num_envs_per_worker": 3}, 3, 100, 600),
        ({"num_workers": 2, "train_batch_size": 600, "rollout_fragment_length": 50}, 6, 50, 600),
        ({"num_workers": 2, "train_batch_size": 40}, 1, 20, 40),
        ({"num_workers": "auto", "train_batch_size": 512}, 16, 32, 512),
    ],
)
def test_environments_of_workers_fill_the_batch(
    settings: dict[str, Any], envs: int, length: int, batch: int
) -> None:
    config = ppo(**settings)
    found = config.num_envs_per_worker, config.rollout_fragment_length, config.train_batch_size
    assert found == (envs, length, batch)
    assert config.num_envs * length == batch


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"num_workers": 3, "train_batch_size": 512},
            "=512 contradicts num_workers=3: it must be a multiple of it",
        ),
        (
            {"num_workers": 2, "train_batch_size": 100, "num_envs_per_worker": 3},
            (
                "=100 contradicts 2 workers x num_envs_per_worker=6: it must be a multiple of it, "
                "such as 96."
            ),
        ),
        ({"env_step_timeout_s": 0}, "env_step_timeout_s=0 is not allowed"),
        ({"env_reset_timeout_s": -1}, "env_reset_timeout_s=-1 is not allowed"),
        ({"env_make_timeout_s": "long"}, "env_make_timeout_s='long' is not allowed"),
        ({"worker_memory_mb": 0.5}, "worker_memory_mb=0.5 is not allowed"),
    ],
)
def test_what_does_not_fit_the_workers_is_said_so(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ppo(**settings)
    assert sentence in str(caught.value)


# --- types ----------------------------------------------------------------------------------------

ALLOWED = [
    (float, 3, 3.0),
    (int, 1e6, 1_000_000),
    (bool, False, False),
    (str, "x", "x"),
    (types.Fraction, 0, 0.0),
    (types.Fraction, 1, 1.0),
    (types.Positive, 1e-30, 1e-30),
    (types.NonNegative, 0, 0.0),
    (types.PositiveInt, 1.0, 1),
    (types.NonNegativeInt, 0, 0),
    (types.PositiveInt | None, None, None),
    (Literal["a", "b"], "b", "b"),
    (list[types.PositiveInt], (1, 2.0), [1, 2]),
    (list[tuple[int, int, int]] | None, [[1, 2, 3]], [(1, 2, 3)]),
    (types.Schedule, 0.5, 0.5),
    (types.Schedule, 0, 0.0),
    (types.Schedule, [[0, 1], [10, 0.5]], [(0, 1.0), (10, 0.5)]),
    (dict, {"a": 1}, {"a": 1}),
    (Any, [object], [object]),
]


@pytest.mark.parametrize(("kind", "value", "expected"), ALLOWED)
def test_coerce_allows(kind: Any, value: Any, expected: Any) -> None:
    found = coerce(kind, value, "key")
    assert found == expected
    assert type(found) is type(expected)


REFUSED = [
    *(
        (kind, value)
        for kind in (float, types.NonNegative, types.Schedule)
        for value in (math.nan, math.inf)
    ),
    *(
        (kind, value)
        for kind in (int, types.PositiveInt)
        for value in (math.nan, math.inf, 0.5, True, "1", None, [1])
    ),
    *((float, value) for value in (True, False, "1.0", None, [1.0], 1j)),
    *((bool, value) for value in (0, 1, "true", None)),
    *((types.Fraction, value) for value in (-1e-9, 1 + 1e-9, 2, math.nan)),
    *((types.Positive, value) for value in (0, -1, math.inf)),
    *((types.Positive | None, value) for value in (0, "none", False)),
    *((types.PositiveInt, value) for value in (0, -3)),
    *((Literal["a", 1], value) for value in ("c", 2, True, None)),
    *((list[int], value) for value in (5, "12", [1.5], {1: 2}, None)),
    *((types.Schedule, value) for value in (-1, True, "linear", [], [1, 2], {0: 1})),
    *(
        (types.Schedule, value)
        for value in ([[0]], [[0, -1]], [[-1, 0]], [[0.5, 1]], [[5, 1], [0, 1]])
    ),
    *((dict, value) for value in ([], None, "a=1")),
    *((str | None, value) for value in (3, ["x"])),
]


@pytest.mark.parametrize(("kind", "value"), REFUSED, ids=lambda x: str(x)[:40])
def test_coerce_refuses(kind: Any, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        coerce(kind, value, "some.key")
    assert str(caught.value).startswith(f"some.key={value!r} is not allowed: it must be ")


def test_a_number_that_numpy_made_is_a_number() -> None:
    import numpy as np

    assert coerce(types.PositiveInt, np.int64(3), "key") == 3
    assert coerce(types.Schedule, np.float32(0.5), "key") == 0.5
    assert type(coerce(types.PositiveInt, np.int64(3), "key")) is int


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("64", 64),
        ("true", True),
        ("None", None),
        ("null", None),
        ("False", False),
        ("[64, 32]", [64, 32]),
        ("64,32", [64, 32]),
        ('{"a": 1}', {"a": 1}),
        ("tanh", "tanh"),
        ("CartPole-v1", "CartPole-v1"),
    ],
)
def test_texts_of_the_command_line(text: str, value: Any) -> None:
    found = parse_text(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("timestep", "value"),
    [(0, 1.0), (10, 1.0), (20, 0.75), (30, 0.5), (40, 0.25), (50, 0.0), (10**9, 0.0)],
)
def test_schedules_are_straight_lines_between_points(timestep: int, value: float) -> None:
    assert schedule_value([(50, 0.0), (10, 1.0), (30, 0.5)], timestep) == pytest.approx(
        value, abs=1e-12
    )
    assert schedule_value(0.125, timestep) == 0.125


def test_a_schedule_may_jump_up_and_down() -> None:
    down, up = ([(0, a), (100, a), (100, b)] for a, b in ((1.0, 0.1), (0.1, 1.0)))
    assert [schedule_value(down, t) for t in (0, 100, 101, 1000)] == [1.0, 1.0, 0.1, 0.1]
    assert [schedule_value(up, t) for t in (0, 100, 101, 1000)] == [0.1, 0.1, 1.0, 1.0]


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_configuration_comes_back_from_json(algorithm: str) -> None:
    settings = {
        "lr": [[0, 0.1], [100, 0.01]],
        "train_batch_size": 96,
        "grad_clip": None,
        "seed": 7,
        "env_config": {"max_episode_steps": 9},
        "model": {
            "conv_filters": [[16, 8, 4]],
            "fcnet_hiddens": [],
            "custom_model_config": {"width": 2},
        },
    }
    config, _ = resolve(algorithm, "Some-v0", settings)
    text = json.dumps(config.to_dict(), allow_nan=False)
    back = config_from_dict(algorithm, json.loads(text))
    assert back == config
    assert type(back) is type(config)
    assert back.lr == [(0, 0.1), (100, 0.01)]


def test_an_environment_class_is_written_as_its_name() -> None:
    class Mine:
        pass

    config, _ = resolve("PPO", Mine)
    assert config.env is Mine
    assert config.to_dict()["env"] == f"{__name__}:{Mine.__qualname__}"


# --- attributes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("learning_rate", 1e-3, "A configuration has no 'learning_rate'. It is called 'lr' here."),
        ("gama", 0.9, "A configuration has no 'gama'. Did you mean 'gamma'?"),
        ("lr", "fast", "lr='fast' is not allowed: it must be a number at least 0"),
        ("lr", -1, "lr=-1 is not allowed"),
        ("num_sgd_iter", 0, "num_sgd_iter=0 is not allowed"),
        ("model", {"fcnet_hiddens": [8]}, "set its attributes, such as config.model.NAME"),
    ],
)
def test_a_configuration_refuses_unknown_attributes_and_wrong_values(
    key: str, value: Any, sentence: str
) -> None:
    config = ppo()
    before = config.to_dict()
    with pytest.raises(ConfigError) as caught:
        setattr(config, key, value)
    assert sentence in str(caught.value)
    assert config.to_dict() == before
    with pytest.raises(ConfigError, match="fcnet_hidens"):
        config.model.fcnet_hidens = [8]  # type: ignore[attr-defined]


def test_what_a_trainer_can_change_counts_at_once_and_the_rest_is_refused() -> None:
    with poise.PPO("CartPole-v1", num_envs=2, n_steps=8, preset=None, seed=0) as algo:
        assert algo.train()["learner/cur_lr"] == pytest.approx(3e-4)
        algo.config.lr = [[0, 1e-4]]
        algo.config.timesteps_per_iteration = 0
        assert algo.train()["learner/cur_lr"] == pytest.approx(1e-4)
        with pytest.raises(
            ConfigError, match=r"num_envs_per_worker cannot change while a policy learns.* lr, "
        ):
            algo.config.num_envs_per_worker = 3
        with pytest.raises(ConfigError, match="fcnet_hiddens cannot change"):
            algo.config.model.fcnet_hiddens = [8]
        algo.config.num_envs_per_worker = 2  # it is
        assert algo.config.num_envs_per_worker == 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_setting_that_may_change_is_read_anew(algorithm: str) -> None:
    """None of them is only read where an algorithm is made."""
    config = ALGORITHMS[algorithm].config
    root = Path(poise.__file__).parent
    live = "".join(
        path.read_text()
        for room in ("algorithms", "training")
        for path in (root / room).glob("*.py")
    )
    for key in config.adjustable & set(field_types(config)):
        assert f"config.{key}" in live, key


def on_ray(algorithm: str, **settings: Any) -> Any:
    return resolve(algorithm, "Some-v0", {"ray_address": "auto", **settings}, preset=None)[0]


@pytest.mark.parametrize("settings", [{}, {"train_batch_size": 128}])
def test_workers_of_a_cluster_leave_the_batches_of_a_replay(settings: dict[str, Any]) -> None:
    config = on_ray("DQN", **settings)
    before = config.train_batch_size, config.num_envs, config.gradient_steps
    config.spread(3)
    assert (config.train_batch_size, config.num_envs, config.gradient_steps) == before
    assert config.num_workers == 2


def test_a_minibatch_that_is_the_whole_batch_stays_so_on_a_cluster() -> None:
    config = on_ray("IMPALA", num_envs_per_worker=16)
    config.spread(9)
    assert config.train_batch_size == config.sgd_minibatch_size == 18 * 32


def test_a_run_that_moves_to_a_cluster_keeps_its_environments() -> None:
    before = resolve("PPO", "Some-v0", {"num_workers": 3, "num_envs": 4}, preset=None)[0]
    config = override("PPO", before.to_dict(), {"ray_address": "auto"})
    assert (config.num_workers, config.num_envs, config.train_batch_size) == ("auto", 12, 12 * 128)
    config.spread(2)
    assert (config.num_workers, config.num_envs) == (2, 12)


@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "IMPALA"])
def test_workers_that_a_cluster_had_room_for_are_chosen_anew_without_it(algorithm: str) -> None:
    before = on_ray(algorithm, num_workers=13, num_envs_per_worker=2)
    saved, away = before.to_dict(), {"ray_address": None}
    auto = override(algorithm, saved, away, auto_workers=True)
    assert (auto.num_workers, auto.num_envs) == ("auto", 26)
    for kept in (
        override(algorithm, saved, away),
        override(algorithm, saved, {**away, "num_workers": 13}, auto_workers=True),
    ):
        assert (kept.num_workers, kept.num_envs, kept.auto_workers) == (13, 26, False)
    stays = override(algorithm, saved, {"lr": 1e-3}, auto_workers=True)
    assert (stays.num_workers, stays.auto_workers) == (13, True)  # and is known to the next


@pytest.mark.parametrize(
    "settings", [{"lr": 1e-3}, {"num_workers": 3}, {"ray_address": "10.0.0.1:6379"}]
)
def test_a_batch_of_whoever_comes_first_stays_with_other_settings(settings: dict[str, Any]) -> None:
    fixed = {"train_batch_size": 1000, "rollout_fragment_length": 50}
    before = on_ray("IMPALA", num_workers=13, num_envs_per_worker=2, **fixed)
    config = override("IMPALA", before.to_dict(), settings)
    if config.num_workers == "auto":
        config.spread(4)
    assert (config.train_batch_size, config.num_envs_per_worker) == (1000, 2)


def test_a_batch_without_workers_is_a_rollout() -> None:
    fixed = {"train_batch_size": 320, "rollout_fragment_length": 32, "num_envs_per_worker": 2}
    with pytest.raises(ConfigError, match="train_batch_size=320 contradicts num_envs_per_worker=2"):
        on_ray("IMPALA", num_workers=0, **fixed)
    said = "train_batch_size=320 contradicts num_envs_per_worker x rollout_fragment_length=96"
    with pytest.raises(ConfigError, match=said):
        on_ray("IMPALA", num_workers=3, **{**fixed, "num_envs_per_worker": 3})


def test_no_more_workers_are_enough_than_there_are() -> None:
    with pytest.raises(ConfigError, match="min_workers=5 contradicts num_workers=2"):
        on_ray("PPO", num_workers=2, min_workers=5)
    assert on_ray("PPO", min_workers=5).min_workers == 5  # of as many as there is room for
