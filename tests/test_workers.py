"""Environments in worker processes.

The same numbers as in this process, whatever happens, and nothing left behind.
"""

from __future__ import annotations

import gc
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import poise
import resumable
import strange
import warm
from environments import Copy, Echo, Noise, Scripted
from poise.children.pipe import Pipe
from poise.envs.make import recipe
from poise.errors import EnvError
from poise.sampling.sampler import Sampler
from poise.spaces.layout import Layout
from poise.stepping.advice import WORTH, advise_workers, batch_seconds
from poise.stepping.batches import make_batches
from poise.stepping.inline import InlineVectorEnv
from poise.stepping.process import Limits, Worker
from poise.stepping.workers import WorkerVectorEnv
from poise.training.trainer import Trainer
from rollouts import sample
from test_sampler import make_policy

Make = Callable[..., Trainer]
Start = Callable[..., WorkerVectorEnv]
TESTS = Path(__file__).parent
QUICK: dict[str, Any] = {"num_envs_per_worker": 2, "rollout_fragment_length": 16, "num_sgd_iter": 2}


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts workers, and ends them after the test."""
    made: list[WorkerVectorEnv] = []

    def make(
        env: Any, num_envs: int, num_workers: int, config: dict[str, Any] | None = None
    ) -> WorkerVectorEnv:
        made.append(WorkerVectorEnv(recipe(env, config), num_envs, num_workers, Limits()).connect())
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.mark.skipif(not hasattr(os, "sched_yield"), reason="lingering needs sched_yield")
def test_a_worker_lingers_until_there_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    pipe, yields = Pipe(read, write), []

    def give_way() -> None:
        yields.append(len(yields))
        if len(yields) == 3:
            pipe.step()

    monkeypatch.setattr(os, "sched_yield", give_way)
    monkeypatch.setattr("poise.children.pipe._LINGER_S", 0.0)
    pipe.linger()
    assert yields == [], "time is up: whoever waits longer sleeps"
    monkeypatch.setattr("poise.children.pipe._LINGER_S", 3600.0)
    pipe.linger()
    pipe.linger()
    assert len(yields) == 3, "it looks until there is a message, and not once more"
    assert pipe.receive() is None
    os.close(write)
    pipe.linger()
    assert len(yields) == 3, "a driver that has gone is found at once"
    os.close(read)


def timeless(result: dict[str, Any]) -> dict[str, Any]:
    """What of a result does not depend on the clock; NaN as text, which equals itself."""
    kept = {key: value for key, value in result.items() if not key.startswith(("time_", "perf/"))}
    return {key: str(value) if math.isnan(value) else value for key, value in kept.items()}


def pids(env: Any) -> list[int]:
    batches = env.environments.batches if isinstance(env, Trainer) else [env]
    return [worker._process.pid for batch in batches for worker in batch.workers]


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(processes: list[int], seconds: float = 60.0) -> bool:
    """Whether they end, on however busy a machine."""
    end = time.monotonic() + seconds
    while any(map(alive, processes)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, processes))


# --- the same numbers -----------------------------------------------------------------------------

NESTED = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (4, 5, 3), np.uint8),
        "more": spaces.Tuple([spaces.Discrete(4, start=-1), spaces.MultiBinary([2, 3])]),
        "scalar": spaces.Box(-1, 1, (), np.float64),
    }
)
ENVS: dict[str, Callable[..., gym.Env]] = {
    "scripted": lambda: Scripted((2, 3, 1)),
    "nested": lambda: Noise(NESTED),
    "image": lambda: Noise(spaces.Box(0, 255, (8, 8, 4), np.uint8)),
    "discrete": lambda: Noise(spaces.Discrete(5, start=2)),
    "binary": lambda: Copy(spaces.MultiBinary(4)),
    "several actions": lambda: Copy(spaces.MultiDiscrete([3, 4], start=[1, -2])),
    "nested actions": lambda: Copy(
        spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(-1, 2, (2,), np.float32)})
    ),
    "double precision": lambda: Copy(spaces.Box(-2, 3, (3,), np.float64)),
}


@pytest.mark.parametrize("name", ENVS)
def test_workers_step_as_this_process_does(name: str, start: Start) -> None:
    shared, here = start(ENVS[name], 5, 2), InlineVectorEnv(ENVS[name], 5)
    assert [worker.size for worker in shared.workers] == [2, 3]
    assert shared.observation_space == here.observation_space
    assert shared.action_space == here.action_space
    layout = Layout(here.single_observation_space)
    here.action_space.seed(0)
    seeds = [3, 1, 4, 1, 5]
    pairs = [(shared.reset(seed=list(seeds)), here.reset(seed=list(seeds)))]
    for _ in range(40):
        actions = here.action_space.sample()
        pairs.append((shared.step(actions), here.step(actions)))
        there, mine = (layout.flatten(step[0]) for step in pairs[-1])
        for leaf in layout.leaves:
            assert there[leaf.name].dtype == mine[leaf.name].dtype == leaf.dtype
            np.testing.assert_array_equal(there[leaf.name], mine[leaf.name])
        for a, b in zip(pairs[-1][0][1:4], pairs[-1][1][1:4], strict=True):
            np.testing.assert_array_equal(a, b)
        infos = pairs[-1][0][4], pairs[-1][1][4]
        assert infos[0].keys() == infos[1].keys()
        for key in infos[0]:
            np.testing.assert_array_equal(infos[0][key], infos[1][key])
    assert not shared.disturbed
    assert shared.take_failures() == []


def test_there_are_not_more_workers_than_environments(start: Start) -> None:
    assert [worker.size for worker in start(Scripted, 2, 3).workers] == [1, 1]


def test_rollouts_of_two_batches_are_those_of_scripted_episodes() -> None:
    batches = make_batches(Scripted, 2, {}, 2, Limits())
    try:
        failures = None
        seeds = np.random.SeedSequence(0).spawn(2)
        samplers = [
            Sampler(make_policy(e), e, 8, s, failures=failures)
            for e, s in zip(batches, seeds, strict=True)
        ]
        r = sample(*samplers)
        assert r.slots == 4
        for b in range(4):
            expected = [[1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2], [2, 3], [3, 0], [3, 1]]
            assert r.obs["value"][:, b].int().tolist() == expected
            assert r.reward[:, b].tolist() == [11, 12, 0, 21, 22, 23, 0, 31]
            assert r.terminated[:, b].int().tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
            assert r.truncated[:, b].int().tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
            assert r.valid[:, b].tolist() == [1, 1, 0, 1, 1, 1, 0, 1]
            assert r.first[:, b].int().tolist() == [1, 0, 0, 1, 0, 0, 0, 1, 0]
        assert [(e.slot, e.info) for e in samplers[0].harvest().episodes][:1] == [
            (0, {"episode_number": 1.0})
        ]
    finally:
        for env in batches:
            env.close()


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
def test_the_same_seed_gives_the_same_run_bit_for_bit(algorithm: str, trainer: Make) -> None:
    ends = []
    settings = {
        key: value for key, value in QUICK.items() if algorithm == "PPO" or key != "num_sgd_iter"
    }
    settings["timesteps_per_iteration"] = 0
    for seed in (1, 1, 2):
        algo = trainer(
            algorithm,
            lambda: Noise(action_space=spaces.Box(-1, 1, (2,))),
            num_workers=2,
            seed=seed,
            **settings,
        )
        result = [timeless(algo.train()) for _ in range(4)][-1]
        ends.append((result, algo.algorithm.flat.data.clone()))
        algo.close()
    assert ends[0][0] == ends[1][0] != ends[2][0]
    assert torch.equal(ends[0][1], ends[1][1])
    assert not torch.equal(ends[0][1], ends[2][1])


def test_environments_of_different_workers_play_different_episodes(trainer: Make) -> None:
    algo = trainer("PPO", Noise, num_workers=2, **QUICK)
    algo.train()
    starts = torch.cat([sampler.rollout.obs["value"][0] for sampler in algo.samplers.members])
    assert len({tuple(row) for row in starts.tolist()}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("env", [resumable.Repeatable, resumable.Stateful, ENVS["nested actions"]])
def test_a_resumed_run_is_the_same_to_the_bit(env: Any, trainer: Make, tmp_path: Path) -> None:
    straight = trainer("PPO", env, num_workers=2, **QUICK)
    for _ in range(4):
        straight.train()
    halved = trainer("PPO", env, num_workers=2, **QUICK)
    for _ in range(2):
        halved.train()
    path = halved.save(tmp_path / "a")
    assert json.loads((path / "manifest.json").read_text())["resume_grade"] == "bitwise"
    with poise.load(path, env=env) as loaded:
        for _ in range(2):
            result = loaded.train()
        assert loaded.notes == []
        assert torch.equal(loaded.algorithm.flat.data, straight.algorithm.flat.data)
        assert timeless(result) == timeless(straight.history[-1])
    halved.close()  # closed and opened again is the same too
    for _ in range(2):
        halved.train()
    assert torch.equal(halved.algorithm.flat.data, straight.algorithm.flat.data)


def test_what_cannot_be_replayed_begins_a_new_episode(trainer: Make, tmp_path: Path) -> None:
    algo = trainer("PPO", resumable.Unrepeatable, num_workers=2, **QUICK)
    algo.train()
    with poise.load(algo.save(tmp_path / "a"), env=resumable.Unrepeatable) as loaded:
        loaded.train()
        assert loaded.notes == [
            "4 of 4 environments could not be restored and began a new episode."
        ]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_spoils_its_action_spoils_no_rollout(
    workers: int, trainer: Make
) -> None:
    algo = trainer("PPO", strange.ChangesItsAction, num_workers=workers, **QUICK)
    algo.train()
    for sampler in algo.samplers.members:
        r = sampler.rollout
        assert ((r.action >= 0) & (r.action < 3)).all()
        assert torch.equal(r.action.sum(-1) * r.valid, r.reward)


def test_a_worker_that_is_started_anew_plays_other_episodes(start: Start) -> None:
    env = start(Noise, 4, 2)
    first = env.reset(seed=[1, 2, 3, 4])[0].copy()
    starts = {tuple(row) for row in first.tolist()}
    for _ in range(2):
        os.kill(pids(env)[1], signal.SIGKILL)
        while not env.begun.any():
            obs = env.step(np.zeros(4, np.int64))[0]
        assert env.begun.tolist() == [False, False, True, True]
        again = {tuple(row) for row in obs[2:].tolist()}
        assert len(again) == 2
        assert not again & starts
        starts |= again
        env.step(np.zeros(4, np.int64))
    assert [failure.kind for failure in env.take_failures()] == ["ended", "ended"]


# --- how environments may be given ----------------------------------------------------------------

SCRIPT = """
import sys, gymnasium as gym
sys.path.append({tests!r})
sys.path.append({folder!r})
import poise
from strange import TellsModules

