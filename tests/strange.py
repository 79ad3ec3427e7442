"""Environments that behave strangely in a process of their own, and yet are not wrong."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
from gymnasium import spaces

from environments import Scripted


class Talks(Scripted):
    """Writes where the messages between processes would be, and reads what is not there."""

    def step(self, action: Any) -> Any:
        print("a line of text from the environment")
        os.write(1, b"m\xff\xff\xff\xff\xff\xff\xff\xff")
        assert sys.stdin.read() == ""
        return super().step(action)


class Threads(Scripted):
    """Starts a thread that never ends, and whose end Python would wait for."""

    def __init__(self) -> None:
        super().__init__()
        threading.Thread(target=time.sleep, args=(1000,)).start()


class FailsToClose(Threads):
    def close(self) -> None:
        raise RuntimeError("already closed")


class Starts(Scripted):
    """Starts a program and ends it in the usual way; its info tells how that one ended."""

    def reset(self, **kwargs: Any) -> Any:
        program = subprocess.Popen(["sleep", "1000"])
        program.terminate()
        self.code = program.wait(5)
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        *rest, info = super().step(action)
        return *rest, {**info, "code": self.code}


class TellsModules(Scripted):
    """Its info tells whether PyTorch was imported where it runs."""

    def step(self, action: Any) -> Any:
        *rest, info = super().step(action)
        return *rest, {**info, "torch": "torch" in sys.modules, "process": os.getpid()}


class Sleepy(Scripted):
    """Takes its time for every step, without computing."""

    def __init__(self, seconds: float = 0.005) -> None:
        super().__init__((20,))
        self.seconds = seconds

    def step(self, action: Any) -> Any:
        time.sleep(self.seconds)
        return super().step(action)


class Stuck(Scripted):
    """Never comes back from its third step, and holds Python's interpreter lock."""

    def __init__(self) -> None:
        super().__init__((50,))

    def step(self, action: Any) -> Any:
        if self.now == 2:
            ctypes.PyDLL(None).sleep(1000)
        return super().step(action)


class Varies(Scripted):
    """No two processes have the same observation space."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-1, os.getpid(), (2,), np.float32)


class ChangesItsAction(Scripted):
    """Spoils the array that it is given, and the one before."""

    action_space = spaces.MultiDiscrete([3, 3])
    last: Any = None

    def step(self, action: Any) -> Any:
        obs, *rest = super().step(action)
        if self.last is not None:
            self.last[:] = 7
        self.last = action
        reward = float(action.sum())
        action[:] = -5
        return obs, reward, *rest[1:]
