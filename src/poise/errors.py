"""The errors that a user can cause, each told in one sentence.

Every one of them (a typo, a wrong type, a damaged file) is a `PoiseError`: the command prints its
text and exits with code 2, without a traceback. Anything else is a bug of Poise and keeps its
traceback.
"""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class PoiseError(Exception):
    """Base of all errors that are the user's to mend; the text is one clear sentence."""

    def __str__(self) -> str:
        return shown(super().__str__(), lines=True)

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the user's own line and the sentence, without frames of Poise."""
        here = os.path.dirname(__file__)
        frames = [f for f in traceback.extract_tb(self.__traceback__) if here not in f.filename]
        last = frames[-1] if frames else None
        where = f"line {last.lineno}:  {last.line}\n" if last and last.line else ""
        return [f"{where}{type(self).__name__}: {self}"]


class PoiseWarning(UserWarning, RuntimeWarning):
    """Something is left out, replaced or odd, but work goes on: one sentence, said once."""

    def __str__(self) -> str:
        return shown(super().__str__(), lines=True)


class ConfigError(PoiseError, ValueError):
    """An unknown key, a wrong type or range, or settings that contradict each other."""


class EnvError(PoiseError):
    """An environment that does not exist, cannot be made, or broke the Gymnasium contract."""


class SpaceError(PoiseError, TypeError):
    """An observation or action space that no policy of Poise can take."""


class ModelError(PoiseError):
    """A custom model or preprocessor that is not registered or returned the wrong shape."""


class CheckpointError(PoiseError):
    """A checkpoint that is missing, damaged, from the future, or not a checkpoint."""


class DivergedError(PoiseError):
    """Training diverged: the gradient stayed non-finite. The parameters are the last good ones."""


class RunError(PoiseError):
    """A run folder that does not exist, is in use, or cannot do what was asked."""


class ClusterError(PoiseError):
    """A cluster that does not answer, lets nobody in, or has too few machines; a job's, too."""


class TrustError(PoiseError):
    """A name in a file that would run code which the user has not confirmed, or the wrong kind."""


def nearest(name: str, options: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the option nearest to `name`; empty when none is near.

    Upper and lower case count as equal, and a part of a name finds the whole (`cartpole` finds
    `CartPole-v1`).
    """
    by_lower = {option.lower(): option for option in sorted(options, key=str)}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    if not close and len(name) > 2:
        close = [lower for lower in by_lower if name.lower() in lower][-1:]
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""


def shown(text: object, *, lines: bool = False) -> str:
    """Foreign text (a name from a file, an environment's message) as a terminal may print it.

    An invisible character, such as an escape that would move the cursor or turn the text round,
    becomes its code.

    Args:
        text: anything; its `str` is taken.
        lines: keeps line ends and tabs.
    """
    raw = str(text)
    if raw.isprintable():
        return raw
    kept = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in kept else repr(c)[1:-1] for c in raw)


@contextmanager
def writing(path: object) -> Iterator[None]:
    """Surrounds what writes at `path`, so that a full or forbidden disk becomes one sentence.

    Raises:
        RunError: the operating system refused; its own error is the `__cause__`.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]
        raise RunError(f"{path} cannot be written: {reason}.") from error
