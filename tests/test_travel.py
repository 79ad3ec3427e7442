"""What a script registers or changes reaches the processes that train for it, or is missed by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest

import poise
from poise.algorithms import base, ppo
from poise.algorithms.ppo import PPO
from poise.config.algorithms import ALGORITHMS
from poise.envs.changes import changes
from poise.learning import losses

TINY: dict[str, Any] = {
    "env": "CartPole-v1",
    "num_envs_per_worker": 2,
    "rollout_fragment_length": 16,
    "num_sgd_iter": 1,
    "model": {"fcnet_hiddens": [4]},
}
STOP = {"timesteps_total": 64}


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "_classes", {})
    before = dict(ALGORITHMS)
    yield
    ALGORITHMS.clear()
    ALGORITHMS.update(before)


def seed_of(algorithm: str, **settings: Any) -> dict[str, Any]:
    """The result of one seed, trained in a process of its own."""
    found = poise.run_seeds(
        algorithm, seeds=1, config={**TINY, **settings}, preset=None, stop=STOP, quiet=True, tensorboard=False
    )
    assert not found.errors, found.errors
    return found.results[0]


def trial_of(algorithm: str, **settings: Any) -> dict[str, Any]:
    """The result of a search's only trial."""
    config = {**TINY, "lr": poise.tune.uniform(1e-4, 1e-3), **settings}
    analysis = poise.tune.run(algorithm, config=config, preset=None, stop=STOP, quiet=True, tensorboard=False)
    [trial] = analysis.study.trials
    assert not trial.error, trial.error
    return trial.result


def marked(kind: type) -> Any:
    """An `iteration` that says that it ran."""
    original = kind.iteration

    def iteration(self: Any, samplers: Any) -> dict[str, float]:
        return {**original(self, samplers), "mine": 1.0}

    return iteration


def test_nothing_is_changed_where_nobody_has_changed_anything() -> None:
    for name in ALGORITHMS:
        base.find_algorithm(name)
    assert changes() == []


@pytest.mark.parametrize("train", [seed_of, trial_of])
def test_a_patched_method_travels(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PPO, "iteration", marked(PPO))
    monkeypatch.setattr(PPO, "note", "of mine", raising=False)
    assert [str(change) for change in changes()] == [
        "poise.algorithms.ppo.PPO.iteration",
        "poise.algorithms.ppo.PPO.note",
    ]
    assert train("PPO")["learner/mine"] == 1.0


@pytest.mark.parametrize("train", [seed_of, trial_of])
def test_a_class_in_the_place_of_its_own_base_cannot_travel(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(PPO):
        pass

    monkeypatch.setattr(ppo, "PPO", Mine)
    with pytest.raises(
        poise.RunError, match=r"poise.algorithms.ppo.PPO is replaced by .*Mine.*poise.register_algorithm"
    ):
        train("PPO")


def test_a_function_of_the_mathematics_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(name for name, value in vars(ppo).items() if getattr(value, "__module__", "") == losses.__name__)
    original = getattr(ppo, name)

    def loss(*args: Any, **options: Any) -> Any:
        raise poise.PoiseError("The loss of the script was called.") from None

    monkeypatch.setattr(ppo, name, loss)
    assert callable(original)
    found = poise.run_seeds("PPO", seeds=1, config=TINY, preset=None, stop=STOP, quiet=True, tensorboard=False)
    assert found.errors == {0: "The loss of the script was called."}


@pytest.mark.parametrize("train", [seed_of, trial_of])
def test_a_registered_algorithm_travels(train: Any) -> None:
    class Marked(PPO):
        iteration = marked(PPO)

    poise.register_algorithm("Marked", Marked)
    assert train("Marked")["learner/mine"] == 1.0
    assert poise.make_trainer("marked", "CartPole-v1").train()["learner/mine"] == 1.0


def test_registering_says_what_is_wrong() -> None:
    class Marked(PPO):
        pass

    with pytest.raises(poise.ConfigError, match="name='ppo' is not allowed: Poise has an algorithm"):
        poise.register_algorithm("ppo", Marked)
    with pytest.raises(poise.ConfigError, match="must be a class derived from an algorithm"):
        poise.register_algorithm("x", int)  # type: ignore[arg-type]
    with pytest.raises(poise.ConfigError, match="There is no algorithm 'Marked'"):
        poise.make_trainer("Marked", "CartPole-v1")


@pytest.mark.parametrize("train", [seed_of, trial_of])
def test_an_id_that_a_script_registers_with_gymnasium_travels(train: Any) -> None:
    class Mine(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return self.observation_space.sample() * 0, {}

        def step(self, action: Any) -> Any:
            return self.observation_space.sample() * 0, 7.0, True, False, {}

    gymnasium.register("TravelsFar-v0", Mine)
    try:
        assert train("PPO", env="TravelsFar-v0")["episode_reward_mean"] == 7.0
    finally:
        del gymnasium.registry["TravelsFar-v0"]


def test_a_run_remembers_what_was_changed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(PPO, "iteration", marked(PPO))
        run = poise.run("PPO", config=TINY, preset=None, stop=STOP, tensorboard=False)
        assert "poise.algorithms.ppo.PPO.iteration is the script's own." in capsys.readouterr().out
        poise.load(run.path)
    with pytest.warns(UserWarning, match=r"trained with poise.algorithms.ppo.PPO.iteration changed by its script"):
        poise.load(run.path)
    poise.resume(run.path, stop={"timesteps_total": 128})
    assert "what is trained now is Poise's own" in capsys.readouterr().out
