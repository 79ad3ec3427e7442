"""What a job runs on its cluster: `python -m poise.cluster.job ID LIMIT train ...` is `poise
train ...` with the folder of runs where `poise fetch` finds it, and with an end after LIMIT seconds."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import sys
import threading
from pathlib import Path

from poise.errors import ClusterError

ARRIVING = ".poise"
"""In a package: the run that a job goes on with."""


def main(name: str, limit: str, *words: str) -> None:
    """Runs the command `poise` with these words, in this process, and ends it."""
    folder = folder_of_job(name)
    if Path(ARRIVING).is_dir():
        shutil.copytree(ARRIVING, folder, dirs_exist_ok=True)
    sys.argv[1:] = [*words, "--folder", str(folder)]
    # Until training minds it, there is nothing to keep.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    ended = threading.Event()
    if seconds := float(limit):
        threading.Thread(target=_end, args=(seconds, ended), daemon=True).start()
    try:
        runpy.run_module("poise", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if ended.is_set() and end.code == 128 + signal.SIGTERM:
            print(f"The job's limit of {seconds:g} s is reached. `poise resume` goes on from here.")
            sys.stdout.flush()
            os._exit(0)
        raise


def folder_of_job(name: str) -> Path:
    """Where the runs of a job are kept on its cluster: in Ray's logs, which the jobs' API reads.

    Raises:
        ClusterError: this process is no job, which stands in its copy of the working folder.
    """
    logs = next((each / "logs" for each in Path.cwd().parents if (each / "logs").is_dir()), None)
    if logs is None or not (logs / f"job-driver-{name}.log").is_file():
        raise ClusterError(f"This is no job {name!r} of a cluster: `poise submit` makes one.")
    return logs / name


def _end(seconds: float, ended: threading.Event) -> None:
    """Ends the process as a scheduler would: with a checkpoint."""
    threading.Event().wait(seconds)
    ended.set()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(*sys.argv[1:])
