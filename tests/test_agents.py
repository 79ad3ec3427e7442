"""Several agents in one environment."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file
from tests.many_agents import Turns, poles, single_poles

import poise
from poise.algorithms.ppo import Batch
from poise.learning.losses import normalize


def parameters(trainer: Any, name: str = "default") -> torch.Tensor:
    policy = trainer.algorithm.policies[name]
    return torch.cat([value.flatten() for value in policy.state_dict().values()])


MEMORIES: list[dict[str, Any]] = [
    {},
    {"model.memory": "lstm", "model.lstm_cell_size": 8, "model.max_seq_len": 8},
    {"model.memory": "gru", "model.lstm_use_prev_action": True, "model.max_seq_len": 8},
]


@pytest.mark.parametrize("memory", MEMORIES, ids=["", "lstm", "gru"])
@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN"])
def test_agents_that_share_a_policy_equal_the_slots_of_one(algorithm: str, memory: Any) -> None:
    """n independent agents in an environment are n environments of one agent, bit for bit."""
    # What goes by environment steps is set: one agent has five times as many.
    how: dict[str, Any] = {"seed": 3, "rollout_fragment_length": 32, "timesteps_per_iteration": 0}
    how |= memory
    of_many = {"sgd_minibatch_size": 16} if algorithm == "PPO" else {}
    of_single = {"sgd_minibatch_size": 80} if algorithm == "PPO" else {}
    if algorithm == "DQN":
        how |= {"learning_starts": 1, "rollout_fragment_length": 4, "buffer_size": 1000}
        how |= {"gradient_steps": 3, "epsilon_timesteps": 10**9, "target_network_update_freq": 0}
        how |= {"tau": 0.1}
    make = partial(poise.make_trainer, algorithm, preset=None, **how)
    many = make(poles(5), num_envs_per_worker=1, **of_many)
    single = make(single_poles(), num_envs_per_worker=5, **of_single)
    untrained = parameters(many)
    assert torch.equal(parameters(many), parameters(single))
    for _ in range(30 if algorithm == "DQN" else 6):
        results = many.train(), single.train()
    assert not torch.equal(parameters(many), untrained)
    assert torch.equal(parameters(many), parameters(single))
    assert results[0]["agent_timesteps_total"] == results[1]["timesteps_total"]
    assert results[0]["timesteps_total"] < 32 * 6 + 1


def rollout_of(env: Any, steps: int, **how: Any) -> Any:
    """A trainer of PPO, and the joint rollout and its parts of the first iteration."""
    trainer = poise.PPO(
        env, num_envs_per_worker=1, rollout_fragment_length=steps, seed=1, preset=None, **how
    )
    joint = trainer.samplers.collect()
    return trainer, joint, trainer.algorithm.split(joint)


GAME = [
    ("a", {"a": 1.0, "b": 10.0}),
    ("b", {"a": 2.0}),
    ("c", {"b": 20.0}),
    ("a", {"a": 4.0, "c": 0.5}),
    ("b", {"b": 40.0}),
    ("a", {"a": 8.0, "b": 80.0, "c": 0.25}),
]
"""a acts at 0, 3 and 5, b at 1 and 4, c at 2; rewards of all add up as binary digits."""


def test_what_comes_between_the_turns_of_an_agent_belongs_to_its_last_action() -> None:
    trainer, joint, parts = rollout_of(lambda config: Turns(GAME), 8)
    part = parts["default"]
    a, b, c = 0, 1, 2  # slots
    # Row 6 only resets; row 7 is the first of the next episode.
    assert joint.valid[:, 0].tolist() == [1, 1, 1, 1, 1, 1, 0, 1]
    assert part.valid[:, a].tolist() == [0, 0, 1, 0, 1, 1, 0, 0]
    assert part.reward[:, a].tolist() == [0, 0, 3, 0, 4, 8, 0, 0]
    assert part.valid[:, b].tolist() == [0, 0, 0, 1, 0, 1, 0, 0]
    # What b got before it ever acted belongs to no action of its.
    assert part.reward[:, b].tolist() == [0, 0, 0, 20, 0, 120, 0, 0]
    assert part.reward[:, c].tolist() == [0, 0, 0, 0, 0, 0.75, 0, 0]
    assert part.terminated.any(0).tolist() == [True] * 3
    assert part.terminated[5].all()
    assert part.first[:, a].nonzero().flatten().tolist() == [0, 7]
    assert part.first[:, b].nonzero().flatten().tolist() == [1, 8]
    # The observation is that which the action was chosen on, the next row that of the next turn.
    assert part.obs["value"][:, a, 0].tolist() == [0, 0, 0, 3, 3, 5, 6, 0, 0]
    chosen = joint.action[:, 0]  # [T, agents]
    assert part.action[2, a] == chosen[0, a]
    assert part.action[3, b] == chosen[1, b]
    assert part.action[5, c] == chosen[2, c]
    assert part.log_prob[5, c] == joint.log_prob[2, 0, c]
    # The episode's return has it, too.
    assert trainer.samplers.harvest().episodes[0].reward == sum(
        sum(rewards.values()) for _, rewards in GAME
    )


def test_advantages_pass_through_the_rows_in_which_an_agent_waits() -> None:
    """They are those of the agent's own steps alone, one after the other."""
    trainer, _, parts = rollout_of(lambda config: Turns(GAME), 8)
    algorithm, part = trainer.algorithm.members["default"], parts["default"]
    gamma, lambda_ = algorithm.config.gamma, algorithm.config.gae_lambda
    x = {name: leaf.flatten(0, 1) for name, leaf in part.obs.items()}
    with torch.no_grad():
        value = algorithm.policy.critic(algorithm.policy.prepare(x)).view(9, 3)
        found = algorithm.advantages(part, value)
    a = value[[0, 3, 5], 0].tolist()
    last = 8 - a[2]
    middle = 4 + gamma * a[2] - a[1] + gamma * lambda_ * last
    first = 3 + gamma * a[1] - a[0] + gamma * lambda_ * middle
    assert found[[2, 4, 5], 0].tolist() == pytest.approx([first, middle, last], abs=1e-5)
    batch = algorithm.batch(part)
    assert batch.weight.tolist() == [1.0] * 6  # no row of the batch waits


