"""Space layouts: a Gymnasium space, flattened once into named leaves.

Everything that carries observations or actions (rollouts, shared memory, replay, messages,
checkpoints) carries the flat leaves, in Gymnasium's own order; models and preprocessors see the
nested structure as views of them.

    layout = Layout(space)
    leaves = layout.flatten(observation)      # {"camera/left": array, "speed": array}
    nested = layout.unflatten(leaves)         # the structure of the space again
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from poise.errors import SpaceError

ROOT = "value"
"""Name of the only leaf of a space that is not nested."""


@dataclass(frozen=True)
class Leaf:
    """One flat part of a space.

    Attributes:
        name: its path in the structure, joined by `/`, or `ROOT`.
        space: the fundamental space there (`Box`, `Discrete`, `MultiDiscrete` or `MultiBinary`).
        shape: shape of one element; `()` for `Discrete`.
        dtype: the element type of the arrays that Gymnasium gives.
    """

    name: str
    space: spaces.Space
    shape: tuple[int, ...]
    dtype: np.dtype


class Layout:
    """The named leaves of a space.

    Args:
        space: any nesting of `Dict` and `Tuple` over `Box`, `Discrete`, `MultiDiscrete`,
            `MultiBinary`.
        beside: leaves that only a value function sees, and who acts does not.

    Raises:
        SpaceError: a part of the space has no fixed shape (`Text`, `Graph`, `Sequence`, `OneOf`),
            there is no part at all, a key of a `Dict` is neither text nor a whole number, or two
            parts have one name.
    """

    def __init__(self, space: spaces.Space, beside: Sequence[Leaf] = ()) -> None:
        self.space, self.beside = space, tuple(beside)
        self.leaves: tuple[Leaf, ...] = tuple(_leaves(space, ()))
        names = [leaf.name for leaf in (*self.leaves, *self.beside)]
        if not self.leaves:
            raise SpaceError(
                f"{space} is empty: a policy needs at least one number to look at or to choose."
            )
        if len({*names}) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise SpaceError(
                f"Two parts of the space are both called {twice!r}: rename a key of the Dict."
            )
        self._tree = _tree(space, ())

    def __repr__(self) -> str:
        parts = ", ".join(f"{leaf.name}: {leaf.dtype}{list(leaf.shape)}" for leaf in self.leaves)
        return f"Layout({parts})"

    def flatten(self, value: Any) -> dict[str, Any]:
        """The leaves of a structured value (one element or a batch), without copying."""
        flat: dict[str, Any] = {}
        _flatten(self._tree, value, flat)
        return flat

    def unflatten(self, leaves: Mapping[str, Any]) -> Any:
        """The structure of the space over the given leaves, without copying."""
        return _unflatten(self._tree, leaves)

    def element(self, leaves: Mapping[str, np.ndarray], index: int) -> Any:
        """One element of leaves that hold a batch `[N, ...]`, in the structure of the space.

        An element of a `Discrete` space is a NumPy integer, all others are arrays, which are views.
        """
        parts = {}
        for leaf in self.leaves:
            # With the `...`, NumPy gives an array also where one number is left.
            at = index if isinstance(leaf.space, spaces.Discrete) else (index, ...)
            parts[leaf.name] = leaves[leaf.name][at]
        return self.unflatten(parts)

    def to_json(self) -> dict[str, Any]:
        """The space as plain JSON values, from which `from_json` makes an equal one."""
        return _to_json(self.space)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Layout:
        """The layout of a space that `to_json` wrote."""
        return cls(_from_json(data))


Key = str | int
"""What leads from a `Dict` or a `Tuple` to one of its parts."""


def _name(path: tuple[Key, ...]) -> str:
    return "/".join(map(str, path)) or ROOT


def _children(space: spaces.Space) -> list[tuple[Key, spaces.Space]] | None:
    """The parts of a `Dict` or a `Tuple` with their keys; None for any other space."""
    if isinstance(space, spaces.Dict):
        return list(space.spaces.items())
    if isinstance(space, spaces.Tuple):
        return list(enumerate(space.spaces))
    return None


def _leaves(
    space: spaces.Space, path: tuple[Key, ...], root: spaces.Space | None = None
) -> Iterator[Leaf]:
    """The leaves below `space`, which lies at `path` in `root`."""
    children = _children(space)
    if children is not None:
        for key, inner in children:
            if not isinstance(key, (str, int, np.integer)):
                raise SpaceError(
                    f"Keys of a Dict space must be text or whole numbers; {key!r} is neither."
                )
            yield from _leaves(inner, (*path, key), space if root is None else root)
    elif isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        yield Leaf(_name(path), space, tuple(space.shape or ()), np.dtype(space.dtype))
    else:
        where = f" (at {_name(path)!r})" if path else ""
        raise SpaceError(
            f"{type(space).__name__} spaces{where} have no fixed shape, "
            "so no network can take them: wrap the environment so that it uses Box, Discrete, "
            f"MultiDiscrete, MultiBinary, Dict or Tuple.{_cure(root, path)}"
        )


def _cure(root: spaces.Space | None, path: tuple[Key, ...]) -> str:
    """The wrapper that leaves out a part of an observation that no network can take."""
    if path[:1] == ("mission",):  # MiniGrid's
        return (
            " For MiniGrid: --wrap minigrid.wrappers:ImgObsWrapper, "
            "or minigrid.wrappers:FlatObsWrapper."
        )
    if not isinstance(root, spaces.Dict) or len(root) < 2:
        return ""
    keys = {"filter_keys": [key for key in root if key != path[0]]}
    wrapper = json.dumps(["gymnasium.wrappers:FilterObservation", keys])
    return f" To leave it out: --wrap '{wrapper}'."


def _tree(space: spaces.Space, path: tuple[Key, ...]) -> Any:
    """A leaf's name, or the trees of a structure's parts by key: a list of pairs for a `Tuple`.

    It is made once, since every step of every environment goes through it.
    """
    children = _children(space)
    if children is None:
        return _name(path)
    parts = [(key, _tree(inner, (*path, key))) for key, inner in children]
    return dict(parts) if isinstance(space, spaces.Dict) else parts


def _flatten(tree: Any, value: Any, into: dict[str, Any]) -> None:
    """Puts the leaves of `value` into `into` by their names."""
    if type(tree) is str:
        into[tree] = value
        return
    for key, part in tree.items() if type(tree) is dict else tree:
        if type(part) is str:
            into[part] = value[key]
        else:
            _flatten(part, value[key], into)


def _unflatten(tree: Any, leaves: Mapping[str, Any]) -> Any:
    if type(tree) is str:
        return leaves[tree]
    if type(tree) is dict:
        return {key: _unflatten(part, leaves) for key, part in tree.items()}
    return tuple([_unflatten(part, leaves) for _, part in tree])


def _bounds(array: np.ndarray) -> Any:
    """A bound as one number where it is uniform (images), else as nested lists.

    Infinity is a text: JSON has none.
    """
    first = array.flat[0] if array.size else np.zeros((), array.dtype)
    if (array == first).all():
        return _number(first)
    return [_number(item) for item in array.ravel()]


def _number(item: Any) -> Any:
    item = item.item()
    return item if np.isfinite(item) else str(item)


def _to_json(space: spaces.Space) -> dict[str, Any]:
    """The description of a space, whose keys are arguments of Gymnasium's class `type`."""
    if isinstance(space, spaces.Box):
        bounds = {"low": _bounds(space.low), "high": _bounds(space.high)}
        return {"type": "Box", **bounds, "shape": list(space.shape), "dtype": str(space.dtype)}
    if isinstance(space, spaces.Discrete):
        odd = {} if space.dtype == np.int64 else {"dtype": str(space.dtype)}
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), **odd}
    if isinstance(space, spaces.MultiDiscrete):
        sizes = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"type": "MultiDiscrete", **sizes, "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiBinary):
        n = int(space.n) if isinstance(space.n, (int, np.integer)) else list(space.n)
        return {"type": "MultiBinary", "n": n}
    children = _children(space)
    assert children is not None  # `Layout` has refused all other spaces
    kind = "Dict" if isinstance(space, spaces.Dict) else "Tuple"
    parts = [[key if isinstance(key, str) else int(key), _to_json(part)] for key, part in children]
    return {"type": kind, "spaces": parts}


