"""Guards the replay with a plain list of transitions.

What it draws is what happened, n steps on, stacks and all.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import poise
from environments import Scripted
from poise.config.memory import machine_memory, readable
from poise.config.model import ModelConfig
from poise.errors import ConfigError
from poise.models.policy import Policy
from poise.models.q_policy import QPolicy
from poise.sampling import segments
from poise.sampling.prioritized import PrioritizedReplay
from poise.sampling.replay import Replay
from poise.sampling.rollout import Rollout
from poise.sampling.sampler import Sampler
from poise.sampling.segments import segment_rows
from poise.sampling.sizes import replay_bytes
from poise.sampling.sum_tree import SumTree
from poise.spaces.layout import Layout
from poise.stepping.inline import InlineVectorEnv
from rollouts import sample

GAMMA = 0.5
Transition = tuple[tuple[float, ...], float, tuple[float, ...], float]
"""(observation, n-step reward, observation after, discount)."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Breaking(Scripted):
    """It raises at each 7th step of its life."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.steps = 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps % 7 == 0:
            raise ValueError("broken")
        return super().step(action)


def sampler_of(
    mode: str,
    lengths: Sequence[Sequence[int]],
    steps: int,
    ends: Sequence[str],
    make: type[Scripted] = Scripted,
) -> Sampler:
    makers = [lambda own=own: make(own, ends) for own in lengths]
    env: Any
    if mode == "inline":
        rest = iter(makers * 50)
        env = InlineVectorEnv(lambda: next(rest)(), len(makers))
    else:
        env = SyncVectorEnv(makers, autoreset_mode=AutoresetMode[mode])
    torch.manual_seed(0)
    policy = QPolicy(
        Layout(env.single_observation_space), Layout(env.single_action_space), ModelConfig()
    )
    return Sampler(policy, env, steps, np.random.SeedSequence(0))


class Whatever(gym.Env):
    """Takes and shows whatever its spaces hold; an episode has four steps."""

    def __init__(self, observed: spaces.Space, acted: spaces.Space) -> None:
        self.observation_space, self.action_space = observed, acted

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.now = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.now += 1
        return self.observation_space.sample(), 1.0, self.now == 4, False, {}


class Memory:
    """The same as a list of what happened in each slot, with nothing clever in it."""

    def __init__(self, slots: int) -> None:
        self.rows: list[list[dict[str, Any]]] = [[] for _ in range(slots)]

    def add(self, r: Rollout) -> None:
        finals = {(t, b): leaves["value"] for t, b, leaves in r.final}
        for b, rows in enumerate(self.rows):
            # It came back with another episode.
            if rows and r.first[0, b] and not rows[-1]["first_after"]:
                rows[-1]["truncated"] = True
            for t in range(r.steps):
                rows.append(
                    {
                        "obs": tuple(r.obs["value"][t, b].tolist()),
                        "after": tuple(finals.get((t, b), r.obs["value"][t + 1, b]).tolist()),
                        "reward": r.reward[t, b].item(),
                        "terminated": bool(r.terminated[t, b]),
                        "truncated": bool(r.truncated[t, b]),
                        "valid": bool(r.valid[t, b]),
                        "first_after": bool(r.first[t + 1, b]),
                    }
                )

    def transitions(self, live: int, n_step: int) -> Iterator[Transition]:
        """Of the latest `live` rows of each slot that count."""
        for rows in self.rows:
            for start in range(max(0, len(rows) - live), len(rows)):
                if not rows[start]["valid"]:
                    continue
                reward, discount = 0.0, 1.0
                for row in rows[start : start + n_step]:
                    if not row["valid"]:
                        break
                    reward, discount = reward + discount * row["reward"], discount * GAMMA
                    last = row
                    if row["terminated"] or row["truncated"]:
                        break
                yield (
                    rows[start]["obs"],
                    reward,
                    last["after"],
                    0.0 if last["terminated"] else discount,
                )


def everything(replay: Replay, n_step: int) -> Counter[Transition]:
    """All that the replay can draw, once each.

    What follows a true end counts for nothing, so it is left out.
    """
    live = replay.index(replay.tail, replay.head)
    batch = replay.batch(live[replay.valid[live]], n_step=n_step, gamma=GAMMA)
    columns = (batch.obs["value"], batch.reward, batch.next_obs["value"], batch.discount)
    rows = zip(*(c.tolist() for c in columns), strict=True)
    return Counter((tuple(o), r, tuple(after) if d else (), d) for o, r, after, d in rows)


def expected(memory: Memory, live: int, n_step: int) -> Counter[Transition]:
    found = memory.transitions(live, n_step)
    return Counter((o, r, after if d else (), d) for o, r, after, d in found)


LENGTHS = [(2, 3), (4,), (1, 5, 1), (9, 2)]


@pytest.mark.parametrize("n_step", [1, 2, 3, 7])
@pytest.mark.parametrize("mode", ["inline", "NEXT_STEP", "SAME_STEP"])
@pytest.mark.parametrize(
    "ends", [("terminated", "truncated"), ("truncated",), ("both", "truncated")], ids=str
)
def test_what_is_drawn_is_what_happened(mode: str, ends: Sequence[str], n_step: int) -> None:
    sampler, memory = sampler_of(mode, LENGTHS, 3, ends), Memory(4)
    replay = Replay(40, 4, sampler.policy.obs_layout)
    for _ in range(17):  # around the ring four times
        rollout = sample(sampler)
        memory.add(rollout)
        replay.add(rollout)
        assert everything(replay, n_step) == expected(memory, replay.live, n_step)
        assert replay.steps == sum(everything(replay, 1).values())
    assert replay.head > 4 * replay.live


@pytest.mark.parametrize("n_step", [1, 3])
def test_episodes_that_a_failure_cuts_are_bootstrapped(n_step: int) -> None:
    sampler, memory = sampler_of("inline", [(9,), (3, 4)], 4, ("terminated",), Breaking), Memory(2)
    replay = Replay(60, 2, sampler.policy.obs_layout)
    for _ in range(12):
        rollout = sample(sampler)
        memory.add(rollout)
        replay.add(rollout)
        assert everything(replay, n_step) == expected(memory, replay.live, n_step)
    assert sampler.failures.total > 3


@pytest.mark.parametrize("mode", ["inline", "NEXT_STEP", "SAME_STEP", "breaking"])
def test_sequences_are_what_the_rollouts_held(mode: str) -> None:
    make, steps = (Breaking if mode == "breaking" else Scripted), 6
    sampler = sampler_of(
        "inline" if make is Breaking else mode, LENGTHS, 3, ("terminated", "truncated"), make
    )
    replay, rollouts = Replay(40, 4, sampler.policy.obs_layout), []
    for _ in range(17):
        rollouts.append(copy.deepcopy(sample(sampler)))
        replay.add(rollouts[-1])
        if len(rollouts) > 1:  # a failure may cut the step before a rollout begins
            cut = replay.truncated[replay.index(replay.head - 4, replay.head - 3)]
            rollouts[-2].truncated[-1] = torch.from_numpy(cut)
    names = ("action", "reward", "terminated", "truncated", "valid")
    held = {name: torch.cat([getattr(r, name) for r in rollouts]) for name in names}
    obs = torch.cat([r.obs["value"][:-1] for r in rollouts] + [rollouts[-1].obs["value"][-1:]])
    first = torch.cat([r.first[:-1] for r in rollouts] + [rollouts[-1].first[-1:]])
    finals = {
        (3 * n + t, b): leaves["value"] for n, r in enumerate(rollouts) for t, b, leaves in r.final
    }
    for row in range(replay.tail, replay.head - steps + 1):
        found = replay.sequences(replay.index(row, row + 1), steps)
        for name in names:
            assert torch.equal(getattr(found, name), held[name][row : row + steps]), name
        assert torch.equal(found.obs["value"], obs[row : row + steps + 1])
        assert found.first[0].all()
        # Among rows that only reset, one more does no harm.
        begun = found.first[1:-1] & (found.valid[1:] > 0)
        assert torch.equal(begun, first[row + 1 : row + steps] & (found.valid[1:] > 0))
        wanted = {
            (t, b)
            for t in range(steps)
            for b in range(4)
            if (row + t, b) in finals and not found.terminated[t, b]
        }
        assert {(t, b) for t, b, _ in found.final} == wanted
        assert all(torch.equal(leaves["value"], finals[row + t, b]) for t, b, leaves in found.final)
    starts = replay.draw_starts(20_000, steps, generator())
    shares = np.bincount(starts, minlength=replay.size) / 20_000
    allowed = replay.index(replay.tail, replay.head - steps + 1)
    assert np.flatnonzero(shares).tolist() == sorted(allowed.tolist())
    np.testing.assert_allclose(shares[allowed], 1 / len(allowed), rtol=0.5)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (3,), np.float32),
        spaces.MultiDiscrete([2, 5]),
        spaces.Dict({"push": spaces.Box(-2, 2, (), np.float32), "press": spaces.MultiBinary(2)}),
    ],
    ids=lambda space: type(space).__name__,
)
def test_actions_of_every_kind_are_kept(space: spaces.Space) -> None:
    observed = spaces.Box(-1, 1, (2,), np.float32)
    policy = Policy(Layout(observed), Layout(space), ModelConfig())
    env = SyncVectorEnv(
        [lambda: Whatever(observed, space)] * 3, autoreset_mode=AutoresetMode.NEXT_STEP
    )
    sampler = Sampler(policy, env, 5, np.random.SeedSequence(0))
    action = policy.dist.action_shape, policy.dist.action_dtype
    replay, drawn = Replay(30, 3, policy.obs_layout, action=action), []
    for _ in range(5):  # around the ring
        drawn.append(sample(sampler).action.clone())
        replay.add(sampler.rollout)
    live = replay.index(replay.tail, replay.head)
    kept = torch.cat(drawn)[-replay.live :].flatten(0, 1)
    assert torch.equal(replay.batch(live).action, kept)
    assert kept.dtype == replay.batch(live).action.dtype
    assert torch.equal(replay.sequences(live[:3], 4).action.flatten(0, 1), kept[:12])
    again = Replay(30, 3, policy.obs_layout, action=action)
    again.load_state_dict(replay.state_dict())
    assert torch.equal(again.batch(live).action, kept)
    held = sum(ring.nbytes for ring in replay._rings().values())
    assert replay_bytes(30, 3, policy.obs_layout, action=action) == held


def test_a_slot_that_came_back_with_another_episode_is_cut_where_it_was() -> None:
    sampler = sampler_of("inline", [(50,), (50,)], 3, ("terminated",))
    replay = Replay(100, 2, sampler.policy.obs_layout)
    replay.add(sample(sampler))
    sampler._intact = False  # as after Ctrl-C
    replay.add(sample(sampler))
    found = everything(replay, 3)
    # The third step of the first episode leads to its own fourth observation, which was overwritten
    # by the new start.
    assert found[((1.0, 2.0), 13.0, (1.0, 3.0), GAMMA)] == 2
    assert found[((1.0, 1.0), 12 + 13 * GAMMA, (1.0, 3.0), GAMMA**2)] == 2


def test_golden_n_step() -> None:
    """Two episodes by hand.

    Two steps and a true end, then three and a time limit. γ is a half, the reward 10 x episode +
    step.
    """
    sampler = sampler_of("SAME_STEP", [(2, 3)], 5, ("terminated", "truncated"))
    replay = Replay(10, 1, sampler.policy.obs_layout)
    replay.add(sample(sampler))
    batch = replay.batch(np.arange(5), n_step=2, gamma=0.5)
    assert batch.reward.tolist() == [11 + 6, 12, 21 + 11, 22 + 11.5, 23]
    assert batch.discount.tolist() == [0, 0, 0.25, 0.25, 0.5]
    assert batch.next_obs["value"][2:].tolist() == [[2, 2], [2, 3], [2, 3]]
    doubled = replay.batch(np.arange(5), n_step=2, gamma=0.5, rescale=lambda reward: 2 * reward)
    assert doubled.reward.tolist() == (2 * batch.reward).tolist()


def test_every_step_is_drawn_alike_and_none_that_only_resets() -> None:
    sampler = sampler_of("inline", [(2, 3), (4,)], 10, ("terminated",))
    replay = Replay(20, 2, sampler.policy.obs_layout)
    for _ in range(3):
        replay.add(sample(sampler))
    index = replay.draw(40_000, generator())
    counts = np.bincount(index, minlength=replay.size)
    assert (counts > 0).tolist() == replay.valid.tolist()
    assert counts[replay.valid].std() / counts[replay.valid].mean() < 0.05


def test_the_replay_resumes_to_the_bit() -> None:
    first, second = (
        sampler_of("SAME_STEP", LENGTHS, 3, ("truncated", "terminated")) for _ in range(2)
    )
    layout = first.policy.obs_layout
    replay = PrioritizedReplay(40, 4, layout)
    for _ in range(9):
        replay.add(sample(first))
        sample(second)
        replay.update(replay.draw(8, generator()), np.arange(8.0))
    copy = PrioritizedReplay(40, 4, layout)
    copy.load_state_dict(replay.state_dict())
    for _ in range(9):
        assert np.array_equal(replay.draw(64, generator(1)), copy.draw(64, generator(1)))
        assert everything(replay, 3) == everything(copy, 3)
        assert (replay.steps, replay.largest) == (copy.steps, copy.largest)
        for one, sampler in ((replay, first), (copy, second)):
            one.add(sample(sampler))
            one.update(one.draw(8, generator(2)), np.arange(8.0))
    assert all(
        np.array_equal(a, b) for a, b in zip(replay.tree.levels, copy.tree.levels, strict=True)
    )


# --- stacks of pictures ---------------------------------------------------------------------------


class Film(gym.Env):
    """Stacks of `stack` random pictures of `planes` planes.

    Before an episode's first come black ones, or `idle` other
    pictures, as where an emulator idles before the agent acts."""

    action_space = spaces.Discrete(2)

    def __init__(
        self, stack: int, planes: int, lengths: Sequence[int], ends: str, idle: bool = False
    ) -> None:
        self.stack, self.planes, self.lengths, self.ends, self.idle = (
            stack,
            planes,
            lengths,
            ends,
            idle,
        )
        self.observation_space = spaces.Box(0, 255, (stack * planes, 5, 4), np.uint8)
        self.episode = 0

    def picture(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (self.planes, 5, 4)).astype(np.uint8)

    def observe(self) -> np.ndarray:
        self.pictures = [*self.pictures, self.picture()][-self.stack :]
        return np.concatenate(self.pictures)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.now = self.episode + 1, 0
        self.pictures = [self.picture() * self.idle for _ in range(self.stack)]
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.now += 1
        over = self.now == self.lengths[self.episode % len(self.lengths)]
        return (
            self.observe(),
            1.0,
            over and self.ends == "terminated",
            over and self.ends == "truncated",
            {},
        )


@pytest.mark.parametrize("idle", [False, True], ids=["black", "idle"])
@pytest.mark.parametrize(("stack", "planes"), [(4, 1), (2, 3)])
@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_stacks_are_to_the_bit_what_whole_observations_are(
    mode: str, stack: int, planes: int, idle: bool
) -> None:
    makers = [lambda n=n: Film(stack, planes, (n, 2 * n), "truncated", idle) for n in (1, 3, 8)]
    env = SyncVectorEnv(makers, autoreset_mode=AutoresetMode[mode])
    policy = QPolicy(
        Layout(env.single_observation_space), Layout(env.single_action_space), ModelConfig()
    )
    sampler = Sampler(policy, env, 5, np.random.SeedSequence(0))
    whole, single = (Replay(60, 3, policy.obs_layout, frame_stack=n) for n in (1, stack))
    assert single.frames["value"].latest.nbytes * stack < 1.5 * whole.obs["value"].nbytes
    for i in range(14):
        rollout = sample(sampler)
        rows = whole.index(whole.head, whole.head + 5) // 3, rollout
        whole.add(rows[1])
        single.add(rows[1])
        index = whole.draw(200, generator(i)) if whole.rows == single.rows else None
        offsets = generator(i)
        picked = torch.randint(whole.tail * 3, whole.head * 3, (200,), generator=offsets).numpy()
        a, b = (
            replay.batch(picked % replay.size, n_step=2, gamma=0.9) for replay in (whole, single)
        )
        assert index is None or len(index) == 200
        assert torch.equal(a.obs["value"], b.obs["value"])
        assert torch.equal(a.next_obs["value"], b.next_obs["value"])
        assert torch.equal(a.reward, b.reward)
        if i == 7:  # and after it was saved
            again = Replay(60, 3, policy.obs_layout, frame_stack=stack)
            again.load_state_dict(single.state_dict())
            single = again


def test_observations_that_are_no_stacks_are_refused() -> None:
    env = SyncVectorEnv(
        [lambda: Film(3, 1, (9,), "truncated")], autoreset_mode=AutoresetMode.NEXT_STEP
    )
    env.envs[0].unwrapped.stack = 3
    policy = QPolicy(
        Layout(env.single_observation_space), Layout(env.single_action_space), ModelConfig()
    )
    rollout = sample(Sampler(policy, env, 5, np.random.SeedSequence(0)))
    rollout.obs["value"][3] = 7
    with pytest.raises(ConfigError, match="frame_stack=3 is not what the observations are"):
        Replay(60, 1, policy.obs_layout, frame_stack=3).add(rollout)


# --- priorities -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 63, 64, 65, 5000])
def test_the_sum_tree_agrees_with_a_running_sum(size: int) -> None:
    rng = np.random.default_rng(size)
    tree, plain = SumTree(size), np.zeros(size)
    for _ in range(5):
        index = rng.integers(0, size, 50)
        priority = rng.random(50) * (rng.random(50) < 0.7)
        tree.update(index, priority)
        for i, p in zip(index, priority, strict=True):
            plain[i] = p
        assert np.array_equal(tree[np.arange(size)], plain)
        assert tree.total == pytest.approx(plain.sum())
        if not plain.any():
            continue
        mass = rng.random(2000) * plain.sum()
        sums = np.cumsum(plain)
        away = np.abs(sums[:, None] - mass).min(0) > 1e-9  # at a border, rounding decides
        assert np.array_equal(
            tree.find(mass)[away], np.searchsorted(sums, mass, side="right")[away]
        )
        assert (plain[tree.find(np.array([0.0, plain.sum(), plain.sum() * (1 + 1e-12)]))] > 0).all()


def test_the_sum_tree_does_not_drift_and_is_the_same_when_made_anew() -> None:
    rng, tree = np.random.default_rng(0), SumTree(300)
    for _ in range(500):
        tree.update(rng.integers(0, 300, 32), rng.random(32) * 10.0 ** rng.integers(-8, 8))
    fresh = SumTree(300)
    fresh.update(np.arange(300), tree[np.arange(300)])
    assert all(np.array_equal(a, b) for a, b in zip(tree.levels, fresh.levels, strict=True))


def test_steps_are_drawn_in_proportion_to_their_priorities() -> None:
    sampler = sampler_of("inline", [(2, 3), (4,)], 10, ("terminated",))
    replay = PrioritizedReplay(20, 2, sampler.policy.obs_layout, alpha=0.5, eps=0.25)
    replay.add(sample(sampler))
    assert replay.largest == 1
    real = np.flatnonzero(replay.valid)
    errors = np.arange(len(real), dtype=float)
    replay.update(real, errors)
    share = np.sqrt(errors + 0.25) / np.sqrt(errors + 0.25).sum()
    counts = np.bincount(replay.draw(100_000, generator()), minlength=replay.size)[real]
    assert counts / 100_000 == pytest.approx(share, abs=2e-4)
    weights = replay.weights(real, beta=0.4).numpy()
    plain = (len(real) * share) ** -0.4
    assert weights == pytest.approx(plain / plain.max(), rel=1e-6)
    assert replay.largest == pytest.approx(math.sqrt(errors[-1] + 0.25))
    replay.add(sample(sampler))  # the first rollout's rows make room
    live = replay.index(replay.tail, replay.head)
    assert replay.tree.total == pytest.approx(replay.largest * replay.valid[live].sum())
    assert np.array_equal(replay.tree[live] > 0, replay.valid[live])


# --- size -----------------------------------------------------------------------------------------


def test_the_size_is_known_beforehand() -> None:
    layout = Layout(
        spaces.Dict({"a": spaces.Box(0, 255, (4, 84, 84), np.uint8), "b": spaces.Discrete(3)})
    )
    for stack in (1, 4):
        made = Replay(5000, 8, layout, frame_stack=stack)
        said = replay_bytes(5000, 8, layout, frame_stack=stack)
        assert said == sum(ring.nbytes for ring in made._rings().values())
        assert said == pytest.approx(5000 * (84 * 84 * 4 / stack + 8 + 8 + 4 + 3), rel=0.02)


@pytest.mark.parametrize(
    ("rows", "size"), [(1, 10), (100, 1000), (1001, 2**30), (12_501, 2**25), (70, 2**40)]
)
def test_segments_are_few_and_not_small(rows: int, size: int) -> None:
    length = segment_rows(rows, size)
    count = -(-rows // length)
    assert 1 <= count <= 64
    assert count == 1 or size / count >= 4 * 2**20 * 0.99


def test_memory_is_said_in_words() -> None:
    assert [readable(n) for n in (12, 2048, 5.25 * 2**20, 3 * 2**30)] == [
        "12 bytes",
        "2 KiB",
        "5.25 MiB",
        "3.0 GiB",
    ]
    assert machine_memory() is None or machine_memory() > 2**28


Make = Callable[..., Any]


def test_a_replay_that_cannot_fit_is_refused_with_a_sentence(trainer: Make) -> None:
    space = spaces.Box(0, 255, (200, 200, 3), np.uint8)

    class Seen(Scripted):
        observation_space = space

    with pytest.raises(
        ConfigError,
        match=(
            r"buffer_size=1000000000 takes [\d,.]+ GiB, and this machine has .* would fill all"
            r" of it"
        ),
    ):
        trainer("DQN", lambda config: Seen(), buffer_size=1_000_000_000)


def test_the_size_is_told(trainer: Make) -> None:
    made = trainer("DQN", "CartPole-v1", preset=None, buffer_size=10_000)
    assert made.notes == ["The replay buffer takes 303 KiB once it holds 10,000 steps."]


def test_a_replay_is_read_with_the_segments_that_it_was_written_with(
    trainer: Make, tmp_path: Any
) -> None:
    """Another version, or machine, may cut a replay otherwise."""
    tiny = {
        "preset": None,
        "learning_starts": 50,
        "timesteps_per_iteration": 400,
        "buffer_size": 1000,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "_SMALLEST", 2**12)
        algo = trainer("DQN", "CartPole-v1", num_envs=2, **tiny)
        algo.train()
        saved = algo.save(tmp_path / "saved")
        written = algo.algorithm.replay
        assert len(written.segments) > 1
    with poise.load(saved, progress=False) as loaded:
        assert loaded.algorithm.replay.segment == written.segment
        for name, ring in loaded.algorithm.replay._rings().items():
            assert np.array_equal(ring, written._rings()[name])
        again, straight = loaded.train(), algo.train()
    assert again["learner/q"] == straight["learner/q"]


def test_segments_that_cannot_be_are_refused(trainer: Make) -> None:
    algo = trainer("DQN", "CartPole-v1", preset=None, buffer_size=1000)
    for length in (10**12, -1):
        with pytest.raises(ValueError, match=f"a segment of a replay has {length} of its"):
            algo.algorithm._make_replay(8, length)
