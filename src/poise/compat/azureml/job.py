"""What the job of a submitted run is.

`python -m poise.compat.azureml.job ID LIMIT SCRIPT ...` runs the entry script in a copy of its
folder, whose `logs` and `outputs` come back as the run's files.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys
from pathlib import Path

from poise.cluster.job import folder_of, run
from poise.compat.azureml.core.run import LOGS, folder
from poise.files import make_folder
from poise.tuning.scratch import Scratch

KEPT = ("logs", "outputs")
"""Folders that Azure uploads."""


def main(name: str, limit: str, script: str, *words: str) -> None:
    """Runs a script with these words, in this process, and ends it.

    Raises:
        ClusterError: this process is no job.
    """
    files = folder_of(name)
    scratch = Scratch("run")  # Ray's copy of the folder is that of other jobs, too
    own = scratch.path
    shutil.copytree(".", own, dirs_exist_ok=True)
    os.chdir(own)
    make_folder(files / LOGS)
    for kept in KEPT:
        shutil.move(kept, files) if Path(kept).is_dir() else make_folder(files / kept)
        os.symlink(files / kept, kept)
    folder.set(files / LOGS)
    sys.argv, sys.path[0] = [script, *words], str(own)

    def program() -> None:
        try:
            runpy.run_path(script, run_name="__main__")
        finally:
            scratch.remove()

    run(limit, program)


if __name__ == "__main__":
    main(*sys.argv[1:])
