"""Guards DQN: its update, its settings, what it learns, and going on exactly when killed.

The update is compared with one in plain PyTorch.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

import poise
import warm
from environments import (
    Bandit,
    ConstantReward,
    DelayedReward,
    DiscreteEcho,
    Echo,
    Endless,
    Masked,
    ShortLived,
    Strict,
)
from poise.config.resolve import resolve
from poise.errors import ConfigError, SpaceError
from poise.learning.distributions import MASKED, EpsilonGreedy
from poise.learning.losses import huber_loss
from poise.learning.optimizers import Adam, Flat
from poise.learning.schedules import decay
from poise.training import checkpoint
from poise.training.trainer import Trainer
from test_checkpoint import same
from test_resume import child_env, run_child, timeless, without_times
from test_spaces import ACTIONS, OBSERVATIONS

Make = Callable[..., Trainer]

TINY: dict[str, Any] = {
    "preset": None,
    "seed": 11,
    "num_envs_per_worker": 4,
    "train_batch_size": 16,
    "learning_starts": 60,
    "buffer_size": 400,
    "timesteps_per_iteration": 100,
    "model": {"fcnet_hiddens": [16]},
}
FAST: dict[str, Any] = {
    "num_envs": 8,
    "batch_size": 64,
    "lr": 3e-3,
    "learning_starts": 200,
    "epsilon_timesteps": 1500,
    "target_network_update_freq": 100,
}
FAMILY: dict[str, dict[str, Any]] = {
    "plain": {"double_q": False},
    "double": {"double_q": True},
    "dueling": {"dueling": True},
    "prioritized": {"prioritized_replay": True, "prioritized_replay_beta": [[0, 0.4], [3000, 1.0]]},
    "n steps": {"n_step": 3},
    "soft": {"tau": 0.05, "target_network_update_freq": 0},
    "all": {"dueling": True, "prioritized_replay": True, "n_step": 3, "tau": 0.5},
}
EACH = pytest.mark.parametrize("options", FAMILY.values(), ids=FAMILY.keys())


# --- the update -----------------------------------------------------------------------------------


class PlainQ(nn.Module):
    """The network as one would write it, with the parameters of another."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.streams = nn.ModuleList()
        for stream in filter(None, (network.q, network.value)):
            layers: list[nn.Module] = []
            for layer in stream.layers:
                copy = nn.Linear(layer.in_features, layer.out_features)
                copy.load_state_dict({k: v.clone() for k, v in layer.state_dict().items()})
                layers += [copy, nn.ReLU()]
            self.streams.append(nn.Sequential(*layers[:-1]))

    def forward(self, x: Tensor) -> Tensor:
        if len(self.streams) == 1:
            return self.streams[0](x)
        advantage, value = (stream(x) for stream in self.streams)
        return value + (advantage - advantage.mean(1, keepdim=True))