class Mine(TellsModules):
    def __init__(self, config=None):
        super().__init__()

class Parts:
    class Inner(Mine):
        pass

def closure(number):
    def make(config):
        assert number == 7 and config == {{"size": 3}}
        return Mine()
    return make

poise.register_env("mine", lambda config: Mine())
gym.register("Called-v0", entry_point=lambda: Mine())
gym.register("Named-v0", entry_point="away:Away", max_episode_steps=4)
given = {{
    "class": (Mine, {{}}),
    "inner": (Parts.Inner, {{}}),
    "lambda": (lambda config: Mine(), {{}}),
    "closure": (closure(7), {{"size": 3}}),
    "registered": ("mine", {{}}),
    "called": ("Called-v0", {{}}),
    "named": ("Named-v0", {{}}),
    "module": ("away:Away-v0", {{}}),
    "module class": ("away:Away", {{}}),
    "own script": ("__main__:Mine", {{}}),
    "gymnasium": ("CartPole-v1", {{}}),
}}
for name, (env, config) in given.items():
    with poise.PPO(env, env_config=config, num_workers=1, num_envs_per_worker=1,
                   rollout_fragment_length=32, num_sgd_iter=1, seed=0) as algo:
        result = algo.train()
        assert result.get("info/torch", 0) == 0, "a worker has imported PyTorch"
        print(name, result["timesteps_total"] > 0)
