"""Guards the updates with an independent judge.

Stable-Baselines3, in an environment of its own, on the same data.

The judge's Python is `$POISE_SB3_PYTHON`, else `benchmarks/.venvs/sb3`; with `POISE_JUDGES=1` the
latter is made.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from environments import Noise
from poise.algorithms.base import Algorithm
from poise.algorithms.off_policy import Minibatch
from poise.learning.optimizers import Flat
from poise.learning.returns import advantages
from poise.sampling.rollout import Rollout
from poise.training.trainer import Trainer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
HOME = ROOT / "benchmarks" / ".venvs" / "sb3"
VERSIONS = ("stable-baselines3==2.9.2", "sb3-contrib==2.9.2")
Judge = Callable[[str, dict[str, Any]], dict[str, np.ndarray]]


def make_home() -> None:
    """A virtual environment with Stable-Baselines3, and PyTorch in the version of the tests."""
    subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True)
    pip = [
        str(HOME / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "-c",
        str(ROOT / "constraints.txt"),
    ]
    subprocess.run([*pip, "torch"], check=True)
    subprocess.run([*pip, *VERSIONS], check=True)


@pytest.fixture(scope="module")
def python() -> str:
    named = os.environ.get("POISE_SB3_PYTHON")
    if named:
        return named
    own = HOME / "bin" / "python"
    if not own.exists():
        if os.environ.get("POISE_JUDGES") != "1":
            pytest.skip(
                "This test needs Stable-Baselines3 in an environment of its own: "
                "set POISE_JUDGES=1 to have it made in benchmarks/.venvs/sb3, "
                "or POISE_SB3_PYTHON to a Python that has it."
            )
        make_home()
    return str(own)


@pytest.fixture
def judge(python: str, tmp_path: Path) -> Judge:
    def ask(kind: str, given: dict[str, Any]) -> dict[str, np.ndarray]:
        np.savez(tmp_path / "in.npz", **given)
        others = dict.fromkeys(("sac", "tqc", "td3"), "sb3_off_policy.py")
        script = {**others, "recurrent": "sb3_recurrent.py"}.get(kind, "sb3_update.py")
        script = Path(__file__).parent / "judges" / script
        subprocess.run(
            [python, str(script), kind, str(tmp_path / "in.npz"), str(tmp_path / "out.npz")],
            check=True,
        )
        with np.load(tmp_path / "out.npz") as found:
            return dict(found)

    return ask


# --- returns --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gamma", "lambda_"), [(0.99, 0.95), (0.9, 1.0), (0.5, 0.0)])
def test_returns_and_advantages_are_equal(judge: Judge, gamma: float, lambda_: float) -> None:
    rng = np.random.default_rng(0)
    steps, slots = 64, 5
    value = rng.standard_normal((steps + 1, slots))
    terminated, truncated = rng.random((2, steps, slots)) < 0.08
    terminated[-1], truncated[-1] = (
        [True, False, True, False, False],
        [False, True, True, False, False],
    )
    assert (terminated & truncated)[:-1].any()
    # The value of the final observation, where an episode was cut.
    final = rng.standard_normal((steps, slots))
    given = {
        "reward": rng.standard_normal((steps, slots)),
        "value": value[:-1],
        "next_value": np.where(truncated, final, value[1:]),
        "terminated": terminated,
        "truncated": truncated,
    }
    expected = judge("returns", {**given, "gamma": gamma, "lambda": lambda_})
    ours = {key: torch.from_numpy(np.ascontiguousarray(item)) for key, item in given.items()}
    found = advantages(**ours, gamma=gamma, lambda_=lambda_).numpy()
    np.testing.assert_allclose(found, expected["advantage"], atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(found + given["value"], expected["target"], atol=1e-6, rtol=1e-6)


# --- updates --------------------------------------------------------------------------------------

STEPS, SLOTS, WIDTH = 24, 4, 3
ACTIONS = {
    "Discrete": spaces.Discrete(WIDTH),
    "Box": spaces.Box(-np.inf, np.inf, (WIDTH,), np.float32),
}


def in_float64(trainer: Trainer) -> Algorithm:
    """The trainer's algorithm with its policy, and all that hangs on it, in float64."""
    algorithm = trainer.algorithm
    algorithm.policy.double()
    old = algorithm.optimizer
    algorithm.learner.flat = Flat(algorithm.policy)
    settings = {key: value for key, value in vars(old).items() if key in ("betas", "eps", "decay")}
    algorithm.learner.optimizer = type(old)(algorithm.flat, **settings)
    with torch.no_grad():  # larger than at the start, so that nothing is near zero
        algorithm.flat.data.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    return algorithm


