"""The page of a search: what came of its trials, and which settings matter."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("starlette", reason="the extra `watch` is not installed")

from poise.watch.library import Library
from poise.watch.processes import memory
from poise.watch.search import explained, importance, study
from test_watch import ask, make_run, serving


def test_what_groups_explain_is_epsilon_squared() -> None:
    """By hand: means 2 and 6, within 4 of 2 free, in all 20 of 3: 1 - (4 / 2) / (20 / 3) = 0.7."""
    values = np.array([1.0, 3.0, 5.0, 7.0])
    assert explained(np.array([0, 0, 1, 1]), values) == pytest.approx(0.7)
    assert explained(np.array([0, 1, 1, 0]), values) == 0  # equal means explain less than chance
    assert explained(np.array([0, 1, 2, 3]), values) == 0  # nothing is left to compare with
    assert explained(np.array([0, 0, 1, 1]), np.ones(4)) == 0


def test_a_setting_that_matters_is_told_from_one_that_does_not() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        lr, noise = rng.uniform(size=24), rng.uniform(size=24)
        trials = [
            {"value": float(value), "params": {"lr": float(a), "noise": float(b), "net": "[64]"}}
            for value, a, b in zip(lr**3, lr, noise, strict=True)
        ]
        found = {each["name"]: each["share"] for each in importance(trials, ["noise", "lr", "net"])}
        shares.append((found["lr"], found["noise"], found["net"]))
    lr_share, noise_share, net_share = np.mean(shares, 0)
    assert lr_share > 0.85
    assert noise_share < 0.08  # cut at 0, chance leaves a little
    assert net_share == 0
    assert importance([{"value": 1.0, "params": {"lr": 1}}] * 7, ["lr"]) == []


def test_a_search_has_its_trials_by_number(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    about = {"algorithm": "PPO", "config": {"env": "CartPole-v1", "lr": "loguniform(1e-4, 1e-2)"},
             "stop": {"timesteps_total": 1000}, "num_samples": 4}  # fmt: skip
    (folder / "study.json").write_text(json.dumps(about))
    for number, reward in enumerate((10.0, None, 30.0)):
        run = make_run(folder / f"trial_{number:05d}")
        results = [{"episode_reward_mean": reward, "stop_reason": "x"}]
        trial = {"number": number, "params": {"lr": 10.0 ** -(number + 2)}, "state": "finished"}
        (run / "trial.json").write_text(json.dumps({**trial, "results": results}))
    (folder / "trial_00003").mkdir()
    (folder / "trial_00003" / "trial.json").write_text("{broken")
    library = Library(tmp_path)
    rows = library.rows()
    assert [*library.studies] == ["s"]
    found = study(folder, "s", rows)
    told = [(trial["number"], trial["state"], trial["value"]) for trial in found["trials"]]
    assert told == [(0, "finished", 10), (1, "finished", None), (2, "finished", 30),
                    (3, "damaged", None)]  # fmt: skip
    assert found["params"] == [{"name": "lr", "log": True}]
    assert found["trials"][2]["runs"] == ["s/trial_00002"]
    assert json.dumps(found, allow_nan=False)
    with serving(tmp_path) as url:
        assert json.loads(ask(url, "/api/study?study=s")[1]) == found
        assert ask(url, "/api/study?study=../s")[0] == 404
        (folder / "study.json").write_text("[]")
        status, body, _ = ask(url, "/api/study?study=s")
        assert (status, "damaged" in body) == (409, True)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc")
def test_the_memory_of_a_run_is_that_of_its_processes() -> None:
    here = {"state": "running", "host": socket.gethostname(), "pid": os.getpid()}
    found = memory(here)
    assert 20 < (found["memory_mb"] or 0) < 20_000
    children = psutil.Process().children()  # which other tests may have left
    assert 1 <= (found["processes"] or 0) <= 1 + len(children)
    for other in ({"state": "finished"}, {"host": "elsewhere"}, {"pid": True}, {"pid": "../1"}):
        assert memory({**here, **other}) == {"memory_mb": None, "processes": None}
