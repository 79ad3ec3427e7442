"""A run that was submitted: how it is doing, what it has logged and left, and its end.

One thread looks at it, once a second, and brings what is new to this machine; whoever waits or
shows something looks at what is here.
"""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from poise.cluster.fetch import LEFT, LOG, Look, follow
from poise.cluster.jobs import ENDED, LOOK_S, Job, Jobs, Unreachable
from poise.compat.azureml.core.run import FILE, LOGS, Run
from poise.compat.cluster import say
from poise.envs.trust import Foreign, address_label, admit_address, remember
from poise.errors import RunError, nearest, shown, writing
from poise.files import make_folder, read_json, write_json, write_whole
from poise.tracking.folder import RunFolder

STATES = {
    "PENDING": "Preparing",
    "RUNNING": "Running",
    "SUCCEEDED": "Completed",
    "FAILED": "Failed",
    "STOPPED": "Canceled",
}
"""What Azure calls the states of a job."""
NODES_S = 5.0
"""Seconds between two looks at the cluster's nodes."""
KEPT = ".run.json"
"""In a run's folder: what another session needs to find it again."""

_known: dict[Path, SubmittedRun] = {}
"""Runs that this process has submitted or found, by their folders: one thread follows each."""


class SubmittedRun(Run):
    """A run on a cluster.

    Args:
        experiment: that it belongs to.
        jobs: of the cluster where it runs; a text is their address, out of a file.
        job: as it was last seen.
        targets: names and machines of the head and of the workers, and how many nodes each has.

    Attributes:
        id: its name.
        root: the folder of its files, here.
        nodes: of the cluster, as they were lately.
        watchers: functions that are called after each look.
    """

    def __init__(
        self,
        experiment: Any,
        jobs: Jobs | Foreign,
        job: Job,
        targets: list[tuple[str, str, int]],
    ) -> None:
        self.experiment, self.id, self.targets = experiment, job.id, targets
        self.root = experiment.folder / job.id
        make_folder(self.root / LOGS)
        super().__init__(self.root)
        self.nodes: list[dict[str, Any]] = []
        self.watchers: list[Callable[[], None]] = []
        log = self.root / LOGS / LOG
        runs = sorted(file.parent for file in self.root.rglob("config.json"))
        self._jobs = jobs
        self._look = Look(job, log.read_bytes() if log.is_file() else b"", runs, None)
        self._error: BaseException | None = None
        self._looked_at_nodes = -math.inf
        self._over = threading.Event()
        _known[self.root] = self
        if not isinstance(jobs, Foreign):
            remember(address_label(jobs.address))  # also for another session
            self._keep(jobs, job)
        elif job.state in ENDED:
            self._over.set()
        if not self.over:
            threading.Thread(target=self._follow, daemon=True).start()

    def __repr__(self) -> str:
        return (
            f"Run(Experiment: {self.experiment.name}, Id: {self.id}, Status: {self.get_status()})"
        )

    # --- looking

    def _cluster(self) -> Jobs:
        """The jobs of its cluster.

        Raises:
            ClusterError: it does not answer, or refuses.
            TrustError: its address came with the folder, from elsewhere.
        """
        if isinstance(self._jobs, Foreign):
            admit_address(self._jobs)
            self._jobs = Jobs(str(self._jobs))
        return self._jobs

    def _keep(self, jobs: Jobs, job: Job) -> None:
        """Notes how it is doing, for another session."""
        kept = {"jobs": jobs.address, "targets": self.targets, "job": asdict(job)}
        write_json(self.root / KEPT, kept)

    def _follow(self) -> None:
        """Looks until the run has ended, and all of it is here."""
        try:
            jobs = self._cluster()
            for look in follow(jobs, self._look.job, self.root):
                if look.job.state != self._look.job.state:
                    self._keep(jobs, look.job)
                if look.log != self._look.log:
                    write_whole(self.root / LOGS / LOG, look.log.decode(errors="replace"))
                if not look.trouble and time.monotonic() - self._looked_at_nodes > NODES_S:
                    with suppress(Unreachable):
                        self.nodes = jobs.nodes()
                    self._looked_at_nodes = time.monotonic()
                self._look = look
                self._tell()
        except BaseException as error:
            self._error = error
        finally:
            self._over.set()
            self._tell()

    def _tell(self) -> None:
        for watcher in [*self.watchers]:
            try:
                watcher()
            except Exception:  # what shows a run is no reason to lose sight of it
                self.watchers.remove(watcher)
                traceback.print_exc()

    # --- what it is

    def get_status(self) -> str:
        """`Preparing`, `Running`, `Completed`, `Failed`, `Canceled` or `NotResponding`.

        The last is where nothing was heard of the cluster for so long that nobody looks any more.
        """
        state = self._look.job.state
        return "NotResponding" if self._error else STATES.get(state, state.capitalize())

    status = property(get_status)

    @property
    def over(self) -> bool:
        """Whether it has ended, and all of it is here."""
        return self._over.is_set()

    @property
    def log_text(self) -> str:
        """What the run has printed."""
        return shown(self._look.log.decode(errors="replace"), lines=True)

    @property
    def trainings(self) -> list[Path]:
        """The run folders among its files, as far as they have come."""
        return self._look.runs

    @property
    def trouble(self) -> str | None:
        """Why nothing is heard of the cluster now; None where it answers."""
        return self._look.trouble

    @property
    def last_result(self) -> dict[str, Any]:
        """The newest result of its training; none before the first."""
        found = RunFolder(self.trainings[-1]).last_result() if self.trainings else None
        return {k: math.nan if v is None else v for k, v in (found or {}).items()}

    def get_details(self) -> dict[str, Any]:
        """Its name, status, beginning, and where it is."""
        return {
            "runId": self.id,
            "status": self.get_status(),
            "startTimeUtc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._look.job.began)),
            "target": self.targets[0][0],
            "folder": str(self.root),
        }

    def get_children(self, **_: Any) -> Iterator[ChildRun]:
        """The head's run and the workers', as Azure had them; both have all metrics."""
        for kind in ("head", "worker")[: len(self.targets)]:
            yield ChildRun(self, kind)

    def get_metrics(self, name: str | None = None, **_: Any) -> dict[str, Any]:
        """What was logged, by name: a value, or a list of those that were logged one by one.

        Args:
            name: the only one that is wanted.
        """
        found: dict[str, list[Any]] = {}
        rows = (row for file in self.root.rglob(FILE) for row in _rows(file))
        for row in sorted(rows, key=lambda row: row["time"]):
            value = math.nan if row.get("value") is None else row["value"]
            found.setdefault(row["name"], []).append(value)
        asked = {key: values for key, values in found.items() if name in (None, key)}
        return {key: values[0] if len(values) == 1 else values for key, values in asked.items()}

    def get_file_names(self) -> list[str]:
        """The files of the run that are here, by their paths in it."""
        files = [each.relative_to(self.root) for each in self.root.rglob("*") if each.is_file()]
        names = [each for each in files if not any(part[0] == "." for part in each.parts)]
        return sorted(each.as_posix() for each in names)

    def download_file(self, name: str, output_file_path: str | None = None, **_: Any) -> None:
        """Copies a file of the run.

        Args:
            name: as `get_file_names` has it.
            output_file_path: where to; None is its own name, where this process is.

        Raises:
            RunError: there is no such file, or it cannot be written.
        """
        if name not in (known := self.get_file_names()):
            raise RunError(f"The run {self.id} has no file {name!r}.{nearest(name, known)}")
        target = Path(output_file_path or Path(name).name)
        target = target / Path(name).name if target.is_dir() else target
        with writing(target):
            make_folder(target.absolute().parent)
            shutil.copyfile(self.root / name, target)

    def download_files(
        self, prefix: str | None = None, output_directory: str | None = None, **_: Any
    ) -> None:
        """Copies the files of the run, into folders as they have there.

        Args:
            prefix: how their paths begin; None is all of them.
            output_directory: where to; None is where this process is.

        Raises:
            RunError: one cannot be written.
        """
        for name in self.get_file_names():
            if name.startswith(prefix or ""):
                self.download_file(name, str(Path(output_directory or ".", name)))

    # --- its end

    def wait_for_completion(
        self, show_output: bool = False, *_: Any, raise_on_error: bool = True, **__: Any
    ) -> dict[str, Any]:
        """Waits until the run has ended. Ctrl-C leaves it running.

        Args:
            show_output: whether what it prints is printed.
            raise_on_error: whether a failure is raised.

        Returns:
            `get_details()`.

        Raises:
            RunError: it has failed; the sentence ends with the end of its log.
            ClusterError: the cluster is out of reach for too long.
        """
        printed, told = 0, None
        try:
            while True:
                over = self._over.wait(LOOK_S / 4)
                if self.trouble not in (None, told):
                    print(told := self.trouble, flush=True)
                if show_output and (text := self.log_text)[printed:]:
                    print(text[printed:], end="", flush=True)
                    printed = len(text)
                if over:
                    break
        except KeyboardInterrupt:
            print(LEFT.format(self.id), flush=True)
            raise
        if self._error is not None:
            raise self._error
        if self._look.job.state == "FAILED" and raise_on_error:
            last = "\n".join(self.log_text.strip().splitlines()[-20:])
            raise RunError(f"{self._look.job.end} {self.root / LOGS / LOG} ends with:\n{last}")
        return self.get_details()

    def cancel(self) -> None:
        """Ends the run, which writes a checkpoint first."""
        self._cluster().stop(self._look.job)
        self._over.wait()