def action_is_continuous(algorithm: Algorithm) -> bool:
    return algorithm.policy.dist.action_dtype.is_floating_point


def random_rollout(algorithm: Algorithm) -> Rollout:
    """A rollout in float64 by a policy that differs a little from the one that learns."""
    rng = np.random.default_rng(2)
    numbers = lambda *shape: torch.from_numpy(rng.standard_normal(shape))  # noqa: E731
    policy = algorithm.policy
    empty = Rollout.empty(
        STEPS, SLOTS, policy.obs_layout, policy.dist.action_shape, policy.dist.action_dtype
    )
    obs = numbers(STEPS + 1, SLOTS, 5)
    inputs, _ = policy(obs[:-1].flatten(0, 1))
    inputs = inputs.detach().view(STEPS, SLOTS, -1)
    spread = 0.15 if action_is_continuous(algorithm) else 0.5
    old = inputs + spread * numbers(*inputs.shape)
    action = policy.dist.sample(
        old, policy.dist.noise((STEPS, SLOTS), torch.Generator().manual_seed(3)).double()
    )
    terminated, truncated = torch.from_numpy(rng.random((2, STEPS, SLOTS)) < 0.1)
    empty.obs, empty.action, empty.log_prob = (
        {"value": obs},
        action,
        policy.dist.log_prob(old, action),
    )
    empty.reward, empty.terminated, empty.truncated = (
        3 * numbers(STEPS, SLOTS),
        terminated,
        truncated,
    )
    empty.valid = empty.valid.double()
    return empty


def layers(algorithm: Algorithm) -> dict[str, np.ndarray]:
    """The parameters by name: `pi.0.weight`, `vf.2.bias`, `log_std`."""
    policy = algorithm.policy
    found = {
        f"{tower}.{i}.{part}": getattr(layer, part)
        for tower in ("pi", "vf")
        for i, layer in enumerate(getattr(policy.network, tower).layers)
        for part in ("weight", "bias")
    }
    if hasattr(policy, "log_std"):
        found["log_std"] = policy.log_std
    return {name: value.detach().numpy().copy() for name, value in found.items()}


def flat_arrays(
    rollout: Rollout, value: torch.Tensor, advantage: torch.Tensor
) -> dict[str, np.ndarray]:
    """What the judge learns from: one row per step."""
    arrays = {
        "obs": rollout.obs["value"][:-1].flatten(0, 1),
        "action": rollout.action.flatten(0, 1),
        "log_prob": rollout.log_prob.flatten(),
        "value": value.flatten(),
        "advantage": advantage.flatten(),
        "target": (value + advantage).flatten(),
    }
    return {name: each.detach().numpy() for name, each in arrays.items()}


def compare(
    algorithm: Algorithm,
    before: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    given: dict[str, Any],
) -> None:
    """The judge saw the same policy before, and both ended at the same parameters."""
    np.testing.assert_allclose(expected["before.value"], given["own.value"], atol=1e-12)
    np.testing.assert_allclose(expected["before.log_prob"], given["own.log_prob"], atol=1e-12)
    for name, value in layers(algorithm).items():
        assert np.abs(value - before[name]).max() > 1e-4, f"{name} has not moved"
        np.testing.assert_allclose(value, expected[name], atol=1e-6, rtol=0, err_msg=name)
        moved, judged = value - before[name], expected[name] - before[name]
        np.testing.assert_allclose(moved, judged, rtol=1e-4, atol=1e-8, err_msg=name)


SETTINGS = {
    "plain": {
        "entropy_coeff": 0.0,
        "vf_loss_coeff": 0.5,
        "grad_clip": 0.5,
        "normalize_advantages": True,
    },
    "other": {
        "entropy_coeff": 0.03,
        "vf_loss_coeff": 0.25,
        "grad_clip": 50.0,
        "normalize_advantages": False,
    },
}


