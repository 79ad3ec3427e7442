"""Steps as one C header: no library but the C standard one, and no memory but the stack."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from poise.errors import ModelError
from poise.exporting.steps import BATCH, Step, Steps

LARGEST = 2_000_000
"""So many weights go into a header at most: compilers take minutes for more."""

TYPES = {
    "float32": "float", "float64": "double", "bool": "uint8_t", "uint8": "uint8_t",
    "int8": "int8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t",
}  # fmt: skip

# Expressions of elements; {f} becomes the suffix of functions of floats.
_MAPS = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}",
    "pow": "pow{f}({0}, {1})",
    "maximum": "{0} > {1} ? {0} : {1}", "minimum": "{0} < {1} ? {0} : {1}",
    "tanh": "tanh{f}({0})", "sigmoid": "1 / (1 + exp{f}(-{0}))", "relu": "{0} > 0 ? {0} : 0",
    "elu": "{0} > 0 ? {2} * {0} : {2} * {1} * expm1{f}({3} * {0})",
    "leaky_relu": "{0} > 0 ? {0} : {1} * {0}",
    "gelu": "0.5f * {0} * (1 + erf{f}({0} * 0.70710678f))",
    "erf": "erf{f}({0})", "exp": "exp{f}({0})", "expm1": "expm1{f}({0})", "log": "log{f}({0})",
    "log1p": "log1p{f}({0})", "sqrt": "sqrt{f}({0})", "rsqrt": "1 / sqrt{f}({0})",
    "reciprocal": "1 / {0}", "sin": "sin{f}({0})", "cos": "cos{f}({0})", "abs": "fabs{f}({0})",
    "neg": "-{0}", "sign": "({0} > 0) - ({0} < 0)", "floor": "floor{f}({0})",
    "round": "rint{f}({0})", "where": "{0} ? {1} : {2}", "cast": "{0}",
    "eq": "{0} == {1}", "ne": "{0} != {1}", "gt": "{0} > {1}", "ge": "{0} >= {1}",
    "lt": "{0} < {1}", "le": "{0} <= {1}", "logical_not": "!{0}", "bitwise_not": "!{0}",
    "logical_and": "{0} && {1}", "bitwise_and": "{0} && {1}",
    "logical_or": "{0} || {1}", "bitwise_or": "{0} || {1}",
}  # fmt: skip

# Reductions along one axis: where they begin, and what an element x does.
_REDUCTIONS = {
    "amax": ("{x}", "{y} = {x} > {y} ? {x} : {y};"),
    "amin": ("{x}", "{y} = {x} < {y} ? {x} : {y};"),
    "sum": ("0", "{y} += {x};"),
    "mean": ("0", "{y} += {x} / {n};"),
    "any": ("0", "{y} |= {x} != 0;"),
}


def header(steps: Steps, about: dict[str, Any]) -> str:
    """The text of a header that computes the steps.

    Args:
        steps: of one policy.
        about: what is said of it.

    Raises:
        ModelError: an operation is not for C, as those on pictures, or there are too many weights.
    """
    if sum(value.size for value in steps.constants.values()) > LARGEST:
        raise ModelError(
            f"The policy has more than {LARGEST:,} weights, too many for a C header: "
            "export it to onnx, torch or numpy."
        )
    return _Writer(steps, about).text()


def shape_of(shape: Sequence[Any]) -> tuple[int, ...]:
    """The shape of one observation's value."""
    parts = (str(size).split("*") for size in shape)
    return tuple(math.prod(int(part) for part in each if part != BATCH) for each in parts)


def arguments(about: dict[str, Any]) -> list[tuple[str, str, int, bool]]:
    """The parameters of the function: name, C type, count, and whether it is an output."""
    found: list[tuple[str, str, int, bool]] = []
    for kind in ("inputs", "outputs"):
        for each in about[kind]:
            name = re.sub(r"\W", "_", each["name"], flags=re.ASCII)
            while name in [one[0] for one in found]:
                name += "_"
            if each["dtype"] not in TYPES:
                raise ModelError(f"{each['name']!r} is of {each['dtype']}, which is not for C.")
            count = math.prod(shape_of(each["shape"]))
            found.append((name, TYPES[each["dtype"]], count, kind == "outputs"))
    return found