@pytest.mark.parametrize("loss", ["huber", "mse"])
@EACH
def test_one_update_is_that_of_plain_pytorch(
    trainer: Make, options: dict[str, Any], loss: str
) -> None:
    settings = {
        **TINY,
        **options,
        "td_error_loss_fn": loss,
        "grad_clip": 1.0,
        "learning_starts": 300,
    }
    settings |= {
        "weight_decay": 0.01,
        "amsgrad": True,
        "lr": 0.01,
        "tau": 0.3,
        "target_network_update_freq": 0,
    }
    algorithm: Any = trainer("DQN", "CartPole-v1", **settings).algorithm
    algorithm.optimizer.flat.data.normal_(std=0.4, generator=torch.Generator().manual_seed(0))
    trainer_of = trainer("DQN", "CartPole-v1", **settings)
    trainer_of.train()  # fills its replay without learning
    trainer_of.train()
    algorithm.replay, algorithm.timesteps = (
        trainer_of.algorithm.replay,
        trainer_of.algorithm.timesteps,
    )
    assert trainer_of.algorithm.updates == 0
    q, target = PlainQ(algorithm.policy.network), PlainQ(algorithm.target.network)
    optimizer = torch.optim.AdamW(q.parameters(), 0.01, eps=1e-5, weight_decay=0.01, amsgrad=True)
    for _ in range(3):
        before = algorithm.generator.get_state()
        index = algorithm.replay.draw(16, algorithm.generator)
        algorithm.generator.set_state(before)
        batch = algorithm.replay.batch(index, n_step=algorithm.config.n_step, gamma=0.99)
        obs, after = batch.obs["value"], batch.next_obs["value"]
        with torch.no_grad():
            chooser = q if algorithm.config.double_q else target
            best = chooser(after).argmax(1, keepdim=True)
            y = batch.reward + batch.discount * target(after).gather(1, best).squeeze(1)
        weight = torch.ones(16)
        if algorithm.config.prioritized_replay:
            weight = algorithm.replay.weights(
                index, algorithm.scheduled(algorithm.config.prioritized_replay_beta)
            ).clone()
        chosen = q(obs).gather(1, batch.action.unsqueeze(1)).squeeze(1)
        kind = F.smooth_l1_loss if loss == "huber" else F.mse_loss
        losses = kind(chosen, y, reduction="none") * (1 if loss == "huber" else 0.5)
        optimizer.zero_grad()
        (losses * weight).mean().backward()
        norm = nn.utils.clip_grad_norm_(q.parameters(), 1.0)
        optimizer.step()
        for slow, fast in zip(target.parameters(), q.parameters(), strict=True):
            slow.data.mul_(0.7).add_(fast.data, alpha=0.3)
        report = list(algorithm.learn(algorithm.replay, 1).statistics().values())
        found = [(losses * weight).mean(), (chosen - y).abs().mean(), chosen.mean(), norm]
        assert report == pytest.approx([x.item() for x in found], rel=1e-4, abs=1e-6)
        for network, plain in ((algorithm.policy.network, q), (algorithm.target.network, target)):
            ours, theirs = PlainQ(network).parameters(), plain.parameters()
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-4)
        if algorithm.config.prioritized_replay:
            p = ((chosen - y).abs().detach().numpy() + 1e-6) ** 0.6
            latest = dict(zip(index.tolist(), p.tolist(), strict=True))
            assert algorithm.replay.tree[np.array(list(latest))] == pytest.approx(
                list(latest.values()), rel=1e-3
            )


def test_minibatches_drawn_at_once_are_those_drawn_one_by_one(trainer: Make) -> None:
    algorithm: Any = trainer("DQN", "CartPole-v1", **{**TINY, "learning_starts": 10_000}).algorithm
    other: Any = trainer("DQN", "CartPole-v1", **{**TINY, "learning_starts": 10_000})
    other.train()
    found = list(algorithm.minibatches(other.algorithm.replay, 100))
    assert len(found) == 100
    assert {len(part.action) for part in found} == {16}
    for part in found:
        again = other.algorithm.replay.batch(part.index, gamma=0.99)
        assert torch.equal(part.x, again.obs["value"])
        assert torch.equal(part.next_x, again.next_obs["value"])
        assert part.weight.sum().item() == pytest.approx(1)


