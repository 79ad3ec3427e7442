"""The policy: from observations to actions, and back to their probabilities.

    x = policy.prepare(obs)                            # leaves -> network input, once per batch
    inputs, value = policy(x, state, first)            # the networks
    log_prob = policy.dist.log_prob(inputs, action)

`state` and `first` are for policies with a memory.

A policy is built from layouts and the `model` settings alone, so that a checkpoint can act without
an environment.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from poise.config.model import ModelConfig
from poise.errors import ModelError
from poise.learning.device import CPU
from poise.learning.distributions import MASKED
from poise.learning.running import RunningMoments
from poise.models.actions import Actions, Numbers
from poise.models.catalog import find_model, find_preprocessor
from poise.models.features import Features
from poise.models.networks import ActorCritic
from poise.spaces.layout import Layout
from poise.spaces.masks import KEY, is_masked

State = tuple[Tensor, ...]
"""A policy's memory, one tensor `[B, ...]` per part; `()` for feed-forward policies."""

PICTURES_AT_ONCE = 256
"""So many pictures go through the networks at once if no gradient is computed.

The layers of all pictures of a rollout would take memory that the operating system has to clear
first, which would take longer than the computation.
"""

PICTURE_ROWS = 32
"""Of so many rows of a rollout, the pictures of one are merged into the running moments."""


