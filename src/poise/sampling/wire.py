"""What travels between a learner and samplers elsewhere, as arrays: policies there, rollouts back.

learner                                         sampler on another machine
weights = Weights(flat).pack()          ->      Weights(own_flat).load(weights)
fill(part, rollout)                     <-      rollout = arrays(sampler.finish())
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poise.learning.optimizers import Flat
from poise.sampling.rollout import PER_SLOT, Rollout

_ALIGNMENT = 8


class Weights:
    """All that acting depends on, as one buffer of bytes: parameters, moments, and how much is
    explored.

    Args:
        flat: the parameters of a policy, and what it holds beside them. The two ends have policies
            with equal modules, so that their tensors follow one another in the same order.
    """

    def __init__(self, flat: Flat) -> None:
        self._tensors = [flat.whole, *flat.beside]
        self._starts, end = [], 0
        for tensor in self._tensors:
            self._starts.append(end)
            size = tensor.numel() * tensor.element_size()
            end += -(-size // _ALIGNMENT) * _ALIGNMENT
        self.size = end

    def pack(self) -> np.ndarray:
        """A copy of what they are now, `[size]` bytes."""
        buffer = torch.zeros(self.size, dtype=torch.uint8)
        for tensor, place in zip(self._tensors, self._places(buffer), strict=True):
            place.copy_(tensor)
        return buffer.numpy()

    def load(self, buffer: np.ndarray) -> None:
        """Puts what `pack` returned at the other end in place."""
        packed = torch.from_numpy(np.array(buffer))  # Ray's arrays are read-only
        for tensor, place in zip(self._tensors, self._places(packed), strict=True):
            tensor.copy_(place)

    def _places(self, buffer: Tensor) -> list[Tensor]:
        """Views of a buffer, like each of the tensors."""
        return [
            buffer[start : start + tensor.numel() * tensor.element_size()]
            .view(tensor.dtype)
            .view(tensor.shape)
            for tensor, start in zip(self._tensors, self._starts, strict=True)
        ]


def arrays(rollout: Rollout, *, compact: bool = False) -> dict[str, Any]:
    """A rollout as arrays, which are its own memory.

    Args:
        rollout: is not changed.
        compact: packs pictures, for a network: see `packed`.
    """
    leaves: dict[str, Any] = {name: leaf.numpy() for name, leaf in rollout.obs.items()}
    if compact:
        leaves = {
            name: packed(leaf) if leaf.dtype == np.uint8 and leaf.ndim == 5 else leaf
            for name, leaf in leaves.items()
        }
    return {
        **{name: getattr(rollout, name).numpy() for name in PER_SLOT},
        "obs": leaves,
        "state": [part.numpy() for part in rollout.state],
        "version": rollout.version,
        "final": [
            (t, b, {name: leaf.numpy() for name, leaf in leaves.items()})
            for t, b, leaves in rollout.final
        ],
    }


def packed(pictures: np.ndarray) -> dict[str, Any]:
    """Pictures `[T + 1, B, C, H, W]` of bytes, without what they have in common.

    Where an observation is a stack of frames, the one before it moved on by one, only its newest
    frame is kept. Of that, what differs from the frame before is compressed.
    """
    channels = pictures.shape[2]
    planes, goes_on = channels, np.zeros(pictures[1:].shape[:2], np.bool_)
    for frame in (1, 3):  # grey or coloured frames
        if channels > frame and channels % frame == 0:
            same = (pictures[1:, :, :-frame] == pictures[:-1, :, frame:]).all((2, 3, 4))
            if same.mean() > 0.5:
                planes, goes_on = frame, same
                break
    begins = np.concatenate([np.ones_like(goes_on[:1]), ~goes_on])
    newest = pictures[:, :, -planes:]
    changes = newest.copy()
    changes[1:] ^= newest[:-1]
    earlier = np.ascontiguousarray(pictures[begins][:, :-planes])
    # Arrays, since a checkpoint holds them, and no bytes.
    return {"begins": begins, "changes": _deflated(changes), "earlier": _deflated(earlier)}


def _deflated(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(zlib.compress(array.data, 1), np.uint8)


def unpack(pictures: np.ndarray, sent: dict[str, Any]) -> None:
    """Writes what `packed` returned elsewhere into an array of the same shape."""
    begins, shape = sent["begins"], pictures.shape
    changes = np.frombuffer(zlib.decompress(sent["changes"]), np.uint8)
    newest = changes.reshape(*shape[:2], -1, *shape[3:])
    planes = newest.shape[2]
    pictures[:, :, -planes:] = np.bitwise_xor.accumulate(newest, axis=0)
    earlier = np.frombuffer(zlib.decompress(sent["earlier"]), np.uint8)
    earlier = earlier.reshape(int(begins.sum()), shape[2] - planes, *shape[3:])
    taken = 0
    for row, begin in enumerate(begins):
        there = int(begin.sum())
        pictures[row, begin, :-planes] = earlier[taken : taken + there]
        pictures[row, ~begin, :-planes] = pictures[row - 1, ~begin, planes:]
        taken += there


def size_of(sent: dict[str, Any]) -> int:
    """Bytes of the arrays that `arrays` returned."""
    parts: list[Any] = [*sent["state"], *(sent[name] for name in PER_SLOT)]
    for leaves in (sent["obs"], *(leaves for _, _, leaves in sent["final"])):
        for leaf in leaves.values():
            parts += leaf.values() if isinstance(leaf, dict) else [leaf]
    return sum(part.nbytes for part in parts)


def fill(part: Rollout, sent: dict[str, Any]) -> None:
    """Copies what `arrays` returned elsewhere into a rollout of the same shape."""
    for name in PER_SLOT:
        getattr(part, name).numpy()[...] = sent[name]
    for name, leaf in part.obs.items():
        came = sent["obs"][name]
        if isinstance(came, dict):
            unpack(leaf.numpy(), came)
        else:
            leaf.numpy()[...] = came
    part.state = tuple(torch.from_numpy(np.array(each)) for each in sent["state"])
    part.version = sent["version"]
    part.final = [
        (t, b, {name: torch.from_numpy(np.array(leaf)) for name, leaf in leaves.items()})
        for t, b, leaves in sent["final"]
    ]


def blank(part: Rollout) -> None:
    """Makes a rollout one in which nothing happened: that of a sampler which was lost.

    Its rows do not count. They begin an episode where the last ones ended, so that nobody takes
    the next episode's beginning for what those led to.
    """
    for leaf in part.obs.values():
        leaf[:] = leaf[-1].clone()
    for name in PER_SLOT:
        getattr(part, name).zero_()
    part.first[0] = True
    part.final.clear()


def writable(tree: Any, kind: type = np.ndarray, take: Any = np.copy) -> Any:
    """The same dicts and lists, with copies of their arrays: Ray's are read-only.

    Args:
        tree: nested dicts, lists and tuples.
        kind: of what is copied.
        take: copies it, perhaps into another kind.
    """
    if isinstance(tree, dict):
        return {key: writable(value, kind, take) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(writable(value, kind, take) for value in tree)
    return take(tree) if isinstance(tree, kind) else tree


def as_arrays(tree: Any) -> Any:
    """The same dicts and lists, with arrays in the place of tensors, in their memory."""
    return writable(tree, Tensor, lambda tensor: tensor.numpy(force=True))


def as_tensors(tree: Any) -> Any:
    """The same dicts and lists, with tensors in the place of arrays, of their own."""
    return writable(tree, np.ndarray, lambda array: torch.from_numpy(np.array(array)))