def test_golden_losses() -> None:
    error = torch.tensor([-3.0, -0.5, 0.0, 0.25, 2.0])
    assert huber_loss(error).tolist() == [2.5, 0.125, 0, 0.03125, 1.5]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_is_pytorchs(weight_decay: float, amsgrad: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    flat = Flat(ours)
    mine = Adam(flat, eps=1e-8, weight_decay=weight_decay, amsgrad=amsgrad)
    judge = torch.optim.AdamW(
        theirs.parameters(), 0.1, eps=1e-8, weight_decay=weight_decay, amsgrad=amsgrad
    )
    for i in range(10):
        flat.grad.normal_()
        flat.grad.mul_(1 / (i + 1))  # so that the largest second moment is not the latest
        for parameter, grad in zip(
            theirs.parameters(), (ours.weight.grad, ours.bias.grad), strict=True
        ):
            parameter.grad = grad.clone()
        mine.step(0.1)
        judge.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    assert ("max_exp_avg_sq" in mine.state_dict()) is amsgrad


def test_the_gradient_is_clipped_by_value(trainer: Make) -> None:
    settings = {**TINY, "grad_clip": None, "grad_clip_value": 0.01}
    algorithm: Any = trainer("DQN", "CartPole-v1", **settings).algorithm
    algorithm.flat.grad.copy_(torch.linspace(-1, 1, len(algorithm.flat.grad)))
    norm = algorithm.flat.grad.norm().item()
    assert algorithm.learner.step(0.0) == pytest.approx(norm)
    assert algorithm.flat.grad.abs().max().item() == pytest.approx(0.01)
    assert (algorithm.flat.grad.abs() < 0.01).any()


# --- exploring and targets ------------------------------------------------------------------------


def test_epsilon_falls_as_its_schedule_says(trainer: Make) -> None:
    assert [decay(1.0, 0.1, share, "linear") for share in (0, 0.5, 1, 9)] == pytest.approx(
        [1, 0.55, 0.1, 0.1]
    )
    found = [decay(0.9, 0.05, steps / 1000, "exponential") for steps in (0, 500, 1000, 5000)]
    assert found == pytest.approx(
        [0.05 + 0.85 * math.exp(-steps / 1000) for steps in (0, 500, 1000, 5000)]
    )
    algo = trainer("DQN", "CartPole-v1", **TINY, epsilon_timesteps=200, final_epsilon=0.0)
    assert algo.policy.epsilon == 1
    result = algo.train()
    assert result["learner/cur_epsilon"] == pytest.approx(
        max(0, 1 - result["timesteps_total"] / 200)
    )
    while result["timesteps_total"] < 200:
        result = algo.train()
    algo.train()
    assert algo.policy.epsilon == 0


def test_epsilon_greedy_is_distributed_as_it_says() -> None:
    dist = EpsilonGreedy(4, epsilon=0.4)
    inputs = torch.tensor([1.0, MASKED, 3.0, -2.0]).expand(60_000, 4)
    actions = dist.sample(inputs, dist.noise((60_000,), torch.Generator().manual_seed(0)))
    shares = torch.bincount(actions, minlength=4) / 60_000
    assert shares[1] == 0  # what a mask rules out
    expected = torch.tensor([0.4 / 3, 0.0, 0.6 + 0.4 / 3, 0.4 / 3])
    torch.testing.assert_close(shares, expected, atol=0.01, rtol=0)
    torch.testing.assert_close(dist.log_prob(inputs[:4], torch.arange(4)).exp(), expected)
    p = expected[expected > 0]
    assert dist.entropy(inputs[0]).item() == pytest.approx(-(p * p.log()).sum().item(), rel=1e-5)
    assert (dist.mode(inputs) == 2).all()
    dist.epsilon.fill_(0.0)
    assert (dist.sample(inputs, torch.zeros(60_000, 5)) == 2).all()


def test_evaluation_is_greedy_unless_asked(trainer: Make) -> None:
    algo = trainer("DQN", "CartPole-v1", **TINY)
    algo.policy.epsilon.fill_(1.0)
    obs = np.zeros(4, np.float32)
    assert len({int(algo.compute_action(obs)) for _ in range(40)}) == 1
    assert len({int(algo.compute_action(obs, explore=True)) for _ in range(40)}) == 2


@pytest.mark.parametrize(("every", "tau"), [(200, 1.0), (200, 0.25), (0, 0.25)])
def test_the_target_network_follows_when_it_should(trainer: Make, every: int, tau: float) -> None:
    algorithm: Any = trainer(
        "DQN", "CartPole-v1", **TINY, target_network_update_freq=every, tau=tau, gradient_steps=2
    ).algorithm
    sampler = trainer("DQN", "CartPole-v1", **TINY).samplers
    assert torch.equal(algorithm.targets["policy"].flat.data, algorithm.flat.data)
    followed, steps = [], 0
    for _ in range(400):
        algorithm.config.timesteps_per_iteration = 0
        online, target = algorithm.flat.data.clone(), algorithm.targets["policy"].flat.data.clone()
        algorithm.iteration(sampler)
        if not torch.equal(target, algorithm.targets["policy"].flat.data):
            followed.append(algorithm.timesteps)
            if every:
                torch.testing.assert_close(
                    algorithm.targets["policy"].flat.data, target.lerp(algorithm.flat.data, tau)
                )
        steps += not torch.equal(online, algorithm.flat.data)
        if algorithm.timesteps > 1000:
            break
    assert steps > 30
    if every:
        gaps = np.diff(followed)
        assert ((gaps >= every) & (gaps < every + 16)).all()
        assert len(followed) >= 4
    else:
        assert len(followed) == steps


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"num_envs": 1}, 1.0),
        ({"num_envs": 8, "train_freq": 4}, 8.0),
        ({"num_envs": 8, "train_freq": 4, "gradient_steps": 3}, 3.0),
        ({"num_envs": 1, "train_freq": 1, "training_intensity": 16, "batch_size": 64}, 0.25),
        (
            {
                "num_envs": 8,
                "train_freq": 4,
                "training_intensity": 16,
                "batch_size": 64,
                "gradient_steps": 8,
            },
            8.0,
        ),
    ],
)
def test_gradient_steps_and_intensity_are_two_names_of_one_thing(
    settings: dict[str, Any], steps: float
) -> None:
    config: Any = resolve("DQN", "Some-v0", settings)[0]
    assert config.gradient_steps == pytest.approx(steps)
    assert config.training_intensity * config.round_steps == pytest.approx(
        steps * config.train_batch_size
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"gradient_steps": 3, "training_intensity": 16},
            "gradient_steps=3 contradicts training_intensity=16",
        ),
        ({"buffer_size": 10, "num_envs": 8}, "buffer_size=10 is smaller than the 32 steps"),
        ({"n_step": 10**12}, "steps that 8 environments take in n_step=1000000000000"),
        ({"exploration_fraction": 0.1}, "give epsilon_timesteps"),
        ({"exploration_config": {}}, "Give initial_epsilon, final_epsilon and epsilon_timesteps"),
        ({"tau": 0}, "tau=0 is not allowed"),
        ({"epsilon_shedule": "linear"}, "Did you mean 'epsilon_schedule'"),
    ],
)
def test_what_cannot_be_is_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve("DQN", "Some-v0", settings)


