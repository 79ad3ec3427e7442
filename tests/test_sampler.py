"""Guards the rollout contract with environments that observe their place: (episode, step)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from environments import Noise, Scripted, broken
from poise.config.model import ModelConfig
from poise.errors import EnvError
from poise.models.policy import Policy
from poise.sampling.rollout import Rollout, gather, stored_dtype
from poise.sampling.sampler import Sampler
from poise.spaces.layout import Layout
from poise.stepping.batches import make_vector_env
from poise.stepping.inline import InlineVectorEnv
from poise.training.evaluation import run_episodes
from rollouts import sample


def make_policy(env: Any, **settings: Any) -> Policy:
    torch.manual_seed(0)
    return Policy(
        Layout(env.single_observation_space),
        Layout(env.single_action_space),
        ModelConfig(**settings),
    )


def sampler_of(env: Any, steps: int, seed: int = 0, correlation: float = 0.0) -> Sampler:
    return Sampler(
        make_policy(env), env, steps, np.random.SeedSequence(seed), correlation=correlation
    )


def scripted(
    *lengths: Sequence[int], ends: Sequence[str] = ("terminated", "truncated")
) -> list[Callable[[], gym.Env]]:
    """One environment per argument, with these episode lengths."""
    return [lambda own=own: Scripted(own, ends) for own in lengths]  # type: ignore[misc]


def inline(makers: list[Callable[[], gym.Env]]) -> InlineVectorEnv:
    rest = iter(makers)
    return InlineVectorEnv(lambda: next(rest)(), len(makers))


def rows(rollout: Rollout, slot: int = 0) -> list[list[float]]:
    """(episode, step) of all T + 1 rows of a slot."""
    return rollout.obs["value"][:, slot].int().tolist()


def ints(x: Tensor, slot: int = 0) -> list[int]:
    return x[:, slot].int().tolist()


# --- NEXT_STEP ------------------------------------------------------------------------------------

NEXT_STEP = {
    "inline": inline,
    "gymnasium": lambda makers: SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP),
}


@pytest.mark.parametrize("vectorise", NEXT_STEP.values(), ids=NEXT_STEP.keys())
def test_golden_rollout_with_next_step_resets(vectorise: Callable[..., Any]) -> None:
    r = sample(sampler_of(vectorise(scripted((2, 3))), 8))
    assert rows(r) == [[1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2], [2, 3], [3, 0], [3, 1]]
    assert ints(r.reward) == [11, 12, 0, 21, 22, 23, 0, 31]
    assert ints(r.terminated) == [0, 1, 0, 0, 0, 0, 0, 0]
    assert ints(r.truncated) == [0, 0, 0, 0, 0, 1, 0, 0]
    assert ints(r.valid) == [1, 1, 0, 1, 1, 1, 0, 1]
    assert ints(r.first) == [1, 0, 0, 1, 0, 0, 0, 1, 0]
    assert r.final == []


@pytest.mark.parametrize("vectorise", NEXT_STEP.values(), ids=NEXT_STEP.keys())
def test_rollouts_join_without_a_seam(vectorise: Callable[..., Any]) -> None:
    whole = sample(sampler_of(vectorise(scripted((2, 3), (1, 1, 4))), 21))
    parts = sampler_of(vectorise(scripted((2, 3), (1, 1, 4))), 3)
    for start in range(0, 21, 3):
        part = sample(parts)
        for name in ("reward", "terminated", "truncated", "valid"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[start : start + 3]), name
        assert torch.equal(part.first, whole.first[start : start + 4])
        assert torch.equal(part.obs["value"], whole.obs["value"][start : start + 4])


def test_slots_are_kept_apart() -> None:
    r = sample(sampler_of(inline(scripted((2, 3), (4,))), 6))
    assert rows(r, 1) == [[1, 0], [1, 1], [1, 2], [1, 3], [1, 4], [2, 0], [2, 1]]
    assert ints(r.valid, 1) == [1, 1, 1, 1, 0, 1]
    assert ints(r.valid, 0) == [1, 1, 0, 1, 1, 1]


def test_both_flags_at_once() -> None:
    r = sample(sampler_of(inline(scripted((2,), ends=("both",))), 4))
    assert ints(r.terminated) == ints(r.truncated) == [0, 1, 0, 0]
    assert ints(r.valid) == [1, 1, 0, 1]


@pytest.mark.parametrize("vectorise", NEXT_STEP.values(), ids=NEXT_STEP.keys())
def test_episodes_are_exact(vectorise: Callable[..., Any]) -> None:
    sampler = sampler_of(vectorise(scripted((2, 3), (4,))), 5)
    sample(sampler)
    sample(sampler)
    found = [(e.slot, e.reward, e.length, e.info) for e in sampler.harvest().episodes]
    assert found == [
        (0, 11 + 12, 2, {"episode_number": 1.0}),
        (1, 11 + 12 + 13 + 14, 4, {"episode_number": 1.0}),
        (0, 21 + 22 + 23, 3, {"episode_number": 2.0}),
        (0, 31 + 32, 2, {"episode_number": 3.0}),
        (1, 21 + 22 + 23 + 24, 4, {"episode_number": 2.0}),
    ]
    assert sampler.harvest().episodes == []


def test_a_reward_for_resetting_is_nobodys() -> None:
    class Generous(InlineVectorEnv):
        def step(self, actions: Any) -> Any:
            resets = self._done.copy()
            obs, reward, *rest = super().step(actions)
            return obs, reward + 1000 * resets, *rest

    rest = iter(scripted((2, 3)))
    sampler = sampler_of(Generous(lambda: next(rest)(), 1), 8)
    sample(sampler)
    assert [e.reward for e in sampler.harvest().episodes] == [23, 66]


def test_log_prob_is_of_the_action_that_was_taken() -> None:
    sampler = sampler_of(inline([Noise] * 4), 20)
    r = sample(sampler)
    inputs, _ = sampler.policy(sampler.policy.prepare({"value": r.obs["value"][:-1].flatten(0, 1)}))
    expected = torch.distributions.Categorical(logits=inputs).log_prob(r.action.flatten())
    torch.testing.assert_close(r.log_prob.flatten(), expected)
    assert len(r.action.unique()) == 3


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
def test_reset_steps_are_not_counted(trainer: Callable[..., Any], algorithm: str) -> None:
    # Of 15 rows, slot 0 resets in 2, 6, 9 and 13 (episodes of 2 and 3 steps), slot 1 in 4, 9 and 14
    # (of 4 steps).
    makers = iter(scripted((2, 3), (4,)))
    made = trainer(
        algorithm, lambda config: next(makers)(), num_envs=2, n_steps=15, timesteps_per_iteration=0
    )
    result = made.train()
    (sampler,) = made.samplers.members
    assert sampler.rollout.valid.sum(0).tolist() == [11, 12]
    assert result["timesteps_total"] == result["timesteps_this_iter"] == 23


# --- SAME_STEP ------------------------------------------------------------------------------------


def same_step(makers: list[Callable[[], gym.Env]]) -> SyncVectorEnv:
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


def test_golden_rollout_with_same_step_resets() -> None:
    sampler = sampler_of(same_step(scripted((2, 3))), 6)
    r = sample(sampler)
    assert rows(r) == [[1, 0], [1, 1], [2, 0], [2, 1], [2, 2], [3, 0], [3, 1]]
    assert ints(r.reward) == [11, 12, 21, 22, 23, 31]
    assert ints(r.terminated) == [0, 1, 0, 0, 0, 0]
    assert ints(r.truncated) == [0, 0, 0, 0, 1, 0]
    assert ints(r.valid) == [1] * 6
    assert ints(r.first) == [1, 0, 1, 0, 0, 1, 0]
    assert [(t, b, leaves["value"].tolist()) for t, b, leaves in r.final] == [
        (1, 0, [1, 2]),
        (4, 0, [2, 3]),
    ]
    found = [(e.reward, e.length, e.info) for e in sampler.harvest().episodes]
    assert found == [(23, 2, {"episode_number": 1.0}), (66, 3, {"episode_number": 2.0})]
    assert sample(sampler).final[0][:2] == (0, 0)  # the list is of this rollout alone


def test_advantages_are_equal_under_both_ways_of_resetting(trainer: Callable[..., Any]) -> None:
    algorithm = trainer("PPO", lambda config: Scripted(), num_envs=1).algorithm
    with torch.no_grad():  # a value function that tells all observations apart
        algorithm.flat.data.normal_(generator=torch.Generator().manual_seed(3))
    seed = np.random.SeedSequence(0)
    lengths = (2, 3, 1, 1, 4)
    ends = ("terminated", "truncated", "truncated")
    one = sample(Sampler(algorithm.policy, inline(scripted(lengths, ends=ends)), 23, seed))
    two = sample(Sampler(algorithm.policy, same_step(scripted(lengths, ends=ends)), 16, seed))
    kept = one.valid.bool()[:, 0]
    assert kept.sum() == 16
    assert torch.equal(one.obs["value"][:-1][kept], two.obs["value"][:-1])
    found, expected = (algorithm.batch(r) for r in (two, one))
    torch.testing.assert_close(found.advantage, expected.advantage[kept], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.target, expected.target[kept], rtol=1e-4, atol=1e-4)
    assert found.advantage.std() > 1


def test_environments_that_do_not_reset_are_refused() -> None:
    env = SyncVectorEnv(scripted((2,)), autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(EnvError, match="must reset themselves"):
        sampler_of(env, 3)


# --- gathering and storing ------------------------------------------------------------------------


def test_rows_that_are_lost_with_another_samplers_are_no_past(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One has its rollout when the other is interrupted in its last step: nobody gets either."""
    one, other = (sampler_of(inline(scripted((50,))), 4) for _ in range(2))
    sample(one, other)
    recv, calls = other._halves.recv, iter(range(4))

    def interrupted() -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return recv()

    monkeypatch.setattr(other._halves, "recv", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample(one, other)
    monkeypatch.setattr(other._halves, "recv", recv)
    again = sample(one, other)
    assert again.first[0].tolist() == [True, True]


def test_gather_puts_slots_side_by_side() -> None:
    first = sample(sampler_of(same_step(scripted((2, 3))), 4))
    second = sample(sampler_of(same_step(scripted((4,), (1,))), 4))
    second.version, first.version = 3, 5
    both = gather([first, second])
    assert (both.steps, both.slots, both.version) == (4, 3, 3)
    assert torch.equal(both.reward[:, 0], first.reward[:, 0])
    assert torch.equal(both.obs["value"][:, 1:], second.obs["value"])
    assert [(t, b) for t, b, _ in both.final] == [(1, 0), (0, 2), (1, 2), (2, 2), (3, 1), (3, 2)]
    assert gather([first]) is first


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("uint8", torch.uint8),
        ("bool", torch.int8),
        ("int8", torch.int8),
        ("int16", torch.int64),
        ("uint16", torch.int64),
        ("int64", torch.int64),
        ("float16", torch.float32),
        ("float32", torch.float32),
        ("float64", torch.float32),
    ],
)
def test_how_leaves_are_stored(dtype: str, stored: torch.dtype) -> None:
    assert stored_dtype(dtype) is stored


