"""How a driver and its worker processes talk.

Most messages are a step, which is one byte; the rest are JSON with arrays. Nothing that comes from
a worker is unpickled.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import sys
import time
from typing import Any

import numpy as np

STEP = b"s"
"""To a worker: step with the actions in shared memory. From it: done, with nothing to tell."""
_MESSAGE = b"m"
_BYTES = b"b"
_LINGER_S = 50e-6
"""About as long as it takes to wake a process that sleeps."""


class Pipe:
    """Two file descriptors, one to read from and one to write to.

    Raises:
        EOFError: (from all that reads) the other end is gone.
        BrokenPipeError: (from all that writes) the same.
    """

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        if sys.platform != "win32":
            import select

            self._poll = select.poll()
            self._poll.register(read, select.POLLIN)

    def step(self) -> None:
        """Sends the one-byte message."""
        os.write(self._write, STEP)

    def send(self, message: dict[str, Any]) -> None:
        """Sends plain values and arrays."""
        self._frame(_MESSAGE, encoded(message))

    def send_bytes(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self._frame(_BYTES, data)

    def receive(self) -> Any:
        """The next message: None for a step, a dict for JSON, or bytes."""
        kind = self._exactly(1)
        if kind == STEP:
            return None
        data = self._exactly(*struct.unpack("<Q", self._exactly(8)))
        return data if kind == _BYTES else json.loads(data, object_hook=_decode)

    def ready(self, seconds: float) -> bool:
        """Waits at most so long for a message or the other end's death; whether either came."""
        if sys.platform != "win32":
            return bool(self._poll.poll(seconds * 1000))
        import _winapi
        import msvcrt

        # Windows cannot wait for a pipe: look every millisecond.
        end = time.perf_counter() + seconds
        handle = msvcrt.get_osfhandle(self._read)
        while True:
            try:
                if _winapi.PeekNamedPipe(handle, 0)[0]:
                    return True
            except OSError:
                return True
            if time.perf_counter() >= end:
                return False
            time.sleep(0.001)

    def linger(self) -> None:
        """Looks for a message for some 50 µs, and gives way to whoever else wants the core.

        Many environments step faster than a process that sleeps is woken.
        """
        if not hasattr(os, "sched_yield"):
            return
        end = time.perf_counter() + _LINGER_S
        while not self._poll.poll(0) and time.perf_counter() < end:
            os.sched_yield()

    def _frame(self, kind: bytes, data: bytes) -> None:
        view = memoryview(kind + struct.pack("<Q", len(data)) + data)
        while view:
            view = view[os.write(self._write, view) :]

    def _exactly(self, size: int) -> bytes:
        """Reads so many bytes, however many pieces they come in."""
        data = b""
        while len(data) < size:
            more = os.read(self._read, size - len(data))
            if not more:
                raise EOFError
            data += more
        return data


def encoded(message: Any) -> bytes:
    """A message as bytes, the way it travels.

    Raises:
        TypeError: it holds something else than plain values and arrays.
    """
    return json.dumps(message, default=_encode).encode()


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"__array__": data, "dtype": value.dtype.str, "shape": value.shape}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be sent to another process")


def _decode(value: dict[str, Any]) -> Any:
    if "__array__" not in value:
        return value
    data = np.frombuffer(base64.b64decode(value["__array__"]), np.dtype(value["dtype"]))
    return data.reshape(value["shape"]).copy()
