"""The policy: from observations to actions, and back to their probabilities.

    x = policy.prepare(obs)                       # leaves -> network input, normalised; once per batch
    inputs, value = policy(x, state, first)       # the networks; state and first are for policies with a memory
    log_prob = policy.dist.log_prob(inputs, action)

It is built from layouts and a model configuration alone, so that a checkpoint can act without an
environment.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from poise.config.base import ModelConfig
from poise.errors import ModelError
from poise.learning.device import CPU
from poise.learning.distributions import MASKED
from poise.learning.running import RunningMoments
from poise.models.actions import Actions
from poise.models.catalog import find_model, find_preprocessor
from poise.models.features import Features
from poise.models.networks import ActorCritic
from poise.spaces.layout import Layout
from poise.spaces.masks import KEY, is_masked

State = tuple[Tensor, ...]
"""A policy's memory, one tensor `[B, ...]` per part; `()` for feed-forward policies."""


PICTURES_AT_ONCE = 256
"""How many go through the networks at once where no gradient is asked for: memory that the system
gives anew for the layers of all pictures of a rollout would take longer to clear than to compute
in."""


PICTURE_ROWS = 32
"""Of so many rows of a rollout, one's pictures are merged into the running moments."""


class Policy(nn.Module):
    """A stochastic policy with a value function.

    Args:
        obs_layout, action_layout: layouts of the single observation and action space.
        config: the networks.
        normalize_observations: whether the networks see numbers and pictures normalised by running
            moments (updated by `update_normalizer`).
        network: makes the networks, unless the model is a custom one.

    Attributes:
        dist: the distribution of actions.
        masked: whether observations hold an action mask. What it rules out has probability 0, in
            sampling and in learning; the default networks do not see the mask itself.
        device: where it computes. Observations may be anywhere, and what `act` returns is on the
            processor.
        normalizer: moments of the numbers that `prepare` normalises, if it does.
        moments: all running moments, those of pictures included; empty where nothing is normalised.
        needs_log_prob: whether whoever learns asks how likely the actions were.
        recurrent: whether it has a memory. Then the rows of a batch are T steps of B slots in turn,
            `[T * B]`, `state` is the memory before the first of them, and `first`, `[T, B]`, says
            where it is cleared.

    Raises:
        SpaceError: a space that this policy cannot take.
        ModelError: a custom model or preprocessor that does not exist or does not fit.
    """

    needs_log_prob: ClassVar[bool] = True
    recurrent: ClassVar[bool] = False
    device = CPU

    def __init__(
        self,
        obs_layout: Layout,
        action_layout: Layout,
        config: ModelConfig,
        *,
        normalize_observations: bool = False,
        network: Callable[[Features, int, ModelConfig], Any] = ActorCritic,
    ) -> None:
        super().__init__()
        self.obs_layout, self.action_layout = obs_layout, action_layout
        self.masked = is_masked(obs_layout.space, action_layout.space)
        self.preprocessor: Any = None
        seen = obs_layout
        if config.custom_preprocessor:
            self.preprocessor = find_preprocessor(config.custom_preprocessor)(obs_layout.space)
            seen = Layout(self.preprocessor.space)
        self._seen = seen
        self.actions = Actions(action_layout, config)
        self.dist = self.actions.dist
        outputs = self.dist.num_inputs - self.actions.free
        self.custom = config.custom_model is not None
        self.normalizer: RunningMoments | None = None
        self.moments: list[RunningMoments] = []
        self._plain: str | None = None  # the only leaf, where it is network input as it is
        if config.custom_model is not None:
            self.network = _make_custom(config, seen.space, outputs)
            self._probe(config.custom_model, outputs)
        else:
            hidden = KEY if self.masked and seen is obs_layout else None
            leaves = [leaf for leaf in seen.leaves if leaf.name != hidden]
            self.features = Features(leaves, normalize_pictures=normalize_observations)
            self.network = network(self.features, outputs, config)
            if config.initializer == "uniform":
                for layer in filter(
                    lambda m: isinstance(m, (nn.Linear, nn.Conv2d)), self.network.modules()
                ):
                    layer.reset_parameters()  # type: ignore[operator]
            if normalize_observations and self.features.width:
                self.normalizer = RunningMoments((self.features.width,))
                self.moments.append(self.normalizer)
            self.moments += self.features.pixels.values()
            if not (self.preprocessor or self.masked):
                self._plain = self.features.plain
        if self.actions.free:
            self.log_std = nn.Parameter(torch.full((self.actions.free,), config.log_std_init))
        elif self.actions.dim and isinstance(self.network, ActorCritic):
            with torch.no_grad():  # the network's own log σ starts there
                self.network.pi.bias[outputs - self.actions.dim : outputs] = config.log_std_init
        # for good: with dropout or batch statistics, the policy that learns were not the one that
        # acts
        self.eval()
        self.refresh()

    def refresh(self) -> None:
        """Looks again what its parameters are, after some were replaced."""
        # In a tuple, so that it is not registered twice; empty for a custom model without
        # parameters.
        self._any_parameter = tuple(self.parameters())[:1]
        self.device = self._any_parameter[0].device if self._any_parameter else CPU

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.refresh()  # it may be another one, on another device
        return self

    def _probe(self, name: str, outputs: int) -> None:
        """Runs a custom model once, so that a wrong shape is said before anything is trained.

        Nothing but what it makes
        at its first call is changed: neither statistics, nor other buffers, nor a generator of
        random numbers."""
        self.network.eval()
        kept = {
            key: buffer.clone()
            for key, buffer in self.network.named_buffers()
            if not is_lazy(buffer)
        }
        samples = {leaf.name: np.stack(_samples(leaf.space)) for leaf in self.obs_layout.leaves}
        x = self.prepare({key: torch.as_tensor(value) for key, value in samples.items()})
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = self.network(x[0] if self.masked else x)
            for key, buffer in self.network.named_buffers():
                if key in kept and kept[key].shape == buffer.shape:
                    buffer.copy_(kept[key])
        shapes = (
            [tuple(part.shape) for part in found]
            if isinstance(found, tuple)
            else type(found).__name__
        )
        if (
            not isinstance(found, tuple)
            or len(found) != 2
            or shapes[0] != (2, outputs)
            or found[1].numel() != 2
        ):
            raise ModelError(
                f"The custom model {name!r} must return outputs [N, {outputs}] and values [N]; "
                f"for N = 2 it returned {shapes}."
            )

    @property
    def wide(self) -> bool:
        """Whether float64 observations come as they are: where they are normalised, and no
        preprocessor sees them."""
        return self.normalizer is not None and self.preprocessor is None

    def prepare(self, obs: Mapping[str, Tensor]) -> Any:
        """Network input from observation leaves `[N, ...]`: a tensor, or a structure of tensors.

        It runs once per batch, not once per pass, so that ten epochs over a batch normalise it
        once; it is not differentiated, since it holds no parameters.
        """
        if self.device.type != "cpu":
            obs = {name: leaf.to(self.device) for name, leaf in obs.items()}
        if self._plain is not None and self.normalizer is None:
            return obs[self._plain].to(self.dtype)
        with torch.no_grad():
            if self._plain is not None:
                assert self.normalizer is not None
                return self.normalizer.normalize(obs[self._plain]).to(self.dtype)
            x: Any
            if self.custom:
                x = self._custom_input(obs)
            else:
                x = self.features.gather(self._leaves(obs), self.dtype, self.normalizer)
            return (x, obs[KEY].flatten(1) == 0) if self.masked else x

    def _leaves(self, obs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The leaves that the networks see, after a preprocessor."""
        if self.preprocessor is None:
            return obs
        return self._seen.flatten(self.preprocessor.transform(self.obs_layout.unflatten(obs)))

    def _custom_input(self, obs: Mapping[str, Tensor]) -> Any:
        if self.preprocessor is not None:
            return self.preprocessor.transform(self.obs_layout.unflatten(obs))
        return self.obs_layout.unflatten(
            {k: v if v.dtype == torch.uint8 else v.float() for k, v in obs.items()}
        )

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return self._any_parameter[0].dtype if self._any_parameter else torch.float32

    @property
    def overflown(self) -> str | None:
        """The first parameter or buffer that holds what is not finite; None without any."""
        parameters = dict(
            self.named_parameters()
        )  # a model's own buffer may forbid something by minus infinity
        finite = {
            n: v.isfinite() if n in parameters else v < torch.inf
            for n, v in self.state_dict().items()
        }
        return next((name for name, each in finite.items() if not each.all()), None)

    def forward(
        self, x: Any, state: State = (), first: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Distribution inputs `[N, dist.num_inputs]` and values `[N]` from prepared observations."""
        x, forbidden = x if self.masked else (x, None)
        outputs, value = self.network(x)
        return self._inputs(outputs, forbidden), value.view(-1)

    def actor(self, x: Any) -> Tensor:
        """Distribution inputs alone."""
        x, forbidden = x if self.masked else (x, None)
        return self._inputs(self.network(x)[0] if self.custom else self.network.actor(x), forbidden)

    def critic(self, x: Any, state: State = (), first: Tensor | None = None) -> Tensor:
        """Values alone, `[N]`."""
        x = x[0] if self.masked else x
        value: Tensor = self.network(x)[1] if self.custom else self.network.critic(x)
        return value.view(-1)

    def _inputs(self, outputs: Tensor, forbidden: Tensor | None) -> Tensor:
        """Distribution inputs from the network's outputs."""
        if forbidden is not None:
            return outputs.masked_fill(forbidden, MASKED)
        if self.actions.free:
            return torch.cat([outputs, self.log_std.expand(len(outputs), -1)], -1)
        return outputs

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
            The distribution's samples `[B, ...]` (before squashing or clipping: see `env_action`),
            its inputs `[B, num_inputs]`, and the memory after.
        """
        inputs = self.actor(self.prepare(obs))
        if self.device.type != "cpu":  # where environments and the noise are
            inputs = inputs.cpu()
        action = self.dist.mode(inputs) if noise is None else self.dist.sample(inputs, noise)
        return action, inputs, state

    def env_action(self, action: Tensor) -> Any:
        """What the environment's batched action space has for a batch of samples: always inside it,
        in its structure and types."""
        return self.actions.to_env(action)

    def update_normalizer(self, obs: Mapping[str, Tensor], weight: Tensor) -> None:
        """Merges observations `[T, B, ...]` with weights `[T, B]` into the running moments; of
        pictures, which are large and alike, those of every `PICTURE_ROWS`-th row. Only between
        rollouts: the probabilities of a rollout must not change while it is learnt from."""
        if self.normalizer is not None:
            flat = {name: leaf.flatten(0, 1) for name, leaf in obs.items()}
            numbers = self.features.box_numbers(self._leaves(flat), exact=True)
            self.normalizer.update(self.normalizer.exactly(numbers), weight.flatten())
        if self.features.pixels:
            some = {name: leaf[::PICTURE_ROWS].flatten(0, 1) for name, leaf in obs.items()}
            leaves = self._leaves(some)
            for name, moments in self.features.pixels.items():
                moments.update(moments.exactly(leaves[name]), weight[::PICTURE_ROWS].flatten())


def _samples(space: spaces.Space) -> list[Any]:
    """Two elements of a space, whose own generator goes on where it was."""
    twin = copy.deepcopy(space)
    twin.seed(0)
    return [twin.sample(), twin.sample()]


def by_portions(network: Callable[..., Any], x: Any, state: State, first: Tensor) -> Any:
    """What `network` (`policy`, `policy.critic`) makes of prepared observations: of pictures, a few
    at a time, where none depends on those before."""
    if state or not (isinstance(x, Tensor) and x.dtype == torch.uint8):
        return network(x, state, first)
    parts = [network(part) for part in torch.split(x, PICTURES_AT_ONCE)]
    return (
        torch.cat(parts)
        if isinstance(parts[0], Tensor)
        else tuple(map(torch.cat, zip(*parts, strict=True)))
    )


def rows(x: Any, index: Any) -> Any:
    """Some rows of prepared observations, whatever their structure."""
    if isinstance(x, dict):
        return {k: rows(v, index) for k, v in x.items()}
    return tuple(rows(v, index) for v in x) if isinstance(x, tuple) else x[index]


def _make_custom(config: ModelConfig, space: spaces.Space, outputs: int) -> Any:
    name = config.custom_model
    assert name is not None
    try:
        model = find_model(name, config.custom_model_config)(
            space, outputs, **config.custom_model_config
        )
    except TypeError as error:
        raise ModelError(
            f"The custom model {name!r} cannot be made with"
            f" custom_model_config={config.custom_model_config}: {error}."
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"The custom model {name!r} made a {type(model).__name__}; it must make a"
            " torch.nn.Module."
        )
    return model
