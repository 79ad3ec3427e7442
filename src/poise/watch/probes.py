"""Small tasks that tell the algorithm's fault from the environment's.

They have the spaces of the environment, and a few steps; sound settings learn all of them in
seconds. If they do, what is wrong lies in the environment. The idea is Andy Jones's ("Debugging
RL, Without the Agonizing Pain", 2021).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from poise.spaces.layout import Layout, Leaf
from poise.spaces.masks import KEY
from poise.training.loading import new_trainer
from poise.training.trainer import Trainer

PROBES = {
    "constant reward": "The value of a reward that is always 1.",
    "reward from the observation": "The value of a reward that the observation tells.",
    "delayed reward": "The value of a reward that comes a step later.",
    "reward from the action": "An action that is always the best.",
    "action from the observation": "An action that depends on the observation.",
    "memory": "An action that depends on an earlier observation.",
}
"""The probes by name, and what each asks to be learnt."""
VALUES = 3
"""So many of them, the first, ask for values; the others, for actions."""
STEPS, STEPS_OF_REPLAY = 20_000, 4_000
"""Environment steps that a probe may take; where each is learnt from many times, fewer do."""
STARTS = 500
"""Steps before learning starts, at most: a large environment's are too many here."""
GOAL = 0.8
"""The score at which a probe is learnt."""
OURS = {
    "env", "env_config", "wrappers", "num_workers", "ray_address", "num_learners", "preset",
    "evaluation_interval", "timesteps_per_iteration", "total_timesteps", "her", "her_goal",
    "min_workers", "policies", "policy_mapping_fn", "policies_to_train", "opponents",
    "central_critic", "num_gpus", "num_threads",
}  # fmt: skip
"""Settings that probes do not take over: they are about the environment, or where things run."""


@dataclass(frozen=True)
class Probed:
    """What came of a probe.

    Attributes:
        probe: its name in `PROBES`.
        learnt: whether it was; None where it was left out.
        score: of 1.
        steps: that it took.
        note: why it was left out.
    """

    probe: str
    learnt: bool | None
    score: float = float("nan")
    steps: int = 0
    note: str = ""

    def __str__(self) -> str:
        if self.learnt is None:
            return f"{self.probe}: left out. {self.note}"
        word = "learnt" if self.learnt else "NOT LEARNT"
        return f"{self.probe}: {word}, {self.score:.2f} of 1 after {self.steps:,} steps."


