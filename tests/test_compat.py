"""The old names: what they did, they do; and the tutorials that used them run to their ends.

The tutorials are in `tests/tutorials`, with each repair that they needed listed at the top.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poise.compat.ray.rllib.agents import DefaultCallbacks, a3c, ddpg, dqn, impala, ppo, sac
from poise.compat.ray.tune.logger import pretty_print

import poise
import warm
from poise.cluster.local import LocalCluster
from poise.compat import cluster, gym, ray
from poise.compat.azureml.core import Run
from poise.compat.gym.wrappers.monitoring.video_recorder import VideoRecorder
from poise.compat.translate import translated
from poise.config.resolve import resolve
from poise.errors import ConfigError, RunError
from poise.tuning.space import grid_search

TUTORIALS = Path(__file__).parent / "tutorials"


def quiet(algorithm: str, config: dict[str, Any], env: Any = "CartPole-v1") -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return translated(algorithm, config, env)[0]


# --- gym ------------------------------------------------------------------------------------------


def test_gym_is_the_old_one() -> None:
    env = gym.make("CartPole-v0")
    assert env.seed(3) == [3]
    first = env.reset()
    assert first.shape == (4,)
    obs, reward, done, info = env.step(env.action_space.sample())
    assert (obs.shape, reward, done, info) == ((4,), 1.0, False, {})
    for _ in range(300):
        _, _, done, info = env.step(0)
        if done:
            break
    assert done
    env.seed(3)
    np.testing.assert_array_equal(env.reset(), first)


def test_gym_says_when_time_is_over() -> None:
    env = gym.make("Pendulum-v1")
    env.reset()
    for _ in range(200):
        _, _, done, info = env.step(env.action_space.sample())
    assert done
    assert info["TimeLimit.truncated"] is True


def test_a_closed_environment_is_used_again_and_filmed(tmp_path: Path) -> None:
    env = gym.make("CartPole-v0")
    env.close()
    video = VideoRecorder(env, str(tmp_path / "film.mp4"))
    env.reset()
    for _ in range(5):
        env.render()
        video.capture_frame()
        env.step(env.action_space.sample())
    video.close()
    env.close()
    assert (tmp_path / "film.mp4").read_bytes()[4:8] == b"ftyp"


# --- configurations -------------------------------------------------------------------------------


def test_settings_are_translated_and_what_changes_nothing_is_silent() -> None:
    settings = quiet(
        "PPO",
        {
            "framework": "torch",
            "sgd_minibatch_size": 64,
            "num_sgd_iter": 3,
            "lambda": 0.9,
            "observation_filter": "MeanStdFilter",
            "horizon": 50,
            "model": {"fcnet_hiddens": grid_search([[32], [64]])},
            "lr_schedule": [[0, 1e-3], [1000, 1e-4]],
            "num_workers": 4,
            "log_level": "WARN",
        },
    )
    assert settings["normalize_observations"] is True
    assert settings["env_config"] == {"max_episode_steps": 50}
    assert settings["model.fcnet_hiddens"] == grid_search([[32], [64]])
    assert (settings["lr"], settings["gae_lambda"]) == ([[0, 1e-3], [1000, 1e-4]], 0.9)
    assert settings["num_workers"] == "auto"
    pictures = quiet("IMPALA", {"model": {"dim": 42, "framestack": False}}, "PongNoFrameskip-v4")
    assert pictures["env_config"] == {"size": 42, "stack": 1}
    assert (
        quiet("DQN", {"exploration_config": {"type": "EpsilonGreedy", "final_epsilon": 0.1}})[
            "final_epsilon"
        ]
        == 0.1
    )


def test_what_has_no_equivalent_is_said_with_what_comes_nearest() -> None:
    with pytest.warns(
        UserWarning, match=r"vf_loss_coef=1 .* left out\. Did you mean 'vf_loss_coeff'"
    ):
        assert "vf_loss_coef" not in translated("PPO", {"vf_loss_coef": 1}, "CartPole-v1")[0]
    with pytest.warns(UserWarning, match=r"model.use_attention=True .* left out\. A memory is an"):
        translated("PPO", {"model": {"use_attention": True, "fcnet_hiddens": [8]}}, "CartPole-v1")


def test_what_rllib_calls_its_memory_is_one() -> None:
    given = {
        "use_lstm": True,
        "lstm_cell_size": 32,
        "max_seq_len": 20,
        "lstm_use_prev_action_reward": True,
    }
    settings = quiet("PPO", {"model": given})
    assert settings["model.memory"] == "lstm"
    assert settings["model.lstm_cell_size"] == 32
    assert settings["model.max_seq_len"] == 20
    assert settings["model.lstm_use_prev_reward"] is True


def test_what_means_something_else_is_said() -> None:
    with pytest.warns(
        UserWarning, match=r"vf_clip_param=10.0 is left out: RLlib's bounds the squared error"
    ):
        assert "vf_clip_param" not in translated("PPO", {"vf_clip_param": 10.0}, "CartPole-v1")[0]
    with pytest.warns(
        UserWarning, match=r"kl_coeff=0.5 .* left out\. The clipped surrogate is used without a KL"
    ):
        translated("PPO", {"kl_coeff": 0.5}, "CartPole-v1")
    for order in (1, -1):  # the schedule wins, whichever comes first
        both = dict([("lr", 5e-5), ("lr_schedule", [[0, 1e-3], [10, 0.0]])][::order])
        assert quiet("PPO", both)["lr"] == [[0, 1e-3], [10, 0.0]]
        assert quiet("PPO", {**both, "lr_schedule": None})["lr"] == 5e-5


def test_a_batch_of_several_fragments_is_one_of_longer_ones() -> None:
    config = {"rollout_fragment_length": 50, "num_envs_per_worker": 5, "train_batch_size": 500}
    with pytest.warns(
        UserWarning,
        match="rollout_fragment_length=50 is left out: it contradicts train_batch_size=500",
    ):
        settings, _ = translated("IMPALA", config, "CartPole-v1")
    found: Any = resolve("IMPALA", None, settings, preset=None)[0]
    assert (found.num_envs, found.rollout_fragment_length) == (5, 100)
    assert "rollout_fragment_length" in quiet("IMPALA", {**config, "train_batch_size": 250})


def test_values_that_are_wrong_stay_errors() -> None:
    with pytest.raises(ConfigError, match="gamma=2"):
        ppo.PPOTrainer(config={"gamma": 2}, env="CartPole-v1")


# --- trainers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        ppo.PPOTrainer,
        ppo.APPOTrainer,
        a3c.A2CTrainer,
        a3c.A3CTrainer,
        dqn.DQNTrainer,
        impala.ImpalaTrainer,
    ],
)
def test_trainers_train(kind: Any) -> None:
    trainer = kind(env="CartPole-v0", config={"timesteps_per_iteration": 500})
    result = trainer.train()
    assert result["training_iteration"] == trainer.iteration == 1
    assert result["timesteps_total"] >= 500
    assert len(result["hist_stats"]["episode_reward"]) == len(
        result["hist_stats"]["episode_lengths"]
    )
    assert "entropy" in result["info"]["learner"]["default_policy"] or kind is dqn.DQNTrainer
    assert trainer.config["gamma"] == result["config"]["gamma"]
    trainer.stop()


OFF_POLICY = {
    "tau": 0.01, "target_network_update_freq": 0, "n_step": 1, "gamma": 0.98, "buffer_size": 5000,
    "train_batch_size": 16, "learning_starts": 200, "timesteps_per_iteration": 300,
    "rollout_fragment_length": 1, "prioritized_replay": False, "num_workers": 0, "twin_q": True,
    "store_buffer_in_checkpoints": True, "framework": "torch", "seed": 3,
}  # fmt: skip


def test_the_classic_sac_trains() -> None:
    layers = {"fcnet_hiddens": [8, 8], "fcnet_activation": "relu"}
    config = {
        **OFF_POLICY, "initial_alpha": 0.5, "target_entropy": "auto", "normalize_actions": True,
        "optimization": {
            "actor_learning_rate": 1e-3, "critic_learning_rate": 2e-3, "entropy_learning_rate": 3e-3
        },
        "Q_model": {**layers, "fcnet_hiddens": [9]}, "policy_model": layers,
    }  # fmt: skip
    with pytest.warns(poise.PoiseWarning) as said:
        trainer = sac.SACTrainer(env="Pendulum-v1", config=config)
    found = sorted(str(warning.message).partition("=")[0] for warning in said)
    assert found == ["Q_model.fcnet_activation"]
    made: Any = trainer.trainer.config
    assert (made.lr, made.critic_lr, made.alpha_lr) == (1e-3, 2e-3, 3e-3)
    assert (made.model.fcnet_hiddens, made.model.vf_fcnet_hiddens) == ([8, 8], [9])
    assert (made.initial_alpha, made.num_critics, made.tau) == (0.5, 2, 0.01)
    result = trainer.train()
    assert 300 <= result["timesteps_total"] < 400
    assert result["info"]["learner"]["default_policy"]["sgd_steps"] > 40
    assert trainer.compute_action(np.zeros(3, np.float32)).shape == (1,)
    trainer.stop()


@pytest.mark.parametrize("kind", [ddpg.TD3Trainer, ddpg.DDPGTrainer])
def test_the_classic_td3_and_ddpg_train(kind: Any) -> None:
    config = {
        **OFF_POLICY, "actor_hiddens": [8, 8], "critic_hiddens": [9], "actor_lr": 1e-3,
        "actor_hidden_activation": "relu", "critic_lr": 2e-3, "policy_delay": 3,
        "target_noise": 0.3, "smooth_target_policy": True,
        "exploration_config": {"type": "GaussianNoise", "random_timesteps": 100, "stddev": 0.1},
    }  # fmt: skip
    with pytest.warns(poise.PoiseWarning) as said:
        trainer = kind(env="Pendulum-v1", config=config)
    found = sorted(str(warning.message).partition("=")[0] for warning in said)
    assert found == ["random_timesteps", "smooth_target_policy", "stddev", "target_noise"]
    assert all("Give" in line or "give" in line or "units of actions" in line
               for line in (str(warning.message) for warning in said))  # fmt: skip
    made: Any = trainer.trainer.config
    assert (made.lr, made.critic_lr, made.num_critics, made.policy_delay) == (1e-3, 2e-3, 2, 3)
    assert (made.model.fcnet_hiddens, made.model.vf_fcnet_hiddens) == ([8, 8], [9])
    assert 300 <= trainer.train()["timesteps_total"] < 400
    trainer.stop()


def test_actions_explore_and_checkpoints_restore(tmp_path: Path) -> None:
    trainer = ppo.PPOTrainer(env="CartPole-v0", config={"seed": 0})
    obs = np.zeros(4, np.float32)
    assert {trainer.compute_action(obs) for _ in range(50)} == {0, 1}
    assert len({trainer.compute_action(obs, explore=False) for _ in range(50)}) == 1
    trainer.train()
    path = trainer.save(str(tmp_path))
    other = ppo.PPOTrainer(env="CartPole-v0", config={"seed": 1})
    other.restore(path)
    assert other.iteration == 1
    for mine, theirs in zip(
        trainer.trainer.policy.parameters(), other.trainer.policy.parameters(), strict=True
    ):
        np.testing.assert_array_equal(mine.detach().numpy(), theirs.detach().numpy())


def test_rllibs_first_example() -> None:
    config = ppo.DEFAULT_CONFIG.copy()
    config["num_workers"] = 1
    trainer = ppo.PPOTrainer(config=config, env="CartPole-v0")
    text = pretty_print(trainer.train())
    assert "episode_reward_mean: " in text
    assert "timesteps_total: " in text
    assert not ppo.DEFAULT_CONFIG
    trainer.stop()


def test_no_reward_is_nan_as_it_was() -> None:
    trainer = ppo.PPOTrainer(
        env="Pendulum-v1", config={"train_batch_size": 64, "num_envs_per_worker": 1}
    )
    assert math.isnan(trainer.train()["episode_reward_mean"])


class Old:
    """The old API."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, env_config: dict[str, Any]) -> None:
        self.length = env_config.get("length", 4)

    def reset(self) -> np.ndarray:
        self.left = self.length
        return np.zeros(1, np.float32)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        self.left -= 1
        return np.zeros(1, np.float32), float(action), self.left == 0, {}


