"""Run folders: the truth about a run, for every reader.

runs/<experiment>/<run>/
    config.json        complete and resolved: algorithm, settings, stop rules
    metrics.jsonl      one result per line
    episodes.csv       one finished episode per line: steps and seconds of the run when it ended,
                       its reward and its length
    behaviour.jsonl    now and then, what the policy did: its actions, and how episodes ended
    opponents.csv      of self-play: the present self and the earlier ones, with their ratings
    about.json         what the run was made with, each time it began or went on: commit, versions,
                       machine, command
    status.json        running, finished, stopped, preempted or failed; progress, process, heartbeat
    log.txt            what was printed
    stop               whoever makes it asks the run to end as by Ctrl-C, with a checkpoint
    loggers.json       the run's id at each service that gets it
    checkpoints/<iteration>/    plots/    videos/    events.out.tfevents...
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock

from poise.config.run import rank
from poise.config.types import a_path
from poise.errors import RunError, writing
from poise.files import make_folder, read_json, write_json, write_whole
from poise.tracking.links import refuse_links

HEARTBEAT_S = 5.0
"""Seconds between two writings of the status of a run that runs."""
STALE_S = 60.0
"""A run that says it runs but has not been heard of for so many seconds has died."""
EPISODES_HEADER = "steps,seconds,reward,length\n"
_TAIL = 65_536
"""Bytes at the end of the metrics in which the last result is looked for."""


class RunFolder:
    """One run on disk. Reading needs no lock; writing does (`claim`)."""

    def __init__(self, path: str | Path) -> None:
        self.path = a_path(path)
        self._lock: filelock.FileLock | None = None

    def __repr__(self) -> str:
        return f"<run {self.path}: {self.status().get('state', 'empty')}>"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def episodes_file(self) -> Path:
        return self.path / "episodes.csv"

    @property
    def behaviour_file(self) -> Path:
        return self.path / "behaviour.jsonl"

    @property
    def opponents_file(self) -> Path:
        return self.path / "opponents.csv"

    @property
    def stop_file(self) -> Path:
        return self.path / "stop"

    @property
    def plot(self) -> Path:
        return self.path / "plots" / "episodes.png"

    @property
    def best(self) -> tuple[float, int] | None:
        """The score and the iteration of the run's best checkpoint; None without a scored one.

        It is the one that `poise.load(path, which="best")` loads.
        """
        found = []
        for file in self._manifests():
            with suppress(OSError, ValueError):
                if known := rank(read_json(file)):
                    found.append((*known, int(file.parent.name)))
        return max(found)[1:] if found else None

    def exists(self) -> bool:
        """Whether there is a run here, be it a damaged one."""
        return (self.path / "config.json").is_file() or any(self._manifests())

    def _manifests(self) -> list[Path]:
        """The manifests of the run's checkpoints, newest first."""
        files = self.checkpoints.glob("*/manifest.json")
        found = {int(file.parent.name): file for file in files if file.parent.name.isdigit()}
        return [found[iteration] for iteration in sorted(found, reverse=True)]

    def claim(self) -> None:
        """Takes the run for writing.

        The operating system gives it back when this process ends, however it ends.

        Raises:
            RunError: another process has it, nobody may write there, or a link leads out of it.
        """
        self.path = self.path.absolute()  # the user's code may go to another folder
        refuse_links(self.path)
        self._lock = filelock.FileLock(self.path / ".lock")
        with writing(self.path):
            make_folder(self.path)
            try:
                self._lock.acquire(timeout=0)
            except filelock.Timeout:
                status = self.status()
                who = f"process {status.get('pid', '?')} on {status.get('host', '?')}"
                raise RunError(
                    f"The run {self.path} is in use by {who}; stop it, or start another run."
                ) from None

    def release(self) -> None:
        """Gives the run back."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def config(self) -> dict[str, Any]:
        """The run's `config.json`.

        Where it is missing or damaged, what the newest intact checkpoint knows of it, with
        `rebuilt` saying why.

        Raises:
            RunError: there is no run here, or its configuration cannot be read.
        """
        file = self.path / "config.json"
        if not self.exists():
            raise RunError(f"There is no run at {self.path}: it has no config.json.")
        try:
            return _checked(read_json(file))
        except FileNotFoundError:
            why = "is missing"
        except (OSError, ValueError) as error:
            why = str(getattr(error, "strerror", None) or error)
        for manifest in self._manifests():
            try:
                return {**_checked(read_json(manifest)), "rebuilt": why}
            except (OSError, ValueError):
                continue
        raise RunError(f"The run {self.path} is damaged: its config.json {why}.")

    def write_config(self, config: dict[str, Any]) -> None:
        make_folder(self.path)
        write_json(self.path / "config.json", config)

    def status(self) -> dict[str, Any]:
        """The run's `status.json`.

        Its `state` is `died` where the file says that the run runs but its process does not, and
        `damaged` where the file cannot be read.
        """
        try:
            status = read_json(self.path / "status.json")
        except OSError:
            return {}
        except ValueError:
            return {"state": "damaged"}
        if not isinstance(status.get("state"), str):
            status["state"] = "damaged"
        if status["state"] == "running" and not _alive(status):
            status["state"] = "died"
        return status

    def write_status(self, state: str, **progress: Any) -> None:
        about = {"pid": os.getpid(), "host": socket.gethostname(), "heartbeat": time.time()}
        write_json(self.path / "status.json", {"state": state, **plain(progress), **about})

    def sessions(self) -> list[dict[str, Any]]:
        """What the run was made with each time that it began or went on, oldest first.

        A damaged file has none.
        """
        try:
            found = read_json(self.path / "about.json").get("sessions")
        except (OSError, ValueError):
            return []
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []

    def write_sessions(self, sessions: list[dict[str, Any]]) -> None:
        write_json(self.path / "about.json", {"sessions": sessions})

    def metrics(self) -> list[dict[str, Any]]:
        """All results, oldest first; null becomes NaN. A line torn by a crash is left out."""
        if not self.metrics_file.is_file():
            return []
        lines = self.metrics_file.read_text(errors="replace").splitlines()
        records = [record for record in map(result_of, lines) if record is not None]
        return [{k: math.nan if v is None else v for k, v in record.items()} for record in records]

    def last_result(self) -> dict[str, Any] | None:
        """The newest result, with null for NaN; only the file's end is read."""
        try:
            with self.metrics_file.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                lines = file.read().splitlines()
        except OSError:
            return None
        results = map(result_of, reversed(lines))
        return next((result for result in results if result is not None), None)

    def episodes(self) -> list[tuple[int, float, float, int]]:
        """Steps, seconds, reward and length of all finished episodes, oldest first.

        Steps and seconds are those of the run when the episode ended. Torn lines are left out.
        """
        if not self.episodes_file.is_file():
            return []
        text = self.episodes_file.read_text(errors="replace")
        whole = text[: text.rfind("\n") + 1]  # half a number is a number: no newline, no record
        return [found for line in whole.splitlines() if (found := episode_of(line)) is not None]

    def keep_results(self, iteration: int) -> None:
        """Copies metrics and episodes beside themselves before a run goes back to an iteration."""
        for file in (self.metrics_file, self.episodes_file):
            if file.is_file():
                copy = file.with_name(f"{file.stem}-{iteration}{file.suffix}")
                write_whole(copy, file.read_text(errors="replace"))

    def trim(self, iteration: int, steps: int) -> None:
        """Drops what a resumed run will write anew, so that it appends where it resumes.

        Args:
            iteration: the last result that stays.
            steps: of the run; episodes that ended after so many go. Torn lines go, too.
        """
        if self.metrics_file.is_file():
            kept = [r for r in self.metrics() if r["training_iteration"] <= iteration]
            write_whole(self.metrics_file, "".join(json_line(record) for record in kept))
        if self.episodes_file.is_file():
            ended = [episode for episode in self.episodes() if episode[0] <= steps]
            write_whole(self.episodes_file, EPISODES_HEADER + episode_lines(ended))


