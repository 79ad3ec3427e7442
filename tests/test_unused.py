"""Settings that were given and that nothing reads are said once, with the reason.

All others change what comes out.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import poise
from poise.config.algorithms import ALGORITHMS
from poise.config.resolve import field_types

CUSTOM = {"custom_model": "unused-net"}


class Numbers(gym.Env):
    """Random observations; the reward goes by the action."""

    observation_space: spaces.Space = spaces.Box(-1, 1, (3,))
    action_space: spaces.Space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.look(), {}

    def look(self) -> Any:
        return self.np_random.uniform(-1, 1, (3,)).astype(np.float32)

    def step(self, action: Any) -> Any:
        self.steps += 1
        return (
            self.look(),
            float(np.sum(action)) + 2 * self.np_random.random(),
            self.steps >= 6,
            False,
            {},
        )


class Continuous(Numbers):
    action_space = spaces.Box(-1, 1, (2,))


class Pictures(Numbers):
    observation_space = spaces.Box(0, 255, (12, 12, 1), np.uint8)

    def look(self) -> Any:
        return self.np_random.integers(0, 255, (12, 12, 1)).astype(np.uint8)


class FloatPictures(Pictures):
    observation_space = spaces.Box(0, 1, (12, 12, 1))

    def look(self) -> Any:
        return super().look().astype(np.float32) / 255


class Choices(Numbers):
    observation_space = spaces.Discrete(3)

    def look(self) -> Any:
        return int(self.np_random.integers(3))


class Net(torch.nn.Module):
    def __init__(self, space: spaces.Space, outputs: int, width: int = 4) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, width), torch.nn.ReLU(), torch.nn.Linear(width, outputs + 1)
        )

    def forward(self, obs: torch.Tensor) -> Any:
        x = self.layers(obs)
        return x[:, :-1], x[:, -1]


@pytest.fixture(autouse=True)
def net(registries: None) -> None:
    poise.register_model("unused-net", Net)


def said(algorithm: str, env: Any, **settings: Any) -> list[str]:
    """What is said to whoever makes a trainer."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        poise.make_trainer(algorithm, env, preset=None, progress=False, **settings).close()
    return [str(warning.message) for warning in found if issubclass(warning.category, UserWarning)]


TABLE: list[tuple[str, Any, dict[str, Any], str]] = [
    ("PPO", Numbers, {"ray_address": "auto", "num_workers": 0}, "num_workers=0 samples in this"),
    ("DQN", Numbers, {"model": {"vf_share_layers": True}}, "DQN has no value function beside Q"),
    ("DQN", Numbers, {"model": {"free_log_std": False}}, "actions are not continuous"),
    ("DQN", Numbers, {"prioritized_replay_alpha": 0.6}, "prioritized_replay is off"),
    ("PPO", Numbers, {"exploration_correlation": 0.5}, "actions are not continuous"),
    (
        "PPO",
        Numbers,
        {"model": {"action_distribution": "squashed_gaussian"}},
        "actions are not continuous",
    ),
    (
        "PPO",
        Numbers,
        {"model": {"fcnet_hiddens": [64, 64], **CUSTOM}},
        "a custom model has layers of its own",
    ),
    (
        "DQN",
        Numbers,
        {"model": {"fcnet_activation": "elu", **CUSTOM}},
        "a custom model has layers of its own",
    ),
    (
        "A2C",
        Numbers,
        {"model": {"conv_activation": "elu", **CUSTOM}},
        "a custom model has layers of its own",
    ),
    ("A2C", Numbers, {"model": {"conv_filters": [[8, 3, 2]]}}, "observations hold no pictures"),
    (
        "A2C",
        FloatPictures,
        {"model": {"conv_dtype": "bfloat16"}},
        "pictures of floats stay float32",
    ),
    (
        "A2C",
        Numbers,
        {"model": {"custom_model_config": {"width": 3}}},
        "there is no model.custom_model",
    ),
    (
        "PPO",
        Continuous,
        {"model": {"free_log_std": False, "log_std_init": -1, **CUSTOM}},
        "the custom model gives log σ",
    ),
    ("PPO", Numbers, {"net_arch": [], "activation_fn": "relu"}, "no layers are hidden"),
    ("PPO", Choices, {"normalize_observations": True}, "observations are Discrete"),
    ("IMPALA", Numbers, {"rms_prop_eps": 1e-3}, "opt_type is 'adam'"),
    ("CrossQ", Continuous, {"tau": 0.01}, "target_networks is off"),
    ("SAC", Continuous, {"top_quantiles_to_drop": 3}, "num_quantiles is 1"),
    ("SAC", Continuous, {"target_entropy_share": 0.5}, "no action is a choice"),
    ("SAC", Numbers, {"target_entropy_share": 0.5, "target_entropy": 0.1}, "target_entropy is set"),
    ("SAC", Continuous, {"learn_alpha": False, "alpha_lr": 0.01}, "learn_alpha is off"),
    ("TD3", Continuous, {"model": {"log_std_init": -1.0}}, "TD3 explores by exploration_noise"),
    ("PPO", Numbers, {"worker_memory_mb": 4000}, "there are no worker processes"),
    (
        "PPO",
        "CartPole-v1",
        {"env_step_timeout_s": 3},
        "nothing can watch environments that step as one native batch",
    ),
]