class Policy(nn.Module):
    """A stochastic policy with a value function.

    Args:
        obs_layout, action_layout: layouts of the single observation and action space.
        config: the `model` settings.
        normalize_observations: whether the networks see numbers and pictures normalised by running
            moments (updated by `update_normalizer`).
        network: makes the networks, unless the model is a custom one.
        numbers: makes the distribution of `Box` actions; see `Actions`.

    Attributes:
        dist: the distribution of actions.
        masked: whether observations hold an action mask. What it rules out has probability 0, in
            sampling and in learning; the default networks do not see the mask itself.
        device: where it computes. Observations may be anywhere; what `act` returns is on the CPU.
        normalizer: moments of the numbers that `prepare` normalises, if it does.
        moments: all running moments, also those of pictures; empty if nothing is normalised.
        needs_log_prob: whether learning asks how likely the actions were.
        recurrent: whether it has a memory. Then the rows of a batch are T steps of B slots in turn,
            `[T * B]`, `state` is the memory before the first of them, and `first`, `[T, B]`, says
            where it is cleared.
        hears_rewards: whether its memory is to be told what each action earned, by `rewarded`.
        max_seq_len: steps after which learning may cut sequences, if the memory at the cuts is
            known (`cuts`); None learns from whole rollouts.

    Raises:
        SpaceError: this policy cannot take one of the spaces.
        ModelError: a custom model or preprocessor does not exist, or does not fit.
    """

    needs_log_prob: ClassVar[bool] = True
    recurrent: ClassVar[bool] = False
    hears_rewards: bool = False
    max_seq_len: int | None = None
    log_prob_shape: ClassVar[tuple[int, ...]] = ()  # of one action; of a team, one for each agent
    device = CPU

    def __init__(
        self,
        obs_layout: Layout,
        action_layout: Layout,
        config: ModelConfig,
        *,
        normalize_observations: bool = False,
        network: Callable[[Features, int, ModelConfig], Any] = ActorCritic,
        numbers: Numbers | None = None,
    ) -> None:
        super().__init__()
        self.obs_layout, self.action_layout = obs_layout, action_layout
        self.masked = is_masked(obs_layout.space, action_layout.space)
        self.preprocessor: Any = None
        self.seen = obs_layout  # by the networks
        if config.custom_preprocessor:
            self.preprocessor = find_preprocessor(config.custom_preprocessor)(obs_layout.space)
            self.seen = Layout(self.preprocessor.space)
        self.actions = Actions(action_layout, config, numbers)
        self.dist = self.actions.dist
        outputs = self.dist.num_inputs - self.actions.free
        self.custom = config.custom_model
        self.normalizer: RunningMoments | None = None
        self.moments: list[RunningMoments] = []
        self._plain: str | None = None  # the only leaf, where it is network input as it is
        if config.custom_model is not None:
            self.network = make_custom(config, self.seen.space, outputs, action_layout.space)
            if hasattr(self.network, "initial_state") and not self.recurrent:
                raise ModelError(
                    f"The custom model {self.custom!r} has a memory (initial_state): only PPO, "
                    "A2C, IMPALA, APPO and DQN take one, if the class itself is registered."
                )
            self.probe(self.network, outputs)
        else:
            self._make_default(network, outputs, config, normalize=normalize_observations)
        if self.actions.free:
            self.log_std = nn.Parameter(torch.full((self.actions.free,), config.log_std_init))
        elif self.actions.dim and numbers is None and hasattr(self.network, "pi"):
            # The network puts out log σ itself, and starts there.
            with torch.no_grad():
                self.network.pi.bias[outputs - self.actions.dim : outputs] = config.log_std_init
        # For good: with dropout or batch statistics, the policy that learns would not be the one
        # that acts.
        self.eval()
        self.refresh()

    def _make_default(
        self,
        network: Callable[[Features, int, ModelConfig], Any],
        outputs: int,
        config: ModelConfig,
        *,
        normalize: bool,
    ) -> None:
        """Makes networks that are no custom model, and the moments that normalise their input."""
        hidden = KEY if self.masked and self.seen is self.obs_layout else None
        leaves = [leaf for leaf in self.seen.leaves if leaf.name != hidden]
        self.features = Features(leaves, normalize_pictures=normalize)
        self.network = network(self.features, outputs, config)
        if config.initializer == "uniform":
            for layer in self.network.modules():
                if isinstance(layer, (nn.Linear, nn.Conv2d)):
                    layer.reset_parameters()
        if normalize and self.features.width:
            self.normalizer = RunningMoments((self.features.width,))
            self.moments.append(self.normalizer)
        self.moments += self.features.pixels.values()
        if not (self.preprocessor or self.masked):
            self._plain = self.features.plain

    def refresh(self) -> None:
        """Looks again for a parameter to tell device and type by, after some were replaced."""
        # In a tuple, so that it is not registered twice; a custom model may have none.
        self._any_parameter = tuple(self.parameters())[:1]
        self.device = self._any_parameter[0].device if self._any_parameter else CPU

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.refresh()  # PyTorch calls this when it moves a module to another device
        return self

    def probe(self, model: nn.Module, outputs: int) -> None:
        """Runs a custom model once, so that a wrong shape is said before anything is trained.

        This changes nothing but what the model makes at its first call: neither statistics, nor
        other buffers, nor a generator of random numbers.

        Args:
            model: takes prepared observations, without a mask.
            outputs: how many there are to be.

        Raises:
            ModelError: it returns something else.
        """
        model.eval()
        buffers = dict(model.named_buffers())
        kept = {key: buffer.clone() for key, buffer in buffers.items() if not is_lazy(buffer)}
        samples = {leaf.name: np.stack(_samples(leaf.space)) for leaf in self.obs_layout.leaves}
        x = self.prepare({key: torch.as_tensor(value) for key, value in samples.items()})
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = self._first_outputs(model, x[0] if self.masked else x)
            for key, buffer in model.named_buffers():
                if key in kept and kept[key].shape == buffer.shape:
                    buffer.copy_(kept[key])
        shapes: Any = type(found).__name__
        if isinstance(found, tuple):
            shapes = [tuple(part.shape) for part in found]
            if len(found) == 2 and shapes[0] == (2, outputs) and found[1].numel() == 2:
                return
        raise ModelError(
            f"The custom model {self.custom!r} must return outputs [N, {outputs}] and values [N]; "
            f"for N = 2 it returned {shapes}."
        )

    def _first_outputs(self, model: Any, x: Any) -> Any:
        """What a custom model makes of two observations."""
        return model(x)

    @property
    def wide(self) -> bool:
        """Whether float64 observations are taken as they are, instead of as float32.

        That is so if they are normalised, and no preprocessor sees them.
        """
        return self.normalizer is not None and self.preprocessor is None

    def prepare(self, obs: Mapping[str, Tensor]) -> Any:
        """Turns observation leaves `[N, ...]` into network input.

        It runs once per batch, so that ten epochs over a batch normalise it once. It has no
        parameters and is not differentiated.

        Returns:
            A tensor, or a structure of tensors; with an action mask, a pair of this and which
            actions are forbidden, `[N, n]` bool.
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

    def prepare_steps(
        self, obs: Mapping[str, Tensor], action: Tensor, reward: Tensor, state: State, first: Tensor
    ) -> Any:
        """Turns a rollout's observations into network input, `[R * B, ...]`.

        Args:
            obs: leaves `[R, B, ...]`.
            action, reward: of the steps, `[T, B, ...]`; a memory may hold the latest of them.
            state: the memory before row 0.
            first: where episodes begin, `[R, B]`.
        """
        return self.prepare({name: leaf.flatten(0, 1) for name, leaf in obs.items()})

    def _leaves(self, obs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The leaves that the networks see, after a preprocessor."""
        seen = self.preprocessor and self.preprocessor.transform(self.obs_layout.unflatten(obs))
        return obs if self.preprocessor is None else self.seen.flatten(seen)

    def _custom_input(self, obs: Mapping[str, Tensor]) -> Any:
        if self.preprocessor is not None:
            return self.preprocessor.transform(self.obs_layout.unflatten(obs))
        return self.obs_layout.unflatten(
            {k: v if v.dtype == torch.uint8 else v.float() for k, v in obs.items()}
        )

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the parameters."""
        return self._any_parameter[0].dtype if self._any_parameter else torch.float32

    @property
    def overflown(self) -> str | None:
        """The first parameter or buffer that holds a number which is not finite; None if all are.

        A buffer may hold minus infinity: a model may forbid something by it.
        """
        parameters = dict(self.named_parameters())
        for name, value in self.state_dict().items():
            finite = value.isfinite() if name in parameters else value < torch.inf
            if not finite.all():
                return name
        return None

    def forward(
        self, x: Any, state: State = (), first: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Runs the networks on prepared observations.

        Returns:
            Distribution inputs `[N, dist.num_inputs]` and values `[N]`.
        """
        x, forbidden = x if self.masked else (x, None)
        outputs, value = self.network(x)
        return self._inputs(outputs, forbidden), value.view(-1)

    def actor(self, x: Any) -> Tensor:
        """Distribution inputs alone, `[N, dist.num_inputs]`."""
        x, forbidden = x if self.masked else (x, None)
        return self._inputs(self.network(x)[0] if self.custom else self.network.actor(x), forbidden)

    def critic(self, x: Any, state: State = (), first: Tensor | None = None) -> Tensor:
        """Values alone, `[N]`."""
        x = x[0] if self.masked else x
        value: Tensor = self.network(x)[1] if self.custom else self.network.critic(x)
        return value.view(-1)

    def _inputs(self, outputs: Tensor, forbidden: Tensor | None) -> Tensor:
        """Completes the network's outputs to distribution inputs: masked, or with a free log σ."""
        if forbidden is not None:
            return outputs.masked_fill(forbidden, MASKED)
        if self.actions.free:
            return torch.cat([outputs, self.log_std.expand(outputs.shape[0], -1)], -1)
        return outputs

    def initial_state(self, batch: int) -> State:
        """The memory at the start of an episode, for `batch` slots."""
        return ()

    @torch.no_grad()
    def act(
        self, obs: Mapping[str, Tensor], state: State, first: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, State]:
        """Chooses actions for a batch of slots.

        Args:
            obs: leaves `[B, ...]`.
            state: the memory, `()` for feed-forward policies.
            first: whether an episode starts here, so that the memory is cleared, `[B]`.
            noise: from `dist.noise`, `[B, ...]`; None takes the most likely actions.

        Returns:
            The distribution's samples `[B, ...]` (before squashing or clipping: see `env_action`),
            its inputs `[B, num_inputs]`, and the memory after.
        """
        inputs = self.actor(self.prepare(obs))
        if self.device.type != "cpu":
            inputs = inputs.cpu()  # where environments and the noise are
        action = self.dist.mode(inputs) if noise is None else self.dist.sample(inputs, noise)
        return action, inputs, state

    def rewarded(self, state: State, reward: np.ndarray) -> State:
        """The memory, once it is known what the latest actions earned, `[B]`."""
        return state

    def cuts(self, x: Any, state: State, first: Tensor, every: int) -> State:
        """The memory before steps 0, `every`, 2 `every`, ..., where `max_seq_len` is set."""
        raise NotImplementedError

    def env_action(self, action: Tensor) -> Any:
        """Turns samples into actions that the environments take; see `Actions.to_env`."""
        return self.actions.to_env(action)

    def update_normalizer(self, obs: Mapping[str, Tensor], weight: Tensor) -> None:
        """Merges observations into the running moments.

        This must happen between rollouts: the probabilities of a rollout must not change while it
        is learnt from. Of pictures, which are large and alike, only every `PICTURE_ROWS`-th row
        is used.

        Args:
            obs: leaves `[T, B, ...]`.
            weight: 1 for the observations that count, else 0, `[T, B]`.
        """
        self._merge(self.features, self.normalizer, obs, weight)

    def _merge(
        self,
        features: Features,
        normalizer: RunningMoments | None,
        obs: Mapping[str, Tensor],
        weight: Tensor,
    ) -> None:
        """Merges what enters by some features into its moments."""
        if normalizer is not None:
            flat = {name: leaf.flatten(0, 1) for name, leaf in obs.items()}
            numbers = features.box_numbers(self._leaves(flat), exact=True)
            normalizer.update(normalizer.exactly(numbers), weight.flatten())
        if features.pixels:
            some = {name: leaf[::PICTURE_ROWS].flatten(0, 1) for name, leaf in obs.items()}
            leaves = self._leaves(some)
            for name, moments in features.pixels.items():
                moments.update(moments.exactly(leaves[name]), weight[::PICTURE_ROWS].flatten())