def test_a_step_that_a_rollout_does_not_finish_is_one_of_the_next() -> None:
    """Whatever the rollouts' length, all actions are learnt from once, with all their rewards."""
    found = {}
    for steps in (3, 4, 7, 28):
        trainer, _, parts = rollout_of(lambda config: Turns(GAME), steps)
        rows: list[tuple[int, float, float, bool]] = []
        for n in range(28 * 3 // steps):
            part = parts["default"]
            for b in range(3):
                for t in part.valid[:, b].nonzero().flatten().tolist():
                    ends = bool(part.terminated[t, b])
                    rows.append(
                        (b, float(part.obs["value"][t, b, 0]), float(part.reward[t, b]), ends)
                    )
            if n < 28 * 3 // steps - 1:
                parts = trainer.algorithm.split(trainer.samplers.collect())
        found[steps] = sorted(rows)
    assert found[3] == found[4] == found[7] == found[28]
    assert len(found[3]) == 12 * 6


@pytest.mark.parametrize("memory", [None, "gru"])
def test_what_came_before_a_failure_learns_nothing_from_what_came_after(memory: Any) -> None:
    class Falls(Turns):
        failed = False

        def step(self, action: Any) -> None:
            if self.at == 4 and not Falls.failed:
                Falls.failed = True
                raise ValueError("the board fell down")
            super().step(action)

    with pytest.warns(poise.PoiseWarning, match="the board fell down"):
        trainer, _, parts = rollout_of(
            lambda config: Falls(GAME), 10, model={"memory": memory, "max_seq_len": 10}
        )
    algorithm, part = trainer.algorithm.members["default"], parts["default"]
    value = torch.zeros(11, 3)
    value[part.first.nonzero()[:, 0].max() :] = 100.0  # of the episode after
    row = 0 if memory else 2  # a's first step; its second has no outcome
    assert part.valid[row, 0]
    assert algorithm.advantages(part, value)[row, 0] == 3


def Script(config: Any) -> Turns:  # noqa: N802 - stands for a class
    return Turns(GAME)


MEMORY = {"memory": "gru", "lstm_cell_size": 8, "lstm_use_prev_action": True, "max_seq_len": 5}


@pytest.mark.parametrize("steps", [3, 4, 7, 28])
def test_learning_goes_through_a_memory_as_each_agent_did_at_its_turns(steps: int) -> None:
    """However many others act between the turns of an agent, and wherever rollouts are cut."""
    how: dict[str, Any] = {"num_envs_per_worker": 2, "rollout_fragment_length": steps, "seed": 1}
    model = {**MEMORY, "max_seq_len": min(steps, 5)}
    trainer = poise.PPO(Script, preset=None, model=model, **how)
    algorithm: Any = trainer.algorithm.members["default"]
    policy, count = algorithm.policy, 0  # steps learnt from, less those taken
    for _ in range(56 // steps):
        joint = trainer.samplers.collect()
        part = trainer.algorithm.split(joint)["default"]
        x = algorithm.prepared(part)
        inputs, value = policy(x, part.state, part.first)
        log_prob = policy.dist.log_prob(inputs[: part.valid.numel()], part.action.flatten())
        counts = part.valid.flatten() > 0
        assert torch.allclose(log_prob[counts], part.log_prob.flatten()[counts], atol=1e-6)
        count += int(counts.sum() - joint.valid.sum())
        value = value.detach().view(steps + 1, -1)
        found = algorithm.advantages(part, value)
        for b in range(part.slots):  # a slot's steps alone, and what comes after the last of them
            own = part.valid[:, b] > 0
            for t in reversed(own.nonzero().flatten().tolist()):
                over = part.terminated[t, b].item()
                later = found[t + 1, b] if t + 1 < steps and own[t + 1] else 0.0
                after = 0.0 if over else 0.99 * (value[t + 1, b] + 0.95 * later)
                assert found[t, b] == pytest.approx(
                    (part.reward[t, b] - value[t, b] + after).item(), abs=1e-4
                )
    assert -count == trainer.algorithm.split.open["default"]["pending"].sum()


class Recall(Turns):
    """a and b act in turn: each sees a sign first, and is asked for it at its second turn."""

    def __init__(self, config: Any = None) -> None:
        super().__init__([(agent, {}) for agent in "abab"])

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        rng = np.random.default_rng(seed)
        self.signs = {agent: int(rng.integers(2)) for agent in "ab"}
        super().reset()

    def observe(self, agent: str) -> Any:
        shown = 2.0 * self.signs[agent] - 1 if self.at < 2 else 0.0
        return np.array([shown, self.at >= 2], np.float32)

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(2)

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.at < 4 and not self.done[agent]:
            right = self.at >= 2 and action == self.signs[agent]
            self.script[self.at] = (agent, {agent: float(right)})
        super().step(action)


@pytest.mark.slow
@pytest.mark.parametrize("memory", [None, "gru"])
def test_what_an_agent_saw_at_its_last_turn_is_remembered(memory: Any) -> None:
    """Without a memory, half of the answers are right."""
    how: dict[str, Any] = {"lr": 0.005, "num_envs_per_worker": 16, "rollout_fragment_length": 35}
    model = {"memory": memory} | ({"lstm_cell_size": 16} if memory else {})
    trainer = poise.PPO(Recall, **how, gamma=0.9, seed=1, preset=None, model=model)
    trainer.learn(stop={"episode_reward_mean": 1.9, "timesteps_total": 40_000 if memory else 4_000})
    score = trainer.evaluate(100)["episode_reward_mean"]
    assert score > 1.9 if memory else 0.7 < score < 1.3


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "IMPALA", "APPO"])
def test_a_memory_of_several_agents_learns_resumes_and_predicts(
    algorithm: str, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"num_envs_per_worker": 2, "rollout_fragment_length": 9, "seed": 1}
    how |= {"timesteps_per_iteration": 0, "model": MEMORY, "preset": None}
    trainer = poise.make_trainer(algorithm, f"{__name__}:Script", **how)
    before = parameters(trainer).clone()
    trainer.train()
    assert not torch.equal(parameters(trainer), before)
    with poise.load(trainer.save(tmp_path / "saved")) as again:
        for made in (trainer, again):
            made.train()
        assert torch.equal(parameters(trainer), parameters(again))
    assert "episode_reward_mean" in trainer.evaluate(2)
    env = poise.make_env(Script)
    joint, _ = env.reset(seed=0)
    actions, state = trainer.predict(joint)
    assert set(actions) == {"a", "b", "c"}
    joint = env.step(actions)[0]
    _, later = trainer.predict(joint, state)
    moved = [bool((new != old).any()) for new, old in zip(later, state, strict=True)]
    assert any(moved)
    _, own = trainer.predict(np.zeros(2, np.float32), policy="default")
    assert len(own) == len(state) // 2


