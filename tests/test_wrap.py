"""Wrappers by name.

From the command and from Python, wherever environments are made, and from files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from click.testing import CliRunner, Result
from gymnasium import spaces

import poise
from poise.cli.main import poise as command
from poise.envs import trust
from poise.errors import ConfigError, EnvError, SpaceError, TrustError
from poise.spaces.layout import Layout
from poise.tracking.find import find_run

SMALL = {
    "num_envs_per_worker": 2,
    "rollout_fragment_length": 16,
    "num_sgd_iter": 1,
    "model": {"fcnet_hiddens": [4]},
}
SCALED = ["gymnasium.wrappers:RescaleAction", {"min_action": -1, "max_action": 1}]
TIMED = "gymnasium.wrappers:TimeAwareObservation"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POISE_HOME", str(tmp_path / "home"))
    return tmp_path


def call(*args: str) -> Result:
    return CliRunner().invoke(command, list(args), prog_name="poise")


def good(*args: str) -> str:
    result = call(*args)
    assert result.exit_code == 0, result.output
    return result.output


class Shouting(gymnasium.RewardWrapper):
    """A wrapper that only this file knows."""

    def __init__(self, env: gymnasium.Env, times: float = 10.0) -> None:
        super().__init__(env)
        self.times = times

    def reward(self, reward: Any) -> float:
        return float(reward) * self.times


@pytest.mark.parametrize("workers", [0, 1])
def test_wrappers_are_around_every_environment(workers: int, folder: Path) -> None:
    with poise.PPO(
        "CartPole-v1", wrappers=[TIMED, Shouting], num_workers=workers, preset=None, **SMALL
    ) as algo:
        algo.learn(total_timesteps=200)
        result = algo.train()
        assert algo.policy.obs_layout.space.shape == (5,)
        assert result["episode_reward_mean"] == pytest.approx(10 * result["episode_len_mean"])
        numbers = algo.evaluate(3)
        assert numbers["episode_reward_mean"] == pytest.approx(10 * numbers["episode_len_mean"])
        filmed = poise.record(algo, "film.mp4")
        assert filmed["episode_reward"] == [10.0 * filmed["episode_len"][0]]
        algo.save("kept")
    with poise.load("kept") as algo:
        result = algo.train()
        assert result["episode_reward_mean"] == pytest.approx(10 * result["episode_len_mean"])


def test_the_command_wraps_evaluates_films_and_resumes() -> None:
    train = [
        "train",
        "PPO",
        "--env",
        "Pendulum-v1",
        "--wrap",
        TIMED,
        "--wrap",
        json.dumps(SCALED),
        "--no-tensorboard",
    ]
    good(
        *train,
        "--stop",
        "timesteps_total=800",
        "--quiet",
        "--name",
        "r",
        "--num_envs",
        "2",
        "--n_steps",
        "200",
    )
    saved = json.loads((find_run("r").path / "config.json").read_text())["config"]
    assert saved["wrappers"] == saved["env_config"]["wrappers"] == [TIMED, SCALED]
    for args in (
        ["evaluate", "r", "--episodes", "1"],
        ["record", "r"],
        ["resume", "r", "--stop", "timesteps_total=1200"],
    ):
        good(*args)
    algo = poise.load(find_run("r").path)
    assert algo.policy.obs_layout.space.shape == (4,)
    assert algo.policy.action_layout.space.high == [1.0]


def test_arguments_and_order_are_those_that_were_given() -> None:
    made = poise.make_env(
        "CartPole-v1",
        {"wrappers": [[f"{__name__}:Shouting", {"times": 3.0}], f"{__name__}:Shouting"]},
    )
    made.reset(seed=0)
    assert made.step(0)[1] == 30.0
    assert isinstance(made, Shouting)
    assert made.times == 10.0


def test_an_environment_may_have_a_key_of_this_name_itself() -> None:
    class Own(gymnasium.Env):
        observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

        def __init__(self, config: Any) -> None:
            self.given = config["wrappers"]

    assert poise.make_env(Own, {"wrappers": 3}).given == 3  # type: ignore[attr-defined]
    assert poise.make_env(Own, {"wrappers": ["blue"]}).given == ["blue"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("wrapper", "said"),
    [
        ("FlattenObservation", "write module:Class, such as gymnasium.wrappers:FlattenObservation"),
        (
            "gymnasium.wrappers:FlatenObservation",
            "has no 'FlatenObservation'. Did you mean 'FlattenObservation'?",
        ),
        ("gymnasium.wrapers:X", "there is no module 'gymnasium.wrapers'"),
        ([TIMED, {"fast": 1}], "cannot be made with {'fast': 1}"),
        ("os:system", "is no wrapper"),
        ("gymnasium:Space", "is no wrapper: such a class has reset and step"),
    ],
)
def test_what_is_none_is_said(wrapper: Any, said: str) -> None:
    with pytest.raises((ConfigError, EnvError, TrustError)) as caught:
        poise.PPO("CartPole-v1", wrappers=[wrapper])
    assert said in str(caught.value)
    result = call("train", "PPO", "--env", "CartPole-v1", "--wrap", json.dumps(wrapper))
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_atari_games_are_wrapped_and_then_no_longer_native() -> None:
    pytest.importorskip("ale_py")
    made = poise.make_env("PongNoFrameskip-v4", {"size": 42, "wrappers": [f"{__name__}:Shouting"]})
    assert isinstance(made, Shouting)
    with poise.PPO(
        "PongNoFrameskip-v4", wrappers=[f"{__name__}:Shouting"], preset=None, **SMALL
    ) as algo:
        assert algo.train()["timesteps_total"] == 32


def test_a_strangers_wrapper_is_not_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "evil_wrapper.py").write_text("import pathlib\npathlib.Path('imported').touch()")
    monkeypatch.syspath_prepend(str(folder))
    run = poise.run(
        "PPO",
        "CartPole-v1",
        wrappers=[TIMED],
        name="r",
        quiet=True,
        stop={"timesteps_total": 64},
        **SMALL,
    )
    run.trainer.close()
    trust._granted.clear()
    poise.load(run.path).evaluate(1)  # one of Gymnasium's is no harm
    for wrappers in (
        ["evil_wrapper:Wrapper"],
        [["gymnasium.wrappers:RecordVideo", {"video_folder": "owned"}]],
        ["os:system"],
    ):
        for file in (run.path / "config.json", *run.path.glob("checkpoints/*/manifest.json")):
            saved = json.loads(file.read_text())
            saved["config"]["env_config"]["wrappers"] = wrappers
            file.write_text(json.dumps(saved))
        for args in (
            ["evaluate", "r"],
            ["record", "r"],
            ["resume", "r", "--stop", "timesteps_total=128"],
        ):
            result = call(*args)
            assert (result.exit_code, "names the wrapper" in result.output) == (2, True), (
                result.output
            )
        with pytest.raises(TrustError):
            poise.load(run.path, env="CartPole-v1").train()
    (folder / "x.json").write_text(
        json.dumps({"run": "PPO", "env": "CartPole-v1", "config": {"wrappers": ["os:system"]}})
    )
    assert "names the wrapper 'os:system'" in call("train", "--config", "x.json").output
    assert "is no wrapper" in call("train", "--config", "x.json", "--trust").output
    (folder / "ppo.yml").write_text(
        "CartPole-v1:\n  env_wrapper: evil_wrapper.Wrapper\n  callback: evil_wrapper.Callback\n"
    )
    with pytest.warns(UserWarning, match="evil_wrapper.Wrapper"):
        poise.PPO("CartPole-v1", preset="ppo.yml")
    assert not (folder / "imported").exists()
    assert not (folder / "owned").exists()


def test_messages_about_spaces_name_the_wrapper_that_helps() -> None:
    box = spaces.Box(-1, 1, (2,), np.float32)
    with pytest.raises(
        SpaceError, match=r"minigrid.wrappers:ImgObsWrapper, or minigrid.wrappers:FlatObsWrapper"
    ):
        Layout(spaces.Dict(image=box, direction=spaces.Discrete(4), mission=spaces.Text(9)))
    with pytest.raises(SpaceError) as caught:
        Layout(spaces.Dict(eye=box, words=spaces.Text(9)))
    text = str(caught.value).partition("--wrap '")[2].removesuffix("'.")

    class Talking(gymnasium.Env):
        observation_space, action_space = (
            spaces.Dict(eye=box, words=spaces.Text(9)),
            spaces.Discrete(2),
        )

    made = poise.make_env(lambda config: Talking(), {"wrappers": [json.loads(text)]})
    assert Layout(made.observation_space).leaves[0].name == "eye"
