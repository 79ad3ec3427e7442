"""Run folders: the truth about a run, for every reader.

runs/<experiment>/<run>/
    config.json        complete and resolved: algorithm, settings, stop rules
    metrics.jsonl      one result per line
    episodes.csv       one finished episode per line: steps and seconds of the run so far, its reward, its length
    about.json         what it was made with, each time it began or went on: commit, versions, machine, command
    status.json        running, finished, stopped, preempted or failed; progress, process, heartbeat
    log.txt            what was printed
    checkpoints/<iteration>/    plots/    videos/    events.out.tfevents...
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock

from poise.config.run import rank
from poise.config.types import a_path
from poise.errors import RunError, nearest, writing
from poise.files import (
    folder_name,
    make_folder,
    read_json,
    sync,
    time_stamp,
    write_json,
    write_whole,
)
from poise.tracking.links import refuse_links

STUDIES = ("study.json", "seeds.json")
"""What the folder of a search has, and that of a configuration with several seeds."""
BEST = "best"
"""A file in such a folder, which names the folder of its best run."""
HEARTBEAT_S = 5.0
STALE_S = 60.0
"""A run that says it runs but has not been heard of for this long has died."""
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
    def plot(self) -> Path:
        return self.path / "plots" / "episodes.png"

    @property
    def best(self) -> tuple[float, int] | None:
        """The score of its best checkpoint, and the iteration that it is of: `poise.load(path,
        which="best")`."""
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
        """Those of its checkpoints, newest first."""
        found = [
            file for file in self.checkpoints.glob("*/manifest.json") if file.parent.name.isdigit()
        ]
        return sorted(found, key=lambda file: int(file.parent.name), reverse=True)

    def claim(self) -> None:
        """Takes the run for writing; the operating system gives it back when this process ends,
        however it ends.

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
        """The run's `config.json`; where that is missing or damaged, what the newest checkpoint
        knows of it, with `rebuilt` saying why.

        Raises:
            RunError: there is no run here, or its configuration cannot be read.
        """
        file = self.path / "config.json"
        if not self.exists():
            raise RunError(f"There is no run at {self.path}: it has no config.json.")
        try:
            return _checked(read_json(file))
        except (OSError, ValueError) as error:
            why = (
                "is missing"
                if isinstance(error, FileNotFoundError)
                else getattr(error, "strerror", None) or error
            )
        for manifest in self._manifests():
            try:
                return {**_checked(read_json(manifest)), "rebuilt": f"{why}"}
            except (OSError, ValueError):
                continue
        raise RunError(f"The run {self.path} is damaged: its config.json {why}.")

    def write_config(self, config: dict[str, Any]) -> None:
        make_folder(self.path)
        write_json(self.path / "config.json", config)

    def status(self) -> dict[str, Any]:
        """The run's `status.json`, with the state `died` where the run says it runs and its process
        does not, and `damaged` where the file cannot be read."""
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
        """What the run was made with each time that it began or went on, oldest first; a damaged
        file has none."""
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
        records = [record for record in map(_result, lines) if record is not None]
        return [{k: math.nan if v is None else v for k, v in record.items()} for record in records]

    def last_result(self) -> dict[str, Any] | None:
        """The newest result, with null for NaN; only the file's end is read."""
        try:
            with self.metrics_file.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                lines = file.read().splitlines()
        except OSError:
            return None
        return next(
            (found for line in reversed(lines) if (found := _result(line)) is not None), None
        )

    def episodes(self) -> list[tuple[int, float, float, int]]:
        """Steps, seconds, reward and length of all finished episodes, oldest first; torn lines are
        left out."""
        if not self.episodes_file.is_file():
            return []
        text = self.episodes_file.read_text(errors="replace")
        found = []
        for line in text[
            : text.rfind("\n") + 1
        ].splitlines():  # half a number is a number: no newline, no record
            try:
                steps, seconds, reward, length = line.split(",")
                episode = int(steps), float(seconds), float(reward), int(length)
                if (
                    0 <= episode[0] < 2**63
                    and 0 <= episode[3] < 2**63
                    and math.isfinite(episode[1])
                ):
                    found.append(episode)
            except ValueError:
                continue  # the header, or what a full disk tore
        return found

    def keep_results(self, iteration: int) -> None:
        """Copies metrics and episodes beside themselves before a run goes back to an iteration."""
        for file in (self.metrics_file, self.episodes_file):
            if file.is_file():
                write_whole(
                    file.with_name(f"{file.stem}-{iteration}{file.suffix}"),
                    file.read_text(errors="replace"),
                )

    def trim(self, iteration: int, steps: int) -> None:
        """Drops torn lines, results after `iteration` and episodes that ended after `steps`, so
        that a resumed run appends where it resumes."""
        if self.metrics_file.is_file():
            kept = [r for r in self.metrics() if r["training_iteration"] <= iteration]
            write_whole(self.metrics_file, "".join(json_line(record) for record in kept))
        if self.episodes_file.is_file():
            ended = [episode for episode in self.episodes() if episode[0] <= steps]
            write_whole(self.episodes_file, EPISODES_HEADER + episode_lines(ended))


