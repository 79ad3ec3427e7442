"""Guards recurrent cells against PyTorch's, and what policies with cells learn, do and keep."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

import poise
from environments import Noise, Scripted, Task
from poise.algorithms.r2d2 import n_step_returns, q_values
from poise.config.resolve import resolve
from poise.envs.make import make_env
from poise.errors import ConfigError, EnvError, ModelError, PoiseWarning, SpaceError
from poise.models.cells import Cells
from poise.models.policy import rows
from poise.sampling.rollout import Rollout
from poise.sampling.sequences import sequence_priorities
from poise.training.trainer import Trainer
from poise.training.unused import unused

pytestmark = pytest.mark.usefixtures("registries")

Make = Callable[..., Trainer]
KINDS: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU}
PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def by_pytorch(cells: Cells, g: int, x: Tensor, state: Any, first: Tensor) -> tuple[Any, Tensor]:
    """One of the cells as PyTorch's, and what it puts out, step by step."""
    judge = KINDS[cells.kind](x.shape[-1], cells.size).double()
    for name in PARAMETERS:
        getattr(judge, f"{name}_l0").data.copy_(getattr(cells, name)[g])
    memory, steps = [part[:, g].unsqueeze(0) for part in state], []
    for row, begins in zip(x.view(*first.shape, -1), first, strict=True):
        memory = [part.masked_fill(begins.view(1, -1, 1), 0.0) for part in memory]
        is_pair = len(memory) == 2
        y, after = judge(row.unsqueeze(0), tuple(memory) if is_pair else memory[0])
        memory = list(after) if is_pair else [after]
        steps.append(y)
    return judge, torch.cat(steps).flatten(0, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [True, False], ids=["one input", "an input each"])
@pytest.mark.parametrize("resets", [0.0, 0.3])
def test_cells_are_those_of_pytorch(kind: str, shared: bool, resets: float) -> None:
    torch.manual_seed(0)
    steps, slots, width, size = 7, 3, 5, 4
    cells = Cells(kind, width, size, 2).double()
    for parameter in cells.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(1 if shared else 2, steps * slots, width).double().requires_grad_()
    first = torch.rand(steps, slots) < resets
    state = tuple(torch.randn(slots, 2, size).double() for _ in cells.initial_state(1))
    y, after = cells(x, state, first)
    share = torch.randn_like(y)
    (y * share).sum().backward()  # type: ignore[no-untyped-call]
    to_x = torch.zeros_like(x)
    for g in range(2):
        own = x.detach()[0 if shared else g].requires_grad_()
        judge, expected = by_pytorch(cells, g, own, state, first)
        torch.testing.assert_close(y[g], expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(after[0][:, g], expected.view(steps, slots, -1)[-1])
        (expected * share[g]).sum().backward()
        for name in PARAMETERS:
            found, right = getattr(cells, name).grad[g], getattr(judge, f"{name}_l0").grad
            torch.testing.assert_close(found, right, atol=1e-12, rtol=0)
        to_x[0 if shared else g] += own.grad
    torch.testing.assert_close(x.grad, to_x, atol=1e-12, rtol=0)


# --- acting and learning --------------------------------------------------------------------------

NESTED = spaces.Dict(
    {
        "place": spaces.Box(-1, 1, (3,), np.float32),
        "kind": spaces.Discrete(4),
        "picture": spaces.Box(0, 255, (12, 12, 1), np.uint8),
    }
)
MASKED = spaces.Dict(
    {"value": spaces.Box(-1, 1, (2,), np.float32), "action_mask": spaces.MultiBinary(3)}
)
ACTIONS = spaces.Dict(
    {"go": spaces.Discrete(3, start=1), "by": spaces.Box(-1, 2, (2,), np.float32)}
)


class Allowed(Noise):
    """Noise whose mask allows something, always."""

    def _see(self, obs: Any) -> Any:
        obs["action_mask"][self.np_random.integers(3)] = 1
        return obs

    def reset(self, **kwargs: Any) -> Any:
        obs, info = super().reset(**kwargs)
        return self._see(obs), info

    def step(self, action: Any) -> Any:
        obs, *rest = super().step(action)
        return self._see(obs), *rest


WORLDS: dict[str, Callable[[dict[str, Any]], gym.Env]] = {
    "numbers": lambda config: Noise(spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(2)),
    "nested": lambda config: Noise(NESTED, ACTIONS),
    "masks": lambda config: Allowed(MASKED, spaces.Discrete(3)),
}
MODELS: list[dict[str, Any]] = [
    {"memory": "lstm"},
    {"memory": "gru", "vf_share_layers": True},
    {"memory": "gru", "lstm_use_prev_action": True, "lstm_use_prev_reward": True},
    {"memory": "lstm", "lstm_use_prev_reward": True, "vf_share_layers": True},
]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: " ".join(map(str, model.values())))
def test_learning_goes_through_what_acting_went_through(
    trainer: Make, world: str, model: dict[str, Any]
) -> None:
    made = trainer(
        "PPO",
        WORLDS[world],
        num_envs_per_worker=3,
        rollout_fragment_length=11,
        sgd_minibatch_size=16,
        normalize_observations=world == "numbers",
        seed=0,
        model={**model, "fcnet_hiddens": [8], "lstm_cell_size": 8, "max_seq_len": 4},
    )
    ppo: Any = made.algorithm
    ppo.warm_up(made.samplers)
    with torch.no_grad():
        for parameter in ppo.policy.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    for _ in range(3):
        rollout = made.samplers.collect()
        assert rollout.first[1:].any()
        inputs, _, _ = ppo.evaluate(rollout)
        log_prob = ppo.policy.dist.log_prob(inputs, rollout.action.flatten(0, 1))
        torch.testing.assert_close(log_prob, rollout.log_prob.flatten(), atol=1e-5, rtol=0)
        batch, seen = ppo.batch(rollout), 0.0
        for part in ppo.minibatches(batch, ppo.order(batch)):
            assert part.first.shape[0] == 4  # of 11 steps, 4, 4 and 3
            inputs, value = ppo.policy(part.x, part.state, part.first)
            counts = part.weight > 0
            log_prob = ppo.policy.dist.log_prob(inputs, part.action)
            torch.testing.assert_close(log_prob[counts], part.log_prob[counts], atol=1e-5, rtol=0)
            torch.testing.assert_close(value[counts], part.value[counts], atol=1e-5, rtol=0)
            seen += int(counts.sum())
        assert seen == rollout.valid.sum()
    assert all(part.abs().sum() > 0 for part in rollout.state)