def test_leaves_of_a_rollout() -> None:
    nested = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
            "speed": spaces.Box(-1, 1, (), np.float64),
        }
    )
    r = Rollout.empty(5, 2, Layout(nested), (3,), torch.float32)
    assert {name: (tuple(leaf.shape), leaf.dtype) for name, leaf in r.obs.items()} == {
        "image": ((6, 2, 4, 4, 3), torch.uint8),
        "speed": ((6, 2), torch.float32),
    }
    assert (r.action.shape, r.first.shape, r.valid.shape) == ((5, 2, 3), (6, 2), (5, 2))


# --- the boundary check ---------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["observation", "reward"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nothing_is_learnt_from_numbers_that_are_not_finite(
    trainer: Callable[..., Any], what: str, value: float
) -> None:
    made = trainer("PPO", broken(what, slot=2, at=5, value=value), num_envs=4, n_steps=4)
    made.train()
    sentence = f"^Environment 2 of worker 0 gave an? {what}.* not finite.* at step 5 of its episode"
    with pytest.warns(RuntimeWarning, match=sentence):
        result = made.train()
    assert result["timesteps_this_iter"] == 15  # the step that failed did not happen
    assert (
        result["env_failures_total"],
        result["episodes_lost_total"],
        result["worker_restarts_total"],
    ) == (1, 1, 0)
    assert torch.isfinite(made.algorithm.flat.data).all()
    assert made.train()["timesteps_this_iter"] == 16  # a fresh instance is in its place


