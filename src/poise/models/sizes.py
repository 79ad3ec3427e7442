"""The memory that a network takes, checked before it is taken."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from poise.config.memory import TRAINED, require
from poise.config.model import ModelConfig
from poise.config.types import brief

_MAKERS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye}


class WithinMemory(TorchFunctionMode):
    """Counts the parameters that are made within the block, and refuses one that would not fit.

    It sees all modules of PyTorch, in custom models too. What these take beside it (arrays of
    NumPy, files that they load) nobody can know before their code has taken it.

    Args:
        config: the `model` settings, to name the one that asks for so much.

    Attributes:
        numbers: how many numbers have been asked for so far.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.numbers = config, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _MAKERS:
            first = args[0] if args else (kwargs or {}).get("size", ())
            shape = first if isinstance(first, (tuple, list)) else args
            self.numbers += math.prod(shape)
            setting = self._setting(len(shape))
            what = f"Learning {self.numbers:,} parameters or more, as {setting} asks for,"
            require(4 * TRAINED * self.numbers, what, "Give a smaller network.")
        return func(*args, **(kwargs or {}))

    def _setting(self, axes: int) -> str:
        """The setting that decides how large a tensor of so many axes is."""
        key = {3: "lstm_cell_size", 4: "conv_filters"}.get(axes, "fcnet_hiddens")
        if self.config.custom_model:
            key = "custom_model"
        return f"model.{key}={brief(getattr(self.config, key))}"
