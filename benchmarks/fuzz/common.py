"""What the fuzzers share: seeded cases, a child with limits for each step, how it ended, and the
table of the report.

A fuzzer is a module here with

    ABOUT = "damaged files"                          # a few words for the report
    CASES = 1000                                     # of `make proof`
    def prepare(work: Path) -> Any: ...              # once: whatever all cases begin from
    def case(rng: random.Random, base: Any, work: Path) -> Iterator[Step]: ...

`case` draws from `rng` alone, so that its seed and number say which case it is. It yields steps;
each runs in a child forked from this process, where a `PoiseError` (or exit code 2) is a sentence,
`raise SilentError(...)` says that something was wrong without a word, and any other exception is a
traceback. `work` is an empty folder of the case.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

OUTCOMES = ("ok", "sentence", "traceback", "hang", "silent")
"""How a step may end; the last three are faults.

A step that a signal ended counts as a traceback.
"""
SENTENCE, TRACEBACK, SILENT = 2, 71, 72
"""Exit codes of a child."""
SECONDS = 30.0
"""Of its own processor time, after which a step hangs; ten times as many of the clock, for one that
sleeps."""
MEMORY = 3 * 2**30
"""Bytes that a step may take beyond those of its parent."""


class SilentError(AssertionError):
    """Something went wrong, and nobody was told."""


@dataclass
class Step:
    """One thing that is done in a case.

    Attributes:
        name: what is done, the same in all cases: a row of the report.
        what: what is odd about this one.
        run: does it, in the child; what it returns does not matter.
        check: looks at what came of it, in the parent, after an `ok`; may raise `SilentError`.
    """

    name: str
    what: str
    run: Callable[[], Any]
    check: Callable[[], Any] | None = None


@dataclass
class Outcome:
    """How a step ended: its kind, and what it printed."""

    kind: str
    text: str

    @property
    def bad(self) -> bool:
        return self.kind not in ("ok", "sentence")

    @property
    def last(self) -> str:
        """The last line that was printed, which names an exception."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return lines[-1][-300:] if lines else ""

    @property
    def where(self) -> str:
        """Poise's own innermost line in a traceback."""
        frames = [
            line.strip()
            for line in self.text.splitlines()
            if 'File "' in line and "/poise/" in line
        ]
        return frames[-1].partition("/poise/")[2].replace('"', "") if frames else ""


def run_step(run: Callable[[], Any], *, seconds: float = SECONDS, memory: int = MEMORY) -> Outcome:
    """Runs a function in a forked child with limits, and says how it ended; whatever it started
    ends with it."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            _in_child(run, output.fileno(), memory)
        status = _wait(child, seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if status is None:
            os.waitpid(child, 0)
        output.seek(0)
        return Outcome(_kind(status), output.read().decode(errors="replace"))


def command(*arguments: str) -> Callable[[], Any]:
    """The `poise` command with these arguments, in this process."""

    def call() -> Any:
        from poise.cli.main import poise

        return poise(args=list(arguments), prog_name="poise")

    return call


def _in_child(run: Callable[[], Any], output: int, memory: int) -> None:
    code = TRACEBACK
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = os.fdopen(1, "w", errors="replace", closefd=False)
        sys.stderr = os.fdopen(2, "w", errors="replace", closefd=False)
        limit = _virtual_memory() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        run()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except SilentError as wrong:
        print(wrong)
        code = SILENT
    except BaseException as error:
        from poise.errors import PoiseError

        if isinstance(error, PoiseError):
            print(error)
            code = SENTENCE
        else:
            traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _virtual_memory() -> int:
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[0]) * resource.getpagesize() if pages.is_file() else 0


def _wait(child: int, seconds: float) -> int | None:
    """The status with which a child ended; None if it has used up its time."""
    end = time.monotonic() + 10 * seconds
    while time.monotonic() < end and _own_seconds(child) < seconds:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.003)
    return None


def _own_seconds(child: int) -> float:
    try:
        numbers = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, numbers[11:15])) / os.sysconf("SC_CLK_TCK")


def _kind(status: int | None) -> str:
    if status is None:
        return "hang"
    if os.WIFSIGNALED(status):
        return "traceback"
    kinds = {0: "ok", SENTENCE: "sentence", SILENT: "silent"}
    return kinds.get(os.WEXITSTATUS(status), "traceback")


@dataclass
class Fault:
    """A step that ended badly, and how to repeat it."""

    seed: int
    number: int
    step: Step
    outcome: Outcome

    def __str__(self) -> str:
        said = f"{self.outcome.where}: {self.outcome.last}".removeprefix(": ")
        return (
            f"case {self.number} of seed {self.seed}: {self.step.name}, {self.step.what}: "
            f"{self.outcome.kind}: {said}"
        )


def run_cases(
    fuzzer: ModuleType, numbers: range, seed: int, base: Any, *, seconds: float = SECONDS
) -> tuple[Counter[tuple[str, str]], list[Fault]]:
    """Runs cases of a fuzzer.

    Args:
        fuzzer: has `case`.
        numbers: of the cases.
        seed: of all of them.
        base: what its `prepare` returned.
        seconds: of a step, after which it hangs.

    Returns:
        How often each step ended in each way, and what ended badly.
    """
    count: Counter[tuple[str, str]] = Counter()
    faults: list[Fault] = []
    for number in numbers:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for step in fuzzer.case(random.Random(f"{seed}/{number}"), base, Path(folder)):
                outcome = run_step(step.run, seconds=seconds)
                if outcome.kind == "ok" and step.check is not None:
                    try:
                        step.check()
                    except SilentError as wrong:
                        outcome = Outcome("silent", f"{outcome.text}\n{wrong}")
                count[step.name, outcome.kind] += 1
                if outcome.bad:
                    faults.append(Fault(seed, number, step, outcome))
    return count, faults


@contextlib.contextmanager
def prepared(fuzzer: ModuleType) -> Iterator[Any]:
    """What a fuzzer's cases begin from, in a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="fuzz-base-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield fuzzer.prepare(Path(folder))