@pytest.mark.parametrize(
    ("algorithm", "env", "settings", "why"), TABLE, ids=lambda value: str(value)[:40]
)
def test_what_is_not_used_is_said_once(
    algorithm: str, env: Any, settings: dict[str, Any], why: str
) -> None:
    if "net_arch" in settings:
        settings = {"model": settings}
    [sentence] = said(algorithm, env, **settings)
    assert sentence.startswith("Not used: ")
    assert why in sentence


def test_nothing_is_said_of_what_is_off_is_used_or_comes_from_a_preset() -> None:
    off = {"vf_share_layers": False, "custom_model_config": {}, "conv_filters": None}
    assert said("DQN", Numbers, model=off, normalize_observations=False) == []
    assert said("DQN", Numbers, prioritized_replay=True, prioritized_replay_alpha=0.5) == []
    assert (
        said("PPO", Continuous, model={**CUSTOM, "log_std_init": -1.0}, exploration_correlation=0.5)
        == []
    )
    assert said("PPO", Pictures, model={"conv_activation": "elu", "fcnet_activation": "relu"}) == []
    assert said("PPO", Numbers, evaluation_duration=3) == []  # `algo.evaluate()` takes it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        poise.make_trainer("PPO", "FrozenLake-v1", progress=False).close()


def test_a_run_says_it_in_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        "evaluation_duration": 3,
        "total_timesteps": 64,
        "model": {"conv_activation": "elu"},
    }
    run = poise.run(
        "PPO",
        Numbers,
        config=settings,
        preset=None,
        folder=tmp_path,
        stop={"timesteps_total": 32},
        tensorboard=False,
    )
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Not used")]
    assert told == [
        "Not used: model.conv_activation (observations hold no pictures).",
        "Not used: evaluation_duration (evaluation_interval is not set).",
        "Not used: total_timesteps (the stop rule for timesteps_total comes before it).",
    ]
    assert all(line in (run.path / "log.txt").read_text() for line in told)
    algo = poise.load(
        run.path, env=Numbers, evaluation_duration=5, worker_memory_mb=4000, clip_param=0.1
    )
    # No environment is made yet.
    assert not [note for note in algo.notes if note.startswith("Not used")]
    poise.resume(run.path, stop={"timesteps_total": 64}, evaluation_duration=5, trust=True)
    assert (
        "Not used: evaluation_duration (evaluation_interval is not set)." in capsys.readouterr().out
    )


@pytest.mark.slow
def test_a_search_says_it_once_for_all_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {
        "env": "CartPole-v1",
        "model": {"vf_share_layers": True},
        "lr": poise.tune.uniform(1e-4, 1e-3),
    }
    options: dict[str, Any] = {"preset": None, "stop": {"timesteps_total": 64}, "folder": tmp_path}
    poise.tune.run("DQN", config=config, num_samples=2, parallel=1, **options)
    assert capsys.readouterr().out.count("Not used: model.vf_share_layers") == 1


# --- every setting --------------------------------------------------------------------------------