class _Writer:
    """Writes a header."""

    def __init__(self, steps: Steps, about: dict[str, Any]) -> None:
        self.steps, self.about = steps, about
        self.lines: list[str] = []
        self.names: dict[str, str] = {}
        self.shapes = {name: value.shape for name, value in steps.constants.items()}
        self.types = {name: str(value.dtype) for name, value in steps.constants.items()}
        for name, (kind, shape) in steps.values.items():
            self.types[name], self.shapes[name] = kind, shape_of(shape)
        self.parts: dict[str, tuple[str, list[int], int]] = {}  # of a split: what, sizes, axis

    def text(self) -> str:
        parameters = arguments(self.about)
        named = [each["name"] for kind in ("inputs", "outputs") for each in self.about[kind]]
        taken = dict(zip(named, parameters, strict=True))
        for name, value in self.steps.inputs.items():
            self.names[value] = taken[name][0]
        for i, name in enumerate(self.steps.constants):
            self.names[name] = f"c{i}_" + re.sub(r"\W", "_", name, flags=re.ASCII)
        for step in self.steps.steps:
            self._step(step)
        for name, value in self.steps.outputs.items():
            parameter, kind, count, _ = taken[name]
            size = f"{count} * sizeof({kind})"
            copy = f"memcpy({parameter}, {self.names[value]}, {size});"
            self.lines.append(f"if ({parameter}) {copy}")
        signature = ",\n    ".join(
            f"{'' if out else 'const '}{kind} *{name} /* [{count}] */"
            for name, kind, count, out in parameters
        )
        sizes = [f"#define POLICY_{name.upper()} {count}" for name, _, count, _ in parameters]
        constants = [self._constant(n, v) for n, v in self.steps.constants.items()]
        starts = {k: v for k, v in self.about["start"].items() if v != 0}
        said = {k: v for k, v in self.about.items() if isinstance(v, (str, int))}
        about = json.dumps(said | {"start": starts or "zeros"}).replace("*/", "* /")
        return "\n".join(
            [
                f"/* A policy: {about}",
                "",
                "policy_act chooses the most likely action for one observation. Any output may be",
                "NULL. A memory begins as `start` says; state_out may be the array of state_in.",
                "*/",
                "#ifndef POLICY_H",
                "#define POLICY_H",
                "#include <math.h>",
                "#include <stdint.h>",
                "#include <string.h>",
                "",
                *sizes,
                "",
                *constants,
                "",
                f"static void policy_act(\n    {signature})",
                "{",
                *(f"    {line}" for line in self.lines),
                "}",
                "#endif",
                "",
            ]
        )

    def _constant(self, name: str, value: np.ndarray) -> str:
        kind = str(value.dtype)
        numbers = ", ".join(_number(v, kind) for v in value.ravel().tolist())
        rows = textwrap.fill(numbers or "0", 100, initial_indent="    ", subsequent_indent="    ")
        return f"static const {self._c(kind)} {self.names[name]}[] = {{\n{rows}\n}};"

    def _c(self, kind: str) -> str:
        if kind not in TYPES:
            raise ModelError(f"The policy computes in {kind}, which is not for C.")
        return TYPES[kind]

    def _step(self, step: Step) -> None:
        """Writes one step: as another name, as an expression of elements, or as loops."""
        op, args = step.op, step.args
        if op in ("view", "unsqueeze", "squeeze", "squeeze.dims"):
            self.names[step.to] = self.names[args[0]]
        elif op == "split_with_sizes":
            self.parts[step.to] = args[0], args[1], args[2] if len(args) > 2 else 0
        elif op in _MAPS:
            if op in ("add", "sub") and args[2] != 1:
                raise self._unknown(f"{op} with alpha")
            suffix = "f" if step.dtype == "float32" else ""
            given = [self._at(arg, step) for arg in args]
            self._fill(step, f"({_MAPS[op].format(*given, f=suffix)})")
        elif op in _REDUCTIONS:
            self._reduce(step)
        else:
            writer: Callable[[Step], None] | None = getattr(self, f"_{op.lstrip('_')}", None)
            if writer is None:
                raise self._unknown(op)
            writer(step)

    def _unknown(self, op: str) -> ModelError:
        if op == "convolution":
            return ModelError(
                "A C header is for observations of vectors, and this policy sees pictures: "
                "export it to onnx, torch or numpy."
            )
        return ModelError(
            f"The policy computes {op!r}, which --to c does not know: export it to onnx or torch."
        )

    def _new(self, step: Step) -> str:
        """Declares the result of a step."""
        self.names[step.to] = name = f"v_{step.to}"
        count = math.prod(shape_of(step.shape))
        self.lines.append(f"{self._c(step.dtype)} {name}[{max(1, count)}];")
        return name

    def _fill(self, step: Step, expression: str, start: int = 0) -> None:
        """Sets all elements `i` of a result."""
        name, count = self._new(step), math.prod(shape_of(step.shape))
        kind = self._c(step.dtype)
        self._loop("i", count, f"{name}[i] = ({kind}){expression};")

    def _loop(self, index: str, count: int, body: str) -> None:
        self.lines.append(f"for (int {index} = 0; {index} < {count}; {index}++) {body}")

    def _at(self, arg: Any, step: Step) -> str:
        """Element `i` of a step's result in an argument that is broadcast to it, or a number."""
        if not isinstance(arg, str):
            return _number(arg, step.dtype)
        shape, own = shape_of(step.shape), self.shapes[arg]
        strides = [0] * (len(shape) - len(own)) + [
            0 if size == 1 else stride for size, stride in zip(own, _strides(own), strict=True)
        ]
        return f"{self.names[arg]}[{_index(shape, strides)}]"

    def _strided(self, step: Step, strides: Sequence[int], offset: int = 0) -> None:
        """A result whose elements lie in the first argument at these strides."""
        index = _index(shape_of(step.shape), strides)
        source = self.names[step.args[0]]
        self._fill(step, f"{source}[{index}{f' + {offset}' if offset else ''}]")

    def _around(self, name: str, dim: int) -> tuple[int, int, int]:
        """How many elements lie outside an axis, along it, and inside."""
        shape = self.shapes[name]
        dim %= max(1, len(shape))
        return math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :])

    def _expand(self, step: Step) -> None:
        self._fill(step, self._at(step.args[0], step))

    def _permute(self, step: Step) -> None:
        strides = _strides(self.shapes[step.args[0]])
        self._strided(step, [strides[dim] for dim in step.args[1]])

    def _slice(self, step: Step) -> None:
        name, *given = step.args
        default: list[Any] = [0, None, None, 1]
        dim, start, _, by = given + default[len(given) :]
        strides = _strides(self.shapes[name])
        dim %= len(strides)
        size = self.shapes[name][dim]
        first = max(0, start + size if start < 0 else start) if start else 0
        offset = min(first, size) * strides[dim]
        strides[dim] *= by
        self._strided(step, strides, offset)

    def _select(self, step: Step) -> None:
        name, dim, at = step.args
        strides, shape = _strides(self.shapes[name]), self.shapes[name]
        dim %= len(shape)
        stride = strides.pop(dim)
        self._strided(step, strides, (at % shape[dim]) * stride)

    def _getitem(self, step: Step) -> None:
        split, at = step.args
        if split not in self.parts:
            raise self._unknown("operations with several results")
        name, sizes, dim = self.parts[split]
        strides = _strides(self.shapes[name])
        step.args[0] = name
        self._strided(step, strides, sum(sizes[:at]) * strides[dim % len(strides)])

    def _cat(self, step: Step) -> None:
        parts, dim = step.args[0], step.args[1] if len(step.args) > 1 else 0
        result, start = self._new(step), 0
        total = shape_of(step.shape)[dim]
        for part in parts:
            outer, size, inner = self._around(part, dim)
            row = size * inner
            place = f"i / {row} * {total * inner} + i % {row} + {start * inner}" if row else "0"
            self._loop("i", outer * row, f"{result}[{place}] = {self.names[part]}[i];")
            start += size

    def _linear(self, step: Step) -> None:
        x, weight, *rest = step.args
        bias = rest[0] if rest else None
        outputs, inputs = self.shapes[weight]
        rows, y = math.prod(self.shapes[x][:-1]), self._new(step)
        begin = f"{self.names[bias]}[o]" if bias else "0"
        self._loop("r", rows, "")
        self._loop("o", outputs, "{")
        self.lines += [
            f"    {self._c(step.dtype)} sum = {begin};",
            f"    for (int j = 0; j < {inputs}; j++) "
            f"sum += {self.names[weight]}[o * {inputs} + j] * {self.names[x]}[r * {inputs} + j];",
            f"    {y}[r * {outputs} + o] = sum;",
            "}",
        ]

    def _rows(self, step: Step, name: str, dim: Any, body: list[str]) -> None:
        """Runs lines for each row `x` of an argument along an axis, and its result's `y`."""
        dim = dim[0] if isinstance(dim, list) and len(dim) == 1 else dim
        if not isinstance(dim, int):
            raise self._unknown(f"{step.op} of several axes")
        outer, size, inner = self._around(name, dim)
        y = self._new(step)
        self._loop("r", outer * inner, "{")
        base = f"r / {inner} * {size * inner} + r % {inner}" if inner > 1 else f"r * {size}"
        self.lines += [
            f"    const {self._c(self.types[name])} *x = {self.names[name]} + {base};",
            *(f"    {line.format(y=y, n=size, s=inner, base=base)}" for line in body),
            "}",
        ]

    def _reduce(self, step: Step) -> None:
        name, dim = step.args[0], step.args[1] if len(step.args) > 1 else None
        begin, element = _REDUCTIONS[step.op]
        body = element.format(x="x[j * {s}]", y="{y}[r]", n="{n}")
        start = begin.format(x="x[0]")
        lines = [f"{{y}}[r] = {start};", f"for (int j = 0; j < {{n}}; j++) {body}"]
        self._rows(step, name, dim, lines)

    def _argmax(self, step: Step) -> None:
        name, dim = step.args[0], step.args[1]
        lines = [
            "{y}[r] = 0;",
            "for (int j = 1; j < {n}; j++) if (x[j * {s}] > x[{y}[r] * {s}]) {y}[r] = j;",
        ]
        self._rows(step, name, dim, lines)

    def _softmax(self, step: Step) -> None:
        kind, f = self._c(step.dtype), "f" if step.dtype == "float32" else ""
        lines = [
            f"{kind} most = x[0], sum = 0, *y = {{y}} + {{base}};",
            "for (int j = 1; j < {n}; j++) most = x[j * {s}] > most ? x[j * {s}] : most;",
            f"for (int j = 0; j < {{n}}; j++) sum += y[j * {{s}}] = exp{f}(x[j * {{s}}] - most);",
            "for (int j = 0; j < {n}; j++) y[j * {s}] /= sum;",
        ]
        self._rows(step, step.args[0], step.args[1], lines)

    def _embedding(self, step: Step) -> None:
        table, index = step.args[:2]
        width = self.shapes[table][1]
        row = f"{self.names[index]}[i / {width}]"
        self._fill(step, f"{self.names[table]}[{row} * {width} + i % {width}]")

    def _index_select(self, step: Step) -> None:
        name, dim, index = step.args
        _, size, inner = self._around(name, dim)
        row = self.shapes[index][0] * inner
        place = f"i / {row} * {size * inner} + {self.names[index]}[i % {row} / {inner}] * {inner}"
        self._fill(step, f"{self.names[name]}[{place} + i % {inner}]")

    def _scatter(self, step: Step) -> None:
        name, dim, index, value = step.args
        outer, size, inner = self._around(name, dim)
        if inner != 1 or isinstance(value, str):
            raise self._unknown("scatter")
        self._fill(step, f"{self.names[name]}[i]")
        count = math.prod(self.shapes[index])
        place = f"i / {count // outer} * {size} + {self.names[index]}[i]"
        number = _number(value, step.dtype)
        self._loop("i", count, f"{self.names[step.to]}[{place}] = {number};")

    def _constant_pad_nd(self, step: Step) -> None:
        name, (left, *others), value = step.args
        size, wide = self.shapes[name][-1], shape_of(step.shape)[-1]
        if any(others[1:]):
            raise self._unknown("padding of several axes")
        at = f"i % {wide} - {left}"
        inside = f"{self.names[name]}[i / {wide} * {size} + {at}]"
        self._fill(step, f"({at} >= 0 && {at} < {size} ? {inside} : {_number(value, step.dtype)})")

    def _full(self, step: Step) -> None:
        self._fill(step, _number(step.args[1], step.dtype))

    _full_like = _full

    def _clamp(self, step: Step) -> None:
        x, *ends = [*step.args, None][:3]
        low, high = (None if end is None else self._at(end, step) for end in ends)
        value = self._at(x, step)
        if low is not None:
            value = f"({value} < {low} ? {low} : {value})"
        self._fill(step, value if high is None else f"({value} > {high} ? {high} : {value})")


