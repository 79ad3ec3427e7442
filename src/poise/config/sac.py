"""SAC and its relatives: their configuration, presets and search space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from poise.config.model import ModelConfig
from poise.config.off_policy import OffPolicyConfig
from poise.config.spec import AlgorithmSpec, Presets
from poise.config.types import (
    EnvCount,
    Fraction,
    NonNegativeInt,
    Positive,
    PositiveInt,
    Range,
    Schedule,
)
from poise.errors import ConfigError


@dataclass
class ActorCriticsConfig(OffPolicyConfig):
    """A policy, and critics beside it, which learn from a replay."""

    lr: Schedule = 3e-4

    critic_lr: Schedule | None = None
    """Learning rate of the critics; null takes lr."""

    grad_clip: Positive | None = None

    adam_epsilon: Positive = 1e-8
    """ε in the denominator of Adam."""

    adam_beta1: Annotated[float, Range(0, 0.999)] = 0.9
    """β₁ of Adam: how much of a gradient step is that of the one before."""

    num_envs_per_worker: EnvCount = 1

    rollout_fragment_length: PositiveInt | None = 1

    gradient_steps: Positive | Literal[-1] | None = -1

    train_batch_size: PositiveInt | None = 256

    buffer_size: PositiveInt = 1_000_000

    learning_starts: NonNegativeInt = 1000
    """Environment steps before the first gradient step; until then, actions are drawn uniformly."""

    target_network_update_freq: NonNegativeInt = 0

    tau: Annotated[float, Range(0, 1, open_low=True)] = 0.005

    num_critics: Annotated[int, Range(1, 16)] = 2
    """Networks that estimate Q; the least of what they say counts."""

    num_quantiles: Annotated[int, Range(1, 512)] = 1
    """Quantiles of the return that each critic estimates; 1 estimates the mean (25: TQC)."""

    top_quantiles_to_drop: NonNegativeInt = 2
    """Of the quantiles of each critic, the largest that do not count in targets (TQC)."""

    critic_norm: Literal["none", "layer", "batch"] = "none"
    """What normalises the hidden layers of critics.

    Layer normalisation keeps values from growing where there are many gradient steps for each step
    (Hiraoka et al. 2022, Ball et al. 2023). Batch renormalisation takes the place of target
    networks, too (CrossQ, Bhatt et al. 2024).
    """

    target_networks: bool | None = None
    """Whether targets are taken by slow copies of the networks, and not by themselves.

    Derived: not where critic_norm is 'batch'.
    """

    policy_delay: PositiveInt = 1
    """The policy takes one gradient step after so many of the critics."""

    exploration_correlation: Annotated[float, Range(0, 0.999)] = 0.0
    """How much of its exploration noise an action shares with the one before (`Box` alone)."""

    learner_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the numbers in which hidden layers multiply while learning.

    Parameters, optimiser, outputs and acting stay float32. `auto` takes bfloat16 if this processor
    has instructions for it, which nearly halves the time of the products, and writes down its
    choice.
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
        **{
            name: key
            for name, key in OffPolicyConfig.aliases.items()
            if name != "target_update_interval"
        },
        "actor_lr": "lr", "policy_lr": "lr", "q_lr": "critic_lr",
        "n_critics": "num_critics", "model.n_critics": "num_critics",
        "n_quantiles": "num_quantiles", "model.n_quantiles": "num_quantiles",
        "top_quantiles_to_drop_per_net": "top_quantiles_to_drop",
        "optimization.actor_learning_rate": "lr", "optimization.critic_learning_rate": "critic_lr",
        "policy_model.fcnet_hiddens": "model.fcnet_hiddens",
        "policy_model.fcnet_activation": "model.fcnet_activation",
        "policy_model_config.fcnet_hiddens": "model.fcnet_hiddens",
        "policy_model_config.fcnet_activation": "model.fcnet_activation",
        "Q_model.fcnet_hiddens": "model.vf_fcnet_hiddens",
        "q_model_config.fcnet_hiddens": "model.vf_fcnet_hiddens",
        "actor_hiddens": "model.fcnet_hiddens", "critic_hiddens": "model.vf_fcnet_hiddens",
        "actor_hidden_activation": "model.fcnet_activation",
    }  # fmt: skip

    spellings: ClassVar[dict[str, Callable[[Any], dict[str, Any]]]] = {
        **OffPolicyConfig.spellings,
        "twin_q": {True: {"num_critics": 2}, False: {"num_critics": 1}}.__getitem__,
        # Stable-Baselines3 counts gradient steps.
        "target_update_interval": {1: {"target_network_update_freq": 0}}.__getitem__,
    }

    untranslatable: ClassVar[dict[str, str]] = {
        **OffPolicyConfig.untranslatable,
        "twin_q": "Give num_critics: 2, or 1.",
        "target_update_interval": (
            "It counts gradient steps: give target_network_update_freq, which counts environment "
            "steps; 0 is after each gradient step."
        ),
        "update_frequency": "Give rollout_fragment_length and gradient_steps.",
        **dict.fromkeys(
            ("Q_model", "q_model_config"),
            "Give model.vf_fcnet_hiddens: the layers of the critics.",
        ),
        **dict.fromkeys(("policy_model", "policy_model_config"), "Give model."),
        **dict.fromkeys(
            (
                "Q_model.fcnet_activation",
                "q_model_config.fcnet_activation",
                "critic_hidden_activation",
            ),
            "Policy and critics have one activation: give model.fcnet_activation.",
        ),
        **dict.fromkeys(
            ("random_timesteps", "pure_exploration_steps"),
            "Actions are drawn uniformly until learning begins: give learning_starts.",
        ),
        **dict.fromkeys(
            ("use_huber", "huber_threshold"),
            "Errors of critics are squared, or those of quantiles (num_quantiles) Huber's.",
        ),
        "l2_reg": "Parameters do not decay; critic_norm keeps values within reach.",
        **dict.fromkeys(
            ("batch_norm", "layer_norm", "use_layer_norm", "critic_layer_norm"),
            "Give critic_norm: 'none', 'layer' or 'batch'.",
        ),
        **dict.fromkeys(
            ("batch_norm_momentum", "batch_norm_eps", "renorm_warmup_steps"),
            "critic_norm='batch' has those of the paper: 0.01, 0.001 and 100,000.",
        ),
    }

    def derive(self, explicit: set[str]) -> None:
        super().derive(explicit)
        if self.num_quantiles > 1 and self.top_quantiles_to_drop >= self.num_quantiles:
            raise ConfigError(
                f"top_quantiles_to_drop={self.top_quantiles_to_drop} is not allowed: "
                f"it must be less than num_quantiles={self.num_quantiles}."
            )
        if self.target_networks is None:
            self.target_networks = self.critic_norm != "batch"
        if self.target_networks and self.critic_norm == "batch":
            raise ConfigError(
                "target_networks=True does not go with critic_norm='batch', whose statistics do "
                "not hold for slow copies: leave it out."
            )
        if not self.target_networks and self.critic_norm == "none":
            raise ConfigError(
                "target_networks=False does not go with critic_norm='none', since values would "
                "chase themselves: give critic_norm 'batch' (CrossQ) or 'layer'."
            )


def _temperature(value: Any) -> dict[str, Any]:
    """Of Stable-Baselines3's `ent_coef`: `auto`, `auto_0.1`, or a number, which stays."""
    learnt, first = str(value).startswith("auto"), str(value).removeprefix("auto")
    found: dict[str, Any] = {"learn_alpha": learnt}
    return found if not first else {**found, "initial_alpha": float(first.removeprefix("_"))}


