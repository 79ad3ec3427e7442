"""Scripts of Stable-Baselines3: its arguments, defaults, vector environments and callbacks."""

from __future__ import annotations

import importlib
import json
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import poise
from poise.compat import gym, sb3_contrib
from poise.compat.gym import core
from poise.compat.stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from poise.compat.stable_baselines3.common import callbacks as cb
from poise.compat.stable_baselines3.common import results_plotter
from poise.compat.stable_baselines3.common.env_checker import check_env
from poise.compat.stable_baselines3.common.env_util import make_atari_env, make_vec_env
from poise.compat.stable_baselines3.common.evaluation import evaluate_policy
from poise.compat.stable_baselines3.common.logger import configure
from poise.compat.stable_baselines3.common.monitor import Monitor, load_results
from poise.compat.stable_baselines3.common.noise import (
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
)
from poise.compat.stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from poise.compat.stable_baselines3.common.utils import LinearSchedule, set_random_seed
from poise.compat.stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
    sync_envs_normalization,
)
from poise.compat.stable_baselines3.settings import ARGUMENTS
from poise.errors import CheckpointError
from poise.learning import device
from test_against_sb3 import python  # noqa: F401

SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "device": "cpu"}


@pytest.fixture(autouse=True)
def nothing_said() -> Iterator[None]:
    core._said.clear()
    yield
    core._said.clear()


class Counting(gymnasium.Env):
    """Observations count the steps; an episode has four, of which the last is cut."""

    observation_space = spaces.Box(-100, 100, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.at = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.at += 1
        obs = np.full(2, self.at, np.float32)
        return obs, float(self.at), False, self.at == 4, {"is_success": True}


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_arguments_and_defaults_are_those_of_stable_baselines3(python: str) -> None:  # noqa: F811
    code = """
import inspect, json, stable_baselines3 as s
print(json.dumps({n: [[p.name, p.default] for p in
    list(inspect.signature(getattr(s, n).__init__).parameters.values())[3:]]
    for n in ("PPO", "A2C", "DQN", "SAC", "TD3", "DDPG")}))
"""
    judge = json.loads(subprocess.check_output([python, "-W", "ignore", "-c", code], text=True))
    for name, arguments in judge.items():
        assert [list(pair) for pair in ARGUMENTS[name].items()] == arguments, name


def test_models_begin_with_those_numbers() -> None:
    env = gym.make("Pendulum-v1")
    sac = SAC("MlpPolicy", env, buffer_size=1000).trainer.config
    assert (sac.train_batch_size, sac.learning_starts, sac.tau, sac.lr) == (256, 100, 0.005, 3e-4)
    assert (sac.rollout_fragment_length, sac.gradient_steps, sac.num_envs) == (1, 1, 1)
    td3 = TD3("MlpPolicy", env, buffer_size=1000).trainer.config
    assert (td3.model.fcnet_hiddens, td3.exploration_noise, td3.policy_delay) == ([400, 300], 0, 2)
    ddpg = DDPG("MlpPolicy", env, 0.01, 1000).trainer.config
    assert (ddpg.lr, ddpg.buffer_size, ddpg.num_critics, ddpg.target_noise) == (0.01, 1000, 1, 0)
    dqn = DQN("MlpPolicy", "CartPole-v1", buffer_size=1000).trainer.config
    assert (dqn.double_q, dqn.rollout_fragment_length, dqn.gradient_steps) == (False, 4, 1)
    assert (dqn.target_network_update_freq, dqn.train_batch_size) == (10_000, 32)
    ppo = PPO("MlpPolicy", make_vec_env("CartPole-v1", 2)).trainer.config
    assert (ppo.train_batch_size, ppo.sgd_minibatch_size, ppo.num_sgd_iter) == (4096, 64, 10)
    a2c = A2C("MlpPolicy", "CartPole-v1").trainer.config
    assert (a2c.train_batch_size, a2c.gae_lambda, a2c.normalize_advantages) == (5, 1.0, False)


def test_what_is_left_out_is_said_and_what_is_unknown_is_refused() -> None:
    with pytest.warns(UserWarning, match=r"PPO: use_sde=True .* Give exploration_correlation"):
        PPO("MlpPolicy", "CartPole-v1", use_sde=True)
    noise = NormalActionNoise(np.zeros(1), np.ones(1))
    with pytest.warns(UserWarning, match=r"SAC: action_noise=NormalActionNoise.* Actions are samp"):
        SAC("MlpPolicy", "Pendulum-v1", action_noise=noise, buffer_size=100)
    with pytest.raises(TypeError, match="learning_rat"):
        PPO("MlpPolicy", "CartPole-v1", learning_rat=1)
    with pytest.raises(ImportError, match=r"stable_baselines3.PPOO is not here.*'PPO'"):
        from poise.compat.stable_baselines3 import PPOO  # noqa: F401
    with pytest.raises(NotImplementedError, match=r"sb3_contrib.MaskablePPO .* PPO takes action"):
        sb3_contrib.MaskablePPO("MlpPolicy", "CartPole-v1")
    with pytest.raises(AttributeError, match=r"PPO has no 'rollout_buffer' here"):
        PPO("MlpPolicy", "CartPole-v1").rollout_buffer  # noqa: B018


def test_noise_is_as_wide_as_it_was() -> None:
    noise = NormalActionNoise(mean=np.zeros(1), sigma=0.3 * np.ones(1))
    config = TD3("MlpPolicy", "Pendulum-v1", action_noise=noise, buffer_size=9).trainer.config
    assert (config.exploration_noise, config.exploration_correlation) == (pytest.approx(0.3), 0)
    slow = OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.2 * np.ones(1))
    config = DDPG("MlpPolicy", "Pendulum-v1", action_noise=slow, buffer_size=9).trainer.config
    np.random.seed(0)
    walk = [slow()[0] for _ in range(200_000)]
    assert np.std(walk) == pytest.approx(config.exploration_noise, rel=0.15)
    assert config.exploration_correlation == pytest.approx(0.9985)