def submitted_runs(experiment: Any) -> list[SubmittedRun]:
    """The runs of an experiment, the newest first, also those that another session submitted."""
    found = []
    for file in experiment.folder.glob(f"*/{KEPT}"):
        try:
            kept = read_json(file)
            run = _known.get(file.parent) or SubmittedRun(
                experiment,
                Foreign(str(kept["jobs"]), file),
                Job(**{**kept["job"], "id": file.parent.name}),
                [(str(name), str(machine), int(n)) for name, machine, n in kept["targets"]],
            )
            found.append((run._look.job.began, run.id, run))
        except (OSError, ValueError, TypeError, KeyError) as error:
            say(f"{file} is not what Poise wrote ({error}): its run is left out.")
    return [run for *_, run in sorted(found, reverse=True)]


class ChildRun:
    """The part of a run that its head has, or its workers; the methods are those of the run."""

    def __init__(self, run: SubmittedRun, kind: str) -> None:
        self._run, self.id, self.kind = run, f"{run.id}_{kind}", kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """What was logged; lines that are torn, or not ours, are left out."""
    for line in file.read_text(errors="replace").splitlines():
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            named = isinstance(row, dict) and isinstance(row.get("name"), str)
            if named and isinstance(row.get("time"), (int, float)):
                yield row
