"""Where an environment stands in its episode, and how to put another one there.

Gymnasium has no way to save an environment. Three ways are tried, in this order:

1. `get_state()` / `set_state(state)`, where an environment offers both and the state is arrays and
plain JSON values. 2. Seed and replay: the generator's state when the episode was reset, and the
actions since. A fresh environment that
   replays them must arrive at the same observation, or the third way is taken.
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
"""Of the actions that the environments of a run keep for a replay, all together."""
_NUMBER, _ARRAY = 40, 128
"""Bytes of Python's own for an action that is a number, and for others."""


def longest_replay(space: gym.Space, envs: int) -> int:
    """Steps of an episode that can be replayed where so many environments keep their actions."""
    size = _NUMBER if isinstance(space, gym.spaces.Discrete) else _ARRAY
    size += sum(leaf.dtype.itemsize * math.prod(leaf.shape) for leaf in Layout(space).leaves)
    return min(LONGEST_REPLAY, REPLAY_BYTES // (size * envs))


class Journal:
    """What seed-and-replay needs of one running episode.

    Args:
        longest: steps beyond which the episode cannot be replayed.

    Attributes:
        origin: how it began.
        actions: every action since, to be appended to at each step; of too long an episode only the
            last ones.
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
    """Puts a fresh `env` where `save` found another; returns the observation there, or None if it
    cannot be told.

    Replaying may take long: `beat` is called before each step of it. What the environment raises
    comes through.
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
    """Actions as one array, or as one of each leaf where their space is nested."""
    if not isinstance(space, (gym.spaces.Dict, gym.spaces.Tuple)):
        return np.array(list(actions))
    layout = Layout(space)
    flat = [layout.flatten(action) for action in actions]
    return {
        leaf.name: np.array([each[leaf.name] for each in flat], leaf.dtype)
        for leaf in layout.leaves
    }


def _unpacked(space: gym.Space, packed: Any) -> Sequence[Any]:
    """The actions that `_packed` took."""
    if not isinstance(packed, dict):
        actions: Sequence[Any] = packed
        return actions
    layout = Layout(space)
    return [layout.element(packed, i) for i in range(len(packed[layout.leaves[0].name]))]


def exact(saved: dict[str, Any]) -> bool:
    """Whether what `save_vector` returned can put all its environments in the same place."""
    batch = saved.get(
        "state", {"slots": []}
    )  # the fields of a native environment are all there is of it
    parts = batch.get("workers", [batch])
    return all(
        part is not None and all("unknown" not in s.get("origin", {}) for s in part["slots"])
        for part in parts
    )


def reset_seeded(env: Any, seed: np.random.SeedSequence) -> Any:
    """Resets a vector environment from a seed sequence: native ones take one seed, others one for
    each slot."""
    seeds = [int(s) for s in seed.generate_state(env.num_envs)]
    one_each = isinstance(env, TolerantVectorEnv) or hasattr(env, "envs")
    return env.reset(seed=seeds if one_each else seeds[0])[0]


def _generator_state(env: gym.Env) -> dict[str, Any] | None:
    """The state of an environment's generator, where it is one of NumPy's present ones (ported ones
    may differ)."""
    bits = getattr(getattr(env.unwrapped, "np_random", None), "bit_generator", None)
    return None if bits is None else dict(bits.state)


def _generator(state: dict[str, Any]) -> np.random.Generator:
    generator = np.random.Generator(getattr(np.random, state["bit_generator"])())
    generator.bit_generator.state = state
    return generator


def offers_state(env: gym.Env) -> bool:
    """Whether an environment can tell and take its whole state."""
    return bool(env.has_wrapper_attr("get_state") and env.has_wrapper_attr("set_state"))


def _is_plain(state: Any) -> bool:
    """Whether a checkpoint can hold a state: some environments have a `get_state` of their own, for
    other purposes."""
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
"""Attributes that hold the whole state of Gymnasium's native vector environments, beside their
generator."""
FURTHEST = 1e9
"""What none of them ever reaches: a file that says so was damaged."""


def save_vector(env: Any) -> dict[str, Any] | None:
    """The state of a vector environment: its own `state_dict`, or the known fields of a native one;
    None if opaque."""
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
    if (
        type(target).__name__ != saved["kind"]
    ):  # an environment that is made in another way than the saved one
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
