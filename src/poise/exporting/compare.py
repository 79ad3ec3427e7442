"""Compares an exported policy with Poise's own, on many observations."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.vector.utils import batch_space

from poise.errors import ModelError
from poise.exporting.module import name_in, numbers, values
from poise.models.policy import Policy
from poise.spaces.agents import AGENTS, leaf_names
from poise.spaces.masks import KEY, mask_width, stuck
from poise.stepping.snapshot import reset_seeded
from poise.training.evaluation import to_tensors

Arrays = dict[str, np.ndarray]

TOLERANCE = 1e-5
"""Numbers may differ by this share of their largest, and probabilities by this."""
CHUNK = 250
"""Observations that are compared at once, behind the first, which is compared alone."""
WIDE = 1e6
"""A number with a wider range is drawn as if it had no bounds."""
SLOTS = 8


def drawn(policy: Policy, count: int) -> Arrays:
    """Observations from the space, `[count, ...]` by leaf, whose masks allow something."""
    batch = batch_space(policy.obs_layout.space, count)
    batch.seed(0)
    leaves = policy.obs_layout.flatten(batch.sample())
    generator = np.random.default_rng(0)
    for leaf in policy.obs_layout.leaves:
        low, high = getattr(leaf.space, "low", None), getattr(leaf.space, "high", None)
        if leaf.dtype.kind == "f" and low is not None and high is not None:
            with np.errstate(over="ignore"):
                wide = np.isfinite(high - low) & (high - low > WIDE) | (high - low == np.inf)
            normal = generator.standard_normal((count, *leaf.shape))
            given = leaves[leaf.name]
            leaves[leaf.name] = np.where(wide, np.clip(normal, low, high), given).astype(leaf.dtype)
    if policy.masked:
        space, mask = policy.action_layout.space, leaves[KEY].copy()
        mask[stuck(space, mask.reshape(count, mask_width(space)))] = 1
        leaves[KEY] = mask
    return leaves


def played(trainer: Any, name: str, count: int) -> Arrays:
    """Observations from episodes of the trainer's environment, by leaf.

    Args:
        trainer: whose policies act.
        name: of the policy whose observations these are to be.
        count: how many, about.

    Raises:
        PoiseError: the environment cannot be made, or fails.
    """
    policy, env = trainer.policy, trainer.environments.evaluation(SLOTS)
    raw = reset_seeded(env, np.random.SeedSequence(0))
    state, first = policy.initial_state(SLOTS), torch.ones(SLOTS, dtype=torch.bool)
    rows: list[Arrays] = []
    for _ in range(math.ceil(count / SLOTS)):
        leaves = policy.obs_layout.flatten(raw)
        rows += [
            {k: np.array(leaves[v]) for k, v in names.items()} for names in _own(trainer, name)
        ]
        action, _, state = policy.act(to_tensors(policy, raw), state, first, None)
        raw, reward, terminated, truncated, _ = env.step(policy.env_action(action))
        if policy.hears_rewards:
            state = policy.rewarded(state, reward)
        first = torch.as_tensor(terminated | truncated)
    return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}


def _own(trainer: Any, name: str) -> list[dict[str, str]]:
    """The names of a policy's leaves in what the environment gives, for each of its agents."""
    whole, own = trainer.policy.obs_layout, trainer.algorithm.policies[name].obs_layout
    owners = getattr(trainer.algorithm, "owners", None)
    if owners is None:
        return [{leaf.name: leaf.name for leaf in own.leaves}]
    agents = [agent for agent, owner in owners.items() if owner == name]
    return [leaf_names(own, whole, f"{AGENTS}/{agent}") for agent in agents]


