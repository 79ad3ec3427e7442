"""The command `poise`, as a person meets it: what it answers, what it leaves, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

import warm
from poise.cli import inputs
from poise.cli.main import COMMANDS, poise
from poise.config.algorithms import ALGORITHMS
from poise.config.docs import field_docs
from poise.config.ppo import PPOConfig
from poise.config.presets import PRESETS
from poise.config.resolve import field_types
from poise.config.run import RunOptions
from poise.errors import ConfigError, PoiseWarning
from poise.tracking.find import all_runs
from poise.tracking.folder import RunFolder
from poise.training import checkpoint

QUICK = ["--env", "CartPole-v1", "--seed", "1", "--no-tensorboard"]
FEW_STEPS = [*QUICK, "--stop", "timesteps_total=2000"]


started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every test types its commands in an empty folder, and leaves no process behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    yield tmp_path
    while started:
        started.pop().kill()


def call(*args: str) -> Result:
    return CliRunner().invoke(poise, list(args), prog_name="poise")


def good(*args: str) -> str:
    """What a command prints that must succeed."""
    result = call(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


def bad(*args: str) -> str:
    """The one sentence that a command ends with that must fail."""
    result = call(*args)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: ")
    return lines[0]


def process(*args: str, **options: Any) -> subprocess.Popen[str]:
    """The command in a process of its own.

    It does not import from the folder that it runs in by itself.
    """
    env = {**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env}
    started.append(warm.Popen([sys.executable, "-m", "poise", *args], **{**streams, **options}))
    return started[-1]


def only_run() -> RunFolder:
    [run] = all_runs("runs")
    return run


# --- starting at once -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "heavy"),
    [
        (["--help"], ["torch", "gymnasium", "numpy", "rich", "yaml", "poise.cli.train"]),
        (["train", "--help"], ["torch", "gymnasium", "numpy", "rich"]),
        (["train", "PPO", "--help"], ["torch", "gymnasium", "numpy", "rich"]),
        (["train", "PPO", "--env", "CartPole-v1", "--lrr", "1"], ["torch", "gymnasium"]),
        (["train", "PPO", "--env", "CartPole-v1", "--lr", "fast"], ["torch", "gymnasium"]),
        (["config", "PPO"], ["torch", "gymnasium"]),
        (["algorithms"], ["torch", "gymnasium"]),
        (["runs"], ["torch", "gymnasium"]),
        (["resume", "--help"], ["torch", "gymnasium"]),
        (["plot", "nowhere"], ["torch", "gymnasium", "matplotlib"]),
    ],
    ids=" ".join,
)
def test_answers_without_importing_what_is_heavy(args: list[str], heavy: list[str]) -> None:
    script = f"""
import os, sys
from poise.cli.main import main
sys.argv, os._exit = ["poise", *{args}], sys.exit
try:
    main()
except SystemExit:
    pass