def check_update(
    trainer: Any, judge: Judge, name: str, actions: spaces.Space, settings: dict[str, Any]
) -> None:
    obs_space = spaces.Box(-np.inf, np.inf, (5,), np.float32)
    made = trainer(
        name,
        lambda config: Noise(obs_space, actions),
        num_envs=SLOTS,
        n_steps=STEPS,
        lr=0.01,
        model={"fcnet_hiddens": [16, 8]},
        **settings,
    )
    algorithm = in_float64(made)
    rollout = random_rollout(algorithm)
    x = rollout.obs["value"]
    with torch.no_grad():
        value = algorithm.policy.critic(x.flatten(0, 1)).view(STEPS + 1, SLOTS)
        advantage = algorithm.advantages(rollout, value)
        inputs, own_value = algorithm.policy(x[:-1].flatten(0, 1))
        own_log_prob = algorithm.policy.dist.log_prob(inputs, rollout.action.flatten(0, 1))
    before = layers(algorithm)
    given: dict[str, Any] = {
        **before,
        **flat_arrays(rollout, value[:-1], advantage),
        "own.value": own_value.numpy(),
        "own.log_prob": own_log_prob.numpy(),
        "lr": 0.01,
        "entropy_coeff": settings["entropy_coeff"],
        "vf_coeff": settings["vf_loss_coeff"],
        "grad_clip": settings["grad_clip"],
        "normalize": settings["normalize_advantages"],
    }
    if name == "PPO":
        batch = algorithm.batch(rollout)
        ratio = (own_log_prob - batch.log_prob).exp()
        assert 0.1 < ((ratio - 1).abs() > 0.2).double().mean() < 0.9, (
            "the clip must bite, but not everywhere"
        )
        algorithm.learn(batch)
    else:
        loss, _ = algorithm.loss(rollout, settings["entropy_coeff"])
        loss.backward()
        algorithm.learner.step(0.01)
    expected = judge(name.lower(), given)
    compare(algorithm, before, expected, given)


@pytest.mark.parametrize("actions", ACTIONS.values(), ids=ACTIONS.keys())
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_one_ppo_update_is_equal(
    trainer: Any, judge: Judge, actions: spaces.Space, settings: dict[str, Any]
) -> None:
    whole = {"num_sgd_iter": 1, "sgd_minibatch_size": STEPS * SLOTS}
    check_update(trainer, judge, "PPO", actions, {**settings, **whole})


@pytest.mark.parametrize("actions", ACTIONS.values(), ids=ACTIONS.keys())
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_one_a2c_update_is_equal(
    trainer: Any, judge: Judge, actions: spaces.Space, settings: dict[str, Any]
) -> None:
    check_update(trainer, judge, "A2C", actions, settings)


def recurrent_layers(algorithm: Any) -> dict[str, np.ndarray]:
    """The parameters of a policy with cells, by the judge's names."""
    network, found = algorithm.policy.network, layers(algorithm)
    for g in (0, 1):
        for name, parameter in network.cells.named_parameters():
            found[f"cells.{g}.{name}"] = parameter[g].detach().numpy().copy()
    return found


def test_one_recurrent_update_is_equal(trainer: Any, judge: Judge) -> None:
    """SB3-contrib's RecurrentPPO, on a rollout with resets and steps that do not count."""
    made = trainer(
        "PPO",
        lambda config: Noise(spaces.Box(-np.inf, np.inf, (5,), np.float32), spaces.Discrete(WIDTH)),
        num_envs=SLOTS,
        n_steps=STEPS,
        lr=0.01,
        num_sgd_iter=1,
        sgd_minibatch_size=STEPS * SLOTS,
        entropy_coeff=0.01,
        model={"memory": "lstm", "lstm_cell_size": 6, "fcnet_hiddens": [8], "max_seq_len": STEPS},
    )
    algorithm: Any = in_float64(made)
    rollout = random_rollout(algorithm)
    rng = np.random.default_rng(5)
    rollout.first = torch.from_numpy(rng.random((STEPS + 1, SLOTS)) < 0.15)
    rollout.valid = torch.from_numpy(1.0 - (rng.random((STEPS, SLOTS)) < 0.1))
    rollout.state = tuple(torch.from_numpy(rng.standard_normal((SLOTS, 2, 6))) for _ in range(2))
    batch, before = algorithm.batch(rollout), recurrent_layers(algorithm)
    shaped = {
        key: getattr(batch, key).view(STEPS, SLOTS).numpy().copy()
        for key in ("action", "log_prob", "value", "advantage", "target")
    }
    given = {
        **before,
        **shaped,
        "obs": rollout.obs["value"][:-1].numpy(),
        "first": rollout.first[:-1].numpy(),
        "valid": rollout.valid.numpy(),
        **{key: part.numpy() for key, part in zip("hc", rollout.state, strict=True)},
        "lr": 0.01,
        "entropy_coeff": 0.01,
        "vf_coeff": algorithm.config.vf_loss_coeff,
        "grad_clip": algorithm.config.grad_clip,
    }
    algorithm.learn(batch)
    expected = judge("recurrent", given)
    for name, value in recurrent_layers(algorithm).items():
        assert np.abs(value - before[name]).max() > 1e-4, f"{name} has not moved"
        np.testing.assert_allclose(value, expected[name], atol=1e-6, rtol=0, err_msg=name)


