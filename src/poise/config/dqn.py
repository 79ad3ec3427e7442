"""DQN: its configuration, presets and search space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from poise.config.model import ModelConfig
from poise.config.off_policy import OffPolicyConfig
from poise.config.shared import ATARI, CARTPOLE, COST_TABLES, NETWORK_SEARCH, PONG, SMALL_NETWORK
from poise.config.spec import AlgorithmSpec, Presets
from poise.config.types import (
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
    Schedule,
)
from poise.errors import ConfigError


@dataclass
class DQNConfig(OffPolicyConfig):
    """Deep Q-learning (Mnih et al. 2015); double, dueling, prioritized and n-step are options."""

    lr: Schedule = 5e-4

    grad_clip: Positive | None = 10.0

    grad_clip_value: Positive | None = None
    """Largest size of each number of the gradient; null does not clip."""

    double_q: bool = True
    """Whether the online network chooses the action that the target network values (double DQN)."""

    dueling: bool = False
    """Whether V(s) and A(s, a) have hidden layers of their own (dueling DQN)."""

    initial_epsilon: Fraction = 1.0
    """Probability of a random action at the start."""

    final_epsilon: Fraction = 0.05
    """Probability of a random action in the end."""

    epsilon_timesteps: PositiveInt = 10_000
    """Environment steps over which epsilon falls from initial_epsilon to final_epsilon."""

    epsilon_schedule: Literal["linear", "exponential"] = "linear"
    """How it falls: in a straight line, or exponentially.

    Exponentially, it is final + (initial - final) exp(-steps / epsilon_timesteps).
    """

    td_error_loss_fn: Literal["huber", "mse"] = "huber"
    """Loss of a TD error: half its square, with `huber` only up to 1 and linear beyond."""

    burn_in: NonNegativeInt = 8
    """With model.memory, the first steps of each sequence that is drawn, which only bring the
    memory up to date; model.max_seq_len steps follow that are learnt from (R2D2)."""

    adam_epsilon: Positive = 1e-5
    """ε in the denominator of Adam."""

    weight_decay: NonNegative = 0.0
    """Each gradient step shrinks the parameters by lr times this share, as AdamW does."""

    amsgrad: bool = False
    """Whether Adam's running mean of squared gradients never falls (AMSGrad)."""

    model: ModelConfig = field(default_factory=lambda: ModelConfig(fcnet_activation="relu"))
    """The networks."""

    aliases: ClassVar[dict[str, str]] = {
        **OffPolicyConfig.aliases,
        "exploration_initial_eps": "initial_epsilon", "exploration_final_eps": "final_epsilon",
        "start_e": "initial_epsilon", "end_e": "final_epsilon", "replay_burn_in": "burn_in",
    }  # fmt: skip

    untranslatable: ClassVar[dict[str, str]] = {
        **OffPolicyConfig.untranslatable,
        "exploration_fraction": (
            "It is a share of a run's length: "
            "give epsilon_timesteps, exploration_fraction x total_timesteps."
        ),
        "exploration_config": (
            "Give initial_epsilon, final_epsilon and epsilon_timesteps themselves."
        ),
        "epsilon": "Give initial_epsilon, final_epsilon and epsilon_timesteps.",
    }

    remembers: ClassVar[bool] = True

    @property
    def sequence_length(self) -> int:
        """Steps of a sequence: burn-in, those that are learnt from, and what their n steps need."""
        return self.burn_in + self.model.max_seq_len + self.n_step - 1

    def derive(self, explicit: set[str]) -> None:
        if self.model.memory is not None:
            self._derive_sequences(explicit)
        super().derive(explicit)
        if self.model.memory is not None:
            self.require_sequences()
        if self.model.vf_fcnet_hiddens is not None and not self.dueling:
            raise ConfigError(
                f"model.vf_fcnet_hiddens={self.model.vf_fcnet_hiddens} is for dueling=True: "
                "without it, DQN has no stream for V(s)."
            )

    def _derive_sequences(self, explicit: set[str]) -> None:
        """With a memory, a minibatch is 16 sequences, learnt from as often as single steps are.

        A smaller one that the user set goes before the default length of sequences. What goes on
        from a checkpoint has its numbers already.
        """
        size, length = self.train_batch_size, self.model.max_seq_len
        if "train_batch_size" not in explicit and not self.continued:
            self.train_batch_size = 16 * length
        elif size is not None and size < length and "model.max_seq_len" not in explicit:
            self.model.max_seq_len = size
        if not (self.continued or {"gradient_steps", "training_intensity"} & explicit):
            self.gradient_steps, self.training_intensity = None, 16

    def require_sequences(self) -> None:
        """Finds out whether sequences can be drawn and learnt from.

        Raises:
            ConfigError: they cannot.
        """
        size, length = self.train_batch_size, self.model.max_seq_len
        if self.her:
            raise ConfigError("her=True does not go with a memory: goals change single steps.")
        if size is not None and size < length:
            raise ConfigError(
                f"train_batch_size={size} is smaller than model.max_seq_len={length}: "
                "a minibatch holds whole sequences."
            )
        # Sequences begin where rollouts do: there has to be room for a whole number of these.
        every = self.rollout_fragment_length or 1
        steps = -(-self.sequence_length // every) * every * self.num_envs
        if steps > self.buffer_size:
            raise ConfigError(
                f"buffer_size={self.buffer_size} is smaller than the {steps} steps that "
                f"{self.num_envs} environments take in the rollouts of one sequence "
                f"(burn_in={self.burn_in}, model.max_seq_len={length}, n_step={self.n_step}, "
                f"rollout_fragment_length={every})."
            )


# Huber's loss grows only linearly with large errors, so that the rare fall is lost among the steps
# that go well: hence squared errors, of scaled rewards. With one hidden layer, one seed in twenty
# left the track on the same side for ever. Seeds 0 to 40 all reached a confirmed greedy mean of
# 475: after 13,600 steps on average, the last one after 38,300.
_CARTPOLE = {"num_envs_per_worker": 32, "gradient_steps": 8, "train_batch_size": 128,
    "buffer_size": 20_000, "lr": 0.003, "n_step": 5, "tau": 0.03, "target_network_update_freq": 0,
    "td_error_loss_fn": "mse", "normalize_observations": True, "normalize_rewards": True,
    "model.fcnet_hiddens": [128, 128]}  # fmt: skip

# CartPole's, with a replay of all steps and a falling learning rate: at a constant one, greedy
# episodes swing between -82 and -500.
_ACROBOT = {**_CARTPOLE, "gradient_steps": 16, "buffer_size": 100_000, "learning_starts": 2000,
    "lr": [[0, 0.001], [50_000, 0.0003], [100_000, 0.00003]], "n_step": 3, "tau": 0.02,
    "td_error_loss_fn": "huber"}  # fmt: skip

# From RL Baselines3 Zoo; one seed scored -101 after 120,000 steps, more were not measured. With
# unscaled rewards of -1, whatever is new looks better than it is, and that leads out of the valley.
_MOUNTAIN_CAR = {"num_envs_per_worker": 1, "rollout_fragment_length": 16, "gradient_steps": 8,
    "train_batch_size": 128, "buffer_size": 10_000, "gamma": 0.98, "lr": 0.004,
    "target_network_update_freq": 600, "epsilon_timesteps": 24_000, "final_epsilon": 0.07,
    "model.fcnet_hiddens": [256, 256]}  # fmt: skip

# One parameter for each state and action, as in PPO's. One wrong step spoils an episode, so that
# hardly any random ones may be left in the end.
_TABLE = {"num_envs_per_worker": 32, "gradient_steps": 16, "train_batch_size": 128,
    "buffer_size": 50_000, "lr": [[0, 0.01], [50_000, 0.01], [150_000, 0.0005]], "tau": 0.05,
    "target_network_update_freq": 0, "epsilon_timesteps": 30_000, "final_epsilon": 0.01,
    "model.fcnet_hiddens": []}  # fmt: skip
_TABLE_OF_COSTS = {**_TABLE, "lr": [[0, 0.02], [40_000, 0.02], [100_000, 0.001]],
    "epsilon_timesteps": 20_000, "normalize_rewards": True}  # fmt: skip

# From the literature (RL Baselines3 Zoo), not measured.
_LUNAR_LANDER = {"num_envs_per_worker": 4, "gradient_steps": 16, "train_batch_size": 128,
    "buffer_size": 50_000, "lr": 0.00063, "target_network_update_freq": 250,
    "epsilon_timesteps": 12_000, "final_epsilon": 0.1,
    "model.fcnet_hiddens": [256, 256]}  # fmt: skip

# PyTorch's tutorial "Reinforcement Learning (DQN)": `--preset tutorial`.
_TUTORIAL = {"num_envs_per_worker": 1, "rollout_fragment_length": 1, "gradient_steps": 1,
    "train_batch_size": 128, "buffer_size": 10_000, "learning_starts": 128, "lr": 1e-4,
    "adam_epsilon": 1e-8, "weight_decay": 0.01, "amsgrad": True, "grad_clip": None,
    "grad_clip_value": 100.0, "double_q": False, "tau": 0.005, "target_network_update_freq": 0,
    "initial_epsilon": 0.9, "epsilon_timesteps": 1000, "epsilon_schedule": "exponential",
    "model.initializer": "uniform", "model.fcnet_hiddens": [128, 128],
    "model.fcnet_activation": "relu"}  # fmt: skip

# Mnih et al. 2015, with the shorter schedules that a processor has time for.
_ATARI_GAMES = {"num_envs_per_worker": 8, "training_intensity": 8.0, "train_batch_size": 32,
    "buffer_size": 100_000, "learning_starts": 10_000, "lr": 1e-4,
    "target_network_update_freq": 8000, "epsilon_timesteps": 200_000, "final_epsilon": 0.01,
    "clip_rewards": True, "model.fcnet_hiddens": [512]}  # fmt: skip

_PONG = {**_ATARI_GAMES, **SMALL_NETWORK, "lr": 2.5e-4, "n_step": 3,
    "target_network_update_freq": 2000, "epsilon_timesteps": 50_000,
    "normalize_observations": True}  # fmt: skip

PRESETS: Presets = {
    **dict.fromkeys(CARTPOLE, _CARTPOLE),
    "tutorial": _TUTORIAL,
    "Acrobot-v1": _ACROBOT,
    "MountainCar-v0": _MOUNTAIN_CAR,
    "FrozenLake-v1": _TABLE,
    **dict.fromkeys(COST_TABLES, _TABLE_OF_COSTS),
    "LunarLander-v3": _LUNAR_LANDER,
    ATARI: _ATARI_GAMES,
    **dict.fromkeys(PONG, _PONG),
}  # fmt: skip

SPEC = AlgorithmSpec(
    "poise.algorithms.dqn:DQN", DQNConfig,
    "learns from each step many times, for Discrete actions", PRESETS,
    {
        "lr": "loguniform(1e-4, 5e-3)", "gamma": "choice([0.98, 0.99, 0.995])",
        "train_batch_size": "choice([32, 64, 128])",
        "training_intensity": "choice([4.0, 8.0, 16.0, 32.0])", "n_step": "choice([1, 3, 5])",
        "target_network_update_freq": "choice([250, 500, 1000, 2000])", "tau": 1.0,
        "epsilon_timesteps": "choice([5_000, 10_000, 25_000, 50_000])",
        "td_error_loss_fn": 'choice(["huber", "mse"])', **NETWORK_SEARCH,
    },
)  # fmt: skip
