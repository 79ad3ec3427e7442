"""What others wrote is read within bounds.

Files that multiply, nest or count without an end, and sizes that no memory holds, get one sentence
before they take anything.
"""

from __future__ import annotations

import gc
import json
import mmap
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import poise
from poise.cli import inputs
from poise.config import memory, types
from poise.config.reading import LARGEST_FILE, parse_json, parse_yaml, read_file
from poise.config.resolve import resolve
from poise.config.types import coerce, parse_text
from poise.errors import ConfigError
from poise.training.stopping import StopRule


def short(value: Any) -> str:
    """A case's name in the list of tests."""
    return types.brief(value)[:40]


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)
)
"""Ten lines that hold ten billion values."""
MERGES = "a0: &a0 {k: 1}\n" + "\n".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 10)
)

BAD_YAML = {
    "aliases": (LAUGHS, "more than 100,000 values"),
    "merged aliases": (MERGES, "more than 100,000 values"),
    "itself": ("a: &a [*a]", "contains itself"),
    "deep": ("[" * 100_000, "nested too deep"),
    "objects": ("a: !!python/object/apply:os.system [echo]", "is not valid YAML"),
    "no day": ("a: 2024-99-99", "cannot be read"),
    "digits": ("a: " + "1" * 10_000, "cannot be read"),
    "twice": ("lr: 1\nlr: 2", "names 'lr' twice"),
    "twice inside": ("model: {a: 1, a: 2}", "names 'a' twice"),
}
BAD_JSON = {
    "deep": ('{"a":' * 100_000, "nested too deep"),
    "digits": ('{"a": ' + "1" * 10_000 + "}", "cannot be read"),
    "twice": ('{"lr": 1, "lr": 2}', "names 'lr' twice"),
    "broken": ('{"lr": }', "is not valid JSON"),
}


@pytest.mark.parametrize("case", BAD_YAML)
def test_yaml_stays_in_bounds(case: str, tmp_path: Path) -> None:
    text, words = BAD_YAML[case]
    with pytest.raises(ConfigError, match=words):
        parse_yaml(text, "file.yaml")
    (tmp_path / "ppo.yml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        inputs.read_experiment(str(tmp_path / "ppo.yml"))
    with pytest.raises(ConfigError, match=words):
        resolve("PPO", "CartPole-v1", preset=str(tmp_path / "ppo.yml"))


@pytest.mark.parametrize("case", BAD_JSON)
def test_json_stays_in_bounds(case: str) -> None:
    text, words = BAD_JSON[case]
    with pytest.raises(ConfigError, match=words):
        parse_json(text, "--config")
    with pytest.raises(ConfigError, match=words):
        inputs.read_experiment(text)
    with pytest.raises(ConfigError, match=words):
        inputs.parse_stop([text])
    # A flag's text, which is then said to be no number.
    assert parse_text(text) == text or case == "twice"


def test_references_within_bounds_are_followed() -> None:
    assert parse_yaml("a: &a {lr: 1, b: [1]}\nc: {<<: *a, lr: 2}", "x") == {
        "a": {"lr": 1, "b": [1]},
        "c": {"lr": 2, "b": [1]},
    }


def test_a_large_file_is_no_file_of_settings(tmp_path: Path) -> None:
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(2 * LARGEST_FILE)
    with pytest.raises(ConfigError, match="is larger than 1 MiB"):
        read_file(tmp_path / "large.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_file(tmp_path)


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [1e39, -1e39, 10**400, 10**5000, 1e300, float("inf"), float("nan")], ids=short
)
def test_numbers_beyond_float32_get_a_sentence(value: Any) -> None:
    for annotation in (float, types.NonNegative, types.Schedule):
        with pytest.raises(ConfigError, match="is not allowed") as caught:
            coerce(annotation, value, "lr")
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize("value", [2**63, 2**64, 10**400, 1e30, 10**5000], ids=short)
def test_integers_beyond_int64_get_a_sentence(value: Any) -> None:
    with pytest.raises(ConfigError, match="Integers here have 64 bits"):
        coerce(types.PositiveInt, value, "buffer_size")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_threads": 1e30}, "num_threads=1e\\+30 is not allowed"),
        ({"num_threads": 2000}, "from 1 to 1024"),
        ({"env_step_timeout_s": 1e30}, "env_step_timeout_s=1e\\+30 is not allowed"),
        ({"num_workers": np.array(["auto"])}, "num_workers=array\\(\\['auto'.* is not allowed"),
        (
            {"model.fcnet_activation": np.array([1, 2])},
            "fcnet_activation=array\\(\\[1, 2\\]\\) is not allowed",
        ),
        ({"env_config": {1: 2}}, "Its keys must be texts"),
        ({1: 2}, "Unknown config key 1: keys are texts"),
        ({None: 2}, "Unknown config key None: keys are texts"),
        ({"model": {1: 2}}, "Unknown config key 'model.1'"),
        ([1], "config=\\[1\\] is not allowed"),
        ({"lr": "x" * 3000}, "lr='x+\\.\\.\\. is not allowed"),
    ],
    ids=short,
)
def test_odd_settings_get_one_sentence(settings: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        resolve("PPO", "CartPole-v1", settings)
    assert "\n" not in str(caught.value)


def test_numpys_values_are_pythons() -> None:
    config: Any = resolve(
        "PPO",
        "CartPole-v1",
        {
            "lr": np.float32(0.5),
            "normalize_observations": np.bool_(True),
            "num_sgd_iter": np.array(3),
            "model.fcnet_hiddens": np.array([8, 8]),
            "model.fcnet_activation": np.str_("relu"),
        },
    )[0]
    assert (config.lr, config.normalize_observations, config.num_sgd_iter) == (0.5, True, 3)
    assert (config.model.fcnet_hiddens, config.model.fcnet_activation) == ([8, 8], "relu")
    json.dumps(config.to_dict())


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        ({}, "names no result"),
        ({"timesteps_total": 10**400}, "is not allowed"),
        ({"timesteps_total": np.array([1, 2])}, "must be a number at least 0"),
        ({"timesteps_total": -1}, "must be a number at least 0"),
        ({"episode_reward_mean": float("inf")}, "must be a number"),
        ([1], "mapping of result keys"),
    ],
    ids=short,
)
def test_odd_stop_rules_get_one_sentence(stop: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        StopRule(stop, resolve("PPO", "CartPole-v1")[0])


def test_stop_rules_take_numpys_numbers() -> None:
    rule = StopRule(
        {"timesteps_total": np.int64(5), "x/y": np.float32(1)}, resolve("PPO", "CartPole-v1")[0]
    )
    assert rule({"timesteps_total": 5, "x/y": 0.0}) == "timesteps_total reached 5"


# --- sizes ----------------------------------------------------------------------------------------


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 2**27)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"model": {"fcnet_hiddens": [8000, 8000, 8000]}},
            (
                r"Learning 64,.* parameters or more, as model.fcnet_hiddens=\[8000, 8000, 8000\]"
                r" asks for, takes 97. MiB"
            ),
        ),
        (
            {"rollout_fragment_length": 10**7},
            "A rollout of 10,000,000 steps in 96 environments takes .* GiB",
        ),
        ({"train_batch_size": 2**40}, "A rollout of .* steps"),
        (
            {"sgd_minibatch_size": 2**18, "train_batch_size": 2**18, "model.fcnet_hiddens": [999]},
            "sgd_minibatch_size=",
        ),
        ({"metrics_smoothing_episodes": 10**9}, "metrics_smoothing_episodes=1000000000 takes"),
    ],
    ids=short,
)
def test_what_no_memory_holds_is_refused_before_it_is_taken(
    settings: dict[str, Any], words: str, small_machine: None
) -> None:
    with pytest.raises(ConfigError, match=f"{words}.* of memory, and 128 MiB are free"):
        poise.PPO("CartPole-v1", **settings)