@dataclass
class SACConfig(ActorCriticsConfig):
    """Soft actor-critic (Haarnoja et al. 2018)."""

    alpha_lr: Schedule | None = None
    """Learning rate of the temperature; null takes lr."""

    initial_alpha: Positive = 1.0
    """The temperature α at first: what entropy is worth, in units of reward."""

    learn_alpha: bool = True
    """Whether α is learnt, so that the entropy comes near its target; else it stays."""

    target_entropy: float | Literal["auto"] | None = None
    """The entropy that α keeps up.

    null and auto mean -1 for each number of an action, and for choices target_entropy_share of the
    largest.
    """

    target_entropy_share: Fraction = 0.3
    """Of choices: the entropy that α keeps up, as a share of that of choosing uniformly.

    What an action mask rules out does not count.
    """

    aliases: ClassVar[dict[str, str]] = {
        **{name: key for name, key in ActorCriticsConfig.aliases.items() if name != "q_lr"},
        "autotune": "learn_alpha", "target_entropy_scale": "target_entropy_share",
        "optimization.entropy_learning_rate": "alpha_lr",
    }  # fmt: skip

    spellings: ClassVar[dict[str, Callable[[Any], dict[str, Any]]]] = {
        **ActorCriticsConfig.spellings,
        "ent_coef": _temperature,
        # In CleanRL, the temperature learns as fast as the critics.
        "q_lr": lambda value: {"critic_lr": value, "alpha_lr": value},
    }

    untranslatable: ClassVar[dict[str, str]] = {
        **ActorCriticsConfig.untranslatable,
        "ent_coef": "Give initial_alpha; with learn_alpha=False it stays as it is.",
        "alpha": "Give initial_alpha; with learn_alpha=False it stays as it is.",
        "optimization": "Give lr, critic_lr and alpha_lr themselves.",
        "policy_frequency": (
            "CleanRL's policy takes as many gradient steps at once as it waits for: "
            "give policy_delay, after which it takes one."
        ),
        **dict.fromkeys(
            ("exploration_config", "noise_type", "noise_std"),
            "Actions are sampled; exploration_correlation makes them change slowly.",
        ),
        "action_noise": "Actions are sampled; exploration_correlation makes them change slowly.",
    }


