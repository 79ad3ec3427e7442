"""What a policy can be exported to: how each is written, and how it is run to be checked."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shlex
import shutil
import subprocess
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from poise.errors import ModelError, PoiseError
from poise.exporting import c, numpy_policy
from poise.exporting.steps import steps_of
from poise.install import install

Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
"""Runs an exported policy: from inputs to outputs by name, `[N, ...]`."""

OPSET = 18
"""The version of ONNX's operators."""


@dataclass
class Program:
    """A policy as `torch.export` made it.

    Attributes:
        graph: the `torch.export.ExportedProgram`.
        about: where it comes from, its inputs and outputs, and its spaces, as plain JSON values.
    """

    graph: Any
    about: dict[str, Any]

    @property
    def inputs(self) -> list[str]:
        """The names of what it takes, in order."""
        return [each["name"] for each in self.about["inputs"]]

    @property
    def outputs(self) -> list[str]:
        """The names of what it returns, in order."""
        return [each["name"] for each in self.about["outputs"]]

    def positional(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Arrays in the order and in the types of the inputs."""
        return [np.ascontiguousarray(inputs[i["name"]], i["dtype"]) for i in self.about["inputs"]]


def write_torch(program: Program, path: Path) -> None:
    """Writes a program of PyTorch's; `about` is among its extra files."""
    torch.export.save(program.graph, path, extra_files={"policy.json": _text(program.about)})


def run_torch(program: Program, path: Path) -> Run:
    """Runs what `write_torch` wrote."""
    with quiet():
        module = torch.export.load(path).module()

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            found = module(*map(torch.from_numpy, program.positional(inputs)))
        return {name: value.numpy() for name, value in found.items()}

    return run


def write_onnx(program: Program, path: Path) -> None:
    """Writes an ONNX model with named inputs and outputs; `about` is among its metadata."""
    made: Any = torch.onnx.export(
        program.graph,
        input_names=program.inputs,
        output_names=program.outputs,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    for value in (*made.model.graph.inputs, *made.model.graph.outputs):
        value.shape[0] = "batch"
    made.model.metadata_props["policy.json"] = _text(program.about)
    made.save(path, external_data=False)


def run_onnx(program: Program, path: Path) -> Run:
    """Runs what `write_onnx` wrote."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = dict(zip(program.inputs, program.positional(inputs), strict=True))
        # What follows from nothing that the model takes, the exporter has left out.
        known = {each.name for each in session.get_inputs()}
        found = session.run(program.outputs, {k: v for k, v in given.items() if k in known})
        return dict(zip(program.outputs, found, strict=True))

    return run


def require_onnx() -> None:
    """Raises an error unless what ONNX needs is installed."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise PoiseError(f"Exporting to onnx needs {name}: {install('export')}")


def write_numpy(program: Program, path: Path) -> None:
    """Writes a folder with the steps, the weights and the one file that runs them."""
    steps = steps_of(program.graph, program.inputs, program.outputs)
    for step in steps.steps:
        if step.op not in numpy_policy.OPS:
            raise ModelError(
                f"The policy computes {step.op!r}, which --to numpy does not know: "
                "export it to onnx or torch."
            )
    about = dict(program.about)
    names = {value: name for name, value in steps.inputs.items()}
    about["steps"] = [
        {"op": s.op, "to": s.to, "args": _renamed(s.args, names), "dtype": s.dtype or None}
        for s in steps.steps
    ]
    about["outputs"] = [
        {**each, "value": _renamed(steps.outputs[each["name"]], names)} for each in about["outputs"]
    ]
    path.mkdir()
    (path / "policy.json").write_text(_text(about) + "\n", encoding="utf-8")
    save_file(steps.constants, path / "policy.safetensors")
    shutil.copyfile(numpy_policy.__file__, path / "policy.py")


def run_numpy(program: Program, path: Path) -> Run:
    """Runs what `write_numpy` wrote."""
    return numpy_policy.Policy(path).run


def write_c(program: Program, path: Path) -> None:
    """Writes one header."""
    steps = steps_of(program.graph, program.inputs, program.outputs)
    path.write_text(c.header(steps, program.about), encoding="utf-8")


def run_c(program: Program, path: Path) -> Run:
    """Compiles what `write_c` wrote, and runs it in a process of its own."""
    source, binary = path.with_name("check.c"), path.with_name("check")
    source.write_text(c.checker(program.about).replace("policy.h", path.name), encoding="utf-8")
    command = [*compiler(), "-std=c99", "-O2", "-o", str(binary), str(source), "-lm"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise RuntimeError(f"The C compiler refuses what was written:\n{made.stderr}")

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = program.positional(inputs)
        count = len(given[0])
        rows = [each.reshape(count, -1).view(np.uint8) for each in given if each.size]
        data = np.concatenate(rows, 1).tobytes()
        done = subprocess.run([binary], input=data, capture_output=True, check=True)
        kinds = [
            (each["name"], each["dtype"], tuple(each["shape"][1:]))
            for each in program.about["outputs"]
        ]
        found = np.frombuffer(done.stdout, np.dtype(kinds), count)
        return {name: found[name] for name, *_ in kinds}

    return run


def compiler() -> list[str]:
    """The command of the C compiler: that of CC, or the first that is there.

    Raises:
        PoiseError: there is none.
    """
    named = shlex.split(os.environ.get("CC", ""))
    found = named or [name for name in ("cc", "gcc", "clang") if shutil.which(name)][:1]
    if not found or not shutil.which(found[0]):
        raise PoiseError(
            "Exporting to c needs a C compiler to check what is written: install gcc or clang, "
            "or name one in CC."
        )
    return found


def _renamed(args: Any, names: dict[str, str]) -> Any:
    if isinstance(args, list):
        return [_renamed(arg, names) for arg in args]
    return names.get(args, args) if isinstance(args, str) else args


def _text(about: dict[str, Any]) -> str:
    """JSON with one step, input or output a line."""
    lines = []
    for key, value in about.items():
        parts = ",\n".join(f"    {json.dumps(part)}" for part in value) if _is_table(value) else ""
        lines.append(
            f"  {json.dumps(key)}: " + (f"[\n{parts}\n  ]" if parts else json.dumps(value))
        )
    return "{\n" + ",\n".join(lines) + "\n}"


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) for part in value)


@contextmanager
def quiet() -> Any:
    """Keeps to itself what exporters say of themselves, of which nothing is for users."""
    levels = {
        name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir")
    }
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@dataclass(frozen=True)
class Target:
    """One form of an exported policy.

    Attributes:
        name: the file or folder that it is written as, unless a path is given.
        write: writes it.
        run: makes a function that runs what was written.
        require: raises an error unless what these two need is there.
    """

    name: str
    write: Callable[[Program, Path], None]
    run: Callable[[Program, Path], Run]
    require: Callable[[], Any] = lambda: None


TARGETS = {
    "onnx": Target("policy.onnx", write_onnx, run_onnx, require_onnx),
    "torch": Target("policy.pt2", write_torch, run_torch),
    "numpy": Target("policy", write_numpy, run_numpy),
    "c": Target("policy.h", write_c, run_c, compiler),
}
"""All of them, by the name that `--to` takes."""
