"""`stable_baselines3.her`: goals in hindsight, a setting of algorithms with a replay."""

from __future__ import annotations

from enum import Enum


class HerReplayBuffer:
    """Stands for the replay that gives steps other goals: `replay_buffer_class`."""


class GoalSelectionStrategy(Enum):
    """Which goals: what any later step of the episode achieved, or its last."""

    FUTURE, FINAL, EPISODE = range(3)


KEY_TO_GOAL_STRATEGY = {each.name.lower(): each for each in GoalSelectionStrategy}