def test_fractions_of_gradient_steps_add_up(trainer: Make) -> None:
    algo = trainer("DQN", "CartPole-v1", **{**TINY, "learning_starts": 0}, gradient_steps=0.4)
    algo.config.timesteps_per_iteration = 0
    taken = [algo.train()["learner/sgd_steps"] for _ in range(10)]
    assert sum(taken) == 4
    assert max(taken) == 1


def test_the_tutorial_preset_is_the_tutorials() -> None:
    config: Any = resolve("DQN", "CartPole-v1", preset="tutorial")[0]
    assert (config.buffer_size, config.train_batch_size, config.gamma, config.tau) == (
        10_000,
        128,
        0.99,
        0.005,
    )
    assert (config.initial_epsilon, config.final_epsilon, config.epsilon_timesteps) == (
        0.9,
        0.05,
        1000,
    )
    assert (config.epsilon_schedule, config.td_error_loss_fn, config.double_q) == (
        "exponential",
        "huber",
        False,
    )
    assert (config.lr, config.amsgrad, config.weight_decay, config.adam_epsilon) == (
        1e-4,
        True,
        0.01,
        1e-8,
    )
    assert (config.grad_clip, config.grad_clip_value) == (None, 100)
    assert (config.num_envs, config.round_steps, config.gradient_steps) == (1, 1, 1)
    assert config.target_network_update_freq == 0
    assert (config.model.fcnet_hiddens, config.model.fcnet_activation) == ([128, 128], "relu")
    assert config.model.initializer == "uniform"


