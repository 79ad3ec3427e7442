"""Where an environment stands in its episode, and how to put another one there.

Gymnasium has no way to save an environment. Three ways are tried, in this order:

1. `get_state()` / `set_state(state)`, where an environment offers both and the state is arrays and
   plain JSON values.
2. Seed and replay: the generator's state when the episode was reset, and the actions since. A fresh
   environment that replays them must arrive at the same observation, or the third way is taken.
3. A new episode.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from poise.spaces.layout import Layout
from poise.stepping.tolerant import TolerantVectorEnv

LONGEST_REPLAY = 100_000
"""Steps of an episode beyond which replaying it would cost more than losing it."""
REPLAY_BYTES = 64 * 2**20
"""Bytes that the actions which a run's environments keep for a replay may take, all together."""
_NUMBER, _ARRAY = 40, 128
"""Bytes of Python's overhead for an action that is a number, and for others."""


def longest_replay(space: gym.Space, envs: int) -> int:
    """Steps of an episode that can be replayed if so many environments keep their actions."""
    size = _NUMBER if isinstance(space, gym.spaces.Discrete) else _ARRAY
    size += sum(leaf.dtype.itemsize * math.prod(leaf.shape) for leaf in Layout(space).leaves)
    return min(LONGEST_REPLAY, REPLAY_BYTES // (size * envs))


class Journal:
    """What seed-and-replay needs of one running episode.

    Args:
        longest: steps beyond which the episode cannot be replayed.

    Attributes:
        origin: how the episode began: `seed`, the generator's state `rng`, or `unknown`.
        actions: every action since, appended at each step. Of too long an episode, only the last
            ones are left.
    """

    def __init__(self, longest: int | None = None) -> None:
        self.longest = LONGEST_REPLAY if longest is None else longest
        self.origin: dict[str, Any] = {}
        self.actions: deque[Any] = deque(maxlen=self.longest + 1)

    @property
    def overflowed(self) -> bool:
        """Whether the episode is too long to be replayed."""
        return len(self.actions) > self.longest

    def begin(self, env: gym.Env, seed: int | None) -> None:
        """To be called just before the reset that begins an episode."""
        if seed is not None:
            self.origin = {"seed": seed}
        else:
            state = _generator_state(env)
            self.origin = {"unknown": True} if state is None else {"rng": state}
        self.actions.clear()


def save(env: gym.Env, journal: Journal) -> dict[str, Any]:
    """A description of where `env` stands."""
    if offers_state(env) and _is_plain(state := env.get_wrapper_attr("get_state")()):
        elapsed = [w._elapsed_steps for w in _time_limits(env)]
        return {"state": state, "elapsed": elapsed, "rng": _generator_state(env)}
    if journal.overflowed:
        return {"origin": {"unknown": True}, "actions": _packed(env.action_space, ())}
    return {"origin": journal.origin, "actions": _packed(env.action_space, journal.actions)}


def restore(
    env: gym.Env, saved: dict[str, Any], journal: Journal, beat: Callable[[], None] = lambda: None
) -> Any:
    """Puts a fresh `env` where `save` found another. What the environment raises comes through.

    Args:
        env: the environment; it is reset.
        saved: what `save` returned.
        journal: takes the replayed episode, so that it can be saved again.
        beat: called before each step of a replay, which may take long.

    Returns:
        The observation there, or None if it cannot be told.
    """
    if "state" in saved:
        if not offers_state(env):
            return None
        env.reset()
        obs = env.get_wrapper_attr("set_state")(saved["state"])
        for wrapper, elapsed in zip(_time_limits(env), saved["elapsed"], strict=False):
            wrapper._elapsed_steps = elapsed
        if saved["rng"] is not None:
            env.unwrapped.np_random = _generator(saved["rng"])
        return obs
    origin = saved["origin"]
    if "unknown" in origin:
        return None
    if "rng" in origin:
        env.unwrapped.np_random = _generator(origin["rng"])
    journal.begin(env, origin.get("seed"))
    obs, _ = env.reset(seed=origin.get("seed"))
    actions = _unpacked(env.action_space, saved["actions"])
    last = len(actions) - 1
    for i, action in enumerate(actions):
        journal.actions.append(action)
        beat()
        obs, _, terminated, truncated, _ = env.step(action)
        if (terminated or truncated) and i < last:
            return None  # it took another course, and may not be stepped beyond its end
    return obs


def _packed(space: gym.Space, actions: Collection[Any]) -> Any:
    """Actions as one array, or as one for each leaf if their space is nested."""
    if not isinstance(space, (gym.spaces.Dict, gym.spaces.Tuple)):
        return np.array(list(actions))
    layout = Layout(space)
    flat = [layout.flatten(action) for action in actions]
    leaves = {leaf.name: leaf.dtype for leaf in layout.leaves}
    return {name: np.array([each[name] for each in flat], kind) for name, kind in leaves.items()}


def _unpacked(space: gym.Space, packed: Any) -> Sequence[Any]:
    """The actions that `_packed` was given."""
    if not isinstance(packed, dict):
        actions: Sequence[Any] = packed
        return actions
    layout = Layout(space)
    return [layout.element(packed, i) for i in range(len(packed[layout.leaves[0].name]))]


def exact(saved: dict[str, Any]) -> bool:
    """Whether what `save_vector` returned can put all its environments in the same place."""
    # A native environment has no slots: its fields are all there is of it.
    batch = saved.get("state", {"slots": []})
    parts = batch.get("workers", [batch])
    return all(
        part is not None and all("unknown" not in s.get("origin", {}) for s in part["slots"])
        for part in parts
    )


def reset_seeded(env: Any, seed: np.random.SeedSequence) -> Any:
    """Resets a vector environment from a seed sequence; returns the observations.

    Native ones take one seed, others one for each slot.
    """
    seeds = [int(s) for s in seed.generate_state(env.num_envs)]
    one_each = isinstance(env, TolerantVectorEnv) or hasattr(env, "envs")
    return env.reset(seed=seeds if one_each else seeds[0])[0]


def _generator_state(env: gym.Env) -> dict[str, Any] | None:
    """The state of an environment's generator; None if it has none of NumPy's `Generator`s."""
    bits = getattr(getattr(env.unwrapped, "np_random", None), "bit_generator", None)
    return None if bits is None else dict(bits.state)


def _generator(state: dict[str, Any]) -> np.random.Generator:
    generator = np.random.Generator(getattr(np.random, state["bit_generator"])())
    generator.bit_generator.state = state
    return generator


def offers_state(env: gym.Env) -> bool:
    """Whether an environment has both `get_state` and `set_state`."""
    return bool(env.has_wrapper_attr("get_state") and env.has_wrapper_attr("set_state"))


def _is_plain(state: Any) -> bool:
    """Whether a checkpoint can hold a state: some have a `get_state` for other uses."""
    if isinstance(state, dict):
        return all(map(_is_plain, state.values()))
    if isinstance(state, (list, tuple)):
        return all(map(_is_plain, state))
    if isinstance(state, (np.ndarray, np.generic)):
        return state.dtype.kind in "biuf"
    return state is None or isinstance(state, (bool, int, float, str))


def _time_limits(env: gym.Env) -> list[gym.wrappers.TimeLimit]:
    found = []
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.TimeLimit):
            found.append(env)
        env = env.env
    return found


