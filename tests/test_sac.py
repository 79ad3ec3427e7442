"""Guards SAC and its relatives: their update, their kinds of actions, and going on exactly.

The update is compared with one in plain PyTorch, differentiated by autograd.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

import poise
from environments import Copy, Endless, Masked, Strict
from poise.algorithms.off_policy import Minibatch
from poise.algorithms.sac import Learnt
from poise.config.model import ModelConfig
from poise.config.presets import PRESETS
from poise.errors import ConfigError, ModelError, SpaceError
from poise.learning.distributions import Deterministic
from poise.learning.losses import quantile_slopes
from poise.models.actions import Actions
from poise.models.catalog import _models
from poise.models.critics import Critics
from poise.models.mlp import MLP
from poise.models.soft import SoftActions
from poise.spaces.layout import Layout
from poise.training.trainer import Trainer
from poise.training.unused import unused
from test_checkpoint import same
from tiers import few

Make = Callable[..., Trainer]

BOX = spaces.Box(-2, 3, (2,), np.float32)
ACTIONS: dict[str, spaces.Space] = {
    "numbers": BOX,
    "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "choice": spaces.Discrete(4, start=2),
    "choices": spaces.MultiDiscrete([2, 3]),
    "bits": spaces.MultiBinary(3),
    "nothing": spaces.Box(-1, 1, (0,)),
    "all": spaces.Dict(
        a=spaces.Box(-1, 1, (2,)),
        b=spaces.Discrete(3),
        c=spaces.MultiBinary(2),
        d=spaces.Box(-np.inf, np.inf, (1,)),
        e=spaces.MultiDiscrete([2, 4]),
    ),
}
TINY: dict[str, Any] = {
    "preset": None,
    "seed": 11,
    "num_envs_per_worker": 2,
    "train_batch_size": 16,
    "learning_starts": 60,
    "buffer_size": 400,
    "timesteps_per_iteration": 100,
    "learner_dtype": "float32",
    "model": {"fcnet_hiddens": [16, 16]},
}
REPLAYED = {key: value for key, value in TINY.items() if key != "learner_dtype"}  # DQN's, too
SOFT = ModelConfig(action_distribution="squashed_gaussian", free_log_std=False)
EACH = pytest.mark.parametrize("actions", ACTIONS.values(), ids=ACTIONS.keys())


def soft_actions(space: spaces.Space) -> tuple[SoftActions, Actions]:
    bounded = "unbounded" if space is ACTIONS["unbounded"] else ""
    config = ModelConfig(free_log_std=False) if bounded else SOFT
    actions = Actions(Layout(space), config)
    return SoftActions(actions), actions


# --- parts of the update --------------------------------------------------------------------------


@EACH
def test_gradients_by_the_policys_outputs_are_autograds(actions: spaces.Space) -> None:
    soft, known = soft_actions(actions)
    generator = torch.Generator().manual_seed(0)
    kinds: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    inputs = torch.randn(7, known.dist.num_inputs, **kinds).requires_grad_()
    noise, alpha = torch.randn(7, soft.size, **kinds), torch.rand(len(soft.kinds), **kinds)
    base, by_number = torch.randn(7, soft.columns, **kinds), torch.randn(soft.size, soft.columns)
    drawn = soft.drawn(inputs, noise)
    q = base + drawn.numbers.sin() @ by_number.double()
    (soft.expected(drawn, q) + soft.bonus(drawn, alpha)).sum().backward()
    with torch.no_grad():
        pull = (drawn.odds @ by_number.double().T) * drawn.numbers.cos()
        found = soft.gradient(soft.drawn(inputs, noise), q, pull, alpha)
    assert torch.allclose(found, inputs.grad, atol=1e-12)


@EACH
def test_what_is_drawn_has_the_distributions_probabilities(actions: spaces.Space) -> None:
    soft, known = soft_actions(actions)
    inputs = torch.randn(64, known.dist.num_inputs)
    noise = known.dist.noise((64,))
    sample = known.dist.sample(inputs, noise)
    numbers, chosen = soft.replayed(sample)
    drawn = soft.drawn(inputs, noise[:, -soft.size :] if soft.size else noise[:, :0])
    log_prob = drawn.log_prob
    if chosen is not None:
        log_prob = log_prob + drawn.log_odds.gather(1, chosen).sum(1)
    assert torch.allclose(numbers, drawn.numbers, atol=1e-6)
    assert torch.allclose(log_prob, known.dist.log_prob(inputs, sample), atol=1e-4)
    if "numbers" not in soft.kinds:
        entropy = soft.entropies(drawn).sum(1)
        assert torch.allclose(entropy, known.dist.entropy(inputs), atol=1e-5)


def test_quantile_slopes_are_autograds() -> None:
    z = torch.randn(2, 5, 6, dtype=torch.float64).mul_(2).requires_grad_()
    y = torch.randn(5, 9, dtype=torch.float64) * 2
    tau = (torch.arange(6, dtype=torch.float64) + 0.5) / 6
    delta = y[None, :, None, :] - z[..., None]
    huber = F.huber_loss(delta, torch.zeros_like(delta), reduction="none")
    ((tau[:, None] - (delta < 0).double()).abs() * huber).mean((-2, -1)).sum().backward()
    assert torch.allclose(quantile_slopes(z.detach(), y), z.grad)


def test_a_traced_network_goes_back_to_its_input() -> None:
    torch.manual_seed(0)
    network, x = MLP([5, 80, 80, 3], "relu"), torch.randn(700, 5, requires_grad=True)
    grad = torch.randn(700, 3) / 100
    network(x).backward(grad)
    expected, by_input = [p.grad.clone() for p in network.parameters()], x.grad
    for parameter in network.parameters():
        parameter.grad.zero_()
    with torch.no_grad():
        _, backward = network.trace(x.detach())
        assert torch.allclose(backward(grad, learns=False, to_input=True), by_input, atol=1e-6)
        assert not any(parameter.grad.any() for parameter in network.parameters())
        backward(grad)
        found = [parameter.grad.clone() for parameter in network.parameters()]
        _, narrow = network.trace(x.detach(), torch.bfloat16)
        narrow(grad)
        few = network.trace(x[:9].detach(), torch.bfloat16)[0]
    assert torch.equal(few, network(x[:9]))  # a small product gains nothing from a shorter type
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(found, expected, strict=True))
    for parameter, exact in zip(network.parameters(), expected, strict=True):
        assert 0 < (parameter.grad - exact).norm() < 0.1 * exact.norm() or parameter.ndim == 1


@pytest.mark.parametrize("traced", [True, False])
def test_critics_trace_what_autograd_finds(traced: bool) -> None:
    torch.manual_seed(0)
    activation = "relu" if traced else "gelu"
    critics = Critics((None, 4), 2, 3, 2, ModelConfig([8, 8], fcnet_activation=activation))
    for parameter in critics.parameters():
        parameter.grad = torch.zeros_like(parameter)
    x, numbers, grad = torch.randn(6, 4), torch.randn(6, 2), torch.randn(2, 6, 3)
    given = numbers.clone().requires_grad_()
    q = critics(x, given)
    expected = torch.autograd.grad(q, [*critics.parameters(), given], grad)
    with torch.no_grad():
        found, backward = critics.trace(x, numbers)
        by_input = backward(grad, to_input=True)
    assert torch.allclose(found, q)
    assert torch.allclose(by_input, expected[-1], atol=1e-6)
    for parameter, exact in zip(critics.parameters(), expected, strict=False):
        assert torch.allclose(parameter.grad, exact, atol=1e-6)


# --- the update -----------------------------------------------------------------------------------


def plain_update(algorithm: Any, m: Minibatch, noise: list[Tensor]) -> dict[str, Any]:
    """SAC's gradients for a `Box` action as one would write them, and its next α."""
    config, policy = algorithm.config, copy.deepcopy(algorithm.policy)
    critics = copy.deepcopy(algorithm.critics)
    target = copy.deepcopy(algorithm.targets["critics"].module)
    quantiles = config.num_quantiles
    log_alpha = algorithm.temperature.log_alpha.detach().clone().requires_grad_()
    alpha = log_alpha.exp().detach()

    def act(x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = policy.actor(x).chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
        u = mean + normal.scale * eps
        log_prob = normal.log_prob(u).sum(-1) - torch.log(1 - torch.tanh(u) ** 2).sum(-1)
        return torch.tanh(u), log_prob

    with torch.no_grad():
        action, log_prob = act(m.next_x, noise[0])
        q = target(m.next_x, action)
        if quantiles == 1:
            q = torch.minimum(q[0], q[1])
        else:
            pooled = torch.cat(list(q), 1).sort(1).values
            q = pooled[:, : pooled.shape[1] - 2 * config.top_quantiles_to_drop]
        y = m.reward[:, None] + m.discount[:, None] * (q - alpha * log_prob[:, None])
    q = critics(m.x, m.action.tanh())
    if quantiles == 1:
        loss = sum(0.5 * (each - y).square().mean() for each in q)
    else:
        tau = (torch.arange(quantiles, dtype=y.dtype) + 0.5) / quantiles
        delta = y[None, :, None] - q[..., None]
        huber = F.huber_loss(delta, torch.zeros_like(delta), reduction="none")
        loss = ((tau[:, None] - (delta < 0).to(y)).abs() * huber).mean()
    critic_grads = torch.autograd.grad(loss, list(critics.parameters()))
    return {"policy": policy, "act": act, "alpha": alpha, "critic_grads": critic_grads}


@pytest.mark.parametrize("options", [{}, {"num_quantiles": 5}], ids=["SAC", "TQC"])
def test_one_update_is_that_of_plain_pytorch(trainer: Make, options: dict[str, Any]) -> None:
    trained = trainer("SAC", "Pendulum-v1", **{**TINY, **options, "lr": 0.01, "tau": 0.3})
    trained.learn(total_timesteps=100)
    algorithm: Any = trained.algorithm
    for module in (algorithm.policy, algorithm.critics, algorithm.targets["critics"].module):
        module.double()
    algorithm.rebind(trained.environments.samplers)
    algorithm.temperature.double()
    for learner in algorithm.learners.values():
        learner.bind()
    [m] = algorithm.minibatches(algorithm.replay, 1)
    m = Minibatch(**{k: v.double() if isinstance(v, Tensor) else v for k, v in vars(m).items()})
    noise = [torch.randn(16, 1, dtype=torch.float64) for _ in range(2)]
    expected = plain_update(algorithm, m, noise)
    given = iter(noise)
    algorithm.noise = lambda x: next(given)
    steps: dict[str, Tensor] = {}
    for name, learner in algorithm.learners.items():
        learner.step = lambda lr, n=name, f=learner.flat: steps.update({n: f.grad.clone()}) or 1.0
    with torch.no_grad():
        algorithm.update(m)
    flat = torch.cat([grad.flatten() for grad in expected["critic_grads"]])
    assert torch.allclose(steps["critics"], flat, atol=1e-9)
    action, log_prob = expected["act"](m.x, noise[1])
    q = algorithm.critics(m.x, action)
    value = torch.minimum(q[0], q[1])[:, 0] if not options else q.mean((0, 2))
    loss = (expected["alpha"] * log_prob - value).mean()
    policy = expected["policy"]
    flat = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(policy.parameters()))])
    assert torch.allclose(steps["policy"], flat, atol=1e-9)
    assert torch.allclose(steps["temperature"], -(log_prob.detach() - 1.0).mean())