print("IMPORTED", [name for name in {heavy} if name in sys.modules])
"""
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "IMPORTED []" in out.stdout


def test_the_lines_in_the_help_are_the_commands_own() -> None:
    for name, (_, line) in COMMANDS.items():
        command = poise.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert (command.help or "").splitlines()[0] == line
        assert line in good("--help")


def test_python_m_poise_is_the_command() -> None:
    out, _ = process("--version").communicate()
    assert out.startswith("poise, version ")


# --- help and documentation from the dataclasses --------------------------------------------------


@pytest.mark.parametrize("config", [*(spec.config for spec in ALGORITHMS.values()), RunOptions])
def test_every_setting_is_documented(config: type) -> None:
    assert set(field_docs(config)) == set(field_types(config))


def test_docs_are_inherited_and_overridden() -> None:
    docs = field_docs(ALGORITHMS["A2C"].config)
    assert docs["gamma"] == "Discount factor."
    assert docs["gae_lambda"] != field_docs(PPOConfig)["gae_lambda"]
    assert docs["model.vf_share_layers"].startswith("Whether")


def test_help_of_an_algorithm_lists_its_flags_with_type_and_default() -> None:
    text = " ".join(good("train", "PPO", "--help").split())
    assert "--gae_lambda NUMBER" in text
    assert "[a number from 0 to 1; default: 0.95]" in text
    assert "--model.fcnet_hiddens LIST" in text
    assert "--checkpoint-freq INT" in text
    assert "--rms_prop_eps" not in text
    assert "--rms_prop_eps" in good("train", "--run=a2c", "--help")
    general = good("train", "--help")
    assert "--gae_lambda" not in general
    assert "poise train PPO --help" in general


@pytest.mark.parametrize("columns", ["80", "160"])
def test_config_explains_every_setting(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = good("config", "ppo")
    assert all(key in text for key in field_types(PPOConfig))
    assert "[timestep, value]" in text  # is not taken for rich's markup
    assert "lambda_" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= int(columns)


def test_config_marks_what_comes_from_the_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "PPO", {"CartPole-v1": {"lr": 1e-3}})
    text = good("config", "PPO", "--env", "CartPole-v1")
    assert re.search(r"lr +0\.001\*", text)
    assert "from the preset CartPole-v1" in text
    data = json.loads(good("config", "PPO", "--env", "CartPole-v1", "--json"))
    assert data["preset"] == "CartPole-v1"
    lr = data["settings"]["lr"]
    assert (lr["value"], lr["default"], lr["from_preset"]) == (1e-3, 3e-4, True)
    assert "learning_rate" in lr["aliases"]
    assert not data["settings"]["gamma"]["from_preset"]
    text = good("algorithms")
    assert "CartPole-v1" in text
    assert all(name in text and spec.summary in text for name, spec in ALGORITHMS.items())


# --- training -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_training_to_a_film() -> None:
    """The first ten minutes of a newcomer."""
    assert "There are no runs" in good("runs")
    text = good(
        "train",
        "PPO",
        *FEW_STEPS,
        "--lr",
        "3e-4",
        "--model.fcnet_hiddens",
        "32,32",
        "--name",
        "first",
    )
    run = only_run()
    assert run.path == Path("runs/PPO_CartPole-v1/first")
    assert f"poise evaluate {run.path}" in text
    saved = run.config()
    assert saved["config"]["model"]["fcnet_hiddens"] == [32, 32]
    assert saved["stop"] == {"timesteps_total": 2000}

    numbers = json.loads(good("evaluate", "first", "--episodes", "5", "--json"))
    assert numbers["episodes"] == 5
    assert (
        numbers["episode_reward_min"]
        <= numbers["episode_reward_mean"]
        <= numbers["episode_reward_max"]
    )
    text = good("evaluate", "latest", "--episodes", "5", "--checkpoint", "best")
    assert all(word in text for word in ("mean", "std", "min", "max", "length"))
    again = json.loads(good("evaluate", numbers["checkpoint"], "--episodes", "5", "--json"))
    assert again == numbers

    assert "000" in good("record", "latest")
    assert [film.suffix for film in (run.path / "videos").iterdir()] == [".mp4"]
    good("record", "first", "--out", "film.mp4", "--seed", "3")
    assert Path("film.mp4").stat().st_size > 1000
    good("plot", "first")
    assert (run.path / "plots" / "episodes.png").read_bytes().startswith(b"\x89PNG")

    steps = json.loads(good("runs", "--json"))[0]["steps"]
    text = good("resume", "first")
    assert "It was there already" in text
    good("resume", "first", "--stop", f"timesteps_total={steps + 1}")
    [row] = json.loads(good("runs", "--json"))
    assert row["steps"] > steps
    assert (row["run"], row["algorithm"], row["state"]) == ("first", "PPO", "finished")
    assert "CartPole-v1" in good("runs")


def test_rllib_spelling() -> None:
    stop, config = (
        '{"timesteps_total": 500}',
        '{"num_workers": 0, "lambda": 0.9, "timesteps_per_iteration": 0}',
    )
    good("train", "--run=A2C", "--env=CartPole-v0", "--stop", stop, "--config", config, "--quiet")
    saved = only_run().config()
    assert (saved["algorithm"], saved["config"]["env"], saved["config"]["gae_lambda"]) == (
        "A2C",
        "CartPole-v0",
        0.9,
    )


def test_where_nothing_was_saved_there_is_nothing_to_go_on_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from poise.tracking import launch

    folder = RunFolder(tmp_path / "run")
    done = SimpleNamespace(
        path=folder.path, folder=folder, result={"stop_reason": "done"}, unsaved="The disk is full."
    )
    monkeypatch.setattr(launch, "start", lambda *args, **settings: done)
    result = call("train", "PPO", *FEW_STEPS)
    assert (result.exit_code, "poise resume" in result.output) == (2, False)
    (folder.checkpoints / "000001").mkdir(parents=True)
    assert "poise resume" in call("train", "PPO", *FEW_STEPS).output


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `poise train` asks of the library, instead of training."""
    from poise.tracking import launch

    request: dict[str, Any] = {}

    class Done:
        path, result, unsaved = Path("runs/x/y"), {"stop_reason": "done"}, None

    def start(algorithm: str, env: Any, settings: dict[str, Any], **others: Any) -> Any:
        request.update(algorithm=algorithm, settings=settings, **others)
        return Done

    monkeypatch.setattr(launch, "start", start)
    return request


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--gae-lambda", "0.5"], {"gae_lambda": 0.5}),
        (["--gae_lambda=0.5"], {"gae_lambda": 0.5}),
        (["--lambda", "0.5"], {"gae_lambda": 0.5}),
        (["--learning-rate", "1e-3"], {"lr": 1e-3}),
        (["--lr", "[[0, 1e-3], [1e5, 0]]"], {"lr": [[0, 1e-3], [1e5, 0]]}),
        (["--grad_clip", "null"], {"grad_clip": None}),
        (["--model.fcnet_hiddens", "64"], {"model.fcnet_hiddens": [64]}),
        (["--model.net_arch", "[]"], {"model.fcnet_hiddens": []}),
        (["--model.fcnet-activation", "relu"], {"model.fcnet_activation": "relu"}),
        (["--normalize_observations"], {"normalize_observations": True}),
        (["--normalize_observations", "--lr", "1"], {"normalize_observations": True, "lr": 1}),
        (["--normalize-observations", "false"], {"normalize_observations": False}),
        (["--env_config", '{"max_episode_steps": 9}'], {"env_config": {"max_episode_steps": 9}}),
        (["--model.use_lstm", "true"], {"model.memory": "lstm"}),
        (["--model.use_lstm"], {"model.memory": "lstm"}),
        (["--model.use_lstm", "False"], {"model.memory": None}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_become_settings(
    args: list[str], expected: dict[str, Any], requested: dict[str, Any]
) -> None:
    good("train", *args, "--env", "CartPole-v1", "PPO")
    assert requested["settings"] == {"env": "CartPole-v1", **expected}


def test_options_of_the_run(requested: dict[str, Any]) -> None:
    good(
        "train",
        "PPO",
        *QUICK,
        "--video",
        "--checkpoint_freq",
        "3",
        "--checkpoint-interval-s",
        "1",
        "--preset",
        "none",
    )
    assert requested["options"] == RunOptions(1.0, 3, video=True, tensorboard=False)
    assert requested["preset"] is None
    assert requested["stop"] is None
    assert signal.SIGTERM in requested["signals"]
    good(
        "train", "PPO", *QUICK, "--stop", "episode_reward_mean=475", "--stop", "timesteps_total=1e6"
    )
    assert requested["stop"] == {"episode_reward_mean": 475, "timesteps_total": 1e6}


EXPERIMENT = """
cartpole-a2c:
    run: A2C
    env: CartPole-v0
    stop:
        timesteps_total: 600
    config:
        lr: 1e-3
        lambda: 0.9
        model:
            fcnet_hiddens: [16]
"""


def test_flags_win_over_a_file_in_rllibs_layout(requested: dict[str, Any]) -> None:
    Path("experiment.yaml").write_text(EXPERIMENT)
    good("train", "--config", "experiment.yaml", "--gae-lambda", "0.8", "--rms_prop_eps", "1e-4")
    assert requested["algorithm"] == "A2C"
    assert requested["experiment"] == "cartpole-a2c"
    assert requested["stop"] == {"timesteps_total": 600}
    assert requested["settings"] == {
        "env": "CartPole-v0",
        "lr": 1e-3,
        "gae_lambda": 0.8,
        "model.fcnet_hiddens": [16],
        "rms_prop_eps": 1e-4,
    }
    good(
        "train",
        "PPO",
        "--config",
        "experiment.yaml",
        "--stop",
        "time_total_s=9",
        "--env",
        "CartPole-v1",
    )
    assert (requested["algorithm"], requested["stop"]) == ("PPO", {"time_total_s": 9})
    assert requested["settings"]["env"] == "CartPole-v1"


def test_a_file_may_be_a_plain_mapping(requested: dict[str, Any]) -> None:
    Path("settings.json").write_text('{"env": "CartPole-v1", "lr": 0.01}')
    good("train", "PPO", "--config", "settings.json")
    assert requested["settings"] == {"env": "CartPole-v1", "lr": 0.01}


@pytest.mark.slow
def test_an_environment_beside_the_user_is_found_and_named() -> None:
    Path("hallway.py").write_text(
        "from gymnasium.envs.classic_control import CartPoleEnv as Hallway\n"
    )
    args = [
        "--stop",
        "timesteps_total=500",
        "--env_config",
        '{"max_episode_steps": 50}',
        "--no-tensorboard",
    ]
    train = process("train", "PPO", "--env", "hallway:Hallway", *args)
    assert train.wait() == 0, train.communicate()
    out, err = process("evaluate", "latest", "--episodes", "2").communicate()
    assert "reward" in out
    assert "Importing hallway" in err


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["trian"], "There is no command 'trian'. Did you mean 'train'?"),
        (["train"], "for example poise train PPO --env CartPole-v1"),
        (["train", "PPO"], "--env CartPole-v1"),
        (["train", "PPPO", *QUICK], "Did you mean 'PPO'?"),
        (["train", "PPO", "--run", "A2C", *QUICK], "give only one of them"),
        (["train", "PPO", "A2C", *QUICK], "A2C"),
        (["train", "PPO", "--env", "CartPol-v1"], "Did you mean 'CartPole-v"),
        (["train", "PPO", "--env", "no_such_module:Env"], "no_such_module"),
        (["train", "PPO", *QUICK, "--lrr", "3"], "There is no flag --lrr. Did you mean '--lr'?"),
        (["train", "--lrr", "3", "PPO"], "Did you mean '--lr'?"),
        (["train", "PPO", "--fcnet-hiddens", "3"], "Did you mean '--model.fcnet_hiddens'?"),
        (["train", "PPO", "--fodler", "x"], "Did you mean '--folder'?"),
        (
            ["train", "A2C", "--clip_param", "0.1"],
            "A2C has no setting --clip_param; PPO and APPO have.",
        ),
        (["train", "PPO", *QUICK, "--lr", "fast"], "lr='fast' is not allowed"),
        (["train", "PPO", *QUICK, "--gamma", "1.5"], "a number from 0 to 1"),
        (["train", "PPO", *QUICK, "--normalize_observations", "perhaps"], "true or false"),
        (["train", "PPO", *QUICK, "--model.fcnet_activation", "rellu"], "Did you mean 'relu'?"),
        (
            ["train", "PPO", *QUICK, "--lambda", "0.9", "--gae_lambda", "0.8"],
            "two names of one setting",
        ),
        (
            ["train", "PPO", *QUICK, "--train_batch_size", "64", "--sgd_minibatch_size", "128"],
            "is larger than",
        ),
        (["train", "PPO", *QUICK, "--checkpoint-freq", "0"], "an integer at least 1"),
        (["train", "PPO", *QUICK, "--preset", "Pong"], "no preset 'Pong'"),
        (["train", "PPO", *QUICK, "--stop", "episode_reward_mean"], "write KEY=NUMBER"),
        (["train", "PPO", *QUICK, "--stop", "episode_reward_mean=high"], "must be a number"),
        (
            ["train", "PPO", *QUICK, "--stop", '{"episode_reward_mean": 475'],
            "--stop is not valid JSON",
        ),
        (["train", "PPO", *QUICK, "--config", '{"lr": }'], "--config is not valid JSON"),
        (
            ["train", "PPO", *QUICK, "--config", '{"learning_rte": 1}'],
            "Did you mean 'learning_rate'?",
        ),
        (["train", "PPO", *QUICK, "--config", "nowhere.yaml"], "There is no file nowhere.yaml"),
        (["train", "PPO", *QUICK, "--config", "lr=3"], "give a JSON object, or a .yaml"),
        (["config", "PPPO"], "Did you mean 'PPO'?"),
        (["evaluate"], "Missing argument 'RUN'"),
        (["evaluate", "nowhere"], "There is no run at nowhere"),
        (["evaluate", "nowhere", "--episodes", "0"], "--episodes"),
        (["record", "nowhere"], "There is no run at nowhere"),
        (["resume", "latest"], "There is no run in runs yet"),
        (["evaluate", "latest", "--folder", "empty"], "There is no run in empty yet"),
        (["evaluate", "."], ". is neither a run nor a checkpoint"),
        (
            ["train", "PPO", *QUICK, "--num-workers", "1000"],
            "num_workers=1000 is not allowed for 1000 environments on",
        ),
        (["train", "PPO", *QUICK, "--num_envs_per_worker", "1000000000"], "from 1 to 100000"),
        (["train", "PPO", *QUICK, "--lr", "[[5,1],[0,1]]"], "Its timesteps must rise."),
        (["train", "PPO", *QUICK, "--lr", "[[0,1],[5"], "lr='[[0,1],[5' is not allowed"),
        (["train", "PPO", *QUICK, "--model", "{}"], "write --model.KEY, or"),
        (["train", "PPO", *QUICK, "--env_config", "{bad"], "This is not valid JSON."),
        (
            ["train", "PPO", *QUICK, "--env_config", '{"lenght": 3}'],
            "CartPole-v1 knows no 'lenght'",
        ),
        (["train", "PPO", *QUICK, "--stop", "timesteps_total=-5"], "must be a number at least 0"),
        (
            ["train", "PPO", *QUICK, "--stop", "evaluation/episode_reward_mean=5"],
            "set evaluation_interval",
        ),
        (["train", "PPO", *QUICK, "--name", "../../x"], "name='../../x' is not allowed"),
        (["train", "PPO", *QUICK, "--name", ""], "name='' is not allowed"),
        (["train", "PPO", *QUICK, "--experiment", ".."], "experiment='..' is not allowed"),
        (["train", "PPO", *QUICK, "--folder", "/dev/null/x"], "cannot be written: Not a directory"),
        (["train", "PPO", "--env", ":Foo"], "env=':Foo' is not allowed: write module:Name"),
        (
            ["train", "PPO", "--env", "..foo:Bar"],
            "env='..foo:Bar' is not allowed: write module:Name",
        ),
        (
            ["train", "PPO", "--env", "InvertedDoublePendulum-v2"],
            "Did you mean 'InvertedDoublePendulum-v5'?",
        ),
        (["resume", "nowhere", "--stop", "x"], "write KEY=NUMBER"),
        (["plot", "nowhere"], "There is no run at nowhere"),
        (["completion"], "bash"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_answered_in_one_sentence(args: list[str], words: str) -> None:
    assert words in bad(*args)
    assert not all_runs("runs")


def test_a_mistyped_stop_key_suggests_the_right_one() -> None:
    assert "Did you mean 'episode_reward_mean'?" in bad(
        "train", "PPO", *QUICK, "--stop", "episode_reward_meen=9"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: {run: PPO}\nb: {run: A2C}", "2 experiments (a, b)"),
        ("run: PPO\nalgorithm: PPO", "two names of one thing"),
        ("run: PPO\nsamples: 3", "'samples' is not allowed"),
        ("run: PPO\nconfig: 3", "must be a mapping of settings"),
        ("run: PPO\nstop: 3", "must be a mapping of result keys"),
        ("run: PPO\nstop: {a: b}", "stop a='b' is not allowed"),
        ("run: PPO\nenv: A\nconfig: {env: B}", "leave one out"),
        ("- 1", "must be a mapping of settings"),
        ("{", "is not valid YAML"),
    ],
)
def test_files_of_another_shape_are_refused(text: str, words: str) -> None:
    Path("file.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(words)):
        inputs.read_experiment("file.yaml")


def test_a_run_in_use_is_refused_by_name() -> None:
    good("train", "PPO", *FEW_STEPS, "--name", "mine")
    run = only_run()
    run.claim()
    try:
        assert "is in use by process" in bad("resume", "mine")
    finally:
        run.release()
    assert "resume it with" in bad("train", "PPO", *FEW_STEPS, "--name", "mine")
    assert "has no checkpoint '77'" in bad("evaluate", "mine", "--checkpoint", "77")


@pytest.mark.parametrize(
    "command", [["resume"], ["evaluate"], ["train", "PPO", *FEW_STEPS, "--resume-if-exists"]]
)
def test_damaged_checkpoints_are_said_once_and_in_sentences(command: list[str]) -> None:
    good(
        "train",
        "PPO",
        *QUICK,
        "--stop",
        "training_iteration=3",
        "--name",
        "one",
        "--checkpoint-freq",
        "1",
    )
    run = only_run()
    newest = max(run.checkpoints.iterdir())
    (newest / "state.json").write_text("{")
    words = [*command, "--name", "one"] if command[0] == "train" else [*command, "one"]
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert len(re.findall(f"Warning: .*{newest.name} is damaged", result.output)) == 1, (
        result.output
    )
    assert "UserWarning" not in result.output
    for whole in run.checkpoints.glob("??????"):
        (whole / "state.json").write_text("{")
    assert "has no intact checkpoint" in bad(*words)


def test_warnings_of_other_packages_keep_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def listing(root: str) -> list[RunFolder]:
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        warnings.warn("left out", PoiseWarning, stacklevel=1)
        return []

    seen = []
    monkeypatch.setattr("poise.cli.listing.all_runs", listing)
    monkeypatch.setattr(warnings, "showwarning", lambda *warning: seen.append(warning[1:3]))
    assert "Warning: left out\n" in call("runs").stderr
    assert seen == [(DeprecationWarning, __file__)]


def test_a_damaged_run_does_not_hide_the_others() -> None:
    for name, text in (
        ("broken", "{"),
        ("whole", '{"algorithm": "PPO", "config": {"env": "CartPole-v1"}}'),
    ):
        (Path("runs/x") / name).mkdir(parents=True)
        (Path("runs/x") / name / "config.json").write_text(text)
    text = good("runs")
    assert re.search(r"broken .* damaged", text)
    assert re.search(r"whole +PPO", text)


ENVS = """
import gymnasium as gym

class Two(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(2)
    def __init__(self, size, speed): pass

class Fails(Two):
    def __init__(self, config): pass
    def reset(self, *, seed=None, options=None): return self.observation_space.sample(), {}
    def step(self, action): raise ZeroDivisionError("boom")

def nothing(config): pass
"""


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("mazes.Two", "Did you mean 'mazes:Two'?"),
        ("mazes.py:Two", "Did you mean 'mazes:Two'?"),
        ("mazes:Two", "env_config does not give its size and speed"),
        ("mazes:nothing", "mazes:nothing returned a NoneType"),
    ],
)
def test_environments_beside_the_user_that_are_none(
    env: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("mazes.py").write_text(ENVS)
    monkeypatch.delitem(sys.modules, "mazes", raising=False)
    assert words in bad("train", "PPO", "--env", env)
    assert not all_runs("runs")


def test_what_an_environment_raises_is_told_with_its_traceback_and_code_1() -> None:
    Path("mazes.py").write_text(ENVS)
    train = process(
        "train", "PPO", "--env", "mazes:Fails", "--no-tensorboard", "--stop", "timesteps_total=500"
    )
    _, err = train.communicate(timeout=60)
    assert train.returncode == 1
    assert "Traceback" in err
    assert "ZeroDivisionError: boom" in err


def test_mistakes_with_a_run_change_nothing_in_it() -> None:
    good("train", "PPO", *FEW_STEPS, "--name", "mine")
    run = only_run()

    def content() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}

    before = content()
    assert "Did you mean 'timesteps_total'?" in bad(
        "resume", "mine", "--stop", "tmesteps_total=9000"
    )
    assert "must be a number at least 0" in bad("resume", "mine", "--stop", "timesteps_total=-1")
    assert "must end in .mp4" in bad("record", "mine", "--out", "x.txt")
    assert "must end in .png" in bad("plot", "mine", "--out", "x.xyz")
    assert "cannot be written" in bad("plot", "mine", "--out", "/dev/null/x.png")
    assert "is a checkpoint: a run has" in bad("resume", str(next(run.checkpoints.iterdir())))
    assert content() == before


