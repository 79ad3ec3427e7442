"""Guards that a policy that was changed from outside goes on learning from what it is now.

Nothing trains in vain.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import poise
from environments import Echo
from poise.errors import ModelError
from poise.learning.optimizers import Adam, Flat
from poise.models.mlp import MLP, parallel
from poise.training.trainer import Trainer

Make = Callable[..., Trainer]
SMALL: dict[str, Any] = {
    "PPO": {"num_envs": 4, "n_steps": 16, "sgd_minibatch_size": 16, "num_sgd_iter": 2},
    "A2C": {"num_envs": 4, "n_steps": 8, "timesteps_per_iteration": 64},
    "DQN": {
        "num_envs": 4,
        "learning_starts": 32,
        "timesteps_per_iteration": 64,
        "weight_decay": 0.1,
    },
    "IMPALA": {"num_envs": 4, "n_steps": 16, "timesteps_per_iteration": 64},
    "APPO": {"num_envs": 4, "n_steps": 16, "timesteps_per_iteration": 64},
}
ALL = pytest.mark.parametrize("algorithm", SMALL)
REPEATABLE = pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN"])
HIDDEN = {"PPO": "pi", "A2C": "pi", "DQN": "q", "IMPALA": "pi", "APPO": "pi"}


def make_echo(config: dict[str, Any]) -> Echo:
    return Echo()


def small(trainer: Make, algorithm: str, **settings: Any) -> Any:
    return trainer(algorithm, make_echo, preset=None, **{**SMALL[algorithm], **settings})


def numbers(made: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in made.policy.named_parameters()}


def moved(made: Any, before: dict[str, Tensor]) -> set[str]:
    return {name for name, p in made.policy.named_parameters() if not torch.equal(p, before[name])}


def tower(made: Any) -> Any:
    """The layers that choose actions."""
    network = made.policy.network
    return network.q if hasattr(network, "q") else network.pi


# --- changes that change nothing: the same run, bit for bit ---------------------------------------


def gradients_to_none(made: Any) -> None:
    torch.optim.SGD(made.policy.parameters(), 0.1).zero_grad()  # which sets them to None


def other_tensors(made: Any) -> None:
    made.policy.load_state_dict(
        {k: v.clone() for k, v in made.policy.state_dict().items()}, assign=True
    )


def other_data(made: Any) -> None:
    for parameter in made.policy.parameters():
        parameter.data = parameter.data.clone()


def another_layer(made: Any) -> None:
    layers = tower(made).layers
    layers[0] = copy.deepcopy(layers[0])


def training_mode(made: Any) -> None:
    made.policy.train()


CHANGES = [gradients_to_none, other_tensors, other_data, another_layer, training_mode]


@REPEATABLE
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings(
    "ignore:Parameters of the policy were replaced", "ignore:The policy was in training mode"
)
def test_equal_values_in_other_tensors_are_the_same_run(
    trainer: Make, algorithm: str, change: Any
) -> None:
    plain, changed = small(trainer, algorithm), small(trainer, algorithm)
    for _ in range(2):
        change(changed)
        for made in (plain, changed):
            made.train()
        assert moved(changed, numbers(plain)) == set()


@REPEATABLE
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_whoever_switched_gradients_off_learns_all_the_same(
    trainer: Make, algorithm: str, mode: Any
) -> None:
    ends = []
    for around in (nullcontext, mode):
        with around():
            made = small(trainer, algorithm)
            before = numbers(made)
            made.learn(128)
            assert moved(made, before)
            ends.append(numbers(made))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@ALL
@pytest.mark.parametrize("change", [*CHANGES, nullcontext])
@pytest.mark.filterwarnings(
    "ignore:Parameters of the policy were replaced", "ignore:The policy was in training mode"
)
def test_all_goes_on_learning_and_acting_by_what_is_learnt(
    trainer: Make, algorithm: str, change: Any
) -> None:
    made = small(trainer, algorithm)
    made.train()
    change(made)
    before = numbers(made)
    # Without a gradient, Adam's memory alone would move them.
    assert made.train()["learner/grad_norm"] > 0
    assert moved(made, before) == set(before)
    if algorithm in ("IMPALA", "APPO"):
        made.samplers.publish(0)
        published = made.samplers._published[0]
        assert torch.equal(published, torch.cat([p.flatten() for p in made.policy.parameters()]))


# --- changes that do change something -------------------------------------------------------------


@ALL
def test_a_layer_of_another_size_is_learnt_and_said(trainer: Make, algorithm: str) -> None:
    made = small(trainer, algorithm, model={"fcnet_hiddens": [8]})
    made.train()
    layers = tower(made).layers
    layers[0], layers[1] = nn.Linear(4, 12), nn.Linear(12, layers[1].out_features)
    before = numbers(made)
    with pytest.warns(
        RuntimeWarning, match="Parameters of the policy were replaced .*layers.0.weight"
    ):
        made.train()
    assert moved(made, before) == set(before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        made.train()
    if algorithm == "DQN":
        assert made.algorithm.target.network.q.layers[0].out_features == 12


@ALL
def test_a_warm_start_by_imitation_goes_on(trainer: Make, algorithm: str) -> None:
    """PyTorch's own loop teaches the right answers.

    What is learnt then begins there, and gets no worse.
    """
    made = small(
        trainer, algorithm, lr=1e-4, **({"initial_epsilon": 0.05} if algorithm == "DQN" else {})
    )
    optimizer = torch.optim.Adam(made.policy.parameters(), lr=0.02)
    shown = torch.eye(4)
    for _ in range(60):
        scores = made.policy.actor(shown)
        loss = nn.functional.cross_entropy(scores, torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    taught = numbers(made)
    result = made.learn(64 if algorithm == "DQN" else 512)
    assert moved(made, taught)
    assert result["episode_reward_mean"] > 6.5  # of 8; chance is 2
    assert made.evaluate(10)["episode_reward_mean"] == 8


def test_the_first_target_is_the_network_as_it_is_when_learning_begins(trainer: Make) -> None:
    made = small(trainer, "DQN", lr=0.0, target_network_update_freq=100_000)
    nn.init.normal_(tower(made).layers[0].weight)
    made.train()
    assert torch.equal(
        made.algorithm.target.network.q.layers[0].weight, tower(made).layers[0].weight
    )


# --- frozen layers --------------------------------------------------------------------------------


def freeze(made: Any, learns: bool = False) -> set[str]:
    layer = tower(made).layers[0]
    layer.requires_grad_(learns)
    return {
        name for name, p in made.policy.named_parameters() if p is layer.weight or p is layer.bias
    }


@ALL
@pytest.mark.parametrize("when", ["before", "amid"])
def test_frozen_layers_stay_to_the_bit_and_thaw(
    trainer: Make, algorithm: str, when: str, tmp_path: Path
) -> None:
    made = small(trainer, algorithm)
    if when == "amid":  # moments, momentum and a target network are there then
        made.train()
    frozen, before = freeze(made), numbers(made)
    assert len(frozen) == 2
    for _ in range(2):
        made.train()
    assert moved(made, before) == set(before) - frozen

    made.save(tmp_path / "half")
    again = poise.load(tmp_path / "half", env=make_echo)
    with pytest.warns(
        RuntimeWarning, match=r"Frozen, as when it was saved: network\.\w+\.layers\.0\.weight, "
    ):
        again.train()
    made.train()
    for each in (made, again):
        assert moved(each, before) == set(before) - frozen
        freeze(each, learns=True)
        each.train()
        assert moved(each, before) == set(before)
    if algorithm in ("PPO", "A2C", "DQN"):
        assert moved(again, numbers(made)) == set()
    again.close()


@pytest.mark.parametrize("algorithm", ["IMPALA", "APPO"])
def test_a_checkpoint_between_does_not_hide_a_change_from_the_samplers(
    trainer: Make, algorithm: str, tmp_path: Path
) -> None:
    """They act with a copy, whose parameters must lie in the same places."""
    made = small(trainer, algorithm, lr=0.0)
    made.train()
    freeze(made)
    tower(made).layers[1] = copy.deepcopy(tower(made).layers[1])
    made.save(tmp_path / "between")
    with pytest.warns(poise.PoiseWarning, match="Parameters of the policy were replaced"):
        made.train()
    acting = made.samplers.policy.state_dict()
    assert all(torch.equal(value, acting[name]) for name, value in made.policy.state_dict().items())


@ALL
def test_what_was_free_is_free_again(trainer: Make, algorithm: str, tmp_path: Path) -> None:
    made = small(trainer, algorithm)
    made.save(tmp_path / "free")
    again = poise.load(tmp_path / "free", env=make_echo)
    frozen, before = freeze(again), numbers(again)
    again.train()
    assert moved(again, before) == set(before) - frozen
    again.close()


@ALL
def test_a_policy_that_is_all_frozen_is_refused(trainer: Make, algorithm: str) -> None:
    made = small(trainer, algorithm)
    made.policy.requires_grad_(False)
    with pytest.raises(ModelError, match="All parameters of the policy are frozen"):
        made.train()


def test_adam_counts_from_where_a_parameter_began_to_learn() -> None:
    """As PyTorch's, which leaves out what has no gradient."""
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    theirs = copy.deepcopy(ours)
    ours[0].requires_grad_(False)
    flat = Flat(ours)
    mine, judge = Adam(flat), torch.optim.Adam(theirs.parameters(), 0.01, eps=1e-5)
    for step in range(12):
        if step == 5:
            ours[0].requires_grad_(True)
            change = flat.bind()
            assert change is not None
            assert change.places is not None
            mine.rearrange(change.places)
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        flat.zero_grad()
        (ours(x) ** 2).sum().backward()
        mine.step(0.01)
        judge.zero_grad()
        (theirs(x) ** 2).sum().backward()
        if step < 5:
            theirs[0].weight.grad = theirs[0].bias.grad = None
        judge.step()
        if step == 8:  # a checkpoint amid it
            restored = Adam(flat)
            restored.load_state_dict({k: v.clone() for k, v in mine.state_dict().items()})
            mine = restored
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


