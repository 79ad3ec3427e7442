"""What a power loss leaves on the disk.

`make proof` simulates many (benchmarks/fuzz/power.py), and here are a few.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

import poise
from poise.tracking.folder import RunFolder
from poise.tuning.search import Search
from poise.tuning.study import Trial

if not hasattr(os, "fork"):
    pytest.skip("the simulation follows POSIX's rules", allow_module_level=True)

from benchmarks.fuzz import power
from benchmarks.fuzz.common import prepared, run_cases


@pytest.mark.slow
def test_a_run_goes_on_after_a_power_loss_from_what_was_saved() -> None:
    with prepared(power) as base:
        count, faults = run_cases(power, range(5), 1, base)
    assert [str(fault) for fault in faults] == []
    assert count["resume after a power loss", "ok"] >= 4


def test_what_is_not_flushed_may_be_lost_and_what_is_flushed_may_not(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    with power.watched(root) as disk:
        (root / "loose").write_text("0123456789")
        with (root / "safe").open("w") as file:
            file.write("safe")
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(root, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        (root / "safe").rename(root / "renamed")
        disk.promise(1)
    seen: set[tuple[str, Any]] = set()
    for seed in range(60):
        left = tmp_path / f"left-{seed}"
        disk.lose_power(disk.now, random.Random(seed), left)
        names = {file.name: file.read_bytes() for file in left.iterdir()}
        assert len({"safe", "renamed"} & set(names)) == 1
        assert names.get("safe", names.get("renamed")) == b"safe"
        seen |= set(names.items())
    assert {
        ("loose", b""),
        ("loose", b"0123456789"),
        ("safe", b"safe"),
        ("renamed", b"safe"),
    } <= seen
    assert len(seen) > 6  # torn in many ways


def test_small_files_of_runs_and_searches_are_old_or_new_after_a_power_loss(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    study, run = root / "runs" / "study", RunFolder(root / "runs" / "e" / "run")
    with power.watched(root) as disk:
        for number in (1, 2):
            Search(
                "PPO", {"env": "CartPole-v1", "lr": number / 100}, {"timesteps_total": 100}
            ).write(study)
            Trial(0, {}, deaths=number, path=study / "trial_0").write()
            run.write_config({"number": number})
            run.write_status("running", number=number)
            disk.promise(number)
    for seed in range(200):
        rng = random.Random(seed)
        moment, left = rng.randrange(1, disk.now + 1), tmp_path / f"left-{seed}"
        disk.lose_power(moment, rng, left)
        numbers = {
            "study/study.json": lambda found: 100 * found["config"]["lr"],
            "study/trial_0/trial.json": lambda found: found["deaths"],
            "e/run/config.json": lambda found: found["number"],
            "e/run/status.json": lambda found: found["number"],
        }
        for name, number_of in numbers.items():
            file = left / "runs" / name
            if file.exists() or disk.promised(moment):
                assert disk.promised(moment) <= number_of(json.loads(file.read_text())) <= 2


def test_a_checkpoint_that_was_being_replaced_is_found_in_its_run(
    tmp_path: Path, trainer: Any
) -> None:
    """The power went, or the process was killed, between the two renames."""
    one = trainer("PPO", "CartPole-v1", preset=None)
    folder = tmp_path / "run" / "checkpoints"
    for iteration in (1, 2):
        one.train()
        saved = one.save(folder / f"{iteration:06}")
    saved.rename(folder / ".tmp-000002-old-12345678")
    assert poise.load(tmp_path / "run").iteration == 2
