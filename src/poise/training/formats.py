"""Checkpoints that earlier versions of Poise wrote, read as those of today."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def from_format_1(
    parameters: dict[str, Tensor], state: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Format 1: one policy without a name, and the state of one learner beside the algorithm's.

    Args:
        parameters: of the policy.
        state: of the run; some of it is moved out of it.

    Returns:
        The same parameters and the same state, as format 2 has them.

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
    optimizer = learner["optimizer"]
    learner["optimizer"] = {moments.get(key, key): value for key, value in optimizer.items()}
    algorithm["learners"] = {"policy": learner}
    if "target" in algorithm:
        algorithm["targets"] = {"policy": algorithm.pop("target")}
    named = {f"policies/default/{name}": value for name, value in parameters.items()}
    return named, {**state, "algorithm": algorithm}
