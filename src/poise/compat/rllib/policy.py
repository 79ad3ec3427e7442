"""A policy of a trainer with RLlib's methods, and the worker that scripts ask for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch

from poise.compat.gym.core import OldEnv
from poise.envs.make import make_env
from poise.errors import ConfigError
from poise.learning.seeding import torch_generator
from poise.training.acting import ACTING, act


class PolicySpec(NamedTuple):
    """What RLlib's `multiagent` says of a policy; only its settings count."""

    policy_class: Any = None
    observation_space: Any = None
    action_space: Any = None
    config: Any = None


class PolicyView:
    """RLlib's methods of a policy.

    Args:
        trainer: Poise's.
        name: of its policy.

    Attributes:
        model: its networks, a `torch.nn.Module`.
        observation_space, action_space: of one step.
        config: the trainer's settings.
        device: where it computes.
    """

    framework = "torch"

    def __init__(self, trainer: Any, name: str) -> None:
        self.trainer, self.name, self.own = trainer, name, trainer.algorithm.policies[name]
        self.config: dict[str, Any] = trainer.config.to_dict()
        self.observation_space = self.own.obs_layout.space
        self.action_space = self.own.action_layout.space
        self.device = self.own.device
        self._generator = torch_generator(trainer.stream(ACTING, trainer.iteration, 1))

    @property
    def model(self) -> Any:
        network = getattr(self.own.network, "old", self.own.network)  # RLlib's kind is itself
        if not hasattr(network, "base_model"):  # as Keras had it
            shown = SimpleNamespace(summary=lambda *_, **__: str(network))
            object.__setattr__(network, "base_model", shown)
        return network

    def compute_actions(
        self, obs_batch: Any, state_batches: Sequence[Any] | None = None, *_: Any,
        explore: bool | None = None, **__: Any,
    ) -> tuple[Any, list[Any], dict[str, Any]]:  # fmt: skip
        """Actions for a batch, the memory after (a list of its parts), and what they follow from.

        The last is `action_dist_inputs`, and `vf_preds` of a policy without a memory.
        """
        batch = np.asarray(obs_batch) if isinstance(obs_batch, (list, tuple)) else obs_batch
        state = _begun(state_batches)
        generator = None if explore is False else self._generator
        actions, after = act(self.own, batch, state, generator=generator)
        return actions, [np.asarray(part) for part in after or ()], self._told(batch)

    def compute_actions_from_input_dict(
        self, input_dict: Mapping[str, Any], explore: bool | None = None, **_: Any
    ) -> tuple[Any, list[Any], dict[str, Any]]:
        """See `compute_actions`."""
        return self.compute_actions(input_dict["obs"], explore=explore)

    def compute_single_action(
        self, obs: Any, state: Sequence[Any] | None = None, *_: Any,
        explore: bool | None = None, **__: Any,
    ) -> tuple[Any, list[Any], dict[str, Any]]:  # fmt: skip
        """The same of one observation."""
        generator = None if explore is False else self._generator
        memory = None if _begun(state) is None else [np.asarray(part)[None] for part in state or ()]
        action, after = act(self.own, obs, memory, generator=generator)
        told = {} if self.own.recurrent else self._told(_batched(obs))
        return action, [np.asarray(p)[0] for p in after or ()], {k: v[0] for k, v in told.items()}

    @torch.no_grad()
    def _told(self, batch: Any) -> dict[str, Any]:
        if self.own.recurrent or self.own.masked:
            return {}
        leaves = self.own.obs_layout.flatten(batch)
        x = self.own.prepare({k: torch.as_tensor(np.asarray(v)) for k, v in leaves.items()})
        told = {"action_dist_inputs": self.own.actor(x).cpu().numpy()}
        if hasattr(self.own.network, "critic") or self.own.custom:
            told["vf_preds"] = self.own.critic(x).cpu().numpy()
        return told

    def forward_inference(self, batch: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        """What an `RLModule` returned for `{"obs": batch}`: `action_dist_inputs`."""
        told = self._told(np.asarray(batch["obs"]))
        return {key: torch.from_numpy(value) for key, value in told.items()}

    forward_exploration = forward_inference

    def get_weights(self) -> dict[str, np.ndarray]:
        """Its parameters and statistics by name."""
        return {k: v.detach().cpu().numpy().copy() for k, v in self.own.state_dict().items()}

    def set_weights(self, weights: Mapping[str, Any]) -> None:
        """Takes what `get_weights` returned."""
        own = self.own.state_dict()
        if own.keys() != weights.keys():
            odd = min(own.keys() ^ weights.keys())
            raise ConfigError(f"These weights are not this policy's: {odd!r} is in one of them.")
        with torch.no_grad():  # in place: parameters are views of one vector
            for key, value in weights.items():
                own[key].copy_(torch.as_tensor(np.asarray(value)))

    def get_initial_state(self) -> list[Any]:
        """An empty memory, a list of its parts."""
        return [np.asarray(part)[0] for part in self.own.initial_state(1)]

    def is_recurrent(self) -> bool:
        """Whether it has a memory."""
        return bool(self.own.recurrent)

    def num_state_tensors(self) -> int:
        """The parts of its memory."""
        return len(self.get_initial_state())


def _begun(state: Sequence[Any] | None) -> Any:
    """A memory; None at an episode's start, where RLlib's is empty or zeros."""
    if state is None or not len(state):
        return None
    return state if any(np.any(np.asarray(part)) for part in state) else None


def _batched(obs: Any) -> Any:
    """One observation as a batch of one."""
    if isinstance(obs, Mapping):
        return {key: _batched(value) for key, value in obs.items()}
    if isinstance(obs, tuple):
        return tuple(_batched(value) for value in obs)
    return np.asarray(obs)[None]


class Workers:
    """RLlib's set of workers, of which there is one, with all environments.

    Functions for environments get one that passes on what they call and set, to all of them.
    """

    def __init__(self, trainer: Any, views: Mapping[str, PolicyView]) -> None:
        self.trainer, self.policy_map, self.worker_index = trainer, views, 0
        self.policy_config: dict[str, Any] = trainer.config.to_dict()

    def local_worker(self) -> Workers:
        """This."""
        return self

    def remote_workers(self) -> list[Any]:
        """None: what there is is here."""
        return []

    def get_policy(self, policy_id: str = "default_policy") -> PolicyView:
        """A policy by its name."""
        return self.policy_map[policy_id]

    def foreach_worker(self, function: Callable[..., Any], **_: Any) -> list[Any]:
        """Calls a function with this."""
        return [function(self)]

    foreach_env_runner = foreach_worker

    def foreach_policy(self, function: Callable[[Any, str], Any]) -> list[Any]:
        """Calls a function with each policy and its name."""
        return [function(view, name) for name, view in self.policy_map.items()]

    def foreach_env(self, function: Callable[[Any], Any]) -> list[Any]:
        """Calls a function with all environments as one."""
        return [function(_All(self.trainer))]

    def foreach_env_with_context(self, function: Callable[[Any, Any], Any]) -> list[Any]:
        """The same, with a context."""
        return [function(_All(self.trainer), SimpleNamespace(worker_index=0, vector_index=0))]

    def sync_weights(self, *_: Any, **__: Any) -> None:
        """There is nothing to do: samplers have the weights before each rollout."""

    @property
    def env(self) -> Any:
        """A fresh environment, as Gym's scripts of all its years play one."""
        config = self.trainer.config
        return OldEnv(make_env(config.env, dict(config.env_config)))


class _All:
    """All environments as one: methods are called, and attributes set, in each of them."""

    def __init__(self, trainer: Any) -> None:
        self.__dict__["_trainer"] = trainer

    def __getattr__(self, name: str) -> Any:
        if name == "unwrapped":
            return self
        first = self._trainer.get_env_attr(name)[0]
        if not callable(first):
            return first
        return lambda *args, **how: self._trainer.call_envs(name, *args, **how)[0]

    def __setattr__(self, name: str, value: Any) -> None:
        self._trainer.set_env_attr(name, value)
