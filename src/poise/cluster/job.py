"""What a job runs on its cluster.

`python -m poise.cluster.job ID LIMIT train ...` is `poise train ...` with the folder of runs where
`poise fetch` finds it, and with an end after LIMIT seconds.
"""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from poise.errors import ClusterError

ARRIVING = ".poise"
"""In a package: the run that a job goes on with."""
TERMINATED = 128 + signal.SIGTERM


def main(name: str, limit: str, *words: str) -> None:
    """Runs the command `poise` with these words, in this process, and ends it.

    Raises:
        ClusterError: this process is no job, which stands in its copy of the working folder.
    """
    folder = folder_of(name)
    if Path(ARRIVING).is_dir():
        shutil.copytree(ARRIVING, folder, dirs_exist_ok=True)
    os.environ["POISE_JOB"] = name
    sys.argv[1:] = [*words, "--folder", str(folder)]
    run(limit, partial(runpy.run_module, "poise", run_name="__main__", alter_sys=True))


def folder_of(name: str) -> Path:
    """The folder of this job's files, which `poise fetch` brings.

    Raises:
        ClusterError: this process is no job.
    """
    logs = next((each / "logs" for each in Path.cwd().parents if (each / "logs").is_dir()), None)
    if logs is None or not (logs / f"job-driver-{name}.log").is_file():
        raise ClusterError(f"This is no job {name!r} of a cluster: `poise submit` makes one.")
    return logs / name


def run(limit: str, program: Callable[[], Any]) -> None:
    """Runs a program for so many seconds at most (0: for ever); SIGTERM tells it to end."""
    heard: list[int] = []

    def end(number: int, _: object) -> None:
        heard.append(number)
        sys.exit(TERMINATED)

    signal.signal(signal.SIGTERM, end)  # until training minds it, when there is something to keep
    deadline = time.monotonic() + (float(limit) or float("inf"))
    timer = threading.Timer(float(limit), os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    if float(limit):
        timer.start()
    try:
        program()
    except BaseException as error:  # Ray, while it starts, takes an exit for a fault
        if not heard and getattr(error, "code", None) != TERMINATED:
            raise
        if limited := time.monotonic() >= deadline:
            said = f"The job's limit of {limit} s is reached. `poise resume` goes on with the run."
            print(said, flush=True)
        os._exit(0 if limited else TERMINATED)


if __name__ == "__main__":
    main(*sys.argv[1:])