# --- what cannot be learnt ------------------------------------------------------------------------


@ALL
def test_an_iteration_that_moves_nothing_is_said_once(trainer: Make, algorithm: str) -> None:
    made = small(trainer, algorithm, **({"weight_decay": 0.0} if algorithm == "DQN" else {}))
    made.algorithm.optimizer.step = lambda lr: None
    with pytest.warns(
        RuntimeWarning, match="No parameter moved in an iteration, although lr is not 0"
    ):
        made.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.train()


@ALL
def test_a_learning_rate_of_zero_moves_nothing_and_needs_no_word(
    trainer: Make, algorithm: str
) -> None:
    made = small(trainer, algorithm, lr=0.0)
    before = numbers(made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.train()
    assert moved(made, before) == set()


def test_parameters_that_cannot_learn_are_named() -> None:
    with torch.inference_mode():
        module = nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"'weight' was made under torch.inference_mode\(\)"):
        Flat(module)
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    with pytest.raises(
        ModelError, match=r"'1.weight' is float64 on cpu, and others are float32 on cpu"
    ):
        Flat(mixed)
    mixed[1].requires_grad_(False)  # what does not learn may be of any type
    assert len(Flat(mixed).data) == 6


# --- MLP: always the parameters of now ------------------------------------------------------------


