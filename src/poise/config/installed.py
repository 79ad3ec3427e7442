"""Algorithms of installed packages: their entry points of the group `poise.algorithms`.

    [project.entry-points."poise.algorithms"]
    SAC = "my_package.register"

The entry's name is the algorithm's. Its value is a module that calls `poise.register_algorithm`
when it is imported, or a function that does so when it is called. Neither happens before somebody
asks for an algorithm of this name.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "poise.algorithms"


def entries() -> dict[str, EntryPoint]:
    """The entry points by name.

    The folder where the user stands is left out: what lies there is a file, not installed.
    """
    # Imported here, because `poise --help` does without.
    from importlib.metadata import distributions

    here = os.path.realpath(".")
    path = [folder for folder in sys.path if os.path.realpath(folder) != here]
    found: dict[str, EntryPoint] = {}
    for each in distributions(path=path):
        for entry in each.entry_points.select(group=GROUP):
            found.setdefault(entry.name, entry)  # the first on the path counts, as of modules
    return found


def bring_in(name: object) -> str:
    """Lets the installed package that has an algorithm of this name register it.

    Returns:
        A sentence if that failed or registered nothing; empty without such a package.
    """
    wanted = str(name).lower()
    entry = next((entry for known, entry in entries().items() if known.lower() == wanted), None)
    if entry is None:
        return ""
    try:
        found = entry.load()
        if callable(found):
            found()
    except (Exception, SystemExit) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        return (
            f"The algorithm {entry.name} is of an installed package that cannot be used: "
            f"{entry.value} ({why})."
        )
    return (
        f"The algorithm {entry.name} is of an installed package that has none of this name: "
        f"{entry.value}."
    )
