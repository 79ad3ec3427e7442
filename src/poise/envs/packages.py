"""Packages that register environments, so that an id without its module is told where it is at
home."""

from __future__ import annotations

import importlib.util

import gymnasium as gym

from poise.errors import nearest

PACKAGES: dict[str, tuple[str, ...]] = {
    "minigrid": ("MiniGrid-", "BabyAI-"),
    "miniworld": ("MiniWorld-",),
    "highway_env": (
        "highway-",
        "merge-",
        "roundabout-",
        "parking-",
        "intersection-",
        "racetrack-",
        "exit-",
        "u-turn-",
    ),
    "gymnasium_robotics": ("Fetch", "Hand", "AntMaze", "PointMaze", "AdroitHand", "FrankaKitchen"),
    "panda_gym": ("Panda",),
    "flappy_bird_gymnasium": ("FlappyBird",),
    "mo_gymnasium": ("mo-", "deep-sea-treasure", "resource-gathering", "minecart"),
    "gym_anytrading": ("stocks-", "forex-"),
    "tetris_gymnasium": ("tetris_gymnasium/",),
    "vizdoom.gymnasium_wrapper": ("Vizdoom",),
    "bsuite": ("bsuite/",),
    "ale_py": ("ALE/",),
}
"""By the module that registers them: how their ids begin."""


def package_hint(env: str) -> str:
    """Which package registers an id, and how to name it or what to install; empty where nobody
    knows."""
    for module, beginnings in PACKAGES.items():
        if env.startswith(beginnings):
            top = module.partition(".")[0]
            if importlib.util.find_spec(top) is not None:
                return (
                    f" It is of the package {top}, which is to be imported first: "
                    f"write '{module}:{env}'."
                )
            package = top.replace("_", "-")
            return (
                f" It is of a package that is not installed: pip install {package}, "
                f"then '{module}:{env}'."
            )
    return ""


def nearest_of(module: str, name: str, callables: list[str]) -> str:
    """`" Did you mean 'module:Env-v4'?"`, of what a module has and of the ids that it has
    registered."""
    top = module.partition(".")[0]
    own = [env_id for env_id, spec in gym.registry.items() if _home(spec.entry_point) == top]
    return nearest(name, [*callables, *own]).replace("'", f"'{module}:", 1)


def _home(entry_point: object) -> str:
    module = (
        entry_point.partition(":")[0]
        if isinstance(entry_point, str)
        else getattr(entry_point, "__module__", "")
    )
    return str(module).partition(".")[0]