def plain(mlp: MLP, x: Tensor) -> Tensor:
    for layer in mlp.layers[:-1]:
        x = torch.tanh(layer(x))
    y: Tensor = mlp.layers[-1](x)
    return y


def test_layers_are_called_by_what_they_are_now() -> None:
    torch.manual_seed(0)
    mlp, x = MLP([3, 5, 2], "tanh"), torch.randn(4, 3)

    def check() -> None:
        torch.testing.assert_close(mlp(x), plain(mlp, x))
        torch.testing.assert_close(parallel(mlp, mlp, x)[1], plain(mlp, x))
        with torch.no_grad():
            torch.testing.assert_close(mlp(x), plain(mlp, x))

    mlp.layers[0] = nn.Linear(3, 5)
    check()
    mlp.layers[1].weight = nn.Parameter(torch.randn(2, 5))
    check()
    mlp.load_state_dict({k: torch.randn_like(v) for k, v in mlp.state_dict().items()}, assign=True)
    check()
    mlp.layers[0] = nn.Linear(3, 5, bias=False)
    check()
    nn.utils.parametrizations.spectral_norm(mlp.layers[1])
    mlp.eval()
    check()
    seen: list[int] = []
    mlp = MLP([3, 5, 2], "tanh")
    mlp.layers[0].register_forward_hook(lambda module, args, output: seen.append(1))
    mlp(x)
    assert seen == [1]