def test_entropy_on_the_way_counts(trainer: Make) -> None:
    """r + γ (r' + α H(π(s'))) + ..., discounted as rewards are, and nothing beyond an end."""
    algorithm: Any = trainer("SAC", Endless, **{**TINY, "n_step": 3, "gamma": 0.5}).algorithm
    made = trainer("SAC", Endless, **{**TINY, "n_step": 3, "gamma": 0.5})
    made.train()
    algorithm = made.algorithm
    replay = algorithm.replay
    index = replay.draw(8, torch.Generator().manual_seed(0))
    replay.draw = lambda count, generator: index
    plain = replay.batch(index, n_step=3, gamma=0.5)
    algorithm.policy.soft.bonus = lambda drawn, alpha: torch.full((8,), 10.0)
    with torch.no_grad():
        batch, _ = algorithm.draw(replay, 8)
    worth = sum(weight for _, weight in plain.later)
    assert torch.allclose(batch.reward, plain.reward + 10 * worth)
    assert set(worth.tolist()) <= {0.75, 0.5, 0.0}
    assert 0.75 in worth


def test_td3_adds_clipped_noise_and_moves_late(trainer: Make) -> None:
    made = trainer("TD3", "Pendulum-v1", **{**TINY, "target_noise": 9.0, "target_noise_clip": 0.25})
    made.learn(total_timesteps=200)
    algorithm: Any = made.algorithm
    x = torch.randn(500, 3)
    with torch.no_grad():
        plain = algorithm.policy.soft.drawn(
            algorithm.targets["policy"].module.actor(x), None
        ).numbers
        moved = algorithm.following(x).numbers - plain
    assert moved.abs().max() <= 0.25 + 1e-6
    assert (moved.abs() > 0.2499).float().mean() > 0.5
    critics, policy = (algorithm.learners[name].updates for name in ("critics", "policy"))
    assert critics == 2 * policy > 0
    followed = []
    for _ in range(4):
        before = algorithm.targets["critics"].flat.whole.clone()
        algorithm.learn(algorithm.replay, 1)
        followed.append(not torch.equal(before, algorithm.targets["critics"].flat.whole))
    assert followed == [False, True, False, True]


