"""Random settings of every algorithm, in Python and on the command line: two iterations that end
with finite parameters and a checkpoint that loads, or one sentence."""

from __future__ import annotations

import json
import math
import random
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import numpy as np
import torch
from benchmarks.fuzz.common import SilentError, Step, command

import poise
from poise.config.algorithms import ALGORITHMS
from poise.config.resolve import field_types
from poise.config.types import brief

ABOUT = "configurations"
CASES = 2000

ENVS = ("CartPole-v1", "CartPole-v1", "FrozenLake-v1", "Pendulum-v1", "MountainCarContinuous-v0")
SKIPPED = {"env", "num_gpus"}
MOST_WORKERS = 3
MANY = frozenset({
    "num_sgd_iter", "timesteps_per_iteration", "evaluation_duration", "learning_starts",
    "num_envs_per_worker", "train_batch_size", "rollout_fragment_length", "gradient_steps",
    "training_intensity", "buffer_size",
})  # fmt: skip
"""Settings whose valid values may ask for any amount of work: they get no large ones."""
INTEGERS = (-1, 0, 1, 1, 2, 2, 3, 4, 5, 7, 8, 16, 17, 32, 64, 100, 128, 129)
FLOATS = (0.0, 1e-8, 1e-5, 3e-4, 1e-2, 0.1, 0.5, 0.9, 0.99, 1.0, 1.5, 2.0, 10.0, 100.0, 1e4, 1e8)
ODD = (
    None, True, False, "", "nan", "inf", "auto", "1", "3e-4", "None", "x" * 3000, "\ud800",
    "[[0,1e-3]]", b"x", math.nan, math.inf, -math.inf, -1, -0.0, 0, 1.5, 1e-45, 1e-30, 1e30, 1e38,
    1e39, 1e300, 1.7e308, 2**31, 2**63, 2**64, 10**30, 10**400, 0.5 + 0j, [], {}, [[]], [[0, 1]],
    [[0, 1], [0, 2]], [[5, 1], [0, 1]], [None], (1, 2), {"a": 1}, {1: 2}, [1e-3],
    [[0, 1e-3], [10**30, 0]], [[0, math.nan]], np.float32(0.3), np.int64(3), np.array(0.5),
    np.array([1, 2]), np.array(["auto"]), object(), int, print,
)  # fmt: skip
"""Values that few settings take."""
STOPS = (
    {}, {"training_iteration": np.int64(2)}, {"training_iteration": 10**400}, {1: 2}, {"": 1},
    {"lr": math.nan}, [1], "x", {"training_iteration": "2"}, {"timesteps_total": np.float32(10)},
    {"timesteps_total": [1]}, None,
)  # fmt: skip
"""Stop rules, of which some are right."""


def prepare(work: Path) -> None:
    """Everything that is imported late is imported here."""
    torch.set_num_threads(1)
    for name in ALGORITHMS:
        with poise.make_trainer(
            name, _envs(name)[0], num_envs_per_worker=2, rollout_fragment_length=8
        ) as trainer:
            trainer.train()
            trainer.save(work / name)


def case(rng: random.Random, base: Any, work: Path) -> Iterator[Step]:
    algorithm, env, settings = draw(rng)
    shown = f"{algorithm} on {env} with {brief(settings)}"
    if rng.random() < 0.3:
        yield Step("train by the command", shown, by_command(algorithm, env, settings, work))
    elif rng.random() < 0.1:
        stop = rng.choice(STOPS)
        yield Step(
            "stop rules", f"{algorithm} with stop={brief(stop)}", lambda: learn(algorithm, stop)
        )
    else:
        yield Step("train in Python", shown, lambda: train(algorithm, env, settings, work))


def _envs(algorithm: str) -> tuple[str, ...]:
    """Environments whose actions the algorithm takes."""
    if algorithm in ("TD3", "DDPG"):
        return ENVS[3:]
    return ENVS[:3] if algorithm == "DQN" else ENVS


def draw(rng: random.Random) -> tuple[str, str, dict[str, Any]]:
    """An algorithm, an environment and a few settings, three of ten of them odd."""
    algorithm = rng.choice(list(ALGORITHMS))
    env = rng.choice(_envs(algorithm))
    kinds = {
        key: kind
        for key, kind in field_types(ALGORITHMS[algorithm].config).items()
        if key not in SKIPPED
    }
    settings = {}
    for key in rng.sample(sorted(kinds), rng.choice((1, 1, 2, 3, 5, 8))):
        value = rng.choice(ODD) if rng.random() < 0.3 else _valid(rng, kinds[key])
        heavy = (
            isinstance(value, (int, float)) and not isinstance(value, bool) and 200 < value < 2**63
        )
        if (key in MANY and heavy) or (
            key == "num_workers" and isinstance(value, (int, float)) and value > MOST_WORKERS
        ):
            value = MOST_WORKERS
        settings[key] = value
    return algorithm, env, settings


def train(algorithm: str, env: str, settings: dict[str, Any], work: Path) -> None:
    """Two iterations, an action, a checkpoint and back."""
    with poise.make_trainer(algorithm, env, config=settings) as trainer:
        for _ in range(2):
            result = trainer.train()
        state = trainer.policy.state_dict()
        broken = [
            k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()
        ]
        # The divergence of a policy that lr=10 has moved far away is beyond every number: that is
        # what it says.
        numbers = {
            key: value
            for key, value in result.items()
            if isinstance(value, float) and key != "learner/kl"
        }
        broken += [key for key, value in numbers.items() if math.isinf(value)]
        if broken:
            raise SilentError(f"not finite: {', '.join(broken)}")
        trainer.compute_action(trainer.policy.obs_layout.space.sample())
        trainer.save(work / "saved")
        poise.load(work / "saved").close()


def learn(algorithm: str, stop: Any) -> None:
    """Training with a stop rule."""
    with poise.make_trainer(
        algorithm, "CartPole-v1", total_timesteps=200, timesteps_per_iteration=0
    ) as trainer:
        trainer.learn(stop=stop)


def by_command(algorithm: str, env: str, settings: dict[str, Any], work: Path) -> Any:
    """`poise train` with the settings as flags, as far as they can be typed."""
    arguments = [
        "train",
        algorithm,
        "--env",
        env,
        "--folder",
        str(work),
        "--stop",
        "training_iteration=2",
        "--quiet",
    ]
    for key, value in settings.items():
        try:
            text = value if isinstance(value, str) else json.dumps(value)
        except (TypeError, ValueError):
            continue
        arguments.append(f"--{key}={text}")
    return command(*arguments)


def _valid(rng: random.Random, kind: Any) -> Any:
    """A value of a type, mostly one that is allowed."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        values = [_valid(rng, args[0]) for _ in range(20)]
        return next((value for value in values if value in args[1]), values[0])
    if origin in (Union, types.UnionType):
        return _valid(rng, rng.choice(args))
    if origin is Literal:
        return rng.choice(args)
    if origin is list:
        return [_valid(rng, args[0]) for _ in range(rng.randrange(4))]
    if origin is tuple:
        return [_valid(rng, arg) for arg in args]
    if origin is dict or kind is dict:
        return rng.choice(
            ({}, {"a": 1}, {"max_episode_steps": rng.choice((1, 2, 10, 0, -1, "x", None))})
        )
    plain = {
        bool: (True, False),
        int: INTEGERS,
        float: FLOATS,
        str: ("", "a", "CartPole-v1", "mine"),
    }
    return rng.choice(plain.get(kind, (None,)))
