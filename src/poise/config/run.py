"""What a run leaves on disk; apart from the code that writes it, so that the command knows it
without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from poise.config.types import PositiveInt, Seconds


@dataclass
class RunOptions:
    """What a run leaves behind, and how often."""

    checkpoint_interval_s: Seconds = 30.0
    """Seconds between checkpoints: what a killed process loses at most."""

    checkpoint_freq: PositiveInt | None = None
    """Iterations between checkpoints, in addition."""

    keep_checkpoints_num: PositiveInt = 3
    """Newest checkpoints that are kept, beside the best."""

    confirm: bool = True
    """Whether a goal that is a mean over training episodes ends the run only if fresh episodes
    reach it, too."""

    video: bool = False
    """Whether an episode is filmed before and after training."""

    plot: bool = False
    """Whether return and length of the episodes are drawn at the end."""

    tensorboard: bool | None = None
    """Whether TensorBoard events are written; if not said (null), where the extra is installed."""


def rank(manifest: Mapping[str, Any]) -> tuple[bool, float] | None:
    """How a checkpoint compares with others of its run, by its manifest: whether its score is an
    evaluation's, which goes before all others, and the score. None without one."""
    score = manifest.get(
        "score", manifest.get("episode_reward_mean")
    )  # of before there were scores
    known = isinstance(score, (int, float)) and not isinstance(score, bool) and math.isfinite(score)
    return (
        (str(manifest.get("score_of")).startswith("evaluation/"), float(score)) if known else None
    )
