"""An algorithm of one's own is one file and one call, and everything knows it.

It may be in a script or in an installed package.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

import poise
from poise.algorithms.a2c import A2C
from poise.algorithms.base import Algorithm
from poise.algorithms.ppo import PPO
from poise.cli.main import poise as command
from poise.config.a2c import A2CConfig
from poise.config.algorithms import ALGORITHMS
from poise.config.base import AlgorithmConfig
from poise.config.presets import PRESETS, SPACES
from poise.envs import trust
from poise.tuning.space import Choice, Number
from poise.tuning.spaces import default_space
from test_docs import script

SETTINGS = """
from __future__ import annotations

from dataclasses import dataclass

import poise
from poise.config.a2c import A2CConfig
from poise.config.algorithms import ALGORITHMS


@dataclass
class SteadyConfig(A2CConfig):
    \"""A2C that takes a part of each step.\"""

    steadiness: float = 0.5
    \"""The part.\"""


def register():
    poise.register_algorithm(
        "Steady", "MODULE_learner:Steady", SteadyConfig, "A2C in smaller steps",
        presets={"CartPole-v1": {"learning_rate": 0.002, "steadiness": 0.25,
                                 "model": {"fcnet_hiddens": [8]}}},
        search_space={"lr": "loguniform(1e-4, 1e-2)", "steadiness": "choice([0.25, 0.5])"},
    )


register()
"""
LEARNER = """
from poise.algorithms.a2c import A2C


class Steady(A2C):
    def iteration(self, samplers):
        return {**super().iteration(samplers), "steadiness": self.config.steadiness}

    def descend(self, loss, lr):
        return super().descend(loss, lr * self.config.steadiness)
"""
TINY = {"num_envs": 2, "timesteps_per_iteration": 0}
STOP = {"timesteps_total": 100}
QUIET: dict[str, Any] = {"quiet": True, "tensorboard": False}
FLAGS = ["--num_envs", "2", "--timesteps_per_iteration", "0", "--no-tensorboard"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registries: None) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Two files beside each other, and the name of the one that registers."""
    folder, name = tmp_path / "site", f"steady_{os.urandom(4).hex()}"
    folder.mkdir()
    (folder / f"{name}.py").write_text(SETTINGS.replace("MODULE", name))
    (folder / f"{name}_learner.py").write_text(LEARNER)
    monkeypatch.syspath_prepend(str(folder))
    yield name
    for each in (name, f"{name}_learner"):
        sys.modules.pop(each, None)


def install(folder: Path, entry: str, name: str = "Steady") -> None:
    """Makes a folder look like one with an installed package that has the entry point."""
    info = folder / f"{name.lower()}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.lower()}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[poise.algorithms]\n{name} = {entry}\n")


def call(*args: str) -> Result:
    return CliRunner().invoke(command, list(args), prog_name="poise")


def good(*args: str) -> str:
    done = call(*args)
    assert done.exit_code == 0, done.output
    return done.output


def completed(*words: str) -> list[str]:
    """What the shell offers for the last of the words."""
    found = ShellComplete(command, {}, "poise", "_POISE_COMPLETE").get_completions(
        list(words[:-1]), words[-1]
    )
    return [item.value for item in found]


def test_one_call_is_enough_in_python(module: str) -> None:
    importlib.import_module(module)
    assert "Steady" in dir(poise)
    assert "steadiness" in inspect.signature(poise.Steady).parameters
    assert f"{module}_learner" not in sys.modules  # PyTorch's part, which nobody needed so far
    with poise.Steady("CartPole-v1", progress=False, seed=0, **TINY) as algo:
        assert (algo.config.lr, algo.config.steadiness, algo.config.model.fcnet_hiddens) == (
            0.002,
            0.25,
            [8],
        )
        assert algo.train()["learner/steadiness"] == 0.25
        algo.save("kept")
        with poise.load("kept", progress=False) as again:
            algo.train()
            again.train()
            assert type(again.algorithm).__name__ == "Steady"
            assert [p.tolist() for p in again.policy.parameters()] == [
                p.tolist() for p in algo.policy.parameters()
            ]
    run = poise.run("steady", "CartPole-v1", stop=STOP, steadiness=0.125, **TINY, **QUIET)
    run.trainer.close()
    assert json.loads((run.path / "config.json").read_text())["algorithm"] == "Steady"
    again = poise.resume(run.path, stop={"timesteps_total": 200}, quiet=True)
    again.trainer.close()
    assert again.result["learner/steadiness"] == 0.125


def test_one_call_is_enough_for_the_command(module: str) -> None:
    importlib.import_module(module)
    text = good("algorithms")
    assert "A2C in smaller steps" in text
    assert "presets of Steady\nCartPole-v1\n" in text
    text = good("config", "steady", "--env", "CartPole-v1")
    assert "Settings of Steady" in text
    assert "steadiness" in text
    assert "0.25*" in text
    assert "--steadiness NUMBER" in good("train", "Steady", "--help")
    assert completed("train", "St") == completed("config", "st") == ["Steady"]
    assert "--steadiness" in completed("train", "Steady", "--stea")
    good(
        "train",
        "steady",
        "CartPole-v1",
        "--steadiness",
        "0.75",
        "--stop",
        "timesteps_total=100",
        "--name",
        "r",
        *FLAGS,
    )
    assert "steadiness" in (Path("runs") / "Steady_CartPole-v1" / "r" / "config.json").read_text()
    good("resume", "r", "--stop", "timesteps_total=200", "--quiet")
    assert (
        "Did you mean '--steadiness'"
        in call("train", "Steady", "CartPole-v1", "--steadines", "1").output
    )
    assert (
        "PPO has no setting --steadiness; Steady has"
        in call("train", "PPO", "--steadiness", "1").output
    )


def test_one_call_is_enough_for_the_documentation(module: str) -> None:
    importlib.import_module(module)
    generate = script("generate")
    assert "| `steadiness` | `0.5` | The part. |" in generate.render(
        "<!-- generated: settings Steady -->\n<!-- end generated -->"
    )
    assert "`learning_rate=0.002`" in generate.presets("Steady")
    assert "A2C in smaller steps" in generate.algorithm_table()


@pytest.mark.slow
def test_one_call_is_enough_for_a_search(module: str) -> None:
    importlib.import_module(module)
    done = good(
        "tune",
        "Steady",
        "CartPole-v1",
        "--trials",
        "2",
        "--stop",
        "timesteps_total=100",
        "--parallel",
        "1",
        *FLAGS,
    )
    assert "says nothing" not in done
    analysis = poise.tune.load("runs/tune_Steady_CartPole-v1")
    assert {tuple(trial.params) for trial in analysis.trials} == {("lr", "steadiness")}
    assert all(t.result["learner/steadiness"] == t.params["steadiness"] for t in analysis.trials)


def test_what_an_algorithm_does_not_say_is_searched_as_its_parent_is() -> None:
    class Half(A2C):
        pass

    class Own(Algorithm):
        def iteration(self, samplers: Any) -> dict[str, float]:
            return {}

    poise.register_algorithm("Half", Half)
    space, sentence = default_space("half")
    assert space.keys() == SPACES["A2C"].keys()
    assert sentence.startswith(
        "Half says nothing of what to search, so that it is what A2C searches: lr, gamma"
    )
    assert PRESETS["Half"] == {}
    poise.register_algorithm("Own", Own, AlgorithmConfig)
    space, sentence = default_space("Own")
    assert (
        sentence
        == "Own says nothing of what to search: lr, gamma, model.fcnet_hiddens are searched."
    )
    assert isinstance(space["lr"], Number)
    assert (space["lr"].low, space["lr"].high, space["lr"].log) == (
        pytest.approx(3e-5),
        pytest.approx(3e-3),
        True,
    )
    assert isinstance(space["gamma"], Choice)


def test_searches_are_texts_in_python_too() -> None:
    config = {"env": "CartPole-v1", "lr": "loguniform(1e-4, 1e-2)", "gama": 1}
    with pytest.raises(poise.ConfigError, match="Did you mean 'gamma'"):
        poise.tune.run("PPO", config=config)
    with pytest.raises(
        poise.ConfigError, match=r"'unifrom\(0, 1\)' is no search. Did you mean 'uniform'"
    ):
        poise.tune.run("PPO", config={"env": "CartPole-v1", "gamma": "unifrom(0, 1)"})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("Mine", int), "must be a class derived from an algorithm"),
        (("Mine", "no_colon"), "must be a class derived from an algorithm"),
        (("a2c", A2C), "Poise has an algorithm of this name"),
        (("Trainer", A2C), "poise.Trainer is something else"),
        (("--mine", A2C), "letters first"),
        (("", A2C), "letters first"),
        (("Mine", A2C, dict), "must be a @dataclass derived from AlgorithmConfig"),
        (("Mine", A2C, A2CConfig()), "must be a @dataclass derived from AlgorithmConfig"),
        (
            ("Mine", A2C, type("Bare", (A2CConfig,), {})),
            "must be a @dataclass derived from AlgorithmConfig",
        ),
    ],
)
def test_registering_answers_with_a_sentence(arguments: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(poise.ConfigError, match=sentence):
        poise.register_algorithm(*arguments)


def test_presets_that_cannot_be_used_are_named() -> None:
    for presets in ({"X-v0": 3}, {"X-v0": {"env_config": {"f": print}}}):
        with pytest.raises(poise.ConfigError, match="preset"):
            poise.register_algorithm("Mine", PPO, presets=presets)  # type: ignore[dict-item]
    poise.register_algorithm("Mine", PPO, presets={"CartPole-v1": {"gama": 0.9}})
    with pytest.raises(
        poise.ConfigError, match=r"Unknown config key 'gama'\. Did you mean 'gamma'"
    ):
        poise.make_trainer("Mine", "CartPole-v1")


def test_registering_again_replaces(module: str) -> None:
    poise.register_algorithm("Twice", A2C, summary="first", presets={"CartPole-v1": {"lr": 0.5}})
    first = poise.Twice
    assert poise.Twice is first
    poise.register_algorithm("TWICE", PPO, summary="second")
    assert "second" in good("algorithms")
    assert "first" not in good("algorithms")
    assert "clip_param" in inspect.signature(poise.TWICE).parameters
    with pytest.raises(AttributeError, match="Did you mean 'TWICE'"):
        poise.Twice  # noqa: B018


def test_a_configuration_of_a_script_takes_its_types_along(module: str) -> None:
    assert importlib.import_module(module).SteadyConfig.__annotations__ == {"steadiness": float}


def forget(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process knows nothing of what this one has registered."""
    for table in (ALGORITHMS, PRESETS, SPACES):
        del table["Steady"]  # type: ignore[attr-defined]
    sys.modules.pop(module)
    trust._granted.clear()


