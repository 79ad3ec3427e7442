"""Policies with a memory: recurrent cells between what is observed and the hidden layers.

    observation -> encoders -> [previous action and reward] -> LSTM or GRU -> hidden layers -> heads

See `poise.models.cells` for the cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from poise.config.model import ModelConfig
from poise.errors import ModelError
from poise.models.catalog import find_model
from poise.models.cells import Cells
from poise.models.features import Features
from poise.models.mlp import parallel
from poise.models.networks import ActorCritic, QNetwork, own_part
from poise.models.policy import PICTURES_AT_ONCE, Policy, State, length, rows
from poise.models.q_policy import QPolicy
from poise.spaces.layout import Layout


class Remembered:
    """What takes the place of `Features` behind a cell: its output, a vector as it is.

    Attributes:
        size: the length of the vector.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def encoder(self, config: ModelConfig) -> tuple[None, int]:
        """As `Features.encoder`."""
        return None, self.size


class RecurrentActorCritic(ActorCritic):
    """Policy and value function behind a memory: one each, or one of both (`vf_share_layers`).

    Args:
        features, num_outputs, config: as for `ActorCritic`.
        extra: numbers beside the observation that the cells see, too.
        whole: what a central value function sees; it has no cell.
    """

    def __init__(
        self,
        features: Features,
        num_outputs: int,
        config: ModelConfig,
        *,
        extra: int = 0,
        whole: Features | None = None,
    ) -> None:
        assert config.memory is not None
        super().__init__(Remembered(config.lstm_cell_size), num_outputs, config, whole=whole)
        count = 1 if self.shared or self.central else 2
        made = [features.encoder(config) for _ in range(count)]
        self.encoders = nn.ModuleList(encoder for encoder, _ in made if encoder is not None)
        self.extra, inputs = extra, made[0][1] + extra
        uniform = config.initializer == "uniform"
        self.cells = Cells(config.memory, inputs, config.lstm_cell_size, count, uniform=uniform)

    def initial_state(self, batch: int) -> State:
        """An empty memory."""
        return self.cells.initial_state(batch)

    def forward(self, x: Any, state: State, first: Tensor) -> tuple[Tensor, Tensor, State]:  # type: ignore[override]
        """Goes through T steps of B slots.

        Args:
            x: prepared observations `[T * B, ...]`; with `extra`, a pair of these and the numbers
                beside them, `[T * B, extra]`.
            state: the memory before, each `[B, ...]`.
            first: where it is cleared before a step, `[T, B]` bool.

        Returns:
            Distribution inputs `[T * B, num_outputs]`, values `[T * B]`, and the memory after.
        """
        given, extra = x if self.extra else (x, None)
        x = own_part(given)
        seen = [_encode(encoder, x) for encoder in self.encoders] or [x]
        if extra is not None:
            seen = [torch.cat([vector.to(extra.dtype), extra], 1) for vector in seen]
        h, state = self.cells(torch.stack(seen), state, first)
        outputs = self.pi(h[0])
        if self.shared:
            return outputs[:, :-1], outputs[:, -1], state
        if self.central:  # in acting, what it needs is not given, nor its value asked for
            value = torch.zeros_like(outputs[:, 0]) if given is x else self.critic(given)
            return outputs, value, state
        return outputs, self.vf(h[1]).view(-1), state


class RecurrentQNetwork(QNetwork):
    """The value of each action, behind a memory.

    Args:
        features, num_outputs, config, dueling: as for `QNetwork`.
        extra: as for `RecurrentActorCritic`.
    """

    def __init__(
        self,
        features: Features,
        num_outputs: int,
        config: ModelConfig,
        *,
        dueling: bool = False,
        extra: int = 0,
    ) -> None:
        assert config.memory is not None
        super().__init__(Remembered(config.lstm_cell_size), num_outputs, config, dueling=dueling)
        self.encoder, size = features.encoder(config)
        self.extra, uniform = extra, config.initializer == "uniform"
        self.cells = Cells(config.memory, size + extra, config.lstm_cell_size, uniform=uniform)

    def initial_state(self, batch: int) -> State:
        """An empty memory."""
        return self.cells.initial_state(batch)

    def forward(self, x: Any, state: State, first: Tensor) -> tuple[Tensor, Tensor | None, State]:  # type: ignore[override]
        """Goes through T steps of B slots; see `RecurrentActorCritic.forward`.

        Returns:
            What `QNetwork` returns, and the memory after.
        """
        x, extra = x if self.extra else (x, None)
        seen = x if self.encoder is None else _encode(self.encoder, x)
        if extra is not None:
            seen = torch.cat([seen.to(extra.dtype), extra], 1)
        h, state = self.cells(seen.unsqueeze(0), state, first)
        if self.value is None:
            return self.q(h[0]), None, state
        return *parallel(self.q, self.value, h[0]), state


