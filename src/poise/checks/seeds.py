"""Checks of what seeds decide: the same one the same episode, here and in another instance."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from poise.checks import values
from poise.checks.probe import Probe
from poise.checks.where import layers, method_place
from poise.envs.instances import is_same, normaliser_sentence
from poise.envs.old_gym import takes

STEPS = 50
"""Steps that are compared."""
PLAYS = 6
"""How often so many steps are played, about."""

Trajectory = list[tuple[str, Any]]
"""What was returned, each with its name."""


def check_seeds(probe: Probe, env: gym.Env, seconds: float) -> None:
    """Plays the same actions again and again, with one seed and others, in one instance and two."""
    steps = int(np.clip(seconds / PLAYS / max(probe.step_s, 1e-6), 3, STEPS))
    sample = probe.sampler(env)
    actions = [sample() for _ in range(steps)]
    where = method_place(env, "reset")

    def played(instance: gym.Env, seed: int) -> Trajectory:
        random.seed(0)  # the global generators are not what is compared here
        np.random.seed(0)
        return [entry for part in _play(probe, instance, seed, actions) for entry in part]

    first, drawn = _watch_globals(probe, env, actions)
    if drawn:
        text = (
            f"{' and '.join(sorted(drawn))}: seeds do not decide that, "
            "so no episode can be repeated or resumed; call super().reset(seed=seed) in reset(), "
            "and draw from self.np_random."
        )
        probe.finding("error", "seeding", text, where)
    if not takes(env.reset, "seed"):
        return  # that was found already, and the rest follows from it
    if sentence := normaliser_sentence(env):  # to blame for what differs, instead of reset()
        probe.finding("warning", "seeding", sentence)
        return
    difference = _difference(first, played(env, probe.seed))
    if difference is not None:
        text = (
            f"two episodes of one instance with seed={probe.seed} and the same actions differ: "
            f"{difference}; call super().reset(seed=seed), draw from self.np_random only, "
            "and let reset() forget the episode before."
        )
        probe.finding("error", "seeding", text, where)
        return
    others = [played(env, probe.seed + i) for i in (1, 2)]
    if not drawn and not any(_difference(first, other) for other in others):
        text = (
            f"the seeds {probe.seed}, {probe.seed + 1} and {probe.seed + 2} give the same episode: "
            "that is as it should be in a task without chance; else draw from self.np_random, "
            "which super().reset(seed=seed) makes."
        )
        probe.finding("warning", "seeding", text, where)
    twin = probe.made()
    if is_same(env, twin):
        text = (
            f"the same {type(env.unwrapped).__name__} was returned twice, "
            "and several are played at the same time: make a new one at each call."
        )
        probe.finding("error", "sharing", text, method_place(env, "__init__"))
        return
    _check_twin_spaces(probe, env, twin)
    if not drawn and _check_sharing(probe, env, twin, actions, first):
        return
    difference = _difference(first, played(twin, probe.seed), "in the other")
    if difference is not None:
        text = (
            f"two instances with seed={probe.seed} and the same actions play different episodes: "
            f"{difference}; what __init__ draws should be drawn in reset(), from self.np_random."
        )
        probe.finding("warning", "seeding", text, where)


def _play(probe: Probe, env: gym.Env, seed: int, actions: list[Any]) -> Iterator[Trajectory]:
    """Plays the actions, over the ends of episodes; yields what each call returned."""
    found, length = probe.reset(env, seed), 0
    yield [("first observation", _observation(found))]
    for t, action in enumerate(actions, 1):
        obs, reward, terminated, truncated, _ = probe.step(env, copy.deepcopy(action))
        length += 1
        names = ("observation", "reward", "terminated", "truncated")
        parts = zip(names, (obs, reward, terminated, truncated), strict=True)
        yield [(f"{name} of step {t}", copy.deepcopy(value)) for name, value in parts]
        if np.any(terminated) or np.any(truncated) or length == probe.limit:
            found, length = probe.reset(env), 0
            yield [(f"first observation after step {t}", _observation(found))]


def _observation(found: Any) -> Any:
    """The observation of what `reset` returned, also by the old API."""
    pair = isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], dict)
    return copy.deepcopy(found[0] if pair else found)


def _difference(a: Trajectory, b: Trajectory, second: str = "then") -> str | None:
    """The first thing in which two trajectories differ; `second` says which the other one is."""
    for (name, one), (_, other) in zip(a, b, strict=False):
        if not values.same(one, other):
            if isinstance(one, np.ndarray) and one.size > 4 and one.shape == np.shape(other):
                index = np.argwhere(one != other)[0]
                one, other = one[tuple(index)], other[tuple(index)]
                name = f"{name} at {index.tolist()}"
            return f"the {name} is {values.short(one)}, and {second} {values.short(other)}"
    return None


def _watch_globals(probe: Probe, env: gym.Env, actions: list[Any]) -> tuple[Trajectory, set[str]]:
    """Plays, and says which methods moved the global generators."""
    random.seed(0)
    np.random.seed(0)
    trajectory: Trajectory = []
    drawn: set[str] = set()
    states = _generators()
    for part in _play(probe, env, probe.seed, actions):
        method = "reset()" if part[0][0].startswith("first") else "step()"
        now = _generators()
        drawn |= {f"{method} draws from {name}" for name in now if now[name] != states[name]}
        states = now
        trajectory += part
    return trajectory, drawn


def _generators() -> dict[str, Any]:
    """The states of the global generators, by what they are called."""
    _, keys, position, *_ = np.random.get_state(legacy=True)
    return {
        "the global np.random": (np.asarray(keys).tobytes(), position),
        "the global random": random.getstate(),
    }


def _check_twin_spaces(probe: Probe, env: gym.Env, twin: gym.Env) -> None:
    for kind in ("observation_space", "action_space"):
        one, other = getattr(env, kind), getattr(twin, kind, None)
        if one != other and repr(one) != repr(other):  # NaN differs from itself
            text = (
                f"two instances have different spaces, {kind} {one} and {other}: "
                "a policy needs one that stays."
            )
            probe.finding("error", "spaces", text, method_place(env, "__init__"))


def _check_sharing(
    probe: Probe, env: gym.Env, twin: gym.Env, actions: list[Any], alone: Trajectory
) -> bool:
    """Whether an episode goes differently while another instance plays, too."""
    random.seed(0)
    np.random.seed(0)
    beside: Trajectory = []
    other = _play(probe, twin, probe.seed + 17, actions[::-1] * 2)
    for part in _play(probe, env, probe.seed, actions):
        beside += part
        next(other, None)
    difference = _difference(alone, beside, "beside the other")
    if difference is None:
        return False
    text = f"an instance is disturbed by another one that plays, too: alone, {difference}"
    if suspects := _class_attributes(env):
        belong = "belongs" if len(suspects) == 1 else "belong"
        text += f"; {' and '.join(suspects)} {belong} to the class"
    text += "; make in __init__ or reset() what changes, as an attribute of self."
    where = method_place(env, "__init__") or method_place(env, "reset")
    probe.finding("error", "sharing", text, where)
    return True


def _class_attributes(env: gym.Env) -> list[str]:
    """What instances share and could change: mutable attributes of the user's classes."""
    mutable = (list, dict, set, bytearray, np.ndarray, np.random.Generator)
    found = []
    for layer in layers(env):
        for cls in type(layer).__mro__:
            if cls.__module__.startswith("gymnasium."):
                continue
            for name, value in vars(cls).items():
                special = name == "metadata" or name.startswith("__") or name in vars(layer)
                if isinstance(value, mutable) and not special:
                    found.append(f"{cls.__name__}.{name}")
    return found
