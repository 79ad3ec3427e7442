"""A Ray cluster for tests: a head and three nodes of real raylets, on this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

QUICKLY = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
}
"""How soon the head notices that a node is gone."""


@contextmanager
def three_nodes() -> Iterator[Any]:
    """A cluster of this process's own: a head without a CPU, and three nodes (`own`) of one."""
    import ray
    from ray.cluster_utils import Cluster

    from poise.cluster.token import authenticate

    folder = tempfile.mkdtemp(prefix="pr")  # sockets in it have names of 107 characters at most
    before = dict(os.environ)
    os.environ["RAY_AUTH_TOKEN_PATH"] = f"{folder}/token"
    authenticate()
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICKLY}
    made = Cluster(initialize_head=True, head_node_args={**head, "temp_dir": folder})
    made.own = [made.add_node(num_cpus=1) for _ in range(3)]
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)
