"""Which policy acts for which agent, as a configuration says it."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from poise.config.base import AlgorithmConfig
from poise.config.resolve import canonical
from poise.config.types import brief
from poise.errors import ConfigError, nearest

SHARED = {
    "env", "env_config", "wrappers", "num_workers", "ray_address", "num_learners", "seed",
    "num_envs_per_worker", "rollout_fragment_length", "timesteps_per_iteration", "num_gpus",
    "num_threads", "total_timesteps", "central_critic", "policies", "policy_mapping_fn",
    "policies_to_train", "opponents",
}  # fmt: skip
"""Settings that all policies of a run have in common."""


def read_policies(policies: Any) -> dict[str, dict[str, Any]]:
    """The settings of each policy, by name.

    Args:
        policies: names, or a mapping from names to settings. As in RLlib, settings may also be
            `(class, observation space, action space, settings)`, of which the last are taken: the
            spaces are those of the agents.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(policies, (set, frozenset)):
        policies = sorted(policies, key=str)
    named = policies if isinstance(policies, Mapping) else dict.fromkeys(policies or ())
    found = {}
    for name, value in named.items():
        value = value[-1] if isinstance(value, tuple) and value else value
        own = getattr(value, "config", value) or {}  # of RLlib's PolicySpec
        if not isinstance(own, Mapping) or not re.fullmatch(r"[\w.-]+", str(name)):
            raise ConfigError(
                f"policies: {brief(name)} with {brief(value)} is not allowed: it must be a name "
                "of letters, digits, and _ - . with a mapping of settings, or without any."
            )
        found[str(name)] = dict(own)
    return found


def owners(
    agents: Mapping[str, Hashable], policies: Iterable[str], mapping: Any, to_train: Any
) -> dict[str, str]:
    """The name of the policy of each agent.

    Args:
        agents: by id, what kind each is of: agents of one kind have the same spaces.
        policies: their names, in the order in which kinds take them if there is no `mapping`; none
            if each kind has a policy that is named after its agents.
        mapping: a function of the agent's id, or a mapping from ids.
        to_train: names of policies that learn.

    Raises:
        ConfigError: an agent has no policy, or a policy no agent; or agents of different spaces
            share one.
    """
    known = list(policies)
    if mapping:
        found = {agent: str(_asked(mapping, agent)) for agent in agents}
    else:
        found = _by_kind(agents, known)
    names = [*dict.fromkeys(found.values())]
    for agent, name in found.items():
        other = next(each for each, owner in found.items() if owner == name)
        if agents[other] != agents[agent]:
            raise ConfigError(
                f"The agents {other!r} and {agent!r} have different spaces, and share the policy "
                f"{name!r}: give each a policy of its own by policy_mapping_fn."
            )
    if known and (odd := {*known} ^ {*names}):
        raise ConfigError(
            f"policies has {', '.join(known)}, and policy_mapping_fn gives {', '.join(names)}: "
            f"{min(odd)!r} is in one of them only.{nearest(min(odd), known + names)}"
        )
    if unknown := {*(to_train or ())} - {*names}:
        name = min(unknown)
        raise ConfigError(f"policies_to_train: there is no policy {name!r}.{nearest(name, names)}")
    return found


def _asked(mapping: Any, agent: str) -> Any:
    """What a mapping or a function says of an agent; RLlib's take an episode, which is None."""
    own: Any = int(agent) if agent.isdecimal() else agent  # RLlib's ids may be numbers
    try:
        if isinstance(mapping, Mapping):
            return {str(key): name for key, name in mapping.items()}[agent]
        parameters = [*inspect.signature(mapping).parameters.values()][1:]
        usual = inspect.Parameter.POSITIONAL_OR_KEYWORD
        more = [None for p in parameters if p.kind == usual and p.default is p.empty]
        return mapping(own, *more)
    except Exception as error:
        raise ConfigError(
            f"policy_mapping_fn raised {type(error).__name__}: {error}, for the agent {own!r}. It "
            "is a mapping from all agents, or a function, called for each without an episode."
        ) from error


def _by_kind(agents: Mapping[str, Hashable], known: list[str]) -> dict[str, str]:
    """One policy for each kind of agents, named after the first of them if it has no name."""
    first: dict[Hashable, str] = {}
    for agent, kind in agents.items():
        first.setdefault(kind, agent)
    if known and len(known) != len(first):
        raise ConfigError(
            f"policies has {', '.join(known)}, and the agents are of {len(first)} "
            f"kind{'s'[: len(first) - 1]}: say by policy_mapping_fn which acts for whom."
        )
    names = known or ([*first.values()] if len(first) > 1 else ["default"])
    by_kind = dict(zip(first, names, strict=True))
    return {agent: by_kind[kind] for agent, kind in agents.items()}


def for_policy(config: AlgorithmConfig, own: Mapping[str, Any], agents: int) -> Any:
    """The configuration of one policy: the run's, with settings of its own over it.

    Batches and minibatches of a run count environment steps, of which each has a row for every
    agent of the policy.

    Args:
        config: the run's.
        own: the policy's.
        agents: how many agents it has.

    Raises:
        ConfigError: a setting is unknown, not allowed, or the same for all policies.
    """
    made: Any = dataclasses.replace(config, model=dataclasses.replace(config.model))
    for key, value in canonical(type(config), dict(own)).items():
        if key in SHARED:
            raise ConfigError(f"policies: {key!r} is the same for all policies of a run.")
        owner, _, name = key.rpartition(".")
        setattr(made.model if owner else made, name, value)
    made.num_envs_per_worker *= agents
    made.timesteps_per_iteration = 0
    if getattr(made, "sgd_minibatch_size", None):
        made.sgd_minibatch_size *= agents
    if hasattr(made, "learner_thread"):
        made.learner_thread = False
    return made
