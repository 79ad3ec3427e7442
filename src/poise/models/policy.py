"""The policy: from observations to actions, and back to their probabilities.

    x = policy.prepare(obs)                       # leaves -> network input, normalised; once per batch
    inputs, value = policy(x)                     # the networks
    log_prob = policy.dist.log_prob(inputs, action)

It is built from layouts and a model configuration alone, so that a checkpoint can act without an environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from poise.config.base import ModelConfig
from poise.config.layout import ROOT, Layout, Leaf
from poise.errors import ModelError, SpaceError
from poise.learning.distributions import Categorical, Distribution, Gaussian, SquashedGaussian
from poise.learning.running import RunningMoments
from poise.models.catalog import find_model, find_preprocessor
from poise.models.encoders import is_image, to_vector, vector_size
from poise.models.networks import ActorCritic

State = tuple[Tensor, ...]
"""A recurrent policy's memory, one tensor `[B, ...]` per part; `()` for feed-forward policies."""


class Policy(nn.Module):
    """A stochastic policy with a value function.

    Args:
        obs_layout, action_layout: layouts of the single observation and action space.
        config: the networks.
        normalize_observations: whether `prepare` normalises by running moments (updated by `update_normalizer`).

    Raises:
        SpaceError: a space that this policy cannot take.
        ModelError: a custom model or preprocessor that does not exist or does not fit.
    """

    def __init__(
        self, obs_layout: Layout, action_layout: Layout, config: ModelConfig, *, normalize_observations: bool = False
    ) -> None:
        super().__init__()
        self.obs_layout, self.action_layout = obs_layout, action_layout
        self.preprocessor: Any = None
        if config.custom_preprocessor:
            self.preprocessor = find_preprocessor(config.custom_preprocessor)(obs_layout.space)
            self.leaf = Layout(self.preprocessor.space).leaves[0]
        else:  # a custom model takes any structure
            self.leaf = obs_layout.leaves[0] if config.custom_model else _single_leaf(obs_layout)
        self.dist, self._free_log_std = _distribution(action_layout, config)
        outputs = self.dist.num_inputs // 2 if self._free_log_std else self.dist.num_inputs
        self.custom = config.custom_model is not None
        if config.custom_model is not None:
            space = self.leaf.space if self.preprocessor else obs_layout.space
            self.network = _make_custom(config, space, outputs)
            self._probe(config.custom_model, outputs)
        else:
            self.network = ActorCritic(self.leaf, outputs, config)
        if self._free_log_std:
            self.log_std = nn.Parameter(torch.full((outputs,), config.log_std_init))
        elif isinstance(self.dist, Gaussian) and isinstance(self.network, ActorCritic):
            with torch.no_grad():  # the network's own log σ starts there
                self.network.pi.bias[self.dist.dim : 2 * self.dist.dim] = config.log_std_init
        vector = not self.custom and not is_image(self.leaf) and isinstance(self.leaf.space, spaces.Box)
        self.normalizer = RunningMoments((vector_size(self.leaf),)) if normalize_observations and vector else None
        self.eval()  # for good: with dropout or batch statistics, the policy that learns were not the one that acts
        self._any_parameter = (next(self.parameters()),)  # in a tuple, so that it is not registered twice
        self._action_bounds = _finite_bounds(action_layout.leaves[0])

    def _probe(self, name: str, outputs: int) -> None:
        """Runs a custom model once, so that a wrong shape is said before anything is trained."""
        samples = {leaf.name: np.stack([leaf.space.sample()] * 2) for leaf in self.obs_layout.leaves}
        obs = {key: torch.as_tensor(value) for key, value in samples.items()}
        with torch.no_grad():
            found = self.network(self.prepare(obs))
        shapes = [tuple(part.shape) for part in found] if isinstance(found, tuple) else type(found).__name__
        if not isinstance(found, tuple) or len(found) != 2 or shapes[0] != (2, outputs) or found[1].numel() != 2:
            raise ModelError(
                f"The custom model {name!r} must return outputs [N, {outputs}] and values [N]; "
                f"for N = 2 it returned {shapes}."
            )

    def prepare(self, obs: Mapping[str, Tensor]) -> Any:
        """Network input from observation leaves `[N, ...]`. Not differentiated: it holds no parameters."""
        with torch.no_grad():
            if self.preprocessor is not None:
                x = self.preprocessor.transform(self.obs_layout.unflatten(obs))
            elif self.custom:
                return self.obs_layout.unflatten(
                    {k: v if v.dtype == torch.uint8 else v.float() for k, v in obs.items()}
                )
            else:
                x = obs[ROOT]
            if not self.custom and not is_image(self.leaf):
                x = to_vector(self.leaf, x)
                if self.normalizer is not None:
                    x = self.normalizer.normalize(x)
                x = x.to(self.dtype)
            return x

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return self._any_parameter[0].dtype

    def forward(self, x: Any) -> tuple[Tensor, Tensor]:
        """Distribution inputs `[N, dist.num_inputs]` and values `[N]` from prepared observations."""
        inputs, value = self.network(x)
        return self._with_log_std(inputs), value.view(-1)

    def actor(self, x: Any) -> Tensor:
        """Distribution inputs alone."""
        inputs = self.network(x)[0] if self.custom else self.network.actor(x)
        return self._with_log_std(inputs)

    def critic(self, x: Any) -> Tensor:
        """Values alone, `[N]`."""
        value: Tensor = self.network(x)[1] if self.custom else self.network.critic(x)
        return value.view(-1)

    def _with_log_std(self, inputs: Tensor) -> Tensor:
        if not self._free_log_std:
            return inputs
        return torch.cat([inputs, self.log_std.expand_as(inputs)], -1)

    def initial_state(self, batch: int) -> State:
        """Memory at the start of an episode, for `batch` slots."""
        return ()

    @torch.no_grad()
    def act(
        self, obs: Mapping[str, Tensor], state: State, first: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, State]:
        """Actions for a batch of slots.

        Args:
            obs: leaves `[B, ...]`.
            state: memory, `()` for feed-forward policies.
            first: `[B]`, whether an episode starts here (a memory is cleared there).
            noise: from `dist.noise`, `[B, ...]`; None takes the most likely actions.

        Returns:
            The distribution's samples `[B, ...]` (before squashing or clipping: see `env_action`), its inputs
            `[B, num_inputs]`, and the memory after.
        """
        inputs = self.actor(self.prepare(obs))
        action = self.dist.mode(inputs) if noise is None else self.dist.sample(inputs, noise)
        return action, inputs, state

    def env_action(self, action: Tensor) -> np.ndarray:
        """What the environment is given for a batch of samples: always inside its action space."""
        leaf = self.action_layout.leaves[0]
        if isinstance(leaf.space, spaces.Discrete):
            chosen = action.numpy()
            return chosen + leaf.space.start if leaf.space.start else chosen
        if isinstance(self.dist, SquashedGaussian):
            action = action.tanh()
        values = action.numpy().reshape(-1, *leaf.shape)
        if self._action_bounds is not None:
            low, high = self._action_bounds
            values = low + (np.clip(values, -1.0, 1.0) + 1.0) * (0.5 * (high - low))
        return np.clip(values, leaf.space.low, leaf.space.high).astype(leaf.dtype, copy=False)  # type: ignore[attr-defined]

    def update_normalizer(self, obs: Mapping[str, Tensor], weight: Tensor) -> None:
        """Merges observations `[N, ...]` with weights `[N]` into the running moments. Only between rollouts: the
        probabilities of a rollout must not change while it is learnt from."""
        if self.normalizer is not None:
            raw = self.preprocessor.transform(self.obs_layout.unflatten(obs)) if self.preprocessor else obs[ROOT]
            self.normalizer.update(to_vector(self.leaf, raw), weight)