# --- actions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SAC", "TQC", "CrossQ"])
@EACH
def test_actions_of_all_kinds_are_learnt_from(
    trainer: Make, name: str, actions: spaces.Space
) -> None:
    bad: list[Any] = []
    made = trainer(name, lambda _: Strict(BOX, actions, bad), **TINY, policy_delay=1)
    for _ in range(2):
        result = made.train()
    assert not bad
    assert result["learner/sgd_steps"] == 100
    assert math.isfinite(result["learner/td_error"])
    assert math.isfinite(result["learner/entropy"])


def test_first_actions_are_uniform(trainer: Make) -> None:
    space = spaces.Dict(a=spaces.Box(-2, 3, (2,), np.float32), b=spaces.Discrete(4))
    settings = {**TINY, "learning_starts": 2000, "num_envs_per_worker": 8}
    made = trainer("SAC", lambda _: Strict(BOX, space, []), **settings)
    policy: Any = made.algorithm.policy
    made.algorithm.explore(sampling=True)
    obs = {leaf.name: torch.zeros(4000, *leaf.shape) for leaf in policy.obs_layout.leaves}
    noise = policy.dist.noise((4000,), torch.Generator().manual_seed(0))
    action, _, _ = policy.act(obs, (), torch.zeros(4000), noise)
    given = policy.env_action(action)
    counts, _ = np.histogram(given["a"], 10, (-2, 3))
    assert counts.min() > 680
    assert counts.max() < 920
    assert np.bincount(given["b"]).min() > 880


