"""Asking a policy for actions, one observation or a batch at a time, and for whole episodes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from poise.algorithms.base import Algorithm
from poise.config.base import AlgorithmConfig
from poise.config.types import PositiveInt, brief, coerce
from poise.envs.raised import telling_interrupts
from poise.errors import ConfigError, ModelError, PoiseWarning, SpaceError
from poise.learning.distributions import explained
from poise.learning.seeding import torch_generator
from poise.models.policy import Policy, State
from poise.sampling.episodes import Episode
from poise.spaces import masks
from poise.spaces.agents import AGENTS, with_state
from poise.training.environments import Environments
from poise.training.evaluation import check_outputs, is_single, summarize, to_tensors
from poise.training.metrics import Metrics

ALGORITHM, SAMPLERS, EVALUATION, ACTING, CONFIRMATION = range(5)
"""Purposes: each has a stream of random numbers of its own, derived from the one seed."""


class Acting:
    """What a trainer's policy can be asked to do."""

    algorithm: Algorithm
    config: AlgorithmConfig
    environments: Environments
    metrics: Metrics
    iteration: int
    _generator: torch.Generator | None = None

    @property
    def policy(self) -> Any:
        """The policy being learnt."""
        return self.algorithm.policy

    def stream(self, purpose: int, *index: int) -> np.random.SeedSequence:
        """A stream of random numbers of its own, for one of the purposes above."""
        return np.random.SeedSequence(self.config.seed or 0, spawn_key=(purpose, *index))

    def compute_action(
        self,
        observation: Any,
        *,
        explore: bool = False,
        action_mask: Any = None,
        policy: str | None = None,
    ) -> Any:
        """The action for one observation, as the environment takes it.

        A policy with a memory begins with an empty one at each call, which is said.

        Args:
            observation: one element of the observation space.
            explore: samples the action instead of taking the most likely one.
            action_mask, policy: as in `predict`.
        """
        if self.policy.recurrent:
            warnings.warn(
                "compute_action forgets: use predict and its state.", PoiseWarning, stacklevel=2
            )
        return self.predict(
            observation, deterministic=not explore, action_mask=action_mask, policy=policy
        )[0]

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_mask: Any = None,
        reward: Any = None,
        policy: str | None = None,
    ) -> tuple[Any, Any]:
        """Actions for one observation or a batch of them, and the policy's memory.

        It is Stable-Baselines3's `predict`, but deterministic unless asked otherwise.

        Args:
            observation: an element of the observation space, or a batch (one more axis in front).
            state: memory that the last call returned; None at the start.
            episode_start: for a batch, which slots begin an episode.
            deterministic: takes the most likely actions.
            action_mask: which choices are allowed, for a policy that was trained with masks; it
                takes the place of the mask in the observation. Where the environment reports masks
                in its info, the observation may come as the environment gives it, and without a
                mask everything is allowed.
            reward: what the action before earned, for a policy with `lstm_use_prev_reward`.
            policy: the name of the policy that acts, where several agents have several; the
                observation is one agent's own. That of all agents, as the environment
                gives it, needs none: the actions are those of all.

        Returns:
            Actions, elements of the action space (or of its batched form), and the memory.

        Raises:
            SpaceError: the observation, the mask or the memory does not fit the policy.
            EnvError: a mask allows nothing.
            ModelError: the policy has to know the reward, and it is not given.
            ConfigError: there is no policy of that name, or several and none is named.
        """
        if self._generator is None:
            self._generator = torch_generator(self.stream(ACTING, self.iteration))
        generator = None if deterministic else self._generator
        if isinstance(observation, Mapping) and AGENTS in observation:
            chosen, observation = self.policy, with_state(self.policy.obs_layout.space, observation)
        else:
            chosen = self._named(policy)
        return act(chosen, observation, state, episode_start, action_mask, generator, reward)

    def _named(self, name: str | None) -> Policy:
        """A policy by its name, or the only one."""
        policies = self.algorithm.policies
        only = next(iter(policies)) if len(policies) == 1 else ""
        if (chosen := policies.get(name or only)) is None:
            raise ConfigError(f"policy={name!r} is not allowed: there are {', '.join(policies)}.")
        return chosen

    @torch.no_grad()
    def policy_info(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        action_mask: Any = None,
        reward: Any = None,
        policy: str | None = None,
    ) -> dict[str, Any]:
        """What a policy makes of one observation, or of a batch: arrays, of a batch with its axis.

        Args:
            observation, state, episode_start, action_mask, reward, policy: as in `predict`.

        Returns:
            `action`: the most likely one, as the environment takes it. `value`: of the state; NaN
            where a policy knows none (SAC, TD3 and their relatives). `entropy`, and `log_prob` of
            the action. `inputs` of the distribution of actions; and where its kind has them,
            `probabilities` of choices and bits, `mean` and `std` of numbers (before bounds), `q`
            of DQN's choices.
        """
        chosen = self._named(policy)
        given = (observation, state, episode_start, action_mask, reward)
        single, obs, memory, first = asked(chosen, *given)
        remembers: Any = chosen if chosen.recurrent else None
        seen = remembers.look(obs, memory, first)[:2] if remembers else chosen(chosen.prepare(obs))
        inputs, value = (part.cpu() for part in seen)
        action = chosen.dist.mode(inputs)
        found = {
            "value": value,
            "inputs": inputs,
            "log_prob": chosen.dist.log_prob(inputs, action),
            "entropy": chosen.dist.entropy(inputs),
            **explained(chosen.dist, inputs),
        }
        arrays = {key: (x[0] if single else x).numpy() for key, x in found.items()}
        return {"action": to_env(chosen, action, single=single), **arrays}

    @telling_interrupts()
    def evaluate(
        self, episodes: int | None = None, *, explore: bool | None = None, seed: int = 0
    ) -> dict[str, float]:
        """Plays fresh episodes in environments of their own.

        Args:
            episodes: how many; `evaluation_duration` unless given.
            explore: whether actions are sampled; `evaluation_explore` unless given.
            seed: other seeds give other episodes.

        Returns:
            `episode_reward_mean`, `_min`, `_max`, `_std`, `episode_len_mean`, `episodes`,
            `info/...`.
        """
        count = coerce(PositiveInt | None, episodes, "episodes") or self.config.evaluation_duration
        sampled = self.config.evaluation_explore if explore is None else explore
        streams, window = self.stream(EVALUATION, self.iteration, seed), self.metrics.window
        play = self.environments.play
        found = play(self.policy, count, streams, explore=sampled, window=window)
        return {**summarize(found), **self.algorithm.of_episodes(found)}

    def fresh_episodes(self, count: int) -> list[Episode]:
        """Episodes with sampled actions, for a confirmation."""
        streams, window = self.stream(CONFIRMATION, self.iteration), self.metrics.window
        return self.environments.play(
            self.policy, count, streams, explore=True, window=window, many=True
        )


