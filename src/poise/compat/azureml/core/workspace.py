"""`Workspace`: the folder where experiments and compute targets are kept."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from poise.compat.azureml.core.compute import AmlCompute, targets
from poise.compat.azureml.core.run import Refusing
from poise.compat.cluster import say
from poise.errors import ConfigError, RunError, nearest
from poise.files import read_json

CONFIGS = ("config.json", ".azureml/config.json")
KEYS = ("subscription_id", "resource_group", "workspace_name")


class Workspace(Refusing):
    """A folder: `runs` has its experiments, `.azureml` its compute targets.

    Args:
        subscription_id, resource_group, workspace_name: as `config.json` has them; they are names,
            and lead nowhere.
        folder: the folder; None is where this process is.
    """

    location = "this machine"

    def __init__(
        self,
        subscription_id: str = "none",
        resource_group: str = "local",
        workspace_name: str | None = None,
        folder: Path | None = None,
        **_: Any,
    ) -> None:
        self.folder = (folder or Path()).absolute()
        self.subscription_id, self.resource_group = subscription_id, resource_group
        self.name = workspace_name or self.folder.name

    def __repr__(self) -> str:
        return f"Workspace({self.name!r}, folder={str(self.folder)!r})"

    @classmethod
    def from_config(cls, path: str | os.PathLike[str] | None = None, **_: Any) -> Workspace:
        """The workspace whose `config.json` is in this folder or one above it; without one, this
        folder.

        Args:
            path: where to look instead: a folder, or the file itself.

        Raises:
            ConfigError: the file is not there, or is another.
        """
        given = Path(path or ".").absolute()
        bases = (given, *given.parents) if given.is_dir() else (given.parent,)
        names = CONFIGS if given.is_dir() else (given.name,)
        for file, base in ((base / name, base) for base in bases for name in names):
            with suppress(
                OSError, ValueError, KeyError
            ):  # whatever else is called so: a run's, for one
                about = read_json(file)
                return cls(folder=base, **{key: str(about[key]) for key in KEYS})
        if not given.is_dir():
            raise ConfigError(f"{given} is no config.json of Azure's, with {', '.join(KEYS)}.")
        say(f"There is no config.json of Azure's here: the workspace is the folder {given}.")
        return cls(folder=given)

    @property
    def compute_targets(self) -> dict[str, AmlCompute]:
        """The targets that were created here, by name."""
        return targets(self.folder)

    @property
    def experiments(self) -> dict[str, Any]:
        """The experiments that have runs here, by name."""
        from poise.compat.azureml.core.experiment import Experiment

        folders = sorted(each.name for each in (self.folder / "runs").glob("*") if each.is_dir())
        return {name: Experiment(self, name) for name in folders}

    def get_run(self, run_id: str) -> Any:
        """The run of this id, of whichever experiment.

        Raises:
            RunError: there is none.
        """
        runs = [run for each in self.experiments.values() for run in each.get_runs()]
        if found := [run for run in runs if run.id == run_id]:
            return found[0]
        hint = nearest(run_id, [run.id for run in runs])
        raise RunError(f"There is no run {run_id!r} in {self.folder}.{hint}")