OTHER: dict[str, Any] = {
    "gamma": 0.5, "lr": 1e-2, "grad_clip": 0.01, "num_envs_per_worker": 2,
    "rollout_fragment_length": 8, "timesteps_per_iteration": 130, "seed": 5,
    "normalize_observations": True, "normalize_rewards": True, "clip_rewards": True,
    "metrics_smoothing_episodes": 3, "evaluation_interval": 1,
    "wrappers": ["gymnasium.wrappers:NormalizeReward"], "gae_lambda": 0.3, "num_sgd_iter": 1,
    "sgd_minibatch_size": 32, "clip_param": 1e-4, "vf_clip_param": 1e-4, "vf_loss_coeff": 2.0,
    "entropy_coeff": 0.3, "target_kl": 1e-9, "exploration_correlation": 0.9, "rms_prop_eps": 1.0,
    "rms_prop_decay": 0.2, "gradient_steps": 3, "training_intensity": 3.0, "buffer_size": 40,
    "learning_starts": 60, "target_network_update_freq": 0, "tau": 0.3, "double_q": False,
    "dueling": True, "n_step": 3, "prioritized_replay": True, "prioritized_replay_alpha": 0.1,
    "prioritized_replay_beta": 0.9, "prioritized_replay_eps": 0.5, "initial_epsilon": 0.3,
    "final_epsilon": 0.2, "epsilon_timesteps": 30, "epsilon_schedule": "exponential",
    "td_error_loss_fn": "mse", "adam_epsilon": 0.1, "weight_decay": 0.5, "amsgrad": True,
    "grad_clip_value": 1e-3, "worker_memory_mb": 5000, "model.fcnet_hiddens": [8],
    "model.vf_fcnet_hiddens": [5], "model.fcnet_activation": "elu", "model.initializer": "uniform",
    "model.vf_share_layers": True, "model.conv_filters": [[4, 3, 2]],
    "model.conv_activation": "tanh", "model.conv_dtype": "bfloat16", "model.free_log_std": False,
    "model.action_distribution": "squashed_gaussian", "model.log_std_init": -1.0,
    "model.custom_model_config": {"width": 5}, "model.custom_preprocessor": "unused-half",
    "num_cpus_per_worker": 2.0, "min_workers": 1, "cluster_timeout_s": 5.0, "n_sampled_goal": 2,
    "goal_selection_strategy": "final", "policies": ["a"], "policy_mapping_fn": {"a": "b"},
    "policies_to_train": ["a"], "burn_in": 2, "model.memory": "gru", "model.lstm_cell_size": 8,
    "model.lstm_use_prev_action": True, "model.lstm_use_prev_reward": True, "model.max_seq_len": 5,
}  # fmt: skip
APART = {
    "env", "env_config", "model.custom_model", "num_gpus", "num_workers", "num_threads",
    "total_timesteps", "env_step_timeout_s", "env_reset_timeout_s", "env_make_timeout_s",
    "evaluation_duration", "evaluation_explore", "evaluation_max_steps", "train_batch_size",
    "frame_stack", "ray_address", "num_learners", "her", "learner_thread", "opponents",
}  # fmt: skip
"""What decides where and how long it trains, and what has tests of its own."""


class Half:
    def __init__(self, space: spaces.Space) -> None:
        self.space = space

    def transform(self, obs: torch.Tensor) -> torch.Tensor:
        return obs / 2


def outcome(algorithm: str, settings: dict[str, Any]) -> str:
    """A hash of what two short iterations leave: parameters and results."""
    short: dict[str, Any] = {"num_envs_per_worker": 4, "timesteps_per_iteration": 64, "seed": 0}
    if algorithm == "DQN":
        short |= {"learning_starts": 16, "epsilon_timesteps": 60, "target_network_update_freq": 16}
    else:
        short |= {
            "rollout_fragment_length": 16,
            **({"sgd_minibatch_size": 16} if algorithm == "PPO" else {}),
        }
    env = Continuous if algorithm == "A2C" else Numbers
    with poise.make_trainer(
        algorithm, env, config={**short, **settings}, preset=None, progress=False
    ) as algo:
        rows = [algo.train() for _ in range(2)]
        kept = [[v for k, v in row.items() if not k.startswith(("perf/", "time"))] for row in rows]
        data = [p.detach().numpy().tobytes() for p in algo.policy.parameters()]
        return hashlib.sha256(b"".join([*data, repr(kept).encode()])).hexdigest()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("algorithm", ["DQN"])  # all others went through it once; it takes long
def test_every_setting_changes_something_or_is_said_not_to(algorithm: str) -> None:
    poise.register_preprocessor("unused-half", Half)
    plain, silent = outcome(algorithm, {}), []
    for key in field_types(ALGORITHMS[algorithm].config).keys() - APART:
        value = OTHER[key] if key != "normalize_advantages" else algorithm == "A2C"
        if algorithm == "DQN" and key == "model.vf_fcnet_hiddens":
            continue  # refused without dueling
        if outcome(algorithm, {key: value}) == plain and not said(
            algorithm, Numbers, config={key: value}
        ):
            silent.append(key)
    assert silent == []
