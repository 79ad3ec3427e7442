"""What the benchmarks share: the machine, resumable results, virtual environments, and sections of
RESULTS.md."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
REPORT = HERE / "RESULTS.md"
RAW = HERE / ".results"
VENVS = HERE / ".venvs"

Record = dict[str, Any]

ANY_SOURCE = "any"
"""In place of a hash of Poise's source, where a record does not depend on it."""

TORCH = "torch==2.13.0"
"""Repeated in each pip command: without it, a peer's dependencies pull in another torch, and
gigabytes of CUDA."""

MUJOCO = ["mujoco==4.0.0", "imageio", "packaging", "box2d==2.3.10"]
PEERS = {
    "sb3": ["stable-baselines3==2.9.2"],
    "contrib": ["stable-baselines3==2.9.2", "sb3-contrib==2.9.2", *MUJOCO],
    "sbx": ["sbx-rl==0.28.0", *MUJOCO],
    "rllib": ["ray[rllib]==2.60.0", "pillow"],
}


def parser(text: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    made.add_argument(
        "--quick", action="store_true", help="a smoke run: short items, RESULTS.md stays untouched"
    )
    made.add_argument("--fresh", action="store_true", help="measure again what is measured already")
    return made


# --- machine and code -----------------------------------------------------------------------------


def cpu() -> str:
    """The processor's model and its number of cores."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        names = [
            x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")
        ]
        model = names[0].partition(":")[2].strip() if names else model
    elif sys.platform == "darwin":
        model = subprocess.check_output(
            ["sysctl", "-n", "machdep.cpu.brand_string"], text=True
        ).strip()
    return f"{model}, {os.cpu_count()} cores"


def load() -> float:
    """Load average of the last minute; NaN where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else float("nan")


def source_hash() -> str:
    """What of Poise is measured: a hash of its source, so that commits to tests and documents
    change nothing."""
    digest = hashlib.sha256()
    for file in sorted((ROOT / "src").rglob("*.py")):
        digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def commit() -> str:
    """The commit that is checked out, marked where the source differs from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", "src"], capture_output=True, text=True
    ).stdout
    return f"{head or 'unknown'}{' with changes' if changed else ''}"


def all_versions(pythons: Mapping[str, Path], packages: Iterable[str]) -> str:
    """A sentence for each side: what is installed beside its Python."""
    used = {side: versions(python, packages) for side, python in pythons.items()}
    listed = {
        side: ", ".join(f"{name} {version}" for name, version in found.items())
        for side, found in used.items()
    }
    return " ".join(f"Versions of {side}: {text}." for side, text in listed.items())


def versions(python: Path, packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed beside a Python, and its own."""
    answer = subprocess.check_output([str(python), "-c", _VERSIONS, *packages], text=True)
    return dict(json.loads(answer))


_VERSIONS = """
import importlib.metadata, json, platform, sys
found = {
    each.metadata["Name"].lower().replace("_", "-"): each.version
    for each in importlib.metadata.distributions()
}
here = {name: found[name] for name in sys.argv[1:] if name in found}
print(json.dumps({"python": platform.python_version(), **here}))
"""


# --- results that survive a stop ------------------------------------------------------------------


class Results:
    """Measured items of one benchmark, one JSON line each, for this machine and this source of
    Poise.

    Args:
        name: of the benchmark.
        quick: keeps a smoke run's items apart.
        fresh: forgets the items of this machine and source.
    """

    def __init__(self, name: str, *, quick: bool = False, fresh: bool = False) -> None:
        self.name, self.quick = name, quick
        self.file = RAW / f"{name}{'-quick' if quick else ''}.jsonl"
        self.stamp = {"machine": f"{platform.node()}: {cpu()}", "source": source_hash()}
        self.file.parent.mkdir(exist_ok=True)
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        records = [record for record in map(_parse, lines) if record]
        mine = [r for r in records if r.get("machine") == self.stamp["machine"]]
        mine = [r for r in mine if r.get("source") in (self.stamp["source"], ANY_SOURCE)]
        if fresh and mine:
            kept = [json.dumps(r) + "\n" for r in records if r not in mine]
            self.file.write_text("".join(kept))
            mine = []
        self.items: dict[str, Record] = {r["item"]: r for r in mine}

    def measure(self, item: str, run: Callable[[], Record], *, lasting: bool = False) -> Record:
        """The record of an item: the one that is there, or a new one, which is on disk before this
        returns.

        A `lasting` one stays when Poise's source changes: a peer's score, of which no ratio of
        times is made.
        """
        if item in self.items:
            print(f"  {item}: measured already for this machine and source, skipped", flush=True)
            return self.items[item]
        print(f"  {item} ...", end=" ", flush=True)
        now = {"commit": commit(), "load": load(), "when": time.strftime("%Y-%m-%d %H:%M")}
        about = {"item": item, **self.stamp, **({"source": ANY_SOURCE} if lasting else {}), **now}
        start = time.perf_counter()
        record = {**about, **run(), "item_s": round(time.perf_counter() - start, 2)}
        with self.file.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.items[item] = record
        shown = {
            k: v for k, v in record.items() if k not in about and not isinstance(v, (dict, list))
        }
        print(
            ", ".join(
                f"{k} {v:.5g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items()
            ),
            flush=True,
        )
        return record

    def publish(self, title: str, body: str, records: Sequence[Record], more: str = "") -> None:
        """Writes the section of this benchmark into RESULTS.md; a smoke run only prints it."""
        if not records:
            return
        days = sorted({r["when"].partition(" ")[0] for r in records})
        commits = ", ".join(dict.fromkeys(r["commit"] for r in records))
        about = (
            f"{cpu()}; {platform.system()}; Python {platform.python_version()}; {days[0]}"
            + (f" to {days[-1]}" if len(days) > 1 else "")
            + f"; load average {records[0]['load']} at the start, at most"
            f" {max(r['load'] for r in records)} before an item; commit {commits}. {more}"
        ).strip()
        text = f"## {title}\n\n{about}\n\n{body.strip()}\n"
        if self.quick:
            print(f"\n{text}")
        else:
            write_section(self.name, f"{text}{left(self.name, body)}")
            print(f"\nWritten into {REPORT.relative_to(ROOT)}.")


def _parse(line: str) -> Record | None:
    try:
        return dict(json.loads(line))
    except ValueError:  # torn by a stop
        return None


# --- Markdown -------------------------------------------------------------------------------------


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def spread(values: Iterable[float | None], digits: int = 1) -> str:
    """`median (lowest-highest)` of what there is."""
    known = [v for v in values if v is not None]
    if not known:
        return "-"
    low, middle, high = (
        f"{v:,.{digits}f}" for v in (min(known), statistics.median(known), max(known))
    )
    return middle if low == high else f"{middle} ({low} to {high})"


def write_section(name: str, text: str) -> None:
    """Replaces what stands between the markers of `name` in RESULTS.md, or appends it there."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    whole = (
        REPORT.read_text()
        if REPORT.exists()
        else "# Measured\n\nWritten by the scripts here; see README.md.\n"
    )
    before, found, rest = whole.partition(start)
    after = rest.partition(end)[2] if found else "\n"
    gap = "" if found else "\n"
    REPORT.write_text(f"{before}{gap}{start}\n{text}{end}{after}")


def left(name: str, text: str) -> str:
    """Parts (`###`) of a section of RESULTS.md that a new text of it lacks, each with its date."""
    head, *parts = re.split("^(?=### )", _section(name), flags=re.MULTILINE)
    about = re.search(r"[\d-]{10}[^;]*; load [^;]*; commit [^.]*", head)
    when = f"\nMeasured earlier: {about[0]}.\n" if about else ""
    kept = [part.strip() for part in parts if part.partition("\n")[0] not in text.splitlines()]
    return "".join(f"\n{part}\n{'' if 'Measured' in part else when}" for part in kept)


def _section(name: str) -> str:
    text = REPORT.read_text() if REPORT.exists() else ""
    return text.partition(f"<!-- {name}:start -->")[2].partition(f"<!-- {name}:end -->")[0]


def published(name: str, headers: Sequence[str]) -> list[list[str]]:
    """The rows of the first table in a section of RESULTS.md, if these are its headers."""
    lines = _section(name).splitlines()
    found = [
        [cell.strip() for cell in line[1:-1].split(" | ")] for line in lines if line.startswith("|")
    ]
    return found[2:] if found and found[0] == list(headers) else []


# --- virtual environments -------------------------------------------------------------------------


def venv_python(name: str, *more: str) -> Path:
    """The Python in which a side is measured, installed first where need be, with `more` packages.

    `poise` is this repository without extras, as `pip install` leaves it, and current. Peers are
    taken from the folder in the environment variable `POISE_PEERS`, if it has them.
    """
    ready = Path(os.environ.get("POISE_PEERS", VENVS)) / name
    if name in PEERS and ready != VENVS / name and _python(ready).is_file():
        return _python(ready)
    home, python = VENVS / name, _python(VENVS / name)
    pinned = ["-c", str(ROOT / "constraints.txt")] if name == "poise" else [TORCH]
    wanted = [*([str(ROOT)] if name == "poise" else PEERS[name]), *pinned]
    done = home / ".installed"  # a stopped installation lacks it
    if not done.is_file() or done.read_text() != " ".join(wanted):
        print(f"Installing {wanted[0]} into {home.relative_to(ROOT)} ...", flush=True)
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        _pip(python, TORCH)
        _pip(python, *wanted)
        done.write_text(" ".join(wanted))
    if name == "poise":
        _pip(python, "--force-reinstall", "--no-deps", str(ROOT))
    if more:
        _pip(python, *more, "-c", str(ROOT / "constraints.txt"))
    return python


def _python(home: Path) -> Path:
    return home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
