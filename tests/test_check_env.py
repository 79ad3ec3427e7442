"""Guards `check_env`.

Every fault is found and said in one sentence, sound environments have none, nothing stops it.
"""

from __future__ import annotations

import inspect
import json
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from click.testing import CliRunner, Result
from gymnasium import spaces

import faulty
import poise
from poise.checks.report import CHECKS, Finding, Report
from poise.cli.main import poise as command
from poise.envs.old_gym import convert_space, explain_step, old_api_sentence
from poise.errors import EnvError, SpaceError
from poise.stepping.advice import advise_workers, duration

HERE = str(Path(__file__).parent)


def quick(env: Any, env_config: dict[str, Any] | None = None, **settings: Any) -> Report:
    return poise.check_env(env, env_config, **{"steps": 60, "seconds": 0.3, **settings})


def quick_by_id(cls: type) -> Report:
    """The report on a class that is registered with Gymnasium, in this process only."""
    name = f"{cls.__name__}-v0"
    gym.register(name, entry_point=cls)
    try:
        return quick(name)
    finally:
        del gym.registry[name]


def lines_of(cls: type) -> range:
    source, first = inspect.getsourcelines(cls)
    return range(first, first + len(source))


FAULTS: dict[type, tuple[str, str, str]] = {
    # which check, at which level, and what it says
    faulty.FailsToStart: (
        "error",
        "make",
        r"^Making the environment raised FileNotFoundError: no map.txt, in `raise",
    ),
    faulty.ExitsAtStart: (
        "error",
        "make",
        r"^Making the environment raised SystemExit: 3, in `sys.exit\(3\)`",
    ),
    faulty.TextSpace: ("error", "spaces", r"^observation_space: Text spaces have no fixed shape"),
    faulty.NanBounds: ("error", "spaces", r"^observation_space has NaN among its bounds"),
    faulty.SwappedBounds: (
        "error",
        "spaces",
        r"^action_space has low 1.0 above high -1.0 at \[0\]",
    ),
    faulty.EmptySpace: ("error", "spaces", r"^observation_space\['b'\] has the shape \(0,\)"),
    faulty.UnboundedActions: (
        "warning",
        "spaces",
        r"^action_space is unbounded \(\[-inf, inf\] at \[0\]\)",
    ),
    faulty.OtherSpaces: (
        "error",
        "spaces",
        r"^Two instances have different spaces, action_space Box",
    ),
    faulty.NoOptions: (
        "error",
        "reset",
        r"^reset\(\) of NoOptions takes no options=: begin it with def reset\(self, \*",
    ),
    faulty.ResetsToObservation: (
        "error",
        "reset",
        r"reset\(\) returns only an observation\): wrap it",
    ),
    faulty.InfoIsNone: (
        "error",
        "reset",
        r"^The info that reset\(\) returns must be a dict, and is None",
    ),
    faulty.RaisesInReset: (
        "error",
        "reset",
        r"^reset\(\) raised KeyError: 'start', in `return \{\}\[\"start\"\]`",
    ),
    faulty.FourValues: (
        "error",
        "step",
        r"^FourValues follows the old Gym API \(its step\(\) returns four values\)",
    ),
    faulty.ThreeValues: (
        "error",
        "step",
        r"^step\(\) of ThreeValues must return .*, and returned 3 values",
    ),
    faulty.RewardIsArray: ("error", "step", r"^The reward must be one number, and is array"),
    faulty.RewardIsNan: ("error", "step", r"^The reward is nan: it must be finite"),
    faulty.FlagIsNone: (
        "error",
        "step",
        r"^What step\(\) returns as truncated must be True or False, and is None",
    ),
    faulty.FlagIsInt: (
        "warning",
        "step",
        r"^What step\(\) returns as terminated must be True or False, and is 0",
    ),
    faulty.Raises: (
        "error",
        "step",
        r"^Step 3 of an episode raised ZeroDivisionError: .*, in `return 1 / 0`",
    ),
    faulty.Exits: ("error", "step", r"^Step 1 of an episode raised SystemExit: enough"),
    faulty.WrongShape: (
        "error",
        "observation",
        r"has the shape \(2, 1\), and its space says \(2,\): use .reshape",
    ),
    faulty.Float64: (
        "warning",
        "observation",
        r"is float64, and its space says float32: Poise converts it",
    ),
    faulty.IsList: ("warning", "observation", r"is a list, which is converted at every step"),
    faulty.NotFinite: (
        "error",
        "observation",
        r"^The observation is nan at \[1\], and must be finite",
    ),
    faulty.OutOfBounds: (
        "error",
        "observation",
        r"^The observation is -?\d.* at \[\d\], and its space says -1 to 1",
    ),
    faulty.OutOfDiscrete: (
        "error",
        "observation",
        r"^The observation is 3, and its space says 0 to 2",
    ),
    faulty.FloatsAsWhole: (
        "error",
        "observation",
        r"holds float64 such as 0.5, and its space says int64",
    ),
    faulty.ImageOfFloats: (
        "error",
        "observation",
        r"such as 0.3, and its space says uint8: return 0 to 255 as np.uint8",
    ),
    faulty.DarkImage: (
        "warning",
        "observation",
        r"uint8 image in which nothing was brighter than 1 of 255",
    ),
    faulty.ChannelsElsewhere: (
        "error",
        "observation",
        r"the channels are in another place; use np.moveaxis",
    ),
    faulty.LacksKey: ("error", "observation", r"^The observation lacks the keys \['goal'\]"),
    faulty.NotTuple: ("error", "observation", r"its space says a tuple of 2 parts"),
    faulty.CornerFails: (
        "error",
        "step",
        r"^Step 1 of an episode with the action .*\(high\) raised AssertionError: too far",
    ),
    faulty.ChangesAction: (
        "error",
        "action",
        r"^step\(\) changes an action that it was given, from .* np.array\(action\)",
    ),
    faulty.ChangesOldAction: ("error", "action", r"^step\(\) changes an action that it was given"),
    faulty.ReusesBuffer: (
        "warning",
        "buffers",
        r"changes the observation that was returned before: that is harmless in P",
    ),
    faulty.NoSeeding: (
        "error",
        "seeding",
        r"^Two episodes of one instance with seed=0 .* the first observation is",
    ),
    faulty.Remembers: (
        "error",
        "seeding",
        r"^Two episodes of one instance .* let reset\(\) forget the episode before",
    ),
    faulty.GlobalNumpy: (
        "error",
        "seeding",
        r"^reset\(\) draws from the global np.random: seeds do not decide that",
    ),
    faulty.GlobalRandom: ("error", "seeding", r"^step\(\) draws from the global random: "),
    faulty.AlwaysTheSame: ("warning", "seeding", r"^The seeds 0, 1 and 2 give the same episode"),
    faulty.DrawsWhenMade: (
        "warning",
        "seeding",
        r"^Two instances with seed=0 .* the reward of step 1 is",
    ),
    faulty.Shares: (
        "error",
        "sharing",
        r"alone, the reward of step 2 is 2.0, and beside the other 3.0; Shares.walls belongs to",
    ),
    faulty.NeverEnds: (
        "warning",
        "episodes",
        r"^No episode ended within 60 steps, .* set max_episode_steps",
    ),
    faulty.ClockAsCliff: (
        "warning",
        "episodes",
        r"^All \d episodes were terminated after exactly 10 steps",
    ),
    faulty.ResetsItself: (
        "warning",
        "episodes",
        r"^The last observation of every episode was its first one again",
    ),
    faulty.RendersFloats: (
        "error",
        "render",
        r"^render\(\) must return uint8 from 0 to 255, and returned float64",
    ),
    faulty.RendersNothing: (
        "error",
        "render",
        r"^render\(\) must return an array .*, and returned None",
    ),
    faulty.RendersGrey: (
        "error",
        "render",
        r"^render\(\) must return an array .*, and returned one of shape \(8, 8\)",
    ),
    faulty.OneGoalAtATime: (
        "warning",
        "goals",
        r"^compute_reward\(\) returned -[\d.]+ for two steps at once that had the reward -",
    ),
    faulty.OtherWorth: (
        "warning",
        "goals",
        r"^compute_reward\(\) returned \[\d.* had the reward -",
    ),
    faulty.GoalsByInfo: ("warning", "goals", r"^compute_reward\(\) raised TypeError: list indices"),
    faulty.ForgetsMode: ("warning", "render", r'^Its metadata promises "rgb_array", but'),
    faulty.SlowReset: (
        "warning",
        "speed",
        r"^reset\(\) takes \d+ ms, longer than the \d+ steps of an average episode",
    ),
    faulty.FailsToClose: ("error", "make", r"^close\(\) raised RuntimeError: already closed"),
}
"""What each faulty environment is found to have, and nothing else."""


