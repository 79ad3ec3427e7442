"""`ray`, as RLlib's and Ray Tune's scripts use it.

All its modules are found by `poise.compat.names`, which says where each name is.
"""

from __future__ import annotations

from typing import Any

from poise.compat import names

__version__ = "1.13.0"
"""Scripts ask for it, to choose between the names of two eras: all are here."""

names.install()


def __getattr__(name: str) -> Any:
    return names.find("", name)
