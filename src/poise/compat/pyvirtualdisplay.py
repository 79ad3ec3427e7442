"""`Display`, which films needed once: Poise renders without one."""

from __future__ import annotations

from typing import Any


class Display:
    """Does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def start(self) -> Display:
        return self

    def stop(self) -> Display:
        return self

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: Any) -> None:
        pass
