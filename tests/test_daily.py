"""Guards what users ask for daily.

Ends where nothing improves, settings that change while a policy learns, other policies' weights,
and what a policy makes of an observation.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.test_selfplay import Higher

import poise
from poise.errors import CheckpointError, ModelError
from poise.training.metrics import Metrics

TINY: dict[str, Any] = {
    "preset": None,
    "seed": 5,
    "num_envs_per_worker": 2,
    "rollout_fragment_length": 16,
    "num_sgd_iter": 2,
    "model": {"fcnet_hiddens": [8]},
}
QUIET: dict[str, Any] = {"quiet": True, "tensorboard": False}
REPLAYING: dict[str, Any] = {
    "preset": None, "seed": 5, "buffer_size": 500, "model": {"fcnet_hiddens": [8]},
}  # fmt: skip


def made(env: Any = "CartPole-v1", algorithm: str = "PPO", **settings: Any) -> poise.Trainer:
    return poise.make_trainer(algorithm, env, progress=False, **{**TINY, **settings})


# --- nothing improves any more --------------------------------------------------------------------


def test_steps_since_the_best_score_by_hand() -> None:
    metrics = Metrics(1)
    asked = [(None, 10), (1.0, 20), (0.5, 30), (None, 40), (1.0, 50), (1.5, 60), (1.5, 90)]
    assert [metrics.since_best(*each) for each in asked] == [0, 0, 10, 20, 30, 0, 30]
    again = Metrics(1)
    again.load_state_dict(json.loads(json.dumps(metrics.state_dict())))
    assert again.since_best(1.2, 100) == 40
    again.load_state_dict({k: v for k, v in metrics.state_dict().items() if k != "best"})
    assert again.since_best(None, 100) == 0  # an older checkpoint's


def test_training_ends_once_nothing_improves_also_over_a_resume(tmp_path: Path) -> None:
    """The score is made up: it rises for three iterations, and then no more."""

    class Scored(poise.Callback):
        def on_evaluation(self, trainer: poise.Trainer, evaluation: dict[str, float]) -> None:
            evaluation["episode_reward_mean"] = float(min(trainer.iteration, 2))

    how = {**TINY, **QUIET, "evaluation_interval": 1, "evaluation_duration": 1}
    rule = {"timesteps_since_best": 60}
    asked: dict[str, Any] = {"name": "r", "folder": tmp_path, "callbacks": [Scored()], **how}
    run = poise.run("PPO", "CartPole-v1", stop={**rule, "training_iteration": 3}, **asked)
    run.trainer.close()
    first = run.folder.metrics()
    assert [r["timesteps_since_best"] for r in first[:2]] == [0, 0]
    assert 0 < first[2]["timesteps_since_best"] < 60
    run = poise.resume(run.path, stop=rule, callbacks=[Scored()], quiet=True)
    run.trainer.close()
    steps = [r["timesteps_total"] for r in run.folder.metrics()]
    since = [r["timesteps_since_best"] for r in run.folder.metrics()]
    assert run.result["stop_reason"] == "timesteps_since_best reached 60"
    assert since == [0, 0, *(each - steps[1] for each in steps[2:])]
    assert since[-1] >= 60 > since[-2]


# --- settings that change -------------------------------------------------------------------------


class Halved(poise.Callback):
    """Halves the learning rate in the second iteration."""

    def on_iteration(self, trainer: poise.Trainer, result: dict[str, Any]) -> None:
        if trainer.iteration == 2:
            trainer.config.lr = trainer.config.lr / 2


def test_a_setting_that_a_callback_changes_lasts_over_a_resume(tmp_path: Path) -> None:
    asked = {"stop": {"training_iteration": 3}, "lr": 1e-3, "name": "r", "folder": tmp_path}
    run = poise.run("PPO", "CartPole-v1", callbacks=[Halved()], **{**TINY, **QUIET, **asked})
    run.trainer.close()
    log = (run.path / "log.txt").read_text()
    assert log.count("From here on, lr=0.0005 (was 0.001), as a callback has set it.") == 1
    saved = run.folder.config()
    assert saved["config"]["lr"] == 5e-4
    assert saved["changed_settings"] == [{"training_iteration": 3, "lr": [1e-3, 5e-4]}]
    resumed = poise.resume(run.path, stop={"training_iteration": 5}, quiet=True)
    resumed.trainer.close()
    assert resumed.trainer.config.lr == 5e-4
    rates = [r["learner/cur_lr"] for r in resumed.folder.metrics()]
    assert rates == [1e-3, 1e-3, 5e-4, 5e-4, 5e-4]
    assert "Other settings" not in (run.path / "log.txt").read_text()


# --- weights of another ---------------------------------------------------------------------------


def test_a_warm_start_takes_what_fits(tmp_path: Path) -> None:
    """Acrobot has 6 numbers and 3 choices, CartPole 4 and 2: what is between fits."""
    with made() as other, made("Acrobot-v1") as third, made(seed=6) as own:
        obs = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
        assert own.policy_info(obs)["value"] != other.policy_info(obs)["value"]
        assert own.take_weights(other) == []
        assert own.policy_info(obs)["value"] == other.policy_info(obs)["value"]
        own.train()
        assert own.policy_info(obs)["value"] != other.policy_info(obs)["value"]
        left = third.take_weights(other.save(tmp_path / "c"))
        assert left == [
            f"network.{name}"
            for name in ("pi.layers.0.weight", "pi.layers.1.weight", "pi.layers.1.bias")
        ] + ["network.vf.layers.0.weight"]
        theirs, ours = other.policy.state_dict(), third.policy.state_dict()
        assert all(torch.equal(theirs[name], ours[name]) for name in ours.keys() - set(left))
        third.train()
        with pytest.raises(CheckpointError):
            own.take_weights(tmp_path / "nowhere")
        with (
            made("Pendulum-v1", model={"fcnet_hiddens": [5, 5, 5]}) as unlike,
            pytest.raises(ModelError, match="no name and shape agree"),
        ):
            unlike.take_weights(other)


def test_several_agents_take_weights_too_with_their_target_networks() -> None:
    own, other = (
        poise.make_trainer("DQN", Higher, progress=False, **{**REPLAYING, "seed": seed})
        for seed in (5, 6)
    )
    with own, other:
        assert own.take_weights(other) == []
        theirs, ours = (each.algorithm.members["default"] for each in (other, own))
        for one in (ours.policy, ours.target):
            pairs = zip(one.parameters(), theirs.policy.parameters(), strict=True)
            assert all(torch.equal(*pair) for pair in pairs)
        own.train()


def test_a_target_network_begins_with_the_weights_that_were_taken() -> None:
    with (
        poise.make_trainer("DQN", "CartPole-v1", progress=False, **REPLAYING) as own,
        poise.make_trainer(
            "DQN", "CartPole-v1", progress=False, **{**REPLAYING, "seed": 6}
        ) as other,
    ):
        own.take_weights(other)
        target: Any = own.algorithm
        for one, two in zip(target.target.parameters(), other.policy.parameters(), strict=True):
            assert torch.equal(one, two)


# --- what a policy makes of an observation --------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN", "SAC", "TD3"])
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_policy_info_agrees_with_what_it_does(algorithm: str, env: str) -> None:
    if (algorithm, env) in (("DQN", "Pendulum-v1"), ("TD3", "CartPole-v1")):
        return  # they do not take these actions
    with poise.make_trainer(algorithm, env, preset=None, seed=1, progress=False) as algo:
        space = algo.policy.obs_layout.space
        space.seed(0)
        batch = np.stack([np.clip(space.sample(), -1, 1) for _ in range(3)])
        several, one = algo.policy_info(batch), algo.policy_info(batch[1])
        assert np.array_equal(several["action"], algo.predict(batch)[0])
        for key, value in one.items():
            assert np.allclose(value, several[key][1], atol=1e-6, equal_nan=True), key
        assert math.isnan(one["value"]) == (algorithm in ("SAC", "TD3"))
        if env == "CartPole-v1":
            p = one["probabilities"]
            assert p.sum() == pytest.approx(1)
            assert one["log_prob"] == pytest.approx(math.log(p[one["action"]]))
            entropy = -sum(x * math.log(x) for x in p if x > 0)
            assert one["entropy"] == pytest.approx(entropy, abs=1e-6)
        if algorithm == "DQN":
            assert one["value"] == one["q"].max()
        if algorithm in ("PPO", "A2C") and env == "Pendulum-v1":
            spread = 0.5 + 0.5 * math.log(2 * math.pi) + np.log(one["std"]).sum()
            assert one["entropy"] == pytest.approx(spread)


def test_policy_info_goes_by_the_memory_and_the_mask() -> None:
    memory = {"memory": "lstm", "lstm_cell_size": 8, "lstm_use_prev_action": True}
    with made(model=memory) as algo:
        obs = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
        _, state = algo.predict(obs)
        fresh, later = algo.policy_info(obs), algo.policy_info(obs, state)
        assert fresh["value"] != later["value"]
        assert np.array_equal(algo.policy_info(obs, state, True)["inputs"], fresh["inputs"])