def test_a_gaussian_is_as_wide_as_there_in_the_units_of_actions() -> None:
    policy = PPO("MlpPolicy", "Pendulum-v1", policy_kwargs={"log_std_init": -1.0}).policy
    assert policy.log_std.item() == pytest.approx(-1 - np.log(2))


def test_schedules_are_functions_of_what_remains() -> None:
    model = PPO("MlpPolicy", "CartPole-v1", LinearSchedule(1e-3, 0, 1.0), **SMALL)
    seen: list[float] = []

    class Rate(cb.BaseCallback):
        def _on_rollout_end(self) -> None:
            seen.append(model.learnt.get("train/learning_rate", 1e-3))

    model.learn(128, Rate())
    assert seen == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4], rel=0.01)
    assert seen == sorted(seen, reverse=True)
    assert model.trainer.algorithm.scheduled(model.trainer.config.lr) == pytest.approx(0)
    dqn = DQN("MlpPolicy", "CartPole-v1", exploration_fraction=0.5, buffer_size=500)
    dqn.learn(200)
    assert (dqn.trainer.config.epsilon_timesteps, dqn.num_timesteps) == (100, 200)


def test_an_extractor_of_the_script_is_in_front_of_its_layers() -> None:
    class Sum(BaseFeaturesExtractor):
        def __init__(self, observation_space: spaces.Box, features_dim: int = 3) -> None:
            super().__init__(observation_space, features_dim)
            self.layer = nn.Linear(observation_space.shape[0], features_dim)

        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            return self.layer(observations)

    kwargs = {
        "features_extractor_class": Sum,
        "features_extractor_kwargs": {"features_dim": 5},
        "net_arch": {"pi": [7], "vf": [9]},
        "activation_fn": nn.ReLU,
    }
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, **SMALL)
    shapes = [tuple(p.shape) for p in model.policy.parameters() if p.ndim == 2]
    assert shapes == [(5, 4), (7, 5), (2, 7), (9, 5), (1, 9)]
    before = model.policy.network.features_extractor.layer.weight.clone()
    model.learn(64)
    assert not torch.equal(model.policy.network.features_extractor.layer.weight, before)
    with pytest.warns(UserWarning, match="features_extractor_class=Sum is left out: SAC has none"):
        SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, buffer_size=100)


