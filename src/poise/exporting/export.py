"""Writes a trained policy as a file that runs without Poise, once it is shown to be equal.

poise.export(algo, "numpy", "robot")          # or a run's folder or name; onnx, torch, c
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from poise.config.base import env_name
from poise.config.types import PositiveInt, a_path, coerce
from poise.errors import ConfigError, ModelError, PoiseError, nearest, writing
from poise.exporting.compare import Comparison, drawn, played
from poise.exporting.module import Exported
from poise.exporting.targets import TARGETS, Program, Target, quiet
from poise.install import version_of_poise
from poise.models.encoders import ImageEncoder
from poise.models.policy import Policy

FORMAT = 1
OBSERVATIONS = 10_000
"""So many observations from the space are compared before a policy is written,"""
PLAYED = 1_000
"""and so many of episodes, where the environment can be made."""


@dataclass
class Export:
    """A policy that was exported.

    Attributes:
        path: the file or folder.
        target: what it was exported to.
        observations: how many it was compared on with Poise.
        largest: the largest difference of each output, as a share of its largest number where that
            is more than 1.
        ties: for how many of the observations it chose another action that is as good.
        notes: what is to be known of it.
    """

    path: Path
    target: str
    observations: int
    largest: dict[str, float]
    ties: int
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        numbers = {k: v for k, v in self.largest.items() if v > 0}
        most = max(numbers, key=lambda name: numbers[name], default=None)
        off = f"{most} by {numbers[most]:.1e}" if most else "nothing at all"
        ties = (
            f" In {self.ties}, two actions are equally good, and it takes the other."
            if self.ties
            else ""
        )
        return (
            f"{self.path}: equal to Poise on {self.observations:,} observations; "
            f"what differs most is {off}.{ties}"
        )


def export(
    trainer: Any,
    to: str,
    path: str | Path,
    *,
    policy: str | None = None,
    observations: int = OBSERVATIONS,
) -> Export:
    """Writes a trainer's policy for use without Poise.

    Args:
        trainer: whose policy it is.
        to: a key of `TARGETS`.
        path: the file, or the folder for `numpy`, which is replaced if it is there.
        policy: the policy's name, where several agents have several.
        observations: how many from the space are compared.

    Raises:
        ConfigError: there is no such target or policy, something else is at the path, or the
            number of observations is none.
        ModelError: its model computes something that cannot be exported, or the exported one is not
            equal. Nothing is written then.
        RunError: it cannot be written.
    """
    target, path = target_named(to), a_path(path)
    observations = coerce(PositiveInt, observations, "observations")
    _check_place(path, to)
    name = _chosen(trainer.algorithm.policies, policy)
    own: Policy = copy.deepcopy(trainer.algorithm.policies[name]).cpu()
    notes = _in_float32(own)
    program = trace(own, described(trainer, name))
    given = [drawn(own, observations)]
    try:
        given.append(played(trainer, name, PLAYED))
    except PoiseError as error:
        notes.append(f"It is not compared on episodes of the environment: {error}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".export-", dir=path.parent))
    try:
        # Under the ending that readers expect, whatever the file is called in the end.
        made = scratch / path.with_suffix(Path(target.name).suffix).name
        with writing(path), quiet():
            target.write(program, made)
        comparison = Comparison(own, target.run(program, made))
        for leaves in given:
            comparison.add(leaves)
        with writing(path):
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(made, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Export(path, to, comparison.count, comparison.largest, comparison.ties, notes)


def target_named(to: str) -> Target:
    """The target of this name.

    Raises:
        ConfigError: there is none, or what it needs is not installed.
    """
    if not isinstance(to, str) or to not in TARGETS:
        raise ConfigError(
            f"to={to!r} is not allowed: it must be {', '.join(TARGETS)}.{nearest(str(to), TARGETS)}"
        )
    TARGETS[to].require()
    return TARGETS[to]


def trace(policy: Policy, about: dict[str, Any]) -> Program:
    """Follows a policy's computation.

    Args:
        policy: to follow.
        about: what is to be said of it; what it takes and returns is added.

    Raises:
        ModelError: it depends on values otherwise than by arithmetic, or on the number of rows.
    """
    module = Exported(policy)
    batch = torch.export.Dim("batch", min=1)
    examples = tuple(module.inputs.values())
    try:
        with quiet(), torch.no_grad():
            graph = torch.export.export(
                module,
                examples,
                dynamic_shapes=(tuple({0: batch} for _ in examples),),
                strict=False,
            )
    except Exception as error:
        if policy.custom is None and policy.preprocessor is None:
            raise
        what = f"custom model {policy.custom!r}" if policy.custom else "custom preprocessor"
        reason = " ".join(str(error).split("\n\n")[0].split())
        raise ModelError(
            f"The {what} cannot be exported: torch.export cannot follow it. It must not depend on "
            f"values but by tensor operations, nor use len() of a batch (use x.shape[0]). {reason}"
        ) from error
    found = module(*examples)
    about = about | {
        "inputs": [_tensor(name, value) for name, value in module.inputs.items()],
        "outputs": [_tensor(name, value) for name, value in found.items()],
        "start": {f"state_in_{i}": _start(p) for i, p in enumerate(policy.initial_state(1))},
    }
    return Program(graph, about)


def described(trainer: Any, name: str) -> dict[str, Any]:
    policy = trainer.algorithm.policies[name]
    return {
        "format": FORMAT,
        "poise": version_of_poise(),
        "torch": torch.__version__,
        "algorithm": trainer.name,
        "env": env_name(trainer.config.env),
        "policy": name,
        "iteration": trainer.iteration,
        "timesteps": trainer.algorithm.timesteps,
        "observation_space": policy.obs_layout.to_json(),
        "action_space": policy.action_layout.to_json(),
    }


def _tensor(name: str, value: torch.Tensor) -> dict[str, Any]:
    kind = str(value.dtype).removeprefix("torch.")
    return {"name": name, "dtype": kind, "shape": ["N", *value.shape[1:]]}


def _start(part: torch.Tensor) -> Any:
    """A memory at the start: one number if it is uniform."""
    first = part.flatten()[0].item() if part.numel() else 0.0
    return first if bool((part == first).all()) else part[0].tolist()


def _chosen(policies: dict[str, Any], name: str | None) -> str:
    """The policy that is meant."""
    if name is None and len(policies) == 1:
        return next(iter(policies))
    if name in policies:
        return str(name)
    raise ConfigError(
        f"policy={name!r} is not allowed: it must be {', '.join(policies)}."
        f"{nearest(str(name), policies)}"
    )


def _in_float32(policy: Policy) -> list[str]:
    """Has a policy compute its convolutions in float32, and says so where it did not."""
    encoders = [m for m in policy.modules() if isinstance(m, ImageEncoder) and m.reduced]
    for encoder in encoders:
        encoder.reduced = False
    said = (
        "Convolutions are computed in float32, where Poise used bfloat16 on this machine: "
        "it is compared with Poise in float32."
    )
    return [said] if encoders else []


def _check_place(path: Path, to: str) -> None:
    """Raises an error if something would be lost at a path."""
    if not path.exists():
        return
    if path.is_dir() != (to == "numpy") or (path.is_dir() and not _is_export(path)):
        raise ConfigError(f"{path} is something else than an export to {to}: give another path.")


def _is_export(path: Path) -> bool:
    return (path / "policy.json").is_file() or not any(path.iterdir())
