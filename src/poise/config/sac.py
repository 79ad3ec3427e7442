"""SAC and its relatives: their configuration, presets and search space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from poise.config.model import ModelConfig
from poise.config.off_policy import OffPolicyConfig
from poise.config.spec import AlgorithmSpec, Presets
from poise.config.types import (
    Fraction,
    NonNegativeInt,
    Positive,
    PositiveInt,
    Range,
    Schedule,
)
from poise.errors import ConfigError


@dataclass
class SACConfig(OffPolicyConfig):
    """Soft actor-critic (Haarnoja et al. 2018)."""

    lr: Schedule = 3e-4
    """Learning rate of the policy; of critics and temperature, too, unless they have their own."""

    critic_lr: Schedule | None = None
    """Learning rate of the critics; null takes lr."""

    alpha_lr: Schedule | None = None
    """Learning rate of the temperature; null takes lr."""

    grad_clip: Positive | None = None

    adam_epsilon: Positive = 1e-8
    """ε in the denominator of Adam."""

    num_envs_per_worker: PositiveInt = 1
    """Environments of each worker, or of this process.

    If only `num_workers` is set, the workers share this many.
    """

    rollout_fragment_length: PositiveInt | None = 1
    """Steps that each environment takes before gradient steps follow."""

    gradient_steps: Positive | Literal[-1] | None = -1
    """Gradient steps after each round of num_envs x rollout_fragment_length steps.

    0.5 is one after every second round, and -1 as many as there are steps in it.
    """

    train_batch_size: PositiveInt | None = 256
    """Steps of each gradient step, drawn from the replay buffer."""

    buffer_size: PositiveInt = 1_000_000
    """Steps that the replay buffer keeps; the oldest make room."""

    learning_starts: NonNegativeInt = 1000
    """Environment steps before the first gradient step. Until then, actions are drawn uniformly."""

    target_network_update_freq: NonNegativeInt = 0
    """Environment steps from one update of the target networks to the next.

    0 updates them after every gradient step.
    """

    tau: Annotated[float, Range(0, 1, open_low=True)] = 0.005
    """τ of the target networks' updates, θ⁻ ← τ θ + (1 - τ) θ⁻; 1 copies the parameters."""

    num_critics: Annotated[int, Range(1, 16)] = 2
    """Networks that estimate Q; the least of what they say counts."""

    num_quantiles: Annotated[int, Range(1, 512)] = 1
    """Quantiles of the return that each critic estimates; 1 estimates the mean (25: TQC)."""

    top_quantiles_to_drop: NonNegativeInt = 2
    """Of the quantiles of each critic, the largest that do not count in targets (TQC)."""

    policy_delay: PositiveInt = 1
    """The policy takes one gradient step after so many of the critics."""

    initial_alpha: Positive = 1.0
    """The temperature α at first: what entropy is worth, in units of reward."""

    learn_alpha: bool = True
    """Whether α is learnt, so that the entropy comes near its target; else it stays."""

    target_entropy: float | None = None
    """The entropy that α keeps up.

    null means -1 for each number of an action, and for choices target_entropy_share of the largest.
    """

    target_entropy_share: Fraction = 0.3
    """Of choices: the entropy that α keeps up, as a share of that of choosing uniformly.

    What an action mask rules out does not count.
    """

    exploration_correlation: Annotated[float, Range(0, 0.999)] = 0.0
    """How much of its exploration noise an action shares with the one before (Gaussians only)."""

    learner_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the numbers in which hidden layers multiply while learning.

    Parameters, optimiser, outputs and acting stay float32. `auto` takes bfloat16 if this processor
    has instructions for it, which nearly halves the time, and writes down its choice.
    """

    model: ModelConfig = field(
        default_factory=lambda: ModelConfig(
            fcnet_hiddens=[256, 256],
            fcnet_activation="relu",
            initializer="uniform",
            action_distribution="squashed_gaussian",
            free_log_std=False,
        )
    )
    """The networks; vf_fcnet_hiddens are the critics' layers."""

    aliases: ClassVar[dict[str, str]] = {
        **OffPolicyConfig.aliases,
        "actor_lr": "lr", "policy_lr": "lr", "q_lr": "critic_lr",
        "random_timesteps": "learning_starts", "policy_frequency": "policy_delay",
        "n_critics": "num_critics", "model.n_critics": "num_critics",
        "n_quantiles": "num_quantiles", "top_quantiles_to_drop_per_net": "top_quantiles_to_drop",
    }  # fmt: skip

    untranslatable: ClassVar[dict[str, str]] = {
        **OffPolicyConfig.untranslatable,
        "ent_coef": "Give initial_alpha; with learn_alpha=False it stays as it is.",
        "alpha": "Give initial_alpha; with learn_alpha=False it stays as it is.",
        "autotune": "Give learn_alpha.",
        "twin_q": "Give num_critics: 2, or 1.",
        "optimization": "Give lr, critic_lr and alpha_lr themselves.",
        "action_noise": "SAC samples its actions; exploration_correlation makes them change slowly.",
        "q_model_config": "Give model.vf_fcnet_hiddens: the layers of the critics.",
        "policy_model_config": "Give model.",
    }

    def derive(self, explicit: set[str]) -> None:
        super().derive(explicit)
        if self.num_quantiles > 1 and self.top_quantiles_to_drop >= self.num_quantiles:
            raise ConfigError(
                f"top_quantiles_to_drop={self.top_quantiles_to_drop} is not allowed: "
                f"it must be less than num_quantiles={self.num_quantiles}."
            )


@dataclass
class TQCConfig(SACConfig):
    """SAC with distributions as values, without their top quantiles (Kuznetsov et al. 2020)."""

    num_quantiles: Annotated[int, Range(1, 512)] = 25
    """Quantiles of the return that each critic estimates."""


PRESETS: Presets = {}

SEARCH = {
    "lr": "loguniform(1e-4, 3e-3)", "gamma": "choice([0.98, 0.99, 0.995])",
    "train_batch_size": "choice([128, 256, 512])", "tau": "choice([0.005, 0.01, 0.02])",
    "learning_starts": "choice([1_000, 10_000])",
    "model.fcnet_hiddens": "choice([[64, 64], [256, 256], [400, 300]])",
}  # fmt: skip

SPEC = AlgorithmSpec(
    "poise.algorithms.sac:SAC", SACConfig,
    "learns from each step many times, for actions of any kind", PRESETS, SEARCH,
)  # fmt: skip

TQC = AlgorithmSpec(
    "poise.algorithms.sac:SAC", TQCConfig,
    "SAC with distributions as values", {}, SEARCH,
)  # fmt: skip
