"""`Experiment`: runs that belong together, in one folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from poise.compat.azureml.core.run import Refusing
from poise.compat.azureml.core.workspace import Workspace
from poise.files import folder_name


class Experiment(Refusing):
    """Runs that belong together: `runs/NAME` of the workspace.

    Args:
        workspace: the folder.
        name: of the experiment.

    Raises:
        ConfigError: the name is none of a folder.
    """

    def __init__(self, workspace: Workspace, name: str, **_: Any) -> None:
        self.workspace, self.name = workspace, folder_name("experiment", name)

    def __repr__(self) -> str:
        return f"Experiment(Name: {self.name}, Workspace: {self.workspace.name})"

    @property
    def folder(self) -> Path:
        """Where its runs are."""
        return self.workspace.folder / "runs" / self.name

    def submit(self, config: Any, **_: Any) -> Any:
        """Starts a run.

        Args:
            config: a `ReinforcementLearningEstimator`.

        Returns:
            The run, which goes on by itself.

        Raises:
            PoiseError: what is to run, or where, is not there.
        """
        return config.submit(self)

    def get_runs(self, *_: Any, **__: Any) -> Iterator[Any]:
        """Its runs, the newest first, also those that another session submitted; those that have
        not ended are followed from here on."""
        from poise.compat.azureml.submitted import submitted_runs

        yield from submitted_runs(self)
