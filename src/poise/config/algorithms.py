"""The configurations of the algorithms, and the registry that knows them by name.

A new algorithm is a dataclass here, a file in `poise.algorithms` and a line in `ALGORITHMS`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, NamedTuple

from poise.config.atari import atari_config, atari_name
from poise.config.base import AlgorithmConfig, ModelConfig
from poise.config.hints import algorithm_hint
from poise.config.types import (
    EnvCount,
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
    Range,
    Schedule,
    brief,
)
from poise.errors import ConfigError

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


@dataclass
class AsynchronousConfig(AlgorithmConfig):
    """What algorithms share that learn while environments go on."""

    num_envs_per_worker: EnvCount = 16
    """Environments that are stepped together, as one batch."""

    rollout_fragment_length: PositiveInt | None = 32
    """Steps that each environment takes before the learner gets them."""

    timesteps_per_iteration: NonNegativeInt = 5000
    """A call of `train()` goes on until it has learnt from this many steps; 0 means one rollout."""

    learner_queue_size: Annotated[int, Range(0, 1000)] = 1
    """Full rollouts that may wait for the learner before the environments wait, too. Fewer keep the policy that samples
    fresh, more even out what differs in speed."""

    broadcast_interval: PositiveInt = 1
    """Rollouts that the learner learns from before the actor gets its parameters."""

    vtrace_clip_rho_threshold: Positive = 1.0
    """ρ̄, the largest importance weight of an error. 1 or more; larger trusts what is rare now and was rarer then."""

    sampling_threads: ClassVar[int] = 1

    untranslatable: ClassVar[dict[str, str]] = {
        "vtrace": "Off-policy steps are always weighted by V-trace.",
        "momentum": "RMSProp has no momentum here.",
        "replay_proportion": "Every rollout is learnt from once, in the order of sampling.",
        "replay_buffer_num_slots": "Every rollout is learnt from once, in the order of sampling.",
        "minibatch_buffer_size": "Give num_sgd_iter to learn from a rollout several times.",
        "max_sample_requests_in_flight_per_worker": "Give learner_queue_size.",
        "max_requests_in_flight_per_env_runner": "Give learner_queue_size.",
        "min_iter_time_s": "An iteration ends by its steps: give timesteps_per_iteration.",
        "min_time_s_per_iteration": "An iteration ends by its steps: give timesteps_per_iteration.",
    }


@dataclass
class IMPALAConfig(AsynchronousConfig):
    """IMPALA (Espeholt et al. 2018, arXiv 1802.01561): actor and learner at the same time, corrected by V-trace."""

    lr: Schedule = 5e-4
    """Learning rate: a number, or a schedule `[[timestep, value], ...]` with straight lines between its points."""

    opt_type: Literal["adam", "rmsprop"] = "adam"
    """Optimiser."""

    gae_lambda: Fraction = 1.0
    """λ of V-trace's targets: 1 is the paper's."""

    vtrace_clip_pg_rho_threshold: Positive = 1.0
    """The same as ρ̄ for the policy's gradient."""

    vf_loss_coeff: NonNegative = 0.5
    """Weight of the value loss."""

    entropy_coeff: Schedule = 0.01
    """Weight of the entropy bonus."""

    num_sgd_iter: PositiveInt = 1
    """Passes over each rollout; V-trace is computed anew in each."""

    sgd_minibatch_size: PositiveInt | None = None
    """Steps per gradient step, a multiple of rollout_fragment_length: trajectories stay whole. Derived: all."""

    rms_prop_eps: Positive = 1e-5
    """ε in the denominator of RMSProp."""

    rms_prop_decay: Fraction = 0.99
    """Decay of RMSProp's running mean of squared gradients."""

    exploration_correlation: Annotated[float, Range(0, 0.999)] = 0.0
    """Correlation of the exploration noise from one step to the next, for `Box` actions. 0 is white noise."""

    aliases: ClassVar[dict[str, str]] = {
        **{alias: key for alias, key in _ON_POLICY_ALIASES.items() if key != "normalize_advantages"},
        "num_epochs": "num_sgd_iter",
        "minibatch_size": "sgd_minibatch_size",
        "decay": "rms_prop_decay",
        "epsilon": "rms_prop_eps",
    }

    def derive(self, explicit: set[str]) -> None:
        super().derive(explicit)
        length, batch, size = self.rollout_fragment_length, self.train_batch_size, self.sgd_minibatch_size
        assert length is not None
        assert batch is not None
        if size is not None and "sgd_minibatch_size" in explicit and (size % length or size > batch):
            raise ConfigError(
                f"sgd_minibatch_size={size} contradicts rollout_fragment_length={length} and train_batch_size={batch}: "
                "it must be a multiple of the one, and not more than the other."
            )
        self.sgd_minibatch_size = batch if size is None or size % length or size > batch else size