@torch.no_grad()
def reference(policy: Policy, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """What Poise itself makes of what an exported policy takes, under the same names."""
    layout = policy.obs_layout
    leaves = {leaf.name: inputs[name_in("obs", leaf.name)] for leaf in layout.leaves}
    obs = to_tensors(policy, layout.unflatten(leaves))
    memory = [inputs[name] for name in inputs if name.startswith("state_in_")]
    state = tuple(torch.from_numpy(part.copy()).to(policy.dtype) for part in memory)
    if policy.hears_rewards:
        state = policy.rewarded(state, inputs["reward"])
    first = torch.zeros(len(next(iter(obs.values()))), dtype=torch.bool)
    action, outputs, after = policy.act(obs, state, first, None)
    taken = policy.action_layout.flatten(policy.env_action(action))
    found = {name_in("action", key): torch.as_tensor(np.asarray(a)) for key, a in taken.items()}
    found |= numbers(policy.dist, outputs)
    if values(policy):
        x = policy.prepare(obs)
        if policy.recurrent and policy._previous.size:  # type: ignore[union-attr]
            x = policy._beside(x, state[-1])  # type: ignore[operator]
        found["value"] = policy.critic(x, state, first.unsqueeze(0))
    found |= {f"state_out_{i}": part for i, part in enumerate(after)}
    return {key: value.numpy() for key, value in found.items()}


class Comparison:
    """What comparing has found.

    Args:
        policy: Poise's own.
        run: the exported one: from inputs to outputs by name, `[N, ...]`.

    Attributes:
        count: how many observations were compared.
        largest: the largest difference of each output, as a share of its largest number where that
            is more than 1.
        ties: for how many observations another action was chosen, which is as good to `TOLERANCE`.
    """

    def __init__(self, policy: Policy, run: Callable[[Arrays], Arrays]) -> None:
        self.policy, self.run = policy, run
        self.count, self.ties = 0, 0
        self.largest: dict[str, float] = {}
        self._generator = np.random.default_rng(1)

    def add(self, leaves: Arrays) -> None:
        """Compares on observations `[N, ...]` by leaf; with a memory, as steps of some episodes.

        Raises:
            ModelError: they differ.
        """
        given = {name_in("obs", key): leaf for key, leaf in leaves.items()}
        total = len(next(iter(given.values())))
        state: tuple[Any, ...] = ()
        for start, stop in _chunks(total):
            size = stop - start
            if not state or len(state[0]) != size:
                state = tuple(p.numpy() for p in self.policy.initial_state(size))
            inputs = {name: leaf[start:stop] for name, leaf in given.items()}
            inputs |= {f"state_in_{i}": part for i, part in enumerate(state)}
            if self.policy.hears_rewards:
                inputs["reward"] = self._generator.standard_normal(size).astype(np.float32)
            expected = reference(self.policy, inputs)
            self._compare(inputs, expected, self.run(inputs))
            state = tuple(expected[f"state_out_{i}"] for i in range(len(state)))
            self.count += size

    def _compare(self, inputs: Arrays, expected: Arrays, found: Arrays) -> None:
        tied = _tied(expected)
        for name, right in expected.items():
            got = np.asarray(found[name]).reshape(right.shape)
            if right.dtype.kind == "f":
                # What is remembered of an action is another where two are equally good.
                off = _off(right, got) * ~tied.reshape(-1, *[1] * (right.ndim - 1))
                if not (off <= TOLERANCE).all():
                    off = np.maximum(0, off - self._rounding(name, inputs, right))
            else:
                off = (got != right).astype(float)
                self.ties += int((off.reshape(len(off), -1).any(1) & tied).sum())
                off *= ~tied.reshape(-1, *[1] * (right.ndim - 1))
            worst = float(off.max(initial=0.0))
            self.largest[name] = max(self.largest.get(name, 0.0), worst)
            if not worst <= TOLERANCE:
                row = int(np.argmax(~(off <= TOLERANCE).reshape(len(off), -1).all(1)))
                self._refuse(name, right[row], got[row])

    def _rounding(self, name: str, inputs: Arrays, right: np.ndarray) -> float:
        """How far Poise's own numbers in float32 are off, by twice those in float64."""
        exact = reference(copy.deepcopy(self.policy).double(), inputs)
        return 2 * float(_off(exact[name], right).max(initial=0.0))

    def _refuse(self, name: str, right: Any, got: Any) -> None:
        raise ModelError(
            f"The exported policy is not equal to Poise's, and nothing is written: for an "
            f"observation, {name!r} is {_short(got)} instead of {_short(right)}."
        )


def _off(right: np.ndarray, got: np.ndarray) -> np.ndarray:
    """How far numbers are off: as a share of the largest, where that is more than 1."""
    same = (right == got) | (np.isnan(right) & np.isnan(got))
    scale = max(1.0, float(np.abs(right[np.isfinite(right)]).max(initial=1.0)))
    with np.errstate(invalid="ignore"):
        return np.where(same, 0.0, np.abs(right.astype(float) - got) / scale)


def _chunks(total: int) -> Iterator[tuple[int, int]]:
    yield 0, min(1, total)
    for start in range(1, total, CHUNK):
        yield start, min(start + CHUNK, total)


def _tied(outputs: Arrays) -> np.ndarray:
    """For which observations two choices are equally good, `[N]` bool."""
    tied = np.zeros(len(next(iter(outputs.values()))), np.bool_)
    for name in ("probabilities", "q"):
        if name in outputs and outputs[name].shape[-1] > 1:
            best = np.sort(outputs[name], -1)[..., -2:]
            gap = best[..., 1] - best[..., 0] <= TOLERANCE * np.maximum(1, np.abs(best[..., 1]))
            tied |= gap.reshape(len(tied), -1).any(1)
    if "bits" in outputs:
        tied |= (np.abs(outputs["bits"] - 0.5) <= TOLERANCE).any(1)
    return tied


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