def test_environments_of_the_old_api_are_wrapped_silently() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = ppo.PPOTrainer(env=Old, config={"env_config": {"length": 3}}).train()
        assert result["episode_len_mean"] == 3
        ray.tune.register_env("old", lambda config: Old(config))
        assert ppo.PPOTrainer(env="old").train()["episode_len_mean"] == 4


def test_callbacks_of_both_kinds_are_called() -> None:
    results, episodes = [], []
    ppo.PPOTrainer(
        env=Old,
        config={
            "callbacks": {
                "on_train_result": lambda info: results.append(
                    info["result"]["training_iteration"]
                ),
                "on_episode_end": lambda info: episodes.append(info["episode"].length),
            }
        },
    ).train()
    assert results == [1]
    assert set(episodes) == {4}

    class Mine(DefaultCallbacks):
        def on_train_result(self, *, trainer: Any, result: dict[str, Any], **_: Any) -> None:
            results.append(result["training_iteration"])

    ppo.PPOTrainer(env=Old, config={"callbacks": Mine}).train()
    assert results == [1, 1]
    with pytest.raises(ConfigError, match=r"on_learn_on_batch is never called here: a loss of"):
        ppo.PPOTrainer(env=Old, config={"callbacks": {"on_learn_on_batch": print}})


# --- ray ------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No cluster runs on this machine, and nothing was said yet."""
    monkeypatch.setenv("POISE_HOME", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "_said", set())
    yield
    cluster.forget()
    ray.shutdown()


