"""What to try where nothing is learnt: said once, early in a run without a preset."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from poise.advice.course import Course, has_risen
from poise.advice.symptoms import exploration, findings
from poise.config.base import env_name
from poise.config.presets import PRESETS, find_preset
from poise.envs.make import reward_threshold
from poise.errors import PoiseWarning
from poise.spaces.agents import is_joint
from poise.training.callbacks import Callback

if TYPE_CHECKING:
    from poise.training.trainer import Trainer

LOOKED_AT = 100_000
"""Environment steps after which a run is looked at."""


class Stuck(Callback):
    """Says what to try if there is no preset and the return has not risen.

    Args:
        say: takes the sentence; a warning unless given.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self._say = say or (lambda text: warnings.warn(text, PoiseWarning, stacklevel=2))
        self._due = True

    def on_run_start(self, trainer: Trainer) -> None:
        self._due = trainer.preset is None and trainer.algorithm.timesteps < LOOKED_AT

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        if self._due and trainer.algorithm.timesteps >= LOOKED_AT:
            self._due = False
            episodes = trainer.metrics.finished
            whole = len(episodes) == result["episodes_total"]  # the first ones are still remembered
            goal = reward_threshold(trainer.config.env)
            solved = goal is not None and result["episode_reward_mean"] >= goal
            if whole and not (solved or course_of(trainer).contest or has_risen(episodes)):
                self._say(advice(trainer, [episode.reward for episode in episodes]))


def advice(trainer: Trainer, returns: Sequence[float]) -> str:
    """One sentence: what was seen, and what to try."""
    env = env_name(trainer.config.env)
    if min(returns) == max(returns):
        seen = f"every episode returned {returns[0]:g}"
    else:
        seen = f"from {min(returns):g} to {max(returns):g}, no better in the end than at first"
    seen = f"The return has not risen in the first {trainer.algorithm.timesteps:,} steps ({seen})"
    own = find_preset(trainer.name, env, "auto")[0]
    others = [name for name in PRESETS if find_preset(name, env, "auto")[0]]
    if own:
        return (
            f"{seen}: {trainer.name} has a preset for {env}, "
            "which preset=None (--preset none) leaves out."
        )
    if others:
        have = "have" if others[1:] else "has"
        return f"{seen}: try {' or '.join(others)}, which {have} a preset for {env}."
    course = course_of(trainer)
    if found := findings(course):
        return f"{seen}. {found[0]}"
    if min(returns) < max(returns):
        return (
            f"{seen}: try normalize_observations, normalize_rewards, "
            "and an lr three times higher or lower."
        )
    return (
        f"{seen}: nothing has told good actions from bad ones, "
        f"so explore more{exploration(course)}, begin episodes nearer to the goal, "
        "or reward steps on the way to it."
    )


def course_of(trainer: Trainer) -> Course:
    """What a trainer's own numbers tell, without a look at what its policy sees."""
    policy: Any = trainer.policy
    told = list(trainer.history), list(trainer.metrics.finished)
    course = Course(trainer.name, trainer.config.to_dict(), *told)
    if not is_joint(policy.obs_layout.space):
        course.layouts = policy.obs_layout, policy.action_layout
    return course