def _encode(encoder: nn.Module, x: Any) -> Tensor:
    """Runs an encoder; on many pictures, a few at a time if no gradient is computed."""
    exporting = torch.compiler.is_exporting()  # to where the length of a batch is not known
    if torch.is_grad_enabled() or exporting or (count := length(x)) <= PICTURES_AT_ONCE:
        encoded: Tensor = encoder(x)
        return encoded
    starts = range(0, count, PICTURES_AT_ONCE)
    return torch.cat([encoder(rows(x, slice(i, i + PICTURES_AT_ONCE))) for i in starts])


class Remembering(Policy):
    """What policies with a memory have in common.

    With `lstm_use_prev_action` or `lstm_use_prev_reward`, the memory has one part more: the
    previous action and reward, as numbers.
    """

    recurrent: ClassVar[bool] = True
    _previous: Previous

    def _settle(self, config: ModelConfig) -> None:
        """Notes what the settings say, once there are networks."""
        if self.custom and self._previous.size:
            raise ModelError(
                "A custom model is not shown previous actions and rewards: put them into the "
                "observation instead of setting lstm_use_prev_action and lstm_use_prev_reward."
            )
        self.hears_rewards = config.lstm_use_prev_reward
        self.max_seq_len = config.max_seq_len
        self._parts = len(self.network.initial_state(1))

    def _first_outputs(self, model: Any, x: Any) -> Any:
        state, first = model.initial_state(2), torch.ones(1, 2, dtype=torch.bool)
        found = model(x, state, first)
        if not isinstance(found, tuple) or len(found) != 3:
            raise ModelError(
                f"The custom model {self.custom!r} has a memory (initial_state): it must return "
                "outputs [T * B, N], values [T * B] and the memory after."
            )
        shapes = [[tuple(part.shape) for part in memory] for memory in (state, found[2])]
        if not state or shapes[0] != shapes[1] or any(shape[:1] != (2,) for shape in shapes[0]):
            raise ModelError(
                f"The memory of the custom model {self.custom!r} must have the shapes [B, ...] of "
                f"its initial_state; for B = 2, these are {shapes[0]}, and it returned {shapes[1]}."
            )
        return found[:2]

    def initial_state(self, batch: int) -> State:
        state: State = self.network.initial_state(batch)
        size = self._previous.size
        return (*state, torch.zeros(batch, size, device=self.device)) if size else state

    def run(self, x: Any, state: State, first: Tensor | None) -> tuple[Tensor, Tensor, State]:
        """Distribution inputs, values, and the memory after; without `first`, of T = 1 steps."""
        x, forbidden = x if self.masked else (x, None)
        if first is None:
            first = torch.zeros(1, length(x), dtype=torch.bool, device=self.device)
        state = state or self.initial_state(first.shape[1])
        outputs, value, after = self.network(x, state[: self._parts], first)
        return (*self._outputs(outputs, value, forbidden), after)

    def _outputs(
        self, outputs: Tensor, value: Tensor, forbidden: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Distribution inputs and values from what the network put out."""
        return self._inputs(outputs, forbidden), value.view(-1)

    def forward(
        self, x: Any, state: State = (), first: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.run(x, state, first)[:2]

    def actor(self, x: Any) -> Tensor:
        return self.run(x, (), None)[0]

    def critic(self, x: Any, state: State = (), first: Tensor | None = None) -> Tensor:
        return self.run(x, state, first)[1]

    def look(
        self, obs: Mapping[str, Tensor], state: State, first: Tensor
    ) -> tuple[Tensor, Tensor, State]:
        """Distribution inputs and values of a batch of slots, and the memory after; see `act`."""
        x, first, device = self.prepare(obs), first.unsqueeze(0), self.device
        if device.type != "cpu":
            first, state = first.to(device), tuple(part.to(device) for part in state)
        if self._previous.size:
            x = self._beside(x, state[-1] * ~first.view(-1, 1))
        return self.run(x, state, first)

    @torch.no_grad()
    def act(
        self, obs: Mapping[str, Tensor], state: State, first: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, State]:
        inputs, _, state = self.look(obs, state, first)
        inputs, device = inputs.cpu(), self.device
        action = self.dist.mode(inputs) if noise is None else self.dist.sample(inputs, noise)
        if self._previous.size:
            state = (*state, self._previous(self, action).to(device))
        return action, inputs, state

    def rewarded(self, state: State, reward: np.ndarray) -> State:
        """The memory, once it is known what the latest actions earned, `[B]`."""
        *parts, previous = state
        previous = previous.clone()
        previous[:, -1] = _squashed(torch.tensor(reward))
        return (*parts, previous)

    def prepare_steps(
        self, obs: Mapping[str, Tensor], action: Tensor, reward: Tensor, state: State, first: Tensor
    ) -> Any:
        x = super().prepare_steps(obs, action, reward, state, first)
        if not self._previous.size:
            return x
        made = self._previous(self, action.flatten(0, 1), reward.flatten()).to(self.device)
        beside = torch.cat([state[-1], made])[: first.numel()]
        return self._beside(x, beside * ~first.reshape(-1, 1))

    def _beside(self, x: Any, previous: Tensor) -> Any:
        """Prepared observations, with the previous actions and rewards beside them."""
        return ((x[0], previous), x[1]) if self.masked else (x, previous)

    @torch.no_grad()
    def cuts(self, x: Any, state: State, first: Tensor, every: int) -> State:
        """The memory before steps 0, `every`, 2 `every`, ... of B slots, `[K * B, ...]` per part.

        Args:
            x, state, first: as for `forward`.
            every: steps from one to the next.
        """
        steps, slots = first.shape
        found = [state[: self._parts]]
        for start in range(every, steps, every):
            part = slice((start - every) * slots, start * slots)
            found.append(self.run(rows(x, part), found[-1], first[start - every : start])[2])
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


class RecurrentPolicy(Remembering):
    """A stochastic policy with a value function and a memory.

    Args:
        obs_layout, action_layout, config, normalize_observations: as for `Policy`. A custom model
            has a memory of its own: see `poise.register_model`.
    """

    def __init__(
        self,
        obs_layout: Layout,
        action_layout: Layout,
        config: ModelConfig,
        *,
        normalize_observations: bool = False,
    ) -> None:
        self._previous = Previous(action_layout, config)
        super().__init__(
            obs_layout,
            action_layout,
            config,
            normalize_observations=normalize_observations,
            network=partial(RecurrentActorCritic, extra=self._previous.size),
        )
        self._settle(config)


class RecurrentQPolicy(Remembering, QPolicy):
    """Acts by action values that depend on what was seen before (Hausknecht & Stone 2015).

    Args:
        obs_layout, action_layout, config, normalize_observations, dueling: as for `QPolicy`.
    """

    def __init__(
        self, obs_layout: Layout, action_layout: Layout, config: ModelConfig, **options: Any
    ) -> None:
        self._previous = Previous(action_layout, config)
        QPolicy.__init__(self, obs_layout, action_layout, config, **options)
        self._settle(config)

    def make_network(self, dueling: bool) -> Any:
        return partial(RecurrentQNetwork, dueling=dueling, extra=self._previous.size)

    def _outputs(
        self, outputs: Tensor, value: Tensor, forbidden: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        q = self.action_values(outputs, value, forbidden)
        return q, q.amax(-1)


class Previous:
    """The previous action and reward as numbers, `[N, size]`: an action's as those of observations.

    Choices are one-hot codes; a reward r is sign(r) log(1 + |r|). Before the first step, all are 0.

    Attributes:
        size: how many numbers there are.
    """

    def __init__(self, layout: Layout, config: ModelConfig) -> None:
        self.layout, self.reward = layout, config.lstm_use_prev_reward
        self.features = Features(layout.leaves) if config.lstm_use_prev_action else None
        self.size = int(self.reward)
        if self.features is not None:
            if self.features.pictures or self.features.tables:
                raise ModelError(
                    f"lstm_use_prev_action=True does not go with actions of {layout.space}: "
                    "they are too large to be shown as numbers."
                )
            self.size += self.features.size

    def __call__(self, policy: Policy, action: Tensor, reward: Tensor | None = None) -> Tensor:
        """Actions as a policy sampled them, `[N, ...]`, and their rewards `[N]`, 0 if not known."""
        parts = []
        if self.features is not None:
            given = self.layout.flatten(policy.env_action(action.cpu()))
            leaves = {name: torch.as_tensor(np.asarray(leaf)) for name, leaf in given.items()}
            whole = {k: v if v.is_floating_point() else v.long() for k, v in leaves.items()}
            parts.append(self.features.gather(whole, policy.dtype))
        if self.reward:
            known = action.new_zeros(len(action)) if reward is None else _squashed(reward.cpu())
            parts.append(known.to(policy.dtype).unsqueeze(1))
        return torch.cat(parts, 1)  # type: ignore[arg-type]


def _squashed(reward: Tensor) -> Tensor:
    return reward.sign() * reward.abs().log1p()


def has_memory(config: ModelConfig) -> bool:
    """Whether a policy of these settings has a memory: of cells, or in its custom model.

    Raises:
        ModelError: it would have both.
    """
    name = config.custom_model
    if name is None:
        return config.memory is not None
    if config.memory is not None:
        raise ModelError(
            f"model.memory={config.memory!r} does not go with model.custom_model={name!r}: "
            "a model of your own has a memory where it has a method initial_state."
        )
    return hasattr(find_model(name, config.custom_model_config), "initial_state")
