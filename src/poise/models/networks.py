"""The default networks: from prepared observations to distribution inputs and values."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from poise.config.model import ModelConfig
from poise.models.features import Features
from poise.models.mlp import MLP, init_linear, parallel

POLICY_GAIN = 0.01
"""The gain of the policy's last layer is small, so that the first policy is nearly uniform."""

Q_GAIN = 0.1
"""The gain of the last layer of action values is small, so that the first values are near 0."""


class Encoded(Protocol):
    """Something that makes encoders, as `Features` does."""

    def encoder(self, config: ModelConfig) -> tuple[nn.Module | None, int]: ...


class ActorCritic(nn.Module):
    """Policy and value function: two towers, or one trunk with two heads (`vf_share_layers`).

    It goes from what `Features.gather` made to distribution inputs `[N, num_outputs]` and values
    `[N]`. Pictures go through convolutions first, and categories through tables.

    Args:
        features: how observations enter the networks.
        num_outputs: how many distribution inputs there are.
        config: the layers.
        whole: what the value function sees, if it sees more: a central one. Then the input is
            `{"own": ..., "whole": ...}`; that of the policy alone may be its own.
    """

    def __init__(
        self,
        features: Encoded,
        num_outputs: int,
        config: ModelConfig,
        *,
        whole: Encoded | None = None,
    ) -> None:
        super().__init__()
        self.central = whole is not None
        self.shared = config.vf_share_layers
        hiddens, activation = config.fcnet_hiddens, config.fcnet_activation

        self.pi_encoder, size = features.encoder(config)
        if self.shared:
            # One matrix for both heads: policy rows first, the value's row last.
            self.pi = MLP([size, *hiddens, num_outputs + 1], activation)
            with torch.no_grad():
                policy = nn.Linear(self.pi.layers[-1].in_features, num_outputs)  # type: ignore[arg-type]
                init_linear(policy, POLICY_GAIN)
                self.pi.weight[:-1] = policy.weight
        else:
            self.pi = MLP([size, *hiddens, num_outputs], activation, output_gain=POLICY_GAIN)
            self.vf_encoder, size = (whole or features).encoder(config)
            own = hiddens if config.vf_fcnet_hiddens is None else config.vf_fcnet_hiddens
            self.vf = MLP([size, *own, 1], activation)

    def forward(self, x: Any) -> tuple[Tensor, Tensor]:
        if self.shared:
            outputs = self._run(self.pi_encoder, self.pi, x)
            return outputs[:, :-1], outputs[:, -1]
        if self.pi_encoder is None and not self.central:
            inputs, values = parallel(self.pi, self.vf, x)
            return inputs, values.view(-1)
        return self.actor(x), self.critic(x)

    def actor(self, x: Any) -> Tensor:
        """Distribution inputs alone: acting needs no values."""
        outputs = self._run(self.pi_encoder, self.pi, own_part(x))
        return outputs[:, :-1] if self.shared else outputs

    def critic(self, x: Any) -> Tensor:
        """Values alone, `[N]`."""
        if self.shared:
            return self.forward(x)[1]
        return self._run(self.vf_encoder, self.vf, x["whole"] if self.central else x).view(-1)

    @staticmethod
    def _run(encoder: nn.Module | None, tower: nn.Module, x: Any) -> Tensor:
        result: Tensor = tower(x if encoder is None else encoder(x))
        return result


def own_part(x: Any) -> Any:
    """What a policy sees of an input that a central value function may see more of."""
    return x["own"] if isinstance(x, dict) else x


class Actor(nn.Module):
    """A policy alone: from what `Features.gather` made to distribution inputs.

    Args:
        features, num_outputs, config: as for `ActorCritic`.
    """

    def __init__(self, features: Features, num_outputs: int, config: ModelConfig) -> None:
        super().__init__()
        self.encoder, size = features.encoder(config)
        sizes = [size, *config.fcnet_hiddens, num_outputs]
        self.pi = MLP(sizes, config.fcnet_activation, output_gain=POLICY_GAIN)

    def actor(self, x: Any) -> Tensor:
        """Distribution inputs, `[N, num_outputs]`."""
        inputs: Tensor = self.pi(x if self.encoder is None else self.encoder(x))
        return inputs


class QNetwork(nn.Module):
    """The value of each action, from what `Features.gather` made.

    Args:
        features, num_outputs, config: as for `ActorCritic`, with one output per action.
        dueling: whether there are two streams of layers, one for V(s) and one for the advantages,
            behind convolutions and tables that they share (Wang et al. 2016, arXiv 1511.06581).
    """

    def __init__(
        self, features: Encoded, num_outputs: int, config: ModelConfig, *, dueling: bool = False
    ) -> None:
        super().__init__()
        self.encoder, size = features.encoder(config)
        hiddens, activation = config.fcnet_hiddens, config.fcnet_activation
        self.q = MLP([size, *hiddens, num_outputs], activation, output_gain=Q_GAIN)
        own = hiddens if config.vf_fcnet_hiddens is None else config.vf_fcnet_hiddens
        self.value = MLP([size, *own, 1], activation, output_gain=Q_GAIN) if dueling else None

    def forward(self, x: Any) -> tuple[Tensor, Tensor | None]:
        """Q(s, ·) `[N, n]` and None; with two streams, A(s, ·) `[N, n]` and V(s) `[N, 1]`."""
        x = x if self.encoder is None else self.encoder(x)
        return (self.q(x), None) if self.value is None else parallel(self.q, self.value, x)