def test_a_bad_final_observation_is_found_too() -> None:
    class Falls(Scripted):
        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            obs, reward, terminated, truncated, info = super().step(action)
            return (
                np.float32([np.nan, 0]) if truncated else obs,
                reward,
                terminated,
                truncated,
                info,
            )

    sampler = sampler_of(
        same_step([lambda: Falls((2,), ("terminated",)), lambda: Falls((3,), ("truncated",))]), 8
    )
    with pytest.raises(
        EnvError, match=r"Environment 1 gave a.* observation.* step 3 of its episode"
    ):
        sample(sampler)


@pytest.mark.parametrize("obs", [np.zeros(3), np.zeros(1), 0.5, np.zeros((1, 2))], ids=str)
def test_observations_of_another_shape_are_an_error(obs: Any) -> None:
    class Misshapen(Scripted):
        def step(self, action: Any) -> Any:
            return (obs, *super().step(action)[1:])

    sampler = sampler_of(inline([Scripted, Misshapen]), 4)
    with pytest.raises(EnvError, match=r"[Ee]nvironment 1 .*shape"):
        sample(sampler)


@pytest.mark.filterwarnings("ignore:overflow")
def test_large_numbers_that_are_finite_pass() -> None:
    class Large(Scripted):
        def step(self, action: Any) -> Any:
            return (np.full(2, 3e38, np.float32), *super().step(action)[1:])

    r = sample(sampler_of(inline([Large] * 4), 1))
    assert r.obs["value"][1].unique().tolist() == [pytest.approx(3e38)]