@dataclass
class TQCConfig(SACConfig):
    """SAC with distributions as values, without their top quantiles (Kuznetsov et al. 2020)."""

    num_quantiles: Annotated[int, Range(1, 512)] = 25
    """Quantiles of the return that each critic estimates."""


@dataclass
class CrossQConfig(SACConfig):
    """SAC whose critics have batch norms instead of target networks (Bhatt et al. 2024)."""

    lr: Schedule = 1e-3

    adam_beta1: Annotated[float, Range(0, 0.999)] = 0.5

    critic_norm: Literal["none", "layer", "batch"] = "batch"

    policy_delay: PositiveInt = 3


# From RL Baselines3 Zoo. FetchReach: two seeds succeeded in each of 50 episodes after 4,000 steps,
# and a third in each of 100 after 20,000; the others were not measured.
_FETCH_REACH = {"her": True, "lr": 0.001, "gamma": 0.95, "normalize_observations": True,
    "model.fcnet_hiddens": [64, 64]}  # fmt: skip
_FETCH = {"her": True, "lr": 0.001, "gamma": 0.95, "tau": 0.05, "train_batch_size": 2048,
    "model.fcnet_hiddens": [512, 512, 512]}  # fmt: skip

# A network of 64-64 is enough, and so is a gradient step after every second step, if it is ten
# times as long as usual.
_PENDULUM = {"num_envs_per_worker": 2, "gradient_steps": 1, "train_batch_size": 128,
    "buffer_size": 50_000, "learning_starts": 250, "timesteps_per_iteration": 250, "lr": 0.003,
    "tau": 0.02, "model.fcnet_hiddens": [64, 64]}  # fmt: skip

# From the literature (RL Baselines3 Zoo), not measured.
_LUNAR_LANDER = {"lr": [[0, 0.00073], [500_000, 0.0]], "tau": 0.01, "learning_starts": 10_000,
    "model.fcnet_hiddens": [400, 300]}  # fmt: skip
_WALKER = {"lr": 0.00073, "gamma": 0.98, "tau": 0.02, "rollout_fragment_length": 64,
    "gradient_steps": 64, "buffer_size": 300_000, "learning_starts": 10_000,
    "model.fcnet_hiddens": [400, 300]}  # fmt: skip
_ROBOTS = {
    name: {"learning_starts": 10_000}
    for name in (
        "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5",
        "InvertedDoublePendulum-v5",
    )
}  # fmt: skip

PRESETS: Presets = {
    "Pendulum-v1": _PENDULUM, "LunarLanderContinuous-v3": _LUNAR_LANDER,
    "BipedalWalker-v3": _WALKER, "BipedalWalkerHardcore-v3": {**_WALKER, "gamma": 0.99}, **_ROBOTS,
    "Swimmer-v5": {"gamma": 0.9999, "learning_starts": 10_000},
    "FetchReach-v4": _FETCH_REACH,
    **dict.fromkeys(("FetchPush-v4", "FetchSlide-v4", "FetchPickAndPlace-v4"), _FETCH),
}  # fmt: skip

SEARCH = {
    "lr": "loguniform(1e-4, 3e-3)", "gamma": "choice([0.98, 0.99, 0.995])",
    "train_batch_size": "choice([128, 256, 512])", "tau": "choice([0.005, 0.01, 0.02])",
    "learning_starts": "choice([500, 2_000])",
    "model.fcnet_hiddens": "choice([[64, 64], [256, 256], [400, 300]])",
}  # fmt: skip

SPEC = AlgorithmSpec(
    "poise.algorithms.sac:SAC", SACConfig,
    "learns from each step many times, for actions of any kind", PRESETS, SEARCH,
)  # fmt: skip

TQC = AlgorithmSpec(
    "poise.algorithms.sac:SAC", TQCConfig,
    "SAC with distributions as values", dict(PRESETS), SEARCH,
)  # fmt: skip

CROSSQ = AlgorithmSpec(
    "poise.algorithms.sac:SAC", CrossQConfig,
    "SAC with batch norms instead of target networks", {}, SEARCH,
)  # fmt: skip