# --- training -------------------------------------------------------------------------------------


def test_old_and_new_scripts_train_and_play(tmp_path: Path) -> None:
    env = gym.make("CartPole-v1")
    model = PPO("MlpPolicy", env, seed=1, **SMALL).learn(total_timesteps=100)
    assert model.num_timesteps == 128
    obs = env.reset()
    action, state = model.predict(obs, deterministic=True)
    obs, _reward, done, _info = env.step(action)
    assert (state, done, action.shape) == (None, False, ())
    venv = model.get_env()
    obs = venv.reset()
    obs, rewards, dones, infos = venv.step(model.predict(obs)[0])
    assert (obs.shape, rewards.tolist(), len(infos), dones.tolist()) == ((1, 4), [1.0], 1, [False])
    model.save(tmp_path / "ppo")
    again = PPO.load(str(tmp_path / "ppo"), env=env)
    np.testing.assert_array_equal(
        model.predict(np.ones((5, 4)), deterministic=True)[0],
        again.predict(np.ones((5, 4)), deterministic=True)[0],
    )
    again.set_env(make_vec_env("CartPole-v1", n_envs=2))
    again.learn(64)
    assert again.num_timesteps == 64
    model.policy.save(tmp_path / "policy.zip")
    alone = importlib.import_module("poise.compat.stable_baselines3.ppo").MlpPolicy
    actions, _ = alone.load(tmp_path / "policy.zip").predict(np.ones((5, 4)), deterministic=True)
    np.testing.assert_array_equal(actions, model.predict(np.ones((5, 4)), deterministic=True)[0])
    with pytest.raises(CheckpointError, match="cannot be read"):
        PPO.load(str(tmp_path / "none"))


def test_equal_seeds_are_equal() -> None:
    def trained(seed: int | None) -> np.ndarray:
        if seed is None:
            set_random_seed(5)
        model = A2C("MlpPolicy", make_vec_env("CartPole-v1", 2, seed=0), seed=seed).learn(60)
        return torch.cat([p.flatten() for p in model.policy.parameters()]).detach().numpy()

    np.testing.assert_array_equal(trained(3), trained(3))
    np.testing.assert_array_equal(trained(None), trained(None))
    assert not np.array_equal(trained(3), trained(4))


def test_callbacks_hear_each_step_and_end_the_training() -> None:
    seen: list[Any] = []

    class Seen(cb.BaseCallback):
        def _on_training_start(self) -> None:
            seen.append("start")

        def _on_rollout_start(self) -> None:
            seen.append("rollout")

        def _on_step(self) -> bool:
            got = self.locals
            seen.append((self.num_timesteps, got["rewards"].tolist(), got["dones"].tolist()))
            self.logger.record("own/at", self.n_calls)
            return self.num_timesteps < 12

        def _on_rollout_end(self) -> None:
            seen.append("end of rollout")

        def _on_training_end(self) -> None:
            seen.append("end")

    venv = DummyVecEnv([Counting, Counting])
    model = PPO("MlpPolicy", venv, n_steps=5, batch_size=10, n_epochs=1)
    model.learn(100, Seen())
    steps = [
        (2, [1.0, 1.0], [False] * 2), (4, [2.0, 2.0], [False] * 2), (6, [3.0, 3.0], [False] * 2),
        (8, [4.0, 4.0], [True] * 2), (10, [1.0, 1.0], [False] * 2),
    ]  # fmt: skip
    more = (12, [2.0, 2.0], [False] * 2)
    assert seen == ["start", "rollout", *steps, "end of rollout", "rollout", more, "end"]
    assert model.num_timesteps == 12
    assert model.logger.name_to_value["own/at"] == 6
    model.learn(10, reset_num_timesteps=False)
    assert model.num_timesteps == 22

    class Broken(cb.BaseCallback):
        def _on_step(self) -> bool:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        model.learn(10, Broken())


