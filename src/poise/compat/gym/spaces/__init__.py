"""`gym.spaces`, which are Gymnasium's."""

from __future__ import annotations

from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    Graph,
    MultiBinary,
    MultiDiscrete,
    Sequence,
    Space,
    Text,
    Tuple,
    flatdim,
    flatten,
    flatten_space,
    unflatten,
)

__all__ = [
    "Box", "Dict", "Discrete", "Graph", "MultiBinary", "MultiDiscrete", "Sequence", "Space", "Text",
    "Tuple", "flatdim", "flatten", "flatten_space", "unflatten",
]  # fmt: skip