def test_an_agent_that_dies_early_leaves_no_row_that_counts() -> None:
    late = [*GAME[:2], *GAME[3:]]  # c has no turn
    _, _, parts = rollout_of(lambda config: Turns([*late, GAME[2]], stops={1: "c"}), 4)
    assert parts["default"].valid[:, 2].sum() == 0
    assert parts["default"].valid[:, 0].sum() == 2
    _, _, parts = rollout_of(lambda config: Turns(GAME, stops={3: "c"}), 8)
    part = parts["default"]
    assert part.valid[:, 2].nonzero().flatten().tolist() == [3]
    assert part.terminated[:, 2].nonzero().flatten().tolist() == [3]
    assert part.reward[3, 2] == 0.5


@pytest.mark.parametrize("own", [True, False])
def test_time_limits_bootstrap_the_last_observation_of_each_agent(own: bool) -> None:
    """Of an agent that waits, too: what it would see then."""
    config = {} if own else {"max_episode_steps": 5}
    _, joint, parts = rollout_of(
        lambda config: Turns(GAME[:5] if own else GAME, truncates=own), 6, env_config=config
    )
    part = parts["default"]
    assert joint.truncated[:, 0].tolist() == [False] * 4 + [True, False]
    assert part.truncated[4].all()
    assert not part.terminated.any()
    assert part.valid[4].all()
    assert part.reward[4].tolist() == [4, 40, 0.5]
    assert part.obs["value"][5, :, 0].tolist() == [5, 5, 5]