def test_evaluations_keep_the_best_and_stop(tmp_path: Path) -> None:
    env = Monitor(gymnasium.make("CartPole-v1"))
    stop = cb.StopTrainingOnRewardThreshold(reward_threshold=5)
    keep = cb.CheckpointCallback(16, str(tmp_path / "kept"), name_prefix="m")
    evaluate = cb.EvalCallback(
        env, callback_on_new_best=stop, eval_freq=20, n_eval_episodes=3,
        best_model_save_path=str(tmp_path), log_path=str(tmp_path), verbose=0,
    )  # fmt: skip
    every: list[int] = []
    note = cb.ConvertCallback(lambda got, _: every.append(got["self"].num_timesteps))
    model = PPO("MlpPolicy", "CartPole-v1", seed=0, **SMALL)
    model.learn(500, callback=[evaluate, keep, cb.EveryNTimesteps(8, note)])
    assert model.num_timesteps == 20
    assert every == [8, 16]
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["m_16_steps.zip"]
    with np.load(tmp_path / "evaluations.npz") as kept:
        assert kept["results"].shape == (1, 3)
        assert kept["timesteps"].tolist() == [20]
    best = PPO.load(tmp_path / "best_model")
    mean, _ = evaluate_policy(best, env, n_eval_episodes=3)
    assert mean > 5
    with pytest.raises(AssertionError, match="not above 600"):
        evaluate_policy(best, env, 1, reward_threshold=600)
    few = cb.StopTrainingOnMaxEpisodes(max_episodes=2)
    model = A2C("MlpPolicy", DummyVecEnv([Counting])).learn(1000, few)
    assert model.num_timesteps == 8
    assert [(e["r"], e["l"]) for e in model.ep_info_buffer] == []  # there is no Monitor


def test_logs_are_written_where_they_are_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = PPO("MlpPolicy", Counting(), verbose=1, tensorboard_log=str(tmp_path / "tb"), **SMALL)
    model.learn(64, tb_log_name="first")
    out = capsys.readouterr().out
    assert "|    ep_rew_mean          | 10 " in out
    assert "policy_gradient_loss" in out
    assert [p.name for p in (tmp_path / "tb").iterdir()] == ["first_1"]
    model.set_logger(configure(str(tmp_path), ["csv", "json"]))
    model.learn(64)
    lines = (tmp_path / "progress.csv").read_text().splitlines()
    assert len(lines) == 3
    row = dict(zip(lines[0].split(","), lines[2].split(","), strict=True))
    assert (row["rollout/ep_len_mean"], row["rollout/success_rate"]) == ("4.0", "1.0")
    assert row["time/total_timesteps"] == "64"
    first = json.loads((tmp_path / "progress.json").read_text().splitlines()[0])
    assert first["time/iterations"] == 1


