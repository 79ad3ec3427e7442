"""Poise: reinforcement-learning training, on a laptop in seconds.

    import poise

    algo = poise.PPO("CartPole-v1")
    algo.learn(stop={"episode_reward_mean": 475})
    algo.save("solved")

`import poise` loads nothing heavy: what a name needs (PyTorch, Gymnasium) is imported when the name
is first used, so that the command answers at once. `__init__.pyi` says where each name is.
"""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path
from typing import Any

from poise.config.algorithms import ALGORITHMS, TAKEN, algorithm_names, algorithm_spec
from poise.config.hints import algorithm_hint
from poise.errors import ConfigError
from poise.startup import without_collection

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_FROM = [node for node in _STUB.body if isinstance(node, ast.ImportFrom)]
_HOMES = {each.name: str(node.module) for node in _FROM for each in node.names if each.asname}
__all__ = sorted([*ALGORITHMS, *_HOMES])
TAKEN.update(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        with without_collection():
            own = _HOMES[name] == __name__  # `poise.tune`, a module
            home = importlib.import_module(f"poise.{name}" if own else _HOMES[name])
            value = home if own else getattr(home, name)
    elif name == "__version__":
        value = importlib.import_module("poise.install").version_of_poise()
    elif name in ALGORITHMS or (name[:1] != "_" and name in algorithm_names()):
        try:
            return _maker(name, algorithm_spec(name)[1].config)
        except ConfigError as error:  # of an installed package that cannot be used
            raise AttributeError(str(error)) from error
    else:
        hint = algorithm_hint(name, __dir__())
        known = ", ".join(ALGORITHMS)
        raise AttributeError(
            f"module 'poise' has no attribute {name!r}.{hint} The algorithms are {known}."
        )
    globals()[name] = value
    return value


@cache
def _maker(name: str, config: type) -> Any:
    """`poise.PPO` and its siblings: `make_trainer` with an algorithm's signature and settings."""
    from poise.config.signature import documentation, signature

    def make(*env: Any, **settings: Any) -> Any:
        policy = env and isinstance(env[0], str) and env[0].endswith("Policy")
        if policy or len(env) + ("env" in settings) > 1:
            raise ConfigError(
                f"poise.{name} takes the environment alone: poise.{name}('CartPole-v1'). "
                "The network follows from its spaces; settings are keywords."
            )
        return __getattr__("make_trainer")(name, *env, **settings)

    def load(*_: Any, **__: Any) -> Any:
        raise ConfigError(
            f"poise.load(path) loads a trainer of any algorithm; there is no poise.{name}.load."
        )

    made: Any = make
    made.__name__ = made.__qualname__ = name
    made.__module__, made.__doc__ = __name__, documentation(name)
    made.__signature__, made.load = signature(name), load
    return made


def __dir__() -> list[str]:
    return sorted({*__all__, *algorithm_names()})