"""
AWAY = """
import gymnasium as gym
from strange import TellsModules

class Away(TellsModules):
    pass

gym.register("Away-v0", entry_point=Away)
"""


@pytest.mark.slow
def test_environments_of_a_script_reach_the_workers(tmp_path: Path) -> None:
    """No `__main__` guard is needed.

    What only the script knows goes with it, and no worker imports PyTorch.
    """
    (tmp_path / "away.py").write_text(AWAY)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(TESTS), folder=str(tmp_path)))
    done = warm.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 11
    assert all(line.endswith(" True") for line in done.stdout.splitlines())


def test_what_cannot_be_sent_is_one_sentence(trainer: Make) -> None:
    lock = threading.Lock()

    def make(config: dict[str, Any]) -> gym.Env:
        with lock:
            return Scripted()

    with pytest.raises(EnvError) as caught:
        trainer("PPO", make, num_workers=2, **QUICK)
    assert re.match(
        r"test_workers:.*make cannot be sent to worker processes: TypeError: .*lock",
        str(caught.value),
    )
    assert "\n" not in str(caught.value)
    assert "num_workers=0" in str(caught.value)


def test_spaces_must_be_the_same_everywhere(trainer: Make) -> None:
    with pytest.raises(EnvError, match="has other spaces than those before"):
        trainer("PPO", strange.Varies, num_workers=4, **QUICK)


# --- what environments do in their process --------------------------------------------------------


def test_what_environments_print_is_seen_and_does_no_harm(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    env = start(strange.Talks, 2, 2)
    env.reset(seed=0)
    for _ in range(2):
        assert env.step(np.zeros(2, np.int64))[1].min() > 0
    env.close()
    out, error = capfd.readouterr()
    assert out == ""
    assert error.count("a line of text from the environment") == 4
    assert env.take_failures() == []


@pytest.mark.parametrize("env", [strange.Threads, strange.FailsToClose])
def test_threads_and_errors_do_not_keep_a_worker_alive(
    env: Any, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end by themselves: after two seconds, which are a minute here, they would be killed."""
    end = Worker.end
    monkeypatch.setattr(Worker, "end", lambda worker, seconds=0.0: end(worker, 30 * seconds))
    shared = start(env, 2, 2)
    shared.reset(seed=0)
    processes = [worker._process for worker in shared.workers]
    shared.close()
    assert [process.returncode for process in processes] == [0, 0]


