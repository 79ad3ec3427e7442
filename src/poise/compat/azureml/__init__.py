"""Azure ML's reinforcement learning, a service that was retired, as its article used it: compute
targets are nodes of a cluster of this machine, or of the one that `cluster.toml` describes."""

from __future__ import annotations

from poise.compat.azureml import core

__all__ = ["core"]
