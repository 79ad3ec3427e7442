"""`stable_baselines3.common.callbacks`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poise.compat.stable_baselines3.common.evaluation import evaluate_policy
from poise.compat.stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    sync_envs_normalization,
)


class BaseCallback:
    """Base of callbacks, a script's own too: define `_on_step`, and what else is needed.

    Args:
        verbose: 0 says nothing.

    Attributes:
        model: that is trained.
        n_calls: steps of the vector environment so far.
        num_timesteps: steps of all environments.
        locals: what there is after a step: `rewards`, `dones`, `infos`, `actions`, `new_obs`,
            `obs`, `self`, `n_steps`, `total_timesteps`, `env`.
        globals: empty.
        parent: the callback whose child this is.
    """

    model: Any

    def __init__(self, verbose: int = 0) -> None:
        self.verbose, self.n_calls, self.num_timesteps = verbose, 0, 0
        self.locals: dict[str, Any] = {}
        self.globals: dict[str, Any] = {}
        self.parent: BaseCallback | None = None

    @property
    def training_env(self) -> VecEnv:
        """The vector environment of the training."""
        return self.model.get_env()  # type: ignore[no-any-return]

    @property
    def logger(self) -> Any:
        """The model's."""
        return self.model.logger

    def children(self) -> list[BaseCallback]:
        """The callbacks within this one."""
        return []

    def init_callback(self, model: Any) -> None:
        """Before the first step."""
        self.model = model
        self._init_callback()
        for child in self.children():
            child.parent = child.parent or self
            child.init_callback(model)

    def on_training_start(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        """When `learn` begins."""
        self.locals, self.globals = locals_, globals_
        self.num_timesteps = self.model.num_timesteps
        self._on_training_start()
        for child in self.children():
            child.on_training_start(locals_, globals_)

    def on_rollout_start(self) -> None:
        """Before a rollout."""
        self._on_rollout_start()

    def on_step(self) -> bool:
        """After a step; False ends the training."""
        self.n_calls += 1
        self.num_timesteps = self.model.num_timesteps
        return self._on_step()

    def on_rollout_end(self) -> None:
        """After a rollout."""
        self._on_rollout_end()

    def on_training_end(self) -> None:
        """When `learn` ends."""
        self._on_training_end()

    def update_locals(self, locals_: dict[str, Any]) -> None:
        """Takes what there is after a step."""
        self.locals.update(locals_)
        self.update_child_locals(locals_)

    def update_child_locals(self, locals_: dict[str, Any]) -> None:
        """The same, for those within."""
        for child in self.children():
            child.update_locals(locals_)

    def _init_callback(self) -> None:
        """To be defined where it is needed, as the others."""

    def _on_training_start(self) -> None:
        pass

    def _on_rollout_start(self) -> None:
        pass

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        pass

    def _on_training_end(self) -> None:
        pass


class EventCallback(BaseCallback):
    """Base of callbacks that call another one, `callback`, where something happens."""

    def __init__(self, callback: BaseCallback | None = None, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.callback = callback
        if callback is not None:
            callback.parent = self

    def children(self) -> list[BaseCallback]:
        return [self.callback] if self.callback is not None else []

    def _on_event(self) -> bool:
        return self.callback.on_step() if self.callback is not None else True


class CallbackList(BaseCallback):
    """Several callbacks, in order."""

    def __init__(self, callbacks: Sequence[BaseCallback]) -> None:
        super().__init__()
        self.callbacks = list(callbacks)

    def children(self) -> list[BaseCallback]:
        return self.callbacks

    def init_callback(self, model: Any) -> None:
        for callback in self.callbacks:
            callback.parent = self.parent or callback.parent
        super().init_callback(model)

    def _on_rollout_start(self) -> None:
        for callback in self.callbacks:
            callback.on_rollout_start()

    def _on_step(self) -> bool:
        going_on = [callback.on_step() is not False for callback in self.callbacks]  # each of them
        return all(going_on)

    def _on_rollout_end(self) -> None:
        for callback in self.callbacks:
            callback.on_rollout_end()

    def _on_training_end(self) -> None:
        for callback in self.callbacks:
            callback.on_training_end()


class ConvertCallback(BaseCallback):
    """A function of `locals` and `globals`."""

    def __init__(self, callback: Callable[..., Any] | None, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.callback = callback

    def _on_step(self) -> bool:
        return self.callback is None or self.callback(self.locals, self.globals) is not False


class CheckpointCallback(BaseCallback):
    """Saves the model every `save_freq` steps of the vector environment."""

    def __init__(
        self,
        save_freq: int,
        save_path: str,
        name_prefix: str = "rl_model",
        save_replay_buffer: bool = False,
        save_vecnormalize: bool = False,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        self.save_freq, self.save_path, self.name_prefix = save_freq, save_path, name_prefix
        self.save_replay_buffer, self.save_vecnormalize = save_replay_buffer, save_vecnormalize

    def _path(self, what: str, extension: str) -> str:
        name = f"{self.name_prefix}_{what}{self.num_timesteps}_steps.{extension}"
        return os.path.join(self.save_path, name)

    def _on_step(self) -> bool:
        if self.n_calls % self.save_freq == 0:
            os.makedirs(self.save_path, exist_ok=True)
            self.model.save(self._path("", "zip"))
            if self.save_replay_buffer and self.model.has_replay:
                self.model.save_replay_buffer(self._path("replay_buffer_", "pkl"))
            moments = self.model.get_vec_normalize_env()
            if self.save_vecnormalize and moments is not None:
                moments.save(self._path("vecnormalize_", "pkl"))
            if self.verbose >= 2:
                print(f"Saved {self._path('', 'zip')}.")
        return True


class EvalCallback(EventCallback):
    """Evaluates every `eval_freq` steps of the vector environment, and keeps the best model.

    `log_path/evaluations.npz` holds the results; `best_model_save_path/best_model.zip` the model.
    """

    def __init__(
        self,
        eval_env: Any,
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        n_eval_episodes: int = 5,
        eval_freq: int = 10_000,
        log_path: str | None = None,
        best_model_save_path: str | None = None,
        deterministic: bool = True,
        render: bool = False,
        verbose: int = 1,
        warn: bool = True,
    ) -> None:
        super().__init__(callback_after_eval, verbose)
        self.callback_on_new_best = callback_on_new_best
        if callback_on_new_best is not None:
            callback_on_new_best.parent = self
        self.eval_env: VecEnv = (
            eval_env if isinstance(eval_env, VecEnv) else DummyVecEnv([lambda: eval_env])
        )
        self.n_eval_episodes, self.eval_freq = n_eval_episodes, eval_freq
        self.best_mean_reward = self.last_mean_reward = -np.inf
        self.deterministic, self.render, self.warn = deterministic, render, warn
        self.log_path = os.path.join(log_path, "evaluations") if log_path else None
        self.best_model_save_path = best_model_save_path
        self.evaluations_timesteps: list[int] = []
        self.evaluations_results: list[list[float]] = []
        self.evaluations_length: list[list[int]] = []
        self.evaluations_successes: list[list[float]] = []
        self._is_success_buffer: list[float] = []

    def children(self) -> list[BaseCallback]:
        best = [self.callback_on_new_best] if self.callback_on_new_best is not None else []
        return [*super().children(), *best]

    def _log_success_callback(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        if locals_["done"] and (known := locals_["info"].get("is_success")) is not None:
            self._is_success_buffer.append(known)

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq:
            return True
        sync_envs_normalization(self.training_env, self.eval_env)
        self._is_success_buffer = []
        rewards, lengths = evaluate_policy(
            self.model,
            self.eval_env,
            self.n_eval_episodes,
            self.deterministic,
            self.render,
            self._log_success_callback,
            return_episode_rewards=True,
            warn=self.warn,
        )
        self.warn = False
        self._keep(rewards, lengths)
        mean, spread = float(np.mean(rewards)), float(np.std(rewards))
        self.last_mean_reward = mean
        if self.verbose >= 1:
            shown = f"episode_reward={mean:.2f} +/- {spread:.2f}"
            print(f"Eval num_timesteps={self.num_timesteps}, {shown}")
        self.logger.record("eval/mean_reward", mean)
        self.logger.record("eval/mean_ep_length", float(np.mean(lengths)))
        if self._is_success_buffer:
            self.logger.record("eval/success_rate", float(np.mean(self._is_success_buffer)))
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        going_on = True
        if mean > self.best_mean_reward:
            self.best_mean_reward = mean
            if self.verbose >= 1:
                print("New best mean reward!")
            if self.best_model_save_path is not None:
                self.model.save(os.path.join(self.best_model_save_path, "best_model"))
            if self.callback_on_new_best is not None:
                going_on = self.callback_on_new_best.on_step() is not False
        return self._on_event() is not False and going_on

    def _keep(self, rewards: list[float], lengths: list[int]) -> None:
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_results.append(rewards)
        self.evaluations_length.append(lengths)
        if self.log_path is None:
            return
        more: dict[str, Any] = {}
        if self._is_success_buffer:
            self.evaluations_successes.append(self._is_success_buffer)
            more["successes"] = self.evaluations_successes
        Path(self.log_path).parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            self.log_path,
            timesteps=self.evaluations_timesteps,
            results=self.evaluations_results,
            ep_lengths=self.evaluations_length,
            **more,
        )


class StopTrainingOnRewardThreshold(BaseCallback):
    """Ends the training where the best evaluation reaches a mean; for `callback_on_new_best`."""

    def __init__(self, reward_threshold: float, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.reward_threshold = reward_threshold

    def _on_step(self) -> bool:
        best = self.parent.best_mean_reward  # type: ignore[union-attr]
        if self.verbose >= 1 and best >= self.reward_threshold:
            print(f"Stopping: the mean reward {best:.2f} reaches {self.reward_threshold}.")
        return bool(best < self.reward_threshold)


class StopTrainingOnNoModelImprovement(BaseCallback):
    """Ends it where so many evaluations brought no better one; for `callback_after_eval`."""

    def __init__(self, max_no_improvement_evals: int, min_evals: int = 0, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.max_no_improvement_evals, self.min_evals = max_no_improvement_evals, min_evals
        self.last_best_mean_reward, self.no_improvement_evals = -np.inf, 0

    def _on_step(self) -> bool:
        best = self.parent.best_mean_reward  # type: ignore[union-attr]
        if self.n_calls > self.min_evals:
            better = best > self.last_best_mean_reward
            self.no_improvement_evals = 0 if better else self.no_improvement_evals + 1
        self.last_best_mean_reward = best
        return self.no_improvement_evals <= self.max_no_improvement_evals


class StopTrainingOnMaxEpisodes(BaseCallback):
    """Ends it after so many episodes of each environment."""

    def __init__(self, max_episodes: int, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.max_episodes, self.n_episodes = max_episodes, 0

    def _on_step(self) -> bool:
        self.n_episodes += int(np.sum(self.locals["dones"]))
        return self.n_episodes < self.max_episodes * self.training_env.num_envs


class EveryNTimesteps(EventCallback):
    """Calls another one every so many steps of all environments."""

    def __init__(self, n_steps: int, callback: BaseCallback) -> None:
        super().__init__(callback)
        self.n_steps, self.last_time_trigger = n_steps, 0

    def _on_step(self) -> bool:
        if self.num_timesteps - self.last_time_trigger < self.n_steps:
            return True
        self.last_time_trigger = self.num_timesteps
        return self._on_event()


class LogEveryNTimesteps(EveryNTimesteps):
    """Writes the log every so many steps of all environments."""

    def __init__(self, n_steps: int) -> None:
        super().__init__(n_steps, ConvertCallback(lambda *_: self.model.dump_logs()))


class ProgressBarCallback(BaseCallback):
    """Shows the progress, as `progress_bar=True` does."""

    def _on_training_start(self) -> None:
        self.model.show_progress()


def as_callback(given: Any) -> BaseCallback:
    """A callback of what `learn` was given: None, a function, a list or a callback."""
    if isinstance(given, BaseCallback):
        return given
    return CallbackList(given) if isinstance(given, (list, tuple)) else ConvertCallback(given)
