"""MLflow: a server, or a file of this machine."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import filelock

from poise.tracking.curves import flatten
from poise.tracking.logger import LoggedRun, Logger, numbers

STATES = {"finished": "FINISHED", "failed": "FAILED"}
"""What MLflow calls how a run ended; the rest is `KILLED`."""
PARAMS = 100
"""Settings that MLflow takes in one call."""


class Mlflow(Logger):
    """Sends numbers, films and checkpoints to MLflow, as a run of the group's experiment.

    Its environment variables hold (`MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME`, ...).
    """

    name = "mlflow"

    def start(self, run: LoggedRun) -> None:
        from mlflow.tracking import MlflowClient

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", run.group)
        # The first to come makes the tables of a file, at which a second one at a time fails.
        with filelock.FileLock(run.folder.parents[1] / ".mlflow.lock"):
            self._client = MlflowClient()
            experiment = self._experiment(name)
        if run.id is None:
            tags = {"algorithm": run.config["algorithm"], "env": str(run.config["env"])}
            made = self._client.create_run(experiment, run_name=run.name, tags=tags)
            run.id = made.info.run_id
        self._id = run.id
        self._client.update_run(run.id, status="RUNNING")
        self._describe(run.config)
        run.place = f"run {run.id} at {self._client.tracking_uri}"

    def _experiment(self, name: str) -> str:
        """The id of an experiment, which is made where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.create_experiment(name))
        except MlflowException:  # it is there, maybe by another machine's trial
            if (found := self._client.get_experiment_by_name(name)) is None:
                raise
            return str(found.experiment_id)

    def _describe(self, config: dict[str, Any]) -> None:
        """Writes settings as parameters; those that changed since, which MLflow forbids, as tags.

        Texts that are too long for MLflow are cut there; the artifact `config.json` has them whole.
        """
        from mlflow.entities import Param, RunTag

        known = self._client.get_run(self._id).data.params
        values = {key: str(value) for key, value in flatten(config).items()}
        new = [Param(key, value) for key, value in values.items() if key not in known]
        for at in range(0, len(new), PARAMS):
            self._client.log_batch(self._id, params=new[at : at + PARAMS])
        cut = {key: values[key] for key in known.keys() & values.keys()}
        changed = [RunTag(f"changed.{k}", v) for k, v in cut.items() if not v.startswith(known[k])]
        self._client.log_batch(self._id, tags=changed)
        self._client.log_dict(self._id, config, "config.json")

    def log(self, result: dict[str, Any], steps: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        found = [Metric(key, value, now, steps) for key, value in numbers(result).items()]
        self._client.log_batch(self._id, metrics=found)

    def film(self, path: Path, steps: int) -> None:
        self._client.log_artifact(self._id, str(path), "videos")

    def checkpoint(self, path: Path, names: list[str]) -> None:
        for name in names:
            self._client.log_artifacts(self._id, str(path), f"checkpoints/{name}")

    def finish(self, state: str) -> None:
        self._client.set_terminated(self._id, STATES.get(state, "KILLED"))
