"""`ReinforcementLearningEstimator`: an entry script that runs on a head with workers."""

from __future__ import annotations

import inspect
import re
import secrets
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from poise.cluster import local
from poise.cluster.jobs import Jobs
from poise.cluster.pack import pack
from poise.compat.azureml.core.compute import AmlCompute
from poise.compat.azureml.core.experiment import Experiment
from poise.compat.azureml.submitted import SubmittedRun
from poise.compat.cluster import TIMEOUT, say
from poise.errors import ConfigError, PoiseWarning, RunError, nearest
from poise.files import time_stamp
from poise.stepping.advice import available_cores

JOB = "poise.compat.azureml.job"
DESCRIBED = "cluster.toml"
"""In the workspace: the cluster that is used instead of one of this machine."""


@dataclass
class Ray:
    """The framework; of which version makes no difference."""

    version: str | None = None
    framework_arguments: Sequence[str] | None = None


@dataclass
class WorkerConfiguration:
    """The nodes beside the head.

    Attributes:
        compute_target: what they are.
        node_count: how many.
        use_gpu: whether they have GPUs, which nothing here would use.
        pip_packages: what they need.
    """

    compute_target: AmlCompute
    node_count: int = 1
    use_gpu: bool = False
    pip_packages: Sequence[str] | None = None


