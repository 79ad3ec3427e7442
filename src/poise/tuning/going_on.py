"""Whether a trial's run goes on or begins anew, from what there is in its folder."""

from __future__ import annotations

import shutil
import time

from poise.errors import RunError
from poise.tracking.folder import RunFolder
from poise.training.checkpoint import checkpoints

LEAVE_S = 300.0
"""Seconds that a run may take to end after its search was killed."""
OF_TRIAL, OF_OTHER_RUNS = ("trial.json", ".lock", "output.txt"), ("seed_", "held_out_")
"""What else there is in the folder of a run that is a trial's only one; beginnings of folders."""


def goes_on(folder: RunFolder) -> bool:
    """Whether there is a checkpoint. Without one, what a run has left that was killed before its
    first is removed.

    Raises:
        RunError: another process does not leave the folder.
    """
    _wait_for(folder)
    if folder.exists() and checkpoints(folder.checkpoints):
        return True
    for path in folder.path.iterdir() if folder.exists() else ():
        if path.name not in OF_TRIAL and not path.name.startswith(OF_OTHER_RUNS):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return False


def _wait_for(folder: RunFolder) -> None:
    """Waits for the worker of a search that was killed: it may still write a last checkpoint."""
    end = time.monotonic() + LEAVE_S
    while folder.exists():
        try:
            folder.claim()
        except RunError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            folder.release()
            return
