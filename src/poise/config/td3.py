"""TD3 and DDPG: their configuration, presets and search space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from poise.config.sac import SEARCH, ActorCriticsConfig
from poise.config.spec import AlgorithmSpec, Presets
from poise.config.types import NonNegative, PositiveInt, Schedule


@dataclass
class TD3Config(ActorCriticsConfig):
    """Twin delayed deep deterministic policy gradient (Fujimoto et al. 2018)."""

    lr: Schedule = 1e-3

    policy_delay: PositiveInt = 2

    exploration_noise: NonNegative = 0.1
    """Standard deviation of what is added to actions, in units in which their bounds are -1 and 1.
    """

    target_noise: NonNegative = 0.2
    """The same, of what is added to the actions that targets are taken of."""

    target_noise_clip: NonNegative = 0.5
    """How much may be added to these."""

    aliases: ClassVar[dict[str, str]] = {
        **ActorCriticsConfig.aliases,
        "target_policy_noise": "target_noise", "policy_noise": "target_noise",
        "noise_clip": "target_noise_clip", "smooth_target_policy_clip": "target_noise_clip",
        "noise_std": "exploration_noise", "policy_frequency": "policy_delay",
    }  # fmt: skip

    untranslatable: ClassVar[dict[str, str]] = {
        **ActorCriticsConfig.untranslatable,
        "action_noise": (
            "Give exploration_noise, a standard deviation; exploration_correlation makes it change "
            "slowly."
        ),
        "exploration_config": "Give exploration_noise and learning_starts.",
        "noise_type": "Give exploration_noise, and exploration_correlation for slow noise.",
        "stddev": "Give exploration_noise.",
        "smooth_target_policy": "Give target_noise; 0 does not smooth.",
        "optimization": "Give lr and critic_lr themselves.",
        **dict.fromkeys(
            (
                "ent_coef",
                "entropy_coeff",
                "alpha",
                "initial_alpha",
                "alpha_lr",
                "target_entropy",
                "autotune",
                "optimization.entropy_learning_rate",
            ),
            "There is no entropy in what this algorithm learns: SAC has it.",
        ),
    }


@dataclass
class DDPGConfig(TD3Config):
    """Deep deterministic policy gradient (Lillicrap et al. 2016)."""

    num_critics: PositiveInt = 1

    policy_delay: PositiveInt = 1

    target_noise: NonNegative = 0.0


PRESETS: Presets = {}

SPEC = AlgorithmSpec(
    "poise.algorithms.td3:TD3", TD3Config,
    "learns from each step many times, for continuous actions", PRESETS, SEARCH,
)  # fmt: skip

DDPG = AlgorithmSpec(
    "poise.algorithms.td3:TD3", DDPGConfig, "TD3 with one critic, without its cures", {}, SEARCH
)