@torch.no_grad()
def act(
    policy: Policy,
    observation: Any,
    state: Any = None,
    episode_start: Any = None,
    action_mask: Any = None,
    generator: torch.Generator | None = None,
    reward: Any = None,
) -> tuple[Any, Any]:
    """Actions and memory: see `Acting.predict`. With a generator, actions are sampled from it."""
    given = (observation, state, episode_start, action_mask, reward)
    single, obs, memory, first = asked(policy, *given)
    noise = None if generator is None else policy.dist.noise((len(first),), generator)
    action, inputs, memory = policy.act(obs, memory, first, noise)
    check_outputs(policy, obs, inputs)
    return to_env(policy, action, single=single), (memory or None)


def to_env(policy: Policy, action: torch.Tensor, *, single: bool) -> Any:
    """Actions as the environment takes them; the only one, where it is of one observation."""
    actions, layout = policy.env_action(action), policy.action_layout
    return layout.element(layout.flatten(actions), 0) if single else actions


def asked(
    policy: Policy,
    observation: Any,
    state: Any,
    episode_start: Any,
    action_mask: Any,
    reward: Any,
) -> tuple[bool, dict[str, torch.Tensor], State, torch.Tensor]:
    """What a caller asks a policy about, checked; arguments as in `Acting.predict`.

    Returns:
        Whether it is one observation, its leaves `[B, ...]`, the memory, and where episodes begin.
    """
    if policy.masked or action_mask is not None:
        observation = masks.complete(
            policy.obs_layout.space, policy.action_layout.space, observation, action_mask
        )
    single = is_single(policy, observation)
    given = to_tensors(policy, observation)
    obs = {name: value.unsqueeze(0) for name, value in given.items()} if single else given
    batch = len(next(iter(obs.values())))
    start = _of_each("episode_start", False if episode_start is None else episode_start, batch)
    first = torch.as_tensor(start != 0)
    memory = policy.initial_state(batch)
    if state is not None and memory:
        memory = _continued(policy, memory, state, reward)
    return single, obs, memory, first


def _continued(policy: Policy, empty: State, state: Any, reward: Any) -> State:
    """The memory that a caller gave back, and what its last action earned.

    Args:
        policy: whose memory it is.
        empty: a memory of the right shapes.
        state: as the caller gave it.
        reward: likewise; None where it did not.
    """
    parts = state if isinstance(state, (tuple, list)) else [state]
    try:
        memory = tuple(torch.as_tensor(part) for part in parts)
    except (TypeError, ValueError, RuntimeError):
        raise SpaceError(
            f"state={brief(state)} is no memory: give predict the state that it returned; "
            "None at the start."
        ) from None
    shapes = [[tuple(part.shape) for part in parts] for parts in (empty, memory)]
    if shapes[0] != shapes[1]:
        raise SpaceError(
            f"A memory of the shapes {shapes[1]} does not fit: here it has {shapes[0]}. "
            "Give predict the state that it returned for as many observations; None at the start."
        )
    memory = tuple(part.to(kind.dtype) for part, kind in zip(memory, empty, strict=True))
    if not all(part.isfinite().all() for part in memory):
        raise SpaceError("The state holds numbers that are not finite: give None at the start.")
    if not policy.hears_rewards:
        return memory
    if reward is None:
        raise ModelError(
            "This policy remembers rewards (lstm_use_prev_reward): "
            "give predict the reward of its last action."
        )
    return policy.rewarded(memory, _of_each("reward", reward, len(memory[0])))


def _of_each(name: str, given: Any, batch: int) -> np.ndarray:
    """A number for each observation of a batch, `[batch]`, of which one stands for all.

    Raises:
        SpaceError: it is none.
    """
    try:
        number = np.asarray(given, np.float64)
        if np.isfinite(number).all():
            return np.broadcast_to(number, batch).copy()
    except (TypeError, ValueError):
        pass
    raise SpaceError(
        f"{name}={brief(given)} is not allowed: give one finite number, or {batch} of them."
    )