@pytest.mark.parametrize("flags", [[], ["--quiet"]])
def test_an_end_that_could_not_be_saved_is_code_2(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    result = call("train", "PPO", *FEW_STEPS, *flags)
    assert result.exit_code == 2
    assert result.output.count("was NOT saved: it has no whole checkpoint.") == 1
    assert only_run().status()["state"] == "failed"


# --- how it ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code", "state"),
    [
        (signal.SIGINT, 130, "stopped"),
        (signal.SIGTERM, 143, "preempted"),
        (signal.SIGHUP, 143, "preempted"),
    ],
)
def test_a_signal_ends_training_with_a_whole_checkpoint(
    number: signal.Signals, code: int, state: str
) -> None:
    train = process("train", "PPO", *QUICK, "--stop", "timesteps_total=1e9", "--name", "run")
    run = RunFolder("runs/PPO_CartPole-v1/run")
    while not run.metrics():
        assert train.poll() is None, train.communicate()
        time.sleep(0.05)
    train.send_signal(number)
    out, err = train.communicate(timeout=60)
    assert (train.returncode, err.count("stopping before the next step"), err.count("\n")) == (
        code,
        1,
        1,
    )
    assert f"poise resume {run.path}" in out
    assert run.status()["state"] == state
    newest, problems = checkpoint.newest(run.checkpoints)
    assert newest is not None
    assert not problems


