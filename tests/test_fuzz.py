"""A fixed small part of each fuzzer in benchmarks/fuzz, and what they stand on.

`make proof` runs the large ones.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import poise
from poise.config.resolve import resolve

if not hasattr(os, "fork"):
    pytest.skip("the fuzzers fork", allow_module_level=True)

from benchmarks.fuzz import configurations
from benchmarks.fuzz.common import SilentError, Step, prepared, run_cases, run_step

from tiers import few


def spin() -> None:
    while True:
        pass


def refuse() -> None:
    raise poise.ConfigError("lr=-1 is not allowed.")


def wrong() -> None:
    raise SilentError("nothing was learnt")


@pytest.mark.parametrize(
    ("run", "kind", "said"),
    [
        (lambda: print("fine"), "ok", "fine"),
        (refuse, "sentence", "lr=-1 is not allowed."),
        (lambda: sys.exit(2), "sentence", ""),
        (lambda: 1 / 0, "traceback", "ZeroDivisionError"),
        (lambda: sys.exit(1), "traceback", ""),
        (lambda: os.kill(os.getpid(), 9), "traceback", ""),
        (lambda: bytearray(16 * 2**30), "traceback", "MemoryError"),
        (spin, "hang", ""),
        (wrong, "silent", "nothing was learnt"),
    ],
)
def test_how_a_step_ends_is_told(run: Callable[[], Any], kind: str, said: str) -> None:
    outcome = run_step(run, seconds=0.5 if kind == "hang" else 60.0)
    assert outcome.kind == kind
    assert said in outcome.text


def test_what_sleeps_for_ever_hangs_as_well() -> None:
    assert run_step(lambda: time.sleep(1000), seconds=0.1).kind == "hang"


def test_a_case_is_known_by_its_seed_and_number(tmp_path: Path) -> None:
    drawn = []

    def case(rng: Any, base: Any, work: Path) -> Iterator[Step]:
        drawn.append(rng.random())
        yield Step("step", "divided", (lambda: 1 / 0) if len(drawn) % 3 == 2 else lambda: None)

    fuzzer = types.SimpleNamespace(case=case)
    count, faults = run_cases(fuzzer, range(3), 7, None)  # type: ignore[arg-type]
    assert count == {("step", "ok"): 2, ("step", "traceback"): 1}
    assert [(fault.seed, fault.number) for fault in faults] == [(7, 1)]
    run_cases(fuzzer, range(1, 2), 7, None)  # type: ignore[arg-type]
    assert drawn[3] == drawn[1]


@pytest.mark.slow
def test_random_settings_resolve_or_get_a_sentence() -> None:
    """Five hundred, without training."""
    resolved, sentences = 0, []
    for number in range(500):
        algorithm, env, settings = configurations.draw(random.Random(f"resolve/{number}"))
        try:
            config, _ = resolve(algorithm, env, settings)
        except poise.ConfigError as error:
            sentences.append(str(error))
        else:
            resolved += 1
            json.dumps(config.to_dict(), allow_nan=False)
    assert resolved > 125
    assert all("\n" not in sentence and len(sentence) < 1000 for sentence in sentences)


@pytest.mark.proof
def test_random_settings_train_or_get_a_sentence() -> None:
    with prepared(configurations) as base:
        _, faults = run_cases(configurations, range(8), 3, base)
    assert not faults, "\n".join(map(str, faults))


SMALL_SETS = [("spaces", 2), ("environments", 6), ("searches", 20), ("files", 12)]
"""Fuzzers, and how many of their cases are run here."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cases"), few(*SMALL_SETS[:2], of=SMALL_SETS))
def test_a_small_set_of_cases_has_no_faults(name: str, cases: int) -> None:
    fuzzer = importlib.import_module(f"benchmarks.fuzz.{name}")
    with prepared(fuzzer) as base:
        count, faults = run_cases(fuzzer, range(cases), 0, base)
    assert [str(fault) for fault in faults] == []
    assert sum(count.values()) >= cases