@pytest.mark.slow
@pytest.mark.parametrize("cls", FAULTS, ids=lambda cls: cls.__name__)
def test_each_fault_is_found_alone(cls: type) -> None:
    level, check, text = FAULTS[cls]
    found = quick(cls).findings
    assert [(finding.level, finding.check) for finding in found] == [(level, check)], found
    assert re.search(text, found[0].text), found[0].text
    assert found[0].text.endswith(".")
    assert found[0].where is not None
    file, _, line = found[0].where.rpartition(":")
    assert Path(file).name == "faulty.py"
    assert int(line) in {
        line for base in cls.__mro__ if base.__module__ == "faulty" for line in lines_of(base)
    }


def test_where_an_exception_was_raised() -> None:
    where = quick(faulty.Raises).errors[0].where
    source, first = inspect.getsourcelines(faulty.Raises)
    assert where is not None
    assert source[int(where.rpartition(":")[2]) - first].strip() == "return 1 / 0"


def test_everything_is_said_at_once() -> None:
    class Everything(
        faulty.Float64,
        faulty.FlagIsInt,
        faulty.ChangesAction,
        faulty.GlobalRandom,
        faulty.NanBounds,
    ):
        pass

    found = {(finding.level, finding.check) for finding in quick(Everything).findings}
    assert found >= {
        ("error", "spaces"), ("warning", "observation"), ("warning", "step"), ("error", "seeding"),
        ("error", "action"),
    }  # fmt: skip


