"""What is shown of a run while it goes on.

Lines, bars, time left, and an output that nobody reads any more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import poise
from poise.tracking import progress
from poise.tracking.progress import Progress, line, seconds_between, time_left, where

RESULT: dict[str, Any] = {
    "episode_reward_mean": 21.5, "timesteps_total": 2500, "training_iteration": 3,
    "time_total_s": 100.0, "perf/env_steps_per_s": 25.0, "env_failures_total": 0,
    **{f"perf/{name}_share": share for name, share in
       {"env": 0.5, "inference": 0.2, "learning": 0.3, "waiting": 0.0}.items()},
}  # fmt: skip


@pytest.mark.parametrize(
    ("goals", "shown"),
    [
        ({"timesteps_total": 10_000}, "   5:00 left"),
        ({"timesteps_total": 250_000}, "   2:45:00 left"),
        ({"timesteps_total": 10_000, "episode_reward_mean": 475}, "   at most 5:00 left"),
        ({"time_total_s": 110}, "   0:10 left"),
        ({"episode_reward_mean": 475}, ""),
        ({"timesteps_total": 10_000_000}, ""),
        ({"timesteps_total": 2500}, ""),
        ({}, ""),
    ],
)
def test_the_time_left_follows_from_the_goals_that_time_brings_nearer(
    goals: dict[str, float], shown: str
) -> None:
    assert time_left(goals, RESULT) == shown
    assert line(RESULT, goals).endswith(shown)


def test_lines_become_rarer_in_long_runs() -> None:
    assert seconds_between(RESULT) == 5
    assert seconds_between({"time_total_s": 3600}) == 36


def test_evaluations_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINES_S", 0.0)
    said: list[str] = []
    small = {"num_envs_per_worker": 2, "rollout_fragment_length": 16, "evaluation_duration": 2}
    with poise.make_trainer(
        "PPO", "CartPole-v1", preset=None, progress=False, evaluation_interval=2, **small
    ) as algo:
        algo.callbacks.append(Progress(say=said.append, plain=True))
        algo.learn(stop={"training_iteration": 3})
        score = [
            r["evaluation/episode_reward_mean"]
            for r in algo.history
            if "evaluation/episode_reward_mean" in r
        ]
    assert [f"eval {score[0]:.1f}" in text for text in said] == [False, True, True]


def test_a_dumb_terminal_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert where() == "terminal"
    monkeypatch.setenv("TERM", "dumb")
    assert where() == "lines"


def test_the_log_of_a_run_with_a_bar_has_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "where", lambda: "terminal")
    run = poise.run(
        "PPO", "CartPole-v1", stop={"training_iteration": 3}, folder=tmp_path, tensorboard=False
    )
    run.trainer.close()
    lines = [
        text for text in (run.path / "log.txt").read_text().splitlines() if " steps/s " in text
    ]
    assert len(lines) >= 2, "the first and the last"
    assert lines[-1].startswith("reward")


def command(*args: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "poise", *args], text=True, **options)


TRAIN = (
    "train",
    "PPO",
    "--env",
    "CartPole-v1",
    "--stop",
    "timesteps_total=20000",
    "--no-tensorboard",
)


@pytest.mark.slow
def test_an_output_that_nobody_reads_any_more_ends_nothing(tmp_path: Path) -> None:
    process = command(
        *TRAIN, "--folder", str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("PPO on CartPole-v1")
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    assert (process.wait(), errors) == (0, "")
    assert "Stopped: timesteps_total" in next(tmp_path.rglob("log.txt")).read_text()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX streams")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_streams_that_are_closed_lead_nowhere(closed: str, tmp_path: Path) -> None:
    shell = f'exec "$0" "$@" {closed}'
    args = [sys.executable, "-m", "poise", *TRAIN, "--folder", str(tmp_path)]
    done = subprocess.run(["sh", "-c", shell, *args], capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


@pytest.mark.parametrize("args", [("--help",), ("config", "PPO"), ("train", "PPO", "--help")])
def test_a_narrow_encoding_is_no_error(args: tuple[str, ...]) -> None:
    narrow = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = command(*args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=narrow)
    out, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert out


def test_a_notebook_shows_the_line_and_the_sentence() -> None:
    with pytest.raises(poise.ConfigError) as caught:
        poise.PPO("CartPole-v1", lrr=3)
    (shown,) = caught.value._render_traceback_()
    assert shown.splitlines()[0].endswith('poise.PPO("CartPole-v1", lrr=3)')
    assert "ConfigError: " in shown.splitlines()[1]
    assert "lrr" in shown.splitlines()[1]
