"""What happens when environments fail.

They are replaced in time, counted and told, and nothing is learnt from it.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import poise
import zoo
from environments import Scripted
from poise.envs.raised import said
from poise.errors import EnvError
from poise.learning.returns import advantages
from poise.sampling.rewards import RewardScaler
from poise.sampling.rollout import Rollout
from poise.stepping.failures import Failure, Failures
from poise.stepping.inline import InlineVectorEnv
from poise.tracking.recorder import RunRecorder
from poise.training.trainer import Trainer
from rollouts import sample

Make = Callable[..., Trainer]
QUICK = {"rollout_fragment_length": 16, "num_sgd_iter": 1}


class Witness(poise.Callback):
    """Notes what fails and which episodes end, and looks at every rollout that is learnt from."""

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self.episodes: list[Any] = []
        self.steps = 0

    @property
    def counted(self) -> int:
        return sum(failure.kind != "odd" for failure in self.failures)

    def on_failure(self, trainer: Trainer, failure: Failure) -> None:
        self.failures.append(failure)

    def on_episode_end(self, trainer: Trainer, episode: Any) -> None:
        number = int(episode.info["episode_number"])
        assert episode.length == (5, 7)[(number - 1) % 2]
        assert episode.reward == sum(10 * number + step for step in range(1, episode.length + 1))
        self.episodes.append(episode)

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        for sampler in trainer.samplers.members:
            self.steps += int(sampler.rollout.valid.sum())
            check_rows(sampler.rollout)
            check_advantages(sampler.rollout)
        assert result["timesteps_total"] == self.steps
        assert torch.isfinite(trainer.algorithm.flat.data).all()
        assert trainer.algorithm.skipped == 0


def check_rows(r: Rollout) -> None:
    """Rows that count are steps of one episode.

    All others hold nothing, and what comes before them is cut off.
    """
    obs = r.obs["value"].int().tolist()
    done = (r.terminated | r.truncated).tolist()
    for b in range(r.slots):
        for t in range(r.steps):
            if not r.valid[t, b]:
                assert r.reward[t, b] == 0
                continue
            episode, step = obs[t][b]
            assert obs[t + 1][b] == [episode, step + 1]
            assert r.reward[t, b] == 10 * episode + step + 1
            assert bool(r.first[t, b]) == (step == 0)
            if t + 1 < r.steps and not r.valid[t + 1, b]:
                assert done[t][b]
    assert all(torch.isfinite(leaf.float()).all() for leaf in r.obs.values())
    assert torch.isfinite(r.log_prob).all()


def check_advantages(r: Rollout, gamma: float = 0.9, lambda_: float = 0.8) -> None:
    """Against the definition, a sum over the rows of one episode."""
    value = torch.randn(r.steps + 1, r.slots, generator=torch.Generator().manual_seed(0))
    found = advantages(
        r.reward, value[:-1], value[1:], r.terminated, r.truncated, gamma=gamma, lambda_=lambda_
    )
    rows = r.obs["value"].tolist()
    for b in range(r.slots):
        for t in range(r.steps):
            if not r.valid[t, b]:
                continue
            expected, weight = 0.0, 1.0
            for k in range(t, r.steps):
                if not r.valid[k, b] or rows[k][b] != [rows[t][b][0], rows[t][b][1] + k - t]:
                    break
                future = 0.0 if r.terminated[k, b] else gamma * float(value[k + 1, b])
                expected += weight * (float(r.reward[k, b]) + future - float(value[k, b]))
                weight *= gamma * lambda_
                if r.terminated[k, b] or r.truncated[k, b]:
                    break
            assert float(found[t, b]) == pytest.approx(expected, rel=1e-4, abs=1e-3)


BUSY_S = 20.0
"""What a busy machine may add; limits that are not heeded are 60 s and more."""


def named(fault: zoo.Fault) -> str:
    return fault.env.__name__


def training(trainer: Make, fault: zoo.Fault, workers: int, folder: Path) -> Trainer:
    return trainer(
        "PPO",
        fault.env,
        env_config={"flag": str(folder / "fired")},
        num_workers=workers,
        num_envs_per_worker=2 if workers else 4,
        **QUICK,
        **fault.settings,
    )


SURVIVED = [fault for fault in zoo.FAULTS if fault.outcome not in (zoo.REFUSED, zoo.STOPPED)]
ENDED = [fault for fault in zoo.FAULTS if fault.outcome in (zoo.REFUSED, zoo.STOPPED)]


def cases(faults: list[zoo.Fault]) -> list[Any]:
    """Every fault in workers, and in this process where it survives it, which is quick."""
    found = []
    for fault in faults:
        for workers in (0, 2) if fault.inline else (2,):
            marks = [pytest.mark.slow] if workers or fault.limit > 2 else []
            found.append(pytest.param(fault, workers, id=f"{named(fault)}-{workers}", marks=marks))
    return found


@pytest.mark.parametrize(("fault", "workers"), cases(SURVIVED))
def test_training_survives(fault: zoo.Fault, workers: int, trainer: Make, tmp_path: Path) -> None:
    start = time.time()
    algo = training(trainer, fault, workers, tmp_path)
    construction = time.time() - start
    witness = Witness()
    algo.callbacks.append(witness)

    def recovered() -> bool:
        whole = not any(sampler._absent.any() for sampler in algo.samplers.members)
        return bool(witness.failures) and witness.counted >= fault.failures and whole

    while not recovered():
        algo.train()
        assert time.time() < start + 120, "it was not replaced"
    if (tmp_path / "fired").exists():
        took = time.time() - (tmp_path / "fired").stat().st_mtime
        assert took < fault.limit + construction + 2.0 + BUSY_S
    before = len(witness.episodes)
    for _ in range(5):
        result = algo.train()
    # All of them go on.
    assert {episode.slot for episode in witness.episodes[before:]} == {0, 1, 2, 3}

    assert fault.message in [zoo.normal(failure.what) for failure in witness.failures]
    restarted = fault.outcome == zoo.RESTARTED
    lost = 0 if fault.failures == 0 else 2 if restarted else 1
    assert result["env_failures_total"] == witness.counted == fault.failures
    assert result["episodes_lost_total"] == lost
    assert result["worker_restarts_total"] == (fault.failures if restarted else 0)
    if fault.env is zoo.StartsSlowly:
        (failure,) = witness.failures
        absent = 1 if "Worker 1" in failure.what else 0
        alive = [episode for episode in witness.episodes[:before] if episode.slot // 2 != absent]
        assert len(alive) > 20, "the others should not have waited"


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "workers"), cases(ENDED))
def test_a_bug_ends_training_with_its_cause(
    fault: zoo.Fault, workers: int, trainer: Make, tmp_path: Path
) -> None:
    start = time.time()
    with pytest.raises(EnvError) as caught:  # noqa: PT012
        algo = training(trainer, fault, workers, tmp_path)
        algo.callbacks.append(Witness())
        assert fault.outcome == zoo.STOPPED
        for _ in range(100):
            algo.train()
    assert time.time() - start < fault.limit + 10.0 + BUSY_S
    text = str(caught.value)
    assert fault.message in zoo.normal(text)
    if "raises" in fault.does:
        assert "Traceback" in text
        assert "zoo.py" in text
        assert "poise" not in text.partition("Traceback")[2].replace(
            str(Path(zoo.__file__).parent), ""
        )


def test_in_this_process_an_environment_that_cannot_be_made_has_its_own_traceback(
    trainer: Make, tmp_path: Path
) -> None:
    fault = next(fault for fault in zoo.FAULTS if fault.env is zoo.RaisesWhenMade)
    with pytest.raises(FileNotFoundError, match=r"map\.txt"):
        training(trainer, fault, 0, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "settings", "sentence"),
    [
        (zoo.AlwaysDies, {}, r"ended with exit code 4 while it made its environments"),
        (
            zoo.AlwaysLarge,
            {"worker_memory_mb": 250},
            r"uses \d+ MiB of memory, more than its limit of 250 MiB",
        ),
    ],
)
def test_a_worker_is_not_started_for_ever(
    env: Any, settings: dict[str, Any], sentence: str, trainer: Make, tmp_path: Path
) -> None:
    algo = training(trainer, zoo.Fault(env, "", zoo.STOPPED, "", settings=settings), 2, tmp_path)
    algo.callbacks.append(Witness())
    with pytest.raises(
        EnvError, match=r"Worker \d failed 5 times in a row before its first step: .*" + sentence
    ):
        algo.learn(10**9)


def test_a_limit_of_memory_that_is_too_small_is_said_at_the_start(trainer: Make) -> None:
    algo = trainer("PPO", Scripted, num_workers=1, worker_memory_mb=5, **QUICK)
    with pytest.raises(
        EnvError, match=r"Worker 0 uses \d+ MiB of memory, more than its limit of 5 MiB\."
    ):
        algo.train()


# --- what is carried from rollout to rollout ------------------------------------------------------


@pytest.mark.parametrize("length", [4, 9, 3])
def test_the_return_of_a_lost_episode_is_not_carried_on(
    length: int, trainer: Make, tmp_path: Path
) -> None:
    """Row 8 fails: the first of a rollout, the last, and one amid it."""
    settings = {"env_config": {"flag": str(tmp_path / "fired")}, "num_envs_per_worker": 2}
    algo = trainer("PPO", zoo.Raises, **{**QUICK, **settings, "rollout_fragment_length": length})
    algo.callbacks.append(Witness())
    (sampler,) = algo.samplers.members
    scaler, carried = RewardScaler(0.9), [0.0, 0.0]
    for _ in range(24 // length):
        r = sample(sampler)
        scaler(r)
        for b in range(2):
            for t in range(r.steps):
                step = int(r.obs["value"][t, b, 1])
                if r.valid[t, b]:
                    carried[b] = (carried[b] if step else 0.0) * 0.9 + float(r.reward[t, b])
                    if r.terminated[t, b] or r.truncated[t, b]:
                        carried[b] = 0.0
                else:
                    carried[b] = 0.0
        assert scaler.carry is not None
        assert scaler.carry.tolist() == pytest.approx(carried)
    assert algo.failures.total == 1


# --- the policy -----------------------------------------------------------------------------------


def failure(number: int = 0, kind: Any = "raised") -> Failure:
    return Failure(kind, f"failure {number}.", "Traceback: here")


def test_all_environments_failing_in_a_row_is_a_bug() -> None:
    failures = Failures(2)
    for number in range(5):
        failures.add([failure(number)], [0])
    failures.add([failure(5), failure(6)], [0, 1])
    failures.add([failure(7)], [1])
    with pytest.raises(EnvError) as caught:
        failures.add([failure(8)], [1])
    assert re.search(
        r"failed 3 times without .* The first failure: failure 0\.\nTraceback: here$",
        str(caught.value),
    )
    assert (failures.total, failures.episodes_lost, failures.restarts) == (9, 9, 0)


def test_an_episode_that_ends_well_begins_the_count_anew() -> None:
    failures = Failures(2)
    for number in range(30):
        failures.add([failure(2 * number), failure(2 * number + 1)], [0, 1])
        assert failures.first == failure(2 * number)
        for slot in (0, 1):
            failures.episode_finished(slot)
    assert failures.episodes_lost == 60


def test_too_many_in_a_window_stop_the_run() -> None:
    failures = Failures(2)
    failures.episode_finished(0)
    said = r"failed 51 times while 49 episodes were finished"
    with pytest.raises(EnvError, match=said) as caught:  # noqa: PT012
        for number in range(200):
            failures.add([failure(number)], [1])
            if number < 48:
                failures.episode_finished(0)
    assert "failure 0." in str(caught.value)


def test_one_accident_of_a_large_worker_is_one() -> None:
    failures = Failures(128)
    for _ in range(300):
        failures.episode_finished(0)
    failures.add([failure(0, "ended")], range(64))
    failures.add([failure(1, "hung")], range(64))
    assert (failures.total, failures.restarts, failures.episodes_lost) == (2, 2, 128)


def test_what_is_odd_is_told_and_not_counted() -> None:
    told: list[Failure] = []
    failures = Failures(1, told.append)
    failures.add([failure(number, "odd") for number in range(9)], ())
    assert len(told) == 9
    assert (failures.total, failures.first) == (0, None)
    for number, kind in enumerate(("raised", "contract", "ended", "hung", "memory")):
        failures.add([failure(number, kind)], [0])
        failures.episode_finished(0)
    assert (failures.total, failures.restarts) == (5, 3)


def test_an_exception_in_one_line() -> None:
    assert said(ValueError("one\n  two")) == "ValueError: one two"
    assert said(KeyError("x")) == "KeyError: 'x'"
    assert said(RuntimeError()) == "RuntimeError"
    assert said(zoo.Mute()) == "Mute"


def test_a_traceback_begins_with_the_users_code() -> None:
    env = InlineVectorEnv(lambda: Scripted(lengths=(9,)), 2)
    env.reset(seed=0)
    env.envs[1].lengths = ()
    env.step(np.zeros(2, np.int64))
    (told,) = env.take_failures()
    assert (
        told.what
        == "Environment 1 of worker 0 raised ZeroDivisionError: integer modulo by zero, at step 1"
        " of its episode."
    )
    assert re.match(
        r'The action was 0 of Discrete.*\nTraceback .*\n  File ".*environments.py", line \d+, in'
        r" step\n",
        told.details,
    )


# --- who is told ----------------------------------------------------------------------------------


def test_where_nobody_listens_it_is_a_warning(trainer: Make, tmp_path: Path) -> None:
    algo = trainer(
        "PPO",
        zoo.Raises,
        env_config={"flag": str(tmp_path / "fired")},
        num_envs_per_worker=2,
        **QUICK,
    )
    with pytest.warns(
        RuntimeWarning, match="raised ValueError: the wheel came off, at step 3 of its episode"
    ):
        algo.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        algo.train()


def test_callbacks_are_told_at_once_and_there_is_no_warning(trainer: Make, tmp_path: Path) -> None:
    algo = trainer(
        "PPO",
        zoo.Raises,
        env_config={"flag": str(tmp_path / "fired")},
        num_envs_per_worker=2,
        **QUICK,
    )
    witness = Witness()
    algo.callbacks += [witness, poise.Callback()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        algo.train()
    (told,) = witness.failures
    assert told.kind == "raised"
    assert told.details.endswith("ValueError: the wheel came off")
    assert str(told) == f"{told.what}\n{told.details}"


def test_a_run_tells_the_first_whole_and_later_ones_rarely() -> None:
    lines: list[str] = []
    recorder = RunRecorder(None, say=lines.append)  # type: ignore[arg-type]
    for number in range(1, 1001):
        recorder.on_failure(None, failure(number))  # type: ignore[arg-type]
    recorder.on_failure(None, failure(0, "hung"))  # type: ignore[arg-type]
    assert lines == [
        "failure 1.\nTraceback: here",
        "failure 10. (10 failures like this so far.)",
        "failure 100. (100 failures like this so far.)",
        "failure 1000. (1000 failures like this so far.)",
        "failure 0.\nTraceback: here",
    ]


def test_a_run_keeps_the_first_traceback_in_its_log(tmp_path: Path) -> None:
    config = {**QUICK, "env_config": {"flag": str(tmp_path / "fired")}, "num_envs_per_worker": 2}
    run = poise.run(
        "PPO",
        zoo.Raises,
        config=config,
        stop={"training_iteration": 3},
        folder=tmp_path,
        tensorboard=False,
        quiet=True,
    )
    log = (run.folder.path / "log.txt").read_text()
    assert "raised ValueError: the wheel came off" in log
    assert 'raise ValueError("the wheel came off")' in log
    assert (
        '"env_failures_total": 1'
        in (run.folder.path / "metrics.jsonl").read_text().splitlines()[-1]
    )


def test_failures_in_an_evaluation_are_told(trainer: Make, tmp_path: Path) -> None:
    algo = trainer(
        "PPO",
        zoo.Raises,
        env_config={"flag": str(tmp_path / "fired")},
        num_envs_per_worker=2,
        **QUICK,
    )
    witness = Witness()
    algo.callbacks.append(witness)
    numbers = algo.evaluate(8)
    assert numbers["episodes"] == 8
    assert [told.kind for told in witness.failures] == []  # nobody gets to a second episode
    assert algo.evaluate(60)["episodes"] == 60
    assert [told.kind for told in witness.failures] == ["raised"]


# --- hangs in this process ------------------------------------------------------------------------


class Pauses(Scripted):
    """Hangs for a while, or is interrupted."""

    def __init__(self, pause: float) -> None:
        super().__init__((50,))
        self.pause = pause

    def step(self, action: Any) -> Any:
        if self.now == 10 and self.episode == 1:
            self.now += 1
            if not self.pause:
                raise KeyboardInterrupt
            time.sleep(self.pause)
        return super().step(action)


def test_a_hang_in_this_process_is_named(trainer: Make) -> None:
    algo = trainer(
        "PPO",
        Pauses,
        env_config={"pause": 1.0},
        env_step_timeout_s=0.4,
        num_envs_per_worker=1,
        **QUICK,
    )
    witness = Witness()
    algo.callbacks.append(witness)
    _ = algo.samplers.collect()
    (told,) = witness.failures
    assert told.kind == "hung"
    assert re.match(
        r"An environment has not returned for \d s\. It is stepped in this process, which",
        told.what,
    )
    assert told.details.endswith("time.sleep(self.pause)")
    assert "poise" not in told.details.replace(str(Path(__file__).parent), "")
    assert algo.failures.total == 0  # it came back


def test_a_hang_in_an_evaluation_is_named(trainer: Make) -> None:
    algo = trainer(
        "PPO",
        Pauses,
        env_config={"pause": 1.0},
        env_step_timeout_s=0.4,
        num_envs_per_worker=1,
        **QUICK,
    )
    witness = Witness()
    algo.callbacks.append(witness)
    algo.evaluate(1)
    assert [failure.kind for failure in witness.failures] == ["hung"]


class Blind(Scripted):
    """Instances between the first and the fourth of each worker begin with NaN."""

    made = 0

    def __init__(self) -> None:
        super().__init__((5,))
        Blind.made += 1
        self.number = Blind.made

    def reset(self, **kwargs: Any) -> Any:
        obs, info = super().reset(**kwargs)
        begins_badly = self.number in (2, 3) or (self.number == 1 and self.episode == 2)
        return (obs * np.nan if begins_badly else obs), info


def test_a_fresh_instance_that_fails_too_is_not_acted_upon(trainer: Make) -> None:
    Blind.made = 0
    algo = trainer("PPO", Blind, num_envs_per_worker=1, normalize_observations=True, **QUICK)
    with pytest.warns(RuntimeWarning, match="not finite"):
        algo.learn(48)
    assert Blind.made == 4
    assert algo.failures.total == 3
    assert torch.isfinite(algo.policy.normalizer.mean).all()


class Remembers(Scripted):
    """Raises at the third step of each life; the class knows the seeds of its instances."""

    seeds: ClassVar[list[int | None]] = []

    def reset(self, *, seed: int | None = None, **kwargs: Any) -> Any:
        self.seeds.append(seed)
        return super().reset(seed=seed, **kwargs)

    def step(self, action: Any) -> Any:
        if self.now == 2:
            raise ValueError("broken")
        return super().step(action)


def test_a_fresh_instance_has_a_seed_of_its_own() -> None:
    """With the old one, it would play the episode again that its forerunner failed in."""
    Remembers.seeds.clear()
    env = InlineVectorEnv(lambda: Remembers(lengths=(9,)), 2)
    env.reset(seed=[5, 6])
    for _ in range(9):
        env.step(np.zeros(2, np.int64))
    assert Remembers.seeds[:2] == [5, 6]
    assert len(Remembers.seeds) == len({*Remembers.seeds} - {None}) == 8


class ForgetsInfo(Scripted):
    """From its second episode on, `reset` returns an observation alone."""

    def reset(self, **kwargs: Any) -> Any:
        obs, info = super().reset(**kwargs)
        return (obs, info) if self.episode == 1 else obs


@pytest.mark.parametrize("workers", [0, 1])
def test_another_interface_is_no_accident(workers: int, trainer: Make) -> None:
    """Each fresh worker would finish an episode before it fails again, for ever."""
    algo = trainer("PPO", ForgetsInfo, num_workers=workers, **QUICK)
    with pytest.raises(
        EnvError, match=r"^ForgetsInfo follows the old Gym API \(its reset\(\) returns only an obs"
    ):
        algo.learn(400)
    assert (algo.failures.total, algo.failures.restarts) == (0, 0)


def test_what_was_interrupted_does_not_hang(trainer: Make) -> None:
    algo = trainer(
        "PPO",
        Pauses,
        env_config={"pause": 0.0},
        env_step_timeout_s=0.2,
        num_envs_per_worker=1,
        **QUICK,
    )
    witness = Witness()
    algo.callbacks.append(witness)
    with pytest.raises(KeyboardInterrupt):
        algo.samplers.collect()
    time.sleep(0.7)
    assert witness.failures == []


# --- the page -------------------------------------------------------------------------------------


def test_the_zoo_is_large_enough() -> None:
    assert len({fault.env for fault in zoo.FAULTS}) >= 24
    assert len({np.str_(fault.does) for fault in zoo.FAULTS}) == len(zoo.FAULTS)
