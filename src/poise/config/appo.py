"""APPO: its configuration, presets and search space."""

from __future__ import annotations

from dataclasses import dataclass

from poise.config.impala import AsynchronousConfig
from poise.config.ppo import PONG_SCHEDULES, PPO_CARTPOLE, PPO_PONG, PPOConfig
from poise.config.shared import ATARI, CARTPOLE, ON_POLICY_SEARCH, PONG
from poise.config.spec import AlgorithmSpec, Presets
from poise.config.types import PositiveInt


@dataclass
class APPOConfig(AsynchronousConfig, PPOConfig):
    """Asynchronous PPO: it learns while environments go on, and V-trace corrects for the delay."""

    rollout_fragment_length: PositiveInt | None = 64
    """Steps that each environment takes before the learner gets them."""

    num_sgd_iter: PositiveInt = 4
    """Passes (epochs) over each batch."""


# PPO's, with no rollout waiting: at this learning rate, steps of an older policy do harm.
_CARTPOLE = {**PPO_CARTPOLE, "learner_queue_size": 0}

# PPO's, with shorter rollouts, so that they come from a policy that is less out of date.
_ATARI_GAMES = {
    **PPO_PONG, "lr": 5e-4, "entropy_coeff": 0.01, "rollout_fragment_length": 64,
    "num_sgd_iter": 2,
}  # fmt: skip
_PONG = {**_ATARI_GAMES, **PONG_SCHEDULES}

PRESETS: Presets = {
    **dict.fromkeys(CARTPOLE, _CARTPOLE), ATARI: _ATARI_GAMES, **dict.fromkeys(PONG, _PONG),
}  # fmt: skip

SPEC = AlgorithmSpec(
    "poise.algorithms.appo:APPO", APPOConfig, "PPO that samples while it learns", PRESETS,
    {
        **ON_POLICY_SEARCH, "num_envs_per_worker": "choice([16, 32, 64])",
        "rollout_fragment_length": "choice([16, 32, 64])", "num_sgd_iter": "choice([2, 4, 8])",
        "clip_param": "choice([0.1, 0.2, 0.3])",
    },
)  # fmt: skip
