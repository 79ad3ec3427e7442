"""Guards the doctor: what keeps a run from learning is named, and a sound run is not accused."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from click.testing import CliRunner, Result
from gymnasium import spaces
from tests.test_selfplay import Higher

import poise
from poise.advice.course import Course, Seen
from poise.advice.symptoms import SYMPTOMS, findings
from poise.cli.doctor import _of_env
from poise.cli.main import poise as command
from poise.sampling.episodes import Finished
from poise.spaces.layout import Layout
from poise.tracking.launch import Run, start
from poise.watch.probes import Probe, Probed, probe
from sick_envs import SICK, STEPS

POLE = Layout(spaces.Box(-np.inf, np.inf, (4,), np.float32)), Layout(spaces.Discrete(2))
ARM = Layout(spaces.Box(-1, 1, (4,), np.float32)), Layout(spaces.Box(-1, 1, (2,), np.float32))
PPO = {
    "lr": 3e-4, "grad_clip": 0.5, "gamma": 0.99, "entropy_coeff": 0.0, "num_workers": 0,
    "train_batch_size": 2048, "normalize_rewards": False, "normalize_observations": False,
}  # fmt: skip
RESULT = {
    "learner/kl": 0.02, "learner/clip_fraction": 0.1, "learner/entropy": 0.5,
    "learner/grad_norm": 0.6, "learner/vf_explained_var": 0.5, "learner/sgd_steps": 100,
    "learner/skipped_updates": 0, "env_failures_total": 0, "episodes_lost_total": 0,
    "perf/env_share": 0.3, "perf/env_steps_per_s": 20_000.0,
}  # fmt: skip


def course(
    *,
    rises: bool = False,
    returns: float | None = None,
    config: dict[str, Any] | None = None,
    layouts: Any = POLE,
    drop: tuple[str, ...] = (),
    length: int = 50,
    iterations: int = 50,
    **result: Any,
) -> Course:
    """A run of 100,000 steps whose return does not rise, and in which nothing else is odd."""
    draw, count = random.Random(0), 100_000 // length
    episodes = [
        Finished(
            (i + 1) * length, i / 100,
            (draw.gauss(20, 5) + (i / 10 if rises else 0)) if returns is None else returns, length,
        )
        for i in range(count)
    ]  # fmt: skip
    values = {**RESULT, **{f"learner/{key}" if "/" not in key and "_total" not in key else key: v
                           for key, v in result.items()}}  # fmt: skip
    results = [
        {**{k: v[i] if isinstance(v, list) else v for k, v in values.items() if k not in drop},
         "timesteps_total": (i + 1) * 100_000 // iterations}
        for i in range(iterations)
    ]  # fmt: skip
    return Course("PPO", {**PPO, **(config or {})}, results, episodes, layouts, workers=True)


def seen(observations: Any = None, actions: Any = None, reward: float = 1.0, **more: Any) -> Seen:
    draw = np.random.default_rng(0)
    numbers = draw.normal(size=(200, 4)) if observations is None else observations
    moves = draw.uniform(-0.5, 0.5, (200, 2)) if actions is None else actions
    return Seen(
        {"obs": numbers}, moves, np.full(200, reward), **{"lengths": [], "truncated": 0} | more
    )


def with_seen(made: Course, **what: Any) -> Course:
    made.seen = seen(**what)
    return made


def with_length(length: int, **config: Any) -> Course:
    made = course(config=config)
    made.episodes = [each._replace(length=length) for each in made.episodes]
    return made


DQN = {**PPO, "epsilon_timesteps": 1000, "final_epsilon": 0.0}
CASES: dict[str, tuple[Course, list[str]]] = {
    "failures": (course(env_failures_total=90, episodes_lost_total=90), ["90 times", "check-env"]),
    "skipped updates": (course(skipped_updates=200), ["200 of 5,200"]),
    "no episode ends": (
        Course("PPO", PPO, [{**RESULT, "timesteps_total": 60_000}], []), ["max_episode_steps"],
    ),
    "too little exploration": (
        course(config={**DQN}, drop=("learner/entropy", "learner/kl"), cur_epsilon=0.0),
        ["epsilon_timesteps"],
    ),
    "returns never vary": (course(returns=-200.0), ["-200", "entropy_coeff"]),
    "observations never vary": (with_seen(course(), observations=np.ones((200, 4))), ["blind"]),
    "scale of observations": (
        with_seen(course(), observations=np.random.default_rng(0).normal(500, 1, (200, 4))),
        ["500", "normalize_observations"],
    ),
    "scale of rewards": (with_seen(course(), reward=4000.0), ["4e+03", "normalize_rewards"]),
    "time limits": (with_seen(course(), lengths=[7] * 20, truncated=20), ["7 steps"]),
    "learning rate too low": (course(kl=1e-9, config={"lr": 1e-9}), ["lr=1e-09"]),
    "learning rate too high": (course(kl=2.5, config={"lr": 0.5}), ["2.5 nats", "lr=0.5"]),
    "entropy collapsed": (course(entropy=0.002), ["0.002", "0.69", "entropy_coeff"]),
    "entropy never falls": (
        course(entropy=0.693, config={"entropy_coeff": 1.0}), ["entropy_coeff=1"],
    ),
    "discount too low": (course(config={"gamma": 0.5}), ["gamma=0.5", "2.0 steps"]),
    "too few updates": (course(sgd_steps=1, config={}), ["50 updates", "train_batch_size"]),
    "values diverge": (course(q=1e6, config={"double_q": False}), ["1e+06", "double_q"]),
    "actions at the bounds": (
        with_seen(course(layouts=ARM, entropy=2.0), actions=np.ones((200, 2))),
        ["100%", "log_std_init"],
    ),
    "gradients always clipped": (course(grad_norm=400.0), ["400", "grad_clip=0.5"]),
    "values explain nothing": (course(vf_explained_var=0.0), ["memory"]),
    "slow environment": (
        course(**{"perf/env_share": 0.9, "perf/env_steps_per_s": 300.0}),
        ["90%", "300", "num_workers"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("symptom", list(SYMPTOMS))
def test_every_symptom_is_told_with_its_numbers_and_what_to_try(symptom: str) -> None:
    made, said = CASES[symptom]
    found = findings(made)
    assert [each.symptom for each in found] == [symptom]
    assert all(word in str(found[0]) for word in said), found[0]


@pytest.mark.parametrize(
    ("made", "said", "wrong"),
    [
        (with_length(1000, gamma=0.99), None, "gamma"),
        (with_length(2000, gamma=0.99), "Raise gamma to 0.999.", "0.99."),
        (course(entropy=0.002, config={"entropy_coeff": 0.1}), "it is 0.1) to 0.3", "0.01"),
        (course(q=1e6, config={"double_q": True}), "tau", "double_q"),
        (course(q=1e6, config={"target_networks": False}), "Lower lr.", "tau"),
        (course(grad_norm=400.0, config={"normalize_rewards": True}), "grad_clip", "normalize"),
        (course(vf_explained_var=0.0, config={"model": {"memory": "lstm"}}), "depends on.", "lstm"),
        (course(kl=2.5), "Lower lr three times, and again.", "num_sgd_iter"),
        (course(kl=2.5, config={"target_kl": None}), "target_kl", "num_sgd_iter"),
        (course(skipped_updates=200, config={"normalize_rewards": True}), "observ", "rewards"),
        (with_seen(course(), reward=1e-5), "scale the reward", "divide"),
        (course(kl=2.5, config={"lr": None}), None, "lr="),
        (Course("PPO", PPO, [{"learner/q": 99.0, "timesteps_total": 9999}], []), None, "earned"),
    ],
)
def test_what_is_advised_can_be_done_and_is_not_done_yet(
    made: Course, said: str | None, wrong: str
) -> None:
    told = " ".join(map(str, findings(made)))
    assert said in told if said else not told
    assert wrong not in told


def test_an_algorithm_without_the_usual_settings_is_told_what_it_can_do() -> None:
    bare = course(returns=-200.0)
    bare.config = {}
    assert "or explore more." in str(findings(bare)[0])


def test_numbers_of_a_damaged_file_are_left_out() -> None:
    made = course()
    made.results = [{**each, "timesteps_total": "many", "learner/q": "?"} for each in made.results]
    assert not findings(made)
    assert made.steps == 0


def test_a_contest_is_no_return_that_does_not_rise(tmp_path: Path) -> None:
    made = course(returns=0.0, **{"info/reward/a": -0.2, "info/reward/b": 0.2})
    assert made.contest
    assert not findings(made)
    made = course(returns=0.0, **{"info/reward/a": 0.0, "info/reward/b": 0.0})
    assert not made.contest
    assert findings(made)
    owners = {"left": "red", "right": "blue"}
    how = {"policies": ["red", "blue"], "policy_mapping_fn": owners}
    told = poise.diagnose(train(tmp_path, "PPO", Higher, how, 5_000).path)
    assert (told.learns, told.contest, told.findings) == (None, True, [])
    assert "each other" in told.summary
    assert "red and blue" in told.notes[0]


def test_nothing_is_told_where_nothing_is_odd() -> None:
    assert findings(course()) == []
    assert findings(with_seen(course(rises=True))) == []


ALWAYS = {name for name, (_, when) in SYMPTOMS.items() if when == "always"}


@pytest.mark.parametrize("symptom", sorted(set(SYMPTOMS) - ALWAYS - {"returns never vary"}))
def test_a_run_that_learns_is_not_accused_of_what_may_be_as_it_is(symptom: str) -> None:
    made, _ = CASES[symptom]
    made = Course(
        made.algorithm, made.config, made.results, course(rises=True).episodes,
        made.layouts, made.seen, made.workers,
    )  # fmt: skip
    assert made.learns
    assert findings(made) == []


def test_too_early_is_said_and_nothing_else(tmp_path: Path) -> None:
    run = train(tmp_path, "PPO", "CartPole-v1", {}, 2_000)
    found = poise.diagnose(run.path, play_steps=50)
    assert (found.learns, found.findings) == (None, [])
    assert "too early" in str(found)
    assert "5,000 steps" in found.summary


def train(root: Path, algorithm: str, env: Any, settings: dict[str, Any], steps: int) -> Run:
    own = {"seed": 1, **settings}
    stop = {"timesteps_total": steps}
    preset = None if settings else "auto"
    return start(algorithm, env, own, preset=preset, stop=stop, root=root, quiet=True)


QUICK = ["returns never vary", "time limits", "learning rate too high", "too few updates"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("symptom", QUICK)
def test_real_runs_that_do_not_learn_say_why(symptom: str, tmp_path: Path) -> None:
    algorithm, env, settings = SICK[symptom]
    run = train(tmp_path, algorithm, env, settings, STEPS.get(symptom, 12_000))
    found = poise.diagnose(run.path)
    assert found.findings[0].symptom == symptom, str(found)


@pytest.mark.parametrize(("algorithm", "steps"), [("PPO", 8_000), ("A2C", 12_000), ("DQN", 6_000)])
def test_real_runs_that_learn_are_left_alone(algorithm: str, steps: int, tmp_path: Path) -> None:
    run = train(tmp_path, algorithm, "CartPole-v1", {}, steps)
    found = poise.diagnose(run.path, play_steps=100)
    assert found.findings == [], str(found)


def test_what_cannot_be_played_is_said_and_the_rest_is_told(tmp_path: Path) -> None:
    class Gone(gym.Wrapper):
        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__(gym.make("CartPole-v1"))

    run = train(tmp_path, "PPO", Gone, {"lr": 1e-9, "num_envs_per_worker": 8}, 12_000)
    found = poise.diagnose(run.path)
    assert [each.symptom for each in found.findings] == ["learning rate too low"]
    assert "was not played" in found.notes[0]


# Probes.

DICT = spaces.Dict(
    {
        "picture": spaces.Box(0, 255, (8, 8, 3), np.uint8),
        "half": spaces.Box(0, np.inf, (2,), np.float32),
        "cards": spaces.MultiDiscrete([3, 4]),
        "bits": spaces.MultiBinary(3),
        "one": spaces.Discrete(5, start=2),
    }
)
NUMBERS = spaces.Dict({key: DICT[key] for key in ("half", "cards", "bits", "one")})
MIXED = spaces.Dict(
    {"x": spaces.Discrete(3, start=1), "y": spaces.Box(-1, 1, (2,), np.float32),
     "z": spaces.MultiDiscrete([2, 3]), "b": spaces.MultiBinary(2)}
)  # fmt: skip


@pytest.mark.parametrize("kind", ["action from the observation", "memory", "delayed reward"])
def test_probes_stay_in_their_spaces_and_show_the_bit(kind: str) -> None:
    env = Probe(kind, Layout(DICT), Layout(MIXED))
    shown: dict[int, set[bytes]] = {0: set(), 1: set()}
    for seed in range(20):
        obs, _ = env.reset(seed=seed)
        assert env.observation_space.contains(obs)
        shown[env.bit].add(np.asarray(obs["cards"]).tobytes() + bytes([int(obs["one"])]))
        over = False
        for _ in range(env.length):
            assert not over
            obs, _, over, _, _ = env.step(env.action_space.sample())
            assert env.observation_space.contains(obs)
        assert over
    assert len(shown[0]) == len(shown[1]) == 1
    assert shown[0] != shown[1]


def test_the_action_that_is_asked_for_earns_1_and_its_opposite_0() -> None:
    env = Probe("reward from the action", Layout(DICT), Layout(MIXED))
    best = {"x": 3, "y": np.full(2, 0.5), "z": np.array([1, 2]), "b": np.ones(2)}
    worst = {"x": 1, "y": np.full(2, -0.5), "z": np.zeros(2), "b": np.zeros(2)}
    for action, reward in ((best, 1.0), (worst, 0.0)):
        env.reset(seed=0)
        assert env.step(action)[1] == pytest.approx(reward)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "settings", "layouts", "left_out"),
    [
        ("PPO", {"lr": 3e-3}, POLE, {"memory"}),
        ("DQN", {}, POLE, {"memory"}),
        ("PPO", {"lr": 3e-3, "model": {"memory": "gru"}}, POLE, set()),
        ("A2C", {"lr": 3e-3}, (Layout(NUMBERS), Layout(MIXED)), {"memory"}),
    ],
)  # fmt: skip
def test_sound_settings_learn_all_probes(
    algorithm: str, settings: dict[str, Any], layouts: Any, left_out: set[str]
) -> None:
    found = probe(algorithm, settings, layouts)
    assert {each.probe for each in found if each.learnt is None} == left_out
    assert all(each.learnt is not False for each in found), found


def test_settings_that_cannot_learn_do_not_learn_what_they_did_by_chance() -> None:
    kinds = ["reward from the action"]
    found = probe("PPO", {"lr": 1e-9}, POLE, kinds=kinds)
    assert [each.learnt for each in found] == [False]


# The command.


def test_of_several_agents_one_has_small_tasks_of_its_own_spaces() -> None:
    how = {"opponents": True, "central_critic": True, "lr": 0.01}
    algorithm, settings, layouts = _of_env("tests.test_selfplay:Higher", "PPO", how, {})
    assert layouts[1].space == spaces.Discrete(3)
    (found,) = probe(algorithm, settings, layouts, kinds=["constant reward"])
    assert found.learnt


def doctor(*args: str) -> Result:
    return CliRunner().invoke(command, ["doctor", *args])


def test_the_command_tells_of_a_run(tmp_path: Path) -> None:
    run = train(tmp_path, "PPO", "CartPole-v1", {"lr": 1e-9, "num_envs_per_worker": 8}, 12_000)
    done = doctor(str(run.path))
    assert done.exit_code == 0, done.output
    assert "learning rate too low" in done.output
    told = json.loads(doctor(str(run.path), "--json").output)
    assert told["learns"] is False
    assert [each["symptom"] for each in told["findings"]] == ["learning rate too low"]


def test_the_command_takes_an_environment_and_names_the_nearest(monkeypatch: Any) -> None:
    found = [Probed("constant reward", True, 1.0, 10), Probed("memory", None, math.nan, note="No.")]
    monkeypatch.setattr("poise.watch.probes.probe", lambda *args: [args[3](x) or x for x in found])
    told = json.loads(doctor("CartPole-v1", "--json").output)
    assert told["ok"]
    assert told["probes"][1] == {
        "probe": "memory", "learnt": None, "score": None, "steps": 0, "note": "No.",
    }  # fmt: skip
    done = doctor("CartPole-v1")
    assert "constant reward: learnt, 1.00 of 1 after 10 steps." in done.output
    assert "memory: left out. No." in done.output
    assert "learn all of them" in done.output
    done = doctor("CartPole-v9")
    assert done.exit_code == 2
    assert "CartPole-v1" in done.output
    done = doctor("CartPole-v1", "--config", "[1]")
    assert done.exit_code == 2
    assert "JSON object" in done.output
    assert doctor("no/such/run").exit_code == 2
