"""Guards the networks and the policy.

Gradients, images of all kinds, custom parts, and actions inside their space.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

import poise
from environments import DiscreteEcho, Echo, Noise
from poise.config.model import ModelConfig
from poise.errors import ModelError, SpaceError
from poise.learning.distributions import Categorical, Gaussian, SquashedGaussian
from poise.models.encoders import ImageEncoder, fastest_conv_dtype
from poise.models.mlp import ACTIVATIONS, MLP, parallel
from poise.models.policy import Policy
from poise.spaces.layout import Layout

MODULES = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
}
VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
TWO = spaces.Discrete(2)


def policy(
    obs: spaces.Space = VECTOR, actions: spaces.Space = TWO, seed: int = 0, **settings: Any
) -> Policy:
    torch.manual_seed(seed)
    return Policy(Layout(obs), Layout(actions), ModelConfig(**settings))


def inputs(n: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- MLP ------------------------------------------------------------------------------------------


def sequential(mlp: MLP) -> nn.Sequential:
    """The same layers, with copies of the parameters, in PyTorch's own words."""
    parts: list[nn.Module] = []
    for layer in mlp.layers:
        copy = nn.Linear(layer.in_features, layer.out_features, dtype=torch.float64)
        copy.load_state_dict(layer.state_dict())
        parts += [copy, MODULES[mlp.activation]()]
    return nn.Sequential(*parts[:-1])


def test_every_activation_is_tested() -> None:
    assert set(MODULES) == set(ACTIVATIONS)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(3, 2), (3, 8, 2), (9, 4, 6, 1)])
def test_mlp_equals_sequential(activation: str, sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    mlp = MLP(sizes, activation).double()
    for p in mlp.parameters():
        nn.init.normal_(p)
    judge, x = sequential(mlp), inputs(7, sizes[0]).requires_grad_()
    torch.testing.assert_close(mlp(x), judge(x))
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), judge(x))
    found = torch.autograd.grad(mlp(x).pow(2).sum(), [x, *mlp.parameters()])
    torch.testing.assert_close(
        found, torch.autograd.grad(judge(x).pow(2).sum(), [x, *judge.parameters()])
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(3, 2), (3, 8, 2), (9, 4, 6, 1)])
def test_a_traced_mlp_writes_the_gradients_of_autograd(
    activation: str, sizes: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    mlp = MLP(sizes, activation).double()
    assert mlp.is_traceable == (activation not in ("silu", "swish", "gelu"))
    if not mlp.is_traceable:
        return
    for p in mlp.parameters():
        nn.init.normal_(p)
        p.grad = torch.full_like(p, torch.nan)  # it is written over
    x = inputs(7, sizes[0])
    judge = mlp(x)
    with torch.no_grad():
        y, backward = mlp.trace(x)
        backward(y * 2)
    torch.testing.assert_close(y, judge)
    expected = torch.autograd.grad(judge.pow(2).sum(), list(mlp.parameters()))
    torch.testing.assert_close([p.grad for p in mlp.parameters()], list(expected))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_and_parallel_pass_gradcheck(activation: str) -> None:
    torch.manual_seed(1)
    first, second = MLP((3, 5, 4, 2), activation).double(), MLP((3, 6, 1), activation).double()
    x = inputs(4, 3).requires_grad_()
    parameters = [*first.parameters(), *second.parameters()]

    def run(x: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        return (*parallel(first, second, x), first(x))

    assert torch.autograd.gradcheck(run, (x, *parameters))


@pytest.mark.parametrize("activations", [("tanh", "tanh"), ("tanh", "relu"), ("gelu", "gelu")])
def test_parallel_equals_one_after_the_other(activations: tuple[str, str]) -> None:
    torch.manual_seed(2)
    first, second = (
        MLP((3, 8, 2), activations[0]).double(),
        MLP((3, 4, 4, 1), activations[1]).double(),
    )
    x = inputs(9, 3)
    together, apart = parallel(first, second, x), (first(x), second(x))
    torch.testing.assert_close(together, apart)
    parameters = [*first.parameters(), *second.parameters()]
    slopes = [
        torch.autograd.grad(a.sum() + b.pow(2).sum(), parameters) for a, b in (together, apart)
    ]
    torch.testing.assert_close(*slopes)


def test_half_of_parallel_may_go_unused() -> None:
    first, second = MLP((3, 4, 2), "tanh"), MLP((3, 4, 1), "tanh")
    parallel(first, second, torch.ones(2, 3))[0].sum().backward()
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in second.parameters())
    assert all(p.grad is not None for p in first.parameters())


@pytest.mark.parametrize(
    "space", [VECTOR, spaces.Box(0, 255, (36, 36, 3), np.uint8)], ids=["vector", "image"]
)
def test_layers_can_begin_as_pytorchs_do(space: spaces.Space) -> None:
    layers = [
        m
        for m in policy(space, initializer="uniform").modules()
        if isinstance(m, (nn.Linear, nn.Conv2d))
    ]
    assert layers
    for layer in layers:
        bound = layer.weight[0].numel() ** -0.5
        assert 0.8 * bound < layer.weight.abs().max().item() <= bound
        assert layer.bias is not None
        assert 0 < layer.bias.abs().max().item() <= bound


def test_initialisation_is_orthogonal_and_the_first_policy_nearly_uniform() -> None:
    made = policy()
    weight = made.network.pi.layers[1].weight
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(64), atol=1e-5, rtol=0)
    probabilities = made.actor(10 * torch.randn(100, 3)).softmax(-1)
    assert (probabilities - 0.5).abs().max() < 0.02


