"""What several learners are to one another: they take each gradient step together.

All of them compute the same loss of the same steps. Only networks, which take nearly all the time,
see a share of the rows in each of them: what they put out is gathered, so that a loss, its
statistics, and what is decided by them, are those of all rows. Backwards, each learner follows its
own rows; the mean over learners is then the gradient that one learner would find with all rows:

    g  =  1/N Σᵢ gᵢ     with     gᵢ = N ∂L/∂yᵢ ∂yᵢ/∂θ + ∂L/∂θ     and     y = [y₁ ... y_N]

That holds for every loss, also for its terms that depend on θ by no network that is shared.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

_distributed: Any = torch.distributed

Index = slice | Tensor

PATIENCE = timedelta(seconds=120)
"""How long learners wait for one another before one of them counts as lost."""
LOOK = timedelta(seconds=0.5)
"""Time after which who waits for the others asks whether they are still there."""


class LostError(Exception):
    """A learner that the others wait for is not there any more."""


class Group:
    """A learner that has no others: nothing is shared, and everything is its own.

    Attributes:
        rank: its number among all.
        size: how many there are.
    """

    rank, size = 0, 1

    def mean(self, tensor: Tensor) -> Tensor:
        """Puts the mean over all learners in the place of a tensor, equal to the bit in all."""
        return tensor

    def gather(self, part: Tensor, index: Index, count: int) -> Tensor:
        """All `count` rows of a tensor `[n, ...]`, of which this learner has those at `index`."""
        return part


ALONE = Group()


class Ring(Group):
    """Several learners, by `torch.distributed`: gloo between CPUs, nccl between GPUs.

    Args:
        store: where they meet; see `meeting`.
        rank, size: see `Group`.
        address: of this machine, by which the others reach it.
        gpu: whether they learn on GPUs.

    Attributes:
        gone: asked now and then while the others are waited for: whether one of them is there no
            more. No connection tells of a machine that has fallen silent.

    Raises:
        LostError: one of them did not come.
    """

    gone: Callable[[], bool] = staticmethod(lambda: False)

    def __init__(
        self, store: Any, rank: int, size: int, address: str, *, gpu: bool = False
    ) -> None:
        self.rank, self.size, self._gpu = rank, size, gpu
        self._ring: Any = None
        with _waiting():
            if gpu:
                self._ring = _distributed.ProcessGroupNCCL(store, rank, size, PATIENCE)
                return
            device = _distributed.ProcessGroupGloo.create_device(hostname=address)
            options = _distributed.ProcessGroupGloo._Options()
            options._devices, options._timeout = [device], PATIENCE
            self._ring = _distributed.ProcessGroupGloo(store, rank, size, options)

    def mean(self, tensor: Tensor) -> Tensor:
        return self.sum(tensor).div_(self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """Puts the sum over all learners in the place of a tensor.

        Raises:
            LostError: one of them is not there any more.
        """
        if self._ring is None:
            raise LostError("The group was left.")
        with _waiting():
            work = self._ring.allreduce([tensor])
            if not self._gpu:  # where this waits for nobody, but for a stream
                self._look(work)
            work.wait()
        return tensor

    def _look(self, work: Any) -> None:
        """Waits for the others, as long as they are there."""
        while not work.is_completed():
            with suppress(RuntimeError):  # what has failed is raised by who waits next
                work.wait(LOOK)
            if not work.is_completed() and self.gone():
                # Letting the group go would wait until its last step has timed out.
                kept = threading.Thread(target=_outlast, args=(work, self._ring), daemon=True)
                kept.start()
                raise LostError("One of the learners is gone.")

    def gather(self, part: Tensor, index: Index, count: int) -> Tensor:
        whole: Tensor = _Gather.apply(part, index, count, self)  # type: ignore[no-untyped-call]
        return whole

    def leave(self) -> None:
        """Ends what the others wait for: they get a `LostError`."""
        if self._ring is not None:
            with suppress(RuntimeError):
                self._ring.abort()
        self._ring = None


def _outlast(work: Any, *_: Any) -> None:
    """Keeps what it is given until a step of a group has timed out."""
    with suppress(RuntimeError):
        work.wait()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, index: Index, count: int, ring: Ring) -> Tensor:
        ctx.index, ctx.size = index, ring.size
        whole = part.new_zeros(count, *part.shape[1:])
        whole[index] = part
        return ring.sum(whole)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0][ctx.index] * ctx.size, None, None, None


@contextmanager
def _waiting() -> Iterator[None]:
    """Turns what `torch.distributed` raises within the block into a `LostError`."""
    try:
        yield
    except RuntimeError as error:
        raise LostError(" ".join(str(error).split())) from error


def meeting(host: str, port: int = 0) -> Any:
    """Where learners meet: with a port, that of another; without, one that others may join.

    It listens on this address alone.

    Raises:
        LostError: nobody is there.
    """
    listening = None if port else socket.create_server((host, 0))
    with _waiting():
        return _distributed.TCPStore(
            host,
            listening.getsockname()[1] if listening else port,
            None,
            listening is not None,
            PATIENCE,
            wait_for_workers=False,
            master_listen_fd=listening.detach() if listening else None,
        )