def test_spaces_that_are_missing_end_the_check() -> None:
    with pytest.raises(EnvError, match="observation_space"):
        poise.make_env(faulty.NoSpaces)
    found = quick(faulty.NoSpaces).findings
    assert [finding.check for finding in found] == ["make"]
    assert "NoSpaces has no observation_space" in found[0].text
    found = quick_by_id(faulty.NoSpaces).findings
    assert [finding.text for finding in found] == [
        (
            "observation_space must be a gymnasium.spaces.Space, and there is none: "
            "set self.observation_space in __init__."
        ),
        (
            "action_space must be a gymnasium.spaces.Space, and it is 2: "
            "set self.action_space in __init__."
        ),
    ]


def test_a_reset_without_seed() -> None:
    text = r"^NoSeed follows the old Gym API \(its reset\(\) takes no seed\): wrap it"
    for report, check in ((quick(faulty.NoSeed), "make"), (quick_by_id(faulty.NoSeed), "reset")):
        assert [finding.check for finding in report.findings] == [check]
        assert re.search(text, report.findings[0].text)


def test_a_leak_is_found() -> None:
    # In a process of its own: this one has memory to reuse.
    found = quick("faulty:Leaks", seconds=2.0).findings
    assert [finding.check for finding in found] == ["memory"]
    assert re.match(
        r"Memory grows by (19|2\d)\.\d MB in 1,000 steps, (19|2\d)\.\d GB in a million",
        found[0].text,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "env",
    ["CartPole-v1", "Pendulum-v1", "MountainCar-v0", "Blackjack-v1", "FrozenLake-v1", "Taxi-v4"],
)
def test_sound_environments(env: str) -> None:
    report = quick(env, steps=300, seconds=1.0)
    assert report.ok
    assert report.findings == []
    assert report.facts["steps_per_s"] > 0


def test_goals_that_others_can_be_learnt_from_are_said() -> None:
    report = quick(faulty.Goals)
    assert report.findings == []
    assert "goals        her=True learns from those that were achieved, too" in str(report)
    assert not quick(faulty.Sound).facts["goals"]


