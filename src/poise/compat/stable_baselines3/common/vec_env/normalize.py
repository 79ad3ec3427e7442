"""`VecNormalize`: observations and rewards by their running moments."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium import spaces

from poise.compat.stable_baselines3.common.vec_env.base import VecEnv
from poise.compat.stable_baselines3.common.vec_env.wrappers import (
    Steps,
    VecEnvWrapper,
    unwrap_vec_wrapper,
)
from poise.config.types import a_path
from poise.errors import CheckpointError


class RunningMeanStd:
    """Mean and variance of all that was seen, `update` taking a batch `[B, ...]`."""

    def __init__(self, epsilon: float = 1e-4, shape: tuple[int, ...] = ()) -> None:
        self.mean, self.var = np.zeros(shape), np.ones(shape)
        self.count = epsilon

    def update(self, batch: np.ndarray) -> None:
        """Takes a batch in, by the parallel formula of Chan et al."""
        count, total = len(batch), self.count + len(batch)
        delta = batch.mean(0) - self.mean
        spread = self.var * self.count + batch.var(0) * count
        self.var = (spread + delta**2 * self.count * count / total) / total
        self.mean, self.count = self.mean + delta * count / total, total


class VecNormalize(VecEnvWrapper):
    """Observations by their running mean and variance; rewards by the spread of the return.

    `save` writes JSON, whatever the file is called, and `load` reads that: pickles of
    Stable-Baselines3's are not read.
    """

    def __init__(
        self,
        venv: VecEnv,
        training: bool = True,
        norm_obs: bool = True,
        norm_reward: bool = True,
        clip_obs: float = 10.0,
        clip_reward: float = 10.0,
        gamma: float = 0.99,
        epsilon: float = 1e-8,
        norm_obs_keys: list[str] | None = None,
    ) -> None:
        super().__init__(venv)
        self.training, self.norm_obs, self.norm_reward = training, norm_obs, norm_reward
        self.clip_obs, self.clip_reward, self.gamma = clip_obs, clip_reward, gamma
        self.epsilon, self.norm_obs_keys = epsilon, norm_obs_keys
        space = venv.observation_space
        self.obs_rms: Any = None
        if norm_obs and isinstance(space, spaces.Dict):
            self.norm_obs_keys = keys = list(norm_obs_keys or space.spaces)
            self.obs_rms = {key: RunningMeanStd(shape=space[key].shape or ()) for key in keys}
        elif norm_obs:
            self.obs_rms = RunningMeanStd(shape=space.shape or ())
            self.observation_space = spaces.Box(-clip_obs, clip_obs, space.shape, np.float32)
        self.ret_rms = RunningMeanStd()
        self.returns = np.zeros(self.num_envs)
        self.old_reward, self.old_obs = np.zeros(self.num_envs), None  # type: Any, Any

    def reset(self) -> Any:
        self.old_obs = obs = self.venv.reset()
        self.returns = np.zeros(self.num_envs)
        self._learn(obs)
        return self.normalize_obs(obs)

    def step_wait(self) -> Steps:
        obs, rewards, dones, infos = self.venv.step_wait()
        self.old_obs, self.old_reward = obs, rewards
        self._learn(obs)
        if self.training:
            self.returns = self.returns * self.gamma + rewards
            self.ret_rms.update(self.returns)
        for i in np.flatnonzero(dones).tolist():
            last = infos[i]["terminal_observation"]
            infos[i]["terminal_observation"] = self.normalize_obs(last)
        self.returns[dones] = 0
        return self.normalize_obs(obs), self.normalize_reward(rewards), dones, infos

    def _learn(self, obs: Any) -> None:
        if self.training and self.norm_obs:
            for key in self.norm_obs_keys or [None]:  # type: ignore[list-item]
                moments, seen = (
                    (self.obs_rms, obs) if key is None else (self.obs_rms[key], obs[key])
                )
                moments.update(seen)

    def _scaled(self, obs: Any, moments: RunningMeanStd, *, back: bool = False) -> Any:
        spread = np.sqrt(moments.var + self.epsilon)
        if back:
            return obs * spread + moments.mean
        clipped = np.clip((obs - moments.mean) / spread, -self.clip_obs, self.clip_obs)
        return clipped.astype(np.float32)

    def normalize_obs(self, obs: Any, *, back: bool = False) -> Any:
        """Observations as the policy sees them."""
        if not self.norm_obs:
            return obs
        if isinstance(obs, dict):
            own = {k: self._scaled(obs[k], self.obs_rms[k], back=back) for k in self.obs_rms}
            return {**obs, **own}
        return self._scaled(obs, self.obs_rms, back=back)

    def unnormalize_obs(self, obs: Any) -> Any:
        """Observations as the environment gave them."""
        return self.normalize_obs(obs, back=True)

    def normalize_reward(self, reward: Any) -> Any:
        """Rewards as the learner sees them."""
        if not self.norm_reward:
            return reward
        scaled = reward / np.sqrt(self.ret_rms.var + self.epsilon)
        return np.clip(scaled, -self.clip_reward, self.clip_reward).astype(np.float32)

    def unnormalize_reward(self, reward: Any) -> Any:
        """Rewards as the environment gave them."""
        return reward * np.sqrt(self.ret_rms.var + self.epsilon) if self.norm_reward else reward

    def get_original_obs(self) -> Any:
        """The latest observations, as the environment gave them."""
        return deepcopy(self.old_obs)

    def get_original_reward(self) -> Any:
        """The latest rewards, as the environment gave them."""
        return self.old_reward.copy()

    _KEPT = (
        "training", "norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon",
        "norm_obs_keys",
    )  # fmt: skip

    def save(self, save_path: Any) -> None:
        """Writes settings and moments as JSON."""
        several = isinstance(self.obs_rms, dict)
        moments = {"returns": self.ret_rms}
        moments |= self.obs_rms if several else {"obs": self.obs_rms} if self.obs_rms else {}
        numbers = {
            key: [each.mean.tolist(), each.var.tolist(), each.count]
            for key, each in moments.items()
        }
        kept = {key: getattr(self, key) for key in self._KEPT}
        a_path(save_path).write_text(json.dumps({"settings": kept, "moments": numbers}))

    @classmethod
    def load(cls, load_path: Any, venv: VecEnv) -> VecNormalize:
        """Reads what `save` wrote, for a vector environment.

        Raises:
            CheckpointError: it is something else.
        """
        try:
            found = json.loads(a_path(load_path).read_bytes())
            made = cls(venv, **found["settings"])
            several = made.obs_rms if isinstance(made.obs_rms, dict) else {"obs": made.obs_rms}
            for key, (mean, var, count) in found["moments"].items():
                moments = made.ret_rms if key == "returns" else several[key]
                moments.mean, moments.var, moments.count = np.array(mean), np.array(var), count
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CheckpointError(
                f"{load_path} is no VecNormalize of Poise's: a pickle of Stable-Baselines3's is "
                "not read; print its obs_rms.mean and .var there (docs/coming-from.md)."
            ) from None
        return made


def unwrap_vec_normalize(env: Any) -> VecNormalize | None:
    """The `VecNormalize`; None if there is none."""
    return unwrap_vec_wrapper(env, VecNormalize)  # type: ignore[no-any-return]


def sync_envs_normalization(env: Any, eval_env: Any) -> None:
    """Gives the moments of one vector environment to another of the same wrappers."""
    ours, theirs = unwrap_vec_normalize(env), unwrap_vec_normalize(eval_env)
    if ours is not None and theirs is not None:
        theirs.obs_rms, theirs.ret_rms = deepcopy(ours.obs_rms), deepcopy(ours.ret_rms)
