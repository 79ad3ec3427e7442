"""What a mistaken name of an environment is answered with: the nearest one, its package, or where it was looked for."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import pytest

import poise
from poise.envs import packages
from poise.errors import EnvError


def test_an_id_of_another_version_gets_the_nearest_of_its_module() -> None:
    gymnasium.register("Nearby-v4", "environments:Scripted")
    try:
        with pytest.raises(
            EnvError, match=r"has and registers no 'Nearby-v3'\. Did you mean 'environments:Nearby-v4'\?"
        ):
            poise.make_env("environments:Nearby-v3")
    finally:
        del gymnasium.registry["Nearby-v4"]
    with pytest.raises(EnvError, match=r"Did you mean 'environments:Scripted'\?"):
        poise.make_env("environments:Scriptd")


def test_an_id_without_its_module_is_told_where_it_is_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "PACKAGES", {"no_such_package": ("MiniGrid-",), "environments": ("highway-",)})
    with pytest.raises(
        EnvError, match=r"not installed: pip install no-such-package, then 'no_such_package:MiniGrid-X-v0'"
    ):
        poise.make_env("MiniGrid-X-v0")
    with pytest.raises(EnvError, match=r"of the package environments, .* write 'environments:highway-v0'\."):
        poise.make_env("highway-v0")


def test_a_missing_module_says_where_it_was_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        EnvError, match=rf"no module 'missing' to import\. It was looked for in {tmp_path}, .*packages\.$"
    ):
        poise.make_env("missing:Maze")
