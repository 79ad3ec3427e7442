"""Exported policies: equal to Poise's own, where neither Poise nor PyTorch can be imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gymnasium import spaces
from torch import nn

import poise
from many_agents import poles
from poise.cli.main import poise as command
from poise.errors import ConfigError, ModelError, PoiseWarning
from poise.exporting import export as exporting
from poise.exporting import targets
from poise.training.trainer import Trainer
from tiers import few

ENDS = {"onnx": ".onnx", "torch": ".pt2", "numpy": "", "c": ".h"}
OBSERVATIONS = 300


class Any_(gym.Env):  # noqa: N801
    """An environment of any spaces; a mask allows the first choices, too."""

    def __init__(self, seen: spaces.Space, done: spaces.Space) -> None:
        self.observation_space, self.action_space = seen, done
        seen.seed(0)

    def _seen(self) -> Any:
        found = self.observation_space.sample()
        if isinstance(found, dict) and "action_mask" in found:
            found["action_mask"][[0, 2]] = 1
        return found

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        return self._seen(), 1.0, False, False, {}


def of(seen: spaces.Space, done: spaces.Space) -> Callable[..., gym.Env]:
    return lambda config: Any_(seen, done)


VECTOR = spaces.Box(-2, 2, (5,))
NESTED = spaces.Dict(
    {
        "far": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
        "pair": spaces.Tuple([spaces.Discrete(5, start=7), spaces.MultiBinary(3)]),
        "many": spaces.MultiDiscrete([3, 4]),
        "large": spaces.Discrete(3000),
        "byte": spaces.Box(0, 200, (3,), np.uint8),
        "whole": spaces.Box(-5, 5, (2,), np.int32),
    }
)
ACTIONS = spaces.Dict(
    {
        "choice": spaces.Discrete(3, start=1),
        "bits": spaces.MultiBinary(2),
        "number": spaces.Box(-2, 3, ()),
        "bounded": spaces.Box(np.float32([-2, 0]), np.float32([3, 9])),
        "free": spaces.Box(-np.inf, np.inf, (1,)),
        "levels": spaces.Box(0, 7, (2,), np.int16),
        "several": spaces.MultiDiscrete([2, 4]),
    }
)
MASKED = spaces.Dict({"v": VECTOR, "action_mask": spaces.Box(0, 1, (6,), np.int8)})
PICTURE = spaces.Box(0, 255, (16, 16, 3), np.uint8)
SMALL: dict[str, Any] = {"fcnet_hiddens": [16, 16]}

CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "ppo": ("PPO", "CartPole-v1", {"model": SMALL}),
    "squashed": (
        "PPO",
        "Pendulum-v1",
        {
            "normalize_observations": True,
            "model": {**SMALL, "action_distribution": "squashed_gaussian"},
        },
    ),
    "shared": (
        "A2C",
        of(VECTOR, ACTIONS),
        {"model": {**SMALL, "vf_share_layers": True, "fcnet_activation": "elu"}},
    ),
    "dqn": ("DQN", "CartPole-v1", {"model": {**SMALL, "fcnet_activation": "swish"}}),
    "dqn-masked": ("DQN", of(MASKED, spaces.Discrete(6)), {"model": SMALL, "dueling": True}),
    "masked": ("PPO", of(MASKED, spaces.MultiDiscrete([2, 4])), {"model": SMALL}),
    "sac": ("SAC", "Pendulum-v1", {"model": SMALL}),
    "sac-discrete": ("SAC", of(VECTOR, ACTIONS), {"model": SMALL}),
    "td3": ("TD3", of(VECTOR, spaces.Box(-2, 5, (3,))), {"model": SMALL}),
    "ddpg": ("DDPG", "Pendulum-v1", {"model": SMALL}),
    "tqc": ("TQC", "Pendulum-v1", {"model": SMALL}),
    "crossq": ("CrossQ", "Pendulum-v1", {"model": SMALL}),
    "impala": ("IMPALA", "CartPole-v1", {"model": SMALL}),
    "appo": ("APPO", "CartPole-v1", {"model": SMALL}),
    "nested": ("PPO", of(NESTED, ACTIONS), {"model": SMALL, "normalize_observations": True}),
    "lstm": ("PPO", "CartPole-v1", {"model": {**SMALL, "memory": "lstm", "lstm_cell_size": 8}}),
    "gru": (
        "PPO",
        of(VECTOR, ACTIONS),
        {
            "model": {
                **SMALL,
                "memory": "gru",
                "lstm_cell_size": 8,
                "lstm_use_prev_action": True,
                "lstm_use_prev_reward": True,
            }
        },
    ),
    "drqn": (
        "DQN",
        of(NESTED, spaces.Discrete(4)),
        {"model": {**SMALL, "memory": "lstm", "lstm_cell_size": 8}},
    ),
    "picture": ("PPO", of(PICTURE, spaces.Discrete(4)), {"model": SMALL}),
    "picture-normalized": (
        "DQN",
        of(spaces.Dict({"p": PICTURE, "v": VECTOR}), spaces.Discrete(4)),
        {"model": SMALL, "normalize_observations": True},
    ),
}
MANY = ("ppo", "squashed", "masked", "gru", "nested", "sac-discrete", "dqn-masked")
"""One of each kind."""
IN_C = [name for name in CASES if "picture" not in name]


def moved(trainer: Trainer) -> Trainer:
    """A trainer whose policies are no more as they began: nothing in them is small or alike."""
    generator = torch.Generator().manual_seed(1)
    for policy in trainer.algorithm.policies.values():
        with torch.no_grad():
            for parameter in policy.parameters():
                scale = 0.5 / max(1, parameter[0].numel()) ** 0.5 if parameter.ndim else 0.1
                parameter += scale * torch.randn(parameter.shape, generator=generator)
            for moments in policy.moments:
                moments.mean += torch.randn(moments.mean.shape, generator=generator)
                moments.var *= 3
    return trainer


@pytest.fixture
def made(trainer: Callable[..., Trainer]) -> Callable[[str], Trainer]:
    """Makes the trainer of a case."""

    def make(name: str) -> Trainer:
        algorithm, env, settings = CASES[name]
        return moved(trainer(algorithm, env, preset=None, **settings))

    return make


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Convolutions are computed")
@pytest.mark.parametrize("name", few(*MANY, "picture", of=CASES))
def test_numpy_alone_acts_as_poise_does(
    name: str, made: Callable[[str], Trainer], tmp_path: Path
) -> None:
    trainer = made(name)
    found = poise.export(trainer, "numpy", tmp_path / "robot", observations=OBSERVATIONS)
    assert found.observations >= OBSERVATIONS
    assert max(found.largest.values()) <= 1e-5
    expected = episode(trainer)
    result = subprocess.run(
        [sys.executable, "-c", ON_ROBOT, str(tmp_path / "robot")],
        input=json.dumps([step["seen"] for step in expected]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for step, action in zip(expected, json.loads(result.stdout), strict=True):
        assert same(step["done"], action), (step["done"], action)


ON_ROBOT = """
import json, sys
for name in ("torch", "poise", "gymnasium", "safetensors"):
    sys.modules[name] = None  # importing it fails
