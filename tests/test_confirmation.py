"""A goal ends a run only if fresh episodes of the present policy reach it, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import poise
from poise.config.resolve import resolve
from poise.training.confirmation import Confirmation
from poise.training.trainer import Trainer

LENGTH = 4
SMALL: dict[str, Any] = {
    "num_envs_per_worker": 2,
    "rollout_fragment_length": 64,
    "seed": 1,
    "num_sgd_iter": 1,
}


class Lucky(gym.Env):
    """The first two instances, which are trained in, earn 1 an episode; later ones earn `fresh`."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)
    made = 0
    fresh: ClassVar[float] = 0.0
    fresh_steps = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.trained_in = type(self).made <= 2

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.now = 0
        return self.np_random.uniform(-1, 1, 1).astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.now += 1
        over = self.now == LENGTH
        if not self.trained_in:
            type(self).fresh_steps += 1
        reward = (1.0 if self.trained_in else type(self).fresh) if over else 0.0
        info = {"is_success": reward > 0.5} if over else {}
        return self.np_random.uniform(-1, 1, 1).astype(np.float32), reward, over, False, info


@pytest.fixture(autouse=True)
def nothing_made() -> None:
    Lucky.made, Lucky.fresh, Lucky.fresh_steps = 0, 0.0, 0


def make(**settings: Any) -> Trainer:
    Lucky.made = 0
    return poise.make_trainer("PPO", Lucky, preset=None, progress=False, **{**SMALL, **settings})


def timeless(results: Any) -> list[dict[str, Any]]:
    return [
        {k: str(v) for k, v in r.items() if not k.startswith(("time_", "perf/"))} for r in results
    ]


class Improves(poise.Callback):
    """From its iteration on, the policy earns as much in fresh environments."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        Lucky.fresh = float(result["training_iteration"] >= self.iteration)


@pytest.mark.parametrize("key", ["episode_reward_mean", "info/is_success"])
def test_a_lucky_window_does_not_end_a_run_and_is_said_once(key: str) -> None:
    with make(callbacks=[Improves(20)]) as algo:
        with pytest.warns(RuntimeWarning) as told:
            result = algo.learn(stop={key: 1, "training_iteration": 100})
        assert result["training_iteration"] >= 20
        assert result["stop_reason"].startswith(f"{key} reached 1: confirmed 1 over ")
        assert result["confirmed_reward_mean"] == 1
        assert 20 <= result["confirmed_episodes"] <= 100
        assert algo.confirmed == {
            k: result[k] for k in ("confirmed_reward_mean", "confirmed_episodes")
        }
    assert len(told) == 1
    assert "training goes on until fresh episodes reach it, too" in str(told[0].message)
    # Twice as many steps are trained between two confirmations as one took.
    assert Lucky.fresh_steps < result["timesteps_total"]


def test_a_goal_that_is_not_confirmed_leaves_the_other_goals() -> None:
    with (
        make() as algo,
        pytest.warns(RuntimeWarning, match=r"20 fresh episodes of the present policy have 0: "),
    ):
        result = algo.learn(stop={"episode_reward_mean": 1, "training_iteration": 12})
    assert result["stop_reason"] == "training_iteration reached 12"
    assert "confirmed_reward_mean" not in result


def test_without_confirmation_the_window_ends_the_run() -> None:
    with make() as algo:
        result = algo.learn(stop={"episode_reward_mean": 1}, confirm=False)
    assert (result["stop_reason"], result["episodes_total"] >= 100) == (
        "episode_reward_mean reached 1",
        True,
    )
    assert "confirmed_reward_mean" not in result
    assert Lucky.made == 2


def test_confirmations_change_nothing_in_training() -> None:
    with make() as plain:
        plain.learn(stop={"training_iteration": 12})
    with make() as asked, pytest.warns(RuntimeWarning):
        asked.learn(stop={"episode_reward_mean": 1, "training_iteration": 12})
    assert Lucky.fresh_steps > 0
    assert timeless(asked.history) == timeless(plain.history)


def test_what_is_saved_says_what_was_confirmed_of_it(tmp_path: Path) -> None:
    Lucky.fresh = 1.0
    run = poise.run(
        "PPO", Lucky, stop={"episode_reward_mean": 1}, folder=tmp_path, tensorboard=False,
        quiet=True, checkpoint_freq=1, preset=None, **SMALL,
    )  # fmt: skip
    run.trainer.close()
    assert run.result["confirmed_reward_mean"] == 1
    assert run.folder.status()["confirmed_reward_mean"] == 1
    newest = max(run.folder.checkpoints.iterdir())
    manifest = json.loads((newest / "manifest.json").read_text())
    assert manifest["iteration"] == run.result["training_iteration"]
    assert (manifest["confirmed_reward_mean"], manifest["confirmed_episodes"]) == (
        1,
        run.result["confirmed_episodes"],
    )
    assert "confirmed 1 over" in (run.path / "log.txt").read_text()


@pytest.mark.parametrize(("trained", "games"), [(100_000, 20), (1_000_000, 50), (9_000_000, 100)])
def test_games_from_the_screen_take_a_tenth_of_the_steps_so_far(trained: int, games: int) -> None:
    config, _ = resolve("PPO", "PongNoFrameskip-v4", preset=None)
    asked: list[int] = []
    confirm = Confirmation(config, lambda n: asked.append(n) or [], lambda failure: None)
    result = {"timesteps_total": trained, "episode_len_mean": 2000.0}
    assert confirm("episode_reward_mean", 18.0, result) is None
    assert asked == [games]


def test_a_native_environment_plays_the_whole_window_at_once() -> None:
    with poise.make_trainer("PPO", "CartPole-v1", preset=None, progress=False, seed=1) as algo:
        result = algo.learn(stop={"episode_reward_mean": 15, "timesteps_total": 100_000})
        assert result["confirmed_episodes"] == 100
        assert result["confirmed_reward_mean"] >= 15
        assert algo.environments.evaluation(100).num_envs == 100