def test_masked_actions_are_never_taken(trainer: Make) -> None:
    bad: list[Any] = []
    made = trainer("SAC", lambda _: Masked(bad), **TINY)
    made.learn(total_timesteps=600)
    assert not bad
    assert made.algorithm.policy.masked
    assert made.algorithm.updates > 200


@pytest.mark.slow
def test_numbers_and_choices_are_learnt_together(trainer: Make) -> None:
    """An action of every kind, to be what is observed: 95 % of what there is to get."""
    space = spaces.Dict(
        numbers=spaces.Box(-1, 1, (2,), np.float32), choice=spaces.Discrete(3),
        pair=spaces.MultiDiscrete([2, 3]), bits=spaces.MultiBinary(2),
    )  # fmt: skip
    settings = {**TINY, "gamma": 0.0, "learning_starts": 300, "train_batch_size": 64, "lr": 3e-3}
    made = trainer("SAC", lambda _: Copy(space), **settings)
    made.learn(total_timesteps=2000)
    assert made.evaluate(10)["episode_reward_mean"] > 0.95 * Copy.length


def test_td3_takes_numbers_alone(trainer: Make) -> None:
    with pytest.raises(SpaceError, match=r"must be Box, not Discrete.*SAC takes actions of any"):
        trainer("TD3", "CartPole-v1", **TINY)
    dist = Deterministic(2, torch.tensor([True, False]), 5.0)
    sample = dist.sample(torch.tensor([[0.3, 3.0]]), torch.tensor([[1.0, 1.0]]))
    assert sample.tolist() == [[1.0, 8.0]]


