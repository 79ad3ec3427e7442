"""The classes of algorithms and configurations by RLlib's names: `PPOTrainer`, `PPO`, `PPOConfig`.

Each is made when it is first asked for.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from poise.compat.ray_missing import AbsentError, instead_of
from poise.errors import nearest

ALGORITHMS = {
    "PPO": "PPO", "APPO": "APPO", "A2C": "A2C", "A3C": "A2C", "DQN": "DQN", "IMPALA": "IMPALA",
    "Impala": "IMPALA", "SAC": "SAC", "TD3": "TD3", "DDPG": "DDPG",
}  # fmt: skip
"""RLlib's algorithms that there are, by its names; A3C without its races is A2C."""

_NAME = re.compile(r"(\w+?)(Trainer|Agent|Config)?")


@cache
def of_name(name: str) -> Any:
    """The class of this name; None where it is not that of an algorithm of Poise's."""
    from poise.compat.rllib.algorithm import Algorithm
    from poise.compat.rllib.config import AlgorithmConfig

    if name == "Trainer":
        return Algorithm
    found = _NAME.fullmatch(name)
    label, kind = found.groups() if found else (name, None)
    if label not in ALGORITHMS:
        return None
    base = AlgorithmConfig if kind == "Config" else Algorithm
    own = {"algorithm": ALGORITHMS[label], "__doc__": f"RLlib's `{name}`.", "__module__": __name__}
    return type(name, (base,), own) if kind == "Config" or not kind else of_name(label)


def __getattr__(name: str) -> Any:  # for what is sent to another process by its name
    found = None if name.startswith("__") else of_name(name)
    if found is None:
        raise AttributeError(name)
    return found


def get_trainable_cls(name: str) -> Any:
    """The class of an algorithm by its name.

    Raises:
        AbsentError: there is no such algorithm here.
    """
    if (found := of_name(name)) is None:
        hint = f" {instead_of(name)}" if instead_of(name) else nearest(name, ALGORITHMS)
        raise AbsentError(f"There is no algorithm {name!r} here.{hint}")
    return found


get_agent_class = get_trainer_class = get_trainable_cls


def get_algorithm_class(name: str, return_config: bool = False) -> Any:
    """The class of an algorithm by its name, with its default configuration if asked for."""
    found = get_trainable_cls(name)
    return (found, found.get_default_config()) if return_config else found