def test_functional_calls_compute_with_what_they_are_given(trainer: Make) -> None:
    made = small(trainer, "PPO")
    x = torch.randn(5, 4)
    other = {
        name: torch.randn_like(p).requires_grad_() for name, p in made.policy.named_parameters()
    }
    twin = copy.deepcopy(made.policy)
    twin.load_state_dict(other)
    inputs, values = functional_call(made.policy, other, (x,))
    torch.testing.assert_close((inputs, values), twin(x))
    grads = torch.autograd.grad(inputs.sum() + values.sum(), list(other.values()))
    assert all(grad.abs().sum() > 0 for grad in grads)
    torch.testing.assert_close(twin.actor(x), inputs)


def test_environments_play_with_a_policy_that_was_replaced(trainer: Make) -> None:
    """The sampler acts with it at once, not only after an update."""
    made = small(trainer, "PPO", lr=0.0)
    layers = tower(made).layers
    state = {k: torch.zeros_like(v) for k, v in made.policy.state_dict().items()}
    last = f"network.pi.layers.{len(layers) - 1}.bias"
    state[last] = torch.tensor([0.0, 0.0, 50.0, 0.0])  # always the third action
    made.policy.load_state_dict(state, assign=True)
    with pytest.warns(RuntimeWarning, match="were replaced"):
        made.train()
    assert made.samplers.members[0].rollout.action.unique().tolist() == [2]
    assert isinstance(made.compute_action(np.eye(4, dtype=np.float32)[0]), (int, np.integer))
    assert gym.spaces.Discrete(4).contains(made.compute_action(np.eye(4, dtype=np.float32)[1]))


# --- what is made: the same for a seed, and pretrained parts are left alone -----------------------


class Pretrained(nn.Module):
    """Batch statistics and dropout, and a layer drawn from PyTorch's generator.

    Other threads draw meanwhile.
    """

    disturbed = False

    def __init__(self, observation_space: Any, num_outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        if self.disturbed:
            other = threading.Thread(target=lambda: torch.manual_seed(torch.randn(3).numel()))
            other.start()
            other.join()
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.norm.running_mean.fill_(3.0)  # type: ignore[union-attr]
        self.norm.running_var.fill_(2.0)  # type: ignore[union-attr]
        self.out, self.value = nn.Linear(8, num_outputs), nn.Parameter(torch.randn(8))
        self.register_buffer("calls", torch.zeros(()))
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        self.modes.append(self.training)
        x = self.drop(self.norm(torch.tanh(self.first(x))))
        return self.out(x), x @ self.value


@ALL
@pytest.mark.usefixtures("registries")
def test_a_pretrained_model_keeps_its_statistics(trainer: Make, algorithm: str) -> None:
    poise.register_model("pretrained", Pretrained)
    made = small(trainer, algorithm, model={"custom_model": "pretrained"})
    network = made.policy.network
    assert network.calls == 0  # the probe has left no trace
    made.train()
    assert not any(network.modes)
    assert network.norm.running_mean.tolist() == [3.0] * 8
    assert network.norm.running_var.tolist() == [2.0] * 8
    assert network.norm.num_batches_tracked == 0


@pytest.mark.usefixtures("registries")
def test_the_probe_takes_nothing_from_the_environments_own_generator(trainer: Make) -> None:
    poise.register_model("pretrained", Pretrained)
    env = Echo()
    env.observation_space.seed(5)
    expected = copy.deepcopy(env.observation_space).sample()
    made = trainer("PPO", lambda config: env, num_envs=1, model={"custom_model": "pretrained"})
    assert made.policy.obs_layout.space == env.observation_space
    np.testing.assert_array_equal(env.observation_space.sample(), expected)


@pytest.mark.usefixtures("registries")
def test_first_weights_follow_from_the_seed_whatever_other_threads_draw(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    poise.register_model("pretrained", Pretrained)
    made = []
    for disturbed in (False, True):
        monkeypatch.setattr(Pretrained, "disturbed", disturbed)
        before = torch.get_rng_state()
        made.append(small(trainer, "PPO", model={"custom_model": "pretrained"}))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(made[0].algorithm.flat.data, made[1].algorithm.flat.data)
