"""Runs a policy that Poise has exported; needs NumPy alone.

    from policy import Policy

    policy = Policy()                                # of the folder in which this file lies
    action, state = policy.act(observation)          # state is None unless it has a memory
    action, state = policy.act(observation, state)

`policy.json` lists the steps of the computation in order, `policy.safetensors` holds the weights,
and `OPS` below says what each step does. `policy.run` takes and returns everything by name: the
probabilities of actions, and the value of the observation, too.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np

TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""NumPy's names of the types in a safetensors file."""


def read_tensors(path):
    """The arrays in a safetensors file: a length, a header in JSON, and the numbers."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        numbers = file.read()
    arrays = {}
    for name, about in header.items():
        if name != "__metadata__":
            start, end = about["data_offsets"]
            flat = np.frombuffer(numbers[start:end], np.dtype(TYPES[about["dtype"]]))
            arrays[name] = flat.reshape(about["shape"])
    return arrays


def softmax(x, dim, half=False):
    odds = np.exp(x - x.max(dim, keepdims=True))
    return odds / odds.sum(dim, keepdims=True)


def convolution(x, weight, bias, stride, padding, dilation, transposed, out, groups):
    """Two-dimensional convolution, `[N, C, H, W]`."""
    if transposed or groups != 1 or set(dilation) != {1} or x.ndim != 4:
        raise NotImplementedError("only plain convolutions of pictures")
    x = np.pad(x, [(0, 0), (0, 0), *[(each, each) for each in padding]])
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (2, 3))
    y = np.tensordot(windows[:, :, :: stride[0], :: stride[1]], weight, ([1, 4, 5], [1, 2, 3]))
    return (y if bias is None else y + bias).transpose(0, 3, 1, 2)


def layer_norm(x, shape, weight, bias, eps):
    dims = tuple(range(-len(shape), 0))
    scale = 1 / np.sqrt(x.var(dims, keepdims=True) + eps)
    y = (x - x.mean(dims, keepdims=True)) * scale
    return [(y if weight is None else y * weight) + (0 if bias is None else bias)]


def cut(x, dim=0, start=None, end=None, step=1):
    return x[(slice(None),) * (dim % x.ndim) + (slice(start, end, step),)]


def expand(x, sizes, implicit=False):
    new = len(sizes) - x.ndim
    return np.broadcast_to(
        x, [x.shape[i - new] if size == -1 else size for i, size in enumerate(sizes)]
    )


def scatter(x, dim, index, values):
    y = x.copy()
    np.put_along_axis(y, index, values, dim)
    return y


def pad(x, widths, value=0):
    pairs = [(widths[i], widths[i + 1]) for i in range(len(widths) - 2, -1, -2)]
    return np.pad(x, [(0, 0)] * (x.ndim - len(pairs)) + pairs, constant_values=value)


def axes(dim):
    return tuple(dim) if dim else None


erf = np.vectorize(math.erf, otypes=[np.float64])

OPS: dict[str, Any] = {
    "linear": lambda x, w, b=None: x @ w.T if b is None else x @ w.T + b,
    "addmm": lambda b, x, y, beta=1, alpha=1: beta * b + alpha * (x @ y),
    "mm": np.matmul,
    "bmm": np.matmul,
    "convolution": convolution,
    "native_layer_norm": layer_norm,
    "embedding": lambda table, index, *_: table[index],
    "add": lambda x, y, alpha=1: x + y if alpha == 1 else x + alpha * y,
    "sub": lambda x, y, alpha=1: x - y if alpha == 1 else x - alpha * y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "pow": lambda x, y: x**y,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "tanh": np.tanh,
    "sigmoid": lambda x: 0.5 * np.tanh(0.5 * x) + 0.5,
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x, a=1, s=1, t=1: np.where(x > 0, s * x, s * a * np.expm1(np.minimum(t * x, 0))),
    "leaky_relu": lambda x, slope=0.01: np.where(x > 0, x, slope * x),
    "gelu": lambda x, kind="none": 0.5 * x * (1 + erf(x * math.sqrt(0.5))),
    "erf": erf,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "sin": np.sin,
    "cos": np.cos,
    "abs": np.abs,
    "neg": np.negative,
    "sign": np.sign,
    "floor": np.floor,
    "round": np.rint,
    "clamp": lambda x, low=None, high=None: np.clip(x, low, high),
    "where": np.where,
    "eq": np.equal,
    "ne": np.not_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lt": np.less,
    "le": np.less_equal,
    "logical_not": np.logical_not,
    "bitwise_not": np.invert,
    "logical_and": np.logical_and,
    "bitwise_and": np.bitwise_and,
    "logical_or": np.logical_or,
    "bitwise_or": np.bitwise_or,
    "_softmax": softmax,
    "_log_softmax": lambda x, dim, half=False: np.log(softmax(x, dim)),
    "argmax": lambda x, dim=None, keepdim=False: np.argmax(x, dim, keepdims=keepdim),
    "amax": lambda x, dim=(), keepdim=False: x.max(axes(dim), keepdims=keepdim),
    "amin": lambda x, dim=(), keepdim=False: x.min(axes(dim), keepdims=keepdim),
    "sum": lambda x, dim=(), keepdim=False: x.sum(axes(dim), keepdims=keepdim),
    "mean": lambda x, dim=(), keepdim=False: x.mean(axes(dim), keepdims=keepdim),
    "any": lambda x, dim=None, keepdim=False: x.any(dim, keepdims=keepdim),
    "cat": lambda parts, dim=0: np.concatenate(parts, dim),
    "split_with_sizes": lambda x, sizes, dim=0: np.split(x, np.cumsum(sizes)[:-1], dim),
    "getitem": lambda parts, i: parts[i],
    "slice": cut,
    "select": lambda x, dim, i: np.take(x, i, dim),
    "index_select": lambda x, dim, index: np.take(x, index, dim),
    "gather": lambda x, dim, index, sparse=False: np.take_along_axis(x, index, dim),
    "scatter": scatter,
    "constant_pad_nd": pad,
    "view": np.reshape,
    "expand": expand,
    "permute": np.transpose,
    "unsqueeze": np.expand_dims,
    "squeeze": lambda x, dim: np.squeeze(x, tuple(dim) if isinstance(dim, list) else dim),
    "full": lambda sizes, value: np.full(sizes, value),
    "full_like": np.full_like,
    "cast": lambda x: x,
}
"""What each step does; its result gets the step's type."""


