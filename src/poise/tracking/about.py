"""What a run was made with: commit of the working folder, versions, machine, command line."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium
import numpy
import torch

from poise.install import version_of_poise
from poise.tracking.folder import RunFolder

_HASH = re.compile(r"[0-9a-f]{40,64}")
_GIT_STATUS = ("git", "--no-optional-locks", "-c", "core.fsmonitor=false", "status", "--porcelain")
_SECONDS = 10.0
"""Git may compare a working folder with its commit for so long; then `dirty` stays unknown."""


def note_session(folder: RunFolder, *, gpu: bool, steps: int) -> threading.Thread | None:
    """Notes in a run's `about.json` with what it begins, or goes on.

    Whether the working folder has changes takes git a while, so that a thread adds it.

    Args:
        folder: claimed by this process.
        gpu: whether the run learns on one.
        steps: of the run, with which it begins or goes on.

    Returns:
        The thread, to be joined before the folder is released; None where the working folder is in
        no repository.
    """
    place = Path.cwd()
    session: dict[str, Any] = {
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "timesteps_total": steps,
        "commit": commit_of(place),
        "dirty": None,
        "versions": {
            "poise": version_of_poise(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "gymnasium": gymnasium.__version__,
            "numpy": numpy.__version__,
        },
        "machine": {
            "host": platform.node(),
            "system": f"{platform.system()} {platform.release()}",
            "processor": processor(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if gpu else None,
        },
        "command": shlex.join(sys.orig_argv),
        "folder": str(place),
    }
    before = folder.sessions()
    folder.write_sessions([*before, session])
    if session["commit"] is None:
        return None

    def compare() -> None:
        session["dirty"] = dirty(place)
        try:
            folder.write_sessions([*before, session])
        except Exception:
            return  # a full disk: the recorder says so

    thread = threading.Thread(target=compare, name="poise-git", daemon=True)
    thread.start()
    return thread


def commit_of(folder: Path) -> str | None:
    """The commit that is checked out in the git repository around a folder, if there is one.

    It is read by hand: git itself takes longer to start than a run may.
    """
    try:
        top = next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)
        return None if top is None else _head(top)
    except (OSError, ValueError):
        return None


def _head(top: Path) -> str | None:
    """The commit that HEAD names, itself or by a branch, in the repository at `top`."""
    git = top / ".git"
    if git.is_file():  # of a worktree or a submodule
        git = top / git.read_text(errors="replace").removeprefix("gitdir:").strip()
    shared = git / "commondir"
    common = git / shared.read_text().strip() if shared.is_file() else git
    head = (git / "HEAD").read_text(errors="replace").strip()
    if not head.startswith("ref:"):
        return head if _HASH.fullmatch(head) else None
    ref = head.removeprefix("ref:").strip()
    for base in (git, common):
        if (base / ref).is_file():
            found = (base / ref).read_text(errors="replace").strip()
            return found if _HASH.fullmatch(found) else None
    packed = common / "packed-refs"
    lines = packed.read_text(errors="replace").splitlines() if packed.is_file() else []
    pairs = [line.partition(" ") for line in lines]
    return next((c for c, _, name in pairs if name == ref and _HASH.fullmatch(c)), None)


def dirty(folder: Path) -> bool | None:
    """Whether a working folder differs from its commit, by git; None where git cannot say."""
    try:
        done = subprocess.run(
            _GIT_STATUS, cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return bool(done.stdout.strip()) if done.returncode == 0 else None


def processor() -> str:
    """The processor's model."""
    with suppress(OSError), open("/proc/cpuinfo", errors="replace") as file:  # of Linux alone
        for line in file:  # each core has a part of its own: the first is enough
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
