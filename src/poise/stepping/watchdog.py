"""Says where an environment hangs that is stepped in this process.

It cannot be replaced there, as one in a worker process can.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable

from poise.stepping.failures import Failure
from poise.stepping.inline import IDLE, InlineVectorEnv
from poise.stepping.process import Limits

_LOOK_S = 1.0


def watch(env: InlineVectorEnv, limits: Limits, report: Callable[[Failure], None]) -> None:
    """Watches a batch of environments from a thread of its own, for as long as it exists.

    Args:
        env: the batch.
        limits: the time that one environment may take.
        report: called from the watching thread, once for each hang.
    """
    # The batch holds it: a thread that did would keep the trainer alive.
    env.report_hang = report
    args = (weakref.ref(env), limits)
    threading.Thread(target=_watch, args=args, name="poise-watch", daemon=True).start()


def _watch(reference: weakref.ref[InlineVectorEnv], limits: Limits) -> None:
    """Looks at the pulse now and then, until the batch is gone."""
    last, since, told = -1, time.monotonic(), False
    while True:
        time.sleep(min(_LOOK_S, limits.step / 2))
        env = reference()
        if env is None or env.closed:
            return
        beat, phase = int(env.pulse[0]), int(env.pulse[1])
        thread, report = env.thread, env.report_hang
        now = time.monotonic()
        if beat != last or phase == IDLE:
            last, since, told = beat, now, False
        elif now - since > limits.of(phase) and not told:
            told = True
            report(_hang(thread, now - since))
        del env, report  # else they would live on while this thread sleeps


def _hang(thread: int, seconds: float) -> Failure:
    """What hangs, with the frames of the thread below Poise's own."""
    frame = sys._current_frames().get(thread)
    stack = traceback.extract_stack(frame) if frame is not None else []
    below = max((i for i, entry in enumerate(stack) if entry.filename == _INLINE), default=-1)
    where = "".join(traceback.format_list(stack[below + 1 :])).rstrip()
    what = (
        f"An environment has not returned for {seconds:.0f} s. It is stepped in this process, "
        "which cannot go on without it: stop the run with Ctrl-C, "
        "or use num_workers to have such an environment replaced."
    )
    return Failure("hung", what, where)


_INLINE = InlineVectorEnv.recv.__code__.co_filename
