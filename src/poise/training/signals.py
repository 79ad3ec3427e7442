"""Turns the first interrupt into a stop in good order, and the second into an end at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


def acknowledge(reason: str) -> None:
    """Says at once that a signal was heard; from its handler, which may run at any moment."""
    with suppress(Exception):  # a stream that is being written to, or has gone
        print(
            f"{reason.capitalize()}: stopping before the next step of the environments, "
            "or after the update that is under way. What was sampled is kept. "
            "Ctrl-C now ends at once.",
            file=sys.stderr,
            flush=True,
        )


@contextmanager
def stopping_on(signals: tuple[signal.Signals, ...], stop: Callable[[str], None]) -> Iterator[None]:
    """While inside, the first of `signals` calls `stop`; a second one does what it did before.

    Outside the main thread signals cannot be caught, and nothing is changed. A SIGHUP that the
    process was told to ignore (`nohup`) stays ignored.

    Args:
        signals: that are caught.
        stop: takes `"interrupted"` for SIGINT, `"preempted"` for any other.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous: dict[signal.Signals, object] = {}

    def handler(number: int, frame: FrameType | None) -> None:
        restore()
        stop("interrupted" if number == signal.SIGINT else "preempted")

    def restore() -> None:
        for caught, old in previous.items():
            if signal.getsignal(caught) is handler:
                signal.signal(caught, old)  # type: ignore[arg-type]

    try:  # from here on: a signal may come between one handler and the next
        for caught in signals:
            previous[caught] = signal.getsignal(caught)
            if caught != signal.SIGINT and previous[caught] is signal.SIG_IGN:
                continue
            signal.signal(caught, handler)
        yield
    finally:
        restore()
