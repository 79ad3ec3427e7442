"""What every algorithm's configuration shares: the environment, sampling, the model, evaluation.

A configuration is a dataclass. The docstring under a field is its help text (`poise config PPO`,
`poise train PPO --help`). Where it says "Derived", the value follows from the other fields, unless
somebody sets it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Literal

from poise.config.checked import Checked, quotient
from poise.config.model import SPELLINGS, ModelConfig
from poise.config.opponents import OpponentsSetting, resolved
from poise.config.types import (
    EnvCount,
    Fraction,
    NonNegative,
    NonNegativeInt,
    Policies,
    PolicyMapping,
    Positive,
    PositiveInt,
    Schedule,
    Seconds,
    ThreadCount,
)
from poise.errors import ConfigError

WRAPPERS = "wrappers"
"""Key of an env config that means the same to all environments."""


@dataclass
class AlgorithmConfig(Checked):
    """Settings that every algorithm has."""

    env: Any = None
    """The environment.

    It is a Gymnasium id, `module:Env-v0`, a name given to `poise.register_env`, a class, or a
    function of the env config.
    """

    env_config: dict = field(default_factory=dict)
    """Keyword arguments for a Gymnasium id; the one argument of a class or function of yours.

    `max_episode_steps` sets a time limit.
    """

    wrappers: list[Any] = field(default_factory=list)
    """Gymnasium's or your own wrappers around each environment, the innermost first.

    Each is `module:Class`, or `[module:Class, {arguments}]`. On the command line: `--wrap`.
    """

    gamma: Fraction = 0.99
    """Discount factor."""

    lr: Schedule = 3e-4
    """Learning rate: a number, or a schedule.

    A schedule is `[[timestep, value], ...]`, with straight lines between its points; or `cosine`,
    `linear` or `cosine_0.001`, which fall to 0 within `total_timesteps`.
    """

    grad_clip: Positive | None = 0.5
    """Largest global norm of the gradient; null does not clip."""

    train_batch_size: PositiveInt | None = None
    """Environment steps per update round.

    Derived: num_envs_per_worker x rollout_fragment_length.
    """

    num_workers: NonNegativeInt | Literal["auto"] = 0
    """Processes that step environments (for Atari games: threads of the emulator).

    0 steps them in this process. `auto` measures a step, chooses, and writes down its choice.
    """

    ray_address: str | None = None
    """A Ray cluster on which the workers sample, each with its environments and a copy of the
    policy: `local` (a Ray of its own on this machine), `auto` (the cluster that this machine is
    part of), `HOST:PORT` or `ray://HOST:PORT`. Then `num_workers` is `auto` unless it is set: all
    free CPUs of the cluster but one. null samples on this machine without Ray. Of a search, or of
    several seeds, the trials run there instead, each with its workers on its machine."""

    num_learners: PositiveInt = 1
    """Processes on the cluster that learn together: this one and others, on other machines where
    there are some, each with a GPU where `num_gpus` is 1. What is learnt is the same, up to
    rounding; each runs the networks on a share of every minibatch. It needs `ray_address`."""

    num_cpus_per_worker: Positive = 1.0
    """CPUs that Ray reserves for each worker; for a trial, times its processes."""

    min_workers: PositiveInt | None = None
    """Workers that are enough to begin with on a cluster when `cluster_timeout_s` is over, the
    others joining later; null waits for all of them."""

    cluster_timeout_s: Seconds = 600.0
    """Seconds to wait until the workers have found machines on a cluster; then the run ends with
    the reason."""

    num_envs_per_worker: EnvCount = 8
    """Environments of each worker, or of this process. If only `num_workers` is set, the workers
    share this many."""

    rollout_fragment_length: PositiveInt | None = 128
    """Steps that each environment takes before an update round."""

    timesteps_per_iteration: NonNegativeInt = 0
    """A call of `train()` repeats update rounds until it has sampled this many steps. 0 means one
    round."""

    env_step_timeout_s: Seconds = 60.0
    """Seconds after which a step of an environment counts as hanging. A worker process that hangs
    is replaced."""

    env_reset_timeout_s: Seconds = 120.0
    """The same for a reset."""

    env_make_timeout_s: Seconds = 300.0
    """The same for making one."""

    worker_memory_mb: PositiveInt | None = None
    """Memory in MiB beyond which a worker process is replaced, for environments that leak. null is
    no limit."""

    num_gpus: NonNegative | Literal["auto"] = 0
    """GPUs for acting and learning: 0 or 1 (a part of one is one).

    `auto`: one for images, if there is one.
    """

    num_threads: ThreadCount | Literal["auto"] = "auto"
    """Threads of PyTorch.

    `auto`: one for small networks and boards of games, which more threads would slow down; for
    larger images, all cores but those that sample meanwhile (IMPALA, APPO).
    """

    seed: NonNegativeInt | None = None
    """Seeds everything: two runs with equal seeds are equal to the bit (but not on a GPU). null
    draws one and writes it down."""

    normalize_observations: bool = False
    """Whether observations are shifted and scaled by their running mean and variance. Of pictures,
    every pixel has its own."""

    normalize_rewards: bool = False
    """Whether rewards are divided by the running standard deviation of the discounted return. Only
    the learner sees them so; reports stay raw."""

    clip_rewards: bool = False
    """Whether the learner sees only the sign of rewards: -1, 0 or 1. This is usual for Atari games.
    Reports stay raw."""

    total_timesteps: PositiveInt | None = None
    """Environment steps after which training ends; null leaves the end to stop rules. A stop rule
    for `timesteps_total` goes before it."""

    metrics_smoothing_episodes: PositiveInt = 100
    """Episodes over which `episode_reward_mean` and its siblings are taken."""

    evaluation_interval: PositiveInt | None = None
    """Evaluate every so many iterations, in environments of its own; null never does."""

    evaluation_duration: PositiveInt = 10
    """Episodes in one evaluation."""

    evaluation_explore: bool = False
    """Whether evaluation samples actions instead of taking the most likely ones."""

    evaluation_max_steps: PositiveInt | None = None
    """Steps after which an evaluation cuts an episode that does not end, and says so.

    If nobody sets it, it is 10 times the longest training episode of late, the environment's own
    limit, or 10,000, whichever is most.
    """

    policies: Policies = None
    """Of several agents: names of policies, or a mapping from names to settings of their own
    (`{"red": {"lr": 1e-4}, "blue": {}}`). null: agents of the same spaces share one."""

    policy_mapping_fn: PolicyMapping = None
    """Which policy acts for which agent: a function of the agent's id, or a mapping from ids."""

    policies_to_train: list[str] | None = None
    """The policies that learn; the others act as they are. null: all."""

    opponents: OpponentsSetting = None
    """Self-play of a policy that several agents share, against earlier selves: true, or a mapping
    with some of `pool` (how many are kept; 10), `every` (environment steps after which the present
    self joins them; 50,000), `sampling` (`pfsp`: mostly those that win; `uniform`) and `latest`
    (the share of episodes in which the policy plays itself on all seats; 0.5)."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The networks."""

    adjustable: ClassVar[frozenset[str]] = frozenset({
        "lr", "grad_clip", "grad_clip_value", "timesteps_per_iteration", "total_timesteps",
        "clip_rewards", "evaluation_interval", "evaluation_duration", "evaluation_explore",
        "evaluation_max_steps", "entropy_coeff", "vf_loss_coeff", "clip_param", "vf_clip_param",
        "target_kl", "num_sgd_iter", "normalize_advantages", "gae_lambda", "initial_epsilon",
        "final_epsilon", "epsilon_timesteps", "epsilon_schedule", "tau",
        "target_network_update_freq", "prioritized_replay_beta", "td_error_loss_fn",
        "learning_starts", "critic_lr", "alpha_lr", "target_entropy", "target_entropy_share",
        "policy_delay", "target_noise", "target_noise_clip",
    })  # fmt: skip

    aliases: ClassVar[dict[str, str]] = {
        "learning_rate": "lr", "max_grad_norm": "grad_clip", "num_env_runners": "num_workers",
        "num_rollout_workers": "num_workers", "num_learner_workers": "num_learners",
        "n_envs": "num_envs_per_worker",
        "num_envs": "num_envs_per_worker", "num_envs_per_env_runner": "num_envs_per_worker",
        "sample_batch_size": "rollout_fragment_length",
        "min_sample_timesteps_per_iteration": "timesteps_per_iteration",
        "train_batch_size_per_learner": "train_batch_size", "n_timesteps": "total_timesteps",
        "timesteps": "total_timesteps", "evaluation_num_episodes": "evaluation_duration",
        "stats_window_size": "metrics_smoothing_episodes", "policy_kwargs": "model",
        "model_config": "model", "model.lstm_hidden_size": "model.lstm_cell_size",
        "model.net_arch": "model.fcnet_hiddens", "model.activation_fn": "model.fcnet_activation",
    }  # fmt: skip
    """Other names of the keys above, from RLlib, Stable-Baselines3 and CleanRL."""

    spellings: ClassVar[dict[str, Callable[[Any], dict[str, Any]]]] = SPELLINGS
    """Keys of other libraries that say several of the settings above, or say one otherwise.

    Each makes settings of its value, or raises a KeyError, TypeError or ValueError.
    """

    sampling_threads: ClassVar[int] = 0
    """Threads that sample while the learner computes."""

    untranslatable: ClassVar[dict[str, str]] = {
        "her": "Goals in hindsight need a replay: that of SAC, TQC, CrossQ, TD3, DDPG or DQN.",
    }
    """Keys of other libraries without a counterpart here, and what to do instead.

    They go before those in `poise.config.hints`, which are the same for all algorithms.
    """

    given: ClassVar[frozenset[str]] = frozenset()
    """Keys that the user set (of an instance); not those of a preset, a file, or `derive`."""

    auto_workers: ClassVar[bool] = False
    """Whether `num_workers` (of an instance) was `auto`, and is what that has chosen."""

    def derive(self, explicit: set[str]) -> None:
        """Fills in what nobody set and refuses what contradicts itself.

        Args:
            explicit: keys that the user set. Only these may be in conflict; defaults and presets
                give way to them.

        Raises:
            ConfigError: two explicit settings contradict each other, or one asks for what is not
                there.
        """
        self.__dict__["given"] = frozenset(explicit)
        if self.wrappers:
            self.wrappers = [_wrapper(item) for item in self.wrappers]
            self.env_config = {**self.env_config, WRAPPERS: self.wrappers}
        self.opponents = resolved(self.opponents)
        self._derive_batch(explicit)
        self._derive_rewards(explicit)
        self._derive_networks(explicit)
        if self.num_learners > 1 and not self.on_cluster:
            raise ConfigError(
                f"num_learners={self.num_learners} needs a Ray cluster and workers on it: set "
                "ray_address, such as 'auto', and num_workers."
            )
        workers, least = self.num_workers, self.min_workers or 0
        if "min_workers" in explicit and self.on_cluster and workers != "auto" and least > workers:
            raise ConfigError(
                f"min_workers={least} contradicts num_workers={workers}: it must be at most that."
            )
        if self.num_gpus != "auto" and self.num_gpus > 1:
            raise ConfigError(f"num_gpus={self.num_gpus:g}: one policy learns on one GPU at most.")

    def _derive_batch(self, explicit: set[str]) -> None:
        """Makes `train_batch_size == num_envs * rollout_fragment_length`, whichever were set."""
        self._share_environments(explicit)
        workers, envs = self._groups, self.num_envs
        length, batch = self.rollout_fragment_length, self.train_batch_size
        times = f"{workers} workers x " if workers > 1 else ""
        if batch and "train_batch_size" in explicit:
            if {"num_envs_per_worker", "rollout_fragment_length"} <= explicit and length:
                if envs * length != batch:
                    raise ConfigError(
                        f"train_batch_size={batch} contradicts {times}num_envs_per_worker="
                        f"{self.num_envs_per_worker} x rollout_fragment_length={length} = "
                        f"{envs * length}: leave one of the three out."
                    )
            elif "rollout_fragment_length" in explicit and length:
                key = f"{times}rollout_fragment_length"
                self.num_envs_per_worker = quotient(batch, key, workers * length)
            elif "num_envs_per_worker" in explicit:
                length = quotient(batch, f"{times}num_envs_per_worker", envs)
            else:
                # The most environments that fill the batch exactly, with 16 steps or more in a row:
                # advantages that are estimated from shorter fragments say little.
                share = quotient(batch, "num_workers", workers)
                most = share // min(16, share)
                counts = range(1, min(self.num_envs_per_worker, most) + 1)
                self.num_envs_per_worker = max(n for n in counts if share % n == 0)
                length = share // self.num_envs_per_worker
        self.rollout_fragment_length = length = length or 128
        self.train_batch_size = self.num_envs * length

    def _share_environments(self, explicit: set[str]) -> None:
        """Shares the environments out: workers multiply only a number that the user set."""
        self.choose_workers(explicit)
        if "num_envs_per_worker" not in explicit:
            self.num_envs_per_worker = max(1, self.num_envs_per_worker // self._groups)

    def choose_workers(self, explicit: set[str]) -> None:
        """On a cluster, the workers are as many as there is room for, unless they are set."""
        if self.ray_address is not None and "num_workers" not in explicit:
            self.num_workers = "auto"

    def spread(self, most: int) -> None:
        """Shares the environments among at most so many workers.

        Where nobody set the size of the batch, the number of environments may change a little, so
        that all workers have as many.
        """
        before = self.train_batch_size
        self._spread(most, whole="train_batch_size" in self.given)
        self.train_batch_size = batch = self.num_envs * (self.rollout_fragment_length or 1)
        if (size := self.__dict__.get("sgd_minibatch_size")) and (size == before or size > batch):
            self.__dict__["sgd_minibatch_size"] = batch

    def _spread(self, most: int, *, whole: bool) -> None:
        """Shares the environments; `whole` if there must be exactly as many as before."""
        envs = self.num_envs
        workers = max(n for n in range(1, min(most, envs) + 1) if not (whole and envs % n))
        self.num_workers, self.num_envs_per_worker = workers, max(1, round(envs / workers))

    def _derive_rewards(self, explicit: set[str]) -> None:
        """Rewards are clipped or normalised: the user's choice drops the preset's."""
        if not (self.clip_rewards and self.normalize_rewards):
            return
        if {"clip_rewards", "normalize_rewards"} <= explicit:
            raise ConfigError(
                "clip_rewards=True contradicts normalize_rewards=True: choose one of the two."
            )
        self.clip_rewards = "normalize_rewards" not in explicit
        self.normalize_rewards = not self.clip_rewards

    def _derive_networks(self, explicit: set[str]) -> None:
        """Hidden layers are shared, or the value function has its own: never both."""
        model, own, shared = self.model, "model.vf_fcnet_hiddens", "model.vf_share_layers"
        if model.vf_fcnet_hiddens is None or not model.vf_share_layers:
            return
        if {own, shared} <= explicit:
            raise ConfigError(
                f"{own}={model.vf_fcnet_hiddens} contradicts {shared}=True: "
                "layers that are shared are not the value function's own."
            )
        if own in explicit:
            model.vf_share_layers = False
        else:
            model.vf_fcnet_hiddens = None

    @property
    def own_batch(self) -> bool:
        """Whether the size of a batch is another one than that of a rollout of all environments,
        since it is made of the rollouts that come first."""
        return False

    @property
    def on_cluster(self) -> bool:
        """Whether workers sample on a Ray cluster."""
        return self.ray_address is not None and self.num_workers != 0

    @property
    def num_envs(self) -> int:
        """Environments in all."""
        return self.num_envs_per_worker * self._groups

    @property
    def _groups(self) -> int:
        """Groups of environments: one per worker, or the one of this process.

        With `num_workers="auto"` there is one, too: it shares the environments out later.
        """
        return self.num_workers or 1 if isinstance(self.num_workers, int) else 1

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain JSON values; a class or function becomes its `module:name`."""
        settings = {field.name: plain(getattr(self, field.name)) for field in fields(self)}
        settings["env"] = env_name(self.env)
        return settings


def _wrapper(item: Any) -> Any:
    """A wrapper by its name, if another process can find it by that; else the class itself.

    Raises:
        ConfigError: it is no wrapper.
    """
    what, arguments = item if isinstance(item, (list, tuple)) and len(item) == 2 else (item, {})
    known = callable(what) or (isinstance(what, str) and ":" in what)
    if not known or not isinstance(arguments, dict):
        raise ConfigError(
            f"wrappers: {item!r} is not allowed: write module:Class, "
            "such as gymnasium.wrappers:FlattenObservation, or [module:Class, {arguments}]."
        )
    name = env_name(what)
    found = what if name.startswith("__main__:") or "<" in name else name
    return [found, arguments] if arguments else found


def plain(value: Any) -> Any:
    """A value as JSON can hold it.

    What JSON cannot hold, such as an object in the env config, becomes its type's name in `<>`.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    # Of a text of another class, as names out of files are, YAML would make none.
    return str(value) if isinstance(value, str) else f"<{type(value).__name__}>"


def env_label(env: Any) -> str:
    """The name of an environment as a part of a folder's name."""
    return env_name(env).replace("/", "-").replace(":", "-")


def env_name(env: Any) -> str:
    """The name of an environment for people and files.

    It is the id, or the `module:qualified_name` of a class or function.
    """
    if env is None or isinstance(env, str):
        return env or ""
    if hasattr(env, "__qualname__"):
        return f"{env.__module__}:{env.__qualname__}"
    return type(env).__name__
