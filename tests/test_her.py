"""Guards hindsight experience replay: other goals, the rewards for them, and going on exactly.

What is drawn is compared with lists of episodes: each goal was achieved later in the same one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import poise
from environments import BitFlip, Point, Scripted
from poise.config.dqn import DQNConfig
from poise.config.model import ModelConfig
from poise.envs.goals import Goals
from poise.errors import ConfigError, EnvError, PoiseWarning
from poise.models.q_policy import QPolicy
from poise.sampling.hindsight import Hindsight, HindsightReplay
from poise.sampling.sampler import Sampler
from poise.spaces.layout import Layout
from poise.stepping.inline import InlineVectorEnv
from poise.training.trainer import Trainer
from rollouts import sample
from test_checkpoint import same

Make = Callable[..., Trainer]
GAMMA = 0.5
TINY: dict[str, Any] = {
    "preset": None,
    "seed": 3,
    "her": True,
    "num_envs_per_worker": 2,
    "train_batch_size": 16,
    "learning_starts": 60,
    "buffer_size": 200,
    "timesteps_per_iteration": 100,
    "model": {"fcnet_hiddens": [16]},
}


class Told(gym.Env):
    """A scripted one with goals: it achieves (slot, episode, step), which no other step does.

    Its reward is unlike that of any other pair of goals, and a goal in the same episode that was
    reached at an even step ends it.
    """

    action_space = spaces.Discrete(2)
    observation_space = spaces.Dict(
        achieved_goal=spaces.Box(-np.inf, np.inf, (3,), np.float64),
        desired_goal=spaces.Box(-np.inf, np.inf, (3,), np.float64),
        observation=spaces.Box(-np.inf, np.inf, (2,), np.float32),
    )
    made = 0

    def __init__(
        self, slot: int, lengths: Sequence[int], ends: Sequence[str], breaks: bool = False
    ) -> None:
        self.inner, self.slot, self.breaks = Scripted(lengths, ends), slot, breaks
        self.steps = 0

    def look(self, obs: np.ndarray) -> dict[str, np.ndarray]:
        achieved = np.array([self.slot, *obs])
        goal = np.array([self.slot, obs[0], 0.5])
        return {"observation": obs, "achieved_goal": achieved, "desired_goal": goal}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        obs, info = self.inner.reset(seed=seed)
        return self.look(obs), info

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.breaks and self.steps % 7 == 0:
            raise ValueError("broken")
        obs, _, terminated, truncated, info = self.inner.step(action)
        shown = self.look(obs)
        reward = self.compute_reward(shown["achieved_goal"], shown["desired_goal"], {})
        return shown, float(reward), terminated, truncated, info

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        assert len(achieved_goal)
        return achieved_goal @ [1.0, 0.5, 0.25] - desired_goal @ [0.125, 8.0, 64.0]

    def compute_terminated(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        return bool((achieved_goal == desired_goal).all() and achieved_goal[2] % 2 == 0)  # one pair


def sampler_of(mode: str, lengths: Sequence[Sequence[int]], ends: Sequence[str]) -> Sampler:
    breaks = mode == "breaking"
    makers = [lambda b=b, own=own: Told(b, own, ends, breaks) for b, own in enumerate(lengths)]
    env: Any
    if mode in ("inline", "breaking"):
        rest = iter(makers * 50)
        env = InlineVectorEnv(lambda: next(rest)(), len(makers))
    else:
        env = SyncVectorEnv(makers, autoreset_mode=AutoresetMode[mode])
    layouts = Layout(env.single_observation_space), Layout(env.single_action_space)
    policy = QPolicy(*layouts, ModelConfig())
    return Sampler(policy, env, 3, np.random.SeedSequence(0))


class Episodes:
    """What happened, as a list of steps for each episode of each slot."""

    def __init__(self, slots: int) -> None:
        self.slots: list[list[list[dict[str, Any]]]] = [[[]] for _ in range(slots)]
        self.rows = [0] * slots
        self.places: dict[tuple[int, int], tuple[list[dict[str, Any]], int]] = {}

    def add(self, rollout: Any) -> None:
        finals = {(t, b): leaves for t, b, leaves in rollout.final}
        for b, episodes in enumerate(self.slots):
            for t in range(rollout.steps):
                if rollout.first[t, b] or not rollout.valid[t, b]:
                    episodes.append([])
                if rollout.valid[t, b]:
                    after = finals.get((t, b), {n: v[t + 1, b] for n, v in rollout.obs.items()})
                    step = {
                        "obs": {n: v[t, b].numpy().copy() for n, v in rollout.obs.items()},
                        "after": {n: v.numpy().copy() for n, v in after.items()},
                        "terminated": bool(rollout.terminated[t, b]),
                    }
                    self.places[self.rows[b], b] = episodes[-1], len(episodes[-1])
                    episodes[-1].append(step)
                    if rollout.terminated[t, b] or rollout.truncated[t, b]:
                        episodes.append([])
                self.rows[b] += 1


LENGTHS = [(2, 3), (4,), (1, 5, 1), (9, 2), (60,)]


@pytest.mark.filterwarnings("error:.*says other rewards")
@pytest.mark.parametrize("last", [False, True], ids=["future", "final"])
@pytest.mark.parametrize("mode", ["inline", "NEXT_STEP", "SAME_STEP", "breaking"])
@pytest.mark.parametrize("ends", [("terminated", "truncated"), ("both",)], ids=str)
def test_goals_are_those_that_the_same_episode_achieved_later(
    mode: str, ends: Sequence[str], last: bool
) -> None:
    """All steps of a ring that was gone round several times, as after a load, too."""
    sampler = sampler_of(mode, LENGTHS, ends)
    layout, told = sampler.policy.obs_layout, Told(0, (2,), ends)
    strategy = "final" if last else "future"
    config = DQNConfig(env=lambda: Told(0, (2,), ends), goal_selection_strategy=strategy)  # type: ignore[arg-type]
    config.n_sampled_goal = 10**9  # every step
    hindsight, generator = Hindsight(config, layout), torch.Generator().manual_seed(0)
    replay, episodes, seen = HindsightReplay(75, 5, layout), Episodes(5), set[int]()
    for round_ in range(19):
        rollout = sample(sampler)
        episodes.add(rollout)
        replay.add(rollout)
        if round_ == 17:
            loaded = HindsightReplay(75, 5, layout, segment=replay.segment)
            loaded.load_state_dict(replay.state_dict())
            replay = loaded
        live = replay.index(replay.tail, replay.head)
        index = live[replay.valid[live]]
        rows = {int(i): row for row, i in enumerate(live)}
        batch, plain = (replay.batch(index, gamma=GAMMA) for _ in range(2))
        hindsight.relabel(replay, batch, generator)
        for n, i in enumerate(index.tolist()):
            row, b = replay.tail + rows[i] // 5, rows[i] % 5
            steps, at = episodes.places[row, b]
            assert replay.remaining(np.array([i]))[0] == len(steps) - at - 1
            goal = batch.obs["desired_goal"][n].numpy()
            achieved = [step["after"]["achieved_goal"] for step in steps]
            [which] = [k for k, each in enumerate(achieved) if (each == goal).all()]
            assert which == len(steps) - 1 if last else which >= at
            seen.add(which - at)
            assert batch.reward[n] == told.compute_reward(achieved[at], goal, {})
            over = steps[at]["terminated"] or told.compute_terminated(achieved[at], goal, {})
            assert batch.discount[n] == (0 if over else GAMMA)
            for name, leaf in batch.next_obs.items():
                wanted = goal if name == "desired_goal" else steps[at]["after"][name]
                assert np.array_equal(leaf[n], wanted), name
            for name in ("observation", "achieved_goal"):
                assert torch.equal(batch.obs[name][n], plain.obs[name][n])
    assert len(seen) > 4  # of the longer episodes
    assert replay.head > 3 * replay.live


def test_one_in_so_many_keeps_its_goal_and_all_later_ones_are_as_likely() -> None:
    sampler = sampler_of("NEXT_STEP", [(60,)], ("truncated",))
    config = DQNConfig(env=lambda: Told(0, (2,), ("truncated",)))  # type: ignore[arg-type]
    layout = sampler.policy.obs_layout
    hindsight, replay = Hindsight(config, layout), HindsightReplay(60, 1, layout)
    for _ in range(4):
        replay.add(sample(sampler))
    index = np.full(10_000, 2)
    batch = replay.batch(index, gamma=GAMMA, rescale=np.sign)
    hindsight.relabel(replay, batch, torch.Generator().manual_seed(0), np.sign)
    steps = batch.obs["desired_goal"][:, 2].numpy()
    assert 1_850 < (steps == 0.5).sum() < 2_150  # its own
    counts = np.bincount(steps[steps != 0.5].astype(int), minlength=13)
    assert counts[:3].sum() == 0
    assert counts[3:].min() > 700
    assert set(batch.reward.tolist()) == {-1.0}
    for seed in range(20):  # one of them keeps its goal, which is nothing to ask about
        single = replay.batch(index[:1], gamma=GAMMA)
        hindsight.relabel(replay, single, torch.Generator().manual_seed(seed))


# --- the environment's functions ------------------------------------------------------------------


class Odd(BitFlip):
    """Its functions are odd in one way."""

    def __init__(self, how: str = "") -> None:
        super().__init__(4)
        self.how = how

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        found = super().compute_reward(achieved_goal, desired_goal, info)
        if self.how == "info":
            return found - info[0]["cost"]
        return {"one": found.sum(), "nan": found * np.nan, "other": found * 2}.get(self.how, found)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            "info",
            r"compute_reward of .*Odd.* raised KeyError: 'cost': HER gives it 2 goals at once",
        ),
        ("one", r"must return 2 rewards for 2 goals, and returned float\d+ numbers, \[\]"),
        ("nan", r"must return 2 rewards for 2 goals, and returned float32 numbers, .* not all fin"),
    ],
)
def test_a_reward_function_that_cannot_be_asked_is_refused(
    trainer: Make, how: str, said: str
) -> None:
    class Oddly(Odd):
        def __init__(self) -> None:
            super().__init__(how)

    with pytest.raises(EnvError, match=said):
        trainer("DQN", Oddly, **TINY)


def test_no_goals_no_function_and_what_does_not_go_with_it_are_refused(trainer: Make) -> None:
    class Silent(BitFlip):
        compute_reward = None  # type: ignore[assignment]

        def __getattribute__(self, name: str) -> Any:
            if name == "compute_reward":
                raise AttributeError(name)
            return super().__getattribute__(name)

        def step(self, action: Any) -> Any:
            return self.observe(), 0.0, False, False, {}

    with pytest.raises(EnvError, match=r"her=True asks .*Silent.* has no compute_reward\(achieved"):
        trainer("DQN", Silent, **TINY)
    with pytest.raises(ConfigError, match=r"her=True needs .* 'desired_goal'.*, not Box\("):
        trainer("DQN", "CartPole-v1", **TINY)
    with pytest.raises(ConfigError, match="n_step=3 does not go with her=True: with another goal"):
        trainer("DQN", BitFlip, **TINY, n_step=3)
    with pytest.raises(ConfigError, match="prioritized_replay=True does not go with her=True"):
        trainer("SAC", BitFlip, **TINY, prioritized_replay=True)
    with pytest.raises(ConfigError, match=r"replay_buffer_class.*Give her"):
        trainer("SAC", BitFlip, replay_buffer_class="HerReplayBuffer")


@pytest.mark.parametrize(("how", "count"), [("", 0), ("other", 1)])
def test_rewards_that_the_function_does_not_say_are_told(
    trainer: Make, how: str, count: int
) -> None:
    class Oddly(Odd):
        def __init__(self) -> None:
            super().__init__(how)

    made = trainer("DQN", Oddly, **TINY)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            made.train()
    said = [str(w.message) for w in caught if issubclass(w.category, PoiseWarning)]
    assert len([text for text in said if "says other rewards than its steps gave" in text]) == count


def test_functions_of_one_pair_are_asked_one_by_one_and_those_of_goalenv_not_at_all() -> None:
    class Single(BitFlip):
        def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
            return np.zeros(achieved_goal.shape[:-1])

        def compute_terminated(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
            return bool((achieved_goal == desired_goal).all())

    class Abstract(Single):
        def compute_terminated(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
            raise NotImplementedError

    achieved = np.array([[0, 1], [1, 1], [0, 0]])
    desired = np.array([[0, 1], [0, 1], [0, 0]])
    for make, wanted in ((Single, [1, 0, 1]), (BitFlip, [1, 0, 1]), (Abstract, [0, 0, 0])):
        assert Goals(make, {}).terminated(achieved, desired).tolist() == wanted


def test_what_is_asked_of_the_environments_changes_other_rewards_too(trainer: Make) -> None:
    class Tolerant(BitFlip):
        worth = 1.0

        def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
            return self.worth * super().compute_reward(achieved_goal, desired_goal, info)

    made = trainer("DQN", Tolerant, **TINY)
    made.set_env_attr("worth", 7.0)
    goals = made.algorithm.hindsight.try_out()  # type: ignore[attr-defined]
    assert goals.reward(np.zeros((1, 3)), np.ones((1, 3))).tolist() == [-7.0]


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("DQN", {}),
        ("SAC", {"normalize_rewards": True, "goal_selection_strategy": "final"}),
    ],
)
def test_going_on_is_exact(
    trainer: Make, name: str, settings: dict[str, Any], tmp_path: Any
) -> None:
    whole, part = (trainer(name, BitFlip, **TINY, **settings) for _ in range(2))
    for _ in range(3):  # around the ring
        whole.train()
    for _ in range(2):
        part.train()
    part.save(tmp_path / "saved")
    again = poise.load(tmp_path / "saved", env=BitFlip)
    again.train()
    assert same(whole.algorithm.state_dict(), again.algorithm.state_dict())
    assert same(dict(whole.policy.state_dict()), dict(again.policy.state_dict()))
    again.close()


@pytest.mark.parametrize("name", ["SAC", "TQC", "CrossQ", "TD3", "DDPG"])
def test_numbers_are_learnt_from_with_goals_seen_alike(trainer: Make, name: str) -> None:
    made = trainer(name, Point, **TINY, normalize_observations=True, clip_rewards=True)
    for _ in range(2):
        result = made.train()
    assert result["learner/sgd_steps"] > 0
    moments = made.policy.normalizer
    assert moments is not None
    assert torch.allclose(moments.mean[0], moments.mean[1], atol=1e-12)
    assert torch.allclose(moments.var[0], moments.var[1], atol=1e-12)
    assert moments.mean[0] > 1.5  # of where points were, and of where they should be


@pytest.mark.filterwarnings("error:.*says other rewards")
@pytest.mark.parametrize("how", ["workers", "vector", "function"])
def test_environments_step_anywhere(trainer: Make, how: str) -> None:
    def vector(config: Any = None) -> Any:
        return SyncVectorEnv([BitFlip] * 2, autoreset_mode=AutoresetMode.SAME_STEP)

    env: Any = {"workers": BitFlip, "vector": vector() if how == "vector" else None}.get(
        how, vector
    )
    workers = {"num_workers": 2} if how == "workers" else {}
    made = trainer("DQN", env, **{**TINY, "num_envs_per_worker": 1 if workers else 2}, **workers)
    for _ in range(2):
        result = made.train()
    assert result["learner/sgd_steps"] > 20


class Inside(gym.Wrapper):
    """Its goals are a part of a part of an observation, and its actions are masked."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = spaces.Dict(seen=env.observation_space)

    def reset(self, **options: Any) -> Any:
        return {"seen": self.env.reset(**options)[0]}, self.info

    def step(self, action: Any) -> Any:
        obs, *outcome, _ = self.env.step(action)
        return ({"seen": obs}, *outcome, self.info)

    @property
    def info(self) -> dict[str, Any]:
        return {"action_mask": np.ones(10, np.int8)}