@dataclass
class APPOConfig(AsynchronousConfig, PPOConfig):
    """Asynchronous PPO: PPO's clipped surrogate while the environments go on, corrected by V-trace."""

    rollout_fragment_length: PositiveInt | None = 64
    """Steps that each environment takes before the learner gets them."""

    num_sgd_iter: PositiveInt = 4
    """Passes (epochs) over each batch."""


@dataclass
class DQNConfig(AlgorithmConfig):
    """Deep Q-learning (Mnih et al. 2015) with double, dueling, prioritized and n-step learning as options."""

    rollout_fragment_length: PositiveInt | None = 4
    """Steps that each environment takes before gradient steps follow."""

    gradient_steps: Positive | Literal[-1] | None = None
    """Gradient steps after each round of num_envs x rollout_fragment_length steps; 0.5 is one after every second round,
    and -1 as many as there are steps in it. Derived: from training_intensity."""

    training_intensity: Positive | None = None
    """How often a step is learnt from, on average: gradient_steps x train_batch_size per environment step. Derived:
    from gradient_steps; without either, one gradient step for 4 environment steps."""

    train_batch_size: PositiveInt | None = 64
    """Steps of each gradient step, drawn from the replay buffer."""

    buffer_size: PositiveInt = 100_000
    """Steps that the replay buffer keeps; the oldest make room."""

    learning_starts: NonNegativeInt = 1000
    """Environment steps before the first gradient step."""

    frame_stack: PositiveInt | None = None
    """Pictures that an image observation stacks along its first axis, the latest last; the replay buffer then keeps
    each picture once. Derived: `stack` of Atari games, 1 elsewhere."""

    lr: Schedule = 5e-4
    """Learning rate: a number, or a schedule `[[timestep, value], ...]` with straight lines between its points."""

    grad_clip: Positive | None = 10.0
    """Largest global norm of the gradient; null does not clip."""

    grad_clip_value: Positive | None = None
    """Largest size of each number of the gradient; null does not clip."""

    target_network_update_freq: NonNegativeInt = 500
    """Environment steps from one update of the target network to the next; 0 updates it after every gradient step."""

    tau: Annotated[float, Range(0, 1, open_low=True)] = 1.0
    """τ of the target network's updates, θ⁻ ← τ θ + (1 - τ) θ⁻; 1 copies the parameters."""

    double_q: bool = True
    """Whether the action whose value is the target is chosen by the network that learns (double DQN)."""

    dueling: bool = False
    """Whether the network has two streams of hidden layers, for V(s) and for A(s, a) (dueling DQN)."""

    n_step: PositiveInt = 1
    """Rewards that are summed before a value is trusted."""

    prioritized_replay: bool = False
    """Whether steps are drawn in proportion to their latest error instead of all alike."""

    prioritized_replay_alpha: Fraction = 0.6
    """α: 0 draws all steps alike, 1 in full proportion to their errors."""

    prioritized_replay_beta: Schedule = 0.4
    """β of the importance weights: 1 corrects wholly for what is drawn more often than others."""

    prioritized_replay_eps: Positive = 1e-6
    """Added to each error, so that no step is never drawn again."""

    initial_epsilon: Fraction = 1.0
    """Probability of a random action at the start."""

    final_epsilon: Fraction = 0.05
    """Probability of a random action in the end."""

    epsilon_timesteps: PositiveInt = 10_000
    """Environment steps over which epsilon falls from the one to the other."""

    epsilon_schedule: Literal["linear", "exponential"] = "linear"
    """How it falls: in a straight line, or as final + (initial - final) exp(-steps / epsilon_timesteps)."""

    td_error_loss_fn: Literal["huber", "mse"] = "huber"
    """Loss of an error: squared up to 1 and linear beyond, or half its square."""

    adam_epsilon: Positive = 1e-5
    """ε in the denominator of Adam."""

    weight_decay: NonNegative = 0.0
    """Decay of the parameters by lr x this at each gradient step, as in AdamW."""

    amsgrad: bool = False
    """Whether Adam's running mean of squared gradients never falls."""

    timesteps_per_iteration: NonNegativeInt = 1000
    """A call of `train()` goes on until it has sampled this many steps; 0 means one round."""

    model: ModelConfig = field(default_factory=lambda: ModelConfig(fcnet_activation="relu"))
    """The networks."""

    aliases: ClassVar[dict[str, str]] = {
        **{alias: key for alias, key in AlgorithmConfig.aliases.items() if key != "train_batch_size"},
        "train_freq": "rollout_fragment_length",
        "train_frequency": "rollout_fragment_length",
        "batch_size": "train_batch_size",
        "train_batch_size_per_learner": "train_batch_size",
        "capacity": "buffer_size",
        "replay_buffer_capacity": "buffer_size",
        "num_steps_sampled_before_learning_starts": "learning_starts",
        "target_update_interval": "target_network_update_freq",
        "target_network_frequency": "target_network_update_freq",
        "n_steps": "n_step",
        "exploration_initial_eps": "initial_epsilon",
        "exploration_final_eps": "final_epsilon",
        "start_e": "initial_epsilon",
        "end_e": "final_epsilon",
    }

    untranslatable: ClassVar[dict[str, str]] = {
        "exploration_fraction": "It is a share of a run's length: give epsilon_timesteps, exploration_fraction x "
        "total_timesteps.",
        "exploration_config": "Give initial_epsilon, final_epsilon and epsilon_timesteps themselves.",
        "epsilon": "Give initial_epsilon, final_epsilon and epsilon_timesteps.",
        "optimize_memory_usage": "Every observation is kept once, whatever is set.",
        "replay_buffer_config": "Give buffer_size, and prioritized_replay with its alpha, beta and eps, themselves.",
    }

    @property
    def round_steps(self) -> int:
        """Environment steps between gradient steps."""
        return self.num_envs * (self.rollout_fragment_length or 1)

    def derive(self, explicit: set[str]) -> None:
        super().derive(explicit)
        if self.model.vf_fcnet_hiddens is not None and not self.dueling:
            raise ConfigError(
                f"model.vf_fcnet_hiddens={self.model.vf_fcnet_hiddens} is for dueling=True: without it, DQN has no "
                "stream for V(s)."
            )
        for key in ("rollout_fragment_length", "n_step"):
            if (steps := getattr(self, key) * self.num_envs) > self.buffer_size:
                raise ConfigError(
                    f"buffer_size={self.buffer_size} is smaller than the {steps} steps that {self.num_envs} "
                    f"environments take in {key}={getattr(self, key)}."
                )
        if self.frame_stack is None:
            name = atari_name(self.env) if isinstance(self.env, str) else None
            wrapped = bool(self.wrappers)  # of their pictures, nothing is known
            self.frame_stack = atari_config(name, self.env_config).stack if name and not wrapped else 1

    def _derive_batch(self, explicit: set[str]) -> None:
        """`gradient_steps * train_batch_size == training_intensity * round_steps`, whichever of the two was set."""
        if "num_envs_per_worker" not in explicit:  # the workers share the environments; they do not multiply them
            self.num_envs_per_worker = max(1, self.num_envs_per_worker // self._groups)
        self.rollout_fragment_length = self.rollout_fragment_length or 4
        self.train_batch_size = self.train_batch_size or 64
        batches = self.round_steps / self.train_batch_size  # in the steps of a round
        steps = self.round_steps if self.gradient_steps == -1 else self.gradient_steps
        intensity = self.training_intensity
        if steps is not None and intensity is not None:
            if {"gradient_steps", "training_intensity"} <= explicit and not math.isclose(steps, intensity * batches):
                raise ConfigError(
                    f"gradient_steps={steps:g} contradicts training_intensity={intensity:g}, which is "
                    f"{intensity * batches:g} gradient steps here: leave one of the two out."
                )
            steps, intensity = (steps, None) if "gradient_steps" in explicit else (None, intensity)
        if steps is None:
            steps = self.round_steps / 4 if intensity is None else intensity * batches
        self.gradient_steps, self.training_intensity = steps, steps / batches


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
    "DQN": AlgorithmSpec(
        DQNConfig, "poise.algorithms.dqn:DQN", "learns from each step many times, for Discrete actions"
    ),
    "IMPALA": AlgorithmSpec(
        IMPALAConfig, "poise.algorithms.impala:IMPALA", "samples while it learns, one update per rollout"
    ),
    "APPO": AlgorithmSpec(APPOConfig, "poise.algorithms.appo:APPO", "PPO that samples while it learns"),
}


def algorithm_spec(name: str) -> tuple[str, AlgorithmSpec]:
    """The canonical name and the entry of an algorithm, whatever the case of `name`.

    Raises:
        ConfigError: no such algorithm; the sentence names the nearest and all there are.
    """
    for known, spec in ALGORITHMS.items():
        if known.lower() == str(name).lower():
            return known, spec
    hint = algorithm_hint(str(name), ALGORITHMS)
    raise ConfigError(f"There is no algorithm {brief(name)}.{hint} Known: {', '.join(ALGORITHMS)}.")
