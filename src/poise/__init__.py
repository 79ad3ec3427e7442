"""Poise: reinforcement-learning training, on a laptop in seconds.

    import poise

    algo = poise.PPO("CartPole-v1")
    algo.learn(stop={"episode_reward_mean": 475})
    algo.save("solved")

`import poise` loads nothing heavy: what a name needs (PyTorch, Gymnasium) is imported when the name is first used, so
that the command answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from poise.config.algorithms import ALGORITHMS
from poise.config.hints import algorithm_hint
from poise.errors import (
    CheckpointError,
    ConfigError,
    DivergedError,
    EnvError,
    ModelError,
    PoiseError,
    PoiseWarning,
    RunError,
    SpaceError,
    TrustError,
)
from poise.startup import without_collection

__version__: str

if TYPE_CHECKING:
    from poise import tune
    from poise.api import load, make_trainer, plot, resume, run
    from poise.checks.check import check_env
    from poise.config.registry import register_algorithm
    from poise.envs.make import make_env, register_env
    from poise.envs.old_gym import OldGymEnv
    from poise.envs.video import render_mp4
    from poise.models.catalog import register_model, register_preprocessor
    from poise.signatures import A2C, APPO, DQN, IMPALA, PPO
    from poise.tracking.live import LivePlot
    from poise.training.callbacks import Callback
    from poise.training.recording import record
    from poise.training.trainer import Trainer
    from poise.tuning.seeds import load_seeds, run_seeds

_HOMES = {
    "make_trainer": "poise.api",
    "plot": "poise.api",
    "record": "poise.training.recording",
    "resume": "poise.api",
    "run": "poise.api",
    "load_seeds": "poise.tuning.seeds",
    "run_seeds": "poise.tuning.seeds",
    "check_env": "poise.checks.check",
    "make_env": "poise.envs.make",
    "register_algorithm": "poise.config.registry",
    "register_env": "poise.envs.make",
    "OldGymEnv": "poise.envs.old_gym",
    "render_mp4": "poise.envs.video",
    "register_model": "poise.models.catalog",
    "register_preprocessor": "poise.models.catalog",
    "Callback": "poise.training.callbacks",
    "LivePlot": "poise.tracking.live",
    "load": "poise.api",
    "Trainer": "poise.training.trainer",
}

__all__ = [
    "A2C",
    "APPO",
    "DQN",
    "IMPALA",
    "PPO",
    "Callback",
    "CheckpointError",
    "ConfigError",
    "DivergedError",
    "EnvError",
    "LivePlot",
    "ModelError",
    "OldGymEnv",
    "PoiseError",
    "PoiseWarning",
    "RunError",
    "SpaceError",
    "Trainer",
    "TrustError",
    "check_env",
    "load",
    "load_seeds",
    "make_env",
    "make_trainer",
    "plot",
    "record",
    "register_algorithm",
    "register_env",
    "register_model",
    "register_preprocessor",
    "render_mp4",
    "resume",
    "run",
    "run_seeds",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in ALGORITHMS:
        value: Any = _maker(name)
    elif name in _HOMES:
        with without_collection():
            value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name == "tune":
        with without_collection():
            value = importlib.import_module("poise.tune")
    elif name == "__version__":
        value = importlib.import_module("poise.install").version_of_poise()
    else:
        known = ", ".join(ALGORITHMS)
        hint = algorithm_hint(name, __all__)
        raise AttributeError(f"module 'poise' has no attribute {name!r}.{hint} The algorithms are {known}.")
    globals()[name] = value
    return value


def _maker(name: str) -> Any:
    """`poise.PPO` and its siblings: `make_trainer` with the algorithm's own signature and documentation."""
    from poise.config.signature import documentation, signature

    def make(*env: Any, **settings: Any) -> Any:
        policy = env and isinstance(env[0], str) and env[0].endswith("Policy")
        if policy or len(env) + ("env" in settings) > 1:
            raise ConfigError(
                f"poise.{name} takes the environment alone: poise.{name}('CartPole-v1'). The network follows from its "
                "spaces; settings are keywords."
            )
        return __getattr__("make_trainer")(name, *env, **settings)

    def load(*_: Any, **__: Any) -> Any:
        raise ConfigError(f"poise.load(path) loads a trainer of any algorithm; there is no poise.{name}.load.")

    made: Any = make
    made.__name__ = made.__qualname__ = name
    made.__module__, made.__doc__ = __name__, documentation(name)
    made.__signature__, made.load = signature(name), load
    return made


def __dir__() -> list[str]:
    return __all__
