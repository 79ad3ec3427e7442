"""The algorithms as Stable-Baselines3 has them."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Mapping
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from poise.api import make_trainer
from poise.compat.gym.core import say_once
from poise.compat.stable_baselines3.common.callbacks import BaseCallback, as_callback
from poise.compat.stable_baselines3.common.env_util import as_vec_env
from poise.compat.stable_baselines3.common.logger import FORMATS, Logger, configure
from poise.compat.stable_baselines3.common.vec_env import (
    unwrap_vec_normalize,
)
from poise.compat.stable_baselines3.extractors import with_extractor
from poise.compat.stable_baselines3.files import Files, read_file
from poise.compat.stable_baselines3.settings import ARGUMENTS, Function, gpus_on, settings_of
from poise.compat.stable_baselines3.training import Heard, Played
from poise.config.types import a_path
from poise.config.zoo import RECURRENT
from poise.errors import ConfigError, ModelError
from poise.models.actions import finite_bounds
from poise.tracking.progress import Progress
from poise.training.trainer import Trainer

Self = TypeVar("Self", bound="BaseAlgorithm")


class BaseAlgorithm(Files):
    """A trainer of Poise's with the methods of Stable-Baselines3, and its defaults.

    Args:
        policy: `MlpPolicy`, `CnnPolicy` or `MultiInputPolicy`.
        env: an id, an environment of any API, or a `VecEnv`.
        args, kwargs: see `ARGUMENTS`.

    Attributes:
        trainer: Poise's.
        num_timesteps: steps of all environments since the last `learn` that began anew.
        ep_info_buffer: the last episodes, `{"r": return, "l": length, "t": seconds}` each.
        ep_success_buffer: whether they succeeded, where their infos say `is_success`.
    """

    named: ClassVar[str]
    algorithm: ClassVar[str]
    __signature__: ClassVar[Signature]

    _functions: dict[str, Function]
    seed: int | None

    def __init__(self, policy: Any, env: Any, *args: Any, **kwargs: Any) -> None:
        known = ARGUMENTS[self.named]
        given = {**known, **self._arguments(args, kwargs)}
        name = policy if isinstance(policy, str) else getattr(policy, "__name__", repr(policy))
        self.env: Any = None if env is None else as_vec_env(env)
        if self.env is None:
            raise ConfigError(f"{self.named} needs an environment.")
        self._begin(given)
        recurrent = name in RECURRENT
        if recurrent and self.env.num_envs > 1:
            raise ConfigError(
                "A policy with a memory takes one environment here; poise.PPO(..., "
                "model={'memory': 'lstm'}) takes many."
            )
        settings, self._functions = settings_of(self.algorithm, name, given, self.env.num_envs)
        drawn = int(np.random.randint(2**31)) if self.seed is None else int(self.seed)
        settings["seed"] = drawn
        settings["num_gpus"] = gpus_on(given["device"])
        with_extractor(self.algorithm, settings, given["policy_kwargs"] or {}, self.env)
        played = Played(self.env, self, next_step=recurrent)
        trainer = make_trainer(self.algorithm, played, preset=None, progress=False, config=settings)
        self._own(trainer)
        spread = (given["policy_kwargs"] or {}).get("log_std_init", 0.0)
        _in_units_of_actions(trainer.policy, spread)
        if self.seed is not None:
            self.env.seed(drawn)

    def _arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name.

        Raises:
            TypeError: there is none of this name, as in any call of Python's.
        """
        bound = type(self).__signature__.bind(None, None, *args, **kwargs)
        return {k: v for k, v in bound.arguments.items() if k not in ("policy", "env")}

    def _begin(self, given: Mapping[str, Any]) -> None:
        self.verbose, self.tensorboard_log = given["verbose"], given["tensorboard_log"]
        self.exploration_fraction = given.get("exploration_fraction")
        window = given.get("stats_window_size", 100)
        self.ep_info_buffer: deque[dict[str, Any]] = deque(maxlen=window)
        self.ep_success_buffer: deque[float] = deque(maxlen=window)
        self.num_timesteps = self._total_timesteps = self.goal = 0
        self._episode_num = self._row = self._rollouts = 0
        self.learnt: dict[str, Any] = {}
        self._callback: BaseCallback = as_callback(None)
        self._error: BaseException | None = None
        self._logger: Logger | None = None
        self._own_logger = False
        self._last_obs: Any = None
        self._functions = {}
        self.seed = given["seed"]

    def _own(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.heard = Heard(self)
        trainer.callbacks = [self.heard]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "trainer":
            raise AttributeError(name)
        config = self.__dict__["trainer"].config
        key = config.aliases.get(name, name)
        if hasattr(config, key):
            return getattr(config, key)
        raise AttributeError(
            f"{self.named} has no {name!r} here. What Poise has is in `.trainer`: its policy, "
            "algorithm and config."
        )

    # --- environments -----------------------------------------------------------------------------

    @property
    def observation_space(self) -> Any:
        """Of one environment."""
        return self.trainer.policy.obs_layout.space

    @property
    def exploration_rate(self) -> float:
        """How often DQN acts at random now; other models have none."""
        policy: Any = self.trainer.policy
        return float(policy.epsilon)

    @property
    def action_space(self) -> Any:
        """Of one environment."""
        return self.trainer.policy.action_layout.space

    @property
    def n_envs(self) -> int:
        """How many environments there are."""
        return int(self.trainer.config.num_envs)

    def get_env(self) -> Any:
        """The vector environment; None if there is none."""
        return self.env

    def get_vec_normalize_env(self) -> Any:
        """Its `VecNormalize`; None if there is none."""
        return unwrap_vec_normalize(self.env)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Goes on in another environment of the same spaces, with as many of them or others."""
        venv = as_vec_env(env)
        if venv.num_envs == self.n_envs and self.env is not None:
            self.env = self.trainer.config.env.venv = venv
        else:
            with tempfile.TemporaryDirectory() as folder:
                self.save(Path(folder) / "model")
                self._own(read_file(Path(folder) / "model.zip", self, venv))
            self.env = venv
        self._last_obs = None

    def first_observations(self) -> Any:
        """For the trainer: begins episodes, or goes on where they are."""
        if self._last_obs is None:
            self._last_obs = self.env.reset()
        return self._last_obs

    # --- training ---------------------------------------------------------------------------------

    def learn(
        self: Self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int | None = None,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Trains for so many steps.

        Args:
            total_timesteps: steps of all environments, to the next whole rollout.
            callback: a callback, a list of them, or a function of `locals` and `globals`.
            log_interval: rollouts, or episodes of algorithms with a replay, from one log to the
                next.
            tb_log_name: of the TensorBoard events, in a folder of `tensorboard_log`.
            reset_num_timesteps: whether steps are counted from 0, and episodes begin anew.
            progress_bar: shows the progress.
        """
        if self.env is None:
            raise ConfigError("There is no environment to train in: call set_env.")
        algorithm: Any = self.trainer.algorithm
        if reset_num_timesteps or self._last_obs is None:
            self._last_obs = None
        if reset_num_timesteps:
            self.num_timesteps, algorithm.timesteps, algorithm.updated = 0, 0, 0
            self._episode_num = self._rollouts = 0
            self.ep_info_buffer.clear()
        environments = self.trainer.environments
        environments.samplers, environments.pending, algorithm.start = None, None, None
        begun, algorithm.timesteps = algorithm.timesteps, self.num_timesteps
        self._total_timesteps = self.goal = total_timesteps + self.num_timesteps
        self._row = 0
        self._schedule(begun)
        self._log_into(tb_log_name or self.named, anew=reset_num_timesteps)
        self._log_interval = log_interval or (
            4 if self.has_replay else 100 if self.named == "A2C" else 1
        )
        self._begun_at, self._begun_from = time.perf_counter(), self.num_timesteps
        own = {"self": self, "total_timesteps": self._total_timesteps, "callback": callback}
        own |= {"env": self.env, "tb_log_name": tb_log_name, "log_interval": log_interval}
        self._callback = as_callback(callback)
        self._callback.init_callback(self)
        self._hears = callback is not None
        if progress_bar:
            self.show_progress()
        self._callback.on_training_start(own, {})
        self.trainer.learn(max(1, total_timesteps), confirm=False)
        self.trainer.callbacks = [self.heard]
        self._callback.on_training_end()
        if (error := self._error) is not None:
            self._error = None
            raise error
        return self

    def show_progress(self) -> None:
        """Shows the progress of this `learn`."""
        self.trainer.callbacks.append(Progress())

    def _schedule(self, begun: int) -> None:
        """Makes schedules of functions of the remaining progress, and of a share of the steps."""
        config: Any = self.trainer.config
        first, length = self.num_timesteps, self._total_timesteps
        # There, what is learnt from a rollout has the value of its end; here, that of its start.
        ahead = 0 if self.has_replay else config.train_batch_size
        steps = np.unique(np.linspace(first, length, 101).astype(int)).tolist()
        for key, function in self._functions.items():
            left = [max(0.0, 1 - (step + ahead) / length) for step in steps]
            points = [[s, float(function(share))] for s, share in zip(steps, left, strict=True)]
            setattr(config, key, points)
        if self.exploration_fraction is not None:
            config.epsilon_timesteps = max(1, int(self.exploration_fraction * length))

    @property
    def _current_progress_remaining(self) -> float:
        return 1 - self.num_timesteps / max(1, self._total_timesteps)

    @property
    def has_replay(self) -> bool:
        """Whether it learns from a replay."""
        return hasattr(self.trainer.algorithm, "targets")

    def before_step(self) -> None:
        """Hears that the environments are about to step."""
        if self._row == 0:
            self._call(self._callback.on_rollout_start)

    def after_step(
        self, actions: Any, obs: Any, rewards: Any, dones: Any, infos: list[dict[str, Any]]
    ) -> None:
        """Hears of a step of all environments."""
        before, self._last_obs = self._last_obs, obs
        self.num_timesteps += self.env.num_envs
        self._row += 1
        for info, done in zip(infos, dones, strict=True):
            if (episode := info.get("episode")) is not None:
                self.ep_info_buffer.append(episode)
            if done and (success := info.get("is_success")) is not None:
                self.ep_success_buffer.append(success)
            self._episode_num += bool(done)
        if self._hears:
            self._callback.update_locals({
                "actions": actions, "clipped_actions": actions, "obs": before, "new_obs": obs,
                "rewards": rewards, "dones": dones, "infos": infos, "n_steps": self._row,
            })  # fmt: skip
            if self._call(self._callback.on_step) is False:
                self._stop("a callback")
        if self._row == self.trainer.config.rollout_fragment_length:
            self._row = 0
            self._rollouts += 1
            self._call(self._callback.on_rollout_end)
            if not self.has_replay and self._rollouts % self._log_interval == 0:
                self.dump_logs()
        if self.has_replay and dones.any() and self._episode_num % self._log_interval == 0:
            self.dump_logs()

    def _call(self, hook: Any) -> Any:
        """Calls a hook; what it raises ends the training, and is raised by `learn`."""
        try:
            return hook()
        except Exception as error:
            self._error = self._error or error
            self._stop(f"{type(error).__name__}: {error}")
            return False

    def _stop(self, reason: str) -> None:
        self.trainer.stop(reason)
        self.trainer.halt.asked = True

    # --- log --------------------------------------------------------------------------------------

    @property
    def logger(self) -> Logger:
        """Where numbers are written."""
        if self._logger is None:
            self._logger = Logger(None, [])
        return self._logger

    def set_logger(self, logger: Logger) -> None:
        """Writes into another logger, also of later trainings."""
        self._logger, self._own_logger = logger, True

    def _log_into(self, name: str, *, anew: bool) -> None:
        if self._own_logger:
            return
        formats = ["stdout"] * bool(self.verbose) + ["tensorboard"] * bool(self.tensorboard_log)
        if self.tensorboard_log is None:
            self._logger = Logger(None, [FORMATS[each]() for each in formats])
        elif anew or self._logger is None:
            root = a_path(self.tensorboard_log)
            taken = [p.name.rpartition("_")[2] for p in root.glob(f"{name}_*")]
            number = max([int(each) for each in taken if each.isdecimal()], default=0) + 1
            self._logger = configure(str(root / f"{name}_{number}"), formats)
            if self.verbose:
                print(f"Logging to {self._logger.get_dir()}")

    def dump_logs(self, iteration: int = 0) -> None:
        """Writes the numbers of the training so far."""
        passed = time.perf_counter() - self._begun_at
        logger, episodes = self.logger, list(self.ep_info_buffer)
        if episodes:
            logger.record("rollout/ep_rew_mean", float(np.mean([e["r"] for e in episodes])))
            logger.record("rollout/ep_len_mean", float(np.mean([e["l"] for e in episodes])))
        if self.ep_success_buffer:
            logger.record("rollout/success_rate", float(np.mean(self.ep_success_buffer)))
        steps = self.num_timesteps - self._begun_from
        logger.record("time/fps", int(steps / max(passed, 1e-9)))
        logger.record("time/time_elapsed", int(passed), exclude="tensorboard")
        logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        counted = (
            ("episodes", self._episode_num) if self.has_replay else ("iterations", self._rollouts)
        )
        logger.record(f"time/{counted[0]}", counted[1], exclude="tensorboard")
        for key, value in self.learnt.items():
            logger.record(key, value)
        logger.dump(self.num_timesteps)

    # --- acting -----------------------------------------------------------------------------------

    @property
    def policy(self) -> Any:
        """The policy, a module of PyTorch's, with `predict`."""
        policy = self.trainer.policy
        policy.__dict__.update(predict=self.predict, save=self.save)
        return policy

    @policy.setter
    def policy(self, value: Any) -> None:
        if getattr(value, "_orig_mod", None) is not self.trainer.policy:
            raise ModelError("Other parameters go into a policy by model.policy.load_state_dict.")
        say_once("torch.compile is left out: Poise's own gradient steps are used.")

    @property
    def device(self) -> Any:
        """Where it computes."""
        return self.trainer.algorithm.device

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        **others: Any,
    ) -> tuple[Any, Any]:
        """Actions for an observation or a batch of them, and the memory; see `Acting.predict`.

        They are sampled unless it is `deterministic`.
        """
        action, memory = self.trainer.predict(
            observation, state, episode_start, deterministic, **others
        )
        return np.asarray(action), memory


