"""What a run leaves on disk.

It stands apart from the code that writes it, so that the command's help needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from poise.config.types import PositiveInt, Seconds

LoggerName = Literal["tensorboard", "wandb", "trackio", "mlflow"]
"""What a run can be sent to, beside its folder."""


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
    """Whether a goal for a mean over training episodes counts only if fresh episodes reach it, too.
    """

    video: bool = False
    """Whether an episode is filmed before and after training."""

    plot: bool = False
    """Whether return and length of the episodes are drawn at the end."""

    tensorboard: bool | None = None
    """Whether TensorBoard events are written; if not said (null), where the extra is installed."""

    loggers: list[LoggerName] = field(default_factory=list)
    """What gets the run as well, beside its folder."""

    log_checkpoints: bool = False
    """Whether loggers get the last checkpoint and the best one, at the end."""


def rank(manifest: Mapping[str, Any]) -> tuple[bool, float] | None:
    """How a checkpoint compares with others of its run, by its manifest.

    Returns:
        Whether its score is an evaluation's, which ranks above every other, and the score; None
        without a finite score.
    """
    # Manifests of older versions have no score.
    score = manifest.get("score", manifest.get("episode_reward_mean"))
    if not isinstance(score, (int, float)) or isinstance(score, bool) or not math.isfinite(score):
        return None
    return str(manifest.get("score_of")).startswith("evaluation/"), float(score)
