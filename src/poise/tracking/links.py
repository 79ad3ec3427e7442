"""Writing in a folder that may be somebody else's: nothing that Poise writes there lands elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from poise.errors import RunError


def refuse_links(path: str | Path) -> None:
    """To be called before writing in a folder, or a file of it: whoever packed it may have put
    links there.

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
