"""What a script registers or changes reaches its processes, or they say by name what they lack."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from click.testing import CliRunner, Result

import poise
from poise.algorithms import ppo
from poise.algorithms.ppo import PPO
from poise.cli.main import poise as command
from poise.config import presets
from poise.config.algorithms import ALGORITHMS
from poise.config.registry import find_algorithm
from poise.envs import make, trust
from poise.envs.changes import changes
from poise.learning import learner, losses
from poise.models import catalog
from poise.stepping import inline

TINY: dict[str, Any] = {
    "env": "CartPole-v1",
    "num_envs_per_worker": 2,
    "rollout_fragment_length": 16,
    "num_sgd_iter": 1,
    "model": {"fcnet_hiddens": [4]},
}
STOP = {"timesteps_total": 64}


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registries: None) -> None:
    monkeypatch.chdir(tmp_path)


def seed_of(algorithm: str, **settings: Any) -> dict[str, Any]:
    """The result of one seed, trained in a process of its own."""
    found = poise.run_seeds(
        algorithm,
        seeds=1,
        config={**TINY, **settings},
        preset=None,
        stop=STOP,
        quiet=True,
        tensorboard=False,
    )
    assert not found.errors, found.errors
    return found.results[0]


def trial_of(algorithm: str, **settings: Any) -> dict[str, Any]:
    """The result of a search's only trial."""
    config = {**TINY, "lr": poise.tune.uniform(1e-4, 1e-3), **settings}
    analysis = poise.tune.run(
        algorithm, config=config, preset=None, stop=STOP, quiet=True, tensorboard=False
    )
    [trial] = analysis.study.trials
    assert not trial.error, trial.error
    return trial.result


def marked(kind: type) -> Any:
    """An `iteration` that says that it ran."""
    original = kind.iteration

    def iteration(self: Any, samplers: Any) -> dict[str, float]:
        return {**original(self, samplers), "mine": 1.0}

    return iteration


def test_nothing_is_changed_where_nobody_has_changed_anything() -> None:
    for name in ALGORITHMS:
        find_algorithm(name)
    assert changes() == []


@pytest.mark.slow
@pytest.mark.parametrize("train", [seed_of, trial_of])
def test_a_patched_method_travels(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PPO, "iteration", marked(PPO))
    monkeypatch.setattr(PPO, "note", "of mine", raising=False)
    assert [str(change) for change in changes()] == [
        "poise.algorithms.ppo.PPO.iteration",
        "poise.algorithms.ppo.PPO.note",
    ]
    assert train("PPO")["learner/mine"] == 1.0


@pytest.mark.parametrize("train", [seed_of, trial_of])
def test_a_class_in_the_place_of_its_own_base_cannot_travel(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(PPO):
        pass

    monkeypatch.setattr(ppo, "PPO", Mine)
    with pytest.raises(
        poise.RunError,
        match=r"poise.algorithms.ppo.PPO is replaced by .*Mine.*poise.register_algorithm",
    ):
        train("PPO")


def test_a_function_of_the_mathematics_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(
        name
        for name, value in vars(ppo).items()
        if getattr(value, "__module__", "") == losses.__name__
    )
    original = getattr(ppo, name)

    def loss(*args: Any, **options: Any) -> Any:
        raise poise.PoiseError("The loss of the script was called.") from None

    monkeypatch.setattr(ppo, name, loss)
    assert callable(original)
    with pytest.raises(poise.RunError, match="The loss of the script was called"):
        seed_of("PPO")


@pytest.mark.slow
@pytest.mark.parametrize("train", [seed_of, trial_of])
def test_a_registered_algorithm_travels(train: Any) -> None:
    class Marked(PPO):
        iteration = marked(PPO)

    poise.register_algorithm("Marked", Marked)
    assert train("Marked")["learner/mine"] == 1.0
    assert poise.make_trainer("marked", "CartPole-v1").train()["learner/mine"] == 1.0


def test_registering_says_what_is_wrong() -> None:
    class Marked(PPO):
        pass

    with pytest.raises(
        poise.ConfigError, match="name='ppo' is not allowed: Poise has an algorithm"
    ):
        poise.register_algorithm("ppo", Marked)
    with pytest.raises(poise.ConfigError, match="must be a class derived from an algorithm"):
        poise.register_algorithm("x", int)  # type: ignore[arg-type]
    with pytest.raises(poise.ConfigError, match="There is no algorithm 'Marked'"):
        poise.make_trainer("Marked", "CartPole-v1")


@pytest.mark.slow
@pytest.mark.parametrize("train", [seed_of, trial_of])
def test_an_id_that_a_script_registers_with_gymnasium_travels(train: Any) -> None:
    class Mine(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return self.observation_space.sample() * 0, {}

        def step(self, action: Any) -> Any:
            return self.observation_space.sample() * 0, 7.0, True, False, {}

    gymnasium.register("TravelsFar-v0", Mine)
    try:
        assert train("PPO", env="TravelsFar-v0")["episode_reward_mean"] == 7.0
    finally:
        del gymnasium.registry["TravelsFar-v0"]


def test_a_run_remembers_what_was_changed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(PPO, "iteration", marked(PPO))
        run = poise.run("PPO", config=TINY, preset=None, stop=STOP, tensorboard=False)
        assert "poise.algorithms.ppo.PPO.iteration is the script's own." in capsys.readouterr().out
        poise.load(run.path)
    with pytest.warns(
        UserWarning, match=r"trained with poise.algorithms.ppo.PPO.iteration changed by its script"
    ):
        poise.load(run.path)
    poise.resume(run.path, stop={"timesteps_total": 128})
    assert "what is trained now is Poise's own" in capsys.readouterr().out


def test_constants_and_presets_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "MAX_SKIPPED", 3)
    monkeypatch.setitem(
        presets.PRESETS["PPO"], "CartPole-v1", {"lr": 0.125, "num_envs_per_worker": 2}
    )
    kept = {"seeds": 1, "stop": STOP, "quiet": True, "tensorboard": False}
    found = poise.run_seeds("PPO", "CartPole-v1", callbacks=[Constants()], **kept)
    config = json.loads((found.runs[0] / "config.json").read_text())["config"]
    assert (config["lr"], found.results[0]["learner/most"]) == (0.125, 3)


class Constants(poise.Callback):
    def on_iteration(self, trainer: Any, result: dict[str, Any]) -> None:
        result["learner/most"] = sys.modules["poise.learning.learner"].MAX_SKIPPED


def test_a_worker_steps_with_the_constants_of_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline, "LARGEST", 1e-3)

    def creator(config: Any) -> Any:
        made = gymnasium.make("CartPole-v1")
        made.metadata = {**made.metadata, "largest": sys.modules["poise.stepping.inline"].LARGEST}
        return made

    with poise.make_trainer(
        "PPO", creator, num_workers=1, num_envs_per_worker=1, preset=None, progress=False
    ) as algo:
        assert algo.get_env_attr("metadata")[0]["largest"] == 1e-3