class Rooms:
    """By RLlib's dicts: two kinds of agents, of which one comes late and one leaves early."""

    def __init__(self, config: Any = None) -> None:
        self.possible_agents = [0, 1, "late"]
        small, large = spaces.Box(0, 9, (1,), np.float32), spaces.Box(0, 9, (3,), np.float32)
        self.observation_spaces = {0: small, 1: small, "late": large}
        self.action_spaces = {0: spaces.Discrete(2), 1: spaces.Discrete(2)}
        self.action_spaces["late"] = spaces.Box(-1, 1, (2,), np.float32)
        self.fails = (config or {}).get("fails")
        self.total = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.t = 0
        self.rng = np.random.default_rng(seed)
        return self._seen(0, 1), {}

    def _seen(self, *agents: Any) -> Any:
        noise = self.rng.random()
        return {a: np.full(3 if a == "late" else 1, noise, np.float32).clip(0, 9) for a in agents}

    def step(self, actions: dict[Any, Any]) -> Any:
        self.t, self.total = self.t + 1, self.total + 1
        if self.total == self.fails:
            raise ValueError("the roof came down")
        there = [a for a, at in ((0, self.t <= 4), (1, True), ("late", self.t >= 2)) if at]
        rewards = {a: float(np.sum(actions[a])) for a in actions}
        over = {"__all__": self.t == 6, 0: self.t == 4}
        return self._seen(*there), rewards, over, {"__all__": False}, {}

    def close(self) -> None:
        pass


TWO: dict[str, Any] = {
    "policies": {"small": {"lr": 1e-3}, "big": {"model": {"fcnet_hiddens": [8]}}},
    "policy_mapping_fn": lambda agent, *_: "big" if agent == "late" else "small",
    "num_envs_per_worker": 3,
    "rollout_fragment_length": 8,
    "preset": None,
    "seed": 1,
}


