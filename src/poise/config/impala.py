"""IMPALA: its configuration, presets and search space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from poise.config.a2c import A2C_CARTPOLE
from poise.config.checked import quotient
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
from poise.errors import ConfigError


@dataclass
class AsynchronousConfig(ActorCriticConfig):
    """What the algorithms share that learn while environments go on."""

    num_envs_per_worker: EnvCount = 16
    """Environments that are stepped together, as one batch."""

    rollout_fragment_length: PositiveInt | None = 32
    """Steps that each environment takes before the learner gets them."""

    timesteps_per_iteration: NonNegativeInt = 5000
    """A call of `train()` goes on until it has learnt from this many steps; 0 means one rollout."""

    learner_queue_size: Annotated[int, Range(0, 1000)] = 1
    """Full rollouts that may wait for the learner before the environments wait, too.

    With fewer, the policy that samples is less out of date; with more, uneven speeds even out.
    """

    broadcast_interval: PositiveInt = 1
    """Rollouts that the learner learns from before the actor gets its parameters."""

    vtrace_clip_rho_threshold: Positive = 1.0
    """ρ̄, the largest importance weight of an error in V-trace: 1 or more.

    A larger one gives more weight to actions that have become likelier since they were sampled.
    """

    sampling_threads: ClassVar[int] = 1

    def _derive_batch(self, explicit: set[str]) -> None:
        """On a cluster, a batch is made of the rollouts that come first.

        Where its size is set, the number of workers is therefore free.
        """
        batch, length = self.train_batch_size, self.rollout_fragment_length
        self.choose_workers(explicit)
        if not (self.on_cluster and "train_batch_size" in explicit and batch and length):
            return super()._derive_batch(explicit)
        slots = quotient(batch, "rollout_fragment_length", length)
        if "num_envs_per_worker" in explicit:
            envs = self.num_envs_per_worker
            quotient(batch, "num_envs_per_worker x rollout_fragment_length", envs * length)
        else:
            self.num_envs_per_worker = self._share(slots, self._groups)

    def spread(self, most: int) -> None:
        if "train_batch_size" not in self.__dict__.get("given", ()):
            return super().spread(most)
        assert self.train_batch_size is not None
        assert self.rollout_fragment_length is not None
        slots = self.train_batch_size // self.rollout_fragment_length
        self.num_workers = most
        if "num_envs_per_worker" not in self.__dict__["given"]:
            self.num_envs_per_worker = self._share(slots, most)

    @property
    def own_batch(self) -> bool:
        rollout = self.num_envs * (self.rollout_fragment_length or 1)
        return self.on_cluster and self.train_batch_size != rollout

    @staticmethod
    def _share(slots: int, workers: int) -> int:
        """Environments of each worker, so that whole rollouts of workers fill a batch."""
        return max(n for n in range(1, max(1, slots // workers) + 1) if slots % n == 0)

    untranslatable: ClassVar[dict[str, str]] = {
        **ActorCriticConfig.untranslatable,
        "vtrace": "Off-policy steps are always weighted by V-trace.",
        "momentum": "RMSProp has no momentum here.",
        "minibatch_buffer_size": "Give num_sgd_iter to learn from a rollout several times.",
        "max_sample_requests_in_flight_per_worker": "Give learner_queue_size.",
        "max_requests_in_flight_per_env_runner": "Give learner_queue_size.",
        **dict.fromkeys(
            ("replay_proportion", "replay_buffer_num_slots"),
            "Every rollout is learnt from once, in the order of sampling.",
        ),
        **dict.fromkeys(
            ("min_iter_time_s", "min_time_s_per_iteration"),
            "An iteration ends by its steps: give timesteps_per_iteration.",
        ),
    }


@dataclass
class IMPALAConfig(AsynchronousConfig):
    """IMPALA (Espeholt et al. 2018, arXiv 1802.01561): an actor beside a learner, with V-trace."""

    lr: Schedule = 5e-4

    opt_type: Literal["adam", "rmsprop"] = "adam"
    """Optimiser."""

    gae_lambda: Fraction = 1.0
    """λ of V-trace's targets: 1 is the paper's."""

    vtrace_clip_pg_rho_threshold: Positive = 1.0
    """The same bound for the weights in the policy's gradient."""

    vf_loss_coeff: NonNegative = 0.5
    """Weight of the value loss."""

    entropy_coeff: Schedule = 0.01
    """Weight of the entropy bonus."""

    num_sgd_iter: PositiveInt = 1
    """Passes over each rollout; V-trace is computed anew in each."""

    sgd_minibatch_size: PositiveInt | None = None
    """Steps per gradient step, a multiple of rollout_fragment_length: trajectories stay whole.

    Derived: the whole batch.
    """

    rms_prop_eps: Positive = 1e-5
    """ε in the denominator of RMSProp."""

    rms_prop_decay: Fraction = 0.99
    """Decay of RMSProp's running mean of squared gradients."""

    exploration_correlation: Annotated[float, Range(0, 0.999)] = 0.0
    """Correlation of the exploration noise from one step to the next, for `Box` actions.

    0 is white noise.
    """

    aliases: ClassVar[dict[str, str]] = {
        **{alias: key for alias, key in ON_POLICY_ALIASES.items() if key != "normalize_advantages"},
        "num_epochs": "num_sgd_iter", "minibatch_size": "sgd_minibatch_size",
        "decay": "rms_prop_decay", "epsilon": "rms_prop_eps",
    }  # fmt: skip

    def derive(self, explicit: set[str]) -> None:
        super().derive(explicit)
        length, batch = self.rollout_fragment_length, self.train_batch_size
        assert length is not None
        assert batch is not None
        size = batch if self.sgd_minibatch_size is None else self.sgd_minibatch_size
        if size % length or size > batch:
            if "sgd_minibatch_size" in explicit:
                raise ConfigError(
                    f"sgd_minibatch_size={size} contradicts rollout_fragment_length={length} and "
                    f"train_batch_size={batch}: it must be a multiple of the one, "
                    "and not more than the other."
                )
            size = batch
        self.sgd_minibatch_size = size


