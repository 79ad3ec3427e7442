"""Feature extractors of a script's own, `features_extractor_class`, as a model of Poise's."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import torch
from gymnasium import spaces
from torch import nn

from poise.compat.stable_baselines3.common.vec_env import VecEnv
from poise.compat.stable_baselines3.common.vec_env.wrappers import (
    VecTransposeImage,
    is_image,
)
from poise.errors import PoiseWarning
from poise.models.catalog import register_model

_numbers = itertools.count(1)


class BaseFeaturesExtractor(nn.Module):
    """Base of a script's own: `forward` makes `[N, features_dim]` of a batch of observations.

    Pictures come with their channels first, as numbers from 0 to 1.
    """

    def __init__(self, observation_space: spaces.Space, features_dim: int = 0) -> None:
        super().__init__()
        self._observation_space, self._features_dim = observation_space, features_dim

    @property
    def features_dim(self) -> int:
        """How many features there are."""
        return self._features_dim


class FlattenExtractor(BaseFeaturesExtractor):
    """All numbers of an observation in a row."""

    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space, spaces.flatdim(observation_space))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return observations.flatten(1)


class NatureCNN(BaseFeaturesExtractor):
    """The three convolutions of Mnih et al. 2015, and a layer behind them."""

    def __init__(self, observation_space: spaces.Space, features_dim: int = 512, **_: Any) -> None:
        super().__init__(observation_space, features_dim)
        shape = observation_space.shape or ()
        layers = [(shape[0], 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)]
        parts = [(nn.Conv2d(*each[:3], each[3]), nn.ReLU()) for each in layers]
        self.cnn = nn.Sequential(*itertools.chain(*parts), nn.Flatten())
        with torch.no_grad():
            width = self.cnn(torch.zeros(1, *shape)).shape[1]
        self.linear = nn.Sequential(nn.Linear(width, features_dim), nn.ReLU())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.linear(self.cnn(observations))  # type: ignore[no-any-return]


def create_mlp(
    input_dim: int, output_dim: int, net_arch: list[int], activation_fn: Any = nn.ReLU, **_: Any
) -> list[nn.Module]:
    """Layers `net_arch` wide, and one `output_dim` wide, if that is not -1."""
    widths = [input_dim, *net_arch]
    made: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        made += [nn.Linear(before, after), activation_fn()]
    return made if output_dim < 0 else [*made, nn.Linear(widths[-1], output_dim)]


class Extracted(nn.Module):
    """A script's extractor, and hidden layers of policy and value function behind it.

    Args:
        space: of observations, as the environment gives them.
        num_outputs: of the policy.
        extractor: the class, `seen` the space that it is made for.
        kwargs: its arguments.
        arch: widths of hidden layers, by tower.
        activation: between them.
    """

    def __init__(
        self, space: Any, num_outputs: int, *, extractor: Any, seen: Any, kwargs: Any, arch: Any,
        activation: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.features_extractor = extractor(seen, **kwargs)
        width = self.features_extractor.features_dim
        self.pi = nn.Sequential(*create_mlp(width, num_outputs, arch["pi"], activation))
        self.vf = nn.Sequential(*create_mlp(width, 1, arch["vf"], activation))
        self._space, self._seen = space, seen

    def forward(self, observation: Any) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features_extractor(_seen(observation, self._space, self._seen))
        return self.pi(features), self.vf(features).squeeze(-1)


def _seen(obs: Any, before: Any, after: Any) -> Any:
    """Observations as extractors there see them: pictures turned and divided."""
    if isinstance(obs, dict):
        return {key: _seen(each, before[key], after[key]) for key, each in obs.items()}
    turned = obs if before.shape == after.shape else obs.movedim(-1, -3)
    return turned.float() / 255 if is_image(before) else turned


def with_extractor(
    algorithm: str, settings: dict[str, Any], given: dict[str, Any], venv: VecEnv
) -> None:
    """Puts a model with the extractor of `policy_kwargs` into the settings, if there is one."""
    extractor = given.get("features_extractor_class")
    if extractor is None or extractor in (FlattenExtractor, NatureCNN):
        return
    if algorithm not in ("PPO", "A2C", "DQN"):
        text = f"features_extractor_class={extractor.__name__} is left out: {algorithm} has none."
        warnings.warn(text, PoiseWarning, stacklevel=4)
        return
    arch = given.get("net_arch", [64, 64])
    arch = {"pi": arch, "vf": arch} if isinstance(arch, list) else {"pi": [], "vf": [], **arch}
    default = nn.ReLU if algorithm == "DQN" else nn.Tanh
    seen = VecTransposeImage(venv).observation_space
    kwargs = given.get("features_extractor_kwargs") or {}

    def build(space: Any, num_outputs: int) -> Extracted:
        return Extracted(
            space, num_outputs, extractor=extractor, seen=seen, kwargs=kwargs, arch=arch,
            activation=given.get("activation_fn", default),
        )  # fmt: skip

    name = f"{extractor.__name__}-{next(_numbers)}"
    register_model(name, build)
    for key in [key for key in settings if key.startswith("model.")]:
        if key not in ("model.log_std_init",):
            del settings[key]
    settings["model.custom_model"] = name
