"""From seed sequences to generators.

One seed of a run is split into disjoint streams, one for each purpose.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode


def torch_seed(seed: np.random.SeedSequence) -> int:
    """A seed for PyTorch: 63 bits of the sequence's state."""
    return int(seed.generate_state(1, np.uint64)[0] >> 1)


def torch_generator(seed: np.random.SeedSequence) -> torch.Generator:
    """A generator of PyTorch seeded from the sequence."""
    return torch.Generator().manual_seed(torch_seed(seed))


_TAKES_A_GENERATOR = {
    "uniform_", "normal_", "random_", "exponential_", "bernoulli_", "geometric_", "log_normal_",
    "cauchy_", "rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial",
    "kaiming_uniform_", "kaiming_normal_",
}  # fmt: skip
"""Functions that draw from PyTorch's global generator unless they are given one."""

_one_at_a_time = threading.RLock()


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Makes what is drawn within the block depend on the seed alone, not on other threads.

    PyTorch's functions draw from a generator of the block's own. For those that take none, the
    global one is seeded and put back afterwards, so that only one such block runs at a time.
    """
    with _one_at_a_time, torch.random.fork_rng(), _From(torch.Generator().manual_seed(seed)):
        torch.manual_seed(seed)
        yield


class _From(TorchFunctionMode):
    """Gives a generator to functions that draw numbers on the CPU, in this thread."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = generator

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _TAKES_A_GENERATOR and kwargs.get("generator") is None:
            tensors = (arg for arg in args if isinstance(arg, torch.Tensor))
            where = kwargs.get("device") or next((x.device for x in tensors), "cpu")
            if torch.device(where).type == "cpu":
                kwargs = {**kwargs, "generator": self.generator}
        return func(*args, **kwargs)