# With Adam, one seed in six falls back for long once the pole stands; with RMSProp and a small ε,
# one run in ten forgot all it knew.
_CARTPOLE = {
    **A2C_CARTPOLE, "opt_type": "rmsprop", "lr": [[0, 0.004], [100_000, 0.004], [300_000, 0.0005]],
    "entropy_coeff": 0.0, "timesteps_per_iteration": 4096,
}  # fmt: skip

# The weights of entropy and value loss are those of Espeholt et al. 2018 (0.25 of a whole square is
# 0.5 of half of one). One pass over batches twice as large would sample faster, and learn from each
# step half as much.
_ATARI_GAMES = {
    **ATARI_NETWORK, **SMALL_NETWORK, "num_envs_per_worker": 16, "rollout_fragment_length": 32,
    "num_sgd_iter": 2, "sgd_minibatch_size": 256, "lr": 5e-4, "entropy_coeff": 0.01,
    "vf_loss_coeff": 0.25, "normalize_observations": True,
}  # fmt: skip
# It takes more steps than PPO, and by then PPO's learning rates have fallen: with them, a run was
# at 14 after 1.4 million.
_PONG = {**_ATARI_GAMES, "lr": [[0, 0.0005], [50_000, 0.001]]}

PRESETS: Presets = {
    **dict.fromkeys(CARTPOLE, _CARTPOLE), ATARI: _ATARI_GAMES, **dict.fromkeys(PONG, _PONG),
}  # fmt: skip

SPEC = AlgorithmSpec(
    "poise.algorithms.impala:IMPALA", IMPALAConfig,
    "samples while it learns, one update per rollout", PRESETS,
    {
        **ON_POLICY_SEARCH, "num_envs_per_worker": "choice([8, 16, 32])",
        "rollout_fragment_length": "choice([16, 32, 64])",
        "opt_type": 'choice(["adam", "rmsprop"])', "vf_loss_coeff": "choice([0.25, 0.5])",
    },
)  # fmt: skip