# --- towers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "obs", [VECTOR, spaces.Box(0, 255, (12, 12, 1), np.uint8)], ids=["vector", "image"]
)
def test_actor_and_critic_are_the_halves_of_forward(shared: bool, obs: spaces.Box) -> None:
    made = policy(obs, vf_share_layers=shared)
    x = torch.as_tensor(np.stack([obs.sample() for _ in range(5)]))
    both = made(x)
    torch.testing.assert_close(both, (made.actor(x), made.critic(x)))
    assert (both[0].shape, both[1].shape) == ((5, 2), (5,))


@pytest.mark.parametrize("shared", [False, True])
def test_sharing_layers_means_that_the_value_loss_moves_them(shared: bool) -> None:
    made = policy(vf_share_layers=shared)
    made.critic(torch.randn(4, 3)).sum().backward()
    grad = made.network.pi.layers[0].weight.grad
    assert (grad is not None and grad.abs().sum().item() > 0) is shared
    separate = 2 * (3 * 64 + 64 + 64 * 64 + 64) + 64 * 2 + 2 + 64 + 1
    together = (3 * 64 + 64 + 64 * 64 + 64) + 64 * 3 + 3
    assert sum(p.numel() for p in made.parameters()) == (together if shared else separate)


def test_no_hidden_layers_make_a_linear_policy() -> None:
    made = policy(fcnet_hiddens=[])
    assert sum(p.numel() for p in made.parameters()) == 3 * 2 + 2 + 3 + 1


def test_a_value_function_with_layers_of_its_own() -> None:
    made = policy(fcnet_hiddens=[], vf_fcnet_hiddens=[5, 4])
    assert [tuple(p.shape) for p in made.network.pi.parameters()] == [(2, 3), (2,)]
    assert [tuple(p.shape) for p in made.network.vf.parameters()] == [
        (5, 3),
        (5,),
        (4, 5),
        (4,),
        (1, 4),
        (1,),
    ]
    x = torch.randn(7, 3)
    with torch.no_grad():
        inputs, value = made(x)
        torch.testing.assert_close((inputs, value), (made.actor(x), made.critic(x)))


# --- images ---------------------------------------------------------------------------------------

IMAGES = [
    (84, 84, 4),
    (4, 84, 84),
    (64, 64, 3),
    (3, 64, 64),
    (10, 10, 1),
    (1, 10, 10),
    (210, 160, 3),
]
IMAGES += [(42, 42), (5, 5, 2)]


