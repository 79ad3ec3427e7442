"""Guards exact resuming.

N + M iterations straight equal N, save, load in a fresh process, M more, bit for bit.

Compared are the whole checkpoints at the end (parameters, optimiser, generators, normalisers,
episodes in progress, environments) and the result dicts without their times. Then processes are
killed and preempted while they train.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from click.testing import CliRunner

import poise
import resumable
import warm
from poise.cli.main import poise as command
from poise.tracking.folder import RunFolder
from poise.training import checkpoint
from poise.training.environments import Environments
from poise.training.trainer import Trainer
from test_checkpoint import same

TINY: dict[str, Any] = {
    "preset": None,
    "seed": 11,
    "num_envs_per_worker": 4,
    "model": {"fcnet_hiddens": [16]},
}
PPO = {**TINY, "rollout_fragment_length": 48, "num_sgd_iter": 3, "sgd_minibatch_size": 64}
A2C = {**TINY, "rollout_fragment_length": 5, "timesteps_per_iteration": 150}
NORMAL = {"normalize_observations": True, "normalize_rewards": True}

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "PPO CartPole": ("PPO", "CartPole-v1", {**PPO, **NORMAL}),
    "A2C CartPole": ("A2C", "CartPole-v1", {**A2C, **NORMAL}),
    "PPO Acrobot": (
        "PPO",
        "Acrobot-v1",
        {**PPO, **NORMAL, "env_config": {"max_episode_steps": 60}},
    ),
    "A2C Acrobot": (
        "A2C",
        "Acrobot-v1",
        {**A2C, **NORMAL, "env_config": {"max_episode_steps": 60}},
    ),
    "PPO Pendulum": ("PPO", "Pendulum-v1", {**PPO, **NORMAL, "exploration_correlation": 0.7}),
    "A2C Pendulum": ("A2C", "Pendulum-v1", {**A2C, **NORMAL, "exploration_correlation": 0.7}),
    "schedules": (
        "PPO",
        "CartPole-v1",
        {**PPO, "lr": [[0, 1e-2], [2000, 0]], "entropy_coeff": [[0, 0.1], [900, 0]]},
    ),
    "plain": ("PPO", "CartPole-v1", PPO),
    "evaluated": (
        "PPO",
        "CartPole-v1",
        {**PPO, "evaluation_interval": 2, "evaluation_duration": 2},
    ),
    "own generator": ("PPO", "resumable:Repeatable", PPO),
    "get_state": ("A2C", "resumable:Stateful", {**A2C, **NORMAL}),
    "get_state and a time limit": (
        "PPO",
        "resumable:Stateful",
        {**PPO, "env_config": {"max_episode_steps": 11}},
    ),
}
N, M = 3, 3

CONTINUE = """
    import json, sys
    from pathlib import Path
    import poise
    poise.make_trainer  # loads torch
    results = {}
    for name, path in json.loads(sys.argv[1]).items():
        algo = poise.load(path)
        results[name] = [algo.train() for _ in range(int(sys.argv[2]))]
        results[name].append(algo.notes)
        algo.save(path + " after")
        algo.close()
    print(json.dumps(results))
