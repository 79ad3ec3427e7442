"""A zoo of environments with one fault each, to train in.

Each does one thing wrong, once, in the middle of a run.

All others of a batch go on, and what they show tells where they stand: see `Scripted`. A fault that
is to happen once in a whole run, in whichever process, is remembered in a file.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from environments import Scripted

FOREVER = 1000
STEP, RESET, MAKE = 1.0, 1.5, 2.0
"""Limits in seconds for those that hang; for one environment each."""


class Sound(Scripted):
    """Does nothing wrong.

    Episodes of 5 and 7 steps. `trip` is what most others do wrong, at step 3 of the second episode.
    """

    def __init__(self, flag: str) -> None:
        super().__init__((5, 7), ("terminated", "truncated"))
        self.flag = flag

    def first(self, what: str = "") -> bool:
        """Whether nobody has asked this before, in any process."""
        try:
            os.close(os.open(self.flag + what, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def step(self, action: Any) -> Any:
        found = super().step(action)
        if (
            (self.episode, self.now) == (2, 3)
            and type(self).trip is not Sound.trip
            and self.first()
        ):
            changed = self.trip()
            return found if changed is None else changed(*found)
        return found

    def trip(self) -> Any:
        """What goes wrong: either here, or as a function of what `step` would return."""


# --- exceptions -----------------------------------------------------------------------------------


class Raises(Sound):
    def trip(self) -> Any:
        raise ValueError("the wheel came off")


class Unpicklable(Exception):  # noqa: N818
    def __init__(self, where: str, lock: Any) -> None:
        super().__init__(where, lock)
        self.lock = lock

    def __str__(self) -> str:
        return "held by a lock"


class RaisesWhatCannotBePickled(Sound):
    def trip(self) -> Any:
        raise Unpicklable("here", threading.Lock())


class RaisesWithoutAWord(Sound):
    def trip(self) -> Any:
        raise RuntimeError


class Mute(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError("no words")


class RaisesWhatCannotBeShown(Sound):
    def trip(self) -> Any:
        raise Mute


class Exits(Sound):
    def trip(self) -> Any:
        sys.exit("enough")


class Interrupts(Sound):
    def trip(self) -> Any:
        raise KeyboardInterrupt


class Cancels(Sound):
    def trip(self) -> Any:
        raise asyncio.CancelledError("the task is over")


class RaisesInReset(Sound):
    def reset(self, **kwargs: Any) -> Any:
        found = super().reset(**kwargs)
        if self.episode == 3 and self.first():
            raise KeyError("start")
        return found


class RaisesWhenMadeAgain(Raises):
    def __init__(self, flag: str) -> None:
        super().__init__(flag)
        if os.path.exists(flag) and self.first("-made"):
            raise FileNotFoundError("map.txt")


class RaisesWhenMade(Sound):
    def __init__(self, flag: str) -> None:
        raise FileNotFoundError("map.txt")


class AlwaysRaises(Sound):
    def step(self, action: Any) -> Any:
        super().step(action)
        return {}["door"]


# --- the end of the process -----------------------------------------------------------------------


class EndsItsProcess(Sound):
    def trip(self) -> Any:
        os._exit(3)


class KillsItself(Sound):
    def trip(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class Segfaults(Sound):
    def trip(self) -> Any:
        ctypes.string_at(0)


class StartsSlowly(EndsItsProcess):
    """Its fresh instance takes so long to make that the others go on meanwhile."""

    def __init__(self, flag: str) -> None:
        super().__init__(flag)
        if os.path.exists(flag):
            time.sleep(0.4)


class ResetsSlowly(EndsItsProcess):
    """Its fresh instances count their episodes from 101; their first resets take their time."""

    def __init__(self, flag: str) -> None:
        super().__init__(flag)
        self.again = os.path.exists(flag)
        self.episode = 101 * self.again

    def reset(self, **kwargs: Any) -> Any:
        found = super().reset(**kwargs)
        if self.again and self.episode == 101:
            time.sleep(0.1)
        return found


class Leaks(Sound):
    hoard: bytes

    def trip(self) -> Any:
        self.hoard = b"x" * 2**28
        # The memory is looked at once a second.
        time.sleep(1.1)


class AlwaysDies(Sound):
    """Its process cannot be brought back once it has ended."""

    def __init__(self, flag: str) -> None:
        super().__init__(flag)
        if os.path.exists(flag):
            os._exit(4)

    def trip(self) -> Any:
        os._exit(3)


class AlwaysLarge(EndsItsProcess):
    """It is small once; its successors are too large from the start."""

    def __init__(self, flag: str) -> None:
        super().__init__(flag)
        self.hoard = b"x" * (2**28 if os.path.exists(flag) else 1)


# --- hangs ----------------------------------------------------------------------------------------


class Sleeps(Sound):
    def trip(self) -> Any:
        time.sleep(FOREVER)


class HoldsTheLock(Sound):
    def trip(self) -> Any:
        ctypes.PyDLL(None).sleep(FOREVER)  # unlike CDLL, it keeps Python's interpreter lock


class HangsInReset(Sound):
    def reset(self, **kwargs: Any) -> Any:
        found = super().reset(**kwargs)
        if self.episode == 3 and self.first():
            time.sleep(FOREVER)
        return found


class HangsWhenMadeAgain(EndsItsProcess):
    def __init__(self, flag: str) -> None:
        super().__init__(flag)
        if os.path.exists(flag) and self.first("-made"):
            time.sleep(FOREVER)


class HangsWhenMade(Sound):
    def __init__(self, flag: str) -> None:
        time.sleep(FOREVER)


# --- the contract ---------------------------------------------------------------------------------


class NanInObservation(Sound):
    def trip(self) -> Any:
        return lambda obs, *rest: (np.array([np.nan, obs[1]], np.float32), *rest)


class NanInReset(Sound):
    def reset(self, **kwargs: Any) -> Any:
        obs, info = super().reset(**kwargs)
        return (obs * np.float32("nan") if self.episode == 3 and self.first() else obs), info


class InfiniteReward(Sound):
    def trip(self) -> Any:
        return lambda obs, reward, *rest: (obs, float("inf"), *rest)


class RewardIsText(Sound):
    def trip(self) -> Any:
        return lambda obs, reward, *rest: (obs, "ten", *rest)


class RewardIsNone(Sound):
    def trip(self) -> Any:
        return lambda obs, reward, *rest: (obs, None, *rest)


class RewardIsArray(Sound):
    def trip(self) -> Any:
        return lambda obs, reward, *rest: (obs, np.array([1.0]), *rest)


class FlagIsNone(Sound):
    def trip(self) -> Any:
        return lambda obs, reward, terminated, *rest: (obs, reward, None, *rest)


class FlagIsText(Sound):
    def trip(self) -> Any:
        return lambda obs, reward, terminated, truncated, info: (obs, reward, False, "no", info)


class InfoIsNone(Sound):
    def reset(self, **kwargs: Any) -> Any:
        return super().reset(**kwargs)[0], None


class WrongShape(Sound):
    def trip(self) -> Any:
        return lambda obs, *rest: (obs[:1], *rest)


class Whole(Sound):
    """Shows whole numbers."""

    observation_space = spaces.Box(-1000, 1000, (2,), np.int64)

    def reset(self, **kwargs: Any) -> Any:
        obs, info = super().reset(**kwargs)
        return obs.astype(np.int64), info

    def step(self, action: Any) -> Any:
        obs, *rest = super().step(action)
        return (obs.astype(np.int64) if (obs == obs.round()).all() else obs, *rest)


class FractionInWholeNumbers(Whole):
    def trip(self) -> Any:
        return lambda obs, *rest: (obs + np.float32(0.25), *rest)


class Nested(Sound):
    """Shows a dictionary: where it stands, and a number from 0 to 2."""

    observation_space = spaces.Dict(
        {"value": Scripted.observation_space, "gear": spaces.Discrete(3)}
    )
    gear = 1

    def reset(self, **kwargs: Any) -> Any:
        obs, info = super().reset(**kwargs)
        return {"value": obs, "gear": self.gear}, info

    def step(self, action: Any) -> Any:
        obs, *rest = super().step(action)
        return (obs if isinstance(obs, dict) else {"value": obs, "gear": self.gear}, *rest)


class OutOfDiscrete(Nested):
    def trip(self) -> Any:
        return lambda obs, *rest: ({"value": obs, "gear": 3}, *rest)


class LacksKey(Nested):
    def trip(self) -> Any:
        return lambda obs, *rest: ({"value": obs}, *rest)


class OutOfBounds(Sound):
    observation_space = spaces.Box(0, 6, (2,), np.float32)


class FourValues(Sound):
    def step(self, action: Any) -> Any:
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, info


# --- the catalogue --------------------------------------------------------------------------------

REPLACED = "a fresh instance takes its place"
RESTARTED = "its worker process is started anew"
REFUSED = "training does not begin"
STOPPED = "training stops"


@dataclass(frozen=True)
class Fault:
    """What an environment of the zoo does, and what comes of it.

    Attributes:
        env: the environment.
        does: its fault, in words.
        outcome: what happens.
        message: what the user reads (its first line, with the numbers as `normal` has them).
        inline: whether it can be stepped in the process of the test, with the same outcome.
        failures: how many are counted.
        limit: seconds until it is noticed.
        settings: for training in it.
    """

    env: type[Sound]
    does: str
    outcome: str
    message: str
    inline: bool = True
    failures: int = 1
    limit: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> bool:
        """Whether the page for users needs it: some differ only in what they could break here."""
        special = (
            RaisesWhatCannotBePickled,
            RaisesWithoutAWord,
            RaisesWhatCannotBeShown,
            StartsSlowly,
            ResetsSlowly,
        )
        return self.env not in special


ONE, THEN = "Environment 0 of worker 0", ", at step 3 of its episode."
HANG = {"env_step_timeout_s": STEP, "env_reset_timeout_s": RESET}
MAKING = {"env_make_timeout_s": MAKE}

FAULTS = [
    Fault(
        Raises,
        "raises an exception in `step`",
        REPLACED,
        f"{ONE} raised ValueError: the wheel came off{THEN}",
    ),
    Fault(
        RaisesWhatCannotBePickled,
        "raises an exception that cannot be pickled",
        REPLACED,
        f"{ONE} raised Unpicklable: held by a lock{THEN}",
    ),
    Fault(
        RaisesWithoutAWord,
        "raises an exception without a text",
        REPLACED,
        f"{ONE} raised RuntimeError{THEN}",
    ),
    Fault(
        RaisesWhatCannotBeShown,
        "raises an exception whose text cannot be made",
        REPLACED,
        f"{ONE} raised Mute{THEN}",
    ),
    Fault(Exits, "calls `sys.exit`", REPLACED, f"{ONE} raised SystemExit: enough{THEN}"),
    Fault(
        Interrupts,
        "raises `KeyboardInterrupt` itself",
        REPLACED,
        f"{ONE} raised KeyboardInterrupt{THEN}",
    ),
    Fault(
        Cancels,
        "raises `CancelledError`",
        REPLACED,
        f"{ONE} raised CancelledError: the task is over{THEN}",
    ),
    Fault(
        RaisesInReset,
        "raises an exception in `reset`",
        REPLACED,
        f"{ONE} raised KeyError: 'start', at a reset.",
    ),
    Fault(
        RaisesWhenMadeAgain,
        "fails, and its fresh instance cannot be made at once",
        REPLACED,
        f"{ONE} raised FileNotFoundError: map.txt, when it was made anew.",
        failures=2,
    ),
    Fault(
        NanInObservation,
        "gives an observation that is not a number",
        REPLACED,
        f"{ONE} gave an observation 'value' that is not finite, [nan 3.]{THEN}",
    ),
    Fault(
        NanInReset,
        "gives one in `reset`",
        REPLACED,
        f"{ONE} gave an observation 'value' that is not finite, [nan nan], "
        "at step 0 of its episode.",
    ),
    Fault(
        InfiniteReward,
        "gives a reward that is infinite",
        REPLACED,
        f"{ONE} gave a reward that is not finite, inf{THEN}",
    ),
    Fault(
        RewardIsText,
        "gives a reward that is a text",
        REPLACED,
        f"{ONE} gave a reward that is no number, 'ten': return a float{THEN}",
    ),
    Fault(
        RewardIsNone,
        "gives no reward",
        REPLACED,
        f"{ONE} gave a reward that is no number, None: return a float{THEN}",
    ),
    Fault(
        RewardIsArray,
        "gives a reward that is an array with an axis",
        REPLACED,
        f"{ONE} gave a reward that is no number, [1.]: return a float{THEN}",
    ),
    Fault(
        FlagIsNone,
        "gives no `terminated`",
        REPLACED,
        f"{ONE} gave terminated=None, which is neither True nor False: use bool(...){THEN}",
    ),
    Fault(
        FlagIsText,
        "gives a `truncated` that is a text",
        REPLACED,
        f"{ONE} gave truncated='no', which is neither True nor False: use bool(...){THEN}",
    ),
    Fault(
        WrongShape,
        "gives an observation of another shape",
        REPLACED,
        f"{ONE} gave an observation 'value' of shape (1,), but its space says (2,){THEN}",
    ),
    Fault(
        FractionInWholeNumbers,
        "gives a fraction where its space has whole numbers",
        REPLACED,
        f"{ONE} gave an observation 'value' of type float32, which its space's int64 cannot hold: "
        f"[2.25 3.25]{THEN}",
    ),
    Fault(
        OutOfDiscrete,
        "gives a number outside its `Discrete` space",
        REPLACED,
        f"{ONE} gave an observation 'gear' outside its space: 3 is not in Discrete(3){THEN}",
    ),
    Fault(
        LacksKey,
        "leaves out a key of its `Dict` space",
        REPLACED,
        f"{ONE} gave an observation that is not built as its space says (KeyError: 'gear'):"
        " {'value': array([2., 3.], dtype=float32)} is not in Dict('gear': Discrete(3), 'value':"
        f" Box(-inf, inf, (2,), float32)){THEN}",
    ),
    Fault(
        OutOfBounds,
        "gives an observation outside the bounds of its `Box`",
        "training goes on with it",
        f"{ONE} gave an observation 'value' outside its space: 8.0 is not in [0.0, 6.0], "
        "at step 0 of its episode. Training goes on with it; `poise check-env` tells more.",
        failures=0,
    ),
    Fault(
        InfoIsNone,
        "gives an info that is no dict",
        "training goes on with it",
        f"{ONE} gave None as its info, which must be a dict: return {{}}, at a reset. "
        "Training goes on with it; `poise check-env` tells more.",
        failures=0,
    ),
    Fault(
        EndsItsProcess,
        "ends its process",
        RESTARTED,
        "Worker 0 ended with exit code 3 while it stepped its environments.",
        inline=False,
    ),
    Fault(
        KillsItself,
        "is killed",
        RESTARTED,
        "Worker 0 was ended by SIGKILL, as the system does when memory runs out, "
        "while it stepped its environments.",
        inline=False,
    ),
    Fault(
        Segfaults,
        "crashes in C code",
        RESTARTED,
        "Worker 0 was ended by SIGSEGV while it stepped its environments.",
        inline=False,
    ),
    Fault(
        StartsSlowly,
        "ends its process, and is slow to start",
        RESTARTED,
        "Worker 0 ended with exit code 3 while it stepped its environments.",
        inline=False,
    ),
    Fault(
        ResetsSlowly,
        "ends its process, and is slow to reset",
        RESTARTED,
        "Worker 0 ended with exit code 3 while it stepped its environments.",
        inline=False,
    ),
    Fault(
        Leaks,
        "takes too much memory",
        RESTARTED,
        "Worker 0 uses 300 MiB of memory, more than its limit of 250 MiB.",
        inline=False,
        limit=2.5,
        settings={"worker_memory_mb": 250},
    ),
    Fault(
        Sleeps,
        "hangs in `step`",
        RESTARTED,
        "An environment of worker 0 hangs: it has been stepped for more than 1 s.",
        inline=False,
        limit=STEP,
        settings=HANG,
    ),
    Fault(
        HoldsTheLock,
        "hangs in C code and holds Python's lock",
        RESTARTED,
        "An environment of worker 0 hangs: it has been stepped for more than 1 s.",
        inline=False,
        limit=STEP,
        settings=HANG,
    ),
    Fault(
        HangsInReset,
        "hangs in `reset`",
        RESTARTED,
        "An environment of worker 0 hangs: it has been reset for more than 1.5 s.",
        inline=False,
        limit=RESET,
        settings=HANG,
    ),
    Fault(
        HangsWhenMadeAgain,
        "hangs while it is made anew",
        RESTARTED,
        "An environment of worker 0 hangs: it has been made for more than 2 s.",
        inline=False,
        failures=2,
        limit=2 * MAKE,
        settings=MAKING,
    ),
    Fault(
        RaisesWhenMade,
        "raises an exception in `__init__`",
        REFUSED,
        "The environment of worker 0 could not be made: FileNotFoundError: map.txt.",
        inline=False,
    ),
    Fault(
        HangsWhenMade,
        "hangs in `__init__`",
        REFUSED,
        "An environment of worker 0 hangs: it has been made for more than 2 s.",
        inline=False,
        limit=2 * MAKE,
        settings=MAKING,
    ),
    Fault(
        AlwaysRaises,
        "raises an exception in every episode",
        STOPPED,
        "Every environment failed 3 times without finishing an episode in between: this is a bug, "
        f"not an accident. The first failure: {ONE} raised KeyError: 'door', "
        "at step 1 of its episode.",
    ),
    Fault(
        FourValues,
        "returns four values from `step`, as Gym did before 0.26",
        STOPPED,
        "FourValues follows the old Gym API (its step() returns four values): wrap it, "
        "env=lambda config: poise.OldGymEnv(FourValues(config)), or port it to Gymnasium's, "
        "reset(*, seed=None, options=None) -> (obs, info) and step(action) -> (obs, reward, "
        "terminated, truncated, info).",
    ),
]


def normal(message: str) -> str:
    """A message with the numbers that differ from run to run replaced."""
    message = re.sub(r"(nvironment|orker) \d+", r"\1 0", message)
    return re.sub(r"uses [\d,]+ MiB", "uses 300 MiB", message)


def table() -> list[list[str]]:
    """Rows for the page about failures: what an environment does, what happens, the message."""
    rows = []
    for fault in FAULTS:
        if fault.shown:
            quote = "``" if "`" in fault.message else "`"
            rows.append([fault.does, fault.outcome, f"{quote}{fault.message}{quote}"])
    return rows