def test_the_tutorial_learns_once_a_step(trainer: Make) -> None:
    algo = trainer("DQN", "CartPole-v1", preset="tutorial", seed=0, timesteps_per_iteration=400)
    taken = [algo.train()["learner/sgd_steps"] for _ in range(2)]
    assert algo.algorithm.timesteps == 800  # of some 40 episodes, whose resets are no steps
    assert taken == [400 - 127, 400]


def test_stacks_of_atari_games_are_known() -> None:
    def stack(env: Any, **env_config: Any) -> Any:
        config: Any = resolve("DQN", env, {"env_config": env_config})[0]
        return config.frame_stack

    assert [
        stack("PongNoFrameskip-v4"),
        stack("ALE/Breakout-v5", framestack=2),
        stack("CartPole-v1"),
    ] == [4, 2, 1]


# --- spaces and masks -----------------------------------------------------------------------------


@pytest.mark.parametrize("observed", OBSERVATIONS)
def test_every_observation_is_trained_on_saved_and_loaded(
    trainer: Make, tmp_path: Path, observed: str
) -> None:
    seen, actions, bad = OBSERVATIONS[observed], ACTIONS["discrete"], []
    options = {**TINY, **FAMILY["all"], "normalize_observations": True, "normalize_rewards": True}
    made = trainer(
        "DQN", lambda config: Strict(seen, actions, bad), **{**options, "num_threads": 1}
    )
    before = made.algorithm.flat.data.clone()
    for _ in range(2):
        result = made.train()
    assert not torch.equal(made.algorithm.flat.data, before)
    assert (result["learner/skipped_updates"], bad) == (0, [])
    made.save(tmp_path / "saved")
    with poise.load(tmp_path / "saved") as loaded:
        for explore in (False, True):
            observation = seen.sample()
            action = made.compute_action(observation, explore=explore)
            assert actions.contains(action)
            assert action == loaded.compute_action(observation, explore=explore)


@pytest.mark.parametrize("name", [name for name in ACTIONS if not name.startswith("discrete")])
def test_other_actions_get_one_sentence(trainer: Make, name: str) -> None:
    with pytest.raises(SpaceError, match=r"must be Discrete, not .*: PPO and A2C take") as caught:
        trainer("DQN", lambda config: Strict(OBSERVATIONS["vector"], ACTIONS[name], []), **TINY)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    # Each with each of another; after a time limit, the last state has a value.
    ("in_info", "options", "ends"),
    [(False, {}, "terminated"), (True, FAMILY["all"], "terminated"),
     (False, FAMILY["all"], "truncated"), (True, {}, "truncated")],
    ids=["observed-default-terminated", "reported-all-terminated", "observed-all-truncated",
         "reported-default-truncated"],
)  # fmt: skip
def test_masks_are_respected_in_acting_and_in_targets(
    trainer: Make, in_info: bool, options: dict[str, Any], ends: str
) -> None:
    class Ending(Masked):
        ends_with = ends

    bad: list[Any] = []
    settings = {**FAST, **options, "gamma": 0.5}
    made = trainer("DQN", lambda config: Ending(bad, in_info=in_info), **settings)
    made.learn(4000)
    assert not bad
    assert made.evaluate(20)["episode_reward_mean"] >= 0.9 * 8
    values = [result["learner/q"] for result in made.history]
    # MASKED never entered a target.
    assert all(abs(value) < 10 for value in values if not math.isnan(value))


