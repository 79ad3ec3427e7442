"""What a checkpoint declares, held against what it holds: a declaration that would fill the memory
is refused before any of it is taken, and a state that is none of this trainer's before it is used.
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
    """Where a state differs in kind from one's own: another type, shape or key; None where it fits.

    What is None in either was not there yet, or is not any more; a number always is. Lists may
    have any length; a missing key is for the one who needs it to say.
    """
    if own is None or (found is None and not isinstance(own, (int, float))):
        return None
    if isinstance(own, dict):
        if not isinstance(found, dict):
            return f"{place!r} is no mapping"
        for key in own:
            if key in found and (
                what := misfit(own[key], found[key], f"{place}/{key}".lstrip("/"))
            ):
                return what
        return None
    if isinstance(own, (np.ndarray, torch.Tensor)):
        if not isinstance(found, (np.ndarray, torch.Tensor)):
            return f"{place!r} is no array"
        mine, theirs = torch.as_tensor(own), torch.as_tensor(found)
        rows = int(
            "replay" in place.split("/")
        )  # of which a replay has as many as it was filled with
        if (mine.shape[rows:], mine.dtype) != (theirs.shape[rows:], theirs.dtype):
            return (
                f"{place!r} is {theirs.dtype} {list(theirs.shape)} instead of {mine.dtype}"
                f" {list(mine.shape)}"
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
