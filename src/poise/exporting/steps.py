"""A policy as a list of steps: what NumPy and C compute, one operation after the other.

The steps are the nodes of the graph that `torch.export` made, in PyTorch's core operations, without
what follows from the weights alone: that is computed once, here.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from poise.errors import ModelError

BATCH = "N"
"""What stands in shapes and arguments for the number of observations."""

_OVERLOADS = {
    "default", "Tensor", "Scalar", "int", "self", "dim", "dims", "dim_IntList", "value", "src",
    "Tensor_Scalar",
}  # fmt: skip
"""Variants of an operation that differ in the types of their arguments alone."""
_NOT_ARGUMENTS = {"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking"}
_SAME = {"_to_copy", "clone", "alias", "detach", "lift_fresh_copy", "copy"}


@dataclass
class Step:
    """One operation.

    Attributes:
        op: its name.
        to: the name of its result.
        args: names of values, numbers, and lists of these.
        dtype: the result's type; empty if it is several arrays.
        shape: the result's shape, likewise; `BATCH` stands for the number of observations.
    """

    op: str
    to: str
    args: list[Any]
    dtype: str
    shape: list[Any]


@dataclass
class Steps:
    """A whole computation.

    Attributes:
        inputs, outputs: their names, and those of their values.
        constants: values that are known.
        steps: in order.
        values: the type and the shape of every value that is no constant.
    """

    inputs: dict[str, str]
    outputs: dict[str, str]
    constants: dict[str, np.ndarray]
    steps: list[Step]
    values: dict[str, tuple[str, list[Any]]]


def steps_of(program: Any, inputs: list[str], outputs: list[str]) -> Steps:
    """The steps of an exported program.

    Args:
        program: a `torch.export.ExportedProgram`.
        inputs, outputs: the names of what it takes and returns, in order.
    """
    table = torch.export.default_decompositions()
    del table[torch.ops.aten.linear.default]  # as it is, it is better to read
    program = program.run_decompositions(table)
    walk = _Walk(program, inputs)
    last = program.graph.output_node()
    results = [walk.plain(node) for node in last.args[0]]
    found = dict(zip(outputs, results, strict=True))
    needed, kept = set(results), []
    for step in reversed(walk.steps):
        if step.to in needed:
            needed.update(_names(step.args))
            kept.append(step)
    constants = {n: v.numpy() for n, v in walk.known.items() if n in needed}
    return Steps(walk.inputs, found, constants, kept[::-1], walk.values)


class _Walk:
    """Goes through a graph in order, and computes what can be."""

    def __init__(self, program: Any, inputs: list[str]) -> None:
        self.known: dict[str, Tensor] = {}
        self.steps: list[Step] = []
        self.values: dict[str, tuple[str, list[Any]]] = {}
        self.inputs: dict[str, str] = {}
        self._same: dict[str, str] = {}  # values that are others, by their names
        signature = program.graph_signature
        stored = {**program.state_dict, **program.constants}
        homes = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        names = iter(inputs)
        for node in program.graph.nodes:
            if node.op == "placeholder":
                if node.name in homes:
                    home = homes[node.name]
                    self._same[node.name] = home.removeprefix("policy.")
                    self.known[self._same[node.name]] = stored[home].detach()
                else:
                    self.inputs[next(names)] = node.name
                    self._note(node)
            elif node.op == "call_function" and not str(node.target).startswith("aten._assert"):
                self._call(node)

    def _note(self, node: fx.Node) -> None:
        value: Any = node.meta["val"]
        if isinstance(value, Tensor):
            kind = str(value.dtype).removeprefix("torch.")
            self.values[node.name] = kind, [_length(n) for n in value.shape]
        else:
            self.values[node.name] = "", []

    def _call(self, node: fx.Node) -> None:
        if isinstance(node.meta.get("val"), torch.SymInt):
            return  # a length, which is written where it is used
        op, args = _operation(node)
        kind = [arg for arg in args if isinstance(arg, str) and arg != "none"]  # as GELU's "tanh"
        op = ".".join([op, *kind])
        plain = [self.plain(arg) for arg in args if not isinstance(arg, str)]
        if not _names(plain) - self.known.keys():
            given = fx.map_arg((node.args, node.kwargs), lambda n: self.known[self.plain(n)])
            value = node.target(*given[0], **given[1])  # type: ignore[operator]
            if isinstance(value, Tensor):
                self.known[node.name] = value.detach().contiguous()
                return
        self._note(node)
        about = self.values[node.name]
        given = plain[0][0] if op == "cat" and len(plain[0]) == 1 else plain[0]
        if (
            op in ("cast", "view", "expand", "slice", "cat")
            and self.values.get(str(given)) == about
        ):
            self._same[node.name] = given
            return
        self.steps.append(Step(op, node.name, plain, *about))

    def plain(self, arg: Any) -> Any:
        """An argument as JSON has it."""
        if isinstance(arg, fx.Node):
            value = arg.meta["val"]
            name = self._same.get(arg.name, arg.name)
            if isinstance(value, torch.SymInt):
                # Where it is not the batch's length itself, it is one that follows from the rest.
                return BATCH if _length(value) == BATCH else -1
            return name
        if isinstance(arg, (list, tuple)):
            return [self.plain(part) for part in arg]
        if arg is None or isinstance(arg, (bool, int, float)):
            return arg
        raise ModelError(f"The policy computes with {arg!r}, which only torch and onnx can take.")


def _operation(node: fx.Node) -> tuple[str, list[Any]]:
    """An operation's name, and its arguments in order, with those that it has by default."""
    if node.target is operator.getitem:
        return "getitem", list(node.args)
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload):
        raise ModelError(f"The policy computes {target}, which only torch and onnx can take.")
    base, variant = target._schema.name.removeprefix("aten::"), target._schema.overload_name
    name = base if (variant or "default") in _OVERLOADS else f"{base}.{variant}"
    if base in _SAME:
        return "cast", list(node.args[:1])
    args = []
    for i, about in enumerate(target._schema.arguments):
        if about.name not in _NOT_ARGUMENTS:
            given = node.args[i] if i < len(node.args) else node.kwargs.get(about.name)
            missing = i >= len(node.args) and about.name not in node.kwargs
            args.append(about.default_value if missing else given)
    return name, args


def _length(size: Any) -> Any:
    """A length of a shape: a number, `BATCH`, or a multiple of it such as `2*N`."""
    if not isinstance(size, torch.SymInt):
        return size
    expression = size.node.expr
    (symbol,) = expression.free_symbols
    return str(expression).replace(str(symbol), BATCH)


def _names(args: Any) -> set[str]:
    """The names in arguments: of values, and of the batch's length."""
    if isinstance(args, list):
        return {name for arg in args for name in _names(arg)}
    return {args} if isinstance(args, str) else set()