def test_more_than_there_is_is_said(nowhere: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert ray.init(num_cpus=1)["num_cpus"] >= 1
    assert capsys.readouterr().out == ""
    for _ in range(2):  # said once
        ray.init(address="localhost:1", num_cpus=10_000)
    out = capsys.readouterr().out
    assert "num_cpus=10000: this machine has" in out
    assert out.count("address='localhost:1': no cluster is there, so it runs on this machine.") == 1
    assert ray.is_initialized()
    ray.shutdown()
    assert not ray.is_initialized()


def test_an_address_has_trainings_sample_there(
    nowhere: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"num_workers": 13, "sample_batch_size": 50, "train_batch_size": 1000}
    assert ray.init(address="10.0.0.1:6379")["address"] == "10.0.0.1:6379"
    monkeypatch.setenv(cluster.TIMEOUT, "3600.0")
    settings = quiet("IMPALA", config, "PongNoFrameskip-v4")
    found: Any = resolve("IMPALA", None, settings)[0]
    assert (found.ray_address, found.cluster_timeout_s) == ("10.0.0.1:6379", 3600)
    assert (found.num_workers, found.num_envs_per_worker) == (13, 1)
    assert "num_workers" not in quiet("IMPALA", {}, "PongNoFrameskip-v4")  # all that there are

    with socket.create_server(("127.0.0.1", 0)) as server:
        here = f"localhost:{server.getsockname()[1]}"
        assert ray.init(address=here)["address"] == here
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:43210")  # as in a job
    assert ray.init()["address"] == "127.0.0.1:43210"
    assert ray.init("local")["address"] is None
    assert capsys.readouterr().out == ""
    assert ray.init(address="localhost:1")["address"] == "127.0.0.1:43210"
    assert (
        "address='localhost:1': this is the cluster at 127.0.0.1:43210" in capsys.readouterr().out
    )
    ray.shutdown()
    assert quiet("IMPALA", config, "PongNoFrameskip-v4")["num_workers"] == "auto"


def test_workers_on_nodes_of_this_machine_are_as_many_as_it_has_cores_for(
    nowhere: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = LocalCluster("127.0.0.1:5", "http://127.0.0.1:6", 5, 6, 2, "/tmp", 1)
    monkeypatch.setattr(cluster, "running", lambda: here)
    monkeypatch.setenv("POISE_CORES", "4")
    assert ray.init("auto")["address"] == here.address
    assert [cluster.workers(n) for n in (13, 2, None)] == [4, 2, 4]
    out = capsys.readouterr().out
    assert "num_workers=13 becomes 4: all nodes are this machine, which has 4 cores" in out


@pytest.mark.slow
def test_a_signal_ends_a_script_with_a_checkpoint(tmp_path: Path) -> None:
    script = """if True:
        from poise.compat import ray
        class End:
            def on_train_result(self, info):
                import os, signal
                os.kill(os.getpid(), signal.SIGTERM)
        ray.tune.run("PPO", config={"env": "CartPole-v1", "callbacks": {
            "on_train_result": End().on_train_result}}, local_dir="logs", verbose=0)
        print("went on")
    """
    command = [sys.executable, "-c", script]
    done = warm.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert (done.returncode, done.stdout) == (143, "")
    assert next(tmp_path.glob("logs/*/*/checkpoints/*/manifest.json"))


def test_a_run_without_a_search_is_a_run(tmp_path: Path) -> None:
    analysis = ray.tune.run(
        ppo.PPOTrainer,
        config={"env": "CartPole-v0", "callbacks": {"on_train_result": log}},
        stop={"timesteps_total": 9000},
        local_dir=str(tmp_path),
        checkpoint_at_end=True,
        verbose=0,
    )
    folder = Path(analysis.get_best_logdir("episode_reward_mean", "max"))
    with poise.load(analysis.get_best_checkpoint(str(folder), "training_iteration", "max")) as algo:
        assert algo.algorithm.timesteps >= 9000
    logged = [json.loads(line) for line in (folder / "logged.jsonl").read_text().splitlines()]
    assert [row["name"] for row in logged] == ["steps"] * algo.iteration
    assert logged[-1]["value"] == algo.algorithm.timesteps


def log(info: dict[str, Any]) -> None:
    Run.get_context().log("steps", info["result"]["timesteps_total"])


@pytest.mark.slow
def test_a_run_with_a_search_is_a_search(tmp_path: Path) -> None:
    analysis = ray.tune.run(
        "PPO",
        config={
            "env": "CartPole-v0",
            "framework": "torch",
            "lr": ray.tune.grid_search([1e-3, 1e-2]),
        },
        stop={"timesteps_total": 4000},
        metric="episode_reward_mean",
        mode="max",
        local_dir=str(tmp_path),
        verbose=0,
    )
    assert analysis.best_config["lr"] in (1e-3, 1e-2)
    assert len(analysis.trials) == 2


@pytest.mark.slow
def test_arguments_of_a_search_that_are_left_out_are_said(tmp_path: Path) -> None:
    def search(**arguments: Any) -> Any:
        config = {"env": "CartPole-v0", "lr": ray.tune.uniform(1e-3, 1e-2)}
        place = {
            "stop": {"timesteps_total": 2000},
            "local_dir": str(tmp_path),
            "name": "s",
            "verbose": 0,
        }
        return ray.tune.run("PPO", config=config, **{**place, **arguments})

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = search(
            checkpoint_at_end=True, search_alg="random", scheduler="median", max_concurrent_trials=1
        )
    assert (one.study.search.sampler, one.study.search.scheduler) == ("random", "median")
    with pytest.warns(
        UserWarning, match=r"stopp=3 has no equivalent here and is left out. Did you mean 'stop'"
    ):
        two = search(resume=True, num_samples=2, search_alg="random", scheduler="median", stopp=3)
    assert [trial.number for trial in two.study.trials] == [0, 1]
    with pytest.raises(RunError, match="resume=True needs the name"):
        search(resume=True, name=None)


# --- the tutorials --------------------------------------------------------------------------------


def tutorial(script: Path, folder: Path, *args: str) -> str:
    command = [sys.executable, str(script), *args]
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    done = warm.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "has no equivalent" not in done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_cartpole_tutorial(tmp_path: Path) -> None:
    """As it is written, but with one sample of each point of its grid instead of five."""
    script = (TUTORIALS / "cartpole.py").read_text()
    assert script.count("num_samples=5") == 1
    (tmp_path / "cartpole.py").write_text(script.replace("num_samples=5", "num_samples=1"))
    out = tutorial(tmp_path / "cartpole.py", tmp_path)
    assert "step 19" in out
    for film in ("before_training.mp4", "after_training.mp4"):
        assert (tmp_path / film).read_bytes()[4:8] == b"ftyp"
    assert "Best hyperparameters found: {" in out
    study = poise.tune.load(next((tmp_path / "runs").glob("tune_PPO_*")))
    assert [trial.state for trial in study.trials] == ["finished"] * 4
    assert study.best_result["episode_reward_mean"] >= 195


@pytest.mark.slow
def test_the_tutorial_on_agents(tmp_path: Path) -> None:
    out = tutorial(TUTORIALS / "agents.py", tmp_path)
    assert float(out.rpartition("Mean Rewards:\t")[2]) > 4


@pytest.mark.slow
def test_the_cluster_article(tmp_path: Path) -> None:
    out = tutorial(
        TUTORIALS / "pong_rllib.py",
        tmp_path,
        "--run=IMPALA",
        "--env=PongNoFrameskip-v4",
        '--config={"num_gpus": 1, "num_workers": 13}',
        '--stop={"episode_reward_mean": 18, "timesteps_total": 2000}',
    )
    assert "timesteps_total reached 2000" in out
    (logged,) = tmp_path.glob("logs/*/*/logged.jsonl")
    assert {json.loads(line)["name"] for line in logged.read_text().splitlines()} == {
        "episode_reward_mean",
        "episodes_total",
    }


def test_a_memory_is_handed_over_as_rllib_did() -> None:
    model = {"use_lstm": True, "lstm_cell_size": 8, "lstm_use_prev_reward": True}
    trainer = ppo.PPOTrainer({"model": model, "num_workers": 0}, "CartPole-v1")
    obs, state = np.ones(4, np.float32), [np.zeros(8, np.float32), np.zeros(8, np.float32)]
    _, state, _ = trainer.compute_action(obs, state=state, prev_reward=0.0, explore=False)
    action, later, info = trainer.compute_action(obs, state, prev_reward=1.0, explore=False)
    expected, known = trainer.trainer.predict(obs, state, reward=1.0)
    assert (action, info) == (expected, {})
    assert all(np.array_equal(own, given) for own, given in zip(later, known, strict=True))
    trainer.stop()