def _from_json(data: dict[str, Any]) -> spaces.Space:
    kind = data["type"]
    if kind == "Box":
        shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
        # Of integers as such, since large ones are no floats; of all others, "inf" is one.
        read = dtype if dtype.kind in "iu" else np.dtype(float)
        bounds = [np.array(data[end], read) for end in ("low", "high")]
        low, high = (
            np.broadcast_to(bound.reshape(shape) if bound.ndim else bound, shape).astype(dtype)
            for bound in bounds
        )
        return spaces.Box(low, high, dtype=dtype.type)
    if kind == "Discrete":
        odd = {"dtype": np.dtype(data["dtype"]).type} if "dtype" in data else {}
        return spaces.Discrete(data["n"], start=data["start"], **odd)
    if kind == "MultiDiscrete":
        nvec, start, dtype = np.array(data["nvec"]), np.array(data["start"]), data["dtype"]
        return spaces.MultiDiscrete(nvec, dtype=np.dtype(dtype).type, start=start)
    if kind == "MultiBinary":
        return spaces.MultiBinary(data["n"])
    if kind == "Dict":
        return spaces.Dict([(key, _from_json(inner)) for key, inner in data["spaces"]])
    if kind == "Tuple":
        return spaces.Tuple([_from_json(inner) for _, inner in data["spaces"]])
    raise SpaceError(f"{kind!r} is not a kind of space that a checkpoint can hold.")
