"""Guards the layout contract.

Names, order, shapes and types of leaves, and spaces that survive JSON.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from poise.errors import SpaceError
from poise.spaces.layout import Layout

IMAGE = spaces.Box(0, 255, (4, 5, 3), np.uint8)
NESTED = spaces.Dict(
    {
        "speed": spaces.Box(-np.inf, np.inf, (3,), np.float32),
        "camera": spaces.Dict({"right": IMAGE, "left": IMAGE}),
        "pair": spaces.Tuple((spaces.Discrete(5, start=2), spaces.MultiDiscrete([3, 4]))),
        "flags": spaces.MultiBinary(6),
        "exact": spaces.Box(-1.5, 0.1, (), np.float64),
    }
)

SPACES = {
    "uniform": spaces.Box(-1, 1, (2, 3), np.float32),
    "per element": spaces.Box(np.float32([-0.1, -2, 0]), np.float32([0.3, 5, 7]), dtype=np.float32),
    "infinite": spaces.Box(-np.inf, np.inf, (4,), np.float32),
    "half infinite": spaces.Box(
        np.float32([-np.inf, 0.0]), np.float32([1.0, np.inf]), dtype=np.float32
    ),
    "float64": spaces.Box(-0.1, 1 / 3, (2,), np.float64),
    "image": IMAGE,
    "int32": spaces.Box(-7, 9, (2, 2), np.int32),
    "large integers": spaces.Box(-(2**62) - 1, 2**62 + 1, (2,), np.int64),
    "scalar": spaces.Box(-3, 3, (), np.float32),
    "discrete": spaces.Discrete(3),
    "discrete with start": spaces.Discrete(3, start=-1),
    "multi discrete": spaces.MultiDiscrete([2, 5, 3]),
    "multi discrete with start": spaces.MultiDiscrete([2, 5], start=[1, -4]),
    "multi discrete of two axes": spaces.MultiDiscrete([[2, 5], [3, 4]], dtype=np.int32),
    "multi binary": spaces.MultiBinary(4),
    "multi binary of one in a list": spaces.MultiBinary([1]),
    "multi binary of two axes": spaces.MultiBinary([2, 3]),
    "nested": NESTED,
    "dict in its own order": spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Discrete(3))]),
    "tuple": spaces.Tuple([spaces.Tuple([spaces.Discrete(2)]), IMAGE]),
    "bools": spaces.Box(0, 1, (2,), np.bool_),
    "float16": spaces.Box(-0.1, 0.7, (2,), np.float16),
    "no numbers": spaces.Box(0, 1, (0,), np.float32),
    "unsigned": spaces.Box(0, 2**64 - 1, (2,), np.uint64),
    "discrete of 32 bits": spaces.Discrete(3, dtype=np.int32),
    "integer keys": spaces.Dict({1: spaces.Discrete(2), np.int64(0): spaces.Dict({7: IMAGE})}),
    "text and integer keys": spaces.Dict([("a", spaces.Discrete(2)), (3, IMAGE)]),
}


def test_leaves_of_a_nested_space() -> None:
    found = [(leaf.name, leaf.shape, leaf.dtype.name) for leaf in Layout(NESTED).leaves]
    assert found == [
        ("camera/left", (4, 5, 3), "uint8"),
        ("camera/right", (4, 5, 3), "uint8"),
        ("exact", (), "float64"),
        ("flags", (6,), "int8"),
        ("pair/0", (), "int64"),
        ("pair/1", (2,), "int64"),
        ("speed", (3,), "float32"),
    ]


def test_the_only_leaf_of_a_plain_space_is_called_value() -> None:
    (leaf,) = Layout(spaces.Discrete(4, start=1)).leaves
    assert (leaf.name, leaf.shape, leaf.dtype.name) == ("value", (), "int64")
    assert Layout(IMAGE).flatten("anything") == {"value": "anything"}


def test_order_is_gymnasiums() -> None:
    ordered = spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Discrete(3))])
    assert [leaf.name for leaf in Layout(ordered).leaves] == ["z", "a"]
    assert [leaf.name for leaf in Layout(spaces.Dict({"z": IMAGE, "a": IMAGE})).leaves] == [
        "a",
        "z",
    ]
    assert [leaf.name for leaf in Layout(spaces.Tuple([IMAGE] * 11)).leaves][-2:] == ["9", "10"]


@pytest.mark.parametrize("batched", [False, True])
def test_flatten_and_unflatten_are_inverse_and_copy_nothing(batched: bool) -> None:
    NESTED.seed(0)
    space = batch_space(NESTED, 3) if batched else NESTED
    value = space.sample()
    layout = Layout(NESTED)
    flat = layout.flatten(value)
    assert list(flat) == [leaf.name for leaf in layout.leaves]
    assert flat["camera/left"] is value["camera"]["left"]
    assert flat["pair/1"] is value["pair"][1]
    back = layout.unflatten(flat)
    assert isinstance(back["pair"], tuple)
    assert back["camera"]["right"] is value["camera"]["right"]
    assert all(
        new is old for new, old in zip(layout.flatten(back).values(), flat.values(), strict=True)
    )


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_json_gives_an_equal_space(space: spaces.Space) -> None:
    text = json.dumps(Layout(space).to_json(), allow_nan=False)
    back = Layout.from_json(json.loads(text))
    assert back.space == space
    for new, old in zip(back.leaves, Layout(space).leaves, strict=True):
        assert (new.name, new.shape, new.dtype) == (old.name, old.shape, old.dtype)
        if isinstance(old.space, spaces.Box):  # Gymnasium's == is only approximate
            np.testing.assert_array_equal(new.space.low, old.space.low)  # type: ignore[attr-defined]
            np.testing.assert_array_equal(new.space.high, old.space.high)  # type: ignore[attr-defined]


def test_a_uniform_bound_takes_one_number() -> None:
    assert Layout(IMAGE).to_json() == {
        "type": "Box",
        "low": 0,
        "high": 255,
        "shape": [4, 5, 3],
        "dtype": "uint8",
    }


@pytest.mark.parametrize(
    ("space", "kind"),
    [
        (spaces.Text(5), "Text"),
        (spaces.Sequence(spaces.Discrete(2)), "Sequence"),
        (spaces.Graph(spaces.Box(0, 1, (2,)), None), "Graph"),
        (spaces.OneOf([spaces.Discrete(2), spaces.Discrete(3)]), "OneOf"),
    ],
)
def test_spaces_without_a_shape_are_refused_in_one_sentence(space: spaces.Space, kind: str) -> None:
    with pytest.raises(
        SpaceError, match=f"^{kind} spaces have no fixed shape, .*MultiBinary, Dict or Tuple.$"
    ):
        Layout(space)
    with pytest.raises(SpaceError, match=rf"^{kind} spaces \(at 'a/1'\)"):
        Layout(spaces.Dict({"a": spaces.Tuple([IMAGE, space])}))


def test_leaves_of_one_name_are_refused() -> None:
    with pytest.raises(SpaceError, match="'a/b'"):
        Layout(
            spaces.Dict({"a/b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(3)})})
        )


def test_keys_may_be_whole_numbers() -> None:
    space = spaces.Dict({2: spaces.Discrete(3), 10: spaces.Tuple([IMAGE]), -1: spaces.Discrete(4)})
    layout = Layout(space)
    assert [leaf.name for leaf in layout.leaves] == ["-1", "2", "10/0"]
    value = space.sample()
    flat = layout.flatten(value)
    assert flat["10/0"] is value[10][0]
    assert list(layout.unflatten(flat)) == [-1, 2, 10]
    back = Layout.from_json(json.loads(json.dumps(layout.to_json())))
    assert list(back.space.spaces) == [-1, 2, 10]  # not their texts


@pytest.mark.parametrize("key", [1.5, (1, 2), None])
def test_other_keys_are_refused(key: Any) -> None:
    with pytest.raises(SpaceError, match="must be text or whole numbers"):
        Layout(spaces.Dict([(key, IMAGE)]))


def test_keys_that_read_alike_are_refused() -> None:
    with pytest.raises(SpaceError, match="'1'"):
        Layout(spaces.Dict([("1", IMAGE), (1, IMAGE)]))


def test_an_element_of_a_batch() -> None:
    layout, space = Layout(NESTED), batch_space(NESTED, 3)
    batch = space.sample()
    leaves = layout.flatten(batch)
    for i in range(3):
        element = layout.element(leaves, i)
        assert NESTED.contains(element)
        # Of no axes, which Gymnasium takes without a warning.
        assert isinstance(element["exact"], np.ndarray)
        assert isinstance(element["pair"][0], np.integer)
        np.testing.assert_array_equal(element["camera"]["left"], batch["camera"]["left"][i])
    assert np.shares_memory(layout.element(leaves, 1)["speed"], batch["speed"])


@pytest.mark.parametrize(
    "space", [spaces.Dict({}), spaces.Tuple([]), spaces.Dict({"a": spaces.Tuple([])})]
)
def test_spaces_without_leaves_are_refused(space: spaces.Space) -> None:
    with pytest.raises(SpaceError, match="empty"):
        Layout(space)


def test_an_unknown_kind_of_space_in_json_is_refused() -> None:
    with pytest.raises(SpaceError, match="'Hyper'"):
        Layout.from_json({"type": "Hyper"})