def test_what_is_measured() -> None:
    report = quick(faulty.Sound, {"max_episode_steps": 5}, num_envs=4)
    assert report.findings == []
    facts = report.facts
    assert facts["action_space"] == "Box(-1.0, 1.0, (2,), float32)"
    assert facts["episode_len_mean"] <= 5
    assert facts["episodes"] >= 1  # of five steps, which are played however slow they are
    assert 0 <= facts["cpu_share"] <= 1
    assert 0 <= facts["num_workers"] <= 4
    assert "4 environments" in facts["num_workers_why"]
    assert "no errors" in str(report)
    assert repr(report) == "<Report on Sound: no errors, no warnings>"


def test_the_global_generators_are_left_as_they_were() -> None:
    random.seed(5)
    np.random.seed(5)
    before = random.getstate(), np.random.get_state()[2]
    quick(faulty.GlobalRandom)
    assert (random.getstate(), np.random.get_state()[2]) == before


def test_registered_names_are_checked_here(registries: None) -> None:
    poise.register_env("walk", lambda config: faulty.Sound())
    assert quick("walk").env == "walk"


# By name, in a process of its own.


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("cls", "text", "line"),
    [
        (
            faulty.Dies,
            "The process ended with exit code 3 during step 4 of an episode; the",
            "def step",
        ),
        (
            faulty.Crashes,
            "The process was killed by SIGSEGV during step 1 of an episode, at `ctypes",
            "ctypes.str",
        ),
        (
            faulty.Hangs,
            "Step 2 of an episode, at `time.sleep(1000)` has not returned for 1.5 s",
            "time.sleep",
        ),
        (
            faulty.HangsWhenMade,
            "Making the environment, at `time.sleep(1000)` has not returned for 4.5",
            "time.sleep",
        ),
    ],
)
def test_a_process_that_does_not_come_back(cls: type, text: str, line: str) -> None:
    report = quick(f"faulty:{cls.__name__}", timeout=1.5)
    assert [finding.check for finding in report.findings] == ["process"]
    assert report.findings[0].text.startswith(text)
    source, first = inspect.getsourcelines(cls)
    assert (
        source[int(str(report.findings[0].where).rpartition(":")[2]) - first]
        .strip()
        .startswith(line)
    )
    assert "places" not in report.facts


@pytest.mark.usefixtures("importable")
def test_findings_before_a_crash_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "both.py").write_text(
        "import faulty\nclass Both(faulty.Float64, faulty.Dies): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [finding.check for finding in quick("both:Both").findings] == ["observation", "process"]


def test_a_module_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaks.py").write_text("import gymnasium\n\nraise RuntimeError('no licence')\n")
    (tmp_path / "exits.py").write_text("import os\n\nos._exit(7)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    [finding] = quick("breaks:Env").findings
    assert (
        finding.text
        == "Making the environment raised RuntimeError: no licence, in `raise RuntimeError('no"
        " licence')`."
    )
    assert finding.where == f"{tmp_path / 'breaks.py'}:3"
    [finding] = quick("exits:Env").findings
    assert "ended with exit code 7 during making the environment" in finding.text


def test_a_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(EnvError, match="Did you mean 'CartPole-v1'"):
        poise.check_env("CartPole-v7")
    with pytest.raises(EnvError, match="there is no module 'missing'"):
        poise.check_env("missing:Env")
    with pytest.raises(EnvError, match="plain JSON"):
        poise.check_env("CartPole-v1", {"a": object()})


# The command.


def call(*args: str) -> Result:
    return CliRunner().invoke(command, ["check-env", *args], prog_name="poise")


@pytest.mark.slow
@pytest.mark.usefixtures("importable")
def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    good = call("CartPole-v1", "--steps", "100")
    assert good.exit_code == 0
    assert good.output.startswith("CartPole-v1\n")
    assert "no errors" in good.output
    bad = call("faulty:OutOfDiscrete", "--steps", "50")
    assert bad.exit_code == 2
    assert re.search(
        r"1 error\n +observation +The observation is 3, and its space says 0 to 2", bad.output
    )
    assert "faulty.py:" in bad.output
    only_warnings = call("faulty:Float64", "--steps", "50")
    assert only_warnings.exit_code == 0
    assert "1 warning\n" in only_warnings.output


@pytest.mark.usefixtures("importable")
def test_the_command_prints_json() -> None:
    result = call(
        "faulty:FlagIsNone", "--steps", "50", "--json", "--env-config", '{"max_episode_steps": 7}'
    )
    assert result.exit_code == 2
    data = json.loads(result.stdout)
    assert data["env"] == "faulty:FlagIsNone"
    assert data["ok"] is False
    assert data["facts"]["episode_len_mean"] <= 7
    [finding] = data["findings"]
    assert Finding(**finding).check == "step"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["CartPole-v7"], "Did you mean 'CartPole-v1'"),
        (["missing:Env"], "there is no module 'missing'"),
        (
            ["CartPole-v1", "--env-config", "7"],
            "--env-config '7' is not allowed: it must be a JSON object",
        ),
        ([], "Missing argument 'ENV'"),
    ],
)
def test_mistakes_are_one_sentence(args: list[str], text: str) -> None:
    result = call(*args)
    assert result.exit_code == 2
    assert text in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_every_check_is_explained_and_tested() -> None:
    page = (Path(HERE).parent / "docs" / "check-env.md").read_text()
    assert all(f"| {name} | {text} |" in page for name, text in CHECKS.items())
    tested = {check for _, check, _ in FAULTS.values()} | {"memory", "process"}
    assert tested == set(CHECKS)