def test_replays_and_goals(tmp_path: Path) -> None:
    model = DQN("MlpPolicy", "CartPole-v1", learning_starts=50, buffer_size=200, seed=0)
    model.learn(total_timesteps=120, log_interval=1)
    assert (model.num_timesteps, model.replay_buffer.size()) == (120, 120)
    model.save_replay_buffer(tmp_path / "replay")
    model.save(tmp_path / "dqn")
    assert model.replay_buffer.size() == 120
    other = DQN.load(tmp_path / "dqn", env="CartPole-v1")
    assert other.replay_buffer.size() == 0
    other.load_replay_buffer(tmp_path / "replay")
    assert other.replay_buffer.size() == 120
    other.set_parameters(model.get_parameters())
    other.learn(8, reset_num_timesteps=False)

    class Reach(gymnasium.Env):
        action_space = spaces.Box(-1, 1, (1,), np.float32)
        observation_space = spaces.Dict(
            {
                key: spaces.Box(-9, 9, (1,), np.float32)
                for key in ("observation", "achieved_goal", "desired_goal")
            }
        )

        def _seen(self) -> Any:
            at = np.array([self.at], np.float32)
            return {"observation": at, "achieved_goal": at, "desired_goal": np.ones(1, np.float32)}

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.at, self.steps = 0.0, 0
            return self._seen(), {}

        def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
            return -(np.abs(achieved - desired)[..., 0] > 0.1).astype(float)

        def step(self, action: Any) -> Any:
            self.at, self.steps = float(np.clip(self.at + action[0], -9, 9)), self.steps + 1
            obs = self._seen()
            worth = self.compute_reward(obs["achieved_goal"], obs["desired_goal"], {})
            return obs, float(worth), False, self.steps == 5, {}

    goals = SAC(
        "MultiInputPolicy", Reach(), learning_starts=20, buffer_size=200, batch_size=16,
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 2, "goal_selection_strategy": "future"},
    )  # fmt: skip
    goals.learn(40)
    assert (goals.trainer.config.her, goals.trainer.config.n_sampled_goal) == (True, 2)


def test_a_memory_takes_one_environment() -> None:
    model = sb3_contrib.RecurrentPPO("MlpLstmPolicy", "CartPole-v1", n_steps=16, batch_size=16)
    model.learn(32)
    obs = np.zeros(4, np.float32)
    action, state = model.predict(obs)
    action, state = model.predict(obs, state=state, episode_start=np.zeros(1, bool))
    assert (int(action) in (0, 1), len(state) > 0) == (True, True)
    with pytest.raises(poise.ConfigError, match="takes one environment here"):
        sb3_contrib.RecurrentPPO("MlpLstmPolicy", make_vec_env("CartPole-v1", 2))


# --- vector environments --------------------------------------------------------------------------


def test_an_episode_that_ends_begins_anew_and_its_last_observation_is_in_the_info() -> None:
    venv = DummyVecEnv([Counting])
    venv.reset()
    for _ in range(4):
        obs, rewards, dones, infos = venv.step([0])
    assert (obs.tolist(), rewards.tolist(), dones.tolist()) == ([[0, 0]], [4.0], [True])
    assert infos[0]["terminal_observation"].tolist() == [4, 4]
    assert infos[0]["TimeLimit.truncated"] is True
    assert venv.get_attr("at") == [0]
    venv.set_attr("at", 2)
    assert venv.env_method("step", 0)[0][1] == 3.0


@pytest.mark.slow
def test_processes_give_what_one_process_gives() -> None:
    makers = [lambda: Monitor(gymnasium.make("CartPole-v1"))] * 2
    there, here = SubprocVecEnv(makers), DummyVecEnv(makers)
    for venv in (there, here):
        venv.seed(3)
    np.testing.assert_array_equal(there.reset(), here.reset())
    ended = 0
    for _ in range(60):
        found, wanted = there.step(np.array([1, 0])), here.step(np.array([1, 0]))
        for one, other in zip(found[:3], wanted[:3], strict=True):
            np.testing.assert_array_equal(one, other)
        for mine, theirs in zip(found[3], wanted[3], strict=True):
            assert mine["TimeLimit.truncated"] == theirs["TimeLimit.truncated"]
            if "episode" in theirs:
                ended += 1
                assert (mine["episode"]["r"], mine["episode"]["l"]) == (
                    theirs["episode"]["r"], theirs["episode"]["l"],
                )  # fmt: skip
                np.testing.assert_array_equal(
                    mine["terminal_observation"], theirs["terminal_observation"]
                )
            else:
                assert "terminal_observation" not in mine
    assert ended > 3
    assert there.get_attr("spec")[0].id == "CartPole-v1"
    PPO("MlpPolicy", there, **SMALL).learn(128)
    there.close()


