"""`gym.vector`: environments that are stepped together, with the API that the script means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from poise.compat.gym.core import modern, say_once
from poise.compat.gym.envs.registration import make as make_one
from poise.compat.gym.eras import values_taken

__all__ = ["AsyncVectorEnv", "SyncVectorEnv", "VectorEnv", "make"]


class VectorEnv:
    """Environments in a row; one whose episode ends begins the next in the same step.

    The last observation of an episode is `terminal_observation` of its info. Where the line takes
    four values, infos are a list; where it takes five, they are `final_info`, as in Gym 0.26.

    Args:
        env_fns: each makes one environment, of either API.
    """

    def __init__(self, env_fns: Sequence[Callable[[], Any]], **_: Any) -> None:
        self.envs = [function() for function in env_fns]
        self._modern = [modern(env) for env in self.envs]
        self.num_envs, first = len(self.envs), self._modern[0]
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(first.observation_space, self.num_envs)
        self.action_space = batch_space(first.action_space, self.num_envs)
        self.metadata, self.is_vector_env, self.spec = first.metadata, True, first.spec
        self._seeds: list[int | None] = [None] * self.num_envs

    def seed(self, seed: Any = None) -> None:
        """Seeds the next `reset`: one seed for all, which counts up, or one for each."""
        each = seed if isinstance(seed, (list, tuple)) else range(seed or 0, 10**9)
        self._seeds = [None if seed is None else int(s) for _, s in zip(self.envs, each)]  # noqa: B905

    def reset(self, *, seed: Any = None, **_: Any) -> Any:
        """The first observations; with infos beside them, if the line takes two."""
        if seed is not None:
            self.seed(seed)
        found = [e.reset(seed=s) for e, s in zip(self._modern, self._seeds, strict=True)]
        self._seeds = [None] * self.num_envs
        obs = self._batch([first for first, _ in found])
        return (obs, {}) if values_taken() == 2 else obs

    def step(self, actions: Any) -> Any:
        """Steps all of them, once."""
        observed, rows, infos, last = [], [], [], []
        each = iterate(self.action_space, actions)
        for env, action in zip(self._modern, each, strict=True):
            obs, reward, terminated, truncated, info = env.step(action)
            last.append({**info, "TimeLimit.truncated": truncated and not terminated})
            if terminated or truncated:
                info = {**last[-1], "terminal_observation": obs}
                obs = env.reset()[0]
            observed.append(obs)
            rows.append((reward, terminated, truncated))
            infos.append(info)
        table, batch = np.array(rows, np.float64), self._batch(observed)
        rewards, (ended, cut) = table[:, 0], table[:, 1:].T.astype(bool)
        over = ended | cut
        if values_taken() != 5:
            return batch, rewards, over, infos
        final = np.array([info if o else None for info, o in zip(last, over, strict=True)], object)
        finals = {"final_info": final, "_final_info": over}
        return batch, rewards, ended, cut, finals if over.any() else {}

    def _batch(self, each: list[Any]) -> Any:
        space = self.single_observation_space
        found = create_empty_array(space, self.num_envs)
        return concatenate(space, each, found)  # type: ignore[arg-type]

    def close(self, **_: Any) -> None:
        """Closes all of them."""
        for env in self.envs:
            env.close()


SyncVectorEnv = VectorEnv


class AsyncVectorEnv(VectorEnv):
    """The same, in this process, too, which is said."""

    def __init__(self, env_fns: Sequence[Callable[[], Any]], **_: Any) -> None:
        say_once("AsyncVectorEnv steps its environments in this process, one after the other.")
        super().__init__(env_fns)


def make(id: str, num_envs: int = 1, asynchronous: bool = True, **settings: Any) -> VectorEnv:
    """So many environments of an id."""
    kind = AsyncVectorEnv if asynchronous else VectorEnv
    return kind([lambda: make_one(id, **settings)] * num_envs)