def test_ctrl_c_elsewhere_leaves_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("poise.tracking.launch.start", interrupted)
    result = call("train", "PPO", *QUICK)
    assert (result.exit_code, result.stderr) == (130, "")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("poise.tracking.launch.start", broken)
    assert isinstance(call("train", "PPO", *QUICK).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    "args", [["--help"], ["config", "PPO"], ["config", "PPO", "--json"]], ids=" ".join
)
def test_a_reader_that_goes_away_is_no_error(args: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = process(*args, stdout=write)
    os.close(write)
    _, err = command.communicate()
    assert err == ""


# --- completion -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    assert "_POISE_COMPLETE" in good("completion", shell)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("poise tr", {"train"}),
        ("poise train p", {"PPO"}),
        ("poise train --run a", {"A2C", "APPO"}),
        ("poise train PPO --clip_p", {"--clip_param"}),
        ("poise train PPO --env CartPole-v", {"CartPole-v0", "CartPole-v1"}),
        ("poise train PPO --model.fcnet_activation ta", {"tanh"}),
        ("poise train PPO --normalize_observations t", {"true"}),
        ("poise config A", {"A2C", "APPO"}),
        ("poise evaluate mi", {"mine"}),
        ("poise resume l", {"latest"}),
    ],
)
def test_words_are_completed(words: str, expected: set[str]) -> None:
    from click.shell_completion import ShellComplete

    Path("runs/x/mine").mkdir(parents=True)
    Path("runs/x/mine/config.json").write_text("{}")
    *before, incomplete = words.split()[1:]
    items = ShellComplete(poise, {}, "poise", "_POISE_COMPLETE").get_completions(before, incomplete)
    assert {item.value for item in items} == expected


LEAVING = """
import atexit, sys, threading, time
from poise.cli import main as command

def poise(**_):
    atexit.register(lambda: print("handler"))
    threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
    print("command", end=" ")
    {end}

command.poise = poise
command.main()
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("sys.exit('why')", 1),
        ("1 / 0", 1),
        ("raise KeyboardInterrupt", 130),
    ],
)
def test_the_process_ends_at_once_but_after_threads_and_handlers(end: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVING.format(end=end)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (code, "command thread\nhandler\n")
    assert ("ZeroDivisionError" in done.stderr) == (end == "1 / 0")
    assert ("why" in done.stderr) == ("why" in end)
