"""Hindsight experience replay (Andrychowicz et al. 2017, arXiv 1707.01495).

A step that missed its goal is a good example of how to reach what it led to. When steps are drawn,
most get another goal, which was achieved later in the same episode, and the reward that they would
have had for it:

    batch = replay.batch(replay.draw(256, generator), gamma=0.99)
    hindsight.relabel(replay, batch, generator)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from poise.config.off_policy import OffPolicyConfig
from poise.envs.goals import Goals, goal_leaves
from poise.errors import PoiseWarning
from poise.sampling.replay import Batch, Replay
from poise.sampling.rollout import Leaves, Rollout
from poise.spaces.layout import Layout

BYTES = 4
"""What a step takes beside its row: how many steps of its episode follow."""


class HindsightReplay(Replay):
    """A replay whose steps may be drawn with goals that were achieved after them.

    Args:
        args, shared: as for `Replay`; the layout holds goals (see `goal_leaves`).

    Attributes:
        following: how many steps of the same episode follow on each step, `[rows * slots]`, where
            the episode is over.
        begun: the first row of each slot whose episode is not known to be over, `[slots]`.
    """

    keeps_ends = True

    def __init__(self, *args: Any, **shared: Any) -> None:
        super().__init__(*args, **shared)
        self.following = np.zeros(self.size, np.int32)
        self.begun = np.zeros(self.slots, np.int64)
        achieved, desired = goal_leaves(self.layout)
        self.goal_names = achieved.name, desired.name

    def add(self, rollout: Rollout) -> np.ndarray:
        start = max(0, self.head - 1)  # what comes after it has not been known before
        index = super().add(rollout)
        self._close(start)
        return index

    def _close(self, start: int) -> None:
        """Counts the steps of the episodes that ended in the rows from `start` on."""
        index = self.index(start, self.head).reshape(-1, self.slots)
        valid, ended = self.valid[index], self.terminated[index] | self.truncated[index]
        ended[:-1] |= ~valid[1:]  # a failure cut it
        for t, b in np.argwhere(ended & valid).tolist():
            last = start + t
            rows = np.arange(max(self.begun[b], self.tail), last + 1)
            self.following[(rows * self.slots + b) % self.size] = last - rows
            self.begun[b] = last + 1

    def remaining(self, index: np.ndarray) -> np.ndarray:
        """How many steps of the same episode follow on the steps at `index[N]`, so far; `[N]`."""
        row, slot = index // self.slots, index % self.slots
        newer = (self.head - 1 - row) % self.rows
        return np.where(newer < self.head - self.begun[slot], newer, self.following[index])

    def achieved(self, index: np.ndarray) -> np.ndarray:
        """The goals that the steps at `index[N]` achieved, `[N, ...]`."""
        name = self.goal_names[0]
        return self.led_to(index, [name])[name]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.begun[:] = self.tail
        self._close(self.tail)


class Hindsight:
    """Gives steps that were drawn other goals, and the rewards that they would have had for them.

    Args:
        config: which steps, and which goals.
        layout: of observations.

    Raises:
        ConfigError: observations hold no goals.
    """

    def __init__(self, config: OffPolicyConfig, layout: Layout) -> None:
        self.config, self.leaves = config, goal_leaves(layout)
        self.names = tuple(leaf.name for leaf in self.leaves)
        self._goals: Goals | None = None
        self._compared = False  # the environment's rewards with those of its function

    def try_out(self) -> Goals:
        """The environment's reward function, after a first try; one is made to be asked.

        Raises:
            EnvError: there is none, or it does not take many goals at once.
        """
        if self._goals is None:
            self._goals = Goals(self.config.env, self.config.env_config)
        return self._goals

    def asked(self, call: Any) -> None:
        """Follows what is asked of all environments (a `Call`), such as another tolerance."""
        self.try_out().asked(call)

    def swapped(self, obs: Leaves) -> Leaves:
        """Observations with achieved goals in the place of desired ones, and the reverse."""
        other = dict(zip(self.names, self.names[::-1], strict=True))
        return {name: obs[other.get(name, name)] for name in obs}

    def relabel(
        self,
        replay: HindsightReplay,
        batch: Batch,
        generator: torch.Generator,
        rescale: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        """Gives most steps other goals, and their rewards, in place.

        A step after which the episode would have ended is worth no more than its reward. One at a
        time limit is, whatever the goal.

        Args:
            replay: where they were drawn.
            batch: single steps.
            generator: draws which steps, and which goals.
            rescale: what is done to rewards.
        """
        goals, count = self.try_out(), self.config.n_sampled_goal
        if not self._compared:
            self._compare(replay, batch, goals)
        drawn = torch.rand(2, len(batch.index), generator=generator, dtype=torch.float64).numpy()
        which = np.flatnonzero(drawn[0] < count / (count + 1))
        if not len(which):
            return
        later = replay.remaining(batch.index[which])
        if self.config.goal_selection_strategy == "future":
            later = (drawn[1][which] * (later + 1)).astype(np.int64)  # 0: what it achieved itself
        goal = replay.achieved((batch.index[which] + later * replay.slots) % replay.size)
        for obs in (batch.obs, batch.next_obs):
            obs[self.names[1]].numpy()[which] = goal
        pair = self._pair(batch, which)
        reward = goals.reward(*pair)
        batch.reward.numpy()[which] = reward if rescale is None else rescale(reward)
        batch.discount.numpy()[which[goals.terminated(*pair)]] = 0.0

    def _pair(self, batch: Batch, which: Any) -> list[np.ndarray]:
        """The goals that steps achieved, and those they should have, in the environment's types."""
        return [
            batch.next_obs[leaf.name].numpy()[which].astype(leaf.dtype, copy=False)
            for leaf in self.leaves
        ]

    def _compare(self, replay: HindsightReplay, batch: Batch, goals: Goals) -> None:
        """Says once where the environment's rewards are not those that its function says."""
        self._compared = True
        found, given = goals.reward(*self._pair(batch, slice(None))), replay.reward[batch.index]
        wrong = np.flatnonzero(~np.isclose(found, given, rtol=1e-3, atol=1e-5))
        if len(wrong) > len(found) // 100:  # fewer may be at an edge, and rounded
            warnings.warn(
                f"compute_reward of {goals.name} says other rewards than its steps gave, for "
                f"{len(wrong) / len(found):.0%} of them: one gave {given[wrong[0]]:g}, and would "
                f"be worth {found[wrong[0]]:g}. HER learns from both.",
                PoiseWarning,
                stacklevel=2,
            )
