"""What a cluster is to be: one file, `cluster.toml`, for a cloud's machines, your own, or
Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from poise.config.reading import read_file
from poise.config.resolve import field_types
from poise.config.types import NonNegativeInt, Positive, PositiveInt, Seconds, coerce
from poise.errors import ConfigError, nearest
from poise.files import folder_name

Part = TypeVar("Part")
NEEDED = {"azure": ("region",), "aws": ("region",), "gcp": ("region",), "kubernetes": ("image",)}
"""What a provider cannot do without."""


VOLUME = "volume_claim"
"""In `options`, with Kubernetes: the volume on which a RayJob keeps its runs."""


@dataclass
class Group:
    """Machines of one kind."""

    machine: str | None = None
    """The provider's name of the kind; with `local`, the address of the one machine."""
    cpus: PositiveInt = 2
    """CPUs that each offers."""
    gpus: NonNegativeInt = 0
    """GPUs that each offers."""
    min: NonNegativeInt = 0
    """Machines that there always are."""
    max: PositiveInt = 1
    """Machines that there are at most."""
    spot: bool = False
    """Whether the provider may take a machine back, which costs less."""
    labels: dict[str, str] = field(default_factory=dict)
    """With `kubernetes`: labels of the nodes that it runs on, whose taints of the same name it
    tolerates."""


@dataclass
class ClusterSpec:
    """A cluster, as `cluster.toml` has it."""

    name: str = "poise"
    """What it is called."""
    provider: Literal["local", "azure", "aws", "gcp", "kubernetes"] = "local"
    """Whose machines they are; `local` are your own, reached by ssh."""
    region: str | None = None
    """The provider's region."""
    user: str = "ubuntu"
    """Who logs in by ssh."""
    address: str = "http://127.0.0.1:8265"
    """Where its jobs are reached from here: a tunnel's end."""
    image: str | None = None
    """The container image; if not said (null), Ray's own of the version that is installed here."""
    packages: list[str] = field(default_factory=list)
    """What pip installs on every machine: Poise itself, if the image lacks it."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that every job has."""
    shared_memory_gib: Positive | None = None
    """Shared memory of each machine; if not said (null), the provider's."""
    start_timeout_s: Seconds | None = None
    """Seconds for machines to come: `cluster_timeout_s` of every job; null leaves that alone."""
    max_run_time_s: Seconds | None = None
    """Seconds after which a job ends, with a checkpoint; null is no limit."""
    idle_minutes: PositiveInt = 5
    """Minutes after which a machine without work is given back."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the provider wants beside, in its own words: a subscription, a project, a zone; with
    `kubernetes`, `volume_claim`, the volume on which a RayJob keeps its runs."""
    head: Group = field(default_factory=Group)
    """The machine that learns."""
    workers: list[Group] = field(default_factory=list)
    """The groups of machines that sample."""


def read_spec(path: str | Path) -> ClusterSpec:
    """The cluster that a file describes.

    Raises:
        ConfigError: there is no such file, it is no TOML, or it says what is not allowed.
    """
    data = read_file(path)
    groups = data.pop("workers", [])
    if not isinstance(groups, list):
        raise ConfigError(f"{path}: workers must be groups: write [[workers]] above each.")
    spec = _read(ClusterSpec, {k: v for k, v in data.items() if k != "head"}, f"{path}: ")
    spec.head = _read(Group, data.get("head", {}), f"{path}: head.")
    spec.workers = [_read(Group, each, f"{path}: workers[{i}].") for i, each in enumerate(groups)]
    _check(spec, str(path))
    return spec


def _read(kind: type[Part], data: Any, where: str) -> Part:
    """A part of the file, each of whose values is checked against its field's type."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where.rstrip('. :')} must be a table.")
    types = {key: hint for key, hint in field_types(kind).items() if "." not in key}
    for key in data:
        if key not in types:
            raise ConfigError(f"{where}{key} is unknown.{nearest(key, types)}")
    return kind(**{key: coerce(types[key], value, f"{where}{key}") for key, value in data.items()})


def _check(spec: ClusterSpec, path: str) -> None:
    """What the values may not be together."""
    folder_name(f"{path}: name", spec.name)
    for key in NEEDED.get(spec.provider, ()):
        if getattr(spec, key) is None:
            raise ConfigError(f"{path}: provider={spec.provider!r} needs {key}.")
    others = spec.options.keys() - {VOLUME}
    if spec.provider == "kubernetes" and others:
        raise ConfigError(
            f"{path}: options.{min(others)} is unknown with provider='kubernetes'."
            f"{nearest(min(others), [VOLUME])}"
        )
    names = [("head", spec.head), *((f"workers[{i}]", g) for i, g in enumerate(spec.workers))]
    for name, group in names:
        if group.min > group.max:
            raise ConfigError(f"{path}: {name}.min={group.min} is above its max={group.max}.")
        if spec.provider != "kubernetes" and group.machine is None:
            raise ConfigError(f"{path}: {name} needs machine with provider={spec.provider!r}.")
        if spec.provider == "kubernetes" and group.spot and not group.labels:
            raise ConfigError(
                f"{path}: {name}.spot=true needs labels with provider='kubernetes': those of the"
                ' spot nodes, such as labels = {"kubernetes.azure.com/scalesetpriority" = "spot"}.'
            )
        if spec.provider == "local" and (group.max > 1 or group.spot):
            raise ConfigError(
                f"{path}: {name} is one machine of yours with provider='local': write a group for"
                " each, without max and spot."
            )