# How many workers pay.


@pytest.mark.parametrize(
    ("step_s", "cpu_share", "num_envs", "cores", "workers"),
    [
        (5e-6, 1.0, 8, 2, 0),  # far too fast to be sent anywhere
        (2e-3, 1.0, 8, 1, 0),  # nothing to share
        (2e-3, 1.0, 8, 2, 2),
        (2e-3, 1.0, 8, 16, 8),
        (2e-3, 0.0, 8, 2, 8),  # it sleeps: more processes than cores
        (2e-3, 0.5, 8, 2, 4),
        (2e-3, 1.0, 1, 16, 0),
        (2e-3, 1.0, 6, 4, 6),  # cores are shared in turn
        (2e-3, 1.0, 6, 3, 3),
    ],
)
def test_advice(step_s: float, cpu_share: float, num_envs: int, cores: int, workers: int) -> None:
    found, why = advise_workers(step_s, cpu_share, num_envs, cores)
    assert found == workers, why
    assert why.startswith("No worker" if workers == 0 else f"{workers} worker processes: ")


def test_durations() -> None:
    assert [duration(s) for s in (5.24e-6, 3.2e-5, 0.012, 1.5, 20.2)] == [
        "5.2 µs",
        "32 µs",
        "12 ms",
        "1.5 s",
        "20 s",
    ]


# The old Gym API.


def _named(kind: str, **attributes: Any) -> Any:
    """A space as the `gym` package has it: known by the name of its class and its attributes."""
    return type(kind, (), {})().__class__ and _filled(type(kind, (), {})(), attributes)


def _filled(thing: Any, attributes: dict[str, Any]) -> Any:
    for name, value in attributes.items():
        setattr(thing, name, value)
    return thing


class OldWalk:
    """An environment as the `gym` package of 2019 had it."""

    metadata = {  # noqa: RUF012
        "render.modes": ["human", "rgb_array"],
        "video.frames_per_second": 50,
    }

    def __init__(self, limit: int = 9) -> None:
        self.limit, self.closed = limit, False
        low, high = np.full(2, -9.0, np.float32), np.full(2, 9.0, np.float32)
        self.observation_space = _named(
            "Box", low=low, high=high, shape=(2,), dtype=np.dtype(np.float32)
        )
        self.action_space = _named("Discrete", n=2)
        self.seed()

    def seed(self, seed: int | None = None) -> list[int | None]:
        self.random = np.random.RandomState(seed)
        return [seed]

    def reset(self) -> np.ndarray:
        self.steps = 0
        self.place = self.random.uniform(-1, 1, 2).astype(np.float32)
        return self.place.copy()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        self.steps += 1
        self.place[0] += 2 * action - 1
        over, late = bool(abs(self.place[0]) > 4), self.steps >= self.limit
        return (
            self.place.copy(),
            1.0,
            over or late,
            {"TimeLimit.truncated": not over} if late else {},
        )

    def render(self, mode: str = "human") -> Any:
        return np.zeros((4, 4, 3), np.uint8) if mode == "rgb_array" else None

    def close(self) -> None:
        self.closed = True


