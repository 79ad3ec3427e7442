"""A2C: its configuration, presets and search space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from poise.config.shared import (
    ATARI,
    ATARI_NETWORK,
    CARTPOLE,
    ON_POLICY_ALIASES,
    ON_POLICY_SEARCH,
    PONG,
    SMALL_NETWORK,
    ActorCriticConfig,
)
from poise.config.spec import AlgorithmSpec, Presets
from poise.config.types import (
    EnvCount,
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
    Range,
    Schedule,
)


@dataclass
class A2CConfig(ActorCriticConfig):
    """Advantage actor-critic (Mnih et al. 2016, arXiv 1602.01783), its synchronous form."""

    num_envs_per_worker: EnvCount = 16
    """Environments that are stepped together, as one batch."""

    rollout_fragment_length: PositiveInt | None = 5
    """Steps that each environment takes before an update."""

    timesteps_per_iteration: NonNegativeInt = 2000
    """A call of `train()` repeats updates until it has sampled this many steps; 0 means one."""

    lr: Schedule = 7e-4

    gae_lambda: Fraction = 1.0
    """λ of generalized advantage estimation; 1 is the n-step return of the paper."""

    vf_loss_coeff: NonNegative = 0.5
    """Weight of the value loss."""

    entropy_coeff: Schedule = 0.0
    """Weight of the entropy bonus."""

    normalize_advantages: bool = False
    """Whether each batch's advantages are brought to mean 0 and standard deviation 1."""

    rms_prop_eps: Positive = 1e-5
    """ε in the denominator of RMSProp."""

    rms_prop_decay: Fraction = 0.99
    """Decay of RMSProp's running mean of squared gradients."""

    exploration_correlation: Annotated[float, Range(0, 0.999)] = 0.0
    """Correlation of the exploration noise from one step to the next, for `Box` actions.

    0 is white noise.
    """

    aliases: ClassVar[dict[str, str]] = {
        **ON_POLICY_ALIASES, "batch_size": "train_batch_size", "epsilon": "rms_prop_eps",
        "alpha": "rms_prop_decay",
    }  # fmt: skip


# While the pole stands, gradients are tiny, and RMSProp with a small ε makes a huge step of the
# first one that is not: three runs in five fell, to 142 at worst, after they had reached 475. Hence
# the large ε and the falling learning rate.
A2C_CARTPOLE = {
    "num_envs_per_worker": 32, "rollout_fragment_length": 8,
    "lr": [[0, 0.006], [80_000, 0.006], [200_000, 0.0005]], "rms_prop_eps": 0.003,
    "gae_lambda": 0.95, "grad_clip": 1.0, "vf_loss_coeff": 0.25,
}  # fmt: skip

# Mnih et al. 2016, in the synchronous form of RL Baselines3 Zoo.
_ATARI_GAMES = {
    **ATARI_NETWORK, "num_envs_per_worker": 16, "entropy_coeff": 0.01, "vf_loss_coeff": 0.25,
}  # fmt: skip
_PONG = {**_ATARI_GAMES, **SMALL_NETWORK}

PRESETS: Presets = {
    **dict.fromkeys(CARTPOLE, A2C_CARTPOLE), ATARI: _ATARI_GAMES, **dict.fromkeys(PONG, _PONG),
}  # fmt: skip

SPEC = AlgorithmSpec(
    "poise.algorithms.a2c:A2C", A2CConfig,
    "the simplest actor-critic: one update per short rollout", PRESETS,
    {
        **ON_POLICY_SEARCH, "num_envs_per_worker": "choice([8, 16, 32])",
        "rollout_fragment_length": "choice([5, 8, 16, 32])",
        "normalize_observations": "choice([False, True])",
    },
)  # fmt: skip