def test_sequences_of_unequal_length_fill_a_minibatch_too(trainer: Make) -> None:
    """Of 10 steps, sequences of 4, 4 and 2: all of them are one minibatch, if that is asked for."""
    made = trainer(
        "PPO", WORLDS["numbers"], num_envs_per_worker=2, rollout_fragment_length=10,
        sgd_minibatch_size=20, model={"memory": "gru", "max_seq_len": 4},
    )  # fmt: skip
    ppo: Any = made.algorithm
    batch = ppo.batch(made.samplers.collect())
    (whole,) = ppo.minibatches(batch)
    assert whole.first.shape == (4, 6)
    assert int((whole.weight > 0).sum()) == int(batch.weight.sum())


def test_minibatches_and_sequences_fit_each_other() -> None:
    def lengths(**settings: Any) -> tuple[Any, int]:
        model = {"memory": "gru", **settings.pop("model", {})}
        config: Any = resolve("PPO", None, {**settings, "model": model})[0]
        return config.sgd_minibatch_size, config.model.max_seq_len

    assert lengths() == (256, 32)
    assert lengths(sgd_minibatch_size=20) == (20, 20)
    assert lengths(model={"max_seq_len": 100}, train_batch_size=512) == (64, 100)
    assert lengths(model={"max_seq_len": 100}, num_envs_per_worker=2) == (100, 100)
    with pytest.raises(ConfigError, match="sgd_minibatch_size=8 is smaller than"):
        lengths(sgd_minibatch_size=8, model={"max_seq_len": 9})