def test_an_old_environment_is_sound_once_wrapped() -> None:
    report = quick(lambda config: poise.OldGymEnv(OldWalk()))
    assert report.findings == []


def test_an_old_environment_learns_and_films(tmp_path: Path) -> None:
    settings = {
        "num_envs_per_worker": 2,
        "rollout_fragment_length": 16,
        "sgd_minibatch_size": 32,
        "progress": False,
    }
    with poise.make_trainer(
        "PPO", lambda config: poise.OldGymEnv(OldWalk()), **settings
    ) as trainer:
        assert trainer.train()["timesteps_total"] > 0


def test_done_becomes_terminated_or_truncated() -> None:
    env = poise.OldGymEnv(OldWalk(limit=3))
    env.reset(seed=0)
    ends = [env.step(t % 2)[2:4] for t in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    env.reset(seed=0)
    env.env.limit = 99
    assert [env.step(1)[2:4] for t in range(5)][-1] == (True, False)


def test_episodes_of_an_old_environment_are_seeded() -> None:
    env = poise.OldGymEnv(OldWalk())
    first = [env.reset(seed=3)[0], env.reset()[0]]
    again = [env.reset(seed=3)[0], env.reset()[0]]
    assert np.array_equal(first, again)
    assert not np.array_equal(*first)


def test_how_an_old_environment_renders_and_closes() -> None:
    env = poise.OldGymEnv(OldWalk())
    assert env.render_mode == "rgb_array"
    assert env.metadata == {"render_modes": ["human", "rgb_array"], "render_fps": 50}
    assert env.render().shape == (4, 4, 3)
    assert poise.OldGymEnv(OldWalk(), render_mode="human").render() is None
    env.close()
    assert env.env.closed


def test_old_spaces() -> None:
    inner = {"a": _named("Discrete", n=3), "b": _named("MultiBinary", n=4)}
    cases = [
        (_named("Discrete", n=3), spaces.Discrete(3)),
        (_named("MultiDiscrete", nvec=np.array([2, 3])), spaces.MultiDiscrete([2, 3])),
        (
            _named("Dict", spaces=inner),
            spaces.Dict({"a": spaces.Discrete(3), "b": spaces.MultiBinary(4)}),
        ),
        (_named("Tuple", spaces=(inner["a"],)), spaces.Tuple([spaces.Discrete(3)])),
        (spaces.Discrete(2), spaces.Discrete(2)),
        (_named("DiscreteSpace", n=3), spaces.Discrete(3)),
        (
            _named("BoxSpace", low=0, high=9, shape=(np.int64(2), 3), dtype=np.uint8),
            spaces.Box(0, 9, (2, 3), np.uint8),
        ),
    ]
    for old, new in cases:
        assert convert_space(old) == new
    with pytest.raises(SpaceError, match="is no space that Poise knows"):
        convert_space(SimpleNamespace())
    with pytest.raises(SpaceError, match="looks like a Discrete space of the old gym package, but"):
        convert_space(_named("Discrete"))


def test_what_is_said_of_old_environments() -> None:
    assert (
        "OldWalk follows the old Gym API (it is not a gymnasium.Env): wrap it, env=lambda config: "
        in str(old_api_sentence(OldWalk()))
    )
    assert "its reset() takes no seed" in str(
        old_api_sentence(gym.wrappers.TimeLimit(faulty.NoSeed(), 5))
    )
    assert [old_api_sentence(env) for env in (faulty.Sound(), "CartPole-v1", None, OldWalk)] == [
        None
    ] * 4


def test_a_step_that_a_wrapper_could_not_unpack() -> None:
    def explained(env: gym.Env, action: Any) -> str | None:
        env.reset(seed=0)
        for _ in range(5):
            try:
                _, _, _, _, _ = env.step(action)
            except (ValueError, ArithmeticError) as error:
                return explain_step(env, action, error)
        raise AssertionError("it should have failed")

    action = np.zeros(2, np.float32)
    assert "its step() returns four values" in str(
        explained(gym.wrappers.TimeLimit(faulty.FourValues(), 9), action)
    )
    assert "returned 3 values" in str(
        explained(gym.wrappers.TimeLimit(faulty.ThreeValues(), 9), action)
    )
    assert explained(gym.wrappers.TimeLimit(faulty.Raises(), 9), action) is None