CONFIG_KINDS: dict[str, Any] = {
    "algorithm": str,
    "config": dict,
    "options": dict,
    "names": dict,
    "changed": list,
    "stop": (dict, type(None)),
    "preset": (str, type(None)),
}
"""What a config.json has, and of which types."""


def _checked(config: dict[str, Any]) -> dict[str, Any]:
    """The values of a config.json, or of a manifest, with all that its readers count on.

    Raises:
        ValueError: something is missing or of another type.
    """
    found = {
        **{"options": {}, "names": {}, "changed": [], "stop": None, "preset": None},
        **{key: value for key, value in config.items() if value is not None},
    }
    for key, kind in CONFIG_KINDS.items():
        if not isinstance(found.get(key), kind):
            raise ValueError(f"lacks {key!r}, or has another value there than a run writes")
    if not isinstance(found["config"].get("env"), str):
        raise ValueError("lacks the environment")
    return found


def result_of(line: str | bytes) -> dict[str, Any] | None:
    """A line of the metrics; None where it is torn, cut, or not what a run writes."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("training_iteration"), int):
        return None
    return {k: v for k, v in record.items() if v is None or isinstance(v, (bool, int, float, str))}


def episode_of(line: str) -> tuple[int, float, float, int] | None:
    """A line of the episodes; None where it is the header, or not what a run writes."""
    try:
        steps, seconds, reward, length = line.split(",")
        episode = int(steps), float(seconds), float(reward), int(length)
    except ValueError:
        return None
    counts = all(0 <= count < 2**63 for count in (episode[0], episode[3]))  # they become int64
    return episode if counts and math.isfinite(episode[1]) else None


def json_line(record: dict[str, Any]) -> str:
    """A result as one line of JSON."""
    return json.dumps(plain(record)) + "\n"


def episode_lines(episodes: Iterable[tuple[int, float, float, int]]) -> str:
    """Finished episodes as lines of the CSV file."""
    return "".join(
        f"{steps},{seconds:.3f},{reward!r},{length}\n"
        for steps, seconds, reward, length in episodes
    )


def plain(value: Any) -> Any:
    """A value as JSON can hold it.

    Numbers of NumPy and PyTorch become Python's own, NaN and infinity null, the rest text.
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def _alive(status: dict[str, Any]) -> bool:
    """Whether the process that wrote a status lives: asked, or judged by its last heartbeat."""
    # A process of another machine cannot be asked, nor one on Windows, where signal 0 is Ctrl-C.
    if status.get("host") != socket.gethostname() or os.name == "nt":
        beat = status.get("heartbeat")
        return isinstance(beat, (int, float)) and time.time() - beat < STALE_S
    try:
        os.kill(int(status["pid"]), 0)
    except (OSError, KeyError, TypeError, ValueError, OverflowError):
        return False
    return True
