"""Ids that Gymnasium retired: which of those that live takes the place of each."""

from __future__ import annotations

import re
from typing import Any

import gymnasium

from poise.compat.gym.core import say_once
from poise.config.atari import atari_name

_ID = re.compile(r"(?P<name>.+)-v(?P<version>\d+)")
_ATARI = re.compile(r"(?P<game>\w+?)(?P<ram>-ram)?(?P<kind>NoFrameskip|Deterministic)?-v[04]")
_FRAMES = {"NoFrameskip": 1, "Deterministic": 4, None: (2, 5)}


def living(env_id: str) -> str:
    """The id itself, or where it is retired, the next version that can be made; that is said once.

    An id that has none is returned as it is: making it says what there is.
    """
    found = _ID.fullmatch(env_id)
    if found is None or lives(env_id):
        return env_id
    name, version = found["name"], int(found["version"])
    family = [each for each in gymnasium.registry if each.startswith(f"{name}-v")]
    versions = sorted(int(each.rpartition("-v")[2]) for each in family if lives(each))
    later = [each for each in versions if each > version] or versions[-1:]
    if not later:
        return env_id
    say_once(f"{env_id} is retired: {name}-v{later[0]} takes its place.")
    return f"{name}-v{later[0]}"


def lives(env_id: str) -> bool:
    """Whether Gymnasium has it, and not merely what tells that it had it once."""
    spec = gymnasium.registry.get(env_id)
    maker = getattr(spec, "entry_point", None)
    return spec is not None and not getattr(maker, "__name__", "").startswith("_raise")


def as_in_gym(env_id: str) -> tuple[str, dict[str, Any]] | None:
    """An Atari game's id and settings by which the emulator's is what Gym's was; else None.

    Its pictures are the console's: Poise prepares them only where it is asked for by name.
    """
    found = _ATARI.fullmatch(env_id)
    name = atari_name(env_id.replace("-ram", "") if found else env_id)
    if name is None:
        return None
    import ale_py

    gymnasium.register_envs(ale_py)
    if found is None:
        return env_id.removeprefix("ale_py:"), {}
    kind = {"obs_type": "ram" if found["ram"] else "rgb", "frameskip": _FRAMES[found["kind"]]}
    limit = {"max_num_frames_per_episode": 108_000}
    return f"ALE/{found['game']}-v5", {
        **kind, **limit, "repeat_action_probability": name.sticky_actions,
    }  # fmt: skip