# --- names of modules -----------------------------------------------------------------------------

MODULE = """
import gymnasium
import torch


class Maze(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, config):
        self.reward = config.get("reward", 1.0)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample() * 0, {}

    def step(self, action):
        return self.observation_space.sample() * 0, self.reward, True, False, {}


class Net(torch.nn.Module):
    def __init__(self, space, outputs):
        super().__init__()
        self.layer = torch.nn.Linear(2, outputs + 1)

    def forward(self, obs):
        x = self.layer(obs)
        return x[:, :-1], x[:, -1]


class Half:
    def __init__(self, space):
        self.space = space

    def transform(self, obs):
        return obs / 2
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of a user's, where the user stands."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"mine_{os.urandom(4).hex()}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    yield name
    sys.modules.pop(name, None)


def call(*args: str) -> Result:
    return CliRunner().invoke(command, list(args), prog_name="poise")


def in_another_process(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets all that only this process knows."""
    sys.modules.pop(module, None)
    monkeypatch.setattr(make, "_creators", {})
    monkeypatch.setattr(catalog, "_models", {})
    monkeypatch.setattr(catalog, "_preprocessors", {})
    trust._granted.clear()


@pytest.mark.parametrize("registered", [True, False])
def test_commands_find_what_a_run_was_trained_with(
    module: str, registered: bool, monkeypatch: pytest.MonkeyPatch, registries: None
) -> None:
    own = importlib.import_module(module)
    if registered:
        poise.register_env("maze", own.Maze)
        poise.register_model("net", own.Net)
        poise.register_preprocessor("half", own.Half)
    env, model, half = (
        ("maze", "net", "half")
        if registered
        else (f"{module}:{n}" for n in ("Maze", "Net", "Half"))
    )
    settings = {**TINY, "env": env, "model": {"custom_model": model, "custom_preprocessor": half}}
    run = poise.run(
        "PPO", config=settings, preset=None, stop=STOP, quiet=True, tensorboard=False, name="r"
    )
    run.trainer.close()
    in_another_process(module, monkeypatch)
    for args in (
        ["evaluate", "r", "--episodes", "1"],
        ["resume", "r", "--stop", "timesteps_total=128", "--quiet"],
    ):
        result = call(*args)
        assert result.exit_code == 0, result.output


def test_models_of_modules_train_from_the_command(module: str) -> None:
    args = [
        "--model.custom_model",
        f"{module}:Net",
        "--model.custom_preprocessor",
        f"{module}:Half",
        "--quiet",
    ]
    train = [
        "train",
        "PPO",
        "--env",
        f"{module}:Maze",
        "--preset",
        "none",
        "--stop",
        "timesteps_total=64",
        *args,
    ]
    result = call(*train, "--num_envs", "2", "--n_steps", "16")
    assert result.exit_code == 0, result.output
    assert (
        "has no 'Nett'. Did you mean 'Net'?"
        in call(*train, "--model.custom_model", f"{module}:Nett").output
    )
    assert (
        "is no model: such a class has forward"
        in call(*train, "--model.custom_model", f"{module}:Half").output
    )


@pytest.mark.slow
@pytest.mark.parametrize("registered", [True, False])
def test_a_study_of_a_modules_environment_goes_on_from_the_command(
    module: str, registered: bool, monkeypatch: pytest.MonkeyPatch, registries: None
) -> None:
    own = importlib.import_module(module)
    poise.register_env("maze", own.Maze)
    config = {
        **TINY,
        "env": "maze" if registered else own.Maze,
        "lr": poise.tune.uniform(1e-4, 1e-3),
    }
    study = poise.tune.run(
        "PPO",
        config=config,
        preset=None,
        stop=STOP,
        quiet=True,
        tensorboard=False,
        experiment="s",
        parallel=1,
    )
    assert json.loads((study.path / "study.json").read_text())["config"]["env"] == f"{module}:Maze"
    in_another_process(module, monkeypatch)
    result = call("tune", "--resume", "runs/s", "--trials", "2", "--quiet", "--parallel", "1")
    assert result.exit_code == 0, result.output
    assert [trial.state for trial in poise.tune.load("runs/s").study.trials] == [
        "finished",
        "finished",
    ]