def test_goals_may_lie_deeper(trainer: Make) -> None:
    made = trainer("DQN", lambda config: Inside(BitFlip()), **TINY)
    made.train()
    names = made.algorithm.hindsight.names  # type: ignore[attr-defined]
    inside = "observation/seen"
    assert names == (f"{inside}/achieved_goal", f"{inside}/desired_goal")
    assert made.algorithm.updates > 0


def test_a_replay_begins_anew_where_it_is_switched_on(trainer: Make, tmp_path: Any) -> None:
    made = trainer("SAC", Point, **{**TINY, "her": False})
    made.train()
    made.save(tmp_path / "saved")
    again = poise.load(tmp_path / "saved", env=Point, her=True)
    assert "The replay begins anew; what was learnt and the counters go on." in again.notes
    assert again.train()["learner/sgd_steps"] == 100
    again.close()


FLIPS: dict[str, Any] = {
    "num_envs_per_worker": 8, "gradient_steps": 8, "train_batch_size": 128, "lr": 1e-3,
    "gamma": 0.98, "buffer_size": 50_000, "learning_starts": 500, "epsilon_timesteps": 5000,
    "tau": 0.05, "target_network_update_freq": 0, "model": {"fcnet_hiddens": [128]},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("her", "low", "high"), [(True, -5.0, -3.5), (False, -10.0, -9.0)])
def test_ten_bits_are_flipped_in_hindsight_alone(
    trainer: Make, her: bool, low: float, high: float
) -> None:
    """-4 is the best there is, on average; -10 is an episode that never reached its goal."""
    made = trainer("DQN", BitFlip, **FLIPS, her=her, preset=None, seed=0)
    made.learn(total_timesteps=12_000)
    assert low <= made.evaluate(episodes=100)["episode_reward_mean"] < high


@pytest.mark.slow
def test_fetch_reaches(trainer: Make) -> None:
    pytest.importorskip("gymnasium_robotics")
    made = trainer("SAC", "gymnasium_robotics:FetchReach-v4", seed=0)
    assert made.preset == "FetchReach-v4"
    result = made.train()
    assert result["learner/sgd_steps"] >= 0
