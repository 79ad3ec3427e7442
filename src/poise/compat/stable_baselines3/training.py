"""Between a trainer and a vector environment of Stable-Baselines3's kind: steps, and who hears."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from poise.compat.stable_baselines3.common.vec_env import VecEnv
from poise.training.callbacks import Callback

LOGGED = {
    "train/approx_kl": "learner/kl", "train/clip_fraction": "learner/clip_fraction",
    "train/policy_gradient_loss": "learner/policy_loss", "train/value_loss": "learner/vf_loss",
    "train/explained_variance": "learner/vf_explained_var", "train/loss": "learner/loss",
    "train/learning_rate": "learner/cur_lr", "train/ent_coef": "learner/alpha",
    "train/critic_loss": "learner/critic_loss", "train/actor_loss": "learner/actor_loss",
    "rollout/exploration_rate": "learner/cur_epsilon",
}  # fmt: skip
"""What Stable-Baselines3's log calls results of Poise."""


class Played(VectorEnv):
    """A vector environment of Stable-Baselines3's kind as one of Gymnasium's.

    Args:
        venv: it.
        model: is told before and after each step.
        next_step: resets a step after an episode's end, as policies with a memory need it; then
            there is one environment.
    """

    def __init__(self, venv: VecEnv, model: Any, *, next_step: bool = False) -> None:
        self.venv, self._model, self._next_step = venv, model, next_step
        self.num_envs = venv.num_envs
        self.single_observation_space = venv.observation_space
        self.single_action_space = venv.action_space
        self.observation_space = batch_space(venv.observation_space, venv.num_envs)
        self.action_space = batch_space(venv.action_space, venv.num_envs)
        mode = AutoresetMode.NEXT_STEP if next_step else AutoresetMode.SAME_STEP
        self.metadata = {"autoreset_mode": mode}
        self._core = type(type(venv).__name__, (), {})()
        self._waiting: Any = None  # the first observation of the next episode

    @property
    def envs(self) -> list[Any]:
        """Of the environments, what says rewards of goals."""
        return list(getattr(self.venv.unwrapped, "_modern", ()))

    @property
    def unwrapped(self) -> Any:
        """What messages name: several models may play in the same environments, so not these."""
        return self._core

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begins new episodes everywhere; seeds are the script's, by the model or the `VecEnv`."""
        self._waiting = None
        return self._model.first_observations(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps, and lets the model's callbacks hear of it."""
        none = np.zeros(self.num_envs, bool)
        if self._waiting is not None:
            obs, self._waiting = self._waiting, None
            return obs, np.zeros(self.num_envs), none, none, {}
        self._model.before_step()
        obs, rewards, dones, infos = self.venv.step(actions)
        self._model.after_step(actions, obs, rewards, dones, infos)
        cut = dones & np.array([bool(info.get("TimeLimit.truncated")) for info in infos])
        last = [info.get("terminal_observation") for info in infos]
        if self._next_step and dones.any():
            self._waiting = obs
            obs = last[0] if isinstance(last[0], dict) else np.asarray(last[0])
            obs = {k: v[None] for k, v in obs.items()} if isinstance(obs, dict) else obs[None]
        return obs, rewards, dones & ~cut, cut, {"final_obs": last}


class Heard(Callback):
    """Tells a model of the iterations of its trainer, and makes the last one no longer than due."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.most: int | None = None

    def on_run_start(self, trainer: Any) -> None:
        self.most = self.most or trainer.config.timesteps_per_iteration
        self._fit(trainer)

    def on_iteration(self, trainer: Any, result: dict[str, Any]) -> None:
        """Keeps what was learnt for the log."""
        found = {name: result[key] for name, key in LOGGED.items() if key in result}
        if "learner/entropy" in result:
            found["train/entropy_loss"] = -result["learner/entropy"]
        found["train/n_updates"] = trainer.algorithm.updates
        self.model.learnt = {k: v for k, v in found.items() if v is not None and v == v}
        self._fit(trainer)

    def _fit(self, trainer: Any) -> None:
        left = self.model.goal - trainer.algorithm.timesteps
        trainer.config.timesteps_per_iteration = max(0, min(self.most or 0, left))