def test_programs_that_environments_start_can_be_ended(start: Start) -> None:
    env = start(strange.Starts, 1, 1)
    env.reset(seed=0)
    for _ in range(2):
        info = env.step(np.zeros(1, np.int64))[4]
    assert info["code"].tolist() == [-signal.SIGTERM]


def test_workers_outlive_the_thread_that_started_them() -> None:
    made: list[Any] = []
    thread = threading.Thread(
        target=lambda: made.extend(make_batches(Scripted, 1, {}, 2, Limits()))
    )
    thread.start()
    thread.join()
    time.sleep(0.3)
    for env in made:
        env.reset(seed=0)
        env.step(np.zeros(1, np.int64))
        assert env.take_failures() == []
        processes = pids(env)
        env.close()
        assert gone(processes)


# --- nothing is left behind -----------------------------------------------------------------------


def test_closing_ends_the_workers(trainer: Make) -> None:
    algo = trainer("PPO", Noise, num_workers=2, **QUICK)
    algo.train()
    processes = pids(algo)
    assert len(processes) == 2
    assert all(map(alive, processes))
    algo.close()
    assert gone(processes, 0.0)
    algo.train()  # goes on with new ones
    assert pids(algo) != processes


def test_forgetting_a_trainer_ends_its_workers() -> None:
    algo = poise.make_trainer("PPO", Noise, num_workers=2, progress=False, **QUICK)
    algo.train()
    processes = pids(algo)
    del algo
    gc.collect()
    assert gone(processes, 0.5)


def test_a_trainer_that_cannot_be_made_leaves_no_workers(trainer: Make) -> None:
    before = children()
    with pytest.raises(poise.PoiseError) as caught:
        trainer("PPO", lambda: Noise(spaces.Text(3)), num_workers=2, **QUICK)
    with pytest.raises(poise.ModelError) as caught_too:
        trainer("PPO", Noise, num_workers=2, model={"custom_model": "unknown"}, **QUICK)
    with pytest.raises(EnvError) as caught_last:
        trainer("PPO", strange.Varies, num_workers=4, **QUICK)
    assert gone([pid for pid in children() if pid not in before], 0.5)
    del caught, caught_too, caught_last