class Repeat(Task):
    """A sign is shown at each step, and asked for two steps later."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)
    length = 16

    def observe(self) -> Any:
        self.signs = [] if self.now == 0 else self.signs
        self.signs.append(int(self.np_random.integers(2)))
        return np.array([2.0 * self.signs[-1] - 1, self.now < 2], np.float32)

    def judge(self, action: Any) -> float:
        return float(len(self.signs) > 2 and action == self.signs[-3])


REPEAT: dict[str, Any] = {
    "lr": 0.005, "num_envs_per_worker": 16, "rollout_fragment_length": 32, "gamma": 0.5,
    "seed": 0,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_learns_what_takes_one(trainer: Make, kind: str) -> None:
    """14 of 16 answers can be right; without a memory, 7 are."""
    model = {"memory": kind, "lstm_cell_size": 32, "fcnet_hiddens": [32]}
    algo = trainer("PPO", Repeat, **REPEAT, model=model)
    algo.learn(stop={"episode_reward_mean": 13, "timesteps_total": 60_000})
    assert algo.evaluate(20)["episode_reward_mean"] > 13


def test_without_a_memory_it_is_not_learnt(trainer: Make) -> None:
    algo = trainer("PPO", Repeat, **REPEAT)
    algo.learn(total_timesteps=20_000)
    assert algo.evaluate(40)["episode_reward_mean"] < 9


# Of a replay that is overwritten already.
RESUMED_DQN: dict[str, Any] = {
    "buffer_size": 200,
    "learning_starts": 50,
    "prioritized_replay": True,
    "train_batch_size": 64,
    "gradient_steps": 4,
    "n_step": 2,
    "burn_in": 0,
}


@pytest.mark.parametrize("name", ["PPO", "A2C", "IMPALA", "APPO", "DQN"])
def test_cells_resume_to_the_bit(trainer: Make, name: str, tmp_path: Path) -> None:
    model = {"memory": "lstm", "lstm_use_prev_action": True, "lstm_use_prev_reward": True}
    algo = trainer(
        name, "CartPole-v1", num_envs_per_worker=4, rollout_fragment_length=16,
        timesteps_per_iteration=0, model=model, seed=0,
        **(RESUMED_DQN if name == "DQN" else {}),
    )  # fmt: skip
    for _ in range(4):
        algo.train()
    with poise.load(algo.save(tmp_path / "saved")) as loaded:
        if algo.algorithm.repeatable:
            for made in (algo, loaded):
                made.train()
        assert torch.equal(loaded.algorithm.flat.data, algo.algorithm.flat.data)
        own, given = (made.samplers.state_dict()[0]["memory"] for made in (algo, loaded))
        for part, restored in zip(own, given, strict=True):
            assert torch.equal(torch.as_tensor(part), torch.as_tensor(restored))


# --- R2D2 -----------------------------------------------------------------------------------------


def slow_returns(r: Rollout, t: int, b: int, n: int, gamma: float) -> tuple[float, float, int]:
    """An n-step return, step by step."""
    total, discount = 0.0, 1.0
    for k in range(n):
        if k and not r.valid[t + k, b]:
            return total, discount, t + k
        total += discount * float(r.reward[t + k, b])
        discount *= gamma
        if r.terminated[t + k, b]:
            return total, 0.0, t + k + 1
        if r.truncated[t + k, b]:
            return total, discount, t + k + 1
    return total, discount, t + n


@pytest.mark.parametrize("n", [1, 3])
def test_n_step_returns_end_where_episodes_do(trainer: Make, n: int) -> None:
    settings = {"num_envs_per_worker": 3, "rollout_fragment_length": 20}
    r = trainer("PPO", lambda config: Scripted((2, 3, 7)), **settings).samplers.collect()
    outcome = (r.reward, r.terminated, r.truncated, r.valid)
    found = n_step_returns(*outcome, n, 0.9)
    steps = len(found[0])
    assert steps == 20 - n + 1
    for t, b in product(range(steps), range(3)):
        if r.valid[t, b]:
            expected = slow_returns(r, t, b, n, 0.9)
            assert [float(each[t, b]) for each in found] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("world", WORLDS)
def test_sequences_go_on_from_the_memory_that_acting_had(trainer: Make, world: str) -> None:
    """The greedy actions of a policy that has not changed are greedy in what is drawn, too."""
    if world == "nested":
        make = lambda config: Noise(NESTED, spaces.Discrete(3))  # noqa: E731
    algo = trainer(
        "DQN",
        make if world == "nested" else WORLDS[world],
        num_envs_per_worker=3,
        rollout_fragment_length=4,
        learning_starts=10_000,
        buffer_size=150,
        dueling=True,
        initial_epsilon=0.0,
        final_epsilon=0.0,
        timesteps_per_iteration=300,
        seed=0,
        burn_in=3,
        model={
            "memory": "lstm", "lstm_use_prev_action": True, "lstm_use_prev_reward": True,
            "max_seq_len": 6, "lstm_cell_size": 8,
        },
    )  # fmt: skip
    dqn: Any = algo.algorithm
    with torch.no_grad():
        for parameter in dqn.policy.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    algo.train()
    replay = dqn.replay
    drawn = replay.draw(200, torch.Generator().manual_seed(0))
    length = algo.config.sequence_length
    assert set((replay._starts[drawn] % 4).tolist()) == {0}
    assert replay._starts[drawn].min() >= replay.tail
    assert replay._starts[drawn].max() + length <= replay.head
    r = replay.sequences(drawn, length)
    assert r.state[0].abs().sum() > 0
    assert r.first[1:].any()
    x = dqn.policy.prepare_steps(r.obs, r.action, r.reward, r.state, r.first)
    # A rollout of 4 steps leads from its memory to that of the next.
    early = replay._starts[drawn] + 4 + length <= replay.head
    assert early.sum() > 50
    after = dqn.policy.run(rows(x, slice(0, 4 * len(drawn))), r.state, r.first[:4])[2]
    later = replay.sequences((drawn[early] + 4 * replay.slots) % replay.size, length)
    for part, known in zip(after, later.state, strict=False):
        torch.testing.assert_close(part[early], known, atol=1e-4, rtol=0)
    for burn_in in (0, 3):
        q = q_values(dqn.policy, x, r, burn_in)[:-1]
        chosen = q.gather(-1, r.action[burn_in:].unsqueeze(-1)).squeeze(-1)
        # Rounding may have made of two values that are nearly equal the other one the best.
        assert (chosen - q.amax(-1))[r.valid[burn_in:] > 0].abs().max() < 1e-5


def test_priorities_are_between_the_largest_and_the_mean_error() -> None:
    error = np.array([[1.0, -2.0], [3.0, 7.0]])
    valid = np.array([[1.0, 1.0], [1.0, 0.0]])
    assert sequence_priorities(error, valid).tolist() == [0.9 * 3 + 0.1 * 2, 2]


@pytest.mark.parametrize("prioritized", [False, True])
def test_dqn_learns_what_takes_a_memory(trainer: Make, prioritized: bool) -> None:
    algo = trainer(
        "DQN",
        Repeat,
        seed=0,
        gamma=0.5,
        lr=0.003,
        num_envs_per_worker=16,
        prioritized_replay=prioritized,
        epsilon_timesteps=2000,
        model={"memory": "gru", "lstm_cell_size": 32, "fcnet_hiddens": [32], "max_seq_len": 8},
    )
    algo.learn(total_timesteps=4000)
    assert algo.evaluate(20)["episode_reward_mean"] > 13


def test_a_replay_says_what_its_memories_take(trainer: Make) -> None:
    """Two parts of 64 numbers for every fourth step."""
    made: list[Any] = [
        trainer("DQN", "CartPole-v1", preset=None, model={"memory": kind}).algorithm
        for kind in (None, "lstm")
    ]
    without, with_memories = (each._replay_bytes(8) for each in made)
    assert with_memories - without == 100_000 // 4 * 2 * 64 * 4


def test_what_sequences_need_is_said() -> None:
    model = {"memory": "gru", "max_seq_len": 10}
    config: Any = resolve("DQN", None, {"model": model})[0]
    assert (config.train_batch_size, config.training_intensity) == (160, 16)
    assert config.sequence_length == 18
    with pytest.raises(ConfigError, match="buffer_size=100 is smaller than the 160 steps"):
        resolve("DQN", None, {"model": model, "buffer_size": 100})
    with pytest.raises(ConfigError, match=r"her=True does not go with a memory"):
        resolve("DQN", None, {"model": model, "her": True})
    # Sequences of 42 steps that begin at every fourth one.
    tight: dict[str, Any] = {"model": {"memory": "gru"}, "n_step": 3, "num_envs_per_worker": 1}
    assert resolve("DQN", None, {**tight, "buffer_size": 44})[0]
    with pytest.raises(ConfigError, match="buffer_size=43 is smaller than the 44 steps"):
        resolve("DQN", None, {**tight, "buffer_size": 43})
    config = resolve("DQN", None, {"model": {"memory": "gru"}, "train_batch_size": 8})[0]
    assert config.model.max_seq_len == 8
    with pytest.raises(ConfigError, match=r"train_batch_size=8 is smaller than model\.max_"):
        resolve("DQN", None, {"model": model, "train_batch_size": 8})


def test_a_life_that_is_lost_is_remembered(trainer: Make) -> None:
    """It ends what rewards add up to, but no episode: acting did not forget either."""
    dqn: Any = trainer(
        "DQN", lambda config: Scripted((40,)), num_envs_per_worker=2, rollout_fragment_length=4,
        burn_in=0, model={"memory": "gru", "max_seq_len": 8},
    )  # fmt: skip
    replay = dqn.algorithm._make_replay(2)
    for _ in range(3):
        rollout = dqn.samplers.collect()
        rollout.terminated[1] = True
        replay.add(rollout)
    r = replay.sequences(np.array([0, 1]), 8)
    assert r.terminated.any()
    assert r.first.nonzero()[:, 0].tolist() == [0, 0]


def test_other_settings_on_resuming_leave_the_minibatch_as_it_is(
    trainer: Make, tmp_path: Path
) -> None:
    algo: Any = trainer(
        "DQN", "CartPole-v1", preset=None, num_envs_per_worker=2, train_batch_size=16,
        training_intensity=1, learning_starts=20, buffer_size=1000, timesteps_per_iteration=100,
        seed=0, model={"memory": "gru", "max_seq_len": 8, "lstm_cell_size": 8},
    )  # fmt: skip
    algo.train()
    path = algo.save(tmp_path / "saved")
    with poise.load(path, lr=1e-4) as other:
        assert other.config.train_batch_size == 16
        assert other.config.training_intensity == 1
        assert other.algorithm.replay is not None
    for settings in ({"burn_in": 20}, {"n_step": 9}, {"rollout_fragment_length": 8}):
        # Sequences of the replay that there was would reach beyond its end.
        with poise.load(path, **settings) as other:
            assert other.algorithm.replay is None
            assert any("replay begin" in note for note in other.notes)


# --- acting ---------------------------------------------------------------------------------------


def test_a_prediction_goes_on_from_its_state(trainer: Make) -> None:
    model = {"memory": "gru", "lstm_use_prev_reward": True, "lstm_use_prev_action": True}
    algo = trainer("PPO", "CartPole-v1", num_envs_per_worker=2, model=model)
    obs = np.ones(4, np.float32)
    _, state = algo.predict(obs)
    assert [tuple(part.shape) for part in state] == [(1, 2, 64), (1, 3)]
    _, rich = algo.predict(obs, state, reward=5.0)
    _, poor = algo.predict(obs, state, reward=0.0)
    assert not torch.equal(rich[0], poor[0])
    _, anew = algo.predict(obs, rich, episode_start=True, reward=5.0)
    assert torch.equal(anew[0], state[0])
    _, from_numpy = algo.predict(obs, [part.numpy() for part in state], reward=5.0)
    assert torch.equal(from_numpy[0], rich[0])
    with pytest.raises(ModelError, match="give predict the reward of its last action"):
        algo.predict(obs, state)
    with pytest.raises(SpaceError, match=r"shapes \[\(1, 2, 64\), \(1, 3\)\] does not fit: here"):
        algo.predict(np.ones((2, 4), np.float32), state, reward=[0, 0])
    _, wide = algo.predict(obs, [part.double().tolist() for part in state], reward=5.0)
    assert torch.equal(wide[0], rich[0])
    _, wide = algo.predict(obs, [part.double() for part in state], reward=5.0)
    assert torch.equal(wide[0], rich[0])
    for given, sentence in {
        "reward=[1, 2] is not allowed: give one finite number, or 1": {"reward": [1, 2]},
        "reward='much' is not allowed": {"reward": "much"},
        "reward=nan is not allowed": {"reward": np.nan},
        "episode_start=[True, False] is not": {"reward": 1, "episode_start": [True, False]},
        "state='that' is no memory": {"reward": 1, "state": "that"},
        "The state holds numbers that are not finite": {
            "reward": 1, "state": [part * np.nan for part in state],
        },
    }.items():  # fmt: skip
        with pytest.raises(SpaceError, match=re.escape(given)):
            algo.predict(obs, **{"state": state, **sentence})


class Filmed(Task):
    """The first observation tells the sign, all others nothing; it renders."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"
    length = 4

    def observe(self) -> Any:
        if self.now == 0:
            self.sign = int(self.np_random.integers(2))
        return np.array([2.0 * self.sign - 1 if self.now == 0 else 0.0], np.float32)

    def judge(self, action: Any) -> float:
        return float(action == self.sign)

    def render(self) -> Any:
        return np.zeros((16, 16, 3), np.uint8)


