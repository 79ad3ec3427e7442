"""A batch of environments stepped one after the other in this process.

It differs from Gymnasium's `SyncVectorEnv` in that it reports only what is used (the info of a step that ends an
episode), hands out its buffers without copying them, and can say and restore where each of its environments stands,
so that a resumed run goes on in the middle of its episodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from poise.config.layout import Layout
from poise.envs import snapshot
from poise.errors import EnvError


class InlineVectorEnv(VectorEnv):
    """`num_envs` environments as one, with NEXT_STEP semantics: the step after an episode's end resets.

    Args:
        make: makes one environment.
        num_envs: how many.

    Attributes:
        observations: the current leaves `[num_envs, ...]`; what `reset` and `step` return are views of them, valid
            until the next step.
    """

    def __init__(self, make: Callable[[], gym.Env], num_envs: int) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.envs = [make() for _ in range(num_envs)]
        self.num_envs = num_envs
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._layout = Layout(self.single_observation_space)
        self.observations = {leaf.name: np.zeros((num_envs, *leaf.shape), leaf.dtype) for leaf in self._layout.leaves}
        self._reward = np.zeros(num_envs, np.float64)
        self._terminated = np.zeros(num_envs, np.bool_)
        self._truncated = np.zeros(num_envs, np.bool_)
        self._done = np.zeros(num_envs, np.bool_)
        self._journals = [snapshot.Journal() for _ in range(num_envs)]

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets all environments; an integer seed gives `seed, seed + 1, ...`, a list one seed each."""
        seeds = (
            [None if seed is None else seed + i for i in range(self.num_envs)] if not isinstance(seed, list) else seed
        )
        for i, env_seed in enumerate(seeds):
            self._reset_one(i, env_seed, options)
        self._done[:] = False
        return self._layout.unflatten(self.observations), {}

    def _reset_one(self, i: int, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        self._journals[i].begin(self.envs[i], seed)
        found = self.envs[i].reset(seed=seed, options=options)
        if not (isinstance(found, tuple) and len(found) == 2):
            raise EnvError(f"{self.envs[i]} does not keep Gymnasium's contract: reset() must return (obs, info).")
        self._store(i, found[0])

    def _store(self, i: int, obs: Any) -> None:
        for leaf, value in zip(self._layout.leaves, self._layout.flatten(obs).values(), strict=True):
            if np.shape(value) != leaf.shape:  # assigning it would broadcast without a word
                raise EnvError(
                    f"Environment {i} gave an observation {leaf.name!r} of shape {np.shape(value)}, "
                    f"but its space says {leaf.shape}."
                )
            self.observations[leaf.name][i] = value

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        infos: dict[str, Any] = {}
        reward, terminated, truncated = self._reward, self._terminated, self._truncated
        for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            if self._done[i]:
                self._reset_one(i)
                reward[i], terminated[i], truncated[i] = 0.0, False, False
                continue
            self._journals[i].note(action)
            try:
                obs, reward[i], terminated[i], truncated[i], info = env.step(action)
            except ValueError as error:
                if old := _old_step(env, error):
                    raise old from error
                raise
            self._store(i, obs)
            if info and (terminated[i] or truncated[i]):
                infos = self._add_info(infos, info, i)
        np.logical_or(terminated, truncated, out=self._done)
        return self._layout.unflatten(self.observations), reward.copy(), terminated.copy(), truncated.copy(), infos

    def close_extras(self, **kwargs: Any) -> None:
        for env in self.envs:
            env.close()

    def state_dict(self) -> dict[str, Any]:
        """Where every environment stands, as arrays and plain values."""
        slots = [snapshot.save(env, journal) for env, journal in zip(self.envs, self._journals, strict=True)]
        obs = {name: array.copy() for name, array in self.observations.items()}
        return {"slots": slots, "obs": obs, "done": self._done.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> list[int]:
        """Restores what `state_dict` returned.

        Returns:
            The slots that could not be restored (their environment did not replay to the same observation): they
            start a new episode.
        """
        lost = []
        self._done[:] = state["done"]
        for i in range(self.num_envs):
            expected = {name: array[i] for name, array in state["obs"].items()}
            generator = getattr(self.envs[i].unwrapped, "np_random", None)
            obs = snapshot.restore(self.envs[i], state["slots"][i], self._journals[i])
            found = {} if obs is None else {k: np.asarray(v) for k, v in self._layout.flatten(obs).items()}
            if found and all(
                np.array_equal(found[k].astype(v.dtype), v, equal_nan=v.dtype.kind == "f") for k, v in expected.items()
            ):
                self._store(i, obs)
            else:
                lost.append(i)
                if generator is not None:  # the saved one would begin episodes that were played already
                    self.envs[i].unwrapped.np_random = generator
                self._reset_one(i)
                self._done[i] = False
        return lost


def _old_step(env: gym.Env, error: ValueError) -> EnvError | None:
    """What to say where the tuple of a step was not unpacked, here or in one of Gymnasium's wrappers; else None."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = last.tb_frame.f_globals.get("__name__", "") if last is not None else ""
    if "to unpack" not in str(error) or not where.startswith(("poise.", "gymnasium.wrappers.")):
        return None
    return EnvError(
        f"{env} does not keep Gymnasium's contract: step() must return (obs, reward, terminated, truncated, info)."
    )
