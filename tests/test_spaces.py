"""Guards that every space works as it is.

Trained on, saved, loaded, acted in; and that masked choices are not made.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from torch import Tensor, nn

import poise
from environments import Copy, Echo, Masked, Noise, Strict
from poise.config.model import ModelConfig
from poise.envs.masking import ActionMaskInObservation, reports_mask
from poise.errors import EnvError, SpaceError
from poise.learning.distributions import (
    Bernoulli,
    Categorical,
    Gaussian,
    MultiCategorical,
    Product,
    SquashedGaussian,
)
from poise.models.policy import Policy
from poise.spaces.layout import ROOT, Layout
from poise.spaces.masks import complete, mask_width, stuck
from poise.stepping import inline, snapshot
from poise.stepping.inline import InlineVectorEnv
from poise.stepping.intake import Intake
from poise.stepping.snapshot import Journal
from poise.training.trainer import Trainer

Make = Callable[..., Trainer]
BOTH = pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
FOUR = pytest.mark.parametrize("algorithm", ["PPO", "A2C", "IMPALA", "APPO"])
VECTOR = spaces.Box(-1, 1, (3,), np.float32)
TINY: dict[str, Any] = {
    "num_envs": 3,
    "n_steps": 10,
    "timesteps_per_iteration": 0,
    "num_threads": 1,
    "model": {"fcnet_hiddens": [8]},
}

OBSERVATIONS: dict[str, spaces.Space] = {
    "vector": VECTOR,
    "scalar": spaces.Box(-1, 1, (), np.float32),
    "float64": spaces.Box(-1e3, 1e3, (2, 2), np.float64),
    "float16": spaces.Box(-1, 1, (2,), np.float16),
    "integers": spaces.Box(-5, 5, (2,), np.int32),
    "unsigned": spaces.Box(0, 60_000, (2,), np.uint16),
    "bools": spaces.Box(0, 1, (2, 2), np.bool_),
    "bytes": spaces.Box(0, 9, (4,), np.uint8),
    "four axes": spaces.Box(-1, 1, (2, 2, 2, 2), np.float32),
    "image": spaces.Box(0, 255, (9, 11, 3), np.uint8),
    "image of floats": spaces.Box(0, 1, (2, 8, 8), np.float64),
    "image of bools": spaces.Box(0, 1, (6, 6, 4), np.bool_),
    "discrete": spaces.Discrete(5, start=-2),
    "huge": spaces.Discrete(5000, start=100),
    "many choices": spaces.MultiDiscrete([[2, 5], [3, 4]], start=[[0, -5], [7, 1]]),
    "bits": spaces.MultiBinary((2, 3)),
    "nothing": spaces.Dict(
        {"empty": spaces.Box(0, 1, (0,), np.float32), "bit": spaces.MultiBinary(1)}
    ),
    "dict": spaces.Dict(
        {"speed": VECTOR, "gear": spaces.Discrete(3), "horns": spaces.MultiBinary(2)}
    ),
    "integer keys": spaces.Dict({1: VECTOR, 0: spaces.Discrete(3, start=1)}),
    "tuple": spaces.Tuple([spaces.Discrete(32), spaces.Discrete(11), spaces.Discrete(2)]),
    "everything": spaces.Dict(
        {
            "cameras": spaces.Tuple(
                [spaces.Box(0, 255, (8, 8, 1), np.uint8), spaces.Box(0, 255, (10, 12), np.uint8)]
            ),
            "body": spaces.Dict(
                {"joints": spaces.Box(-9, 9, (2,), np.float64), "on": spaces.MultiBinary(2)}
            ),
            "place": spaces.Discrete(2000),
            "cards": spaces.MultiDiscrete([3, 2000]),
            "wheel": spaces.MultiDiscrete([4, 2], start=[1, 0]),
        }
    ),
}

ACTIONS: dict[str, spaces.Space] = {
    "discrete": spaces.Discrete(3, start=4),
    "discrete of 32 bits": spaces.Discrete(3, start=-1, dtype=np.int32),
    "choices": spaces.MultiDiscrete([2, 5, 3], start=[0, -2, 9]),
    "choices of two axes": spaces.MultiDiscrete([[2, 3], [4, 2]], dtype=np.int32),
    "equal choices": spaces.MultiDiscrete([3, 3]),
    "bits": spaces.MultiBinary(4),
    "bits of two axes": spaces.MultiBinary([2, 2]),
    "box": spaces.Box(-2, 6, (2,), np.float32),
    "scalar": spaces.Box(-2, 6, (), np.float32),
    "matrix of float64": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    "half bounded": spaces.Box(np.float32([0, -np.inf]), np.float32([np.inf, 0]), dtype=np.float32),
    "float16": spaces.Box(-0.1, 0.7, (2,), np.float16),
    "integers": spaces.Box(-2, 9, (2, 1), np.int32),
    "bytes": spaces.Box(0, 255, (2,), np.uint8),
    "bools": spaces.Box(0, 1, (3,), np.bool_),
    "integers without bounds": spaces.Box(-np.inf, np.inf, (2,), np.int64),
    "dict": spaces.Dict(
        {"steer": spaces.Box(-1, 1, (2,), np.float32), "gear": spaces.Discrete(4, start=1)}
    ),
    "tuple": spaces.Tuple([spaces.Discrete(2), spaces.MultiDiscrete([3, 2])]),
    "integer keys": spaces.Dict({1: spaces.MultiBinary(2), 0: spaces.Box(0, 3, (), np.int16)}),
    "everything": spaces.Dict(
        {
            "arm": spaces.Tuple(
                [spaces.Box(-1, 1, (2, 1), np.float64), spaces.Box(0, 3, (2,), np.int8)]
            ),
            "hand": spaces.Dict(
                {"grip": spaces.MultiBinary([1, 2]), "tool": spaces.Discrete(3, start=-1)}
            ),
            "say": spaces.MultiDiscrete([[2], [3]], start=[[5], [0]]),
        }
    ),
}

MATRIX = [
    *((name, ("everything", "discrete", "integers")[i % 3]) for i, name in enumerate(OBSERVATIONS)),
    *((("vector", "everything", "image")[i % 3], name) for i, name in enumerate(ACTIONS)),
]


def same(a: Any, b: Any, space: spaces.Space) -> bool:
    """Whether two actions are equal to the bit, in type too."""
    layout = Layout(space)
    pairs = zip(layout.flatten(a).values(), layout.flatten(b).values(), strict=True)
    return all(x.dtype == y.dtype and x.shape == y.shape and np.array_equal(x, y) for x, y in pairs)


@FOUR
@pytest.mark.parametrize(("observed", "chosen"), MATRIX, ids=lambda name: name)
def test_every_space_is_trained_on_saved_and_loaded(
    trainer: Make, tmp_path: Path, algorithm: str, observed: str, chosen: str
) -> None:
    seen, actions, bad = OBSERVATIONS[observed], ACTIONS[chosen], []
    epochs = {"n_epochs": 2} if algorithm in ("PPO", "APPO") else {}
    settings = {**TINY, **epochs, "normalize_observations": True}
    made = trainer(algorithm, lambda config: Strict(seen, actions, bad), **settings)
    before = made.algorithm.flat.data.clone()
    for _ in range(2):
        result = made.train()
    assert not torch.equal(made.algorithm.flat.data, before)
    assert torch.isfinite(made.algorithm.flat.data).all()
    assert result["learner/skipped_updates"] == 0
    assert result["episodes_total"] > 0
    assert not bad, f"{bad[0]!r} is not in {actions}"
    made.save(tmp_path / "saved")
    with poise.load(tmp_path / "saved") as loaded:
        assert loaded.policy.obs_layout.space == seen
        for explore in (False, True):
            for _ in range(3):
                observation = seen.sample()
                action = made.compute_action(observation, explore=explore)
                assert actions.contains(action), f"{action!r} is not in {actions}"
                assert same(action, loaded.compute_action(observation, explore=explore), actions)
        batch = batch_space(seen, 4).sample()
        assert batch_space(actions, 4).contains(loaded.predict(batch)[0])


@BOTH
@pytest.mark.parametrize("chosen", ["everything", "choices"])
def test_training_goes_on_to_the_bit_after_loading(
    trainer: Make, tmp_path: Path, algorithm: str, chosen: str
) -> None:
    env = lambda config: Noise(OBSERVATIONS["everything"], ACTIONS[chosen])  # noqa: E731
    straight = trainer(algorithm, env, **TINY, **({"n_epochs": 2} if algorithm == "PPO" else {}))
    straight.train()
    straight.save(tmp_path / "saved")
    straight.train()
    with poise.load(tmp_path / "saved", env=env) as resumed:
        resumed.train()
        assert not resumed.notes
        assert torch.equal(resumed.algorithm.flat.data, straight.algorithm.flat.data)


@pytest.mark.parametrize("space", ACTIONS.values(), ids=ACTIONS.keys())
def test_an_episode_is_replayed_with_the_very_actions(space: spaces.Space) -> None:
    class Noted(Noise):
        def __init__(self) -> None:
            super().__init__(VECTOR, space)
            self.noted: list[Any] = []

        def step(self, action: Any) -> Any:
            self.noted.append(action)
            return super().step(action)

    journal, first, second = Journal(), Noted(), Noted()
    journal.begin(first, 5)
    first.reset(seed=5)
    for _ in range(4):
        action = space.sample()
        journal.actions.append(action)
        first.step(action)
    snapshot.restore(second, snapshot.save(first, journal), Journal())
    assert len(second.noted) == 4
    for found, expected in zip(second.noted, first.noted, strict=True):
        assert space.contains(found)
        assert same(found, expected, space)


def test_an_episode_that_is_too_long_to_replay_is_not_written_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshot, "LONGEST_REPLAY", 3)
    journal, env = Journal(), Noise(VECTOR, spaces.Discrete(2))
    journal.begin(env, 5)
    for steps in range(1, 8):
        journal.actions.append(0)
        saved = snapshot.save(env, journal)
        assert len(saved["actions"]) == (steps if steps <= 3 else 0)
        assert (snapshot.restore(Noise(VECTOR, spaces.Discrete(2)), saved, Journal()) is None) is (
            steps > 3
        )
    assert len(journal.actions) == 4, "and it does not fill the memory"


def test_the_memory_for_replays_is_shared_by_all_environments_of_a_run() -> None:
    vector = spaces.Box(-1, 1, (17,), np.float32)
    assert snapshot.longest_replay(spaces.Discrete(2), 8) == snapshot.LONGEST_REPLAY
    assert 1_000 < snapshot.longest_replay(vector, 256) < 2_000
    assert snapshot.longest_replay(spaces.Box(-1, 1, (10**6,), np.float32), 64) == 0
    for space, envs in ((spaces.Discrete(2), 4096), (vector, 64)):
        steps = snapshot.longest_replay(space, envs)
        sample = np.array([space.sample()])[0]
        assert steps * envs * sample.nbytes < snapshot.REPLAY_BYTES


def test_an_episode_that_outgrows_the_memory_for_replays_is_told_and_begins_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(inline, "_BOUNDS_EVERY", 10)
    monkeypatch.setattr(snapshot, "REPLAY_BYTES", 20 * 2 * 48)  # of two environments, 20 steps each
    settings = {"num_envs_per_worker": 2, "rollout_fragment_length": 16, "preset": None, "seed": 0}
    told = []

    class Listener(poise.Callback):
        def on_failure(self, trainer: Trainer, failure: Any) -> None:
            told.append(failure.what)

    with poise.PPO("MountainCar-v0", **settings) as one:
        one.callbacks.append(Listener())
        for iteration, grade in enumerate(("bitwise", "statistical", "statistical"), 1):
            one.train()
            saved = one.save(tmp_path / f"{iteration}")
            assert json.loads((saved / "manifest.json").read_text())["resume_grade"] == grade
    with poise.load(saved) as again:
        again.train()
        assert "2 of 2 environments could not be restored and began a new episode." in again.notes
    assert len(told) == 1
    assert "more than 20 steps" in told[0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [(np.nan,), (np.inf,), (-np.inf,), (np.inf, -np.inf)], ids=str)
def test_what_is_not_finite_is_found_and_what_is_large_is_not(
    dtype: Any, bad: tuple[float, ...]
) -> None:
    layout = Layout(spaces.Box(-np.inf, np.inf, (3,), dtype))
    arrays = {ROOT: np.zeros((4, 3), dtype)}
    intake = Intake(layout, spaces.Discrete(2), arrays)
    largest = np.full(3, min(float(np.finfo(dtype).max), float(np.finfo(np.float32).max)), dtype)
    for i in range(4):
        intake.store(i, largest * (-1) ** i)
    assert intake.faults([False] * 4) == {}
    largest[: len(bad)] = bad
    intake.store(2, largest)
    assert list(intake.faults([False] * 4)) == [2]


@pytest.mark.parametrize(
    "model", [{"vf_share_layers": True}, {"free_log_std": False, "log_std_init": -1.0}], ids=str
)
@pytest.mark.parametrize("squash", ["gaussian", "squashed_gaussian"])
def test_other_networks_take_nested_spaces_too(
    trainer: Make, model: dict[str, Any], squash: str
) -> None:
    bad: list[Any] = []
    env = lambda config: Strict(OBSERVATIONS["everything"], ACTIONS["everything"], bad)  # noqa: E731
    settings = {**TINY, "model": {"fcnet_hiddens": [8], "action_distribution": squash, **model}}
    made = trainer("PPO", env, **settings)
    with torch.no_grad():
        inputs = made.policy.actor(
            made.policy.prepare(leaves(made.policy, batch_space(made.policy.obs_layout.space, 5)))
        )
    log_std = inputs[:, -4:]
    assert (log_std - settings["model"].get("log_std_init", 0.0)).abs().max() < 0.2
    made.train()
    assert not bad


@pytest.mark.parametrize("space", ACTIONS.values(), ids=ACTIONS.keys())
@pytest.mark.parametrize("kind", ["gaussian", "squashed_gaussian"])
def test_actions_are_inside_the_space_however_wild(space: spaces.Space, kind: str) -> None:
    unbounded = isinstance(space, spaces.Box) and space in (
        ACTIONS["matrix of float64"],
        ACTIONS["half bounded"],
        ACTIONS["integers without bounds"],
    )
    if kind == "squashed_gaussian" and unbounded:
        with pytest.raises(SpaceError, match="needs finite action bounds"):
            Policy(Layout(VECTOR), Layout(space), ModelConfig(action_distribution=kind))
        return
    made = Policy(Layout(VECTOR), Layout(space), ModelConfig(action_distribution=kind))
    for scale in (0.0, 1.0, 1e3, 1e30):
        inputs = (
            torch.randn(20, made.dist.num_inputs, generator=torch.Generator().manual_seed(0))
            * scale
        )
        action = made.dist.sample(inputs, made.dist.noise((20,), torch.Generator().manual_seed(1)))
        assert action.dtype == made.dist.action_dtype
        found = made.env_action(action)
        assert batch_space(space, 20).contains(found)
        layout = Layout(space)
        for i in range(20):
            assert space.contains(layout.element(layout.flatten(found), i))


def test_integers_of_64_bits_are_never_beyond_their_bounds() -> None:
    space = spaces.Box(2**62 + 1, 2**62 + 3, (3,), np.int64)  # which no float64 can tell apart
    made = Policy(Layout(VECTOR), Layout(space), ModelConfig())
    assert space.contains(made.env_action(torch.tensor([[-1.0, 0.0, 1.0]]))[0])
    widest = spaces.Box(-np.inf, np.inf, (2,), np.int64)
    far = Policy(Layout(VECTOR), Layout(widest), ModelConfig()).env_action(
        torch.tensor([[-1e30, 1e30]])
    )
    assert (far[0, 0] < -(2**62), far[0, 1] > 2**62) == (True, True)


@pytest.mark.filterwarnings("error")
def test_a_range_that_no_float64_holds_bounds_nothing() -> None:
    most = np.finfo(np.float64).max
    space = spaces.Box(-most, most, (3,), np.float64)
    made = Policy(Layout(VECTOR), Layout(space), ModelConfig())
    assert made.env_action(torch.tensor([[-1.0, 0.5, 1e30]]))[0].tolist() == pytest.approx(
        [-1.0, 0.5, 1e30]
    )
    half = Policy(
        Layout(VECTOR), Layout(spaces.Box(0.0, most / 4, (1,), np.float64)), ModelConfig()
    )
    assert half.env_action(torch.tensor([[1.0]])).item() == pytest.approx(most / 4)


def test_whole_numbers_are_rounded_to_the_nearest() -> None:
    made = Policy(Layout(VECTOR), Layout(spaces.Box(0, 4, (3,), np.int16)), ModelConfig())
    assert made.env_action(torch.tensor([[-1.0, 0.0, 1.0], [-0.3, -0.2, 7.0]])).tolist() == [
        [0, 2, 4],
        [1, 2, 4],
    ]
    free = Policy(
        Layout(VECTOR), Layout(spaces.Box(-np.inf, np.inf, (2,), np.int32)), ModelConfig()
    )
    assert free.env_action(torch.tensor([[-7.6, 2.4]])).tolist() == [[-8, 2]]


def test_families_of_nested_spaces() -> None:
    def family(space: spaces.Space, **settings: Any) -> Any:
        return Policy(Layout(VECTOR), Layout(space), ModelConfig(**settings)).dist

    assert type(family(ACTIONS["choices of two axes"])) is MultiCategorical
    assert type(family(ACTIONS["bits of two axes"])) is Bernoulli
    assert type(family(ACTIONS["tuple"])) is MultiCategorical
    assert type(family(spaces.Dict({"value": spaces.Discrete(2)}))) is MultiCategorical
    assert type(family(ACTIONS["integers"])) is Gaussian
    everything = family(ACTIONS["everything"], action_distribution="squashed_gaussian")
    assert isinstance(everything, Product)
    assert [type(part) for part in everything.parts] == [
        MultiCategorical,
        Bernoulli,
        SquashedGaussian,
    ]
    half = spaces.Tuple(
        [spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32)]
    )
    assert family(half, action_distribution="squashed_gaussian").columns.tolist() == [2]


@pytest.mark.parametrize(
    "space", [spaces.Text(3), spaces.Sequence(VECTOR), spaces.OneOf([VECTOR])], ids=str
)
def test_spaces_without_a_shape_are_refused_at_construction(space: spaces.Space) -> None:
    with pytest.raises(SpaceError, match="have no fixed shape"):
        poise.make_trainer("PPO", lambda config: Noise(spaces.Dict({"a": space})), progress=False)
    with pytest.raises(SpaceError, match="have no fixed shape"):
        poise.make_trainer("A2C", lambda config: Noise(VECTOR, space), progress=False)


def test_more_categories_than_memory_are_refused() -> None:
    with pytest.raises(SpaceError, match="too many categories"):
        Policy(Layout(spaces.Discrete(10**12)), Layout(spaces.Discrete(2)), ModelConfig())


def test_observations_that_do_not_fit_are_said(trainer: Make) -> None:
    made = trainer("PPO", lambda config: Noise(OBSERVATIONS["dict"]), **TINY)
    good = OBSERVATIONS["dict"].sample()
    for wrong in ({"speed": good["speed"]}, 3, good["speed"], None):
        with pytest.raises(SpaceError, match="not built as the policy's observation space"):
            made.compute_action(wrong)
    with pytest.raises(
        SpaceError, match=r"observation 'speed' of shape \(4,\) does not fit: .* made for \(3,\)"
    ):
        made.compute_action({**good, "speed": np.zeros(4, np.float32)})
    with pytest.raises(SpaceError, match="does not fit"):  # one of two, the other single
        made.predict({**good, "speed": np.zeros((2, 3), np.float32)})
    with pytest.raises(SpaceError, match="'gear' is outside"):
        made.compute_action({**good, "gear": 3})


# --- identity tasks -------------------------------------------------------------------------------

IDENTITIES: dict[str, spaces.Space] = {
    "discrete": spaces.Discrete(4, start=2),
    "choices": spaces.MultiDiscrete([3, 2, 4], start=[0, 5, -1]),
    "choices of two axes": spaces.MultiDiscrete([[3, 2], [2, 3]]),
    "bits": spaces.MultiBinary(4),
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "integers": spaces.Box(-2, 2, (2,), np.int32),
    "dict": spaces.Dict(
        {
            "a": spaces.Discrete(3),
            "b": spaces.Box(-1, 1, (1,), np.float32),
            "c": spaces.MultiBinary(2),
        }
    ),
    "tuple": spaces.Tuple([spaces.Box(-1, 1, (), np.float64), spaces.MultiDiscrete([3, 2])]),
}
FAST: dict[str, dict[str, Any]] = {
    "PPO": {
        "lr": [[0, 5e-3], [20_000, 5e-4]],
        "num_envs": 16,
        "n_steps": 32,
        "minibatch_size": 128,
        "n_epochs": 6,
    },
    "A2C": {"lr": [[0, 5e-3], [30_000, 5e-4]], "num_envs": 16, "n_steps": 8},
}
STEPS = {"PPO": 15_000, "A2C": 30_000}
SLOW = [("dict", "PPO"), ("tuple", "PPO"), ("choices of two axes", "A2C")]
OF_PROOF = [(name, "A2C") for name in ("box", "integers", "dict", "tuple")]
TIERS = dict.fromkeys(SLOW, pytest.mark.slow) | dict.fromkeys(OF_PROOF, pytest.mark.proof)


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        pytest.param(name, algorithm, marks=TIERS.get((name, algorithm), ()))
        for name in IDENTITIES
        for algorithm in ("PPO", "A2C")
    ],
)
def test_does_what_is_shown(trainer: Make, algorithm: str, name: str) -> None:
    settings = {
        **FAST[algorithm],
        "gamma": 0.5,
        "entropy_coeff": 0.0,
        "model": {"log_std_init": -1.0},
    }
    made = trainer(algorithm, lambda config: Copy(IDENTITIES[name]), **settings)
    made.learn(
        stop={"episode_reward_mean": 0.92 * Copy.length, "timesteps_total": STEPS[algorithm]}
    )
    assert made.evaluate(20)["episode_reward_mean"] >= 0.9 * Copy.length


# --- masks ----------------------------------------------------------------------------------------

# Gymnasium refuses the old ones.
TAXI = max(name for name in gym.registry if name.startswith("Taxi-v"))
CHOICES = {
    "discrete": spaces.Discrete(4, start=5),
    "choices": spaces.MultiDiscrete([[2, 3], [2, 2]]),
}


def masked_space(actions: spaces.Space) -> spaces.Dict:
    return spaces.Dict(
        {"seen": VECTOR, "action_mask": spaces.Box(0, 1, (mask_width(actions),), np.int8)}
    )


def leaves(policy: Policy, batched: spaces.Space) -> dict[str, Tensor]:
    """A random batch as leaves."""
    return {
        k: torch.as_tensor(np.asarray(v))
        for k, v in policy.obs_layout.flatten(batched.sample()).items()
    }


def test_masked_probabilities_are_those_of_the_allowed_choices() -> None:
    torch.manual_seed(0)
    made = Policy(
        Layout(masked_space(CHOICES["discrete"])), Layout(CHOICES["discrete"]), ModelConfig()
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
        seen = torch.randn(3, 3)
        masks = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.int8)
        x = made.prepare({"seen": seen, "action_mask": masks})
        inputs, _ = made(x)
        free, _ = made.network(seen)
        assert torch.equal(inputs, made.actor(x))
        assert torch.equal(made.critic(x), made(x)[1])
    p = inputs.softmax(-1)
    torch.testing.assert_close(p[0], free[0].softmax(-1))
    two = free[1][[0, 2]].softmax(-1)
    torch.testing.assert_close(
        p[1], torch.stack([two[0], torch.zeros(()), two[1], torch.zeros(())])
    )
    assert p[1, 1].item() == p[1, 3].item() == 0
    assert p[2].tolist() == [0, 0, 0, 1]
    entropy = made.dist.entropy(inputs)
    torch.testing.assert_close(entropy[1], -(two * two.log()).sum())
    assert entropy[2].item() == 0
    assert made.dist.log_prob(inputs, torch.tensor([0, 2, 3]))[1].item() == pytest.approx(
        two[1].log().item(), abs=1e-6
    )


def test_masked_factors_are_those_of_the_allowed_choices() -> None:
    actions = CHOICES["choices"]
    made = Policy(Layout(masked_space(actions)), Layout(actions), ModelConfig())
    mask = torch.tensor([[0, 1, 1, 0, 1, 1, 1, 1, 0]], dtype=torch.int8).expand(4000, 9)
    inputs, _ = made(made.prepare({"seen": torch.randn(4000, 3), "action_mask": mask}))
    drawn = made.dist.sample(inputs, made.dist.noise((4000,), torch.Generator().manual_seed(0)))
    assert [sorted(set(column.tolist())) for column in drawn.T] == [[1], [0, 2], [0, 1], [0]]
    assert all(actions.contains(action) for action in made.env_action(drawn[:20]))
    uniform = torch.zeros(1, 9).masked_fill(mask[:1] == 0, inputs.min().item())
    assert made.dist.entropy(uniform).item() == pytest.approx(2 * np.log(2))


def test_gradients_of_masked_choices_are_zero_and_finite() -> None:
    actions = CHOICES["discrete"]
    made = Policy(Layout(masked_space(actions)), Layout(actions), ModelConfig(fcnet_hiddens=[]))
    # The second: when an episode is over.
    masks = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.int8)
    inputs, _ = made(made.prepare({"seen": torch.randn(2, 3), "action_mask": masks}))
    (made.dist.log_prob(inputs, torch.tensor([0, 0])) + made.dist.entropy(inputs)).sum().backward()
    gradient = made.network.pi.bias.grad
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).tolist() == [True, False, True, False]


@BOTH
@pytest.mark.parametrize("in_info", [False, True], ids=["observed", "in info"])
@pytest.mark.parametrize(
    "actions", [spaces.Discrete(20, start=3), spaces.MultiDiscrete([8, 9])], ids=str
)
def test_what_is_not_allowed_is_never_done(
    trainer: Make, algorithm: str, actions: spaces.Space, in_info: bool
) -> None:
    bad: list[Any] = []
    settings = {**FAST[algorithm], "gamma": 0.5}
    made = trainer(algorithm, lambda config: Masked(bad, actions, in_info), **settings)
    made.learn(
        stop={"episode_reward_mean": 0.95 * Masked.length, "timesteps_total": STEPS[algorithm]}
    )
    assert made.policy.masked
    assert made.evaluate(20)["episode_reward_mean"] >= 0.9 * Masked.length
    assert made.evaluate(5, explore=True)["episode_reward_mean"] > 0.7 * Masked.length
    assert not bad


def test_what_is_not_allowed_is_not_filmed(trainer: Make, tmp_path: Path) -> None:
    bad: list[Any] = []

    class Lit(Masked):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
        render_mode = "rgb_array"

        def render(self) -> np.ndarray:
            return np.full((16, 16, 3), 40 * self.now % 255, np.uint8)

    made = trainer("PPO", lambda config: Lit(bad, in_info=True), **TINY)
    assert (
        poise.record(made, tmp_path / "film.mp4", episodes=3)["episode_len"] == [Masked.length] * 3
    )
    assert not bad


def test_taxis_do_not_drive_into_walls(trainer: Make) -> None:
    bad: list[Any] = []

    class Watched(gym.Wrapper):
        def reset(self, **options: Any) -> Any:
            found = self.env.reset(**options)
            self.mask = found[1]["action_mask"]
            return found

        def step(self, action: Any) -> Any:
            if not self.mask[action]:
                bad.append(action)
            found = self.env.step(action)
            self.mask = found[4]["action_mask"]
            return found

    made = trainer("PPO", lambda config: Watched(gym.make(TAXI)), num_envs=4, n_steps=128)
    for _ in range(3):
        made.train()
    made.evaluate(3)
    assert not bad
    observation, info = gym.make(TAXI).reset(seed=1)
    for _ in range(20):  # as the environment itself gives them
        assert info["action_mask"][
            made.compute_action(observation, action_mask=info["action_mask"], explore=True)
        ]
    batch = np.array([observation] * 3)
    assert made.predict(batch)[0].shape == (3,)
    assert made.predict(batch, action_mask=[info["action_mask"]] * 3)[0].shape == (3,)


@BOTH
@pytest.mark.usefixtures("registries")
def test_custom_models_and_preprocessors_are_masked_too(trainer: Make, algorithm: str) -> None:
    class Model(nn.Module):
        def __init__(self, space: spaces.Dict, num_outputs: int) -> None:
            super().__init__()
            self.heads = nn.Linear(3, num_outputs + 1)

        def forward(self, obs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            assert set(obs) == {"shown", "action_mask"}
            out = self.heads(obs["shown"].repeat(1, 3))
            return out[:, :-1], out[:, -1]

    class Shown:
        def __init__(self, space: spaces.Dict) -> None:
            self.space = spaces.Dict(
                {"half": spaces.Box(0, 10, (1,), np.float32), "all": space["shown"]}
            )

        def transform(self, obs: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"half": obs["shown"] / 2, "all": obs["shown"]}

    poise.register_model("mine", Model)
    poise.register_preprocessor("shown", Shown)
    for model in ({"custom_model": "mine"}, {"custom_preprocessor": "shown"}):
        bad: list[Any] = []
        made = trainer(algorithm, lambda config, bad=bad: Masked(bad), **{**TINY, "model": model})
        for _ in range(2):
            made.train()
        assert not bad


def test_a_mask_may_be_all_that_is_observed(trainer: Make) -> None:
    class Blind(Masked):
        def __init__(self) -> None:
            super().__init__([])
            self.observation_space = spaces.Dict(
                {"action_mask": self.observation_space["action_mask"]}
            )

        def observe(self) -> Any:
            return {"action_mask": super().observe()["action_mask"]}

    made = trainer("PPO", lambda config: Blind(), **TINY)
    made.train()
    assert made.policy.network.pi.layers[0].in_features == 0


def test_the_networks_do_not_see_the_mask() -> None:
    made = Policy(
        Layout(masked_space(spaces.Discrete(50))), Layout(spaces.Discrete(50)), ModelConfig()
    )
    assert made.network.pi.layers[0].in_features == 3


@pytest.mark.filterwarnings("ignore:Environment .* of worker 0 gave an action mask")
def test_a_mask_that_allows_nothing_is_said(trainer: Make) -> None:
    class Stuck(Masked):
        def observe(self) -> Any:
            obs = super().observe()
            if self.now == 2:
                obs["action_mask"][:] = 0
            return obs

    made = trainer("PPO", lambda config: Stuck([]), **TINY)
    with pytest.raises(
        EnvError, match="gave an action mask that allows no action, at step 2 of its episode"
    ):
        made.train()
    observation, _ = Masked([]).reset(seed=0)
    with pytest.raises(EnvError, match="allows no action"):
        made.compute_action(observation, action_mask=np.zeros(20))


def test_stuck_looks_at_every_choice() -> None:
    masks = np.array([[1, 0, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    assert stuck(spaces.Discrete(5), masks).tolist() == [False, False, False, True]
    assert stuck(spaces.MultiDiscrete([2, 3]), masks).tolist() == [False, True, True, True]


def test_masks_that_do_not_fit_are_said() -> None:
    def make(mask: spaces.Space, actions: spaces.Space) -> Policy:
        return Policy(
            Layout(spaces.Dict({"action_mask": mask, "seen": VECTOR})),
            Layout(actions),
            ModelConfig(),
        )

    with pytest.raises(
        SpaceError, match=r"of Discrete\(3\) must be a Box of shape \(3,\), not Box.*\(4,\)"
    ):
        make(spaces.Box(0, 1, (4,), np.int8), spaces.Discrete(3))
    with pytest.raises(SpaceError, match=r"must be a Box of shape \(5,\), not Discrete"):
        make(spaces.Discrete(5), spaces.MultiDiscrete([2, 3]))
    with pytest.raises(
        SpaceError, match="only Discrete and MultiDiscrete actions can be masked, not Box"
    ):
        make(spaces.Box(0, 1, (4,), np.int8), VECTOR)
    assert make(spaces.MultiBinary(3), spaces.Discrete(3)).masked
    inside = Layout(spaces.Dict({"deep": spaces.Dict({"action_mask": VECTOR})}))
    # Only the top level means a mask.
    assert not Policy(inside, Layout(spaces.Discrete(2)), ModelConfig()).masked
    seen, actions = masked_space(spaces.Discrete(4)), spaces.Discrete(4)
    one = {"seen": np.zeros(3, np.float32)}
    with pytest.raises(
        SpaceError, match=r"mask of shape \(3,\) does not fit: Discrete\(4\) has 4 choices"
    ):
        complete(seen, actions, one, np.ones(3))
    with pytest.raises(SpaceError, match="no 'action_mask' in the observations of this policy"):
        complete(VECTOR, actions, np.zeros(3), np.ones(4))
    assert complete(seen, actions, {**one, "action_mask": np.ones(4)}, [0, 1, 0, 0])[
        "action_mask"
    ].tolist() == [
        0,
        1,
        0,
        0,
    ]


def test_the_wrapper_moves_masks_from_the_info(trainer: Make) -> None:
    assert reports_mask(gym.make(TAXI))
    assert not reports_mask(gym.make("CartPole-v1"))
    assert not reports_mask(Masked([]))  # it is in the observation already
    assert not reports_mask(Noise(VECTOR, VECTOR))
    env = Masked([], spaces.MultiDiscrete([2, 3]), in_info=True)
    assert reports_mask(env)
    wrapped = ActionMaskInObservation(env)
    observation, _ = wrapped.reset(seed=0)
    assert wrapped.observation_space.contains(observation)
    assert observation["action_mask"].tolist() == np.concatenate(env.masks).tolist()
    env.info = dict
    assert wrapped.step(env.target)[0]["action_mask"].tolist() == [1] * 5
    env.info = lambda: {"action_mask": [1, 1]}
    with pytest.raises(EnvError, match="gave a mask of 2 choices"):
        wrapped.step(env.target)
    with pytest.raises(SpaceError, match="Only Discrete and MultiDiscrete actions can be masked"):
        ActionMaskInObservation(Noise(VECTOR, VECTOR))


def test_the_wrapper_can_be_put_back_where_it_was() -> None:
    class Told(Masked):
        def get_state(self) -> dict[str, Any]:
            return {"now": self.now, "target": self.target, "masks": self.masks}

        def set_state(self, state: dict[str, Any]) -> Any:
            self.now, self.target, self.masks = state["now"], state["target"], state["masks"]
            return self.target

    def make() -> gym.Env:
        return ActionMaskInObservation(Told([], in_info=True))

    first, second = InlineVectorEnv(make, 2), InlineVectorEnv(make, 2)
    first.reset(seed=3)
    second.reset(seed=4)
    assert second.load_state_dict(first.state_dict()) == []
    for name, array in first.observations.items():
        np.testing.assert_array_equal(second.observations[name], array)


# --- custom parts ---------------------------------------------------------------------------------


@BOTH
@pytest.mark.usefixtures("registries")
def test_a_custom_model_without_parameters(trainer: Make, algorithm: str, tmp_path: Path) -> None:
    class Rule(nn.Module):
        def __init__(self, space: spaces.Box, num_outputs: int) -> None:
            super().__init__()

        def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
            return 9 * obs, obs[:, 0]

    poise.register_model("rule", Rule)
    made = trainer(algorithm, lambda config: Echo(), **{**TINY, "model": {"custom_model": "rule"}})
    made.train()
    assert made.evaluate(5)["episode_reward_mean"] == Echo.length
    made.save(tmp_path / "saved")
    with poise.load(tmp_path / "saved") as loaded:
        assert loaded.compute_action(np.eye(4, dtype=np.float32)[2]) == 2


# --- the vector -----------------------------------------------------------------------------------


def test_numbers_bits_and_choices_become_one_vector() -> None:
    space = spaces.Dict(
        {
            "a": spaces.Discrete(3, start=5),
            "b": spaces.Box(-9, 9, (2, 1), np.float64),
            "c": spaces.MultiBinary([1, 2]),
            "d": spaces.Box(0, 4, (1,), np.uint8),
            "e": spaces.MultiDiscrete([[2], [3]], start=[[0], [-1]]),
        }
    )
    made = Policy(
        Layout(space), Layout(spaces.Discrete(2)), ModelConfig(), normalize_observations=True
    )
    obs = {
        "a": torch.tensor([6]),
        "b": torch.tensor([[[0.5], [-2.0]]]),
        "c": torch.tensor([[[1, 0]]], dtype=torch.int8),
        "d": torch.tensor([[3]], dtype=torch.uint8),
        "e": torch.tensor([[[1], [-1]]]),
    }
    assert made.prepare(obs).tolist() == [[0.5, -2.0, 0.75, 1, 0, 0, 1, 0, 0, 1, 1, 0, 0]]
    assert made.normalizer.mean.shape == (3,)
    made.update_normalizer({name: leaf[None] for name, leaf in obs.items()}, torch.ones(1, 1))
    assert made.normalizer.mean.tolist() == [0.5, -2.0, 0.75]
    assert made.prepare(obs).tolist() == [[0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1, 0, 0]]


def test_large_choices_are_looked_up() -> None:
    space = spaces.Tuple([spaces.Discrete(3000, start=7), spaces.MultiDiscrete([2, 2000]), VECTOR])
    made = Policy(Layout(space), Layout(spaces.Discrete(2)), ModelConfig())
    x = made.prepare(
        {
            "0": torch.tensor([7, 3006]),
            "1": torch.tensor([[0, 0], [1, 1999]]),
            "2": torch.randn(2, 3),
        }
    )
    assert [tuple(part.shape) for part in x] == [(2, 3), (2, 1), (2, 2)]
    _, first, second = made.network.pi_encoder.parts
    assert (first.table.weight.shape, second.table.weight.shape) == ((3000, 64), (2002, 64))
    torch.testing.assert_close(first(x[1])[1], first.table.weight[2999])
    torch.testing.assert_close(
        second(x[2])[1], torch.cat([second.table.weight[1], second.table.weight[2001]])
    )
    assert made.network.pi.layers[0].in_features == 3 + 64 + 2 * 64


def test_plain_spaces_have_plain_distributions() -> None:
    assert (
        type(Policy(Layout(VECTOR), Layout(spaces.Discrete(2)), ModelConfig()).dist) is Categorical
    )
