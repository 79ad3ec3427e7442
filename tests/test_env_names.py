"""What a mistaken name of an environment is answered with.

The nearest one, its package, or where it was looked for.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.vector import VectorEnv

import poise
from poise.envs import packages
from poise.envs.raised import telling_interrupts
from poise.errors import EnvError
from poise.stepping.batches import choose_workers, make_vector_env


def test_an_id_of_another_version_gets_the_nearest_of_its_module() -> None:
    gymnasium.register("Nearby-v4", "environments:Scripted")
    try:
        with pytest.raises(
            EnvError,
            match=r"has and registers no 'Nearby-v3'\. Did you mean 'environments:Nearby-v4'\?",
        ):
            poise.make_env("environments:Nearby-v3")
    finally:
        del gymnasium.registry["Nearby-v4"]
    with pytest.raises(EnvError, match=r"Did you mean 'environments:Scripted'\?"):
        poise.make_env("environments:Scriptd")


def test_an_id_without_its_module_is_told_where_it_is_at_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        packages, "PACKAGES", {"no_such_package": ("MiniGrid-",), "environments": ("highway-",)}
    )
    with pytest.raises(
        EnvError,
        match=r"not installed: pip install no-such-package, then 'no_such_package:MiniGrid-X-v0'",
    ):
        poise.make_env("MiniGrid-X-v0")
    with pytest.raises(
        EnvError, match=r"of the package environments, .* write 'environments:highway-v0'\."
    ):
        poise.make_env("highway-v0")


def test_robots_come_with_the_versions_that_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "ROBOTICS", "no_such_robots")
    monkeypatch.setattr(packages, "PACKAGES", {"no_such_robots": ("Fetch",)})
    extra = r'not installed: .*pip install .*\[robotics\]".*, then \'no_such_robots:FetchPush-v4\''
    for name in ("FetchPush-v4", "no_such_robots:FetchPush-v4"):
        with pytest.raises(EnvError, match=extra):
            poise.make_env(name)
    module = types.ModuleType("gymnasium_robotics.envs.reach")
    exec("def make(config): assert config == 1", vars(module))
    with pytest.raises(EnvError, match=r"does not go with this version of MuJoCo: .*\[robotics\]"):
        poise.make_env(module.make)


def test_a_missing_module_says_where_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        EnvError,
        match=rf"no module 'missing' to import\. It was looked for in {tmp_path}, .*packages\.$",
    ):
        poise.make_env("missing:Maze")


@pytest.mark.parametrize(
    "env", ["CartPole-v1", "FrozenLake-v1", lambda config: gymnasium.make("CartPole-v1")]
)
def test_a_time_limit_of_none_is_none_given(env: Any) -> None:
    one, batch = (
        poise.make_env(env, {"max_episode_steps": None}),
        make_vector_env(env, 2, {"max_episode_steps": None}),
    )
    assert isinstance(batch, VectorEnv)
    batch.reset(seed=0)
    for _ in range(30):  # a native CartPole compares its steps with the limit
        batch.step(batch.action_space.sample())
    assert one.spec is not None
    assert one.spec.max_episode_steps == gymnasium.make(one.spec.id).spec.max_episode_steps
    one.close()
    batch.close()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_an_environment_that_exits_while_it_is_made_does_not_end_the_process(
    error: BaseException,
) -> None:
    def make(config: Any) -> Any:
        raise error

    with (
        telling_interrupts(),
        pytest.raises(EnvError, match=f"raised {type(error).__name__}.* when it was made"),
    ):
        choose_workers(make, 4)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gymnasium.wrapers:TimeLimit", "gymnasium.wrappers:TimeLimit"),
        ("gymnasium.envs.boxd2d:Any", "gymnasium.envs.box2d:Any"),
        ("gymnasium.envs.mujoco.hoper_v4", "gymnasium.envs.mujoco.hopper_v4:parallel_env"),
    ],
)
def test_the_nearest_module_is_named_and_never_the_one_that_is_missing(
    name: str, meant: str
) -> None:
    with pytest.raises(EnvError, match="there is no module") as told:
        poise.PPO(name, preset=None)
    assert f" Did you mean {meant!r}? " in str(told.value)
    with pytest.raises(EnvError) as told:
        poise.PPO("gymnasium.zzzzzzzz:Env", preset=None)
    assert "Did you mean" not in str(told.value)


def test_what_a_missing_game_needs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.machinery.PathFinder.find_spec", lambda *_: None)
    with pytest.raises(EnvError, match=r"It needs PettingZoo: .*multiagent"):
        poise.PPO("pettingzoo.absent.chess_v9", preset=None)
