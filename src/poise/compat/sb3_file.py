"""What can be read of a file of Stable-Baselines3's without running anything in it.

Its JSON is read without what is pickled in it, and its tensors by PyTorch's reader of weights
alone.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poise.errors import CheckpointError
from poise.files import DEEPEST_JSON, LARGEST_JSON, depth

LARGEST = 4 * 2**30
"""Bytes of the largest file that is read."""

Layers = list[tuple[Tensor, Tensor]]
"""Weights and biases."""


@dataclass
class Saved:
    """What can be read of a file.

    Attributes:
        path: the file.
        data: its JSON; what is pickled has its description alone.
        tensors: the parameters of the policy.
        variables: other tensors, such as the logarithm of SAC's temperature.
    """

    path: Path
    data: dict[str, Any]
    tensors: dict[str, Tensor]
    variables: dict[str, Any]

    def layers(self, prefix: str, axes: int = 2) -> Layers:
        """The layers `prefix.0`, `prefix.2`, ..., or `prefix` itself, with weights of so many axes.

        Raises:
            CheckpointError: there are others among them.
        """
        name = re.compile(rf"{re.escape(prefix)}(?:\.(\d+))?\.weight")
        found = {int(m[1] or 0): key for key in self.tensors if (m := name.fullmatch(key))}
        pairs = []
        for _, key in sorted(found.items()):
            weight = self.tensors[key]
            bias = self.tensors.get(key.removesuffix("weight") + "bias")
            if weight.ndim != axes or bias is None or bias.shape != weight.shape[:1]:
                raise CheckpointError(f"{self.path}: {key} is of a kind of layer that is not read.")
            pairs.append((weight, bias))
        return pairs


def read(path: Path) -> Saved:
    """Reads a file.

    Raises:
        CheckpointError: it is none of Stable-Baselines3's, is damaged, or holds more than tensors.
    """
    if not path.exists() and path.with_name(f"{path.name}.zip").exists():
        path = path.with_name(f"{path.name}.zip")
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {each.filename: each for each in archive.infolist()}
            if not {"data", "policy.pth"} <= parts.keys():
                raise CheckpointError(f"{path} is not a file that Stable-Baselines3 saved.")
            if parts["data"].file_size > LARGEST_JSON or any(
                parts[name].file_size > LARGEST for name in parts
            ):
                raise CheckpointError(f"{path} is larger than any that is read.")
            data = json.loads(archive.read("data"))
            if not isinstance(data, dict) or depth(data) > DEEPEST_JSON:
                raise CheckpointError(f"{path} is damaged: its data is no mapping.")
            tensors = _tensors(archive.read("policy.pth"), path)
            own = "pytorch_variables.pth"
            variables = _tensors(archive.read(own), path) if own in parts else {}
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (zipfile.BadZipFile, ValueError, RecursionError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is not a file of Stable-Baselines3: {error}.") from None
    if wrong := [key for key, x in {**variables, **tensors}.items() if not _readable(x)]:
        raise CheckpointError(f"{path} is damaged: {wrong[0]} is no tensor of finite numbers.")
    return Saved(path, data, {key: value.float() for key, value in tensors.items()}, variables)


def _readable(value: Any) -> bool:
    plain = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized
    return plain and not value.is_complex() and bool(value.isfinite().all())


def _tensors(content: bytes, path: Path) -> dict[str, Any]:
    """A mapping of tensors, by PyTorch's reader of weights, which makes nothing else."""
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split("\n")[0].split())
        raise CheckpointError(f"{path} holds more than tensors: {reason}") from None
    return dict(found) if isinstance(found, Mapping) else {}