class Probe(gym.Env):
    """A task of one to three steps that has given spaces.

    A bit is drawn at the start of an episode, and every part of the observation shows it: numbers
    by the lower or the upper half of their range, choices likewise.

    Args:
        kind: of `PROBES`.
        observation, action: the spaces.
        flipped: True in it asks for the opposite action.
    """

    def __init__(
        self, kind: str, observation: Layout, action: Layout, flipped: Sequence[bool] = (False,)
    ) -> None:
        self.flipped = flipped
        self.kind, self.seen, self.done = kind, observation, action
        self.observation_space, self.action_space = observation.space, action.space
        self.length = {"delayed reward": 2, "memory": 3}.get(kind, 1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.bit = 0, int(self.np_random.integers(2))
        return self.observation(self.bit), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        over = self.t == self.length
        shown = None if self.kind == "memory" else self.bit
        return self.observation(shown), self._reward(action) if over else 0.0, over, False, {}

    def observation(self, bit: int | None) -> Any:
        """What shows a bit, or None of them."""
        rng = self.np_random
        return self.seen.unflatten({leaf.name: _shown(leaf, bit, rng) for leaf in self.seen.leaves})

    def _reward(self, action: Any) -> float:
        if self.kind == "constant reward":
            return 1.0
        if self.kind in ("reward from the observation", "delayed reward"):
            return float(self.bit)
        wanted = self.flipped[0] ^ (self.kind == "reward from the action" or bool(self.bit))
        flat = self.done.flatten(action)
        return float(np.mean([_near(leaf, flat[leaf.name], wanted) for leaf in self.done.leaves]))


def _shown(leaf: Leaf, bit: int | None, rng: np.random.Generator) -> Any:
    """A part of an observation that shows a bit; None for what shows neither."""
    space: Any = leaf.space
    place = 0.5 if bit is None else 0.25 + 0.5 * bit  # in its range
    if leaf.name.rsplit("/")[-1] == KEY:
        return np.ones(leaf.shape, leaf.dtype)
    if isinstance(space, spaces.Discrete):
        return space.dtype.type(space.start + int(place * space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return (space.start + (place * space.nvec).astype(int)).astype(leaf.dtype)
    if isinstance(space, spaces.MultiBinary):
        return np.full(leaf.shape, place > 0.5, leaf.dtype)
    low, high = _ends(space)
    noise = rng.uniform(-0.1, 0.1, leaf.shape)
    return (low + (high - low) * (place + noise)).astype(leaf.dtype)


def _ends(space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of numbers; where there is none, 1 from the other, or from 0."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    endless, open_ = low < -1e6, high > 1e6
    ends = np.where(endless, np.where(open_, -1.0, high - 1), low)
    return ends, np.where(open_, np.where(endless, 1.0, low + 1), high)


def _near(leaf: Leaf, value: Any, bit: int) -> float:
    """How near a part of an action is to what a bit asks for: 1 is it."""
    space: Any = leaf.space
    if isinstance(space, spaces.Discrete):
        return float(int(value) - space.start == bit * (space.n - 1))
    if isinstance(space, spaces.MultiDiscrete):
        return float(np.mean(np.asarray(value) - space.start == bit * (space.nvec - 1)))
    if isinstance(space, spaces.MultiBinary):
        return float(np.mean(np.asarray(value) == bit))
    low, high = _ends(space)
    wanted = low + (high - low) * (0.25 + 0.5 * bit)
    return float(np.mean(np.clip(1 - 2 * np.abs(value - wanted) / (high - low), 0, 1)))


def probe(
    algorithm: str,
    settings: Mapping[str, Any],
    layouts: tuple[Layout, Layout],
    say: Callable[[Probed], object] = lambda probed: None,
    kinds: Iterable[str] = PROBES,
) -> list[Probed]:
    """Trains in every probe.

    Args:
        algorithm: its name.
        settings: those that the environment is trained with; what is about the environment or
            about where things run is left out.
        layouts: of observations and actions.
        say: is told what came of each.
        kinds: the probes, by name.

    Raises:
        PoiseError: the algorithm does not take these spaces or settings.
    """
    found = []
    for kind in kinds:
        found.append(_probe(kind, algorithm, settings, layouts))
        say(found[-1])
    return found


def _probe(
    kind: str, algorithm: str, settings: Mapping[str, Any], layouts: tuple[Layout, Layout]
) -> Probed:
    own = {key: value for key, value in settings.items() if key not in OURS}
    steps = STEPS
    if "learning_starts" in own:
        own["learning_starts"], steps = min(own["learning_starts"], STARTS), STEPS_OF_REPLAY

    flipped = [False]

    def make(config: dict[str, Any]) -> gym.Env:
        return Probe(kind, *layouts, flipped)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = new_trainer(algorithm, make, {"seed": 0, **own}, preset=None)
        with trainer:
            values = list(PROBES).index(kind) < VALUES
            if values and not hasattr(trainer.policy, "critic"):
                return Probed(kind, None, note=f"{trainer.name} has no value function of states.")
            if kind == "memory" and not trainer.policy.recurrent:
                return Probed(kind, None, note='The policy has no memory (model.memory="lstm").')
            score = _value_score if values else _action_score
            # What is asked for is not what an untrained policy happens to do.
            flipped[0] = not values and score(trainer, kind) > 0.5
            best = 0.0
            while best < GOAL and trainer.algorithm.timesteps < steps:
                trainer.learn(steps // 10, confirm=False)
                best = max(best, score(trainer, kind))
            return Probed(kind, best >= GOAL, best, trainer.algorithm.timesteps)


def _action_score(trainer: Trainer, kind: str) -> float:
    """The mean reward of 100 episodes with the most likely actions, from 0 to 1."""
    return float(trainer.evaluate(100)["episode_reward_mean"])


def _value_score(trainer: Trainer, kind: str) -> float:
    """How near values are to what they should be, from 0 to 1; of normalised rewards, their order
    alone is known."""
    policy = trainer.policy
    env = Probe(kind, policy.obs_layout, policy.action_layout)
    env.reset(seed=1)
    means = []
    for bit in (0, 1):
        rows = [policy.obs_layout.flatten(env.observation(bit)) for _ in range(32)]
        obs = {name: torch.as_tensor(np.stack([row[name] for row in rows])) for name in rows[0]}
        with torch.no_grad():
            means.append(float(policy.critic(policy.prepare(obs)).mean()))
    found = means[1] - means[0] * (kind != "constant reward")
    if getattr(trainer.config, "normalize_rewards", False):
        return float(found > 0)
    return max(0.0, 1 - abs(found - 1) / 2)