def test_a_model_of_ones_own_learns(trainer: Make, registries: None) -> None:
    class Own(nn.Module):
        def __init__(self, space: spaces.Space, outputs: int) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 64), nn.ReLU())
            self.heads = nn.ModuleList([nn.Linear(64, outputs), nn.Linear(64, 1)])

        def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.body(observation)
            return self.heads[0](hidden), self.heads[1](hidden)

    poise.register_model("own", Own)
    made = trainer(
        "DQN", lambda config: Echo(), **FAST, gamma=0.5, dueling=True, model={"custom_model": "own"}
    )
    made.learn(3000)
    assert made.evaluate(20)["episode_reward_mean"] >= 0.9 * 8
    assert not torch.equal(made.algorithm.policy.network.heads[1].weight, torch.zeros(1, 64))


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.slow
@EACH
def test_chooses_the_number_shown(trainer: Make, options: dict[str, Any]) -> None:
    made = trainer("DQN", lambda config: Echo(), **{**FAST, **options}, gamma=0.5)
    made.learn(4000)
    assert made.evaluate(20)["episode_reward_mean"] >= 0.9 * 8


@pytest.mark.parametrize(
    "make", [lambda config: Echo(start=7), lambda config: DiscreteEcho()], ids=["start", "both"]
)
def test_spaces_may_start_elsewhere(trainer: Make, make: Callable[..., gym.Env]) -> None:
    made = trainer("DQN", make, **FAST, gamma=0.5)
    made.learn(4000)
    assert made.evaluate(20)["episode_reward_mean"] >= 0.9 * 8


def values(made: Trainer, *observations: float) -> list[float]:
    obs = {"value": torch.tensor(observations).unsqueeze(1)}
    with torch.no_grad():
        found: list[float] = made.policy.critic(made.policy.prepare(obs)).tolist()
    return found


@pytest.mark.slow
def test_values_of_known_tasks(trainer: Make) -> None:
    def learnt(env: Callable[..., Any], steps: int = 3000, **settings: Any) -> Trainer:
        made = trainer("DQN", env, **{**FAST, **settings})
        made.learn(steps)
        return made

    assert values(learnt(lambda config: ConstantReward()), 0.0) == pytest.approx([1.0], abs=0.05)
    assert values(learnt(lambda config: DelayedReward(), gamma=0.5), 0.0, 1.0) == pytest.approx(
        [0.5, 1.0], abs=0.05
    )
    made = learnt(lambda config: Bandit())
    assert made.compute_action(np.zeros(1, np.float32)) == 1
    assert values(made, 0.0) == pytest.approx([1.0], abs=0.15)
    for n_step in (1, 3):  # a time limit is bootstrapped, a true end is not
        assert values(
            learnt(lambda config: Endless(), 5000, gamma=0.8, n_step=n_step), 1.0
        ) == pytest.approx([5.0], rel=0.05)
    # One step in five is the end, which the observation does not show. The mean error is 0 at 1 /
    # (1 - 0.8 * 0.8); with errors clipped to ±1, that of the end weighs a quarter of the others': 1
    # - 0.2 q = 1 / 4.
    for loss, value in (("mse", 2.78), ("huber", 3.75)):
        made = learnt(lambda config: ShortLived(), 5000, gamma=0.8, td_error_loss_fn=loss)
        assert values(made, 1.0) == pytest.approx([value], rel=0.1)


def test_one_seed_one_result(trainer: Make) -> None:
    def parameters(seed: int) -> Tensor:
        made = trainer("DQN", lambda config: Echo(), **{**TINY, **FAMILY["all"], "seed": seed})
        made.learn(600)
        data: Tensor = made.algorithm.flat.data
        return data

    assert torch.equal(parameters(1), parameters(1))
    assert not torch.equal(parameters(1), parameters(2))