"""


def run_child(code: str, *arguments: Any, **environment: str) -> str:
    """What a fresh process prints, which finds this folder's modules."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = warm.run(
        command, capture_output=True, text=True, env=child_env(**environment), timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def child_env(**more: str) -> dict[str, str]:
    path = os.pathsep.join(
        [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def timeless(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what a clock has measured."""
    return {k: v for k, v in result.items() if not k.startswith(("time_", "perf/"))}


def without_times(state: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in state.items() if k != "time_total_s"}


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """For every case, how the straight run ends, and how the one through a fresh process does."""
    root = tmp_path_factory.mktemp("resume")
    straight, paths = {}, {}
    for name, (algorithm, env, settings) in CASES.items():
        with poise.make_trainer(algorithm, env, progress=False, **settings) as algo:
            results = [algo.train() for _ in range(N + M)]
            straight[name] = {"results": results[N:], "path": algo.save(root / f"{name} straight")}
        with poise.make_trainer(algorithm, env, progress=False, **settings) as algo:
            for _ in range(N):
                algo.train()
            paths[name] = str(algo.save(root / name))
    results = json.loads(run_child(CONTINUE, json.dumps(paths), M))
    return {
        name: {
            **straight[name],
            "then": results[name][:-1],
            "notes": results[name][-1],
            "saved": Path(paths[name]),
        }
        for name in CASES
    }


@pytest.mark.parametrize("name", CASES)
def test_straight_equals_resumed_bit_for_bit(
    continued: dict[str, dict[str, Any]], name: str
) -> None:
    case = continued[name]
    manifest, policy, state = checkpoint.read(case["path"])
    resumed = checkpoint.read(Path(f"{case['saved']} after"))
    assert checkpoint.verify(case["saved"])["resume_grade"] == "bitwise"
    assert case["notes"] == []
    assert (manifest["iteration"], manifest["timesteps_total"]) == (
        N + M,
        resumed[0]["timesteps_total"],
    )
    assert same(policy, resumed[1])
    for part in without_times(state):
        assert same(state[part], resumed[2][part]), part
    for before, after in zip(case["results"], case["then"], strict=True):
        assert same(timeless(before), timeless(after))
        assert after["time_total_s"] > 0


@pytest.mark.parametrize("name", CASES)
def test_the_cases_are_not_trivial(continued: dict[str, dict[str, Any]], name: str) -> None:
    """Training changed the parameters after the checkpoint, which was amid episodes."""
    case = continued[name]
    _, policy, state = checkpoint.read(case["saved"])
    after = checkpoint.read(case["path"])[1]
    assert not same(policy, after)
    sampler = state["samplers"][0]
    assert sampler["lengths"].max() > 0
    assert sampler["env"] is not None
    if "normalize_rewards" in CASES[name][2]:
        assert abs(state["algorithm"]["rewards"]["carry"]).max() > 0
        assert policy["default"]["normalizer.count"] > 0
    if "exploration_correlation" in CASES[name][2]:
        assert sampler["noise"] is not None


def test_saving_does_not_disturb_training(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    ends = []
    for saves in (False, True):
        algo = trainer("PPO", "Pendulum-v1", **{**PPO, **NORMAL})
        for i in range(3):
            algo.train()
            if saves:
                algo.save(tmp_path / str(i))
        ends.append(checkpoint.read(algo.save(tmp_path / f"end {saves}")))
    assert same(ends[0][1], ends[1][1])
    assert same(without_times(ends[0][2]), without_times(ends[1][2]))


def test_a_trainer_that_was_loaded_only_to_be_saved_goes_on_exactly(
    trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    algo = trainer("A2C", "Acrobot-v1", **A2C)
    algo.train()
    algo.save(tmp_path / "a")
    with poise.load(tmp_path / "a") as between:
        between.save(tmp_path / "b")  # its environments were never made
    expected = algo.train()
    with poise.load(tmp_path / "b") as last:
        assert same(timeless(last.train()), timeless(expected))


def test_a_checkpoint_before_the_first_step_goes_on_exactly(
    trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    algo = trainer("PPO", "CartPole-v1", **PPO)
    algo.save(tmp_path / "a")
    expected = algo.train()
    with poise.load(tmp_path / "a") as loaded:
        assert same(timeless(loaded.train()), timeless(expected))


def test_what_cannot_be_replayed_begins_anew_and_says_so(
    trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    algo = trainer("PPO", "resumable:Unrepeatable", **PPO)
    for _ in range(2):
        algo.train()
    path = algo.save(tmp_path / "a")
    old = checkpoint.read(path)[2]["samplers"][0]
    assert old["lengths"].max() > 0
    np.random.seed(99)
    with poise.load(path) as loaded:
        sampler = loaded.samplers.members[0]
        fresh = sampler.state_dict()
        assert loaded.notes == [
            "4 of 4 environments could not be restored and began a new episode."
        ]
        # No step of an old episode is counted for a new one.
        assert sampler._lengths.tolist() == [0] * 4
        assert sampler._returns.tolist() == [0.0] * 4
        assert fresh["first"].tolist() == [True] * 4
        assert fresh["done"].tolist() == [False] * 4
        # What the policy sees first is where the environment stands.
        for slot, env in enumerate(sampler.env.envs):
            assert np.array_equal(fresh["obs"]["value"][slot], env.unwrapped.observe())
            assert env.unwrapped.now == 0
        result = loaded.train()
        assert result["episodes_total"] > algo.metrics.episodes_total
        for episode in list(loaded.metrics.window)[algo.metrics.episodes_total :]:
            assert 8 <= episode.length < 28  # whole episodes only
    assert algo.notes == []


def test_slots_that_can_be_restored_are_although_others_cannot(
    trainer: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    algo = trainer("PPO", "resumable:Repeatable", **PPO)
    algo.train()
    path = algo.save(tmp_path / "a")
    observe = resumable.Repeatable.observe
    wrong: list[Any] = []

    def forgetful(self: resumable.Walk) -> np.ndarray:
        wrong.extend([self] if not wrong else [])  # the first environment that is made
        return observe(self) + np.float32(self is wrong[0])

    monkeypatch.setattr(resumable.Repeatable, "observe", forgetful)
    with poise.load(path) as loaded:
        sampler = loaded.samplers.members[0]
        assert loaded.notes == [
            "1 of 4 environments could not be restored and began a new episode."
        ]
        assert sampler._lengths[0] == 0
        assert sampler._lengths[1:].tolist() == algo.samplers.members[0]._lengths[1:].tolist()
        assert sampler._returns[1:].tolist() == algo.samplers.members[0]._returns[1:].tolist()
        loaded.train()


def test_a_restart_never_replays_old_episodes(
    trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    """An opaque native vector environment is seeded anew for each incarnation, and differently."""
    from poise.stepping import snapshot

    starts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "_NATIVE_FIELDS", {})
        algo = trainer("PPO", "CartPole-v1", **PPO)
        starts.append(algo.samplers.members[0])
        algo.train()
        starts[0] = checkpoint.read(algo.save(tmp_path / "0"))
        assert starts[0][0]["resume_grade"] == "statistical"
        seen = []
        for i in range(3):
            with poise.load(tmp_path / str(i)) as loaded:
                seen.append(loaded.samplers.members[0].state_dict()["obs"]["value"].clone())
                assert loaded.notes == [
                    "4 of 4 environments could not be restored and began a new episode."
                ]
                loaded.train()
                loaded.save(tmp_path / str(i + 1))
    first = trainer("PPO", "CartPole-v1", **PPO).samplers.members[0]
    first._start()
    seen.append(first.state_dict()["obs"]["value"])
    rows = np.concatenate([np.asarray(obs) for obs in seen])
    assert len(np.unique(rows, axis=0)) == len(rows)


# --- killed ---------------------------------------------------------------------------------------

ENDLESS = """
    import os, sys
    from pathlib import Path
    import poise
    root, name = Path(sys.argv[1]), sys.argv[2]
    if (root / "e" / name / "config.json").exists():
        poise.resume(root / "e" / name, stop={"training_iteration": 10**9}, quiet=True)
    else:
        settings = eval(sys.argv[3])
        poise.run("PPO", "CartPole-v1", config=settings, preset=None, folder=root, experiment="e",
                  name=name, checkpoint_freq=1, stop={"training_iteration": 10**9}, quiet=True,
                  tensorboard=False)
"""

KILLED = {k: v for k, v in PPO.items() if k != "preset"}


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
    """Waits until a condition holds; a test that waits too long says for what."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        time.sleep(0.01)


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes of their own and leaves none behind."""
    started: list[subprocess.Popen[str]] = []

    def start(*command: str, **options: Any) -> subprocess.Popen[str]:
        started.append(
            warm.Popen(
                command,
                env=child_env(),
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                **options,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_killed_at_any_moment_a_run_goes_on_exactly(
    child: Callable[..., subprocess.Popen[str]], tmp_path: Path, trainer: Callable[..., Trainer]
) -> None:
    folder = RunFolder(tmp_path / "e" / "run")
    seed = random.SystemRandom().randrange(10**6)
    moments = random.Random(seed)
    reached = 0
    for round_ in range(3):
        process = child(
            sys.executable, "-c", textwrap.dedent(ENDLESS), str(tmp_path), "run", repr(KILLED)
        )
        wait_for(
            lambda reached=reached, process=process: (
                process.poll() is not None
                or max((int(p.name) for p in checkpoint.checkpoints(folder.checkpoints)), default=0)
                > reached
            ),
            f"a checkpoint after iteration {reached}",
        )
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
        assert folder.status()["state"] == "died"
        newest, problems = checkpoint.newest(folder.checkpoints)
        assert problems == [], f"moments of seed {seed}, round {round_}"
        assert newest is not None
        assert int(newest.name) > reached
        reached = int(newest.name)
    run = poise.resume(folder.path, stop={"training_iteration": reached + 5}, quiet=True)
    with run.trainer as resumed:
        assert resumed.iteration == reached + 5
        assert folder.status()["state"] == "finished"
        lines = [json.loads(line) for line in folder.metrics_file.read_text().splitlines()]
        assert [line["training_iteration"] for line in lines] == list(range(1, reached + 6)), (
            f"moments of seed {seed}"
        )
        for key in ("timesteps_total", "time_total_s"):
            assert all(a[key] < b[key] for a, b in itertools.pairwise(lines)), key
        assert not [p.name for p in folder.checkpoints.iterdir() if p.name.startswith(".")]
        straight = trainer("PPO", "CartPole-v1", **PPO)
        for line in folder.metrics():
            assert same(timeless(straight.train()), timeless(line)), f"moments of seed {seed}"
        assert same(dict(straight.policy.state_dict()), dict(resumed.policy.state_dict()))


def finished_run(root: Path, iterations: int = 4, **options: Any) -> RunFolder:
    """A short run in `root`, with a checkpoint of every iteration."""
    settings = {
        "checkpoint_freq": 1,
        "keep_checkpoints_num": 10,
        "quiet": True,
        "tensorboard": False,
        **options,
    }
    run = poise.run(
        "PPO", "CartPole-v1", folder=root, experiment="e", name="r",
        stop={"training_iteration": iterations}, **settings, **PPO,
    )  # fmt: skip
    run.trainer.close()
    return run.folder


@pytest.mark.parametrize(
    "torn", [b'{"episode_reward_mean": 12.5, "timest', b"\x00\x00\x00\x00", b"\xff\xfe{"]
)
def test_a_torn_last_line_is_trimmed(tmp_path: Path, torn: bytes) -> None:
    folder = finished_run(tmp_path)
    whole = folder.metrics_file.read_bytes()
    folder.metrics_file.write_bytes(whole + torn)
    assert [r["training_iteration"] for r in folder.metrics()] == [1, 2, 3, 4]
    run = poise.resume(folder.path, stop={"training_iteration": 6}, quiet=True)
    run.trainer.close()
    text = folder.metrics_file.read_bytes()
    assert text.startswith(whole)
    assert [json.loads(line)["training_iteration"] for line in text.splitlines()] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


@pytest.mark.parametrize(
    ("word", "lost", "grade"), [("for your information", 0, "bitwise"), ("", 1, "statistical")]
)
def test_only_what_could_not_be_restored_lowers_the_grade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, lost: int, grade: str
) -> None:
    folder = finished_run(tmp_path)
    make = Environments.make_samplers

    def told(self: Environments, *args: Any) -> Any:
        made = make(self, *args)
        self.notes += [word] if word else []
        self.lost += lost
        return made

    monkeypatch.setattr(Environments, "make_samplers", told)
    poise.resume(folder.path, stop={"training_iteration": 5}, quiet=True).trainer.close()
    log = (folder.path / "log.txt").read_text()
    assert f"grade: {grade}." in log
    assert word in log


def test_a_new_goal_is_the_runs_own_from_then_on(tmp_path: Path) -> None:
    """Killed on its way there and resumed without a rule, it goes on to that goal."""
    folder = finished_run(tmp_path)
    poise.resume(folder.path, stop={"training_iteration": 6}, quiet=True).trainer.close()
    assert folder.config()["stop"] == {"training_iteration": 6}
    shutil.rmtree(folder.checkpoints / "000006")
    run = poise.resume(folder.path, quiet=True)
    run.trainer.close()
    assert run.result["training_iteration"] == 6


def test_results_after_the_checkpoint_are_dropped_and_made_again(tmp_path: Path) -> None:
    folder = finished_run(tmp_path)
    before = folder.metrics()
    for name in ("000003", "000004"):
        (folder.checkpoints / name / "policy.safetensors").write_bytes(b"damaged")
    run = poise.resume(folder.path, stop={"training_iteration": 5}, quiet=True)
    run.trainer.close()
    after = folder.metrics()
    assert [r["training_iteration"] for r in after] == [1, 2, 3, 4, 5]
    for a, b in zip(before, after, strict=False):
        assert same(timeless(a), timeless(b))
    log = (folder.path / "log.txt").read_text()
    assert all(
        f"Warning: {folder.checkpoints / name} is damaged" in log for name in ("000003", "000004")
    )
    assert "Resuming from iteration 2" in log
    assert "grade: bitwise" in log


@pytest.mark.parametrize("damage", ["manifest is missing", "manifest is torn", "file is missing"])
def test_a_damaged_checkpoint_does_not_stand_in_the_way_of_its_successor(
    tmp_path: Path, damage: str
) -> None:
    """The resumed run saves the damaged iteration anew; later resumes see the new one."""
    folder = finished_run(tmp_path)
    last = folder.checkpoints / "000004"
    if damage == "manifest is missing":
        (last / "manifest.json").unlink()
    elif damage == "manifest is torn":
        (last / "manifest.json").write_text("{")
    else:
        (last / "state.json").unlink()
    run = poise.resume(folder.path, stop={"training_iteration": 4}, quiet=True)
    run.trainer.close()
    assert (run.trainer.iteration, folder.status()["state"]) == (4, "finished")
    assert checkpoint.verify(last)["iteration"] == 4
    assert checkpoint.newest(folder.checkpoints) == (last, [])
    # What is left of it is kept for whoever wants to look.
    assert (folder.checkpoints / "000004.damaged").is_dir()


def test_a_run_without_an_intact_checkpoint_says_so(tmp_path: Path) -> None:
    folder = finished_run(tmp_path, iterations=1)
    (folder.checkpoints / "000001" / "state.json").unlink()
    with pytest.raises(poise.CheckpointError, match="no intact checkpoint") as caught:
        poise.resume(folder.path, stop={"training_iteration": 3}, quiet=True)
    assert str(folder.path) in str(caught.value)


def test_a_resumed_run_keeps_its_own_stop_rule_and_settings(tmp_path: Path) -> None:
    folder = finished_run(tmp_path, iterations=4)
    config = folder.config()
    run = poise.resume(folder.path, quiet=True)  # it has reached its goal: nothing is left to do
    run.trainer.close()
    assert run.trainer.iteration == 4
    assert run.result["stop_reason"] == "training_iteration reached 4"
    assert len(folder.metrics()) == 4
    assert folder.config() == config
    assert run.trainer.config.to_dict() == config["config"]


def test_a_run_that_a_function_stopped_asks_for_a_rule(tmp_path: Path) -> None:
    run = poise.run("PPO", "CartPole-v1", folder=tmp_path, quiet=True, tensorboard=False,
                    stop=lambda result: result["training_iteration"] >= 2, **PPO)  # fmt: skip
    run.trainer.close()
    assert run.trainer.iteration == 2
    with pytest.raises(poise.RunError, match="give a stop rule"):
        poise.resume(run.path, quiet=True)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
def test_sigterm_ends_the_command_with_a_checkpoint(
    child: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "e" / "run")
    process = child(
        sys.executable, "-m", "poise", "train", "PPO", "--env", "CartPole-v1", "--stop",
        "timesteps_total=1000000000", "--seed", "1", "--folder", str(tmp_path), "--experiment", "e",
        "--name", "run",
    )  # fmt: skip
    wait_for(
        lambda: process.poll() is not None or len(folder.metrics()) >= 2, "the second iteration"
    )
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output + errors
    assert folder.status()["state"] == "preempted"
    newest, problems = checkpoint.newest(folder.checkpoints)
    assert problems == []
    last = folder.metrics()[-1]["training_iteration"]
    assert newest is not None
    assert int(newest.name) == last == folder.status()["training_iteration"]
    assert "poise resume" in output
    run = poise.resume(folder.path, stop={"training_iteration": last + 1}, quiet=True)
    run.trainer.close()
    assert [r["training_iteration"] for r in folder.metrics()] == list(range(1, last + 2))


# --- the same command again -----------------------------------------------------------------------


def again(root: Path, *more: str) -> tuple[str, ...]:
    """A scheduler's command."""
    return (
        sys.executable, "-m", "poise", "train", "PPO", "--env", "CartPole-v1", "--preset", "none",
        "--num_envs", "4", "--n_steps", "16", "--model.fcnet_hiddens", "4", "--folder", str(root),
        "--experiment", "e", "--name", "job", "--resume-if-exists", "--checkpoint-freq", "1",
        "--no-tensorboard", *more,
    )  # fmt: skip


def test_a_scheduler_calls_one_command_until_it_has_ended(
    child: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "e" / "job")
    killed = child(*again(tmp_path, "--stop", "training_iteration=1000000"))
    wait_for(
        lambda: killed.poll() is not None or checkpoint.checkpoints(folder.checkpoints),
        "a checkpoint",
    )
    killed.kill()
    _, errors = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, errors
    last = max(int(path.name) for path in checkpoint.checkpoints(folder.checkpoints))
    goal = f"training_iteration={last + 2}"
    first = child(*again(tmp_path, "--stop", goal, "--lr", "0.5"))
    output, errors = first.communicate(timeout=120)
    assert first.returncode == 0, output + errors
    assert f"Resuming from iteration {last} " in output
    assert "The run goes on with its own settings: lr=0.0003 (asked for: 0.5)." in output
    assert [r["training_iteration"] for r in folder.metrics()] == list(range(1, last + 3))
    before = {
        file: file.read_bytes() for file in (folder.metrics_file, folder.path / "status.json")
    }
    ended = CliRunner().invoke(command, again(tmp_path)[3:])
    assert (ended.exit_code, "has ended: training_iteration reached" in ended.output) == (
        0,
        True,
    ), ended.output
    assert {file: file.read_bytes() for file in before} == before


def test_a_run_that_is_asked_for_again_is_that_run_or_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {**PPO, "folder": tmp_path, "experiment": "e", "tensorboard": False}
    asked |= {"name": "r", "resume_if_exists": True}

    class Mine(gym.Wrapper):
        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__(gym.make("CartPole-v1"))

    run = poise.run("PPO", Mine, stop={"training_iteration": 2}, **asked)
    run.trainer.close()
    # A class that no file can name.
    later = poise.run("PPO", Mine, stop={"training_iteration": 4}, **asked)
    later.trainer.close()
    assert later.trainer.iteration == 4
    assert "settings" not in capsys.readouterr().out
    with pytest.raises(poise.RunError, match=r"is one of PPO on .*Mine, not of PPO on CartPole-v1"):
        poise.run("PPO", "CartPole-v1", **asked)
    with pytest.raises(poise.ConfigError, match="needs a name"):
        poise.run("PPO", "CartPole-v1", **{**asked, "name": None})
    shutil.rmtree(later.folder.checkpoints)  # it died before its first checkpoint
    fresh = poise.run("PPO", Mine, stop={"training_iteration": 1}, **asked)
    fresh.trainer.close()
    assert [r["training_iteration"] for r in fresh.folder.metrics()] == [1]
    assert "died before its first checkpoint" in capsys.readouterr().out
    poise.run("PPO", Mine, stop={"training_iteration": 1}, **asked).trainer.close()
    assert "has ended" in capsys.readouterr().out
