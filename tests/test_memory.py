"""Guards that learning goes through a policy's memory as acting did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

import poise
from environments import Scripted, Task
from poise.algorithms.a2c import A2C
from poise.algorithms.appo import APPO
from poise.algorithms.dqn import DQN
from poise.algorithms.impala import IMPALA
from poise.algorithms.ppo import PPO
from poise.config.model import ModelConfig
from poise.errors import EnvError, ModelError
from poise.models.policy import Policy, State
from poise.sampling.sampler import Sampler
from poise.spaces.layout import Layout
from poise.stepping.inline import InlineVectorEnv
from poise.training.trainer import Trainer
from rollouts import sample

pytestmark = pytest.mark.usefixtures("registries")

Make = Callable[..., Trainer]
SIZE = 16


class Remembering(Policy):
    """A gated recurrent unit over plain observations, with heads for actions and for values."""

    recurrent: ClassVar[bool] = True

    def __init__(
        self, obs_layout: Layout, action_layout: Layout, config: ModelConfig, **settings: Any
    ) -> None:
        super().__init__(obs_layout, action_layout, config, **settings)
        self.network = nn.GRUCell(self.features.width, SIZE)
        self.pi, self.vf = nn.Linear(SIZE, self.dist.num_inputs), nn.Linear(SIZE, 1)

    def remember(self, x: Tensor, state: State, first: Tensor) -> tuple[Tensor, State]:
        (memory,), steps = state, []
        for row, begins in zip(x.view(*first.shape, -1), first, strict=True):
            memory = self.network(row, memory.masked_fill(begins.unsqueeze(1), 0.0))
            steps.append(memory)
        return torch.cat(steps), (memory,)

    def forward(
        self, x: Any, state: State = (), first: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        assert first is not None
        memory, _ = self.remember(x, state, first)
        return self.pi(memory), self.vf(memory).view(-1)

    def critic(self, x: Any, state: State = (), first: Tensor | None = None) -> Tensor:
        return self(x, state, first)[1]

    def initial_state(self, batch: int) -> State:
        return (torch.zeros(batch, SIZE),)

    @torch.no_grad()
    def act(
        self, obs: Any, state: State, first: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, State]:
        memory, state = self.remember(self.prepare(obs), state, first.unsqueeze(0))
        inputs = self.pi(memory)
        return (
            self.dist.mode(inputs) if noise is None else self.dist.sample(inputs, noise),
            inputs,
            state,
        )


@pytest.fixture(params=[PPO, A2C, IMPALA, APPO], ids=lambda kind: kind.__name__)
def algorithm(request: pytest.FixtureRequest) -> str:
    """The name of an algorithm whose policy has a memory."""

    def make_policy(self: Any, obs_layout: Layout, action_layout: Layout) -> Policy:
        normalize = self.config.normalize_observations
        return Remembering(
            obs_layout, action_layout, self.config.model, normalize_observations=normalize
        )

    name = f"Remembering{request.param.__name__}"
    poise.register_algorithm(name, type(name, (request.param,), {"make_policy": make_policy}))
    return name


class Plain(PPO):
    """PPO, whose policy has a memory."""

    def make_policy(self, *layouts: Layout) -> Any:
        return Remembering(*layouts, self.config.model)


LENGTHS = [(2, 3), (4,), (1, 5, 1), (9, 2)]


def test_going_through_a_rollout_is_acting_in_it() -> None:
    rest = iter(LENGTHS)
    env = InlineVectorEnv(lambda: Scripted(next(rest)), len(LENGTHS))
    policy = Remembering(
        Layout(env.single_observation_space), Layout(env.single_action_space), ModelConfig()
    )
    sampler = Sampler(policy, env, 6, np.random.SeedSequence(0))
    for _ in range(3):
        r = sample(sampler)
        x = policy.prepare({name: leaf.flatten(0, 1) for name, leaf in r.obs.items()})
        inputs, _ = policy(x, r.state, r.first)
        log_prob = policy.dist.log_prob(inputs[: 6 * 4], r.action.flatten())
        torch.testing.assert_close(log_prob, r.log_prob.flatten(), atol=1e-6, rtol=0)
    assert r.state[0].abs().sum() > 0
    assert r.first[1:].any()


def test_minibatches_are_whole_slots_with_their_own_memory(trainer: Make) -> None:
    poise.register_algorithm("Plain", Plain)
    settings = {"num_envs_per_worker": 6, "rollout_fragment_length": 8, "sgd_minibatch_size": 16}
    algo = trainer("Plain", "CartPole-v1", **settings)
    algo.samplers.collect()
    rollout = algo.samplers.collect()
    ppo: Any = algo.algorithm
    batch = ppo.batch(rollout)
    seen: list[float] = []
    for part in ppo.minibatches(batch, ppo.order(batch)):
        assert (part.first.shape, part.state[0].shape) == ((8, 2), (2, SIZE))
        inputs, value = ppo.policy(part.x, part.state, part.first)
        torch.testing.assert_close(
            ppo.policy.dist.log_prob(inputs, part.action), part.log_prob, atol=1e-6, rtol=0
        )
        torch.testing.assert_close(value, part.value, atol=1e-6, rtol=0)
        assert part.weight.sum().item() == pytest.approx(1)
        seen += part.log_prob.tolist()
    assert sorted(seen) == sorted(rollout.log_prob.flatten().tolist())


class Recall(Task):
    """A sign is shown in the first step alone, and asked for in the last."""

    length = 4

    def observe(self) -> Any:
        if self.now == 0:
            self.sign = int(self.np_random.integers(2))
            return np.array([2.0 * self.sign - 1, 0], np.float32)
        return np.array([0.0, self.now], np.float32)

    def judge(self, action: Any) -> float:
        return float(action == self.sign) if self.now == self.length - 1 else 0.0

    observation_space = Scripted.observation_space
    action_space = Scripted.action_space


def test_what_was_seen_is_remembered(algorithm: str, trainer: Make) -> None:
    """Without a memory, half of the answers are right."""
    settings: dict[str, Any] = {
        "lr": 0.005,
        "num_envs_per_worker": 16,
        "rollout_fragment_length": 15,
        "gamma": 0.9,
    }
    algo = trainer(algorithm, Recall, **settings, seed=1)
    algo.learn(stop={"episode_reward_mean": 0.95, "timesteps_total": 60_000})
    assert algo.evaluate(40)["episode_reward_mean"] > 0.9


def test_a_memory_resumes_to_the_bit(trainer: Make, algorithm: str, tmp_path: Path) -> None:
    algo = trainer(
        algorithm,
        "CartPole-v1",
        num_envs_per_worker=4,
        rollout_fragment_length=8,
        timesteps_per_iteration=0,
    )
    algo.train()
    assert algo.samplers.state_dict()[0]["memory"][0].abs().sum() > 0
    with poise.load(algo.save(tmp_path / "saved")) as loaded:
        assert torch.equal(loaded.algorithm.flat.data, algo.algorithm.flat.data)
        if algo.algorithm.repeatable:
            for made in (algo, loaded):
                made.train()
            assert torch.equal(loaded.algorithm.flat.data, algo.algorithm.flat.data)
        own, given = (made.samplers.state_dict()[0]["memory"][0] for made in (algo, loaded))
        assert torch.equal(torch.as_tensor(own), torch.as_tensor(given))


def test_the_memory_of_a_prediction_goes_on(trainer: Make, algorithm: str) -> None:
    algo = trainer(algorithm, "CartPole-v1", num_envs_per_worker=2)
    _, state = algo.predict(np.ones(4, np.float32))
    _, later = algo.predict(np.ones(4, np.float32), state)
    _, anew = algo.predict(np.ones((1, 4), np.float32), later, episode_start=[True])
    assert torch.equal(anew[0], state[0])
    assert not torch.equal(later[0], state[0])


def test_last_observations_apart_from_the_others_are_refused() -> None:
    env = SyncVectorEnv([lambda: Scripted()], autoreset_mode=AutoresetMode.SAME_STEP)
    policy = Remembering(
        Layout(env.single_observation_space), Layout(env.single_action_space), ModelConfig()
    )
    with pytest.raises(EnvError, match="NEXT_STEP"):
        Sampler(policy, env, 4, np.random.SeedSequence(0))


def test_acting_without_a_state_says_that_it_forgets(trainer: Make) -> None:
    poise.register_algorithm("Plain", Plain)
    with pytest.warns(poise.PoiseWarning, match="compute_action forgets: use predict"):
        trainer("Plain", "CartPole-v1").compute_action(np.zeros(4, np.float32))


def test_a_replay_of_single_steps_refuses_a_memory(trainer: Make) -> None:
    class Recurrent(DQN):
        def make_policy(self, obs_layout: Layout, action_layout: Layout) -> Policy:
            return Remembering(obs_layout, action_layout, self.config.model)

    poise.register_algorithm("RecurrentDQN", Recurrent)
    with pytest.raises(ModelError, match=r"^Recurrent draws single steps from its replay"):
        trainer("RecurrentDQN", "CartPole-v1")