class ReinforcementLearningEstimator:
    """What is to run, and where.

    Args:
        source_directory: the folder that is sent along.
        entry_script: the script in it.
        script_params: its options and their values, which are quoted as for a shell.
        compute_target: the head.
        use_gpu: whether the head is to have one.
        pip_packages: what it needs.
        rl_framework: `Ray()`.
        worker_configuration: the other nodes; None is the head alone.
        environment_variables: of the script.
        cluster_coordination_timeout_seconds: in which workers find machines.
        max_run_duration_seconds: after which the run ends, with a checkpoint.
        shm_size: bytes of shared memory.
        others: left out, with a warning.
    """

    def __init__(
        self,
        source_directory: str,
        *,
        entry_script: str,
        compute_target: AmlCompute,
        script_params: Mapping[str, Any] | None = None,
        use_gpu: bool = False,
        pip_packages: Sequence[str] | None = None,
        rl_framework: Ray | None = None,
        worker_configuration: WorkerConfiguration | None = None,
        environment_variables: Mapping[str, str] | None = None,
        cluster_coordination_timeout_seconds: float | None = None,
        max_run_duration_seconds: float | None = None,
        shm_size: int | None = None,
        **others: Any,
    ) -> None:
        if not isinstance(compute_target, AmlCompute):
            raise ConfigError(
                f"compute_target={compute_target!r} is not allowed: `ComputeTarget.create` makes"
                " one, and `ws.compute_targets` has those that there are."
            )
        self.source, self.script = Path(source_directory), entry_script
        self.words = script_words(script_params or {})
        self.head, self.use_gpu = compute_target, use_gpu
        self.workers = worker_configuration
        self.packages = [*(pip_packages or ())]
        if worker_configuration is not None:
            self.packages += worker_configuration.pip_packages or ()
        self.variables = dict(environment_variables or {})
        if cluster_coordination_timeout_seconds is not None:
            self.variables[TIMEOUT] = str(float(cluster_coordination_timeout_seconds))
        self.limit, self.shm_size = max_run_duration_seconds, shm_size
        known = inspect.signature(ReinforcementLearningEstimator).parameters
        for key in (key for key, value in others.items() if value):
            text = f"{key} has no equivalent here and is left out.{nearest(key, known)}"
            warnings.warn(text, PoiseWarning, stacklevel=2)

    def submit(self, experiment: Experiment) -> SubmittedRun:
        """Sends the folder to a cluster, which is started where there is none, and runs the script.

        Raises:
            RunError: there is no such folder or script.
            ClusterError: the cluster does not start, does not answer, or refuses.
        """
        if self.workers is not None:
            count, target = self.workers.node_count, self.workers.compute_target
            if not 1 <= count <= target.about.max_nodes:
                raise ConfigError(
                    f"node_count={count} is not allowed: the target {target.name!r} has 1 to"
                    f" {target.about.max_nodes} nodes (max_nodes)."
                )
        if not (self.source / self.script).is_file():
            scripts = [each.name for each in self.source.glob("*.py")]
            raise RunError(
                f"There is no entry_script {self.script!r} in source_directory"
                f" {str(self.source)!r}.{nearest(self.script, scripts)}"
            )
        package = pack(self.source)
        jobs = self._jobs(experiment.workspace.folder / DESCRIBED)
        spec = jobs.spec
        limit = {TIMEOUT: f"{spec.start_timeout_s:g}"} if spec.start_timeout_s else {}
        spec.environment = {**limit, **spec.environment, **self.variables}
        print(package)
        job = jobs.submit(
            [self.script, *self.words],
            package,
            name=f"{experiment.name}_{time_stamp()}-{secrets.token_hex(2)}",
            limit=self.limit,
            module=JOB,
        )
        print(f"The run {job.id} is submitted to {jobs.address}.")
        targets = [(self.head.name, str(self.head), 1)]
        if (workers := self.workers) is not None:
            target = workers.compute_target
            targets.append((target.name, str(target), workers.node_count))
        return SubmittedRun(experiment, jobs, job, targets)

    def _jobs(self, described: Path) -> Jobs:
        """The cluster's jobs."""
        if described.is_file():
            say(
                f"The cluster is that of {described}: its machines, packages and shared memory"
                " count, and not those that are given here."
            )
            return Jobs(str(described))
        self._say_what_is_here()
        count = 0 if self.workers is None else self.workers.node_count
        each = self.head.cpus if self.workers is None else self.workers.compute_target.cpus
        asked = (1 + count, self.head.cpus, each)
        if (found := local.running()) is None:
            say(
                f"Starting {_nodes(*asked)} = {self.head.cpus + count * each} CPUs. They share the"
                f" {available_cores()} cores of this machine, until `poise cluster stop`."
            )
            gpus = int(self.use_gpu and _has_gpu())
            found = local.start(nodes=asked[0], head_cpus=asked[1], cpus=each, gpus=gpus)
        elif (has := (found.nodes, found.head_cpus, found.cpus)) != asked:
            say(
                f"The cluster that runs here is used, {_nodes(*has)} CPUs. Asked for were"
                f" {_nodes(*asked)}: `poise cluster stop` makes room for them."
            )
        self.head.nodes = 1
        if self.workers is not None:
            self.workers.compute_target.nodes = found.nodes - 1
        return Jobs(found.jobs)

    def _say_what_is_here(self) -> None:
        """Says what a run on this machine has, where it was asked for something else."""
        if self.use_gpu and not _has_gpu():
            say("use_gpu=True: this machine has no GPU, so the processor learns.")
        if self.workers is not None and self.workers.use_gpu:
            say("use_gpu=True of the workers is left out: only the head learns.")
        if self.shm_size:
            size = f"{self.shm_size / 2**30:g} GiB"
            say(f"shm_size of {size} is left out: nodes of this machine take what they need of it.")
        for package in dict.fromkeys(self.packages):
            name = re.split(r"[^\w.-]", package, maxsplit=1)[0]
            said = f"pip_packages: {package} is not installed"
            if name == "ray":
                say(f"{said}: Poise runs the script, on Ray {version('ray')}.")
            elif not any(distributions(name=name)):
                say(f"{said}, nor is anything for a run on this machine, which needs it:"
                    f" pip install {shlex.quote(package)}")  # fmt: skip


def _nodes(nodes: int, head_cpus: int, cpus: int) -> str:
    others = f" + {nodes - 1} x {cpus}" if nodes > 1 else ""
    return f"{nodes} node{'s' * (nodes > 1)} with {head_cpus}{others}"


def script_words(params: Mapping[str, Any]) -> list[str]:
    """The words of a script's command line.

    Values are texts of a shell: outer quotes keep a text together, and are no part of it. An empty
    one is an option without a value.

    Raises:
        ConfigError: a quote is not closed.
    """
    words: list[str] = []
    for key, value in params.items():
        text = str(value)
        try:  # whoever forgot the outer quotes of JSON means them
            words += [key, *([text] if text[:1] in ("{", "[") else shlex.split(text))]
        except ValueError as error:
            raise ConfigError(f"script_params: {key}={text!r} has {str(error).lower()}.") from None
    return words


def _has_gpu() -> bool:
    from poise.learning.device import available

    return available()
