"""What the configurations of algorithms that learn from a replay share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from poise.config.atari import atari_config, atari_name
from poise.config.base import AlgorithmConfig
from poise.config.types import Fraction, NonNegativeInt, Positive, PositiveInt, Range, Schedule
from poise.errors import ConfigError


@dataclass
class OffPolicyConfig(AlgorithmConfig):
    """A replay, how often its steps are learnt from, and target networks."""

    rollout_fragment_length: PositiveInt | None = 4
    """Steps that each environment takes before gradient steps follow."""

    gradient_steps: Positive | Literal[-1] | None = None
    """Gradient steps after each round of num_envs x rollout_fragment_length steps.

    0.5 is one after every second round, and -1 as many as there are steps in it. Derived: from
    training_intensity.
    """

    training_intensity: Positive | None = None
    """How often a step is learnt from, on average.

    It is gradient_steps x train_batch_size per environment step. Derived: from gradient_steps;
    without either, one gradient step for 4 environment steps.
    """

    train_batch_size: PositiveInt | None = 64
    """Steps of each gradient step, drawn from the replay buffer."""

    buffer_size: PositiveInt = 100_000
    """Steps that the replay buffer keeps; the oldest make room."""

    learning_starts: NonNegativeInt = 1000
    """Environment steps before the first gradient step."""

    frame_stack: PositiveInt | None = None
    """Pictures that an image observation stacks along its first axis, the latest last.

    The replay buffer then keeps each picture once. Derived: `stack` of Atari games, 1 elsewhere.
    """

    target_network_update_freq: NonNegativeInt = 500
    """Environment steps from one update of the target network to the next.

    0 updates it after every gradient step.
    """

    tau: Annotated[float, Range(0, 1, open_low=True)] = 1.0
    """τ of the target network's updates, θ⁻ ← τ θ + (1 - τ) θ⁻; 1 copies the parameters."""

    n_step: PositiveInt = 1
    """Rewards that are summed before the target takes the network's own value."""

    prioritized_replay: bool = False
    """Whether steps are drawn in proportion to their latest error instead of uniformly."""

    prioritized_replay_alpha: Fraction = 0.6
    """α: 0 draws steps uniformly, 1 in full proportion to their errors."""

    prioritized_replay_beta: Schedule = 0.4
    """β of the importance weights: 1 corrects fully for drawing some steps more often than others.
    """

    prioritized_replay_eps: Positive = 1e-6
    """Added to each error, so that every step can still be drawn."""

    her: bool = False
    """Whether most steps are learnt from as if their goal had been one that was achieved after them
    (hindsight experience replay).

    For environments whose observations are a Dict of `observation`, `achieved_goal` and
    `desired_goal`, and which have a `compute_reward`.
    """

    n_sampled_goal: PositiveInt = 4
    """With her, so many steps with another goal are drawn for one with its own."""

    goal_selection_strategy: Literal["future", "final"] = "future"
    """With her, the other goal: what any later step of the same episode achieved, or its last."""

    timesteps_per_iteration: NonNegativeInt = 1000
    """A call of `train()` goes on until it has sampled this many steps; 0 means one round."""

    learner_thread: bool = False
    """Whether environments step while the learner learns, in a thread of their own.

    Their policy is then one round older, and runs do not repeat to the bit. How often a step is
    learnt from stays the same.
    """

    aliases: ClassVar[dict[str, str]] = {
        **{name: key for name, key in AlgorithmConfig.aliases.items() if key != "train_batch_size"},
        "train_freq": "rollout_fragment_length", "train_frequency": "rollout_fragment_length",
        "batch_size": "train_batch_size", "train_batch_size_per_learner": "train_batch_size",
        "capacity": "buffer_size", "replay_buffer_capacity": "buffer_size",
        "num_steps_sampled_before_learning_starts": "learning_starts",
        "target_update_interval": "target_network_update_freq",
        "target_network_frequency": "target_network_update_freq", "n_steps": "n_step",
    }  # fmt: skip

    untranslatable: ClassVar[dict[str, str]] = {
        "central_critic": "PPO, A2C, IMPALA and APPO can have a value function that sees all.",
        "optimize_memory_usage": "Every observation is kept once, whatever is set.",
        "replay_buffer_config": (
            "Give buffer_size, and prioritized_replay with its alpha, beta and eps, themselves."
        ),
        "store_buffer_in_checkpoints": "Checkpoints hold the replay, always.",
        **dict.fromkeys(
            ("prioritized_replay_beta_annealing_timesteps", "final_prioritized_replay_beta"),
            "Give prioritized_replay_beta as a schedule: [[0, 0.4], [20000, 1]].",
        ),
        "replay_buffer_class": "Give her: whether steps are learnt from with other goals, too.",
        "replay_buffer_kwargs": "Give her, n_sampled_goal and goal_selection_strategy themselves.",
    }

    remembers: ClassVar[bool] = False
    """Whether sequences can be drawn from the replay, for a policy with a memory."""

    continued: ClassVar[bool] = False
    """Whether this (an instance) is what a checkpoint had, with other settings over it."""

    @property
    def round_steps(self) -> int:
        """Environment steps between gradient steps."""
        return self.num_envs * (self.rollout_fragment_length or 1)

    def derive(self, explicit: set[str]) -> None:
        super().derive(explicit)
        if self.model.memory is not None and not self.remembers:
            raise ConfigError(
                f"model.memory={self.model.memory!r} does not go with a replay, from which single "
                "steps are drawn: PPO, A2C, IMPALA, APPO and DQN have a memory."
            )
        for key in ("rollout_fragment_length", "n_step"):
            steps = getattr(self, key) * self.num_envs
            if steps > self.buffer_size:
                raise ConfigError(
                    f"buffer_size={self.buffer_size} is smaller than the {steps} steps that "
                    f"{self.num_envs} environments take in {key}={getattr(self, key)}."
                )
        if self.her:
            self._derive_hindsight(explicit)
        if self.learner_thread and self.on_cluster:
            raise ConfigError(
                f"learner_thread=True does not go with ray_address={self.ray_address!r}: "
                "workers of a cluster and the learner take turns."
            )
        if self.frame_stack is None:
            # Nothing is known of pictures that wrappers make.
            name = atari_name(self.env) if isinstance(self.env, str) and not self.wrappers else None
            self.frame_stack = atari_config(name, self.env_config).stack if name else 1

    def _derive_hindsight(self, explicit: set[str]) -> None:
        """Switches off what does not go with other goals, or refuses it if the user set it."""
        for key, off, why in (
            ("n_step", 1, "with another goal, other actions would have followed a step"),
            ("prioritized_replay", False, "the error of a step is another one with each goal"),
        ):
            if (value := getattr(self, key)) != off:
                if key in explicit:
                    raise ConfigError(f"{key}={value} does not go with her=True: {why}.")
                setattr(self, key, off)

    def spread(self, most: int) -> None:
        """Shares the environments, which stay as many: gradient steps follow from their number."""
        self._spread(most, whole=True)

    def _derive_batch(self, explicit: set[str]) -> None:
        """Makes `gradient_steps * train_batch_size == training_intensity * round_steps`."""
        self._share_environments(explicit)
        self.rollout_fragment_length = self.rollout_fragment_length or 4
        self.train_batch_size = self.train_batch_size or 64
        round_batches = self.round_steps / self.train_batch_size
        steps = self.round_steps if self.gradient_steps == -1 else self.gradient_steps
        intensity = self.training_intensity
        if steps is not None and intensity is not None:
            implied = intensity * round_batches
            both = {"gradient_steps", "training_intensity"} <= explicit
            if both and not math.isclose(steps, implied):
                raise ConfigError(
                    f"gradient_steps={steps:g} contradicts training_intensity={intensity:g}, "
                    f"which is {implied:g} gradient steps here: leave one of the two out."
                )
            # Of two that presets or files set, the one that the user set counts.
            steps, intensity = (steps, None) if "gradient_steps" in explicit else (None, intensity)
        if steps is None:
            steps = self.round_steps / 4 if intensity is None else intensity * round_batches
        self.gradient_steps, self.training_intensity = steps, steps / round_batches