@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_images_of_any_size(shape: tuple[int, ...]) -> None:
    leaf = Layout(spaces.Box(0, 255, shape, np.uint8)).leaves[0]
    encoder = ImageEncoder(leaf, ModelConfig())
    x = torch.randint(
        256, (2, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    found = encoder(x)
    assert found.shape == (2, encoder.size)
    assert found.std() > 0
    floats = Layout(spaces.Box(0, 1, shape, np.float32)).leaves[0]
    if len(shape) == 3:  # two axes are a picture only when they hold bytes
        twin = ImageEncoder(floats, ModelConfig())
        twin.load_state_dict(encoder.state_dict())
        torch.testing.assert_close(twin(x.float() / 255), found)


def test_nature_stack_for_84_pixels() -> None:
    leaf = Layout(spaces.Box(0, 255, (84, 84, 4), np.uint8)).leaves[0]
    encoder = ImageEncoder(leaf, ModelConfig())
    assert [tuple(layer.weight.shape) for layer in encoder.layers] == [
        (32, 4, 8, 8),
        (64, 32, 4, 4),
        (64, 64, 3, 3),
    ]
    assert encoder.size == 64 * 7 * 7


@pytest.mark.parametrize("shape", [(84, 84, 4), (20, 30, 3), (10, 10, 1)], ids=str)
def test_channel_order_makes_no_difference(shape: tuple[int, ...]) -> None:
    first = (shape[2], *shape[:2])
    last_encoder, first_encoder = (
        ImageEncoder(Layout(spaces.Box(0, 255, s, np.uint8)).leaves[0], ModelConfig())
        for s in (shape, first)
    )
    first_encoder.load_state_dict(last_encoder.state_dict())
    x = torch.randint(256, (3, *shape), dtype=torch.uint8)
    torch.testing.assert_close(first_encoder(x.permute(0, 3, 1, 2)), last_encoder(x))


def test_filters_of_the_users_own() -> None:
    leaf = Layout(spaces.Box(0, 255, (20, 20, 3), np.uint8)).leaves[0]
    assert ImageEncoder(leaf, ModelConfig(conv_filters=[(5, 4, 2), (6, 9, 1)])).size == 6
    with pytest.raises(
        ModelError,
        match=r"do not fit images of \(20, 20, 3\): a kernel of 10 meets a picture of 9x9",
    ):
        ImageEncoder(leaf, ModelConfig(conv_filters=[(5, 4, 2), (6, 10, 1)]))


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
@pytest.mark.parametrize("shape", [(84, 84, 4), (4, 42, 42), (20, 30)], ids=str)
def test_pictures_in_half_precision_are_nearly_those_in_full(
    shape: tuple[int, ...], activation: str
) -> None:
    leaf = Layout(spaces.Box(0, 255, shape, np.uint8)).leaves[0]
    full, half = (
        nn.Sequential(encoder, MLP([encoder.size, 32, 5], activation))
        for encoder in (
            ImageEncoder(leaf, ModelConfig(conv_dtype=name)) for name in ("float32", "bfloat16")
        )
    )
    half.load_state_dict(full.state_dict())
    x = torch.randint(
        256, (8, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    gradients = []
    for network in (full, half):
        found = network(x)
        assert found.dtype == torch.float32
        found.square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
        assert all(
            p.dtype == g.dtype == torch.float32
            for p, g in zip(network.parameters(), gradients[-1], strict=True)
        )
    assert not torch.equal(full(x), half(x)), "something is computed in other numbers"
    torch.testing.assert_close(half(x), full(x), atol=0.03, rtol=0.03)
    with torch.no_grad():
        torch.testing.assert_close(half(x), full(x), atol=0.03, rtol=0.03)
    for one, other in zip(*gradients, strict=True):
        assert torch.cosine_similarity(one.flatten(), other.flatten(), 0) > 0.99


def test_pictures_of_floats_keep_their_precision() -> None:
    leaf = Layout(spaces.Box(0, 1, (12, 12, 3), np.float32)).leaves[0]
    assert not ImageEncoder(leaf, ModelConfig(conv_dtype="bfloat16")).reduced
    assert fastest_conv_dtype([leaf]) == "float32"


@pytest.mark.parametrize(
    ("instructions", "chosen"),
    [
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx512_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_the_faster_numbers_are_chosen_and_written_down(
    instructions: dict[str, bool],
    chosen: str,
    trainer: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    made = trainer("PPO", lambda config: Noise(spaces.Box(0, 255, (12, 12, 3), np.uint8)), **SMALL)
    assert made.config.model.conv_dtype == chosen
    assert made.policy.network.pi_encoder.reduced is (chosen == "bfloat16")


@pytest.mark.parametrize("shared", [False, True])
def test_training_on_images(trainer: Callable[..., Any], shared: bool) -> None:
    image = spaces.Box(0, 255, (12, 12, 3), np.uint8)
    made = trainer(
        "PPO", lambda config: Noise(image), n_epochs=2, model={"vf_share_layers": shared}, **SMALL
    )
    before = {name: p.detach().clone() for name, p in made.policy.named_parameters()}
    made.train()
    still = [name for name, p in made.policy.named_parameters() if torch.equal(p, before[name])]
    assert still == [], "every layer learns, the convolutions too"


# --- observations ---------------------------------------------------------------------------------


def test_discrete_observations_are_one_hot() -> None:
    made = policy(spaces.Discrete(4, start=-1))
    found = made.prepare({"value": torch.tensor([-1, 0, 2])})
    assert found.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]


def test_bytes_in_a_vector_are_scaled_and_matrices_flattened() -> None:
    given = {"value": torch.tensor([[0, 255]], dtype=torch.uint8)}
    assert policy(spaces.Box(0, 255, (2,), np.uint8)).prepare(given).tolist() == [[0, 1]]
    matrix = policy(spaces.Box(-1, 1, (2, 2), np.float32)).prepare(
        {"value": torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])}
    )
    assert matrix.tolist() == [[1, 2, 3, 4]]


def test_bytes_are_divided_by_their_upper_bound() -> None:
    given = {"value": torch.tensor([[0, 4, 2]], dtype=torch.uint8)}
    assert policy(spaces.Box(0, 4, (3,), np.uint8)).prepare(given).tolist() == [[0, 1, 0.5]]
    small = spaces.Box(0, np.array([[1, 9]], np.uint8), (1, 2), np.uint8)
    assert ImageEncoder(Layout(small).leaves[0], ModelConfig()).scale == 1 / 9


def test_a_single_vector_is_network_input_without_a_copy() -> None:
    x = torch.randn(4, 3)
    assert policy().prepare({"value": x}) is x
    nested = policy(spaces.Dict({"only": VECTOR}))
    assert nested.prepare({"only": x}) is x


def test_pictures_and_a_vector_side_by_side() -> None:
    picture = spaces.Box(0, 255, (12, 12, 3), np.uint8)
    space = spaces.Dict(
        {"near": picture, "far": spaces.Box(0, 1, (2, 9, 9), np.float32), "speed": VECTOR}
    )
    made = policy(space)
    obs = {
        "near": torch.randint(256, (5, 12, 12, 3), dtype=torch.uint8),
        "far": torch.rand(5, 2, 9, 9),
        "speed": torch.randn(5, 3),
    }
    x = made.prepare(obs)
    assert x[0] is obs["speed"]
    _, far, near = made.network.pi_encoder.parts
    expected = torch.cat([obs["speed"], far(obs["far"]), near(obs["near"])], 1)
    torch.testing.assert_close(made.network.pi_encoder(x), expected)
    torch.testing.assert_close(made.actor(x), made.network.pi(expected))
    assert made.network.vf_encoder is not made.network.pi_encoder


# --- actions --------------------------------------------------------------------------------------

BOXES = {
    "finite": spaces.Box(-2, 6, (3,), np.float32),
    "per element": spaces.Box(np.float32([-1, 0, 5]), np.float32([1, 1e-3, 50]), dtype=np.float32),
    "infinite": spaces.Box(-np.inf, np.inf, (3,), np.float32),
    "half infinite": spaces.Box(0, np.inf, (3,), np.float32),
    "mixed": spaces.Box(
        np.float32([-np.inf, 0, -1]), np.float32([0.1, np.inf, 1]), dtype=np.float32
    ),
    "float64": spaces.Box(-0.1, 1 / 3, (3,), np.float64),
    "odd bounds": spaces.Box(np.float32(-0.1), np.float32(0.7), (3,), np.float32),
    "matrix": spaces.Box(-1, 1, (3, 1), np.float32),
    "huge": spaces.Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (3,), np.float32),
}
SAMPLES = [0.0, 1.0, -1.0, 0.999999, 3.0, -20.0, 20.0, 1e30, -1e30]


@pytest.mark.parametrize("space", BOXES.values(), ids=BOXES.keys())
@pytest.mark.parametrize("kind", ["gaussian", "squashed_gaussian"])
def test_actions_are_always_inside_the_space(space: spaces.Box, kind: str) -> None:
    bounded = np.isfinite(space.low).all() and np.isfinite(space.high).all()
    if kind == "squashed_gaussian" and not bounded:
        with pytest.raises(SpaceError, match="needs finite action bounds"):
            policy(actions=space, action_distribution=kind)
        return
    made = policy(actions=space, action_distribution=kind)
    given = torch.tensor(SAMPLES).unsqueeze(1).expand(-1, 3).contiguous()
    for action in made.env_action(given):
        assert space.contains(action), f"{action} is not in {space}"


def test_finite_bounds_are_minus_one_and_one_to_the_policy() -> None:
    made = policy(actions=BOXES["finite"])
    given = torch.tensor([[-1.0, 0.0, 1.0], [0.5, -0.5, 9.0]])
    assert made.env_action(given).tolist() == [[-2, 2, 6], [4, 0, 6]]
    squashed = policy(actions=BOXES["finite"], action_distribution="squashed_gaussian")
    np.testing.assert_allclose(
        squashed.env_action(given), 2 + 4 * np.tanh(given.numpy()), rtol=1e-5
    )


def test_unbounded_actions_are_passed_on() -> None:
    given = torch.tensor([[-1.0, 0.25, 300.0]])
    assert policy(actions=BOXES["infinite"]).env_action(given).tolist() == [[-1, 0.25, 300]]
    assert policy(actions=BOXES["half infinite"]).env_action(given).tolist() == [[0, 0.25, 300]]


def test_discrete_actions_start_where_the_space_does() -> None:
    made = policy(actions=spaces.Discrete(3, start=5))
    assert made.env_action(torch.tensor([0, 2, 1])).tolist() == [5, 7, 6]
    assert policy().env_action(torch.tensor([0, 1])).tolist() == [0, 1]


def test_a_nested_action_that_is_called_as_the_root_stays_nested() -> None:
    made = policy(actions=spaces.Dict({"value": spaces.Discrete(3, start=5)}))
    found = made.env_action(torch.tensor([[0], [2]]))
    assert list(found) == ["value"]
    assert found["value"].tolist() == [5, 7]


@pytest.mark.parametrize(
    ("kind", "family"), [("gaussian", Gaussian), ("squashed_gaussian", SquashedGaussian)]
)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("free", [False, True])
def test_log_std_is_a_parameter_or_an_output(
    kind: str, family: type, shared: bool, free: bool
) -> None:
    settings = {
        "action_distribution": kind,
        "vf_share_layers": shared,
        "free_log_std": free,
        "log_std_init": -0.7,
    }
    made = policy(actions=BOXES["finite"], **settings)
    assert type(made.dist) is family
    found, values = made(torch.randn(50, 3))
    mean, log_std = found.chunk(2, -1)
    assert (mean.shape, values.shape) == ((50, 3), (50,))
    assert (log_std + 0.7).abs().max() < 0.1
    assert mean.abs().max() < 0.1
    assert ("log_std" in dict(made.named_parameters())) is free
    # A free one does not depend on the observation.
    assert (log_std.std(0).max().item() == 0) is free
    log_std.sum().backward()
    grad = made.network.pi.layers[0].weight.grad
    assert (grad is None or grad.abs().sum().item() == 0) is free


def test_families() -> None:
    assert type(policy().dist) is Categorical
    assert policy(actions=BOXES["matrix"]).dist.action_shape == (3,)


# --- custom parts ---------------------------------------------------------------------------------


class Custom(nn.Module):
    """A model of one hidden layer."""

    def __init__(self, space: spaces.Box, num_outputs: int, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Linear(space.shape[0], width)
        self.heads = nn.Linear(width, num_outputs + 1)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        out = self.heads(self.body(obs).relu())
        return out[:, :-1], out[:, -1]


class DictModel(nn.Module):
    """A model of nested observations."""

    def __init__(self, space: spaces.Dict, num_outputs: int) -> None:
        super().__init__()
        self.heads = nn.Linear(space["near"].shape[0] + 1, num_outputs + 1)

    def forward(self, obs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        out = self.heads(torch.cat([obs["near"], obs["pair"][0].unsqueeze(-1)], -1))
        return out[:, :-1], out[:, -1]


class Halved:
    """A preprocessor of nested observations: what is near, and half of what is far."""

    def __init__(self, space: spaces.Dict) -> None:
        self.space = spaces.Box(-np.inf, np.inf, (space["near"].shape[0] + 2,), np.float32)

    def transform(self, obs: dict[str, Any]) -> Tensor:
        return torch.cat(
            [obs["near"], obs["pair"][0].unsqueeze(-1).float(), obs["pair"][1] / 2], -1
        )


NESTED = spaces.Dict(
    {
        "near": VECTOR,
        "pair": spaces.Tuple([spaces.Discrete(4), spaces.Box(-1, 1, (1,), np.float32)]),
    }
)
SMALL = {"num_envs": 3, "n_steps": 8, "timesteps_per_iteration": 0}


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
@pytest.mark.usefixtures("registries")
def test_training_with_a_custom_model(trainer: Callable[..., Any], algorithm: str) -> None:
    poise.register_model("mine", Custom)
    model = {"custom_model": "mine", "custom_model_config": {"width": 6}}
    made = trainer(algorithm, lambda config: Echo(), model=model, **SMALL)
    assert made.policy.network.body.out_features == 6
    before = made.algorithm.flat.data.clone()
    for _ in range(2):
        made.train()
    assert (made.algorithm.flat.data != before).double().mean() > 0.5
    assert made.compute_action(np.eye(4, dtype=np.float32)[0]) in range(4)


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
@pytest.mark.usefixtures("registries")
def test_training_with_a_custom_preprocessor(trainer: Callable[..., Any], algorithm: str) -> None:
    poise.register_preprocessor("halved", Halved)
    made = trainer(
        algorithm,
        lambda config: Noise(NESTED),
        model={"custom_preprocessor": "halved"},
        normalize_observations=True,
        **SMALL,
    )
    assert made.policy.network.pi.layers[0].in_features == 5
    for _ in range(2):
        made.train()
    assert made.policy.normalizer.count.item() == made.algorithm.timesteps
    obs = {"near": torch.ones(1, 3), "pair/0": torch.tensor([3]), "pair/1": torch.tensor([[0.5]])}
    made.policy.normalizer = None
    assert made.policy.prepare(obs).tolist() == [[1, 1, 1, 3, 0.25]]


@pytest.mark.usefixtures("registries")
def test_a_custom_model_sees_the_structure_of_the_space(trainer: Callable[..., Any]) -> None:
    poise.register_model("nested", DictModel)
    made = trainer("PPO", lambda config: Noise(NESTED), model={"custom_model": "nested"}, **SMALL)
    for _ in range(2):
        made.train()
    assert made.compute_action(NESTED.sample()) in range(3)


@pytest.mark.usefixtures("registries")
def test_a_custom_model_behind_a_preprocessor(trainer: Callable[..., Any]) -> None:
    poise.register_model("mine", Custom)
    poise.register_preprocessor("halved", Halved)
    model = {"custom_model": "mine", "custom_preprocessor": "halved"}
    made = trainer("PPO", lambda config: Noise(NESTED), model=model, **SMALL)
    assert made.policy.network.body.in_features == 5
    for _ in range(2):
        made.train()


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("kind", ["model", "preprocessor"])
def test_unknown_names_are_said_with_the_nearest(kind: str) -> None:
    getattr(poise, f"register_{kind}")("shiny", Custom)
    sentence = (
        rf"There is no {kind} 'shny'. Did you mean 'shiny'\? Call poise.register_{kind}\('shny',"
        r" ...\) first"
    )
    with pytest.raises(ModelError, match=sentence):
        policy(**{f"custom_{kind}": "shny"})


@pytest.mark.usefixtures("registries")
def test_a_custom_model_must_be_a_module_and_fit() -> None:
    poise.register_model("number", lambda space, outputs: 3)
    with pytest.raises(ModelError, match=r"'number' made a int; it must make a torch\.nn\.Module"):
        policy(custom_model="number")


# --- learning types -------------------------------------------------------------------------------


def test_discrete_observations_and_actions_with_other_starts_train(
    trainer: Callable[..., Any],
) -> None:
    made = trainer("PPO", lambda config: DiscreteEcho(), **SMALL)
    made.train()  # the environment asserts that actions are in its space
    assert made.compute_action(np.int64(-2)) in range(5, 9)
