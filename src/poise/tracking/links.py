"""Writing in a folder that somebody else may have packed: nothing of it lands elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from poise.errors import RunError


def refuse_links(path: str | Path) -> None:
    """Refuses a folder, or a file in it, with links that lead out of it; call it before writing.

    Raises:
        RunError: a symbolic link in it leads out of it.
    """
    target = Path(path)
    folder = os.path.realpath(target if target.is_dir() else target.parent)
    inside = (
        os.path.join(at, name)
        for at, folders, files in os.walk(folder)
        for name in (*folders, *files)
    )
    for found in inside if target.is_dir() else [str(target)]:
        if os.path.islink(found) and not os.path.realpath(found).startswith(folder + os.sep):
            raise RunError(
                f"{found} is a symbolic link to {os.readlink(found)}, outside of {folder}: "
                "Poise writes through none of these. Put there what it leads to, or remove it."
            )
