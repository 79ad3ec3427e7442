"""What tests share: one thread, so that two at a time do not fight for cores; clean registries."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

# Threads that wait leave their core to the other test.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import poise
import warm
from clusters import cluster, on_ray  # noqa: F401
from poise.training.trainer import Trainer

# However the tests were started (`nohup`, `&`), they and what they start can be interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


warm.install()

TOGETHER = {
    "test_ray.py": "ray",
    "test_trials_on_ray.py": "ray",
    "test_learners_on_ray.py": "ray",
    "test_azureml.py": "jobs",
    "test_cluster_jobs.py": "jobs",
    "cluster_pong": "jobs",
    "clusters.md": "jobs",
}
"""Parts of tests' names, and what they share: a cluster, which one process has at a time."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Has tests that share a cluster run one after the other, in one process.

    It is what xdist's own groups are for, which pytest 9.2 does not see.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Grouped(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((what for name, what in TOGETHER.items() if name in nodeid), nodeid)

    return Grouped(config, log)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def known_names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests train with is remembered in a folder of their own, and so is their token."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POISE_HOME", str(home))
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "auth_token"))
        yield
        if (home / "cluster.json").exists():
            from poise.cluster import local

            local.stop()


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Names registered by a test are forgotten after it."""
    from poise.config.algorithms import ALGORITHMS
    from poise.config.presets import PRESETS, SPACES
    from poise.envs import make
    from poise.models import catalog

    monkeypatch.setattr(make, "_creators", dict(make._creators))
    monkeypatch.setattr(catalog, "_models", dict(catalog._models))
    monkeypatch.setattr(catalog, "_preprocessors", dict(catalog._preprocessors))
    tables: list[dict[str, Any]] = [ALGORITHMS, PRESETS, SPACES]
    before = [dict(table) for table in tables]
    yield
    for table, old in zip(tables, before, strict=True):
        table.clear()
        table.update(old)


@pytest.fixture
def trainer() -> Iterator[Callable[..., Trainer]]:
    """Makes trainers by algorithm name and closes them after the test."""
    made: list[Trainer] = []

    def make(algorithm: str, env: Any, **settings: Any) -> Trainer:
        made.append(poise.make_trainer(algorithm, env, progress=False, **{"seed": 0, **settings}))
        return made[-1]

    yield make
    for each in made:
        each.close()
