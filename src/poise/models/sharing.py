"""Networks that several learners share: each runs them on some of the rows.

with sharing(policy, group):
    inputs, value = policy(x, state, first)     # of all rows, in all learners
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from poise.learning.group import Group
from poise.models.policy import Policy, State, length, rows

NETWORKS = ("forward", "critic")
"""The methods of a policy that learning calls with `(x, state, first)`."""


@contextmanager
def sharing(policy: Policy, group: Group) -> Iterator[None]:
    """Shares a policy's networks within the block, which all learners must run alike."""
    if group.size == 1:
        yield
        return
    shared = _Shared(policy, group)
    for name in NETWORKS:
        setattr(policy, name, partial(shared.run, getattr(policy, name)))
    try:
        yield
    finally:
        for name in NETWORKS:
            delattr(policy, name)


class _Shared:
    """Networks that put out all rows, and have computed this learner's.

    With a memory, these are the steps of some slots; else, they are neighbours. Rows too few for
    all learners are computed by each.
    """

    def __init__(self, policy: Policy, group: Group) -> None:
        self.policy, self.group, self.busy = policy, group, False

    def run(
        self, network: Callable[..., Any], x: Any, state: State = (), first: Tensor | None = None
    ) -> Any:
        size, rank = self.group.size, self.group.rank
        slots = first.shape[1] if self.policy.recurrent and first is not None else 0
        count = slots or length(x)
        if self.busy or count < size:
            return network(x, state, first)
        start, stop = count * rank // size, count * (rank + 1) // size
        index: slice | Tensor = slice(start, stop)
        if slots and first is not None:
            count = len(first) * slots
            every = torch.arange(count, device=first.device).view(-1, slots)
            index = every[:, start:stop].flatten()
            state = tuple(memory[start:stop] for memory in state)
            first = first[:, start:stop]
        self.busy = True  # a network may call another
        try:
            found = network(rows(x, index), state, first)
        finally:
            self.busy = False
        return _gathered(found, index, count, self.group)


def _gathered(found: Any, index: slice | Tensor, count: int, group: Group) -> Any:
    """All rows of what a network put out: one tensor, or several, which travel as one."""
    parts = found if isinstance(found, tuple) else (found,)
    columns = [part.reshape(len(part), -1) for part in parts]
    whole = group.gather(torch.cat(columns, 1), index, count)
    split = torch.split(whole, [part.shape[1] for part in columns], 1)
    result = tuple(
        wide.reshape(count, *part.shape[1:]) for wide, part in zip(split, parts, strict=True)
    )
    return result if isinstance(found, tuple) else result[0]
