"""PPO: its configuration, presets and search space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from poise.config.shared import (
    ATARI,
    ATARI_NETWORK,
    COST_TABLES,
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
    Positive,
    PositiveInt,
    Range,
    Schedule,
)
from poise.errors import ConfigError


@dataclass
class PPOConfig(ActorCriticConfig):
    """Proximal Policy Optimization (Schulman et al. 2017, arXiv 1707.06347), clipped surrogate."""

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
    """How far a value may move from the one predicted while sampling, in units of the value.

    null does not clip.
    """

    vf_loss_coeff: NonNegative = 0.5
    """Weight of the value loss."""

    entropy_coeff: Schedule = 0.0
    """Weight of the entropy bonus."""

    normalize_advantages: bool = True
    """Whether each minibatch's advantages are brought to mean 0 and standard deviation 1."""

    target_kl: Positive | None = None
    """Ends a batch's epochs early once the approximate KL divergence exceeds 1.5 times this.

    null never does.
    """

    exploration_correlation: Annotated[float, Range(0, 0.999)] = 0.0
    """Correlation of the exploration noise from one step to the next, for `Box` actions.

    0 is white noise; near 1, the agent keeps to a direction for a while, which finds goals that
    need momentum (MountainCarContinuous).
    """

    aliases: ClassVar[dict[str, str]] = {
        **ON_POLICY_ALIASES, "num_epochs": "num_sgd_iter", "n_epochs": "num_sgd_iter",
        "update_epochs": "num_sgd_iter", "minibatch_size": "sgd_minibatch_size",
        "batch_size": "sgd_minibatch_size", "clip_range": "clip_param", "clip_coef": "clip_param",
        "clip_range_vf": "vf_clip_param",
    }  # fmt: skip

    def derive(self, explicit: set[str]) -> None:
        super().derive(explicit)
        batch = self.train_batch_size
        assert batch is not None
        size = self.sgd_minibatch_size
        if size and size > batch and "sgd_minibatch_size" in explicit:
            raise ConfigError(
                f"sgd_minibatch_size={size} is larger than train_batch_size={batch}: "
                "a minibatch is a part of the batch."
            )
        self.sgd_minibatch_size = min(size or max(64, batch // 8), batch)
        self._derive_sequences(explicit)

    def _derive_sequences(self, explicit: set[str]) -> None:
        """With a memory, a minibatch has at least one sequence, which may be as long as a rollout.

        Of the two, what the user set goes before what is a default.
        """
        size, length = self.sgd_minibatch_size, self.rollout_fragment_length
        assert size is not None
        assert length is not None
        if self.model.memory is None or size >= min(self.model.max_seq_len, length):
            return
        if {"sgd_minibatch_size", "model.max_seq_len"} <= explicit:
            raise ConfigError(
                f"sgd_minibatch_size={size} is smaller than "
                f"model.max_seq_len={self.model.max_seq_len}: a minibatch holds whole sequences."
            )
        if "sgd_minibatch_size" in explicit:
            self.model.max_seq_len = size
        else:
            self.sgd_minibatch_size = min(self.model.max_seq_len, length)


PPO_CARTPOLE = {
    "num_envs_per_worker": 96, "rollout_fragment_length": 32, "sgd_minibatch_size": 512,
    "num_sgd_iter": 6, "lr": 0.01, "gae_lambda": 0.85, "grad_clip": 5.0,
    "model.fcnet_hiddens": [48],
}  # fmt: skip

# Once the poles stand, falls become rare and a policy that keeps moving forgets how to catch
# itself: hence the small clip and the fall of the learning rate.
_DOUBLE_PENDULUM = {
    "rollout_fragment_length": 64, "sgd_minibatch_size": 128,
    "lr": [[0, 0.0015], [100_000, 0.0001], [200_000, 0.00001]], "gae_lambda": 0.97,
    "clip_param": 0.1, "normalize_observations": True, "normalize_rewards": True,
    "model.action_distribution": "squashed_gaussian",
}  # fmt: skip

ROBOTS = ("HalfCheetah", "Hopper", "Walker2d", "Ant", "Humanoid", "HumanoidStandup", "Pusher")
# Near what Tianshou's examples use for MuJoCo: many small minibatches, a first deviation below 1.
# Of these robots, HalfCheetah is measured; the others are from the literature, not measured.
_ROBOT = {
    "sgd_minibatch_size": 64, "lr": [[0, 0.0003], [1_000_000, 0.00003]], "vf_loss_coeff": 0.25,
    "normalize_observations": True, "normalize_rewards": True, "model.log_std_init": -0.5,
}  # fmt: skip

# From the literature (RL Baselines3 Zoo), not measured: swimming pays off late, and it takes a
# discount near 1 to see that.
_SWIMMER = {
    "num_envs_per_worker": 4, "rollout_fragment_length": 1024, "sgd_minibatch_size": 256,
    "lr": 0.0006, "gamma": 0.9999, "gae_lambda": 0.98, "normalize_observations": True,
    "normalize_rewards": True,
}  # fmt: skip

# A table needs one parameter for each state and action: no hidden layer, and a high learning rate.
_TABLE = {
    "num_envs_per_worker": 32, "rollout_fragment_length": 64, "sgd_minibatch_size": 512,
    "num_sgd_iter": 5, "lr": [[0, 0.05], [200_000, 0.005]], "model.fcnet_hiddens": [],
}  # fmt: skip
_TABLE_OF_COSTS = {**_TABLE, "normalize_rewards": True}

# From the literature: its discount is RL Baselines3 Zoo's.
_REACHER = {
    "rollout_fragment_length": 64, "sgd_minibatch_size": 128, "num_sgd_iter": 8,
    "lr": [[0, 0.001], [300_000, 0.0001]], "gamma": 0.9, "normalize_observations": True,
    "normalize_rewards": True, "model.log_std_init": -1.0,
}  # fmt: skip

# Rewards as they come (-100 for a crash) teach it to hover until the time is over; normalised, to
# land.
_LUNAR_LANDER = {
    "num_envs_per_worker": 32, "sgd_minibatch_size": 256, "lr": [[0, 0.001], [600_000, 0.0001]],
    "entropy_coeff": 0.01, "normalize_observations": True, "normalize_rewards": True,
}  # fmt: skip

_WALKER = {
    "num_envs_per_worker": 32, "sgd_minibatch_size": 256, "lr": [[0, 0.001], [1_000_000, 0.0001]],
    "normalize_observations": True, "normalize_rewards": True, "model.log_std_init": -0.5,
}  # fmt: skip

# Schulman et al. 2017, but at a constant learning rate: a run has no fixed length over which it
# could fall to zero.
_ATARI_GAMES = {
    **ATARI_NETWORK, "num_envs_per_worker": 8, "rollout_fragment_length": 128,
    "sgd_minibatch_size": 256, "num_sgd_iter": 4, "lr": 2.5e-4, "clip_param": 0.1,
    "entropy_coeff": 0.01,
}  # fmt: skip

# At a high learning rate from the start, one run in a few settles on a single action before the
# values mean anything. In the end, every random action costs points: hence the fall of both.
PONG_SCHEDULES = {
    "lr": [[0, 0.0005], [50_000, 0.001], [300_000, 0.0003], [600_000, 0.0001]],
    "entropy_coeff": [[0, 0.03], [150_000, 0.01], [400_000, 0.002]],
}  # fmt: skip

# Whitened pictures let it learn from fewer steps, and at a higher learning rate.
PPO_PONG = {
    **_ATARI_GAMES, **SMALL_NETWORK, **PONG_SCHEDULES, "num_envs_per_worker": 16, "num_sgd_iter": 3,
    "clip_param": 0.2, "normalize_observations": True,
}  # fmt: skip

# It takes two observations to see a speed, so that short sequences are enough, and many at once.
_CARTPOLE_UNSEEN = {
    "rollout_fragment_length": 32, "sgd_minibatch_size": 256, "num_sgd_iter": 15,
    "lr": [[0, 0.003], [60_000, 0.0003]], "gamma": 0.98, "gae_lambda": 0.85,
    "normalize_observations": True, "model.memory": "gru", "model.fcnet_hiddens": [64],
    "model.max_seq_len": 16,
}  # fmt: skip

# Few, large minibatches, as Yu et al. 2022 advise for several agents; also with central_critic.
_SPREAD = {
    "rollout_fragment_length": 125, "sgd_minibatch_size": 500, "lr": 0.0007, "entropy_coeff": 0.01,
    "normalize_rewards": True,
}  # fmt: skip
# A kernel of four sees lines of four. From single trials, of one seed each.
_CONNECT_FOUR = {
    "num_envs_per_worker": 64, "rollout_fragment_length": 64, "num_sgd_iter": 4,
    "sgd_minibatch_size": 384, "lr": [[0, 0.0015], [5_000_000, 0.0003]], "entropy_coeff": 0.05,
    "opponents": {"pool": 10, "every": 50_000, "sampling": "pfsp", "latest": 0.5},
    "model.conv_filters": [[64, 4, 1]], "model.fcnet_hiddens": [128],
    "model.fcnet_activation": "relu", "model.vf_share_layers": True,
}  # fmt: skip
_FORAGING = {"num_sgd_iter": 6, "lr": 0.001, "entropy_coeff": 0.01}

PRESETS: Presets = {
    "CartPole-v1": PPO_CARTPOLE,
    "CartPoleNoVel-v1": _CARTPOLE_UNSEEN,
    # Normalised observations and whole returns: it must solve it with a linear network, too, since
    # tutorials use one.
    "CartPole-v0": {"num_envs_per_worker": 32, "rollout_fragment_length": 128,
        "sgd_minibatch_size": 1024, "lr": 0.005, "gae_lambda": 1.0, "normalize_observations": True,
        "model.fcnet_hiddens": [48]},
    "Acrobot-v1": {"rollout_fragment_length": 256, "sgd_minibatch_size": 256, "num_sgd_iter": 4,
        "lr": [[0, 0.003], [300_000, 0.0003]], "gae_lambda": 0.94, "entropy_coeff": 0.01,
        "normalize_observations": True, "normalize_rewards": True},
    "Pendulum-v1": {"rollout_fragment_length": 128, "sgd_minibatch_size": 256,
        "lr": [[0, 0.001], [300_000, 0.0001]], "gamma": 0.9, "normalize_rewards": True},
    # Untrained, it reaches the flag by chance now and then. With a discount of 0.99, it stays at
    # -130: a step less on the way is worth too little.
    "MountainCar-v0": {"rollout_fragment_length": 64, "sgd_minibatch_size": 256, "num_sgd_iter": 8,
        "lr": [[0, 0.002], [300_000, 0.0002]], "gamma": 0.999, "gae_lambda": 0.98,
        "normalize_observations": True, "normalize_rewards": True},
    # White noise never leaves the valley: it takes momentum, and that takes noise which lasts.
    "MountainCarContinuous-v0": {"num_envs_per_worker": 8, "rollout_fragment_length": 256,
        "sgd_minibatch_size": 256, "gamma": 0.999, "normalize_observations": True,
        "normalize_rewards": True, "exploration_correlation": 0.95},
    **dict.fromkeys(("InvertedDoublePendulum-v4", "InvertedDoublePendulum-v5"), _DOUBLE_PENDULUM),
    "LunarLander-v3": _LUNAR_LANDER,
    # After 500,000 steps, two seeds of three score 266 and 270, and the third 174.
    "LunarLanderContinuous-v3": {**_LUNAR_LANDER, "gamma": 0.995, "gae_lambda": 0.97},
    "BipedalWalker-v3": _WALKER,
    # From the literature (RL Baselines3 Zoo), not measured: it takes a hundred million steps.
    "BipedalWalkerHardcore-v3": {**_WALKER, "lr": 0.00025, "entropy_coeff": 0.001},
    # From the literature (RL Baselines3 Zoo), not measured, and without its frame skip and grey
    # pictures.
    "CarRacing-v3": {"num_envs_per_worker": 8, "rollout_fragment_length": 512,
        "sgd_minibatch_size": 128, "lr": 0.0001, "normalize_rewards": True,
        "exploration_correlation": 0.9, "model.vf_share_layers": True, "model.fcnet_hiddens": [256],
        "model.log_std_init": -1.0},
    **dict.fromkeys((f"{robot}-{v}" for robot in ROBOTS for v in ("v4", "v5")), _ROBOT),
    **dict.fromkeys(("Reacher-v4", "Reacher-v5"), _REACHER),
    **dict.fromkeys(("Swimmer-v4", "Swimmer-v5"), _SWIMMER),
    # The preset of two poles, not measured on one.
    **dict.fromkeys(("InvertedPendulum-v4", "InvertedPendulum-v5"), _DOUBLE_PENDULUM),
    **dict.fromkeys(("FrozenLake-v1", "FrozenLake8x8-v1"), _TABLE),
    **dict.fromkeys(COST_TABLES, _TABLE_OF_COSTS),
    # A hand is mostly luck: a mean over 100 of them says little. From single trials.
    "Blackjack-v1": {"num_envs_per_worker": 32, "sgd_minibatch_size": 512, "num_sgd_iter": 4,
        "lr": [[0, 0.005], [200_000, 0.0005]], "metrics_smoothing_episodes": 5000,
        "model.fcnet_hiddens": [32, 32], "model.fcnet_activation": "relu"},
    "mpe2.simple_spread_v3": _SPREAD,
    "pettingzoo.classic.connect_four_v3": _CONNECT_FOUR,
    **dict.fromkeys(("Foraging-8x8-2p-2f-coop-v3", "Foraging-10x10-3p-3f-v3"), _FORAGING),
    ATARI: _ATARI_GAMES,
    **dict.fromkeys(PONG, PPO_PONG),
}  # fmt: skip

SPEC = AlgorithmSpec(
    "poise.algorithms.ppo:PPO", PPOConfig,
    "the robust default: clipped policy updates, several epochs", PRESETS,
    {
        **ON_POLICY_SEARCH, "num_envs_per_worker": "choice([8, 16, 32])",
        "rollout_fragment_length": "choice([32, 64, 128, 256])",
        "num_sgd_iter": "choice([4, 8, 12])", "sgd_minibatch_size": "choice([64, 128, 256])",
        "clip_param": "choice([0.1, 0.2, 0.3])", "normalize_observations": "choice([False, True])",
    },
)  # fmt: skip
