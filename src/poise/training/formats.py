"""Checkpoints that earlier versions of Poise wrote, read as those of today."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def from_format_1(
    parameters: dict[str, Tensor], state: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Of one policy without a name and one learner, whose state lay beside the algorithm's.

    Raises:
        KeyError, AttributeError, TypeError: it is no such state.
    """
    algorithm = dict(state.pop("learner"))
    learner: dict[str, Any] = {"frozen": []}
    for key in ("frozen", "optimizer", "updates", "skipped", "skipped_in_a_row"):
        if key in algorithm:
            learner[key] = algorithm.pop(key)
    moments = {"first": "exp_avg", "second": "exp_avg_sq", "largest": "max_exp_avg_sq"}
    if "first" not in learner["optimizer"]:  # RMSProp's
        moments["second"] = "square_avg"
    learner["optimizer"] = {
        moments.get(key, key): value for key, value in learner["optimizer"].items()
    }
    algorithm["learners"] = {"policy": learner}
    if "target" in algorithm:
        algorithm["targets"] = {"policy": algorithm.pop("target")}
    return {f"policies/default/{name}": value for name, value in parameters.items()}, {
        **state,
        "algorithm": algorithm,
    }
