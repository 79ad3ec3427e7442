"""Environments as instances.

Each is played by one batch, closed with the others, and its exceptions are its own.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import faulty
import poise
from environments import Scripted
from poise.errors import EnvError
from poise.stepping.advice import Clocks, advise_workers, measure_step
from poise.training.trainer import Trainer

Make = Callable[..., Trainer]
QUICK = {"rollout_fragment_length": 16, "num_sgd_iter": 1}


# --- one batch each -------------------------------------------------------------------------------

HELD: dict[str, Any] = {}


class Alone(Scripted):
    """There is only one of it."""

    only: ClassVar[Any] = None

    def __new__(cls, *args: Any) -> Any:
        cls.only = cls.only or super().__new__(cls)
        return cls.only


class OldWalk:
    """Of the API before Gymnasium."""

    observation_space, action_space = Scripted.observation_space, Scripted.action_space

    def reset(self) -> Any:
        return self.observation_space.sample()

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 1.0, False, {}


def held(name: str, make: Callable[[], Any]) -> Any:
    return HELD.setdefault(name, make())


SHARED = {
    "one instance": lambda config: held("plain", Scripted),
    "in fresh wrappers": lambda config: gym.wrappers.TimeLimit(held("wrapped", Scripted), 9),
    "behind an adapter": lambda config: poise.OldGymEnv(held("old", OldWalk)),
    "a singleton": Alone,
}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("how", SHARED)
def test_several_environments_are_not_one(how: str, workers: int, trainer: Make) -> None:
    sentence = (
        r"^The same \w+ was returned again while .*Make it inside the function: env=lambda config:"
        r" \w+\(\.\.\.\)\.$"
    )
    for _ in range(2):  # the first refusal leaves nothing behind that the second one stumbles over
        with pytest.raises(EnvError, match=sentence):
            trainer("PPO", SHARED[how], num_envs_per_worker=4, num_workers=workers)
    assert trainer("PPO", SHARED[how], num_envs_per_worker=1, **QUICK).train()["timesteps_total"]


def test_the_training_environment_is_not_evaluated_in(trainer: Make, tmp_path: Path) -> None:
    algo = trainer("PPO", SHARED["one instance"], num_envs_per_worker=1, **QUICK)
    algo.train()
    for attempt in (
        lambda: algo.evaluate(2),
        lambda: poise.record(algo, tmp_path / "film.mp4"),
        lambda: trainer("A2C", SHARED["one instance"], num_envs_per_worker=1),
    ):
        with pytest.raises(
            EnvError, match=r"^The same Scripted was returned again while episodes are played in it"
        ):
            attempt()
    algo.close()  # now it is free
    assert algo.evaluate(1)["episodes"] == 1


def test_check_env_finds_a_shared_instance() -> None:
    held("sound", faulty.Sound)
    report = poise.check_env(lambda config: HELD["sound"], steps=60, seconds=0.5)
    assert [finding.check for finding in report.errors] == ["sharing"]
    assert "was returned twice" in report.errors[0].text


# --- whose Ctrl-C it is, and closing --------------------------------------------------------------


class Pressed(Scripted):
    """Somebody presses Ctrl-C while it steps, or it raises the same by itself.

    The same happens when it is closed.
    """

    def __init__(self, real: bool) -> None:
        super().__init__((5,), ("terminated",))
        self.real = real

    def step(self, action: Any) -> Any:
        if self.now == 2:
            if self.real:
                signal.raise_signal(signal.SIGINT)
            raise KeyboardInterrupt
        return super().step(action)


@pytest.mark.parametrize("method", ["train", "learn"])
def test_the_users_interrupt_is_no_failure_of_an_environment(method: str, trainer: Make) -> None:
    algo = trainer("PPO", Pressed, env_config={"real": True}, num_envs_per_worker=2, **QUICK)
    if method == "train":
        with pytest.raises(KeyboardInterrupt):
            algo.train()
        assert algo.failures.total == 0
    else:  # the first is a stop, and what the environment raises then is its own
        with pytest.raises((EnvError, KeyboardInterrupt)):
            algo.learn(100_000)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_environments_own_interrupt_is_its_failure(trainer: Make) -> None:
    algo = trainer("PPO", Pressed, env_config={"real": False}, num_envs_per_worker=2, **QUICK)
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(EnvError, match=r"raised KeyboardInterrupt, at step 3") as caught,
    ):
        algo.train()
    assert "The action was" in str(caught.value)


class Shut(Scripted):
    """Notes when it is closed, and fails to be, every second time."""

    made: ClassVar[list[Shut]] = []

    def __init__(self) -> None:
        super().__init__((5,), ("terminated",))
        self.shut = False
        Shut.made.append(self)

    def close(self) -> None:
        self.shut = True
        if Shut.made.index(self) % 2 == 0:
            raise SystemExit("already closed")


def test_one_that_cannot_be_closed_leaves_no_other_open(trainer: Make) -> None:
    Shut.made.clear()
    algo = trainer("PPO", Shut, num_envs_per_worker=4, **QUICK)
    algo.train()
    with pytest.warns(
        RuntimeWarning,
        match=r"Environment 0 of worker 0 raised SystemExit: already closed when.* 1 more",
    ):
        algo.close()
    assert [env.shut for env in Shut.made] == [True] * 4


class Opaque(Scripted):
    """Its `get_state` is for other purposes."""

    def get_state(self) -> Any:
        return self

    def set_state(self, state: Any) -> Any:
        raise AssertionError


def test_a_state_that_no_checkpoint_can_hold_is_replayed(trainer: Make, tmp_path: Path) -> None:
    algo = trainer("PPO", Opaque, env_config={"lengths": (50,)}, num_envs_per_worker=2, **QUICK)
    algo.train()
    algo.save(tmp_path / "a")
    with poise.load(tmp_path / "a", env=Opaque) as loaded:
        assert loaded.samplers.members[0].rollout.obs["value"][-1, 0].tolist() == [1.0, 16.0]
        assert loaded.notes == []


class Keys(Scripted):
    """Its observation has keys that mean something in a checkpoint, or are odd."""

    keys = ("$tensor", "$array", "$segment", "$$x", "a.b", "c/d", "", " ", "__metadata__", "\n")
    observation_space = spaces.Dict(dict.fromkeys(keys, Scripted.observation_space))
    action_space = spaces.Dict(dict.fromkeys(keys[:3], spaces.Discrete(2)))

    def reset(self, **kwargs: Any) -> Any:
        return dict.fromkeys(self.keys, super().reset(**kwargs)[0]), {}

    def step(self, action: Any) -> Any:
        obs, *rest = super().step(action)
        return (dict.fromkeys(self.keys, obs), *rest)

    def get_state(self) -> Any:
        return {"$tensor": [self.episode, self.now], "$array": {"$$b": 1}}

    def set_state(self, state: Any) -> Any:
        assert state["$array"] == {"$$b": 1}
        self.episode, self.now = state["$tensor"]
        return dict.fromkeys(self.keys, np.array([self.episode, self.now], np.float32))


def test_any_key_survives_saving_and_loading(trainer: Make, tmp_path: Path) -> None:
    algo = trainer("PPO", Keys, num_envs_per_worker=2, **QUICK)
    algo.train()
    with poise.load(algo.save(tmp_path / "a"), env=Keys) as loaded:
        obs = Keys.observation_space.sample()
        assert loaded.compute_action(obs) == algo.compute_action(obs)
        algo.train()
        loaded.train()
        assert loaded.notes == []
        assert torch.equal(loaded.algorithm.flat.data, algo.algorithm.flat.data)


def test_a_wrapper_that_normalises_is_named_once(trainer: Make) -> None:
    make = lambda config: gym.wrappers.NormalizeObservation(faulty.Sound())  # noqa: E731
    report = poise.check_env(make, steps=60, seconds=0.5)
    (finding,) = [finding for finding in report.findings if "NormalizeObservation" in finding.text]
    assert finding.text.startswith(
        "NormalizeObservation inside the environment keeps statistics of its own"
    )
    assert not any("super().reset" in other.text for other in report.findings)
    with pytest.warns(RuntimeWarning) as told:
        trainer("PPO", make, num_envs_per_worker=4, **QUICK).train()
    assert [str(w.message) for w in told if "statistics of its own" in str(w.message)] == [
        finding.text
    ]
    assert finding.text.endswith("Leave it out, and train with normalize_observations=True.")


class Wide(Scripted):
    """Its bounds are the ends of its type."""

    most = float(np.finfo(np.float64).max)
    observation_space = spaces.Box(-most, most, (2,), np.float64)


@pytest.mark.filterwarnings("error")
def test_bounds_at_the_end_of_a_type(trainer: Make) -> None:
    trainer("PPO", Wide, num_envs_per_worker=2, **QUICK).train()
    assert not [
        finding
        for finding in poise.check_env(Wide, steps=60, seconds=0.5).findings
        if finding.check == "observation" and finding.level == "error"
    ]


class Ticking:
    """Clocks of a machine on which others compute, too.

    Half of the time is theirs, in slices that come anywhere.
    """

    def __init__(self, step_s: float, waiting: bool) -> None:
        self.step_s, self.waiting = step_s, waiting
        self.now = self.computed = self.given_up = 0.0
        self.taken = 0

    def step(self) -> None:
        self.taken += 1
        stolen = 20 * self.step_s if self.taken % 3 == 0 else 0.0
        self.now += self.step_s + stolen
        self.computed += 0.0 if self.waiting else self.step_s
        self.given_up += float(self.waiting)


@pytest.mark.parametrize(("waiting", "measured"), [(False, (1e-5, 1.0)), (True, (1e-2, 0.0))])
def test_stolen_time_is_no_waiting(waiting: bool, measured: tuple[float, float]) -> None:
    ticking = Ticking(measured[0], waiting)

    class Timed(Scripted):
        def step(self, action: Any) -> Any:
            ticking.step()
            return super().step(action)

    clocks = Clocks(lambda: ticking.now, lambda: ticking.computed, lambda: ticking.given_up)
    step_s, share = measure_step(Timed(lengths=(1000,)), clocks=clocks)
    assert share == measured[1]
    if waiting:
        assert advise_workers(step_s, share, 8, 2)[0] == 8
    else:
        assert step_s == pytest.approx(measured[0])
        assert advise_workers(step_s, share, 8, 2)[0] == 0


class Counts(Scripted):
    """Takes the actions 1 and 2, and says that they are 0 and 1."""

    action_space = spaces.Discrete(2)

    def step(self, action: Any) -> Any:
        return {1: super().step, 2: super().step}[int(action)](action)


def test_actions_that_are_counted_from_one_are_named(trainer: Make) -> None:
    algo = trainer("PPO", Counts, num_envs_per_worker=2, **QUICK)
    with pytest.warns(RuntimeWarning), pytest.raises(EnvError) as caught:
        algo.learn(10_000)
    assert (
        "The action was 0 of Discrete(2) (where actions count from 1, it is Discrete(2, start=1))"
        in str(caught.value)
    )
