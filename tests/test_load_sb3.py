"""Models of Stable-Baselines3 act here as they did there, and nothing in their files is run."""

from __future__ import annotations

import io
import json
import math
import subprocess
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import poise
from poise.errors import CheckpointError, ConfigError, PoiseWarning, SpaceError
from test_against_sb3 import python  # noqa: F401
from tiers import few

PLAIN = {
    "ppo": "CartPole-v1", "ppo-box": "Pendulum-v1", "a2c": "CartPole-v1", "dqn": "CartPole-v1",
    "sac": "Pendulum-v1", "td3": "Pendulum-v1", "ddpg": "Pendulum-v1",
}  # fmt: skip
KEYS = {"z": spaces.Box(-1, 1, (2,)), "a": spaces.Discrete(3), "m": spaces.MultiBinary(2)}
SPACES = {
    "dict": (spaces.Dict(KEYS), spaces.MultiDiscrete([2, 3])),
    "bytes": (spaces.Box(0, 255, (6,), np.uint8), spaces.Box(np.float32([-1, 0]), 5.0)),
    "picture": (spaces.Box(0, 255, (36, 40, 3), np.uint8), spaces.Discrete(4)),
}


class Given(gym.Env):
    """The environments of `judges/sb3_models.py`."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.observation_space, self.action_space = SPACES[config["kind"]]
        self.observation_space.seed(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 1.0, False, False, {}


KINDS = [*PLAIN, "ppo-dict", "ppo-bytes", "ppo-picture", "dqn-picture"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", few("ppo", "dqn", "sac", "ppo-dict", "ppo-picture", of=KINDS))
def test_models_act_and_learn_as_they_did(
    kind: str,
    python: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    script = Path(__file__).parent / "judges" / "sb3_models.py"
    subprocess.run([python, "-W", "ignore", str(script), kind, str(tmp_path)], check=True)
    made = {} if kind in PLAIN else {"env_config": {"kind": kind.partition("-")[2]}}
    env = PLAIN.get(kind, Given)
    with np.load(tmp_path / "found.npz") as file:
        found = dict(file)
    parts = {key[5:]: part for key, part in found.items() if key.startswith("seen_")}
    seen = parts.get("obs", parts)
    algo = poise.load_sb3(tmp_path / "model.zip", env, num_envs=1, progress=False, **made)
    with algo:
        action, _ = algo.predict(seen)
        np.testing.assert_allclose(action, found["action"], rtol=1e-6, atol=2e-6)
        obs = {key: torch.from_numpy(part) for key, part in parts.items()}
        layout = algo.policy.obs_layout
        obs = obs if "obs" not in obs else {layout.leaves[0].name: obs["obs"]}
        x = algo.policy.prepare(obs)
        close = {"rtol": 1e-5, "atol": 1e-6}
        with torch.no_grad():
            if "value" in found:
                np.testing.assert_allclose(algo.policy.critic(x), found["value"], **close)
            elif kind.startswith("dqn"):
                np.testing.assert_allclose(algo.policy.actor(x), found["q"], **close)
                target = algo.algorithm.target.actor(x)
                np.testing.assert_allclose(target, found["q_target"], **close)
            else:
                algorithm: Any = algo.algorithm
                numbers = torch.from_numpy(found["action"]) / 2  # Pendulum's bounds are -2 and 2
                q = algorithm.critics(x, numbers)[..., 0]
                np.testing.assert_allclose(q, found["q"], **close)
                target = algorithm.targets["critics"].module(x, numbers)[..., 0]
                np.testing.assert_allclose(target, found["q_target"], **close)
        if "log_alpha" in found:
            alpha = algo.algorithm.temperature.log_alpha.detach()
            np.testing.assert_allclose(alpha, found["log_alpha"], rtol=1e-6)
        assert "of Stable-Baselines3" in " ".join(algo.notes)
        assert algo.train()["timesteps_total"] > 0


# --- files by hand --------------------------------------------------------------------------------


def layers(prefix: str, sizes: list[int], last: str = "") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(prefix))
    names = [f"{prefix}.{2 * i}" for i in range(len(sizes) - 1)]
    if last:
        names[-1] = last
    found = {}
    for name, (i, o) in zip(names, pairwise(sizes), strict=True):
        found[f"{name}.weight"] = torch.randn(o, i, generator=generator) / i**0.5
        found[f"{name}.bias"] = 0.1 * torch.randn(o, generator=generator)
    return found


def ppo(inputs: int = 4) -> dict[str, Any]:
    return {
        **layers("mlp_extractor.policy_net", [inputs, 8, 2], "action_net"),
        **layers("mlp_extractor.value_net", [inputs, 6, 1], "value_net"),
    }


def written(path: Path, tensors: Any, data: dict[str, Any] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps({"n_epochs": 4, "n_steps": 32, **(data or {})}))
        content = io.BytesIO()
        torch.save(tensors, content)
        archive.writestr("policy.pth", content.getvalue())
    return path


def test_a_file_acts_as_its_layers_say(tmp_path: Path) -> None:
    tensors = ppo()
    data = {
        "learning_rate": 0.002,
        "clip_range": {":serialized:": "gAS=", "value_schedule": "ConstantSchedule(val=0.3)"},
        "ent_coef": {":serialized:": "gAS="},
        "num_timesteps": 1234,
    }
    path = written(tmp_path / "model.zip", tensors, data)
    with poise.load_sb3(path, "CartPole-v1", gamma=0.5, progress=False) as algo:
        x = torch.randn(50, 4)
        h = torch.tanh(x @ tensors["mlp_extractor.policy_net.0.weight"].T
                       + tensors["mlp_extractor.policy_net.0.bias"])  # fmt: skip
        logits = h @ tensors["action_net.weight"].T + tensors["action_net.bias"]
        assert (algo.predict(x.numpy())[0] == logits.argmax(1).numpy()).all()
        assert algo.config.model.fcnet_hiddens == [8]
        assert algo.config.model.vf_fcnet_hiddens == [6]
        assert (algo.config.lr, algo.config.clip_param, algo.config.gamma) == (0.002, 0.3, 0.5)
        said = " ".join(algo.notes)
        assert "PPO of Stable-Baselines3, 1234 steps" in said
        assert "Not read, and as by default: ent_coef" in said


def test_moments_of_vec_normalize_may_be_given(tmp_path: Path) -> None:
    path = written(tmp_path / "model.zip", ppo())
    (tmp_path / "vecnormalize.pkl").write_bytes(b"cos\nsystem\n")
    with pytest.warns(PoiseWarning, match="VecNormalize, which is not read: .*obs_rms"):
        poise.load_sb3(path, "CartPole-v1", progress=False).close()
    rms = (np.array([1.0, 2, 3, 4]), np.array([4.0, 3, 2, 1]))
    (tmp_path / "plain").mkdir()
    there = written(tmp_path / "plain" / "model.zip", ppo())
    seen = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    with (
        poise.load_sb3(path, "CartPole-v1", obs_rms=rms, progress=False) as algo,
        poise.load_sb3(there, "CartPole-v1", progress=False) as plain,
    ):
        whitened = np.clip((seen - rms[0]) / np.sqrt(rms[1] + 1e-8), -10, 10).astype(np.float32)
        assert (algo.predict(seen)[0] == plain.predict(whitened)[0]).all()
    for wrong in ((1, 2), (rms[0], -rms[1]), (rms[0] * math.nan, rms[1])):
        with pytest.raises(SpaceError, match=r"obs_rms=.* does not fit"):
            poise.load_sb3(path, "CartPole-v1", obs_rms=wrong, progress=False)


class Boom:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("boom"),)


@pytest.mark.parametrize("where", ["tensors", "data"])
def test_what_is_pickled_is_not_run(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = {**ppo(), "more": Boom()} if where == "tensors" else ppo()
    pickled = {":type:": "x", ":serialized:": "Y29zCnN5c3RlbQooUyd0b3VjaCBib29tJwp0Ui4="}
    path = written(tmp_path / "model.zip", tensors, {"policy_class": pickled, "ent_coef": pickled})
    if where == "tensors":
        with pytest.raises(CheckpointError, match="holds more than tensors"):
            poise.load_sb3(path, "CartPole-v1", progress=False)
    else:
        poise.load_sb3(path, "CartPole-v1", progress=False).close()
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("tensors", "data", "env", "error", "said"),
    [
        (ppo(), {"use_sde": True}, "CartPole-v1", CheckpointError, "explores by use_sde"),
        (ppo(3), {}, "CartPole-v1", SpaceError, r"numbers of an observation are 3, and .* 4"),
        (ppo(), {}, "Pendulum-v1", SpaceError, "does not fit the spaces"),
        (layers("other.net", [4, 8, 2]), {}, "CartPole-v1", CheckpointError, "holds no policy of"),
        (
            {**ppo(), "features_extractor.mine.weight": torch.ones(2, 2)},
            {},
            "CartPole-v1",
            CheckpointError,
            "with the networks that they have by default",
        ),
        (
            ppo(),
            {"policy_kwargs": {"activation_fn": "<class 'torch.nn.modules.activation.Mish'>"}},
            "CartPole-v1",
            CheckpointError,
            "Mish'>; Poise has ReLU, Tanh",
        ),
        (
            ppo(),
            {"policy_kwargs": {"activation_fn": ""}},
            "CartPole-v1",
            CheckpointError,
            "activation_fn=; Poise has",
        ),
        *(
            (
                {**ppo(), "value_net.weight": wrong},
                {},
                "CartPole-v1",
                CheckpointError,
                "value_net.weight is no tensor of finite numbers",
            )
            for wrong in (
                torch.full((1, 8), math.nan),
                torch.ones(1, 8, dtype=torch.complex64),
                torch.ones(1, 8).to_sparse(),
            )
        ),
        (
            {name: x for name, x in ppo().items() if "value_net" not in name},
            {},
            "CartPole-v1",
            CheckpointError,
            "a network of it has no layers",
        ),
    ],
)
def test_what_cannot_be_read_says_why(
    tensors: Any, data: Any, env: str, error: type[Exception], said: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "model.zip", tensors, data)
    with pytest.raises(error, match=said):
        poise.load_sb3(path, env, progress=False)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        poise.load_sb3(tmp_path / "nothing.zip", "CartPole-v1")
    (tmp_path / "text.zip").write_text("not a zip")
    with pytest.raises(CheckpointError, match="is not a file of Stable-Baselines3"):
        poise.load_sb3(tmp_path / "text.zip", "CartPole-v1")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(CheckpointError, match="is not a file that Stable-Baselines3 saved"):
        poise.load_sb3(tmp_path / "other.zip", "CartPole-v1")
    path = written(tmp_path / "model.zip", ppo())
    with pytest.raises(ConfigError, match="fcnet_hiddens is not allowed"):
        poise.load_sb3(path, "CartPole-v1", model={"fcnet_hiddens": [5]})
