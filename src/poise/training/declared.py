"""What a checkpoint declares, held against what it holds.

Spaces and networks that would fill the memory are refused before they are made, and a state that is
not one of this trainer's before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from poise.config.base import AlgorithmConfig
from poise.errors import CheckpointError

SMALL = 2**22
"""Numbers of a space or a network that need no proof by the size of a checkpoint."""

STATE_ERRORS = (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError)
"""What a state that `misfit` let pass may still raise where it is loaded."""


def check_sizes(
    path: object,
    manifest: Mapping[str, Any],
    config: AlgorithmConfig,
    policies: Mapping[str, Mapping[str, torch.Tensor]],
) -> None:
    """Refuses spaces and networks that are far larger than a checkpoint's files.

    Raises:
        CheckpointError: they are; it names `path`.
    """
    held = sum(
        int(file["size"])
        for file in manifest["files"].values()
        if isinstance(file.get("size"), int)
    )
    for key in ("observation_space", "action_space"):
        size = _numbers(manifest[key])
        if size > max(SMALL, 8 * held):
            raise CheckpointError(
                f"{path} declares an {key} of {size:,} numbers, but its files have {held:,} bytes."
            )
    if config.model.custom_model:
        return  # it decides for itself what it makes of the other settings
    stored = sum(tensor.numel() for policy in policies.values() for tensor in policy.values())
    widths, filters = config.model.fcnet_hiddens, config.model.conv_filters or []
    least = sum(a * b for a, b in pairwise(widths)) + sum(widths)
    least += sum(before[0] * after[0] * after[1] ** 2 for before, after in pairwise(filters))
    if least > max(SMALL, stored):
        raise CheckpointError(
            f"{path} declares networks of over {least:,} numbers, but its policy has {stored:,}."
        )


def _numbers(space: Mapping[str, Any]) -> int:
    """Numbers that a network takes of a space, from its JSON form."""
    kind = space["type"]
    if kind in ("Dict", "Tuple"):
        return sum(_numbers(inner) for _, inner in space["spaces"])
    parts = {"Box": "shape", "Discrete": "n", "MultiDiscrete": "nvec", "MultiBinary": "n"}
    sizes = [int(size) for size in np.asarray(space[parts[kind]], object).ravel()]
    if any(size < 0 for size in sizes):
        raise ValueError(f"a {kind} of size {min(sizes)}")
    return sum(sizes) if kind == "MultiDiscrete" else math.prod(sizes)


def misfit(own: Any, found: Any, place: str = "") -> str | None:
    """What of a state is of another type or shape than one's own; None where all of it fits.

    What is None in either was not there yet, or is not any more; only numbers are always there.
    Lists may have any length, and a missing key is left to whoever reads it.

    Args:
        own: the state of the object that is to take it.
        found: the state in the checkpoint.
        place: the keys that lead to both, for the sentence.
    """
    if own is None or (found is None and not isinstance(own, (int, float))):
        return None
    if isinstance(own, dict):
        if not isinstance(found, dict):
            return f"{place!r} is no mapping"
        for key in filter(found.__contains__, own):
            if what := misfit(own[key], found[key], f"{place}/{key}".lstrip("/")):
                return what
        return None
    if isinstance(own, (np.ndarray, torch.Tensor)):
        if not isinstance(found, (np.ndarray, torch.Tensor)):
            return f"{place!r} is no array"
        mine, theirs = torch.as_tensor(own), torch.as_tensor(found)
        rows = int("replay" in place.split("/"))  # an axis that grows as a replay is filled
        if (mine.shape[rows:], mine.dtype) != (theirs.shape[rows:], theirs.dtype):
            return (
                f"{place!r} is {theirs.dtype} {list(theirs.shape)} instead of {mine.dtype} "
                f"{list(mine.shape)}"
            )
        return None
    groups: tuple[tuple[type, ...], ...] = (bool,), (int, float), (list, tuple), (type(own),)
    kinds = next(each for each in groups if isinstance(own, each))
    if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
        return f"{place!r} is a {type(found).__name__} instead of a {type(own).__name__}"
    if isinstance(own, int) and not (isinstance(found, int) and -(2**63) <= found < 2**63):
        return f"{place!r} is {str(found)[:30]}"
    if isinstance(found, float) and not math.isfinite(found):
        return f"{place!r} is {found}"
    return None