def children() -> list[int]:
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(file.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == os.getpid() and alive(int(file.parent.name)):
            found.append(int(file.parent.name))
    return found


def test_memory_and_descriptors_come_back() -> None:
    def use() -> tuple[int, int, list[str]]:
        maps = Path("/proc/self/maps").read_text().count("memfd:poise")
        return len(os.listdir("/proc/self/fd")), maps, sorted(os.listdir("/dev/shm"))

    gc.collect()
    before = use()
    for _ in range(3):
        large = recipe(lambda: Noise(spaces.Box(0, 255, (64, 64, 4), np.uint8)))
        env = WorkerVectorEnv(large, 4, 2, Limits()).connect()
        env.reset(seed=0)
        os.kill(pids(env)[0], signal.SIGKILL)
        while not env.failures:
            env.step(np.zeros(4, np.int64))
        assert use()[1] == before[1] + 1
        env.close()
        del env
        gc.collect()
    assert use() == before


ENDS = {
    "exception": "1 / 0",
    "exit": "sys.exit(5)",
    "_exit": "os._exit(5)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "thread": "os._exit(5)",
}
DRIVER = """
import os, signal, sys, threading, time
sys.path.append({tests!r})
import numpy as np, strange
from poise.children.pipe import Pipe
from poise.stepping.batches import make_batches
from poise.stepping.process import Limits, Worker

def work():
    global batches
    batches = make_batches(strange.{env}, 1, {{}}, 2, Limits())
    print(*(worker._process.pid for env in batches for worker in env.workers), flush=True)
    for env in batches:
        env.reset(seed=0)
    for step in range(3):
        for env in batches:
            env.send(np.zeros(1, np.int64))
        for env in batches:
            if step < 2:
                env.recv()
    time.sleep(0.1)

{start}
{end}
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere, a worker that holds the interpreter lock stays"
)
@pytest.mark.parametrize("env", ["Scripted", "Stuck"])
@pytest.mark.parametrize("way", ENDS)
def test_no_worker_outlives_its_driver(way: str, env: str) -> None:
    if way == "thread" and env == "Stuck":
        pytest.skip(
            "a worker that a passing thread started and that holds the interpreter lock cannot look"
        )
    run = (
        "work()"
        if way != "thread"
        else "passing = threading.Thread(target=work); passing.start(); passing.join()"
    )
    script = DRIVER.format(tests=str(TESTS), env=env, start=run, end=ENDS[way])
    done = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert done.stdout is not None
    processes = [int(pid) for pid in done.stdout.readline().split()]
    assert len(processes) == 2
    assert done.wait() != 0
    assert gone(processes)
    done.communicate()


# --- interruptions --------------------------------------------------------------------------------


def test_ctrl_c_amid_a_step_leaves_everything_usable(trainer: Make) -> None:
    algo = trainer("PPO", strange.Sleepy, env_config={"seconds": 0.02}, num_workers=2, **QUICK)
    algo.train()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.15)
        with pytest.raises(KeyboardInterrupt):
            algo.train()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    result = algo.train()
    assert result["env_failures_total"] == 0
    for sampler in algo.samplers.members:
        r = sampler.rollout
        assert r.first[0].all()  # what was broken off is gone
        assert (r.obs["value"][1:, :, 1] - r.obs["value"][:-1, :, 1])[
            r.valid.bool()
        ].unique().tolist() == [1]


@pytest.mark.slow
def test_ctrl_c_in_the_terminal_leaves_the_workers_to_their_driver(tmp_path: Path) -> None:
    """The terminal sends SIGINT to all processes of its group."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    poise_command = [sys.executable, "-m", "poise"]
    settings = [
        "--num-workers",
        "2",
        "--rollout-fragment-length",
        "16",
        "--seed",
        "1",
        "--no-tensorboard",
    ]
    process = warm.Popen(
        [*poise_command, "train", "PPO", "--env", "resumable:Repeatable", *settings,
         "--stop", "timesteps_total=1e9"],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while (
            not (files := list(tmp_path.glob("runs/*/*/metrics.jsonl")))
            or not files[0].read_text().count("\n") > 3
        ):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        text, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, text
    assert "Traceback" not in text
    run = files[0].parent
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    last = json.loads(files[0].read_text().splitlines()[-1])
    assert last["env_failures_total"] == 0
    until = last["training_iteration"] + 2
    done = warm.run(
        [*poise_command, "resume", str(run), "--stop", f"training_iteration={until}"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "grade: bitwise" in done.stdout + done.stderr
    assert json.loads(files[0].read_text().splitlines()[-1])["training_iteration"] == until


# --- how many -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step_s", "cpu_share", "envs", "cores", "workers"),
    [
        (1e-6, 1.0, 8, 8, 0),  # sending would cost more than stepping
        (10e-6, 1.0, 8, 8, 0),
        (1e-3, 1.0, 8, 1, 0),  # one core: nothing to share
        (1e-3, 1.0, 8, 2, 2),
        (1e-3, 1.0, 8, 4, 4),
        (1e-3, 1.0, 8, 64, 8),  # never more than environments
        (1e-3, 1.0, 6, 2, 2),
        (1e-3, 1.0, 9, 4, 9),  # a divisor of their number: 3 would leave a core idle
        (5e-3, 0.0, 8, 1, 8),  # it only waits: cores do not matter
        (1.0, 0.5, 4, 1, 2),
        (1e-3, 1.0, 1, 8, 0),
    ],
)
def test_advice(step_s: float, cpu_share: float, envs: int, cores: int, workers: int) -> None:
    found, why = advise_workers(step_s, cpu_share, envs, cores)
    assert found == workers
    assert f"{envs} environment" in why
    assert f"{cores} core" in why
    assert found == 0 or envs % found == 0
    times = {
        w: batch_seconds(w, step_s, cpu_share, envs, cores)
        for w in (0, *range(1, envs + 1))
        if w == 0 or envs % w == 0
    }
    assert times[found] <= (1.02 if found else WORTH) * min(times.values()) + 1e-9


@pytest.mark.parametrize(
    ("env", "workers", "sentence"),
    [
        (Scripted, 0, "No worker processes: stepping in this process is as fast"),
        (strange.Sleepy, 4, "4 worker processes: a step of the whole batch takes about "),
        ("CartPole-v1", 0, "No worker processes: CartPole-v1 has a native version"),
    ],
)
def test_auto_measures_chooses_and_writes_down(
    env: Any, workers: int, sentence: str, trainer: Make, tmp_path: Path
) -> None:
    settings = {
        "num_envs_per_worker": 4,
        "rollout_fragment_length": 16,
        "num_sgd_iter": 1,
        "preset": None,
    }
    if not isinstance(env, str):
        del settings["preset"]
    algo = trainer("PPO", env, num_workers="auto", **settings)
    assert algo.config.num_workers == workers
    assert algo.config.num_envs == 4
    assert algo.config.train_batch_size == 64
    assert algo.notes[0].startswith(f"num_workers='auto': {sentence}")
    algo.train()
    manifest = json.loads((algo.save(tmp_path / "a") / "manifest.json").read_text())
    assert manifest["config"]["num_workers"] == workers


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
def test_learns_with_workers(algorithm: str, trainer: Make) -> None:
    settings: dict[str, dict[str, Any]] = {
        "PPO": {
            "lr": 3e-3,
            "rollout_fragment_length": 32,
            "sgd_minibatch_size": 128,
            "num_sgd_iter": 6,
        },
        "A2C": {
            "lr": [[0, 3e-3], [20_000, 0.0]],
            "rollout_fragment_length": 8,
            "entropy_coeff": 0.01,
        },
    }
    algo = trainer(
        algorithm, Echo, num_workers=2, num_envs_per_worker=8, gamma=0.9, **settings[algorithm]
    )
    result = algo.learn({"PPO": 8_000, "A2C": 20_000}[algorithm])
    assert result["perf/waiting_share"] > 0
    assert algo.evaluate(20)["episode_reward_mean"] >= 0.9 * 8


def test_evaluation_has_environments_of_its_own(trainer: Make) -> None:
    algo = trainer(
        "PPO", Noise, num_workers=2, **QUICK, evaluation_interval=1, evaluation_duration=3
    )
    assert algo.train()["evaluation/episodes"] == 3
    assert len(pids(algo)) == 2


# --- a failure upon a failure ---------------------------------------------------------------------


class Fickle(gym.Env):
    """Episodes of three steps; action 1 raises."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)
    step_s = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        if action == 1:
            raise RuntimeError("boom")
        self.t += 1
        time.sleep(self.step_s)
        return np.zeros(2, np.float32), 1.0, self.t >= 3, False, {"success": 1.0}


def test_a_replaced_worker_does_not_inherit_the_failures_of_the_last(start: Start) -> None:
    env = start(Fickle, 2, 1)
    env.reset(seed=0)
    env.step(np.array([1, 0]))
    assert env.lost.tolist() == [True, False]
    os.kill(env.workers[0].pid, signal.SIGKILL)
    while not (env.step(np.array([0, 0])) and env.begun.all()):
        pass
    ends = 0
    while ends < 2:  # it has news at each end
        terminated = env.step(np.array([0, 0]))[2]
        assert not env.lost.any()
        assert not env.begun.any()
        ends += bool(terminated.all())


class Slow(Fickle):
    """Its episodes do not end."""

    step_s = 0.005

    def step(self, action: Any) -> Any:
        self.t = 0
        return super().step(0)


def test_replaying_takes_as_long_as_it_takes(trainer: Make, tmp_path: Path) -> None:
    """Only a single step of it may not hang."""
    quick = {
        **QUICK,
        "num_envs_per_worker": 4,
        "rollout_fragment_length": 100,
        "env_reset_timeout_s": 0.5,
    }
    first = trainer("PPO", Slow, num_workers=1, **quick)
    first.train()
    first.save(tmp_path / "checkpoint")
    again = poise.load(tmp_path / "checkpoint", env=Slow)
    again.train()
    assert not [note for note in again.notes if "restored" in note]
    again.close()


class BreaksOnce(Fickle):
    """Its second instance breaks."""

    made = 0

    def __init__(self) -> None:
        BreaksOnce.made += 1
        self.breaks = BreaksOnce.made == 2

    def step(self, action: Any) -> Any:
        if self.breaks and self.t == 1:
            raise ConnectionError("the server is gone")
        return super().step(0)


def test_an_episode_that_breaks_while_it_is_replayed_is_lost(trainer: Make, tmp_path: Path) -> None:
    quick = {**QUICK, "num_envs_per_worker": 1, "rollout_fragment_length": 18}
    BreaksOnce.made = 0
    first = trainer("PPO", BreaksOnce, **quick)
    first.train()
    first.save(tmp_path / "checkpoint")
    again = poise.load(tmp_path / "checkpoint", env=BreaksOnce)
    with pytest.warns(RuntimeWarning, match="the server is gone"):
        again.train()
    assert "1 of 1 environments could not be restored and began a new episode." in again.notes
    again.close()


def test_a_worker_that_dies_amid_a_large_recipe_is_one_sentence(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poise.children.launch._BOOT", "raise SystemExit(7)")
    with pytest.raises(EnvError, match="exit code 7"):
        trainer(
            "PPO",
            lambda config: Fickle(),
            env_config={"map": "x" * 1_000_000},
            num_workers=1,
            **QUICK,
        )


def test_modules_in_the_current_folder_do_not_hide_those_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    (tmp_path / "cloudpickle.py").write_text("raise RuntimeError")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path("elsewhere"))  # and paths may be other things than text
    start(Fickle, 1, 1).reset(seed=0)


def test_auto_keeps_all_environments_where_measuring_fails(trainer: Make) -> None:
    class Broken(Fickle):
        def step(self, action: Any) -> Any:
            raise RuntimeError

    made = trainer("PPO", lambda config: Broken(), num_workers="auto", num_envs_per_worker=5)
    assert (made.config.num_workers, made.config.num_envs_per_worker) == (1, 5)
