"""`stable_baselines3.common.utils`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from poise.compat.missing import names_of

__all__ = [
    "ConstantSchedule", "FloatSchedule", "LinearSchedule", "constant_fn", "explained_variance",
    "get_device", "get_linear_fn", "get_schedule_fn", "polyak_update", "set_random_seed",
]  # fmt: skip

__getattr__ = names_of("stable_baselines3.common.utils", __all__)


def set_random_seed(seed: int, using_cuda: bool = False) -> None:
    """Seeds the generators of Python, NumPy and PyTorch; models draw their seeds from NumPy's."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class LinearSchedule:
    """From `start` to `end` within a share `end_fraction` of the training."""

    def __init__(self, start: float, end: float, end_fraction: float) -> None:
        self.start, self.end, self.end_fraction = start, end, end_fraction

    def __call__(self, progress_remaining: float) -> float:
        share = min((1 - progress_remaining) / self.end_fraction, 1.0)
        return self.start + share * (self.end - self.start)


class ConstantSchedule:
    """A number."""

    def __init__(self, val: float) -> None:
        self.val = val

    def __call__(self, _: float) -> float:
        return self.val


def FloatSchedule(value: Any) -> Callable[[float], float]:  # noqa: N802 - as it is called there
    """A number or a function as a function."""
    return value if callable(value) else ConstantSchedule(float(value))


get_schedule_fn, constant_fn, get_linear_fn = FloatSchedule, ConstantSchedule, LinearSchedule


def get_device(device: Any = "auto") -> torch.device:
    """A device of PyTorch's; `auto` is the GPU, if there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def explained_variance(y_pred: np.ndarray, y_true: np.ndarray) -> float:
    """1 - Var[y - ŷ] / Var[y]."""
    spread = np.var(y_true)
    return float("nan") if spread == 0 else float(1 - np.var(y_true - y_pred) / spread)


def polyak_update(params: Any, target_params: Any, tau: float) -> None:
    """θ⁻ ← τ θ + (1 - τ) θ⁻."""
    with torch.no_grad():
        for ours, theirs in zip(params, target_params, strict=True):
            theirs.lerp_(ours, tau)
