"""Packages that register environments, for the hint to an id without its module."""

from __future__ import annotations

import importlib.util

import gymnasium as gym

from poise.errors import nearest
from poise.install import install

_HIGHWAY = (
    "highway-", "merge-", "roundabout-", "parking-", "intersection-", "racetrack-", "exit-",
    "u-turn-",
)  # fmt: skip

ROBOTICS = "gymnasium_robotics"

PACKAGES: dict[str, tuple[str, ...]] = {
    "minigrid": ("MiniGrid-", "BabyAI-"),
    "miniworld": ("MiniWorld-",),
    "highway_env": _HIGHWAY,
    ROBOTICS: ("Fetch", "Hand", "AntMaze", "PointMaze", "AdroitHand", "FrankaKitchen"),
    "panda_gym": ("Panda",),
    "flappy_bird_gymnasium": ("FlappyBird",),
    "mo_gymnasium": ("mo-", "deep-sea-treasure", "resource-gathering", "minecart"),
    "gym_anytrading": ("stocks-", "forex-"),
    "tetris_gymnasium": ("tetris_gymnasium/",),
    "vizdoom.gymnasium_wrapper": ("Vizdoom",),
    "bsuite": ("bsuite/",),
    "ale_py": ("ALE/",),
}
"""How the ids of environments begin, by the module that registers them."""


def package_hint(env: str) -> str:
    """Which package registers an id, and what to write or install; empty where that is unknown."""
    module = next((each for each, ids in PACKAGES.items() if env.startswith(ids)), None)
    if module is None:
        return ""
    top = module.partition(".")[0]
    if importlib.util.find_spec(top) is not None:
        return (
            f" It is of the package {top}, which is to be imported first: write '{module}:{env}'."
        )
    how = f"pip install {top.replace('_', '-')}"
    if top == ROBOTICS:
        how = install("robotics")  # which knows the versions that go together
    return f" It is of a package that is not installed: {how}, then '{module}:{env}'."


def nearest_of(module: str, name: str, callables: list[str]) -> str:
    """`" Did you mean 'module:Env-v4'?"`, from what a module has and the ids that it registered."""
    top = module.partition(".")[0]
    own = [env_id for env_id, spec in gym.registry.items() if _home(spec.entry_point) == top]
    return nearest(name, [*callables, *own]).replace("'", f"'{module}:", 1)


def _home(entry_point: object) -> str:
    """The package of an entry point: a text `module:Name`, or a class or function itself."""
    if not isinstance(entry_point, str):
        entry_point = getattr(entry_point, "__module__", "")
    return str(entry_point).partition(":")[0].partition(".")[0]