sys.path.insert(0, sys.argv[1])
import numpy as np
from policy import Policy

def array(value):
    if isinstance(value, dict):
        if "tuple" in value:
            return tuple(map(array, value["tuple"]))
        return {k: array(v) for k, v in value.items()}
    return np.array(value)

def plain(value):
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, tuple) else np.asarray(value).tolist()

policy, state, done = Policy(), None, []
for t, seen in enumerate(json.load(sys.stdin)):
    action, state = policy.act(array(seen), state, reward=float(t))
    done.append(plain(action))
print(json.dumps(done))
"""


@pytest.mark.filterwarnings("ignore:It is not compared")
@pytest.mark.slow
@pytest.mark.parametrize("name", few(*MANY, of=IN_C))
def test_c_acts_as_poise_does(name: str, made: Callable[[str], Trainer], tmp_path: Path) -> None:
    require_compiler()
    found = poise.export(made(name), "c", tmp_path / "policy.h", observations=OBSERVATIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["policy.h"]
    assert max(found.largest.values()) <= 1e-5


def test_the_program_of_the_page(made: Callable[[str], Trainer], tmp_path: Path) -> None:
    require_compiler()
    trainer = made("ppo")
    poise.export(trainer, "c", tmp_path / "policy.h", observations=OBSERVATIONS)
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text()
    (code,) = re.findall(r"^```c\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / "main.c").write_text(code)
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wno-unused-variable"]
    command = [*targets.compiler(), *strict, "main.c", "-lm", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    action, odds = done.stdout.split()
    seen = np.float32([0.0, 0.1, 0.02, -0.1])
    assert int(action) == trainer.compute_action(seen)
    assert float(odds) >= 0.5


def test_names_from_files_are_no_code(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    require_compiler()
    space = spaces.Dict({"a*/b\n#error": VECTOR, "a__b__error": spaces.Discrete(3)})
    algo = trainer("PPO", of(space, spaces.Discrete(2)), model=SMALL)
    poise.export(algo, "c", tmp_path / "policy.h", observations=OBSERVATIONS)
    poise.export(algo, "numpy", tmp_path / "robot", observations=OBSERVATIONS)


def require_compiler() -> None:
    try:
        targets.compiler()
    except poise.PoiseError as error:
        pytest.skip(str(error))


def test_c_is_for_vectors(made: Callable[[str], Trainer], tmp_path: Path) -> None:
    require_compiler()
    with pytest.raises(ModelError, match="for observations of vectors, and this policy sees pict"):
        poise.export(made("picture"), "c", tmp_path / "policy.h", observations=1)
    assert list(tmp_path.iterdir()) == []


def episode(trainer: Trainer, steps: int = 20) -> list[dict[str, Any]]:
    """Observations and what Poise does, as JSON has them; action t earns t + 1."""
    policy = trainer.policy
    space, state, found = policy.obs_layout.space, None, []
    space.seed(1)
    for t in range(steps):
        seen = space.sample()
        if policy.masked:
            seen["action_mask"][[0, 2]] = 1
        given = {"reward": float(t)} if policy.hears_rewards and t else {}
        action, state = trainer.predict(seen, state, **given)
        found.append({"seen": plain(seen), "done": plain(action)})
    return found


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return {"tuple": [plain(part) for part in value]}
    return np.asarray(value).tolist()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(np.allclose(one, other, rtol=1e-4, atol=1e-4))


@pytest.mark.filterwarnings("ignore:Convolutions are computed")
@pytest.mark.slow
@pytest.mark.parametrize("name", few(*MANY, "picture", of=CASES))
@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_files_act_as_poise_does(
    name: str, to: str, made: Callable[[str], Trainer], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime" if to == "onnx" else "torch")
    path = tmp_path / f"policy{ENDS[to]}"
    found = poise.export(made(name), to, path, observations=OBSERVATIONS)
    assert found.path == path
    assert path.is_file()
    assert max(found.largest.values()) <= 1e-5


def test_onnx_names_what_it_takes_and_takes_any_batch(
    made: Callable[[str], Trainer], tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    trainer = made("masked")
    poise.export(trainer, "onnx", tmp_path / "policy.onnx", observations=OBSERVATIONS)
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    assert [each.name for each in session.get_inputs()] == ["obs/action_mask", "obs/v"]
    names = [each.name for each in session.get_outputs()]
    assert names == ["action", "probabilities", "value"]
    assert {each.shape[0] for each in session.get_inputs()} == {"batch"}
    about = json.loads(session.get_modelmeta().custom_metadata_map["policy.json"])
    assert about["algorithm"] == "PPO"
    for batch in (1, 3):
        seen = {"v": np.ones((batch, 5), np.float32), "action_mask": np.ones((batch, 6), np.int8)}
        given = {f"obs/{key}": value for key, value in seen.items()}
        action, odds, _ = session.run(None, given)
        assert (action == trainer.predict(seen)[0]).all()
        np.testing.assert_allclose(odds.sum(-1), 1, rtol=1e-5)


def test_a_program_of_torch_says_what_it_is(made: Callable[[str], Trainer], tmp_path: Path) -> None:
    trainer = made("ppo")
    poise.export(trainer, "torch", tmp_path / "policy.pt2", observations=OBSERVATIONS)
    extra = {"policy.json": ""}
    module = torch.export.load(tmp_path / "policy.pt2", extra_files=extra).module()
    assert json.loads(extra["policy.json"])["torch"] == torch.__version__
    seen = np.float32([[0.1, -0.2, 0.03, 0.4]] * 5)
    assert (module(torch.from_numpy(seen))["action"].numpy() == trainer.predict(seen)[0]).all()


def test_what_is_not_equal_is_not_written(
    made: Callable[[str], Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(program: Any, path: Path) -> Any:
        right = targets.run_numpy(program, path)
        return lambda inputs: {
            k: v + (2e-5 if k == "value" else 0) for k, v in right(inputs).items()
        }

    wrong = targets.Target("policy", targets.write_numpy, run)
    monkeypatch.setitem(targets.TARGETS, "numpy", wrong)
    with pytest.raises(ModelError, match=r"nothing is written: .* 'value' is .* instead of"):
        poise.export(made("ppo"), "numpy", tmp_path / "robot", observations=OBSERVATIONS)
    assert list(tmp_path.iterdir()) == []


def test_two_equally_good_actions_are_told_not_refused(
    made: Callable[[str], Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(program: Any, path: Path) -> Any:
        right = targets.run_numpy(program, path)
        return lambda inputs: {k: 1 - v if k == "action" else v for k, v in right(inputs).items()}

    monkeypatch.setitem(
        targets.TARGETS, "numpy", targets.Target("policy", targets.write_numpy, run)
    )
    trainer = made("ppo")
    with torch.no_grad():
        trainer.policy.network.pi.weight.zero_()
        trainer.policy.network.pi.bias.zero_()
    found = poise.export(trainer, "numpy", tmp_path / "robot", observations=OBSERVATIONS)
    assert found.ties == found.observations
    assert "equally good" in str(found)


def test_a_model_of_ones_own(
    trainer: Callable[..., Trainer], tmp_path: Path, registries: None
) -> None:
    class Net(nn.Module):
        def __init__(self, space: spaces.Space, outputs: int, fault: str = "") -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU())
            self.pi, self.vf, self.fault = nn.Linear(8, outputs), nn.Linear(8, 1), fault

        def forward(self, x: torch.Tensor) -> Any:
            if self.fault == "length":
                x = x.reshape(len(x), 4)
            h = self.body(x)
            if self.fault == "operation":
                h = torch.cumsum(h, 1)
            return self.pi(h), self.vf(h).squeeze(-1)

    poise.register_model("net", Net)

    def export(to: str, **config: Any) -> Any:
        model = {"custom_model": "net", "custom_model_config": config}
        algo = moved(trainer("PPO", "CartPole-v1", model=model, preset=None))
        path = tmp_path / f"policy{ENDS[to]}"
        return poise.export(algo, to, path, observations=OBSERVATIONS)

    assert max(export("numpy").largest.values()) <= 1e-5
    with pytest.raises(ModelError, match=r"computes 'cumsum'.* export it to onnx or torch"):
        export("numpy", fault="operation")
    assert export("torch", fault="operation").path.exists()
    with pytest.raises(ModelError, match=r"The custom model 'net' cannot be exported: .*x\.shape"):
        export("torch", fault="length")


def test_a_memory_and_a_preprocessor_of_ones_own(
    trainer: Callable[..., Trainer], tmp_path: Path, registries: None
) -> None:
    class Logs:
        def __init__(self, space: spaces.Space) -> None:
            self.space = spaces.Box(-np.inf, np.inf, (8,))

        def transform(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x.sign() * x.abs().log1p(), x**2], -1)

    class Net(nn.Module):
        def __init__(self, space: spaces.Space, outputs: int) -> None:
            super().__init__()
            self.cell = nn.GRUCell(8, 6)
            self.pi, self.vf = nn.Linear(6, outputs), nn.Linear(6, 1)

        def initial_state(self, batch: int) -> Any:
            return (torch.full((batch, 6), 0.5),)

        def forward(self, x: torch.Tensor, state: Any, first: torch.Tensor) -> Any:
            hs, h = [], state[0]
            for seen, begins in zip(x.view(first.shape[0], -1, 8), first, strict=True):
                h = self.cell(seen, torch.where(begins.unsqueeze(1), 0.5, h))
                hs.append(h)
            out = torch.cat(hs)
            return self.pi(out), self.vf(out).squeeze(-1), (h,)

    poise.register_preprocessor("logs", Logs)
    poise.register_model("net", Net)
    model = {"custom_model": "net", "custom_preprocessor": "logs"}
    algo = moved(trainer("PPO", "CartPole-v1", model=model, preset=None))
    poise.export(algo, "numpy", tmp_path / "robot", observations=OBSERVATIONS)
    about = json.loads((tmp_path / "robot" / "policy.json").read_text())
    assert about["start"] == {"state_in_0": 0.5}


def test_convolutions_are_compared_in_float32_and_that_is_said(
    made: Callable[[str], Trainer], tmp_path: Path
) -> None:
    trainer = made("picture")
    (encoder,) = [m for m in trainer.policy.modules() if hasattr(m, "reduced")][:1]
    for module in trainer.policy.modules():
        if hasattr(module, "reduced"):
            module.reduced = True
    with pytest.warns(PoiseWarning, match="Convolutions are computed in float32"):
        poise.export(trainer, "numpy", tmp_path / "robot", observations=30)
    assert encoder.reduced  # the trainer's own policy stays as it was


def test_mistakes_are_told(made: Callable[[str], Trainer], tmp_path: Path) -> None:
    trainer = made("ppo")
    with pytest.raises(ConfigError, match=r"to='onx' is not allowed: .* Did you mean 'onnx'\?"):
        poise.export(trainer, "onx", tmp_path / "policy")
    with pytest.raises(ConfigError, match=r"policy='left' is not allowed: it must be default"):
        poise.export(trainer, "numpy", tmp_path / "policy", policy="left")
    with pytest.raises(ConfigError, match=r"to=\[1\] is not allowed"):
        poise.export(trainer, [1], tmp_path / "policy")  # type: ignore[arg-type]
    for wrong in (0, -1, "many"):
        with pytest.raises(ConfigError, match=f"observations={wrong!r} is not allowed"):
            poise.export(trainer, "numpy", tmp_path / "policy", observations=wrong)  # type: ignore[arg-type]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="mine is something else than an export to numpy"):
        poise.export(trainer, "numpy", tmp_path / "mine")
    assert (tmp_path / "mine" / "work.txt").exists()


def test_an_export_may_be_called_anything(
    made: Callable[[str], Trainer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = poise.export(made("ppo"), "torch", tmp_path / "model.pt", observations=OBSERVATIONS)
    assert found.path.name == "model.pt"
    assert found.path.is_file()
    assert all(each.levelname != "WARNING" for each in caplog.records)  # of PyTorch, of the ending


def test_an_export_is_replaced_by_the_next(made: Callable[[str], Trainer], tmp_path: Path) -> None:
    trainer = made("ppo")
    for _ in range(2):
        poise.export(trainer, "numpy", tmp_path / "robot", observations=OBSERVATIONS)
        moved(trainer)
    assert sorted(path.name for path in (tmp_path / "robot").iterdir()) == [
        "policy.json",
        "policy.py",
        "policy.safetensors",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["robot"]


def test_what_onnx_needs_is_named(
    made: Callable[[str], Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        return None

    monkeypatch.setattr(targets.importlib.util, "find_spec", missing)
    with pytest.raises(
        poise.PoiseError, match=r"Exporting to onnx needs onnx: .*pip install .*export"
    ):
        poise.export(made("ppo"), "onnx", tmp_path / "policy.onnx")
    assert exporting.TARGETS is targets.TARGETS


def test_the_command_writes_into_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = {"stop": {"timesteps_total": 1}, "num_envs": 2, "train_batch_size": 64}
    poise.run("PPO", "CartPole-v1", experiment="e", name="first", quiet=True, model=SMALL, **few)

    def call(*args: str) -> Any:
        return CliRunner().invoke(command, ["export", "first", *args], prog_name="poise")

    result = call("--to", "numpy")
    assert result.exit_code == 0, result.output
    assert re.search(r"exports/policy: equal to Poise on 11,\d{3} observations", result.output)
    assert (tmp_path / "runs/e/first/exports/policy/policy.py").is_file()
    result = call("--to", "numpie")
    assert result.exit_code == 2
    assert "Did you mean 'numpy'?" in result.output


def test_one_policy_of_several_agents(tmp_path: Path, trainer: Callable[..., Trainer]) -> None:
    policies = {"policies": {"one": {}, "two": {}}}
    owners = {"policy_mapping_fn": {"pole_0": "one", "pole_1": "two"}}
    algo = moved(trainer("PPO", poles(2), **policies, **owners, model=SMALL))
    with pytest.raises(ConfigError, match=r"policy=None is not allowed: it must be one, two"):
        poise.export(algo, "numpy", tmp_path / "robot")
    found = poise.export(algo, "numpy", tmp_path / "robot", policy="two", observations=100)
    assert found.observations > 1000  # of episodes, too