def flatten(space, value, name):
    """The parts of an observation by name, as the steps take them."""
    if "spaces" not in space:
        return {name: value}
    parts = {}
    for key, inner in space["spaces"]:
        parts.update(flatten(inner, value[key], f"{name}/{key}"))
    return parts


def unflatten(space, parts, name):
    """An action from its parts by name, as the environment takes it."""
    if "spaces" not in space:
        return parts[name]
    values = [(key, unflatten(inner, parts, f"{name}/{key}")) for key, inner in space["spaces"]]
    return dict(values) if space["type"] == "Dict" else tuple(value for _, value in values)


class Policy:
    """An exported policy.

    Args:
        folder: with `policy.json` and `policy.safetensors`; that of this file unless given.

    Attributes:
        about: what `policy.json` says: inputs, outputs and spaces, and where it comes from.
    """

    def __init__(self, folder: Any = None) -> None:
        folder = os.path.dirname(os.path.abspath(__file__)) if folder is None else folder
        with open(os.path.join(folder, "policy.json"), encoding="utf-8") as file:
            self.about = json.load(file)
        self._constants = read_tensors(os.path.join(folder, "policy.safetensors"))
        self._memory = list(self.about["start"])
        self._steps = [
            (OPS[each["op"]], each["to"], each["args"], each["dtype"])
            for each in self.about["steps"]
        ]

    def start(self, count: int) -> tuple[np.ndarray, ...]:
        """The memory at the beginning of an episode, for so many environments."""
        shapes = {each["name"]: each["shape"][1:] for each in self.about["inputs"]}
        return tuple(
            np.broadcast_to(np.float32(value), (count, *shapes[name])).copy()
            for name, value in self.about["start"].items()
        )

    def act(self, observation: Any, state: Any = None, reward: Any = None) -> tuple[Any, Any]:
        """The most likely actions.

        Args:
            observation: one, or a batch (one more axis in front), as the environment gives it.
            state: the memory that the last call returned; None at the beginning of an episode.
            reward: what the last action earned, for a policy that is to know it.

        Returns:
            Actions as the environment takes them, and the memory: None if the policy has none.
        """
        inputs = flatten(self.about["observation_space"], observation, "obs")
        first = self.about["inputs"][0]
        one = np.ndim(inputs[first["name"]]) < len(first["shape"])
        if one:
            inputs = {name: np.asarray(value)[None] for name, value in inputs.items()}
        count = len(inputs[first["name"]])
        state = self.start(count) if state is None else state
        inputs.update({name: state[i] for i, name in enumerate(self._memory)})
        if any(each["name"] == "reward" for each in self.about["inputs"]):
            inputs["reward"] = np.broadcast_to(0.0 if reward is None else reward, count)
        found = self.run(inputs)
        if one:
            found.update({k: v[0] for k, v in found.items() if k.split("/")[0] == "action"})
        state = tuple(found[name.replace("_in_", "_out_")] for name in self._memory) or None
        return unflatten(self.about["action_space"], found, "action"), state

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs `[N, ...]` by name, from all inputs `[N, ...]` by name."""
        values = dict(self._constants)
        for each in self.about["inputs"]:
            values[each["name"]] = np.asarray(inputs[each["name"]], each["dtype"])
        values["N"] = len(values[self.about["inputs"][0]["name"]])

        def known(arg):
            if isinstance(arg, str):
                return values[arg]
            return [known(part) for part in arg] if isinstance(arg, list) else arg

        for op, to, args, dtype in self._steps:
            result = op(*[known(arg) for arg in args])
            values[to] = result if isinstance(result, list) else np.asarray(result, dtype)
        return {each["name"]: values[each["value"]] for each in self.about["outputs"]}