# --- off-policy updates ---------------------------------------------------------------------------

BATCH = 32


def network_arrays(algorithm: Any) -> dict[str, np.ndarray]:
    """All parameters of the policy, the critics and what follows them, by the judge's names."""
    modules = {"policy": algorithm.policy, "critics": algorithm.critics}
    modules |= {f"{name}⁻": target.module for name, target in algorithm.targets.items()}
    found = {}
    for name, module in modules.items():
        stacks = {"": module.network.pi} if "policy" in name else dict(enumerate(module.q))
        for q, stack in stacks.items():
            for i, layer in enumerate(stack.layers):
                for part in ("weight", "bias"):
                    key = ".".join(str(word) for word in (name, q, i, part) if word != "")
                    found[key] = getattr(layer, part).detach().numpy().copy()
    return found


@pytest.mark.parametrize("name", ["SAC", "TQC", "TD3"])
def test_one_off_policy_step_is_equal(trainer: Any, judge: Judge, name: str) -> None:
    obs_space = spaces.Box(-np.inf, np.inf, (5,), np.float32)
    options = {"num_quantiles": 7, "top_quantiles_to_drop": 2} if name == "TQC" else {}
    if name == "TD3":
        options = {"policy_delay": 1, "target_noise": 0.0}
    made = trainer(
        name,
        lambda config: Noise(obs_space, spaces.Box(-1, 1, (WIDTH,), np.float32)),
        lr=0.01,
        tau=0.1,
        buffer_size=100,
        learner_dtype="float32",
        model={"fcnet_hiddens": [16, 8]},
        **options,
    )
    algorithm: Any = made.algorithm
    for module in (algorithm.policy, algorithm.critics, *algorithm._beside().values()):
        module.double()
    for target in algorithm.targets.values():
        target.module.double()
    torch.manual_seed(1)
    with torch.no_grad():
        for learner in algorithm.learners.values():
            learner.flat.bind()
            learner.optimizer = algorithm.make_optimizer(learner.flat)
            if len(learner.flat.data) > 3:
                learner.flat.data.add_(torch.randn(len(learner.flat.data)).double() * 0.1)
        for name_, target in algorithm.targets.items():
            target.flat = Flat(target.module, algorithm.learners[name_].flat.places)
            target.match()
            target.flat.data.add_(torch.randn(len(target.flat.data)).double() * 0.05)
    algorithm.policy.refresh()
    rng = np.random.default_rng(0)
    action = rng.uniform(-0.8, 0.8, (BATCH, WIDTH))
    given: dict[str, Any] = {
        **network_arrays(algorithm),
        **{key: rng.standard_normal((BATCH, 5)) for key in ("obs", "next_obs")},
        **{key: rng.standard_normal((BATCH, WIDTH)) for key in ("noise", "next_noise")},
        "action": action,
        "reward": rng.standard_normal(BATCH),
        "terminated": rng.random(BATCH) < 0.3,
        "lr": 0.01,
        "tau": 0.1,
        "quantiles": 7,
        "drop": 2,
    }
    minibatch = Minibatch(
        x=torch.as_tensor(given["obs"]),
        action=torch.as_tensor(action if name == "TD3" else np.arctanh(action)),
        reward=torch.as_tensor(given["reward"]),
        next_x=torch.as_tensor(given["next_obs"]),
        discount=torch.as_tensor(0.9 * ~given["terminated"]),
        weight=torch.full((BATCH,), 1 / BATCH).double(),
        index=np.arange(BATCH),
    )
    if name != "TD3":
        with torch.no_grad():
            log_std = algorithm.policy.actor(minibatch.x)[:, WIDTH:]
        # Beyond 2, the judge's has no gradient, and ours can come back.
        assert log_std.max() < 2
    noise = iter([torch.as_tensor(given["next_noise"]), torch.as_tensor(given["noise"])])
    algorithm.noise = lambda x: next(noise)
    with torch.no_grad():
        algorithm.update(minibatch)
        algorithm.update_targets()
    expected = judge(name.lower(), given)
    found = network_arrays(algorithm)
    if name != "TD3":
        found["log_alpha"] = algorithm.temperature.log_alpha.detach().numpy()
    assert found.keys() == expected.keys()
    for key, value in found.items():
        np.testing.assert_allclose(value, expected[key], atol=1e-6, rtol=0, err_msg=key)
        assert key == "log_alpha" or np.abs(value - given[key]).max() > 1e-6, key
