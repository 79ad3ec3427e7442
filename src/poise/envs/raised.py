"""What an environment's code raised: its own traceback, one line about it, or the user's Ctrl-C."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType


def own_traceback(error: BaseException) -> str:
    """The traceback of an exception, without the frames of Poise before the environment's code."""
    frame: TracebackType | None = error.__traceback__
    while frame is not None and _is_ours(frame):
        frame = frame.tb_next
    return "".join(traceback.format_exception(type(error), error, frame)).rstrip()


def _is_ours(frame: TracebackType) -> bool:
    return str(frame.tb_frame.f_globals.get("__package__")).partition(".")[0] == "poise"


def raised_in(error: BaseException, package: str) -> bool:
    """Whether a package's own code raised an exception."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and str(frames[-1].f_globals.get("__name__")).startswith(f"{package}.")


def said(error: BaseException) -> str:
    """An exception in one line: `ValueError: text`, or its bare name where it says nothing."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # an exception whose own __str__ fails
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_interrupt(error: BaseException) -> bool:
    """Whether an exception from an environment's code is the user's Ctrl-C, and no failure of it.

    A signal handler written in Python leaves its frame in the traceback. The interpreter's own
    leaves none: whatever comes while that is in force is taken for the user's (see
    `telling_interrupts`).
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or not isinstance(error, KeyboardInterrupt):
        return False
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    by_poise = bool(frames) and str(frames[-1].f_globals.get("__name__")).startswith("poise.")
    return by_poise or getattr(handler, "__code__", handler) in [frame.f_code for frame in frames]


@contextmanager
def telling_interrupts() -> Iterator[None]:
    """Inside, Ctrl-C can be told from a `KeyboardInterrupt` that an environment raises by itself.

    It replaces the interpreter's own handler by one in Python, which shows in tracebacks.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