def test_films_and_evaluations_remember(trainer: Make, tmp_path: Path) -> None:
    algo = trainer("PPO", Filmed, **REPEAT, model={"memory": "gru", "lstm_use_prev_reward": True})
    algo.learn(stop={"episode_reward_mean": 3.9, "timesteps_total": 30_000})
    assert algo.evaluate(20)["episode_reward_mean"] == 4
    filmed = poise.record(algo, tmp_path / "film.mp4", episodes=6)
    assert filmed["episode_reward"] == [4] * 6


# --- models of one's own --------------------------------------------------------------------------


class Own(nn.Module):
    """A GRU, as `poise.register_model` describes a model with a memory."""

    def __init__(self, space: Any, num_outputs: int, parts: int = 1) -> None:
        super().__init__()
        self.parts = parts
        self.cell = nn.GRUCell(space.shape[0], 8)
        self.pi, self.vf = nn.Linear(8, num_outputs), nn.Linear(8, 1)

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        return (torch.zeros(batch, 8),) * self.parts

    def forward(self, x: Tensor, state: Any, first: Tensor) -> Any:
        memory, steps = (*state, torch.zeros(first.shape[1], 8))[0], []
        for row, begins in zip(x.view(*first.shape, -1), first, strict=True):
            memory = self.cell(row, memory.masked_fill(begins.unsqueeze(1), 0.0))
            steps.append(memory)
        h = torch.cat(steps)
        return self.pi(h), self.vf(h).squeeze(-1), (memory,)