def _single_leaf(layout: Layout) -> Leaf:
    leaf = layout.leaves[0]
    if len(layout.leaves) != 1 or leaf.name != ROOT or not isinstance(leaf.space, (spaces.Box, spaces.Discrete)):
        raise SpaceError(
            f"{type(layout.space).__name__} observations need a custom preprocessor or model in this version "
            "(poise.register_preprocessor, poise.register_model); Box and Discrete work as they are."
        )
    return leaf


def _distribution(layout: Layout, config: ModelConfig) -> tuple[Distribution, bool]:
    """The distribution over an action space, and whether its log σ is a free parameter."""
    leaf = layout.leaves[0]
    if leaf.space is layout.space:  # not nested
        if isinstance(leaf.space, spaces.Discrete):
            return Categorical(int(leaf.space.n)), False
        if isinstance(leaf.space, spaces.Box) and leaf.dtype.kind == "f":
            size = int(np.prod(leaf.shape))
            if config.action_distribution == "gaussian":
                return Gaussian(size), config.free_log_std
            if _finite_bounds(leaf) is None:
                raise SpaceError("action_distribution='squashed_gaussian' needs finite action bounds; use 'gaussian'.")
            return SquashedGaussian(size), config.free_log_std
    raise SpaceError(f"{layout.space} actions are not supported in this version: use Discrete or a Box of floats.")


def _finite_bounds(leaf: Leaf) -> tuple[np.ndarray, np.ndarray] | None:
    space = leaf.space
    if isinstance(space, spaces.Box) and np.isfinite(space.low).all() and np.isfinite(space.high).all():
        return space.low.astype(np.float64), space.high.astype(np.float64)
    return None


def _make_custom(config: ModelConfig, space: spaces.Space, outputs: int) -> Any:
    name = config.custom_model
    assert name is not None
    try:
        model = find_model(name)(space, outputs, **config.custom_model_config)
    except TypeError as error:
        raise ModelError(
            f"The custom model {name!r} cannot be made with custom_model_config={config.custom_model_config}: {error}."
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"The custom model {name!r} made a {type(model).__name__}; it must make a torch.nn.Module.")
    return model