class Pictures(gym.Env[Any, Any]):
    """Counts how many of it there are; each takes 2 MiB."""

    observation_space, action_space = (
        gym.spaces.Box(0, 255, (84, 84, 4), np.uint8),
        gym.spaces.Discrete(2),
    )
    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        # From the system itself: NumPy may take what this process has given back and still holds.
        self.memory = mmap.mmap(-1, 2**21)
        self.memory.write(b"\1" * 2**21)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            {"conv_filters": [[2000, 8, 4], [2000, 4, 2]]},
            r"model.conv_filters=\[\(2000, 8, 4\), \(2000, 4, 2\)\]",
        ),
        ({"custom_model": "wide"}, "model.custom_model='wide'"),
    ],
)
@pytest.mark.usefixtures("small_machine", "registries")
def test_networks_of_any_kind_are_refused_before_they_are_made(
    model: dict[str, Any], words: str
) -> None:
    poise.register_model("wide", lambda space, outputs: torch.nn.LSTM(2**14, 2**14))
    with pytest.raises(
        ConfigError,
        match=f"parameters or more, as {words} asks for, takes .* of memory, and 128 MiB",
    ):
        poise.PPO(lambda config: Pictures(), num_envs=1, rollout_fragment_length=1, model=model)


@pytest.mark.usefixtures("small_machine")
def test_what_a_thousand_environments_take_is_known_by_the_first_of_them() -> None:
    Pictures.made = 0
    gc.collect()  # what earlier tests have left is not given back meanwhile
    with pytest.raises(
        ConfigError,
        match=r"Making 1,000 environments, after the first \d+, takes [12].. GiB of memory",
    ):
        poise.PPO(lambda config: Pictures(), num_envs=1000, rollout_fragment_length=1)
    assert Pictures.made <= 64


def test_settings_that_cannot_be_are_said_before_any_environment_is_made() -> None:
    Pictures.made = 0
    with pytest.raises(ConfigError, match="A rollout of 1,000,000,000,000 steps in 1 environments"):
        poise.PPO(lambda config: Pictures(), num_envs=1, rollout_fragment_length=10**12)
    assert Pictures.made == 0


def test_free_memory_is_that_of_this_machine() -> None:
    free, whole = memory.free_memory(), memory.machine_memory()
    assert free is None or whole is None or 0 <= free <= whole