def test_another_process_goes_on_with_a_run_of_a_module_that_this_machine_knows(
    module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    importlib.import_module(module)
    poise.run("steady", "CartPole-v1", name="r", stop=STOP, **TINY, **QUIET).trainer.close()
    forget(module, monkeypatch)
    good("evaluate", "r", "--episodes", "1")
    forget(module, monkeypatch)
    for args in (["--steadiness", "0.125", "r"], ["r", "--steadiness", "0.25"]):
        good("resume", *args, "--stop", "timesteps_total=200", "--quiet")
        forget(module, monkeypatch)
    importlib.import_module(module)
    forget(module, monkeypatch)
    monkeypatch.setenv("POISE_HOME", str(tmp_path / "another machine"))
    for args in (
        ["resume", "r", "--stop", "timesteps_total=300"],
        ["evaluate", "r", "--episodes", "1"],
    ):
        done = call(*args)
        assert (done.exit_code, module in sys.modules) == (2, False)
        assert (
            f"names the algorithm '{module}:SteadyConfig', which this machine has not used before"
            in done.output
        )
        assert "or register an algorithm under this name" in done.output
    good("evaluate", "r", "--episodes", "1", "--trust")


def test_a_run_of_an_algorithm_that_nobody_knows_says_what_to_do() -> None:
    class Local(A2C):
        pass

    poise.register_algorithm("Local", Local)
    poise.run("Local", "CartPole-v1", name="r", stop=STOP, **TINY, **QUIET).trainer.close()
    for table in (ALGORITHMS, PRESETS, SPACES):
        del table["Local"]  # type: ignore[attr-defined]
    for args in (["resume", "r"], ["evaluate", "r"]):
        sentence = (
            "is of 'Local', and there is no algorithm of this name. If it is one of your own, "
            "go on in the script"
        )
        assert sentence in call(*args).output


@pytest.mark.slow
def test_another_process_goes_on_with_a_search(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    importlib.import_module(module)
    config = {"env": "CartPole-v1", "steadiness": "choice([0.25, 0.5])", **TINY}
    poise.tune.run("Steady", config=config, stop=STOP, experiment="s", parallel=1, **QUIET)
    forget(module, monkeypatch)
    good("tune", "--resume", "runs/s", "--trials", "2", "--quiet", "--parallel", "1")
    assert [trial.state for trial in poise.tune.load("runs/s").trials] == ["finished", "finished"]


# --- installed packages ---------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["{}:register", "{}"])
def test_an_installed_package_brings_its_algorithm_when_it_is_asked_for(
    entry: str, module: str, tmp_path: Path
) -> None:
    install(tmp_path / "site", entry.format(module))
    assert "Steady" in dir(poise)
    assert completed("train", "St") == ["Steady"]
    good("--help")
    good("train", "PPO", "--help")
    assert module not in sys.modules
    assert f"Known: {', '.join(ALGORITHMS)}, Steady." in call("config", "Nothing").output
    assert module not in sys.modules
    text = good(
        "train",
        "steady",
        "CartPole-v1",
        "--steadiness",
        "0.75",
        "--stop",
        "timesteps_total=60",
        "--name",
        "r",
        *FLAGS,
    )
    assert "Steady" in text


def test_an_installed_algorithm_is_an_attribute_and_listed(module: str, tmp_path: Path) -> None:
    install(tmp_path / "site", f"{module}:register")
    assert "steadiness" in inspect.signature(poise.Steady).parameters
    assert "A2C in smaller steps" in good("algorithms")


def test_a_package_that_cannot_be_used_is_named_and_hinders_nothing(
    module: str, tmp_path: Path
) -> None:
    install(tmp_path / "site", f"{module}:register")
    install(tmp_path / "site", "no_such_module_at_all", "Broken")
    install(tmp_path / "site", "json", "Silent")
    text = " ".join(good("algorithms").split())
    assert "A2C in smaller steps" in text
    why = "no_such_module_at_all (ModuleNotFoundError: No module named 'no_such_module_at_all')"
    assert f"The algorithm Broken is of an installed package that cannot be used: {why}." in text
    assert (
        "The algorithm Silent is of an installed package that has none of this name: json." in text
    )
    assert why in call("train", "broken", "CartPole-v1").output
    assert not hasattr(poise, "Broken")
    with pytest.raises(poise.ConfigError, match="no_such_module_at_all"):
        poise.make_trainer("Broken", "CartPole-v1")


def test_what_lies_where_the_user_stands_is_not_installed(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(os.getcwd())
    install(Path.cwd(), f"{module}:register")
    assert "Steady" not in dir(poise)
    assert "There is no algorithm 'Steady'" in call("train", "Steady", "CartPole-v1").output
