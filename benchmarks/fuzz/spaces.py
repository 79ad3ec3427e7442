"""Random nested spaces in every algorithm: train, save, load, act, go on, evaluate."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from benchmarks.fuzz.common import SilentError, Step
from gymnasium import spaces

import poise
from poise.errors import DivergedError

ABOUT = "random spaces"
CASES = 500

ALGORITHMS = ("PPO", "A2C", "DQN", "IMPALA", "APPO")
ASYNCHRONOUS = ("IMPALA", "APPO")
SMALL = {
    "num_envs_per_worker": 2,
    "rollout_fragment_length": 8,
    "timesteps_per_iteration": 40,
    "seed": 1,
}
DQN = {"learning_starts": 8, "buffer_size": 200, "rollout_fragment_length": 4}
EPISODE = 6
KEYS = [
    *(
        "a",
        "b",
        "value",
        "x",
        "y",
        "x/y",
        ".",
        "a.b",
        "",
        " ",
        "ü",
        "0",
        "_a",
        "obs",
        "mask",
        "observation",
    ),
    *("action_mask", "spaces", "$tensor", "$array", "$segment", "a'", "..", "/", "\n", "[red]"),
]
FLOATS, WHOLES = (
    ("float32", "float64", "float16"),
    ("int8", "uint8", "int16", "int32", "uint32", "int64", "bool"),
)
SHAPES = [(), (1,), (2,), (3,), (2, 3), (5,), (1, 1), (2, 1, 2)]
IMAGES = [(3, 16, 16), (16, 16, 3), (1, 36, 36), (10, 10, 3), (2, 2, 2, 2)]


def prepare(work: Path) -> None:
    """Imports what all cases need, once."""
    torch.set_num_threads(1)
    for algorithm in ALGORITHMS:
        with poise.make_trainer(algorithm, "CartPole-v1", preset=None, **SMALL) as trainer:
            trainer.train()


def case(rng: random.Random, base: None, work: Path) -> Iterator[Step]:
    observed, actions = draw(rng, 3, action=False), draw(rng, 2, action=True)
    for algorithm in ALGORITHMS:
        chosen = spaces.Discrete(3, start=rng.choice([0, 1])) if algorithm == "DQN" else actions
        settings: dict[str, Any] = {**SMALL, **(DQN if algorithm == "DQN" else {})}
        if rng.random() < 0.3:
            settings["normalize_observations"] = True
        if rng.random() < 0.2 and algorithm != "DQN":
            settings["model"] = {"action_distribution": "squashed_gaussian"}
        what = " ".join(f"{observed} -> {chosen}".split())[:300]
        run = partial(play, algorithm, observed, chosen, settings, work / algorithm)
        yield Step(algorithm, what, run)


def play(
    algorithm: str,
    observed: spaces.Space,
    actions: spaces.Space,
    settings: dict[str, Any],
    folder: Path,
) -> None:
    """Everything that is done with a space, and what must be right then."""

    def make(config: Any) -> Samples:
        return Samples(observed, actions)

    with poise.make_trainer(algorithm, make, preset=None, **settings) as one:
        try:
            lost = one.train()["env_failures_total"]
        except DivergedError as said:  # rewards and observations are noise, of any size
            raise poise.PoiseError(str(said)) from None
        if lost:
            raise SilentError(f"{lost} environments failed: an action was not in its space.")
        if not all(torch.isfinite(value).all() for value in one.policy.state_dict().values()):
            raise SilentError("There are parameters that are not finite.")
        with poise.load(one.save(folder), env=make) as other:
            for _ in range(3):
                obs = observed.sample()
                for explore in (False, True):
                    action = other.compute_action(obs, explore=explore)
                    if not actions.contains(action):
                        raise SilentError(f"{action!r} is not in {actions}.")
                if repr(one.compute_action(obs)) != repr(other.compute_action(obs)):
                    raise SilentError("The loaded policy acts in another way.")
            for trainer in (one, other):
                trainer.train()
            pairs = zip(
                one.policy.state_dict().values(), other.policy.state_dict().values(), strict=True
            )
            if algorithm not in ASYNCHRONOUS and not all(torch.equal(a, b) for a, b in pairs):
                raise SilentError(
                    f"Training on differs from training on after loading: {other.notes}."
                )
        one.evaluate(2)


class Samples(gym.Env):
    """Observations are samples, rewards noise; an action that is not in its space is an error."""

    def __init__(self, observed: spaces.Space, actions: spaces.Space) -> None:
        self.observation_space, self.action_space = copy.deepcopy(observed), actions

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.now = 0
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.now += 1
        return (
            self.observation_space.sample(),
            float(self.np_random.normal()),
            self.now >= EPISODE,
            False,
            {},
        )


def draw(rng: random.Random, depth: int, *, action: bool) -> spaces.Space:
    """A random space, nested at most so deep."""
    kind = rng.random()
    if depth and kind < 0.2:
        keys = rng.sample(KEYS, rng.randrange(1, 4)) if rng.random() < 0.95 else [1, 2]
        return spaces.Dict([(key, draw(rng, depth - 1, action=action)) for key in keys])
    if depth and kind < 0.35:
        return spaces.Tuple(
            [draw(rng, depth - 1, action=action) for _ in range(rng.randrange(1, 4))]
        )
    kind = rng.random()
    if kind < 0.45:
        return box(rng, action=action)
    if kind < 0.7:
        start, size = rng.choice([0, 0, 0, 1, -5, 100]), rng.choice([1, 2, 3, 10, 300])
        return spaces.Discrete(size, start=start, dtype=rng.choice([np.int64, np.int64, np.int32]))
    if kind < 0.85:
        return spaces.MultiDiscrete(rng.choice([[2], [1], [3, 1, 4], [[2, 3], [4, 1]], [100]]))
    return spaces.MultiBinary(rng.choice([1, 3, (2, 2), (1,)]))


def box(rng: random.Random, *, action: bool) -> spaces.Box:
    """A random box: of any type, shape and bounds, also such that one number is all there is."""
    name = rng.choice(
        ["float32", "float32", *FLOATS, *([] if action and rng.random() < 0.5 else WHOLES)]
    )
    dtype, shape = np.dtype(name), rng.choice(SHAPES if action else SHAPES + IMAGES)
    if dtype.kind == "f":
        most = float(np.finfo(dtype).max)
        bounds = [
            (-1, 1),
            (0, 1),
            (-np.inf, np.inf),
            (0, np.inf),
            (-most, most),
            (0, most),
            (5, 5),
            (-1e-6, 1e-6),
        ]
        low, high = rng.choice([*bounds, (1e4, 1.0001e4), (-2, 3), (-most, np.inf), (0, 255)])
    elif dtype.kind == "b":
        low, high = 0, 1
    else:
        limits = np.iinfo(dtype)
        low, high = rng.choice(
            [
                (limits.min, limits.max),
                (0, 1),
                (0, 10),
                (3, 3),
                (max(limits.min, -5), 7),
                (0, limits.max),
            ]
        )
    with np.errstate(all="ignore"):
        return spaces.Box(low, high, shape, dtype.type)
