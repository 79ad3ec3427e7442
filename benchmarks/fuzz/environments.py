"""Environments that go wrong in every way, rarely or always, here and in worker processes: training
goes on, or ends with a sentence."""

from __future__ import annotations

import asyncio
import decimal
import fractions
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from benchmarks.fuzz.common import SilentError, Step

import poise

ABOUT = "faulty environments"
CASES = 500

ALGORITHMS = ("PPO", "PPO", "A2C", "DQN", "IMPALA", "APPO")
EPISODE = 12


class EvilDict(dict):
    def __getitem__(self, key: Any) -> Any:
        raise RuntimeError("an item that cannot be got")


class EvilText(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError("no text")


class EvilFloat(float):
    def __float__(self) -> float:
        raise RuntimeError("no float")


class Evil:
    """Can be neither compared, measured nor shown."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    __hash__ = None  # type: ignore[assignment]


class EvilArray:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("no array")

    def __repr__(self) -> str:
        return "x" * 100_000


def endless() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


OBSERVATIONS: dict[str, Callable[[np.ndarray], Any]] = {
    "nan": lambda o: o * np.nan,
    "infinity": lambda o: o + np.inf,
    "None": lambda o: None,
    "list": lambda o: o.tolist(),
    "float64": lambda o: o.astype(np.float64),
    "objects": lambda o: o.astype(object),
    "text": lambda o: "x",
    "short": lambda o: o[:-1],
    "long": lambda o: np.append(o, 1),
    "two axes": lambda o: o[None],
    "no axis": lambda o: 1.0,
    "complex": lambda o: o + 1j,
    "tensor": torch.as_tensor,
    "tuple": tuple,
    "huge": lambda o: np.full(o.shape, 3e38, np.float32),
    "too large": lambda o: np.full(o.shape, 1e300),
    "denormal": lambda o: np.full(o.shape, 1e-45, np.float32),
    "masked array": lambda o: np.ma.masked_array(o, mask=[1] * len(o)),
    "bytes": lambda o: b"abcd",
    "dict": lambda o: {"a": o},
    "evil": lambda o: Evil(),
    "evil array": lambda o: EvilArray(),
    "texts": lambda o: np.array(["a"] * len(o)),
    "view": lambda o: np.repeat(o, 2)[::2],
    "big endian": lambda o: o.astype(">f4"),
    "lists": lambda o: [[x] for x in o],
    "generator": lambda o: (x for x in o),
    "bools": lambda o: o > 0,
    "whole": lambda o: o.astype(int),
    "dates": lambda o: np.zeros(len(o), "datetime64[s]"),
    "void": lambda o: np.zeros(len(o), "V4"),
    "itself": lambda o: endless(),
}
REWARDS: dict[str, Any] = {
    "nan": np.nan,
    "infinity": np.inf,
    "None": None,
    "text": "1",
    "array of one": np.array([1.0]),
    "array of two": np.array([1.0, 2.0]),
    "array without axes": np.array(1.0),
    "list": [1.0],
    "True": True,
    "int8": np.int8(3),
    "1e308": 1e308,
    "10**400": 10**400,
    "complex": 1 + 2j,
    "tensor": torch.tensor(1.0),
    "tensor with gradient": torch.tensor(1.0, requires_grad=True),
    "evil float": EvilFloat(2.0),
    "dict": {},
    "float16": np.float16(65504),
    "fraction": fractions.Fraction(1, 3),
    "decimal": decimal.Decimal("1.5"),
    "bytes": b"1",
    "evil": Evil(),
}
FLAGS: dict[str, Any] = {
    "None": None,
    "text": "no",
    "array of one": np.array([True]),
    "array of two": np.array([True, False]),
    "1": 1,
    "0.5": 0.5,
    "nan": np.nan,
    "NumPy's": np.bool_(True),
    "tensor": torch.tensor(True),
    "evil": Evil(),
    "list": [],
}
INFOS: dict[str, Any] = {
    "None": None,
    "list": [1],
    "text": "x",
    "nested": {"a": {"b": {"c": 1}}},
    "large": {"x": np.zeros(100_000)},
    "odd keys": {1: 2, None: 3, (1, 2): 4},
    "nan": {"x": np.nan},
    "object": {"x": object()},
    "episode": {"episode": {"r": "x", "l": None}},
    "final": {"final_observation": None, "final_obs": 3, "_final_obs": True},
    "evil": EvilDict(a=1),
    "escapes": {"\x1b[31mred": 1.0, "a\nb": 2.0, "": 3.0, "[/x]": 1.0},
    "huge": {"x": 10**400, "y": 1e308},
    "function": {"f": print},
    "mask": {"action_mask": [1]},
    "no mask": {"action_mask": None},
    "time limit": {"TimeLimit.truncated": "maybe"},
    "many": {f"k{i}": float(i) for i in range(2000)},
    "evil value": {"x": Evil()},
    "smallest": {"x": np.int8(-128)},
}
TUPLES: dict[str, Callable[[tuple], Any]] = {
    "four": lambda t: t[:4],
    "six": lambda t: (*t, 1),
    "None": lambda t: None,
    "one": lambda t: t[0],
    "list": list,
    "dict": lambda t: dict(enumerate(t)),
    "iterator": iter,
    "swapped": lambda t: (t[1], t[0], *t[2:]),
}
ERRORS: dict[str, BaseException] = {
    "ValueError": ValueError("x"),
    "evil text": EvilText(),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "SystemExit": SystemExit(3),
    "SystemExit with a text": SystemExit("bye"),
    "MemoryError": MemoryError(),
    "RecursionError": RecursionError("deep"),
    "StopIteration": StopIteration(),
    "GeneratorExit": GeneratorExit(),
    "BaseException": BaseException("base"),
    "long text": ValueError("y" * 200_000),
    "escapes": ValueError("\x1b[2J[/bold]\n\n\n"),
    "half a letter": ValueError("\ud800"),
    "Poise's own": poise.ConfigError("I am not yours"),
    "EOFError": EOFError(),
    "BrokenPipeError": BrokenPipeError(),
    "TimeoutError": TimeoutError(),
    "AssertionError": AssertionError(),
    "CancelledError": asyncio.CancelledError(),
}
FAULTS = {
    "obs": OBSERVATIONS,
    "reward": REWARDS,
    "terminated": FLAGS,
    "truncated": FLAGS,
    "info": INFOS,
    "error": ERRORS,
    "tuple": TUPLES,
    "close": ERRORS,
    "make": ERRORS,
}
IN_RESET = ("obs", "info", "error", "tuple")


class Faulty(gym.Env):
    """Noise in episodes of twelve steps, and one fault.

    Args:
        kind, what: the fault, in `FAULTS`; none if `kind` is empty.
        where: `step` or `reset`.
        often: its probability, from the fourth call on.
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(
        self, kind: str = "", what: str = "", where: str = "step", often: float = 1.0
    ) -> None:
        self.kind, self.what, self.where, self.often, self.calls = kind, what, where, often, 0
        if kind == "make" and np.random.default_rng().random() < often:
            raise ERRORS[what]

    def hit(self, where: str) -> bool:
        self.calls += 1
        return where == self.where and self.calls > 3 and bool(self.np_random.random() < self.often)

    def look(self) -> np.ndarray:
        return self.np_random.normal(size=4).astype(np.float32)

    def spoilt(self, found: tuple) -> Any:
        """What is returned instead of `found`."""
        kind, what = self.kind, self.what
        if kind == "error":
            raise ERRORS[what]
        if kind == "tuple":
            return TUPLES[what](found)
        places = (
            ("obs", "info")
            if len(found) == 2
            else ("obs", "reward", "terminated", "truncated", "info")
        )
        changed = list(found)
        if kind in places:
            place = places.index(kind)
            changed[place] = OBSERVATIONS[what](found[0]) if kind == "obs" else FAULTS[kind][what]
        return tuple(changed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.now = 0
        found = self.look(), {}
        return self.spoilt(found) if self.hit("reset") else found

    def step(self, action: Any) -> Any:
        self.now += 1
        obs = self.look()
        found = obs, float(obs[0]), self.now >= EPISODE, False, {}
        return self.spoilt(found) if self.hit("step") else found

    def close(self) -> None:
        if self.kind == "close":
            raise ERRORS[self.what]


def prepare(work: Path) -> None:
    """Imports what all cases need, once."""
    torch.set_num_threads(1)
    for algorithm in dict.fromkeys(ALGORITHMS):
        with poise.make_trainer(
            algorithm, "CartPole-v1", preset=None, rollout_fragment_length=8
        ) as trainer:
            trainer.train()


def case(rng: random.Random, base: None, work: Path) -> Iterator[Step]:
    kind = rng.choices(list(FAULTS), [len(faults) for faults in FAULTS.values()])[0]
    what = rng.choice(list(FAULTS[kind]))
    where = rng.choice(["step", "reset"]) if kind in IN_RESET else "step"
    often, workers, algorithm = (
        rng.choice([0.02, 1.0]),
        rng.choice([0, 0, 1]),
        rng.choice(ALGORITHMS),
    )
    about = f"{kind} {what} in {where}, probability {often}, {workers} workers, {algorithm}"
    fault = {"kind": kind, "what": what, "where": where, "often": often}
    yield Step(kind, about, lambda: train(algorithm, workers, fault, work / "saved"))


def train(algorithm: str, workers: int, fault: dict[str, Any], folder: Path) -> None:
    """Trains, saves, goes on in a sound environment, evaluates; only a sentence may end it."""
    settings: dict[str, Any] = {
        "num_envs_per_worker": 2,
        "rollout_fragment_length": 16,
        "num_workers": workers,
    }
    settings |= {"timesteps_per_iteration": 64, "seed": 1, "preset": None}
    settings |= {"learning_starts": 16} if algorithm == "DQN" else {}
    try:
        with poise.make_trainer(algorithm, lambda config: Faulty(**fault), **settings) as algo:
            before = algo.algorithm.flat.data.clone()
            for _ in range(4):
                algo.train()
            if torch.equal(before, algo.algorithm.flat.data):
                raise SilentError("Nothing was learnt, and nothing said.")
            if not torch.isfinite(algo.algorithm.flat.data).all():
                raise SilentError("There are parameters that are not finite.")
            with poise.load(algo.save(folder), env=lambda config: Faulty()) as loaded:
                loaded.train()
            algo.evaluate(2)
    except Exception as error:
        # In this process, an error of its making comes through with its own traceback.
        if fault["kind"] == "make" and error is ERRORS[fault["what"]]:
            return
        raise
