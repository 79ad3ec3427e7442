"""MuJoCo and Box2D: presets, films, exact resume, and what is said where an extra is missing."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import poise
from poise.config.presets import PRESETS, find_preset
from poise.config.resolve import resolve
from poise.install import install
from poise.learning.distributions import Gaussian, SquashedGaussian
from poise.training.trainer import Trainer

Make = Callable[..., Trainer]

MUJOCO = [
    "InvertedDoublePendulum-v4",
    "InvertedDoublePendulum-v5",
    "HalfCheetah-v4",
    "HalfCheetah-v5",
    "Hopper-v4",
    "Hopper-v5",
    "Walker2d-v4",
    "Walker2d-v5",
]
BOX2D = ["LunarLander-v3", "LunarLanderContinuous-v3", "BipedalWalker-v3"]
SHORT = {"num_envs_per_worker": 2, "rollout_fragment_length": 32}


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MuJoCo writes its warnings into the folder in which it runs."""
    monkeypatch.chdir(tmp_path)


def make_or_skip(env: str) -> None:
    pytest.importorskip("mujoco" if env in MUJOCO else "Box2D")


@pytest.mark.parametrize("env", MUJOCO + BOX2D)
def test_presets_resolve(env: str) -> None:
    """Every key and value of a preset passes the checks.

    Neither torch nor the environment is asked.
    """
    config, used = resolve("PPO", env)
    assert used == env
    assert config.sgd_minibatch_size <= config.train_batch_size  # type: ignore[attr-defined]
    assert config.train_batch_size % config.sgd_minibatch_size == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("env", [name for name in MUJOCO if name.endswith("-v4")])
def test_both_versions_share_a_preset(env: str) -> None:
    newer = env.replace("-v4", "-v5")
    assert find_preset("PPO", env, "auto")[1] is PRESETS["PPO"][newer]


@pytest.mark.parametrize("env", MUJOCO + BOX2D)
def test_one_iteration(trainer: Make, env: str) -> None:
    make_or_skip(env)
    made = trainer("PPO", env, **SHORT)
    result = made.train()
    assert made.preset == env
    assert result["timesteps_total"] > 0
    assert all(
        math.isfinite(result[f"learner/{key}"])
        for key in ("policy_loss", "vf_loss", "entropy", "kl")
    )


@pytest.mark.parametrize("env", ["InvertedDoublePendulum-v4", "InvertedDoublePendulum-v5"])
def test_squashed_actions_fill_the_bounds_and_stay_inside(trainer: Make, env: str) -> None:
    make_or_skip(env)
    made = trainer("PPO", env, **SHORT)
    assert isinstance(made.policy.dist, SquashedGaussian)
    space = made.policy.action_layout.space
    observation = made.policy.obs_layout.space.sample()
    actions = np.stack([made.compute_action(observation, explore=True) for _ in range(300)])
    assert all(space.contains(action) for action in actions)
    assert actions.min() < -0.8
    assert actions.max() > 0.8


def test_normalisers_are_part_of_the_checkpoint(trainer: Make, tmp_path: Path) -> None:
    make_or_skip("InvertedDoublePendulum-v5")
    made = trainer("PPO", "InvertedDoublePendulum-v5", **SHORT)
    made.train()
    assert made.policy.normalizer.count >= 64
    observation = made.policy.obs_layout.space.sample()
    made.save(tmp_path / "pendulum")
    with poise.load(tmp_path / "pendulum") as loaded:
        assert loaded.policy.normalizer.count == made.policy.normalizer.count
        np.testing.assert_array_equal(
            loaded.compute_action(observation), made.compute_action(observation)
        )


def test_a_robot_resumes_to_the_bit(trainer: Make, tmp_path: Path) -> None:
    make_or_skip("HalfCheetah-v5")
    settings = {**SHORT, "seed": 3}
    straight, cut = (trainer("PPO", "HalfCheetah-v5", **settings) for _ in range(2))
    straight.train()
    expected = straight.train()
    cut.train()
    cut.save(tmp_path / "robot")
    with poise.load(tmp_path / "robot") as resumed:
        found = resumed.train()
        assert not resumed.notes
    assert {k: found[k] for k in found if k.startswith("learner/")} == {
        k: expected[k] for k in expected if k.startswith("learner/")
    }


def test_default_is_an_unsquashed_gaussian(trainer: Make) -> None:
    make_or_skip("Hopper-v5")
    made = trainer("PPO", "Hopper-v5", preset=None, **SHORT)
    assert type(made.policy.dist) is Gaussian


@pytest.mark.slow
def test_learns_to_balance_two_poles(trainer: Make) -> None:
    """The most there is to earn is about 9,360; falling at once earns 60."""
    make_or_skip("InvertedDoublePendulum-v5")
    made = trainer("PPO", "InvertedDoublePendulum-v5")
    made.learn(50_000)
    assert made.evaluate(5)["episode_reward_mean"] > 9_000


def test_films_a_lander(trainer: Make, tmp_path: Path) -> None:
    make_or_skip("LunarLander-v3")
    film = poise.record(
        trainer("PPO", "LunarLander-v3", **SHORT), tmp_path / "lander.mp4", max_steps=5
    )
    assert film["frames"] == 5
    assert (tmp_path / "lander.mp4").stat().st_size > 0


def test_films_a_robot_without_a_display(
    trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_or_skip("InvertedDoublePendulum-v5")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    made = trainer("PPO", "InvertedDoublePendulum-v5", **SHORT)
    try:
        film = poise.record(made, tmp_path / "poles.mp4", max_steps=5)
    except poise.EnvError as error:
        pytest.skip(f"no OpenGL on this machine: {error}")
    finally:
        monkeypatch.delenv("MUJOCO_GL", raising=False)  # filming set it
    assert film["frames"] == 5


@pytest.mark.parametrize(
    ("env", "module", "extra"),
    [
        ("InvertedDoublePendulum-v5", "mujoco", "mujoco"),
        ("Hopper-v4", "mujoco", "mujoco"),
        ("LunarLander-v3", "Box2D", "box2d"),
        ("BipedalWalker-v3", "Box2D", "box2d"),
    ],
)
def test_missing_extra_is_named(
    env: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [
        name
        for name in sys.modules
        if name.split(".")[:2] == ["gymnasium", "envs"] and extra in name
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(poise.EnvError) as caught:
        poise.PPO(env, progress=False)
    said = str(caught.value)
    assert install(extra) in said
    assert said.count(". ") == 0
    assert "gymnasium[" not in said


def test_a_missing_egl_is_named(
    trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_or_skip("InvertedDoublePendulum-v5")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    made = trainer("PPO", "InvertedDoublePendulum-v5", **SHORT)
    from gymnasium.envs.mujoco import mujoco_rendering

    def fail(*_: Any) -> None:  # as PyOpenGL does where there is no libEGL
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    monkeypatch.setattr(mujoco_rendering, "_import_egl", fail)
    monkeypatch.setitem(mujoco_rendering._ALL_RENDERERS, "egl", fail)
    with pytest.raises(poise.EnvError, match="libegl1"):
        poise.record(made, tmp_path / "poles.mp4")