@torch.no_grad()
def _in_units_of_actions(policy: Any, log_std_init: float) -> None:
    """Has a Gaussian begin as wide as there: in the units of actions, not of their bounds."""
    leaves = policy.action_layout.leaves
    bounds = finite_bounds(leaves[0]) if len(leaves) == 1 and hasattr(leaves[0], "space") else None
    if isinstance(getattr(policy, "log_std", None), torch.nn.Parameter) and bounds is not None:
        low, high = (torch.from_numpy(end.ravel()) for end in bounds)
        policy.log_std.copy_(log_std_init - (0.5 * (high - low)).log())


def _made(name: str) -> type[BaseAlgorithm]:
    """The class of an algorithm."""
    either = Parameter.POSITIONAL_OR_KEYWORD
    own = [Parameter(key, either, default=value) for key, value in ARGUMENTS[name].items()]
    first = [Parameter("policy", either), Parameter("env", either)]
    poise_name = "PPO" if name == "RecurrentPPO" else name
    body = {
        "named": name, "algorithm": poise_name, "__signature__": Signature([*first, *own]),
        "__doc__": f"{name}, with the arguments and defaults of Stable-Baselines3's.",
        "__module__": __name__,
    }  # fmt: skip
    return type(name, (BaseAlgorithm,), body)


PPO, A2C, DQN, SAC, TD3, DDPG, TQC, CrossQ, RecurrentPPO = map(_made, ARGUMENTS)
