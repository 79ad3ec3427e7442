"""`Tensorboard`: TensorBoard on a run's folder, for this machine alone."""

from __future__ import annotations

import atexit
import importlib.util
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from poise.compat.azureml.submitted import SubmittedRun
from poise.errors import PoiseError
from poise.install import install

PORT = 6006


class Tensorboard:
    """Shows the curves of a run, or of several.

    Args:
        runs: the run, or a list of them.
        port: of this machine, where it is free.

    Raises:
        PoiseError: TensorBoard is not installed.
    """

    def __init__(
        self,
        runs: SubmittedRun | Sequence[SubmittedRun],
        local_root: str | None = None,
        port: int = PORT,
        **_: Any,
    ) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise PoiseError(f"Tensorboard needs TensorBoard: {install('tensorboard')}")
        self.runs = [runs] if isinstance(runs, SubmittedRun) else [*runs]
        self.port = port
        self._process: subprocess.Popen[str] | None = None

    def start(self, **_: Any) -> str:
        """Starts it.

        Returns:
            Its address.

        Raises:
            PoiseError: it does not start.
        """
        folder = os.path.commonpath([run.root for run in self.runs])
        port = "default" if self.port == PORT else str(self.port)  # which may be another's
        asked = ("--logdir", folder, "--host", "127.0.0.1", "--port", port)
        command = [sys.executable, "-m", "tensorboard.main", *asked]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line)
            if found := re.search(r"http://\S+", line):
                atexit.register(self.stop)
                threading.Thread(target=self._process.stderr.read, daemon=True).start()
                return found[0]
        raise PoiseError(f"TensorBoard did not start: {''.join(said[-3:]).strip()}")

    def stop(self) -> None:
        """Ends it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
