"""A Ray cluster for tests: a head and three nodes of real raylets, on this machine.

A module of tests that asks for `cluster` or `on_ray` has one of its own. What its trainers have
beside `SMALL` stands in its `OWN`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from poise.training.trainer import Trainer

Make = Callable[..., Trainer]

SMALL: dict[str, Any] = {
    "preset": None,
    "seed": 3,
    "num_workers": 2,
    "num_envs_per_worker": 4,
    "rollout_fragment_length": 16,
    "timesteps_per_iteration": 0,
}
QUICKLY = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 3000,
    "health_check_failure_threshold": 3,
}
"""How soon the head notices that a node is gone."""


@contextmanager
def patience() -> Iterator[None]:
    """Lets nodes start for minutes: Ray allows them 30 s, which is short on a busy machine."""
    from ray._private import services

    asked = services.get_node

    def get_node(*args: Any, **kwargs: Any) -> Any:
        end = time.monotonic() + 240
        while True:
            try:
                return asked(*args, **kwargs)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "get_node", get_node)
        yield


@contextmanager
def three_nodes() -> Iterator[Any]:
    """A cluster of this process's own: a head without a CPU, and three nodes (`own`) of one."""
    import ray
    from ray._common.utils import get_ray_address_file
    from ray.cluster_utils import Cluster

    from poise.cluster.token import authenticate

    folder = tempfile.mkdtemp(prefix="pr")  # sockets in it have names of 107 characters at most
    before = dict(os.environ)
    os.environ["RAY_AUTH_TOKEN_PATH"] = f"{folder}/token"
    authenticate()
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICKLY}
    with patience():
        # A head is written down as the newest in a folder that only Ray's own commands make.
        Path(get_ray_address_file(None)).parent.mkdir(exist_ok=True)
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


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with three_nodes() as made:
        yield made


@pytest.fixture
def on_ray(cluster: Any, trainer: Make, request: pytest.FixtureRequest) -> Make:
    own = {"ray_address": cluster.address, **getattr(request.module, "OWN", {})}
    return lambda algorithm, env, **settings: trainer(algorithm, env, **SMALL | own | settings)


def parameters(algo: Trainer) -> torch.Tensor:
    return algo.algorithm.flat.data.clone()


def train_until(algo: Trainer, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Trains until a result says so; a hang is bounded by the test's own limit."""
    while not done(result := algo.train()):
        pass
    return result