def test_policies_have_settings_results_and_parameters_of_their_own(tmp_path: Path) -> None:
    trainer = poise.PPO(Rooms, **TWO)
    for _ in range(3):
        result = trainer.train()
    policies = trainer.algorithm.policies
    assert {8} < {size for value in policies["big"].parameters() for size in value.shape}
    assert trainer.algorithm.members["small"].config.lr == 1e-3
    assert {"learner/small/policy_loss", "learner/big/policy_loss"} <= result.keys()
    small, big = (result[f"policy/{name}/episode_reward_mean"] for name in ("small", "big"))
    both = result["info/reward/0"] + result["info/reward/1"]
    assert small == pytest.approx(both / 2)
    assert result["episode_reward_mean"] == pytest.approx(both + big)
    assert trainer.config.policy_mapping_fn == {"0": "small", "1": "small", "late": "big"}
    assert trainer.compute_action(np.zeros(3, np.float32), policy="big").shape == (2,)
    with pytest.raises(poise.ConfigError, match="there are small, big"):
        trainer.compute_action(np.zeros(1, np.float32))
    path = trainer.save(tmp_path / "two")
    names = {key.split("/")[1] for key in load_file(path / "policy.safetensors")}
    assert names == {"small", "big"}
    again = poise.load(path, env=Rooms)
    assert "episode_reward_mean" in again.evaluate(2)
    expected, found = trainer.train(), again.train()
    same = [key for key in expected if not key.startswith(("time_", "perf/"))]
    assert {key: found[key] for key in same} == {key: expected[key] for key in same}
    for name, policy in again.algorithm.policies.items():
        for key, value in policy.state_dict().items():
            assert torch.equal(value, policies[name].state_dict()[key]), (name, key)


def test_agents_that_come_late_or_leave_early_have_rows_for_what_they_do() -> None:
    _, joint, parts = rollout_of(Rooms, 7, **{k: TWO[k] for k in list(TWO)[:2]})
    small, big = parts["small"], parts["big"]
    assert joint.valid[:, 0].tolist() == [1] * 6 + [0]
    assert small.valid[:, 0].tolist() == [1, 1, 1, 1, 0, 0, 0]  # agent 0
    assert small.valid[:, 1].tolist() == [1] * 6 + [0]
    assert big.valid[:, 0].tolist() == [0, 0, 1, 1, 1, 1, 0]
    assert big.first[:, 0].nonzero().flatten().tolist() == [2]
    assert small.terminated[3, 0]
    assert small.terminated[5, 1]
    assert big.terminated[5, 0]


def test_a_policy_that_is_not_trained_stays_as_it_is() -> None:
    trainer = poise.PPO(Rooms, **TWO, policies_to_train=["small"])
    before = {n: parameters(trainer, n).clone() for n in ("small", "big")}
    trainer.train()
    assert torch.equal(parameters(trainer, "big"), before["big"])
    assert not torch.equal(parameters(trainer, "small"), before["small"])