@pytest.mark.slow
def test_cartpole_is_solved_by_its_preset(trainer: Make) -> None:
    made = trainer(
        "DQN",
        "CartPole-v1",
        evaluation_interval=1,
        evaluation_duration=20,
        timesteps_per_iteration=2500,
    )
    made.learn(stop={"evaluation/episode_reward_mean": 475, "timesteps_total": 50_000})
    assert made.history[-1]["evaluation/episode_reward_mean"] >= 475


# --- saving ---------------------------------------------------------------------------------------

N, M = 3, 3
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: ("CartPole-v1", {**TINY, **options}) for name, options in FAMILY.items()},
    "normalised": (
        "CartPole-v1",
        {**TINY, "normalize_observations": True, "normalize_rewards": True},
    ),
    "before it learns": ("CartPole-v1", {**TINY, "learning_starts": 350}),
    "its own state": ("resumable:Stateful", {**TINY, "n_step": 2}),
    "tutorial": ("CartPole-v1", {**TINY, "preset": "tutorial", "gradient_steps": 0.3}),
}
CONTINUE = """
    import json, sys
    import poise
    poise.make_trainer
    for path in json.loads(sys.argv[1]):
        algo = poise.load(path)
        results = [algo.train() for _ in range(int(sys.argv[2]))]
        assert not algo.notes, algo.notes
        algo.save(path + " after")
        algo.close()
        print(json.dumps(results))
"""


@pytest.mark.slow
def test_straight_equals_resumed_bit_for_bit(tmp_path: Path) -> None:
    straight, paths = {}, {}
    for name, (env, settings) in CASES.items():
        with poise.make_trainer("DQN", env, progress=False, **settings) as algo:
            results = [algo.train() for _ in range(N + M)]
            straight[name] = results[N:], algo.save(tmp_path / f"{name} straight")
        with poise.make_trainer("DQN", env, progress=False, **settings) as algo:
            for i in range(N):
                algo.save(tmp_path / f"{name} {i}")  # which changes nothing
                algo.train()
            paths[name] = str(algo.save(tmp_path / name))
    lines = run_child(CONTINUE, json.dumps(list(paths.values())), M).splitlines()
    for name, line in zip(CASES, lines, strict=True):
        results, path = straight[name]
        assert checkpoint.verify(Path(paths[name]))["resume_grade"] == "bitwise"
        assert [
            same(timeless(a), timeless(b)) for a, b in zip(results, json.loads(line), strict=True)
        ] == [True] * M
        _, policy, state = checkpoint.read(path)
        _, resumed_policy, resumed_state = checkpoint.read(Path(f"{paths[name]} after"))
        assert same(policy, resumed_policy), name
        for part in without_times(state):
            assert same(state[part], resumed_state[part]), (name, part)
        assert not same(policy, checkpoint.read(Path(paths[name]))[1]), (
            f"{name} did not learn any more"
        )