def test_a_model_of_ones_own_has_a_memory(trainer: Make, tmp_path: Path) -> None:
    poise.register_model("own", Own)
    algo = trainer(
        "PPO", Filmed, **{**REPEAT, "rollout_fragment_length": 50}, model={"custom_model": "own"}
    )
    algo.learn(stop={"episode_reward_mean": 3.8, "timesteps_total": 40_000})
    assert algo.evaluate(20)["episode_reward_mean"] > 3.5


def test_what_a_memory_of_ones_own_reads_is_not_called_unused(trainer: Make) -> None:
    poise.register_model("own", Own)
    model = {"custom_model": "own", "max_seq_len": 8, "lstm_cell_size": 5}
    assert unused(trainer("PPO", "CartPole-v1", preset=None, model=model)) == [
        "Not used: model.lstm_cell_size (a custom model has cells of its own)."
    ]


def test_a_model_of_ones_own_that_does_not_fit_is_said(trainer: Make) -> None:
    poise.register_model("own", Own)
    poise.register_model("hidden", lambda space, outputs: Own(space, outputs))
    for parts in (0, 2):
        model: dict[str, Any] = {"custom_model": "own", "custom_model_config": {"parts": parts}}
        with pytest.raises(
            ModelError, match=r"must have the shapes \[B, ...\] of its initial_state"
        ):
            trainer("PPO", "CartPole-v1", model=model)
    with pytest.raises(ModelError, match="if the class itself is registered"):
        trainer("PPO", "CartPole-v1", model={"custom_model": "hidden"})
    with pytest.raises(ModelError, match="only PPO, A2C, IMPALA, APPO and DQN take one"):
        trainer("SAC", "CartPole-v1", model={"custom_model": "own"})
    with pytest.raises(ModelError, match="does not go with model"):
        trainer("PPO", "CartPole-v1", model={"custom_model": "own", "memory": "gru"})
    with pytest.raises(ConfigError, match="her=True does not go with a memory"):
        trainer("DQN", "CartPole-v1", model={"custom_model": "own"}, her=True)
    model = {"custom_model": "own", "lstm_use_prev_action": True}
    with pytest.raises(ModelError, match="not shown previous actions"):
        trainer("PPO", "CartPole-v1", model=model)


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SAC", "TQC", "CrossQ", "TD3", "DDPG"])
def test_a_replay_of_single_steps_takes_no_cells(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^model.memory='lstm' does not go with a replay"):
        resolve(name, None, {"model": {"use_lstm": True}})
    with pytest.raises(
        ConfigError, match=r"use_lstm='on' is not allowed: it must be true or false"
    ):
        resolve(name, None, {"model": {"use_lstm": "on"}})


def test_settings_of_cells_that_do_nothing_are_said(trainer: Make) -> None:
    with pytest.warns(PoiseWarning, match="Not used"):
        algo = trainer("PPO", "CartPole-v1", model={"lstm_cell_size": 32, "max_seq_len": 8})
    assert unused(algo) == [
        "Not used: model.lstm_cell_size, model.max_seq_len (there is no model.memory)."
    ]
    with pytest.warns(PoiseWarning, match="Not used"):
        algo = trainer("A2C", "CartPole-v1", model={"memory": "gru", "max_seq_len": 8})
    assert unused(algo) == ["Not used: model.max_seq_len (A2C learns from whole rollouts)."]
    model = {"memory": "gru", "max_seq_len": 100}
    with pytest.warns(PoiseWarning, match="Not used"):
        algo = trainer("PPO", "CartPole-v1", rollout_fragment_length=32, model=model)
    assert unused(algo) == [
        "Not used: model.max_seq_len (no sequence is longer than rollout_fragment_length=32)."
    ]
    poise.register_model("own", Own)
    model = {"custom_model": "own", "max_seq_len": 16, "lstm_cell_size": 8}
    with pytest.warns(PoiseWarning, match="Not used"):
        algo = trainer("PPO", "CartPole-v1", rollout_fragment_length=32, model=model)
    assert unused(algo) == ["Not used: model.lstm_cell_size (a custom model has cells of its own)."]


def test_the_zoos_recurrent_policies_are_read(tmp_path: Path) -> None:
    (tmp_path / "ppo_lstm.yml").write_text(
        "CartPoleNoVel-v1: {policy: MlpLstmPolicy, n_envs: 8, n_steps: 32, batch_size: 256, "
        "n_timesteps: !!float 1e5, learning_rate: lin_0.001, policy_kwargs: 'dict(ortho_init=False,"
        " activation_fn=nn.ReLU, lstm_hidden_size=64, n_lstm_layers=1, enable_critic_lstm=True, "
        "net_arch=dict(pi=[64], vf=[64]))'}"
    )
    config = resolve("PPO", "CartPoleNoVel-v1", preset=str(tmp_path / "ppo_lstm.yml"))[0]
    model = config.model
    assert (model.memory, model.lstm_cell_size, model.fcnet_hiddens) == ("lstm", 64, [64])
    assert (model.initializer, config.rollout_fragment_length) == ("uniform", 32)


# --- environments without velocities --------------------------------------------------------------


def test_velocities_are_hidden() -> None:
    env, whole = make_env("CartPoleNoVel-v1"), make_env("CartPole-v1")
    for _ in range(2):
        hidden, seen = (each.reset(seed=3)[0] for each in (env, whole))
        assert hidden.tolist() == [seen[0], 0, seen[2], 0]
        hidden, seen = (each.step(1)[0] for each in (env, whole))
        assert hidden.tolist() == [seen[0], 0, seen[2], 0]
    assert env.spec is not None
    assert (env.spec.max_episode_steps, env.spec.reward_threshold) == (500, 475)
    longer = make_env("PendulumNoVel-v1", {"max_episode_steps": 300})
    longer.reset(seed=0)
    ends = [longer.step(longer.action_space.sample())[3] for _ in range(300)]
    assert ends.index(True) == 299


def test_hidden_numbers_are_named() -> None:
    wrapper = "poise.envs.velocities:HideVelocities"
    env = make_env("Acrobot-v1", {"wrappers": [[wrapper, {"hidden": [4, -1]}]]})
    assert env.reset(seed=0)[0][[4, 5]].tolist() == [0, 0]
    with pytest.raises(EnvError, match="give hidden, their indices"):
        make_env("Acrobot-v1", {"wrappers": [wrapper]})
    with pytest.raises(EnvError, match=r"hidden=\[9\] are no places in the observations"):
        make_env("Acrobot-v1", {"wrappers": [[wrapper, {"hidden": [9]}]]})


def test_the_stub_of_a_single_call_warns(trainer: Make) -> None:
    algo = trainer("PPO", "CartPole-v1", model={"use_lstm": True})
    with pytest.warns(PoiseWarning, match="compute_action forgets"):
        algo.compute_action(np.zeros(4, np.float32))
