"""`stable_baselines3`: its scripts train with Poise, by its arguments and defaults."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from poise.compat.missing import names_of
from poise.compat.stable_baselines3 import common, her
from poise.compat.stable_baselines3.her import HerReplayBuffer
from poise.compat.stable_baselines3.models import A2C, DDPG, DQN, PPO, SAC, TD3

__version__ = "2.9.2"

__all__ = ["A2C", "DDPG", "DQN", "PPO", "SAC", "TD3", "HerReplayBuffer", "common"]

__getattr__ = names_of(
    "stable_baselines3",
    __all__,
    {"HER": "It is a replay: replay_buffer_class=HerReplayBuffer of SAC, TD3, DDPG or DQN."},
)

_WHERE = {
    common.vec_env: (
        "base_vec_env", "dummy_vec_env", "subproc_vec_env", "vec_check_nan", "vec_frame_stack",
        "vec_monitor", "vec_normalize", "vec_transpose", "vec_video_recorder",
    ),
    her: ("goal_selection_strategy", "her_replay_buffer", "her"),
}  # fmt: skip
"""Modules whose names are those of the package that they are in."""
for _package, _names in _WHERE.items():
    sys.modules.update({f"{_package.__name__}.{each}": _package for each in _names})


class NamedPolicy(str):
    """A policy by its name, which can be read from a file that `model.policy.save` wrote.

    Attributes:
        kind: the algorithm that it is of.
    """

    kind: Any

    def load(self, path: Any, device: Any = "auto") -> Any:
        """The policy of a file, with `predict`."""
        return self.kind.load(path).policy


def _named(name: str, kind: Any) -> NamedPolicy:
    made = NamedPolicy(name)
    made.kind = kind
    return made


for _kind in (A2C, DDPG, DQN, PPO, SAC, TD3):  # `from stable_baselines3.ppo import PPO, MlpPolicy`
    _name = f"{__name__}.{_kind.__name__.lower()}"
    for _module in (_name, f"{_name}.policies", f"{_name}.{_kind.__name__.lower()}"):
        sys.modules[_module] = ModuleType(_module)
        vars(sys.modules[_module]).update(
            {_kind.__name__: _kind, "__path__": []}
            | {
                policy: _named(policy, _kind)
                for policy in ("MlpPolicy", "CnnPolicy", "MultiInputPolicy")
            }
        )
