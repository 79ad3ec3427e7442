"""When an environment fails, it is counted, reported and replaced; a bug stops the run.

A failure is an exception, a broken contract (NaN, a wrong shape), or a worker process that ends,
hangs or takes too much memory. A single one is an accident: a fresh instance takes the
environment's place, and its partial episode is dropped. The same failure everywhere is a bug, which
no number of fresh instances will mend.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gymnasium import spaces

from poise.errors import EnvError, shown

Kind = Literal["raised", "contract", "ended", "hung", "memory", "bug", "odd"]


@dataclass(frozen=True)
class Failure:
    """One failure.

    Attributes:
        kind: the environment `raised` an exception or broke Gymnasium's `contract`, or its process
            `ended`, `hung` or took too much `memory`. A `bug` ends the run at once, since no fresh
            instance would do better. What is only `odd` is reported; it is not counted, and nothing
            is replaced.
        what: one sentence that says which environment of which worker did what, and when.
        details: the environment's own traceback, or what is known of where it was; may be empty.
    """

    kind: Kind
    what: str
    details: str = ""

    def __str__(self) -> str:
        return shown(f"{self.what}\n{self.details}", lines=True).rstrip()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class Failures:
    """Counts failures and stops a run that only fails. One for all environments of a run.

    Args:
        slots: number of environments.
        report: called with every failure, at once.

    Attributes:
        total: failures so far.
        restarts: worker processes that were started anew.
        episodes_lost: episodes that a failure ended.
        first: the first failure of the present series, which is usually the one to mend.
    """

    IN_A_ROW = 3
    """A run stops when every environment has failed this often without finishing an episode."""
    WINDOW = 100
    """It also stops when most of so many latest events (episodes finished, failures) are failures.
    """

    def __init__(self, slots: int, report: Callable[[Failure], None] | None = None) -> None:
        self.report = report
        self.total = self.restarts = self.episodes_lost = 0
        self.first: Failure | None = None
        self._in_a_row = [0] * slots
        self._ends: deque[bool] = deque(maxlen=self.WINDOW)

    def state_dict(self) -> dict[str, int]:
        """The totals."""
        return {"total": self.total, "restarts": self.restarts, "episodes_lost": self.episodes_lost}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from the totals that `state_dict` returned."""
        self.total, self.restarts = int(state["total"]), int(state["restarts"])
        self.episodes_lost = int(state["episodes_lost"])

    def episode_finished(self, slot: int) -> None:
        """To be called for every episode that ended as it should."""
        self._in_a_row[slot] = 0
        self._ends.append(False)

    def add(self, failures: Iterable[Failure], slots: Iterable[int]) -> None:
        """Counts failures, and the slots whose running episodes they ended.

        Raises:
            EnvError: the failures are no accidents. It tells the first of them, with its traceback.
        """
        begins = not any(self._in_a_row)
        for failure in failures:
            if self.report is not None:
                self.report(failure)
            if failure.kind == "odd":
                continue
            if begins:
                self.first, begins = failure, False
            self.total += 1
            # One event, though a worker's end may end the episodes of many slots.
            self._ends.append(True)
            self.restarts += failure.kind in ("ended", "hung", "memory")
        for slot in slots:
            self._in_a_row[slot] += 1
            self.episodes_lost += 1
        if min(self._in_a_row) >= self.IN_A_ROW:
            raise EnvError(
                f"Every environment failed {self.IN_A_ROW} times "
                "without finishing an episode in between: this is a bug, not an accident. "
                f"The first failure: {self.first}"
            )
        failed, finished = self._ends.count(True), self._ends.count(False)
        if failed + finished == self.WINDOW and failed > self.WINDOW // 2:
            raise EnvError(
                f"The environment failed {failed} times while {finished} episodes were finished: "
                f"too often to go on. The first failure: {self.first}"
            )


def said_action(space: spaces.Space, action: Any) -> str:
    """The action that an environment failed at, and its space.

    Action 0 may be one that the environment does not know because it counts from 1: a hint says so.
    """
    text, whole = (" ".join(str(part).split()) for part in (action, space))
    if len(text) + len(whole) > 200:
        return f"one of {whole[:180]} ..."
    hint = ""
    if isinstance(space, spaces.Discrete) and int(space.start) == 0 and int(action) == 0:
        hint = f" (where actions count from 1, it is Discrete({space.n}, start=1))"
    return f"{text} of {whole}{hint}"
