"""Which Gym a script means: until 0.25, `step` returned four values, and since then five.

Both are called by the same names, but the line that calls tells: `obs, info = env.reset()` takes
two values, and `obs, reward, done, info = env.step(action)` four. So the call looks at how many
values its line takes apart.
"""

from __future__ import annotations

import dis
import sys
from functools import lru_cache
from types import CodeType, FrameType

PASSED_ON = -1


def values_taken() -> int | None:
    """How many values the line takes apart that the asking function returns to.

    `env.reset()[0]` counts as two, since it leaves the info. Where the line returns the result
    itself, as wrappers do, the line that called it tells.

    Returns:
        None if it takes the result whole.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        found = _after(frame.f_code, frame.f_lasti)
        ours = frame.f_globals.get("__name__", "").startswith("poise.compat.")
        if found != PASSED_ON and not (found is None and ours):
            return found
        frame = frame.f_back
    return None


@lru_cache(4096)
def _after(code: CodeType, call: int) -> int | None:
    """What the instructions after that of a call, at an offset, take of its result."""
    following = [each for each in dis.get_instructions(code) if each.offset > call][:2]
    names = [each.opname for each in following]
    if names[:1] == ["UNPACK_SEQUENCE"]:
        return following[0].arg
    if names[:1] == ["RETURN_VALUE"]:
        return PASSED_ON
    is_first = len(names) == 2 and names[0].startswith("LOAD_") and following[0].argval == 0
    return 2 if is_first and names[1] in ("BINARY_SUBSCR", "BINARY_OP") else None