def _checked(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration file's values, or those of a manifest, with what each reader counts on.

    Raises:
        ValueError: something is missing or of another type.
    """
    kinds: dict[str, Any] = {
        "algorithm": str,
        "config": dict,
        "options": dict,
        "names": dict,
        "changed": list,
    }
    kinds |= {"stop": (dict, type(None)), "preset": (str, type(None))}
    optional: dict[str, Any] = {
        "options": {},
        "names": {},
        "changed": [],
        "stop": None,
        "preset": None,
    }
    found = {**optional, **{key: value for key, value in config.items() if value is not None}}
    for key, kind in kinds.items():
        if not isinstance(found.get(key), kind):
            raise ValueError(f"lacks {key!r}, or has another value there than a run writes")
    if not isinstance(found["config"].get("env"), str):
        raise ValueError("lacks the environment")
    return found


def _result(line: str | bytes) -> dict[str, Any] | None:
    """A line of the metrics; None where it is torn, cut by where reading began, or none that a run
    writes."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("training_iteration"), int):
        return None
    return {k: v for k, v in record.items() if v is None or isinstance(v, (bool, int, float, str))}


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
    """What JSON can hold of a value: numbers of NumPy and torch become Python's, NaN and infinity
    null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def named_folder(root: str | Path, experiment: str, name: str) -> RunFolder:
    """`root/experiment/name`; raises `ConfigError` where a name is none of a folder."""
    base = a_path(root, "folder").absolute() / folder_name("experiment", experiment)
    return RunFolder(base / folder_name("name", name))


def new_folder(root: str | Path, experiment: str, name: str | None) -> RunFolder:
    """A folder for a new run: `root/experiment/name`, or one named by the time.

    Raises:
        RunError: a run of that name is there already, or nobody may write there.
        ConfigError: a name is none of a folder.
    """
    if name is not None:
        folder = named_folder(root, experiment, name)
        if folder.exists():
            raise RunError(
                f"There is a run at {folder.path} already; resume it with `poise resume"
                f" {folder.path}`."
            )
        return folder
    base = a_path(root, "folder").absolute() / folder_name("experiment", experiment)
    stamp = time_stamp()
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        folder = RunFolder(base / f"{stamp}{suffix}")
        with writing(folder.path):
            try:
                make_folder(base)
                folder.path.mkdir()
                sync(base)
                return folder
            except FileExistsError:
                continue
    raise RunError(f"There is no free name for a run in {base}.")


def find_study(name: str | Path, root: str | Path = "runs") -> Path | None:
    """The folder of a search or of several seeds that `name` means, if it means one."""
    bases = (a_path(name), a_path(root, "folder") / name)
    return next((base for base in bases if any((base / file).is_file() for file in STUDIES)), None)


def _best_run(study: Path | None) -> RunFolder | None:
    """The best run of a study that has ended."""
    try:
        name = Path((study / BEST).read_text().strip()) if study else None
    except (OSError, ValueError):
        return None
    if study is None or name is None or name.is_absolute() or ".." in name.parts:
        return None
    run = RunFolder(study / name)
    return run if run.exists() else None


def all_runs(root: str | Path) -> list[RunFolder]:
    """All runs below `root`, oldest first; those of trials with several seeds lie a folder deeper."""
    return _runs(a_path(root, "folder"), "*/*", "*/trial_*/*")


def run_names(runs: Sequence[RunFolder], root: str | Path) -> list[str]:
    """What commands call runs: by their own names, and by their paths below `root` where several
    have one."""
    base, count = a_path(root, "folder"), Counter(run.path.name for run in runs)
    return [
        r.path.name if count[r.path.name] == 1 else r.path.relative_to(base).as_posix()
        for r in runs
    ]


def _runs(base: Path, *patterns: str) -> list[RunFolder]:
    """The runs in the folders that some patterns find, oldest first."""
    ends = ("checkpoints", "config.json")
    found = {
        file.parent: file
        for end in ends
        for each in patterns
        for file in base.glob(f"{each}/{end}")
    }
    ages = {folder: file.stat().st_mtime for folder, file in found.items()}
    return [run for run in map(RunFolder, sorted(ages, key=ages.__getitem__)) if run.exists()]


def find_runs(name: str | Path, root: str | Path = "runs") -> list[RunFolder]:
    """The runs that `name` means: one, as `find_run` has it, or all of an experiment, oldest first.

    Raises:
        RunError: there is none; the sentence names the nearest.
    """
    path = a_path(name)
    for base in (path, a_path(root, "folder") / path):
        inside = _runs(base, "*")
        if inside and not RunFolder(base).exists():
            return inside
    return [find_run(path, root, others={run.path.parent.name for run in all_runs(root)})]


def find_run(
    name: str | Path, root: str | Path = "runs", *, others: Iterable[str] = ()
) -> RunFolder:
    """The run that `name` means: a path, `experiment/run` or `run` below `root`, or `latest`.

    A search that has ended, or a configuration with several seeds, means its best run.

    Args:
        name, root: what is meant, and the folder of all runs.
        others: names that may have been meant as well.

    Raises:
        RunError: there is none; the sentence names the nearest.
    """
    for candidate in (a_path(name), a_path(root, "folder") / name):
        if RunFolder(candidate).exists():
            return RunFolder(candidate)
    if best := _best_run(find_study(name, root)):
        return best
    known = all_runs(root)
    if str(name) == "latest":
        if not known:
            raise RunError(f"There is no run in {root} yet.")
        newest = known[-1]
        return next(filter(None, map(_best_run, map(find_study, newest.path.parents[:2]))), newest)
    matches = [run for run in known if run.path.name == str(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise RunError(
            f"{len(matches)} runs are called {name}: give the path of one, for example"
            f" {matches[-1].path}."
        )
    if Path(name).is_dir():
        what = (
            "a checkpoint"
            if (Path(name) / "manifest.json").is_file()
            else "neither a run nor a checkpoint"
        )
        raise RunError(
            f"{name} is {what}: a run has a config.json, and a checkpoint a manifest.json."
        )
    hint = nearest(
        str(name), {*others, *(run.path.name for run in known), *(str(run.path) for run in known)}
    )
    raise RunError(
        f"There is no run at {name}, nor one of this name in {root}.{hint} "
        "`poise runs` lists them; `latest` is the newest."
    )


def _alive(status: dict[str, Any]) -> bool:
    if status.get("host") != socket.gethostname() or os.name == "nt":  # there, signal 0 is Ctrl-C
        beat = status.get("heartbeat")
        return isinstance(beat, (int, float)) and time.time() - beat < STALE_S
    try:
        os.kill(int(status["pid"]), 0)
    except (OSError, KeyError, TypeError, ValueError, OverflowError):
        return False
    return True
