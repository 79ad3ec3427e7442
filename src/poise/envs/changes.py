"""What a process has changed in Poise itself, such as a loss of its own, goes to its children.

A script may put a function of its own in the place of one of Poise's (`PPO.loss = mine`), or other
numbers in the place of its constants and presets. A child process that did not have them would
silently train something else.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from poise.errors import RunError

WRITTEN = "_written"
"""Attribute in which a class keeps its attributes as they were written, so that a change shows."""
OURS = {
    "poise", "torch", "numpy", "gymnasium", "safetensors", "cloudpickle", "click", "rich", "yaml",
    "filelock", "imageio_ffmpeg", "optuna", "matplotlib", "tensorboard", "ale_py", "IPython",
    "pandas", "scipy", "typing_extensions",
}  # fmt: skip
"""Packages whose functions Poise itself has in its modules."""
ROOMS = (
    "spaces.", "learning.", "config.", "children.", "envs.", "stepping.", "models.", "sampling.",
    "algorithms.", "training.",
)  # fmt: skip
"""How the names of the modules begin that decide what is learnt."""


class Change(NamedTuple):
    """One attribute of a module of Poise, or of a class in it, that a script has replaced."""

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
    """All constants in capitals that are plain values, as they stand in this process.

    Whether one was changed (such as an entry of `PRESETS`) does not show, so that children take all
    of them.
    """
    return [
        Change(module, "", name, value)
        for module, names in _loaded(rooms)
        for name, value in names.items()
        if name.isupper() and _is_plain(value)
    ]


def _is_plain(value: Any) -> bool:
    """Whether a value is a number or a text, or a container of such."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _loaded(rooms: tuple[str, ...]) -> list[tuple[str, dict[str, Any]]]:
    """The modules of these rooms that are imported, each with its attributes."""
    wanted = tuple(f"poise.{room}" for room in rooms)
    loaded = sorted(name for name in sys.modules if f"{name}.".startswith(wanted))
    return [(name, dict(vars(sys.modules[name]))) for name in loaded]


def _in_module(module: str, names: dict[str, Any]) -> Iterator[Change]:
    """What is changed in a module, and in the classes that it defines."""
    for name, value in names.items():
        if _is_foreign(value):
            yield Change(module, "", name, value)
        elif isinstance(value, type) and value.__module__ == module:
            for key, item in list(vars(value).items()):
                if _is_changed(key, item, vars(value).get(WRITTEN)):
                    yield Change(module, value.__qualname__, key, item)


def _is_changed(key: str, value: Any, written: dict[str, Any] | None) -> bool:
    """Whether an attribute of a class was replaced; `written` is as the class keeps it, or None."""
    if written is None:
        return _is_foreign(value)
    if key.startswith(("__", "_abc", WRITTEN)):
        return False
    return key not in written or value is not written[key]


def _is_foreign(value: Any) -> bool:
    """Whether it is a function or a class that neither Poise nor its packages have written."""
    if isinstance(value, property):
        value = value.fget
    value = getattr(value, "__func__", value)  # of classmethod and staticmethod
    if not isinstance(value, type) and not hasattr(value, "__code__"):
        return False
    home = str(getattr(value, "__module__", "poise") or "poise").partition(".")[0]
    ours = home in OURS or home in sys.stdlib_module_names
    return not ours and not home.startswith("namedtuple_")


def sendable(rooms: tuple[str, ...] = ROOMS) -> list[Change]:
    """What this process has changed, or may have, for a child process; `rooms` as for `changes`.

    Raises:
        RunError: a class stands in the place of its own base class, which the child would look for
            there.
    """
    found = changes(rooms)
    for change in found:
        value = change.value
        bases = value.__mro__ if isinstance(value, type) and not change.owner else ()
        if (change.module, change.name) in [(b.__module__, b.__qualname__) for b in bases]:
            raise RunError(
                f"{change} is replaced by {value.__qualname__}, which is derived from it: "
                "that cannot go to other processes. Change its methods instead "
                f"({change.name}.loss = ...), or give it a name of its own with "
                "poise.register_algorithm."
            )
    return [*found, *constants(rooms)]


def lacking(names: object) -> str:
    """A sentence about changes that a run was trained with and this process lacks; or nothing."""
    had = {str(name) for name in names} if isinstance(names, list) else set()
    missing = sorted(had - {str(change) for change in changes()}) if had else []
    if not missing:
        return ""
    return (
        f"It was trained with {', '.join(missing)} changed by its script, "
        "which this process has not: what is trained now is Poise's own."
    )


def apply(changed: list[Change]) -> None:
    """Makes the same changes in this process."""
    # All are imported first: a module that imports from a changed one would count as changed, too.
    for module in dict.fromkeys(change.module for change in changed):
        importlib.import_module(module)
    for module, owner, name, value in changed:
        target: Any = sys.modules[module]
        for part in owner.split(".") if owner else ():
            target = getattr(target, part)
        setattr(target, name, value)
