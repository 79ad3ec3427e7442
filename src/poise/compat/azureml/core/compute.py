"""`AmlCompute`: machines of one kind.

Here they are nodes of a cluster on this machine, with as many CPUs as Azure's machines have.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from poise.cluster import local
from poise.compat.cluster import say
from poise.errors import ConfigError, nearest
from poise.files import folder_name, make_folder, read_json, write_json

FILE = ".azureml/compute_targets.json"
NAME = re.compile(r"STANDARD_([A-Z]+)(\d+)[A-Z]*(?:_(?!V\d)[A-Z]+\d+)?(_V\d)?")
"""Family, number and version of a machine; what its GPU is called stands between the last two."""
OLD = {1: 1, 2: 2, 3: 4, 4: 8, 5: 16, 11: 2, 12: 4, 13: 8, 14: 16, 15: 20}
"""CPUs of the machines D1 to D15_V2, whose number is another, as it is not in later ones."""
CPUS_PER_GPU = 6
"""In the machines whose name begins with N, as a rule."""
EXAMPLES = ("STANDARD_NC6", "STANDARD_D2_V2", "STANDARD_DS3_V2", "STANDARD_F4S_V2")


@dataclass(frozen=True)
class Provisioning:
    """What is to be created, by Azure's names."""

    vm_size: str
    min_nodes: int = 0
    max_nodes: int = 1
    vm_priority: str = "dedicated"


@dataclass
class AmlCompute:
    """Machines of one kind.

    Attributes:
        name: by which the workspace remembers it.
        about: what was asked for.
        cpus, gpus: that each machine has.
        nodes: that run, of the cluster that a run was submitted to.
    """

    name: str
    about: Provisioning
    folder: Path
    nodes: int = 0
    provisioning_state: ClassVar[str] = "Succeeded"

    def __post_init__(self) -> None:
        self.cpus, self.gpus = size_of(self.about.vm_size)

    @property
    def vm_size(self) -> str:
        """Azure's name of the machine."""
        return self.about.vm_size.upper()

    def __str__(self) -> str:
        gpus = f", {self.gpus} GPU" + "s" * (self.gpus > 1) if self.gpus else ""
        return f"{self.vm_size} ({self.cpus} CPUs{gpus})"

    @staticmethod
    def provisioning_configuration(
        vm_size: str = "STANDARD_D2_V2",
        vm_priority: str = "dedicated",
        min_nodes: int = 0,
        max_nodes: int = 1,
        vnet_name: str | None = None,
        **_: Any,
    ) -> Provisioning:
        """What is to be created. Networks are not: nodes of this machine need none, and those of
        `cluster.toml` have theirs.

        Raises:
            ConfigError: a size that is not known, or numbers of nodes that cannot be.
        """
        size_of(vm_size)
        if not 0 <= min_nodes <= max_nodes or max_nodes < 1:
            raise ConfigError(
                f"min_nodes={min_nodes} and max_nodes={max_nodes} are not allowed: max_nodes must"
                " be at least 1, and min_nodes between 0 and max_nodes."
            )
        if vnet_name:
            say(f"vnet_name={vnet_name!r} is left out: nodes of this machine need no network.")
        return Provisioning(vm_size, min_nodes, max_nodes, vm_priority)

    def wait_for_completion(
        self,
        show_output: bool = False,
        min_node_count: int | None = None,
        timeout_in_minutes: float = 25,
        **_: Any,
    ) -> None:
        """There is nothing to wait for: nodes start with the first run."""
        if show_output:
            nodes = "1 node" if self.about.max_nodes == 1 else f"{self.about.max_nodes} nodes"
            print(f"{self.name}: {self}, at most {nodes}, which start with the first run.")

    def get_status(self) -> Status:
        """How many of its nodes there are now."""
        return Status(self, self.nodes if self.nodes and local.running() else 0)

    def delete(self) -> None:
        """Forgets the target."""
        kept = {name: each for name, each in targets(self.folder).items() if name != self.name}
        _write(self.folder, kept)
        say("Nodes of this machine end by `poise cluster stop`.")


@dataclass(frozen=True)
class Status:
    """What `get_status()` returns."""

    target: AmlCompute
    nodes: int

    def serialize(self) -> dict[str, Any]:
        """The status as Azure wrote it."""
        about = self.target.about
        none = ("preparing", "idle", "unusable", "leaving", "preempted")
        return {
            "currentNodeCount": self.nodes,
            "targetNodeCount": self.nodes,
            "nodeStateCounts": {
                "runningNodeCount": self.nodes,
                **{f"{state}NodeCount": 0 for state in none},
            },
            "allocationState": "Steady",
            "errors": None,
            "provisioningState": self.target.provisioning_state,
            "scaleSettings": {"minNodeCount": about.min_nodes, "maxNodeCount": about.max_nodes},
            "vmPriority": about.vm_priority,
            "vmSize": self.target.vm_size,
        }


class ComputeTarget:
    """Creates targets."""

    @staticmethod
    def create(workspace: Any, name: str, provisioning_configuration: Provisioning) -> AmlCompute:
        """A target, which the workspace remembers."""
        made = AmlCompute(folder_name("name", name), provisioning_configuration, workspace.folder)
        _write(workspace.folder, {**workspace.compute_targets, made.name: made})
        return made


def targets(folder: Path) -> dict[str, AmlCompute]:
    """The targets that a workspace remembers, by name.

    Raises:
        ConfigError: the file that has them is damaged.
    """
    file = folder / FILE
    try:
        kept = read_json(file) if file.is_file() else {}
        return {name: AmlCompute(name, Provisioning(**kept[name]), folder) for name in kept}
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file} is not what Poise wrote ({error}): remove it.") from None


def _write(folder: Path, kept: dict[str, AmlCompute]) -> None:
    make_folder((folder / FILE).parent)
    write_json(folder / FILE, {name: asdict(target.about) for name, target in kept.items()})


def size_of(vm_size: str) -> tuple[int, int]:
    """CPUs and GPUs of a machine of Azure's, by its name.

    Raises:
        ConfigError: there is no such name.
    """
    found = NAME.fullmatch(vm_size.upper())
    family, number, version = found.groups() if found else ("", "0", None)
    old = family in ("D", "DS") and version in (None, "_V2")
    cpus = OLD.get(int(number), 0) if old else int(number)
    if cpus < 1:
        raise ConfigError(
            f"vm_size={vm_size!r} is no machine of Azure's that is known here, such as"
            f" 'STANDARD_NC6' and 'STANDARD_D2_V2'.{nearest(vm_size, EXAMPLES)}"
        )
    return cpus, max(1, cpus // CPUS_PER_GPU) if family[0] == "N" else 0