def test_one_target_is_for_one_kind_of_actions(trainer: Make) -> None:
    with pytest.raises(ConfigError, match=r"target_entropy=-2 .* choices and bits and numbers"):
        trainer("SAC", lambda _: Strict(BOX, ACTIONS["all"], []), target_entropy=-2.0)
    trainer("SAC", lambda _: Strict(BOX, ACTIONS["all"], []), target_entropy="auto", **TINY)


def test_too_many_quantiles_to_drop_are_refused(trainer: Make) -> None:
    with pytest.raises(ConfigError, match=r"top_quantiles_to_drop=7 .* less than num_quantiles=5"):
        trainer("SAC", "Pendulum-v1", num_quantiles=5, top_quantiles_to_drop=7)


def test_whoever_explores_during_the_first_steps_has_the_policy(trainer: Make) -> None:
    """Only rollouts are sampled uniformly, also those that a thread begins."""
    settings = {**TINY, "learning_starts": 5000, "learner_thread": True}
    made = trainer("SAC", "Pendulum-v1", **settings)
    bias = made.policy.network.pi.bias.data
    bias.copy_(torch.tensor([1.0, -9.0]))
    for _ in range(2):
        made.train()
        actions = [made.compute_action(np.zeros(3), explore=True).item() for _ in range(20)]
        assert np.std(actions) < 0.01
    sampled = made.algorithm.replay.action[:200]  # type: ignore[attr-defined]
    assert np.std(np.tanh(sampled)) > 0.5


def test_td3_climbs_the_mean_of_quantiles(trainer: Make) -> None:
    algorithm: Any = trainer("TD3", "Pendulum-v1", num_quantiles=5, preset=None).algorithm
    q = torch.arange(20.0).view(2, 2, 5)
    value, slope = algorithm.worth(q, torch.ones(2, 1))
    assert value.tolist() == [[2.0], [7.0]]
    assert torch.equal(slope[0], torch.full((2, 5), 0.2))
    assert not slope[1].any()


def test_each_learner_goes_by_its_own_rate(trainer: Make) -> None:
    made = trainer("SAC", "Pendulum-v1", **TINY, critic_lr=0.0, alpha_lr=0.0)
    learners = made.algorithm.learners
    before = {name: learner.flat.data.clone() for name, learner in learners.items()}
    made.train()
    moved = [name for name, old in before.items() if not torch.equal(old, learners[name].flat.data)]
    assert moved == ["policy"]


def test_what_a_mask_rules_out_lowers_the_target_entropy(trainer: Make) -> None:
    algorithm: Any = trainer("SAC", lambda _: Masked([]), **TINY).algorithm
    choices = algorithm.policy.dist.num_inputs
    forbidden = torch.arange(choices).expand(2, -1) >= torch.tensor([[1], [2]])
    found = algorithm.target_entropy("choices", forbidden)
    assert torch.allclose(found, 0.3 * torch.tensor([0.0, math.log(2)]))


def test_errors_of_opposite_sign_do_not_cancel() -> None:
    learnt = Learnt(torch.tensor([[3.0, 1.0], [-3.0, 2.0]]), torch.zeros(2, 2, 1), 1.0)
    assert learnt.error.tolist() == [3.0, 1.5]
    assert learnt.statistics()["td_error"] == 2.25


# --- what users change ----------------------------------------------------------------------------


class Lazy(nn.Module):
    """A custom model whose shapes follow from what it sees first."""

    def __init__(self, space: spaces.Space, outputs: int) -> None:
        super().__init__()
        self.body, self.pi, self.v = nn.LazyLinear(8), nn.LazyLinear(outputs), nn.LazyLinear(1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x).tanh()
        return self.pi(h), self.v(h)


