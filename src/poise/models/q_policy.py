"""A policy of action values: the best action, or an ε-greedy one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor

from poise.config.model import ModelConfig
from poise.errors import SpaceError
from poise.learning.distributions import MASKED, EpsilonGreedy
from poise.models.mlp import traced
from poise.models.networks import QNetwork
from poise.models.policy import Policy, State
from poise.spaces.layout import Layout


class QPolicy(Policy):
    """Acts by Q(s, a), the network's estimate of the return that follows each action.

    With two streams (of the default network, or the outputs and values of a custom model), it is
    eq. 9 of Wang et al. 2016 (arXiv 1511.06581):

        Q(s, a) = V(s) + A(s, a) - mean of A(s, ·)

    Args:
        obs_layout, action_layout, config, normalize_observations: as for `Policy`.
        dueling: whether there are two streams.

    Attributes:
        epsilon: ε of the ε-greedy actions; a buffer, so that it travels with the parameters to
            wherever actions are chosen.

    Raises:
        SpaceError: the action space is not a single `Discrete`.
    """

    dist: EpsilonGreedy
    epsilon: Tensor
    needs_log_prob: ClassVar[bool] = False

    def __init__(
        self,
        obs_layout: Layout,
        action_layout: Layout,
        config: ModelConfig,
        *,
        normalize_observations: bool = False,
        dueling: bool = False,
    ) -> None:
        space = action_layout.space
        if not isinstance(space, spaces.Discrete):
            shown = " ".join(str(space).split())
            raise SpaceError(
                f"DQN compares the values of single actions, which must be Discrete, not {shown}: "
                "PPO and A2C take actions of any kind."
            )
        super().__init__(
            obs_layout,
            action_layout,
            config,
            normalize_observations=normalize_observations,
            network=self.make_network(dueling),
        )
        self.dueling = dueling
        self.dist = EpsilonGreedy(int(space.n), masked=self.masked)
        self.register_buffer("epsilon", torch.zeros(()), persistent=False)
        self.refresh()

    def make_network(self, dueling: bool) -> Any:
        """What makes the default network."""
        return partial(QNetwork, dueling=dueling)

    def refresh(self) -> None:
        super().refresh()
        # The base class calls this before there is an ε.
        if "epsilon" in self._buffers:
            self.epsilon = self.epsilon.cpu()  # actions are chosen there
            self.dist.epsilon = self.epsilon
        network = self.network
        alone = isinstance(network, QNetwork) and network.encoder is None and network.value is None
        self._traceable = alone and not (self.masked or self.recurrent)

    def forward(
        self, x: Any, state: State = (), first: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Q(s, ·) `[N, n]` and max Q(s, ·) `[N]` from prepared observations."""
        q = self.actor(x)
        return q, q.amax(-1)

    def actor(self, x: Any) -> Tensor:
        """Q(s, ·), `[N, n]`, with `MASKED` for actions that are not allowed.

        A mask may allow none where a time limit has cut an episode. The state has a value all the
        same, so that such a mask is ignored.
        """
        q: Tensor
        if self._traceable:
            q = self.network.q(x)
            return q
        x, forbidden = x if self.masked else (x, None)
        q, value = self.network(x)
        return self.action_values(q, value, forbidden)

    def action_values(self, q: Tensor, value: Tensor | None, forbidden: Tensor | None) -> Tensor:
        """Q(s, ·) from what the network put out, and from a mask."""
        if self.dueling:
            assert value is not None
            q = value.view(-1, 1) + q - q.mean(-1, keepdim=True)
        if forbidden is None:
            return q
        return q.masked_fill(forbidden & ~forbidden.all(-1, keepdim=True), MASKED)

    def trace(self, x: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
        """Q(s, ·), `[N, n]`, and a function that backpropagates a gradient of it.

        The function adds to the parameters' gradients, or overwrites them: they must be 0 before.
        """
        if self._traceable:
            trace = traced(self.network.q, x)
            if trace is not None:
                return trace
        with torch.enable_grad():
            q = self.actor(x)
        # A custom model may have nothing to learn.
        return q.detach(), q.backward if q.requires_grad else lambda _: None

    def critic(self, x: Any, state: State = (), first: Tensor | None = None) -> Tensor:
        """The value of acting greedily, max Q(s, ·), `[N]`."""
        return self.actor(x).amax(-1)
