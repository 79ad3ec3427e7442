"""Which cases of a test `make test` runs; `make proof` runs the others, too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def few(*chosen: Any, of: Iterable[Any]) -> list[Any]:
    """The cases `of` a test that is long: those that are not chosen are left to `make proof`.

    Choose one of each kind, so that what breaks one of the others most likely breaks it, too.
    """
    cases = list(of)
    assert set(map(str, chosen)) <= set(map(str, cases)), "a case was renamed"
    rest = [case for case in cases if str(case) not in map(str, chosen)]
    several = [case if isinstance(case, tuple) else (case,) for case in rest]
    return [*chosen, *(pytest.param(*values, marks=pytest.mark.proof) for values in several)]