def test_segments_are_written_once_and_linked(
    trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With segments of two rows, so that a small replay has many."""
    from poise.sampling import segments

    monkeypatch.setattr(segments, "_SMALLEST", 1)
    monkeypatch.setattr(segments, "_MOST", 50)
    algo = trainer("DQN", "CartPole-v1", **{**TINY, **FAMILY["all"]})

    def files(path: Path) -> dict[str, int]:
        return {file.name: file.stat().st_ino for file in path.glob("replay-*")}

    algo.train()
    first = files(algo.save(tmp_path / "1"))
    algo.train()
    second = files(algo.save(tmp_path / "2"))
    assert len(first) >= 5
    assert {name: second[name] for name in first} == first
    assert len(second) > len(first)
    checkpoint.verify(tmp_path / "2")
    for _ in range(6):  # around the ring: the oldest are no longer needed
        algo.train()
    end = algo.save(tmp_path / "3")
    assert not set(first) & set(files(end))
    assert len(files(end)) <= 51
    expected = algo.train()
    with poise.load(end) as loaded:
        again = files(loaded.save(tmp_path / "4"))
        assert again == files(end)
        assert same(timeless(loaded.train()), timeless(expected))
    # Of a file that is gone, or on a disk without links, there is another copy: in memory.
    for name in files(end):
        (end / name).unlink()
    monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError("no links here")))
    whole = algo.save(tmp_path / "5")
    checkpoint.verify(whole)
    assert all(Path(whole / name).stat().st_nlink == 1 for name in files(whole))
    expected = algo.train()
    with poise.load(whole) as loaded:
        assert same(timeless(loaded.train()), timeless(expected))


def test_trainers_that_save_to_one_place_leave_each_other_alone(
    trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from poise.sampling import segments

    monkeypatch.setattr(segments, "_SMALLEST", 1)
    one, two = (trainer("DQN", "CartPole-v1", **{**TINY, "seed": seed}) for seed in (0, 1))
    for algo in (one, two, one):
        algo.train()
        path = algo.save(tmp_path / "best")
    with poise.load(path) as loaded:
        assert same(timeless(loaded.train()), timeless(one.train()))


def test_a_trainer_that_has_trained_takes_up_another_state_whole(
    trainer: Make, tmp_path: Path
) -> None:
    algo = trainer("DQN", "CartPole-v1", **TINY)
    algo.train()
    path = algo.save(tmp_path / "early")
    expected = algo.train()
    for _ in range(3):
        algo.train()
    _, policy, state = checkpoint.read(path)
    algo.load_state(policy, state)
    assert same(timeless(algo.train()), timeless(expected))


def test_exploration_is_as_far_as_the_steps_are(trainer: Make, tmp_path: Path) -> None:
    algo = trainer("DQN", "CartPole-v1", **TINY)
    result = algo.train()
    assert algo.policy.epsilon.item() == pytest.approx(result["learner/cur_epsilon"])
    with poise.load(algo.save(tmp_path / "saved")) as loaded:
        assert loaded.policy.epsilon == algo.policy.epsilon


def test_a_damaged_segment_is_named(
    trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from poise.sampling import segments

    monkeypatch.setattr(segments, "_SMALLEST", 1)
    algo = trainer("DQN", "CartPole-v1", **TINY)
    algo.train()
    path = algo.save(tmp_path / "saved")
    file = min(path.glob("replay-*"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(poise.CheckpointError, match=f"the content of {file.name!r} has changed"):
        poise.load(path)


KILLED = """
    import poise
    settings = {settings!r}
    poise.run("DQN", "CartPole-v1", stop={{"training_iteration": 40}}, folder={folder!r},
              name="killed", quiet=True, checkpoint_interval_s=1e-9, **settings)
"""


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_bit(tmp_path: Path) -> None:
    settings = {**TINY, **FAMILY["all"]}
    code = textwrap.dedent(KILLED.format(settings=settings, folder=str(tmp_path)))
    child = warm.Popen([sys.executable, "-c", code], env=child_env())
    (run,) = [tmp_path / "DQN_CartPole-v1" / "killed"]
    deadline = time.monotonic() + 60
    while len(checkpoint.checkpoints(run / "checkpoints")) < 2 and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    at = max(int(path.name) for path in checkpoint.checkpoints(run / "checkpoints"))
    assert at < 40
    resumed = poise.resume(run, quiet=True)
    with poise.make_trainer("DQN", "CartPole-v1", progress=False, **settings) as straight:
        straight.learn(stop={"training_iteration": 40})
        assert resumed.trainer.iteration == 40
        assert torch.equal(resumed.trainer.algorithm.flat.data, straight.algorithm.flat.data)
        ends = [
            without_times(checkpoint.read(t.save(tmp_path / n))[2])
            for t, n in ((straight, "a"), (resumed.trainer, "b"))
        ]
        assert same(ends[0]["algorithm"], ends[1]["algorithm"])
    resumed.trainer.close()
    assert "grade: bitwise" in (run / "log.txt").read_text()