def test_a_bad_observation_of_a_reset_is_of_step_0() -> None:
    class Waking(Scripted):
        def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
            obs, info = super().reset(**kwargs)
            return (np.float32([np.nan, 0]) if self.episode == self.bad else obs), info

    for bad in (1, 2):
        sampler = sampler_of(inline([Scripted, type("Bad", (Waking,), {"bad": bad})]), 8)
        with pytest.raises(
            EnvError, match=r"Environment 1 of worker 0 .* at step 0 of its episode"
        ):
            sample(sampler)


# --- seeds ----------------------------------------------------------------------------------------


def snapshot(r: Rollout) -> list[Tensor]:
    parts = (
        *r.obs.values(),
        r.action,
        r.log_prob,
        r.reward,
        r.terminated,
        r.truncated,
        r.valid,
        r.first,
    )
    return [part.clone() for part in parts]


@pytest.mark.parametrize(
    "env",
    [
        "CartPole-v1",
        lambda config: gym.make("CartPole-v1"),
        lambda config: Noise(action_space=spaces.Box(-1, 1, (2,))),
    ],
    ids=["native", "inline", "continuous"],
)
def test_one_seed_one_rollout(env: Any) -> None:
    def rollouts(seed: int) -> list[Tensor]:
        sampler = sampler_of(make_vector_env(env, 3), 40, seed, correlation=0.5)
        return [*snapshot(sample(sampler)), *snapshot(sample(sampler))]

    first, again, other = rollouts(1), rollouts(1), rollouts(2)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[1], other[1])


def test_slots_differ_from_each_other() -> None:
    r = sample(sampler_of(make_vector_env(lambda config: gym.make("CartPole-v1"), 3), 5))
    start = r.obs["value"][0]
    assert len({tuple(row) for row in start.tolist()}) == 3


def test_later_episodes_are_not_the_first_again() -> None:
    r = sample(sampler_of(make_vector_env(lambda config: Noise(), 1), 30))
    starts = r.obs["value"][r.first]
    assert len({tuple(row) for row in starts.tolist()}) == len(starts) >= 4


# --- exploration noise ----------------------------------------------------------------------------


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.95])
def test_autoregressive_noise_has_unit_variance_and_the_asked_correlation(
    correlation: float,
) -> None:
    slots, steps = 400, 20
    env = make_vector_env(
        lambda config: Noise(action_space=spaces.Box(-np.inf, np.inf, (2,))), slots
    )
    sampler = sampler_of(env, steps, correlation=correlation)
    with torch.no_grad():
        # All means are 0, all deviations 1: the action is the noise.
        sampler.policy.network.pi.weight.zero_()
    noise = torch.cat([sample(sampler).action.clone() for _ in range(2)]).flatten(1)  # [40, 800]
    variance = noise.pow(2).mean(1)
    error = (2 / noise.shape[1]) ** 0.5
    assert variance[0].item() == pytest.approx(1, abs=4 * error)
    assert (variance - 1).abs().max() < 5 * error
    following = (noise[1:] * noise[:-1]).mean(1)
    assert (following - correlation).abs().max() < 5 / noise.shape[1] ** 0.5
    apart = (noise[3:] * noise[:-3]).mean()
    assert apart.item() == pytest.approx(correlation**3, abs=0.1)


