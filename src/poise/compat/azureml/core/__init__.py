"""`azureml.core`: the workspace, which is a folder, its experiments, and their runs."""

from __future__ import annotations

from poise.compat.azureml.core.experiment import Experiment
from poise.compat.azureml.core.run import Run
from poise.compat.azureml.core.workspace import Workspace
from poise.install import version_of_poise

__all__ = ["VERSION", "Experiment", "Run", "Workspace"]

VERSION = version_of_poise()