@pytest.mark.parametrize("algorithm", ["A2C", "IMPALA", "APPO", "DQN", "SAC"])
def test_other_algorithms_learn_with_several_agents(algorithm: str) -> None:
    how: dict[str, Any] = {"num_envs_per_worker": 2, "timesteps_per_iteration": 0, "seed": 1}
    if algorithm in ("DQN", "SAC"):
        how |= {"learning_starts": 8, "buffer_size": 200, "gradient_steps": 1}
    how["rollout_fragment_length"] = 8
    trainer = poise.make_trainer(algorithm, lambda config: Turns(GAME), preset=None, **how)
    before = parameters(trainer).clone()
    for _ in range(4):
        result = trainer.train()
    assert not torch.equal(parameters(trainer), before)
    assert result["agent_timesteps_total"] > 0
    assert result["timesteps_total"] == 4 * 16 - result["episodes_total"] + sum(
        trainer.samplers.members[0]._done
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_fails_is_replaced(workers: int) -> None:
    trainer = poise.PPO(
        f"{__name__}:Rooms", env_config={"fails": 10}, num_workers=workers,
        **{**TWO, "num_envs_per_worker": 2, "rollout_fragment_length": 16},
    )  # fmt: skip
    with pytest.warns(poise.PoiseWarning, match="the roof came down"):
        result = trainer.train()
    trainer.close()
    assert result["env_failures_total"] >= 1
    assert result["agent_timesteps_total"] > result["timesteps_total"]
    assert math.isfinite(result["learner/small/policy_loss"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"policy_mapping_fn": {"0": "a", "1": "a", "late": "b"}, "policies": ["a", "c"]},
         "'b' is in one of them only"),
        ({"policy_mapping_fn": lambda agent: "one"}, "have different spaces, and share the policy"),
        ({"policies": ["a"]}, "policies has a, and the agents are of 2 kinds: say"),
        ({"policies": {"a": {"lrr": 1}, "b": {}}}, "Unknown config key 'lrr'"),
        ({"policies": {"a": {"seed": 1}, "b": {}}}, "'seed' is the same for all policies"),
        ({"policies_to_train": ["smal"], "policies": ["small", "big"]}, "Did you mean 'small'"),
        ({"policy_mapping_fn": {"0": "a", "1": "a"}}, "KeyError: 'late', for the agent 'late'"),
        ({"policy_mapping_fn": lambda agent, episode: episode.id}, "policy_mapping_fn raised"),
    ],
)  # fmt: skip
def test_what_is_said_of_policies_is_checked(settings: Any, sentence: str) -> None:
    with pytest.raises(poise.ConfigError, match=sentence):
        poise.PPO(Rooms, preset=None, **settings)


def test_settings_of_policies_are_not_used_by_one_agent() -> None:
    with pytest.warns(poise.PoiseWarning, match="Not used: policies .the environment has one"):
        poise.PPO("CartPole-v1", policies=["a"])


@pytest.mark.parametrize(
    ("algorithm", "settings", "sentence"),
    [
        ("PPO", {"model": {"memory": "gru", "lstm_use_prev_reward": True}},
         "model.lstm_use_prev_reward is not allowed with several"),
        ("DQN", {"model": {"memory": "gru"}},
         "DQN with a memory .model.memory. is not allowed where agents wait"),
    ],
)  # fmt: skip
def test_what_several_agents_cannot_have_yet_is_said(
    algorithm: str, settings: Any, sentence: str
) -> None:
    with pytest.raises(poise.ConfigError, match=sentence):
        poise.make_trainer(algorithm, Script, preset=None, **settings).train()


def test_the_classic_config_of_rllib_trains_several_agents() -> None:
    from poise.compat.ray.rllib import MultiAgentEnv
    from poise.compat.ray.rllib.agents.ppo import PPOTrainer

    class Old(MultiAgentEnv, Rooms):
        """As before Gymnasium: observations alone, and one flag."""

        def reset(self) -> Any:  # type: ignore[override]
            return Rooms.reset(self)[0]

        def step(self, actions: Any) -> Any:
            obs, rewards, over, _, infos = Rooms.step(self, actions)
            return obs, rewards, over, infos

    small, large = spaces.Box(0, 9, (1,), np.float32), spaces.Box(0, 9, (3,), np.float32)
    policies = {
        "small": (None, small, spaces.Discrete(2), {"lr": 1e-3}),
        "big": (None, large, spaces.Box(-1, 1, (2,), np.float32), {}),
    }
    mapping = lambda agent_id, episode, worker, **_: "big" if agent_id == "late" else "small"  # noqa: E731
    config = {
        "multiagent": {
            "policies": policies,
            "policy_mapping_fn": mapping,
            "policies_to_train": ["small"],
            "count_steps_by": "env_steps",
        },
        "train_batch_size": 64,
        "sgd_minibatch_size": 16,
    }
    trainer = PPOTrainer(config=config, env=Old)
    result = trainer.train()
    assert {*result["policy_reward_mean"]} == {"small", "big"}
    assert "policy_loss" in result["info"]["learner"]["small"]
    assert trainer.trainer.algorithm.members["small"].config.lr == 1e-3
    assert trainer.compute_action(np.zeros(1, np.float32), policy_id="small") in (0, 1)