_NATIVE_FIELDS = {"CartPoleVectorEnv": ("state", "steps", "prev_done", "low", "high")}
"""Attributes that are the whole state of Gymnasium's native environments, beside the generator."""
FURTHEST = 1e9
"""A number that none of them ever reaches: a file with a larger one was damaged."""


def save_vector(env: Any) -> dict[str, Any] | None:
    """The state of a vector environment; None if it is opaque.

    It is the environment's own `state_dict`, or the known fields of a native one.
    """
    kind = type(env.unwrapped).__name__
    if hasattr(env, "state_dict"):
        return {"kind": kind, "state": env.state_dict()}
    fields = _NATIVE_FIELDS.get(kind)
    if fields is None:
        return None
    saved = {name: np.copy(getattr(env.unwrapped, name)) for name in fields}
    return {"kind": kind, "fields": saved, "rng": env.unwrapped.np_random.bit_generator.state}


def restore_vector(env: Any, saved: dict[str, Any]) -> list[int]:
    """Restores what `save_vector` returned; returns the slots that start a new episode instead.

    Raises:
        ValueError: it is no such state of such an environment.
    """
    target = env.unwrapped
    # The batch may be made in another way now, such as by workers.
    if type(target).__name__ != saved["kind"]:
        return list(range(env.num_envs))
    if "state" in saved:
        lost: list[int] = env.load_state_dict(saved["state"])
        return lost
    for name, value in saved["fields"].items():
        array, own = np.array(value), np.array(getattr(target, name))
        alike = (array.shape, array.dtype.kind) == (own.shape, own.dtype.kind)
        if not (alike and (np.abs(array * 1.0) < FURTHEST).all()):
            raise ValueError(
                f"{name!r} of the environments is no such array, or not within ±{FURTHEST:g}"
            )
        setattr(target, name, array if array.ndim else array.item())
    target.np_random = _generator(saved["rng"])
    return []