def _samples(space: spaces.Space) -> list[Any]:
    """Two elements of a space, drawn without touching the space's own generator."""
    twin = copy.deepcopy(space)
    twin.seed(0)
    return [twin.sample(), twin.sample()]


def by_portions(network: Callable[..., Any], x: Any, state: State, first: Tensor) -> Any:
    """Runs a network on prepared observations; on pictures, a few at a time.

    Args:
        network: `policy` or `policy.critic`.
        x: what `prepare` made.
        state, first: for a policy with a memory, whose rows depend on those before and are not
            split.

    Returns:
        What `network` returns for all of `x`.
    """
    if state or not (isinstance(x, Tensor) and x.dtype == torch.uint8):
        return network(x, state, first)
    parts = [network(part) for part in torch.split(x, PICTURES_AT_ONCE)]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def rows(x: Any, index: Any) -> Any:
    """Some rows of prepared observations, whatever their structure."""
    if isinstance(x, dict):
        return {name: rows(part, index) for name, part in x.items()}
    return tuple(rows(part, index) for part in x) if isinstance(x, tuple) else x[index]


def together(x: Any, y: Any) -> Any:
    """The rows of two batches of prepared observations, one batch after the other."""
    if isinstance(x, dict):
        return {name: together(part, y[name]) for name, part in x.items()}
    return tuple(map(together, x, y)) if isinstance(x, tuple) else torch.cat([x, y])


def length(x: Any) -> int:
    """The rows of prepared observations."""
    while not isinstance(x, Tensor):
        x = next(iter(x.values() if isinstance(x, dict) else x))
    return len(x)


def make_custom(config: ModelConfig, space: Any, outputs: int, actions: spaces.Space) -> Any:
    """Makes the custom model of a configuration; one that takes `action_space` is told it."""
    name, settings = str(config.custom_model), config.custom_model_config
    made = find_model(name, settings)
    try:
        told = {"action_space": actions} if "action_space" in signature(made).parameters else {}
        model = made(space, outputs, **told, **settings)
    except TypeError as error:
        raise ModelError(
            f"The custom model {name!r} cannot be made with custom_model_config={settings}: "
            f"{error}."
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"The custom model {name!r} made a {type(model).__name__}; "
            "it must make a torch.nn.Module."
        )
    return model
