"""The policies of algorithms whose values are apart: of SAC, and of TD3."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor, nn

from poise.config.model import ModelConfig
from poise.errors import SpaceError
from poise.learning.distributions import MASKED, Deterministic
from poise.models.actions import Numbers, finite_bounds
from poise.models.mlp import traced
from poise.models.networks import Actor
from poise.models.policy import Policy, State, make_custom
from poise.models.soft import SoftActions, SureActions
from poise.spaces.layout import Layout

Backward = Callable[..., Any]

CUSTOM_FEATURES = 256
"""The outputs of a custom model in front of critics without hidden layers."""


class FirstOutput(nn.Module):
    """A custom model without its values."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Any) -> Tensor:
        outputs: Tensor = self.model(x)[0]
        return outputs


class SoftPolicy(Policy):
    """A stochastic policy without values, which critics beside it have.

    Args:
        obs_layout, action_layout, config, normalize_observations, numbers: as for `Policy`. Numbers
            without bounds are not squashed, whatever `action_distribution` says.

    Attributes:
        soft: its actions as they are learnt from.
        uniform: whether actions are drawn uniformly, whatever is observed; a buffer, so that it
            travels with the parameters to wherever actions are chosen.
    """

    uniform: Tensor
    needs_log_prob: ClassVar[bool] = False

    def __init__(
        self,
        obs_layout: Layout,
        action_layout: Layout,
        config: ModelConfig,
        *,
        normalize_observations: bool = False,
        numbers: Numbers | None = None,
    ) -> None:
        if all(finite_bounds(leaf) is None for leaf in action_layout.leaves):
            config = dataclasses.replace(config, action_distribution="gaussian")
        super().__init__(
            obs_layout,
            action_layout,
            config,
            normalize_observations=normalize_observations,
            network=Actor,
            numbers=numbers,
        )
        self.soft = SoftActions(self.actions)
        self.register_buffer("uniform", torch.zeros(()), persistent=False)
        self.refresh()

    def make_encoder(self, config: ModelConfig) -> tuple[nn.Module | None, int]:
        """Makes what turns prepared observations into a vector, for a critic.

        With a custom model, it is another one of these, whose outputs are the vector.

        Returns:
            The module, None if observations are a vector already; and the length of the vector.
        """
        if not self.custom:
            return self.features.encoder(config)
        size = config.fcnet_hiddens[0] if config.fcnet_hiddens else CUSTOM_FEATURES
        model = make_custom(config, self.seen.space, size, self.action_layout.space)
        self.probe(model, size)
        return FirstOutput(model), size

    def refresh(self) -> None:
        super().refresh()
        # The base class calls this before there is such a buffer.
        if "uniform" in self._buffers:
            self.uniform = self.uniform.cpu()  # actions are chosen there

    def forward(
        self, x: Any, state: State = (), first: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Distribution inputs `[N, num_inputs]` and values `[N]`, which are not known here: NaN."""
        inputs = self.actor(x)
        return inputs, torch.full_like(inputs[:, 0], math.nan)

    def critic(self, x: Any, state: State = (), first: Tensor | None = None) -> Tensor:
        """Values, `[N]`, which are not known here: NaN."""
        return self.forward(x)[1]

    def trace(self, x: Any, dtype: torch.dtype | None = None) -> tuple[Tensor, Backward]:
        """Distribution inputs, and a function that backpropagates a gradient of them.

        The function adds to the parameters' gradients, or overwrites them: they must be 0 before.

        Args:
            x: prepared observations.
            dtype: the type in which hidden layers multiply, where they are traced.
        """
        network = self.network
        if isinstance(network, Actor) and network.encoder is None and not self.actions.free:
            plain, forbidden = x if self.masked else (x, None)
            if (trace := traced(network.pi, plain, dtype)) is not None:
                return self._inputs(trace[0], forbidden), trace[1]
        with torch.enable_grad():
            inputs = self.actor(x)
        return inputs.detach(), inputs.backward if inputs.requires_grad else lambda _: None

    @torch.no_grad()
    def act(
        self, obs: Mapping[str, Tensor], state: State, first: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, State]:
        if noise is None or not self.uniform:
            return super().act(obs, state, first, noise)
        inputs = torch.zeros(len(noise), self.dist.num_inputs)
        if self.masked:
            inputs.masked_fill_(self.prepare(obs)[1].cpu(), MASKED)
        action = self.dist.sample(inputs, noise)
        if self.actions.dim:
            # Noise and samples of numbers are the last ones.
            action[..., -self.actions.dim :] = self.soft.anything(noise[..., -self.actions.dim :])
        return action, inputs, state


class DeterministicPolicy(SoftPolicy):
    """A policy of one action for each observation, with noise added to explore.

    Args:
        obs_layout, action_layout, config, normalize_observations: as for `Policy`.
        deviation: of the noise, in units in which bounds are -1 and 1.

    Raises:
        SpaceError: an action is not made of `Box` alone.
    """

    soft: SureActions

    def __init__(
        self,
        obs_layout: Layout,
        action_layout: Layout,
        config: ModelConfig,
        *,
        normalize_observations: bool = False,
        deviation: float = 0.0,
    ) -> None:
        if not all(isinstance(leaf.space, spaces.Box) for leaf in action_layout.leaves):
            shown = " ".join(str(action_layout.space).split())
            raise SpaceError(
                f"TD3 and DDPG follow the slope of Q by actions, which must be Box, not {shown}: "
                "SAC takes actions of any kind."
            )
        super().__init__(
            obs_layout,
            action_layout,
            config,
            normalize_observations=normalize_observations,
            numbers=partial(Deterministic, deviation=deviation),
        )
        self.soft = SureActions(self.actions)