def test_discrete_actions_have_no_correlated_noise() -> None:
    env = [Noise] * 4
    plain, asked = (sample(sampler_of(inline(env), 30, correlation=c)).action for c in (0.0, 0.9))
    assert torch.equal(plain, asked)


# --- CartPole, native and not ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "env",
    ["CartPole-v1", lambda config: gym.make("CartPole-v1", **config)],
    ids=["native", "inline"],
)
def test_cartpole_keeps_the_contract(env: Any) -> None:
    limit = 25
    made = make_vector_env(env, 8, {"max_episode_steps": limit})
    assert isinstance(made, InlineVectorEnv) is not isinstance(env, str)
    sampler = sampler_of(made, 200)
    r = sample(sampler)
    done = r.terminated | r.truncated
    valid = r.valid.bool()
    assert valid[0].all()
    assert r.first[0].all()
    assert torch.equal(valid[1:], ~done[:-1])
    assert torch.equal(r.first[2:], done[:-1])
    assert not r.first[1].any()
    assert not done[~valid].any()
    assert torch.equal(r.reward, r.valid)  # 1 a step, 0 where it only reset
    assert r.terminated.any()
    assert r.truncated.any()
    obs = r.obs["value"]
    assert obs[r.first].abs().max() <= 0.05
    fallen = (obs[1:, :, 0].abs() > 2.4) | (obs[1:, :, 2].abs() > 12 * 2 * np.pi / 360)
    assert torch.equal(r.terminated, fallen & valid)
    # X' = x + 0.02 v: rows follow from rows.
    moved = obs[1:, :, 0] - obs[:-1, :, 0] - 0.02 * obs[:-1, :, 1]
    assert moved[valid].abs().max() < 1e-6
    episodes = sampler.harvest().episodes
    assert len(episodes) == done.sum()
    assert all(e.reward == e.length <= limit for e in episodes)
    ends = {b: done[:, b].nonzero().flatten().tolist() for b in range(8)}
    for b in range(8):
        lengths = [e.length for e in episodes if e.slot == b]
        assert lengths == [
            end - start
            for start, end in zip([-1, *(t + 1 for t in ends[b])], ends[b], strict=False)
        ]
        assert [n == limit for n in lengths] == [bool(r.truncated[t, b]) for t in ends[b]]


@pytest.mark.parametrize(
    "vectorise", [*NEXT_STEP.values(), same_step], ids=[*NEXT_STEP.keys(), "same step"]
)
@pytest.mark.timeout(20)
def test_evaluation_plays_a_fixed_share_in_every_slot(vectorise: Callable[..., Any]) -> None:
    env = vectorise(scripted((1,), (6,)))
    found = run_episodes(make_policy(env), env, 5, np.random.SeedSequence(0))
    assert sorted((e.slot, e.length, e.reward) for e in found) == [
        (0, 1, 11.0),
        (0, 1, 21.0),
        (1, 6, 81.0),
        (1, 6, 141.0),
        (1, 6, 201.0),
    ]


class Lives(Scripted):
    """Says with each step, as some type, that a life is lost."""

    def __init__(self, kind: Callable[[bool], Any]) -> None:
        super().__init__([4], ["truncated"])
        self.kind = kind

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        *found, _ = super().step(action)
        return *found, {"life_lost": self.kind(True)}  # type: ignore[return-value]


@pytest.mark.parametrize("kind", [bool, np.bool_, int, float])
def test_a_lost_life_may_be_told_as_any_number(kind: Callable[[bool], Any]) -> None:
    """Batches hand on what is in the info of an episode's last step."""
    rollout = sample(sampler_of(inline([lambda: Lives(kind)]), 4))
    assert rollout.terminated[:, 0].tolist() == [False, False, False, True]