def test_frames_are_stacked_and_forgotten_at_an_episodes_end() -> None:
    venv = VecFrameStack(DummyVecEnv([Counting, Counting]), n_stack=3)
    assert venv.reset().tolist() == [[0] * 6] * 2
    for _ in range(3):
        obs, *_ = venv.step([0, 0])
    assert obs[0].tolist() == [1, 1, 2, 2, 3, 3]
    obs, _, dones, infos = venv.step([0, 0])
    assert dones.all()
    assert infos[1]["terminal_observation"].tolist() == [2, 2, 3, 3, 4, 4]
    assert obs[1].tolist() == [0] * 6


def test_numbers_are_normalised_as_their_moments_say(tmp_path: Path) -> None:
    venv = VecNormalize(DummyVecEnv([Counting]), gamma=0.5, clip_obs=5.0)
    venv.reset()
    seen, returns, total = [0.0], [], 0.0
    for at in (1, 2, 3):
        obs, rewards, _, _ = venv.step([0])
        seen.append(at)
        total = total * 0.5 + at
        returns.append(total)
    mean, spread = np.mean(seen), np.std(seen)
    assert obs[0, 0] == pytest.approx((3 - mean) / spread, rel=1e-3)
    assert rewards[0] == pytest.approx(3 / np.std(returns), rel=1e-3)
    assert venv.get_original_reward().tolist() == [3.0]
    assert venv.unnormalize_obs(obs)[0, 0] == pytest.approx(3, rel=1e-5)
    venv.save(tmp_path / "moments.pkl")
    other = VecNormalize.load(tmp_path / "moments.pkl", DummyVecEnv([Counting]))
    other.training = other.norm_reward = False
    np.testing.assert_allclose(other.obs_rms.mean, venv.obs_rms.mean)
    fresh = VecNormalize(DummyVecEnv([Counting]))
    sync_envs_normalization(venv, fresh)
    assert fresh.ret_rms.var == venv.ret_rms.var
    (tmp_path / "theirs.pkl").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(CheckpointError, match="is no VecNormalize of Poise's"):
        VecNormalize.load(tmp_path / "theirs.pkl", fresh)
    model = PPO("MlpPolicy", venv, **SMALL).learn(64)
    assert model.get_vec_normalize_env() is venv


def test_other_wrappers_do_what_they_say(tmp_path: Path) -> None:
    class Named(Counting):
        observation_space = spaces.Dict({  # type: ignore[assignment]
            "a": Counting.observation_space, "p": spaces.Box(0, 255, (8, 9, 3), np.uint8)
        })  # fmt: skip

        def reset(self, **kwargs: Any) -> Any:
            return {"a": super().reset(**kwargs)[0], "p": np.zeros((8, 9, 3), np.uint8)}, {}

        def step(self, action: Any) -> Any:
            obs, *rest = super().step(action)
            return {"a": obs, "p": np.zeros((8, 9, 3), np.uint8)}, *rest

        def render(self) -> Any:
            return np.zeros((8, 8, 3), np.uint8)

    turned = VecTransposeImage(DummyVecEnv([Named]))
    assert turned.observation_space["p"].shape == turned.reset()["p"].shape[1:] == (3, 8, 9)
    only = VecMonitor(VecExtractDictObs(turned, "a"), str(tmp_path / "all"), ["is_success"])
    only.reset()
    for _ in range(4):
        _, _, _, infos = only.step([0])
    assert infos[0]["terminal_observation"].tolist() == [4, 4]
    assert (infos[0]["episode"]["r"], infos[0]["episode"]["l"]) == (10.0, 4)
    assert "10.0,4," in (tmp_path / "all.monitor.csv").read_text()
    with pytest.raises(ValueError, match="actions hold numbers that are not finite"):
        VecCheckNan(only, raise_exception=True).step_async(np.array([np.nan]))

    class Twice(VecEnvWrapper):
        def step_wait(self) -> Any:
            obs, rewards, dones, infos = self.venv.step_wait()
            return obs * 2, rewards, dones, infos

    twice = Twice(DummyVecEnv([Counting]))
    twice.reset()
    assert twice.step([0])[0].tolist() == [[2, 2]]
    assert twice.envs[0].at == 1
    films = VecVideoRecorder(make_vec_env("CartPole-v1"), str(tmp_path), lambda k: k == 0, 5)
    films.reset()
    for _ in range(6):
        films.step([0])
    films.close()
    film = tmp_path / "rl-video-step-0-to-step-5.mp4"
    assert film.read_bytes()[4:8] == b"ftyp"


