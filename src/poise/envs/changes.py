"""What a process has changed in Poise itself, such as a loss of one's own: it goes with the work to
child processes.

A script may put a function of its own in the place of one of Poise's (`PPO.loss = mine`), or other
numbers in the place of its constants and presets. A child that did not have them would train
something else without a word.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from poise.errors import RunError

WRITTEN = "_written"
"""Attribute in which a class keeps what it was written with: all that is changed in it is known."""
OURS = {
    "poise", "torch", "numpy", "gymnasium", "safetensors", "cloudpickle", "click", "rich", "yaml", "filelock",
    "imageio_ffmpeg", "optuna", "matplotlib", "tensorboard", "ale_py", "IPython", "pandas", "scipy",
    "typing_extensions",
}  # fmt: skip
"""Packages whose functions Poise has in its modules by itself."""
ROOMS = (
    "spaces.",
    "learning.",
    "config.",
    "children.",
    "envs.",
    "stepping.",
    "models.",
    "sampling.",
    "algorithms.",
    "training.",
)
"""Beginnings of the modules that what is learnt depends on."""


class Change(NamedTuple):
    """One attribute of a module of Poise, or of a class in it, that holds something else than was
    written there."""

    module: str
    owner: str
    name: str
    value: Any

    def __str__(self) -> str:
        return ".".join(part for part in (self.module, self.owner, self.name) if part)


def changes(rooms: tuple[str, ...] = ROOMS) -> list[Change]:
    """What this process has changed.

    Args:
        rooms: beginnings of the modules that matter.
    """
    return [change for name, names in _loaded(rooms) for change in _in_module(name, names)]


def constants(rooms: tuple[str, ...] = ROOMS) -> list[Change]:
    """Numbers, texts and tables of such, in capitals, as they stand in this process: whether one
    was changed (such as an entry of `PRESETS`) cannot be told, so that children take all of them.
    """
    known = [
        Change(module, "", *item) for module, names in _loaded(rooms) for item in names.items()
    ]
    return [each for each in known if each.name.isupper() and _is_plain(each.value)]


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _loaded(rooms: tuple[str, ...]) -> list[tuple[str, dict[str, Any]]]:
    wanted = tuple(f"poise.{room}" for room in rooms)
    loaded = sorted(name for name in sys.modules if f"{name}.".startswith(wanted))
    return [(name, dict(vars(sys.modules[name]))) for name in loaded]


def _in_module(module: str, names: dict[str, Any]) -> Iterator[Change]:
    for name, value in names.items():
        if _is_foreign(value):
            yield Change(module, "", name, value)
        elif isinstance(value, type) and value.__module__ == module:
            written = vars(value).get(WRITTEN)
            for key, item in list(vars(value).items()):
                own = written is not None and not key.startswith(("__", "_abc", WRITTEN))
                if (
                    _is_foreign(item)
                    if written is None
                    else own and item is not written.get(key, written)
                ):
                    yield Change(module, value.__qualname__, key, item)


def _is_foreign(value: Any) -> bool:
    """Whether it is a function or a class that neither Poise nor one of its packages has written."""
    if isinstance(value, property):
        value = value.fget
    value = getattr(value, "__func__", value)  # of classmethod and staticmethod
    if not isinstance(value, type) and not hasattr(value, "__code__"):
        return False
    home = str(getattr(value, "__module__", "poise") or "poise").partition(".")[0]
    return (
        home not in OURS
        and home not in sys.stdlib_module_names
        and not home.startswith("namedtuple_")
    )


def sendable(rooms: tuple[str, ...] = ROOMS) -> list[Change]:
    """What this process has changed, or may have, for a child process; `rooms` as for `changes`.

    Raises:
        RunError: a class stands in the place of the one that it is derived from, which would be
            missing there.
    """
    found = changes(rooms)
    for change in found:
        bases = value.__mro__ if isinstance(value := change.value, type) else ()
        if not change.owner and any(
            (b.__module__, b.__qualname__) == (change.module, change.name) for b in bases
        ):
            raise RunError(
                f"{change} is replaced by {value.__qualname__}, which is derived from it: "
                "that cannot go to other processes. Change its methods instead "
                f"({change.name}.loss = ...), or give it a name of its own with "
                "poise.register_algorithm."
            )
    return [*found, *constants(rooms)]


def lacking(names: object) -> str:
    """A sentence about changes that a run was trained with and this process does not have; empty
    without any."""
    had = {str(name) for name in names} if isinstance(names, list) else set()
    missing = sorted(had - {str(change) for change in changes()}) if had else []
    what = (
        f"It was trained with {', '.join(missing)} changed by its script, "
        "which this process has not"
    )
    return f"{what}: what is trained now is Poise's own." if missing else ""


def apply(changed: list[Change]) -> None:
    """Makes the same changes in this process."""
    for module in dict.fromkeys(change.module for change in changed):
        importlib.import_module(
            module
        )  # all of them first: what is imported from a changed one later is not changed
    for module, owner, name, value in changed:
        target: Any = sys.modules[module]
        for part in owner.split(".") if owner else ():
            target = getattr(target, part)
        setattr(target, name, value)
