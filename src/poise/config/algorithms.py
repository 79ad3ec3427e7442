"""The configurations of the algorithms, and the registry that knows them by name.

A new algorithm is a dataclass here, a file in `poise.algorithms` and a line in `ALGORITHMS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

from poise.config.base import AlgorithmConfig
from poise.config.types import EnvCount, Fraction, NonNegative, NonNegativeInt, Positive, PositiveInt, Range, Schedule
from poise.errors import ConfigError, nearest

_ON_POLICY_ALIASES = {
    **AlgorithmConfig.aliases,
    "lambda": "gae_lambda",
    "lambda_": "gae_lambda",
    "ent_coef": "entropy_coeff",
    "vf_coef": "vf_loss_coeff",
    "n_steps": "rollout_fragment_length",
    "num_steps": "rollout_fragment_length",
    "normalize_advantage": "normalize_advantages",
    "norm_adv": "normalize_advantages",
}


@dataclass
class PPOConfig(AlgorithmConfig):
    """Proximal Policy Optimization (Schulman et al. 2017, arXiv 1707.06347) with a clipped surrogate."""

    num_envs_per_worker: EnvCount = 16
    """Environments that are stepped together, as one batch."""

    gae_lambda: Fraction = 0.95
    """λ of generalized advantage estimation: 0 trusts the value function, 1 the sampled return."""

    num_sgd_iter: PositiveInt = 10
    """Passes (epochs) over each batch."""

    sgd_minibatch_size: PositiveInt | None = None
    """Steps per gradient step. Derived: the batch in eight parts, but at least 64 steps each."""

    clip_param: Schedule = 0.2
    """ε of the clipped surrogate: the probability ratio earns nothing outside 1 - ε to 1 + ε."""

    vf_clip_param: Positive | None = None
    """How far a value may move from the one predicted while sampling, in units of the value; null does not clip."""

    vf_loss_coeff: NonNegative = 0.5
    """Weight of the value loss."""

    entropy_coeff: Schedule = 0.0
    """Weight of the entropy bonus."""

    normalize_advantages: bool = True
    """Whether each minibatch's advantages are brought to mean 0 and deviation 1."""

    target_kl: Positive | None = None
    """Stops a batch's epochs early once the approximate KL divergence exceeds 1.5 times this; null never does."""

    exploration_correlation: Annotated[float, Range(0, 0.999)] = 0.0
    """Correlation of the exploration noise from one step to the next, for `Box` actions. 0 is white noise; near 1, the
    agent keeps to a direction for a while, which finds goals that need momentum (MountainCarContinuous)."""

    aliases: ClassVar[dict[str, str]] = {
        **_ON_POLICY_ALIASES,
        "num_epochs": "num_sgd_iter",
        "n_epochs": "num_sgd_iter",
        "update_epochs": "num_sgd_iter",
        "minibatch_size": "sgd_minibatch_size",
        "batch_size": "sgd_minibatch_size",
        "clip_range": "clip_param",
        "clip_coef": "clip_param",
        "clip_range_vf": "vf_clip_param",
    }

    def derive(self, explicit: set[str]) -> None:
        super().derive(explicit)
        assert self.train_batch_size is not None
        if self.sgd_minibatch_size is None:
            self.sgd_minibatch_size = min(self.train_batch_size, max(64, self.train_batch_size // 8))
        if self.sgd_minibatch_size > self.train_batch_size:
            if "sgd_minibatch_size" in explicit:
                raise ConfigError(
                    f"sgd_minibatch_size={self.sgd_minibatch_size} is larger than train_batch_size="
                    f"{self.train_batch_size}: a minibatch is a part of the batch."
                )
            self.sgd_minibatch_size = self.train_batch_size


@dataclass
class A2CConfig(AlgorithmConfig):
    """Advantage actor-critic (Mnih et al. 2016, arXiv 1602.01783), its synchronous form."""

    num_envs_per_worker: EnvCount = 16
    """Environments that are stepped together, as one batch."""

    rollout_fragment_length: PositiveInt | None = 5
    """Steps that each environment takes before an update."""

    timesteps_per_iteration: NonNegativeInt = 2000
    """A call of `train()` repeats updates until it has sampled this many steps; 0 means one update."""

    lr: Schedule = 7e-4
    """Learning rate: a number, or a schedule `[[timestep, value], ...]` with straight lines between its points."""

    gae_lambda: Fraction = 1.0
    """λ of generalized advantage estimation; 1 is the n-step return of the paper."""

    vf_loss_coeff: NonNegative = 0.5
    """Weight of the value loss."""

    entropy_coeff: Schedule = 0.0
    """Weight of the entropy bonus."""

    normalize_advantages: bool = False
    """Whether each batch's advantages are brought to mean 0 and deviation 1."""

    rms_prop_eps: Positive = 1e-5
    """ε in the denominator of RMSProp."""

    rms_prop_decay: Fraction = 0.99
    """Decay of RMSProp's running mean of squared gradients."""

    exploration_correlation: Annotated[float, Range(0, 0.999)] = 0.0
    """Correlation of the exploration noise from one step to the next, for `Box` actions. 0 is white noise."""

    aliases: ClassVar[dict[str, str]] = {
        **_ON_POLICY_ALIASES,
        "batch_size": "train_batch_size",
        "epsilon": "rms_prop_eps",
        "alpha": "rms_prop_decay",
    }


class AlgorithmSpec(NamedTuple):
    """Where an algorithm lives; the class is named, not imported, so that reading a configuration needs no torch."""

    config: type[AlgorithmConfig]
    location: str
    summary: str


ALGORITHMS: dict[str, AlgorithmSpec] = {
    "PPO": AlgorithmSpec(
        PPOConfig, "poise.algorithms.ppo:PPO", "the robust default: clipped policy updates, several epochs"
    ),
    "A2C": AlgorithmSpec(
        A2CConfig, "poise.algorithms.a2c:A2C", "the simplest actor-critic: one update per short rollout"
    ),
}


def algorithm_spec(name: str) -> tuple[str, AlgorithmSpec]:
    """The canonical name and the entry of an algorithm, whatever the case of `name`.

    Raises:
        ConfigError: no such algorithm; the sentence names the nearest and all there are.
    """
    for known, spec in ALGORITHMS.items():
        if known.lower() == str(name).lower():
            return known, spec
    raise ConfigError(
        f"There is no algorithm {name!r}.{nearest(str(name), ALGORITHMS)} Known: {', '.join(ALGORITHMS)}."
    )