def test_monitors_write_what_plots_read(tmp_path: Path) -> None:
    env = Monitor(Counting(), str(tmp_path / "0"), info_keywords=("is_success",))
    for _ in range(3):
        env.reset()
        done = False
        while not done:
            _, _, _, done, info = env.step(0)
    assert (info["episode"]["r"], env.get_episode_lengths()) == (10.0, [4, 4, 4])
    assert env.get_total_steps() == 12
    x, y = results_plotter.ts2xy(load_results(str(tmp_path)), results_plotter.X_TIMESTEPS)
    assert (x.tolist(), y.tolist()) == ([4, 8, 12], [10.0] * 3)
    x, y = results_plotter.window_func(x, y, 2, np.mean)
    assert (x.tolist(), y.tolist()) == ([8, 12], [10.0, 10.0])


def test_atari_games_are_prepared_as_there() -> None:
    venv = VecFrameStack(make_atari_env("BreakoutNoFrameskip-v4", n_envs=2, seed=0), n_stack=4)
    obs = venv.reset()
    assert (obs.shape, obs.dtype) == ((2, 84, 84, 4), np.uint8)
    lost = 0
    for _ in range(60):
        _, rewards, dones, infos = venv.step(np.array([1, 1]))
        assert set(np.abs(rewards).tolist()) <= {0.0, 1.0}
        lost += sum("episode" not in i for i, d in zip(infos, dones, strict=True) if d)
    assert lost > 0  # a life ends an episode of learning, and none of the Monitor's
    model = DQN("CnnPolicy", venv, buffer_size=100, learning_starts=1000)
    assert model.trainer.config.model.fcnet_hiddens == [512]
    model.learn(16)
    ppo = PPO("CnnPolicy", venv, n_steps=8, batch_size=16, n_epochs=1).learn(16)
    assert ppo.trainer.config.model.vf_share_layers


def test_environments_are_checked() -> None:
    class Wrong(Counting):
        def step(self, action: Any) -> Any:
            return np.zeros(3, np.float32), 0.0, False, True, {}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(Counting(), warn=False)
        with pytest.raises(AssertionError, match="shape"):
            check_env(Wrong(), warn=False)


def test_only_dqn_has_a_rate_of_exploration() -> None:
    model = DQN("MlpPolicy", "CartPole-v1", learning_starts=10, exploration_fraction=0.5)
    assert model.learn(200).exploration_rate == pytest.approx(0.05)
    with pytest.raises(AttributeError, match="PPO has no 'exploration_rate' here"):
        _ = PPO("MlpPolicy", "CartPole-v1").exploration_rate


def test_steps_are_counted_on_after_loading(tmp_path: Path) -> None:
    """As Stable-Baselines3 2.9.2 does: 128, and then 192; and anew, unless told otherwise."""
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, seed=0).learn(100)
    model.save(tmp_path / "model")
    again = PPO.load(tmp_path / "model", env=gymnasium.make("CartPole-v1"))
    assert again.num_timesteps == 128
    assert again.learn(1, reset_num_timesteps=False).num_timesteps == 192
    assert again.learn(1).num_timesteps == 64


def test_what_files_leave_out_is_said_and_the_device_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = PPO("MlpPolicy", "CartPole-v1")
    with pytest.warns(poise.PoiseWarning, match=r"save: exclude=\['env'\] has no equivalent"):
        model.save(tmp_path / "model", exclude=["env"])
    monkeypatch.setattr(device, "available", lambda: False)
    again = PPO.load(tmp_path / "model", device="cuda")
    assert again.trainer.notes[0].startswith("num_gpus=1: PyTorch sees no GPU")