def _strides(shape: Sequence[int]) -> list[int]:
    """How far neighbours along each axis lie apart in an array that is stored row by row."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def _index(shape: Sequence[int], strides: Sequence[int]) -> str:
    """Where element `i` of an array of this shape lies in memory that it strides through."""
    own = _strides(shape)
    if all(size == 1 or a == b for size, a, b in zip(shape, own, strides, strict=True)):
        return "i"
    terms = []
    for size, inner, stride in zip(shape, own, strides, strict=True):
        if size > 1 and stride:
            term = f"i / {inner}" if inner > 1 else "i"
            term += f" % {size}"
            terms.append(f"{term} * {stride}" if stride > 1 else term)
    return " + ".join(terms) or "0"


def _number(value: Any, kind: str) -> str:
    """A number as C has it."""
    if kind == "int64" and value == -(2**63):
        return "INT64_MIN"
    if not kind.startswith("float"):
        return f"{int(value)}LL" if kind == "int64" else str(int(value))
    if not math.isfinite(value):
        return "NAN" if value != value else "-INFINITY" if value < 0 else "INFINITY"
    digits = np.format_float_scientific(np.dtype(kind).type(value), trim="0")
    return digits + ("f" if kind == "float32" else "")


def checker(about: dict[str, Any]) -> str:
    """A program that runs the header on rows of inputs, and writes rows of outputs."""
    parameters = arguments(about)
    declared = [f"static {kind} {name}[{max(1, count)}];" for name, kind, count, _ in parameters]
    reading = [
        f"if (fread({name}, {count} * sizeof({kind}), 1, stdin) != 1) return 0;"
        for name, kind, count, out in parameters
        if not out and count
    ]
    writing = [
        f"fwrite({name}, {count} * sizeof({kind}), 1, stdout);"
        for name, kind, count, out in parameters
        if out and count
    ]
    call = f"policy_act({', '.join(name for name, *_ in parameters)});"
    lines = ["for (;;) {", *reading, call, *writing, "}"]
    includes = ['#include "policy.h"', "#include <stdio.h>"]
    return "\n".join([*includes, *declared, "int main(void) {", *lines, "}", ""])