@pytest.mark.parametrize("name", ["SAC", "TD3"])
def test_critics_have_custom_models_made_at_their_first_call(
    trainer: Make, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_models, "lazy", Lazy)
    model = {"custom_model": "lazy", "fcnet_hiddens": [16], "fcnet_activation": "tanh"}
    made = trainer(name, "Pendulum-v1", **{**TINY, "model": model})
    assert [w for w in unused(made) if "custom model" in w] == []  # critics have these layers
    assert made.train()["learner/grad_norm"] > 0


@pytest.mark.parametrize("name", ["SAC", "TD3", "DQN"])
def test_networks_may_be_put_in_place_of_stacks(trainer: Make, name: str) -> None:
    made = trainer(name, "CartPole-v1" if name == "DQN" else "Pendulum-v1", **REPLAYED)
    made.train()
    algorithm: Any = made.algorithm
    stacks = [(algorithm.policy.network, "q" if name == "DQN" else "pi")]
    if name != "DQN":
        stacks.append((algorithm.critics.q, "1"))
    for parent, key in stacks:
        old = getattr(parent, key)
        new = nn.Linear(old.layers[0].in_features, 8), nn.Linear(8, len(old.bias))
        setattr(parent, key, nn.Sequential(*new))
    assert made.train()["learner/grad_norm"] > 0


@pytest.mark.parametrize("name", ["SAC", "DQN"])
def test_targets_take_buffers_that_are_new(trainer: Make, name: str) -> None:
    made = trainer(name, "CartPole-v1", **{**REPLAYED, "target_network_update_freq": 10**6})
    made.train()
    algorithm: Any = made.algorithm
    [(learner, target)] = algorithm.targets.items()
    before = target.flat.whole.clone()
    module = algorithm.learners[learner].module
    layer = next(part for part in module.modules() if isinstance(part, nn.Linear))
    layer.register_buffer("new", torch.ones(3))
    made.train()
    assert torch.equal(target.flat.whole, before)
    assert any(name.endswith(".new") for name, _ in target.module.named_buffers())


def test_critics_that_are_not_finite_are_named(trainer: Make) -> None:
    made = trainer("SAC", "Pendulum-v1", **TINY)
    algorithm: Any = made.algorithm
    algorithm.critics.q[1].bias.data.fill_(math.nan)
    with pytest.raises(ModelError, match=r"'q.1.layers.2.bias' of the critics holds numbers"):
        made.train()


# --- going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SAC", "TQC", "CrossQ", "TD3", "DDPG"])
def test_going_on_is_exact(trainer: Make, name: str, tmp_path: Any) -> None:
    settings = {**TINY, "n_step": 2, "prioritized_replay": True}
    whole = trainer(name, "Pendulum-v1", **settings)
    for _ in range(4):
        whole.train()
    part = trainer(name, "Pendulum-v1", **settings)
    for _ in range(2):
        part.train()
    part.save(tmp_path / "saved")
    again = poise.load(tmp_path / "saved")
    for _ in range(2):
        again.train()
    assert same(whole.algorithm.state_dict(), again.algorithm.state_dict())
    assert same(dict(whole.policy.state_dict()), dict(again.policy.state_dict()))
    again.close()


def test_a_learner_in_a_thread_lags_by_a_round(trainer: Make) -> None:
    made = trainer("SAC", "Pendulum-v1", **{**TINY, "learner_thread": True})
    results = [made.train() for _ in range(3)]
    assert results[-1]["learner/sgd_steps"] == 100
    assert results[-1]["learner/policy_lag_max"] <= 4
    assert not made.algorithm.repeatable


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", few("SAC", "CrossQ", "TD3", of=["SAC", "TQC", "CrossQ", "TD3", "DDPG"])
)
def test_pendulum_swings_up(trainer: Make, name: str) -> None:
    """With SAC's preset; CrossQ has no target networks, whose pace `tau` is."""
    settings = dict(PRESETS["SAC"]["Pendulum-v1"])
    if name == "CrossQ":
        del settings["tau"]
    made = trainer(name, "Pendulum-v1", seed=1, preset=None, **settings)
    made.learn(total_timesteps=4000)
    assert made.evaluate(episodes=20)["episode_reward_mean"] > -250