def test_games_are_played_without_what_only_watches_their_caller() -> None:
    """PettingZoo's checks of order and actions take a quarter of a step; nothing else changes."""
    spread = pytest.importorskip("mpe2.simple_spread_v3")
    for make in (spread.env, spread.parallel_env):
        ours: Any = poise.make_env(make).unwrapped
        played = getattr(ours.table.env, "aec_env", ours.table.env)
        assert played is played.unwrapped
        theirs = make()
        assert getattr(theirs, "aec_env", theirs) is not theirs.unwrapped
        theirs.reset(seed=3)
        seen, _ = ours.reset(seed=3)
        observed = theirs.observe if make is spread.env else theirs.aec_env.observe
        np.testing.assert_array_equal(seen["agents"]["agent_0"], observed("agent_0"))


GAMES = [
    *(f"mpe2.{name}" for name in (
        "simple_v3", "simple_adversary_v3", "simple_crypto_v3", "simple_push_v3",
        "simple_reference_v3", "simple_speaker_listener_v4", "simple_spread_v3", "simple_tag_v3",
        "simple_world_comm_v3",
    )),
    *(f"mpe2.{name}:env" for name in (
        "simple_adversary_v3", "simple_crypto_v3", "simple_reference_v3",
        "simple_speaker_listener_v4", "simple_spread_v3", "simple_tag_v3",
    )),
    "pettingzoo.classic.connect_four_v3", "pettingzoo.classic.tictactoe_v3",
    "pettingzoo.classic.rps_v2", "pettingzoo.classic.rps_v2:env",
    "pettingzoo.butterfly.cooperative_pong_v6", "lbforaging:Foraging-8x8-2p-2f-v3",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
def test_games_of_others_run_an_iteration(game: str) -> None:
    pytest.importorskip(game.partition(":")[0].partition(".")[0])
    small = {"fcnet_hiddens": [8], "conv_filters": [[4, 8, 8]] * 2}
    model = small if "pong" in game else {"fcnet_hiddens": [8]}
    steps = 8 if "pong" in game else 32
    how = {"num_envs_per_worker": 2, "rollout_fragment_length": steps, "num_sgd_iter": 1, "seed": 0}
    trainer = poise.PPO(game, model=model, preset=None, **how)
    result = trainer.train()
    assert result["env_failures_total"] == 0
    assert result["timesteps_total"] <= 2 * steps
    assert result["agent_timesteps_total"] > steps / 2
    losses = [value for key, value in result.items() if key.endswith("policy_loss")]
    assert len(losses) == len(trainer.algorithm.policies)
    assert all(map(math.isfinite, losses))


@pytest.mark.parametrize("memory", [False, True])
def test_a_single_step_of_a_minibatch_is_normalised_within_the_batch(memory: bool) -> None:
    """Where agents wait, a minibatch may hold one step that counts, which has no deviation."""
    weight = torch.tensor([[0, 0, 1, 0], [1, 1, 1, 1]]).T.flatten() if memory else torch.tensor(
        [0, 0, 1, 0, 1, 1, 1, 1]
    )  # fmt: skip
    advantage = torch.arange(8.0) * 100
    zeros = torch.zeros(8)
    batch = Batch(zeros, zeros, zeros, advantage, zeros, zeros, weight.float())
    if memory:  # two slots of four steps
        batch.first = torch.zeros(4, 2, dtype=torch.bool)
        batch.state = (torch.zeros(2, 1),)
        parts = list(batch.sequences(None, 4, normalize_advantages=True))
    else:
        parts = list(batch.minibatches(4, normalize_advantages=True))
    whole = normalize(advantage, weight.float())
    lone = parts[0]
    assert torch.dot(lone.weight, lone.advantage) == whole[4 if memory else 2]
    assert torch.dot(parts[1].weight, parts[1].advantage).abs() < 1e-6
