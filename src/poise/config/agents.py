"""Which policy acts for which agent, as a configuration says it."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from poise.config.base import AlgorithmConfig
from poise.config.resolve import canonical
from poise.config.types import brief
from poise.errors import ConfigError, nearest

SHARED = {
    "env", "env_config", "wrappers", "num_workers", "ray_address", "num_learners", "seed",
    "num_envs_per_worker", "rollout_fragment_length", "timesteps_per_iteration", "num_gpus",
    "num_threads", "total_timesteps", "policies", "policy_mapping_fn", "policies_to_train",
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
    if policies is None:
        return {}
    if isinstance(policies, (set, frozenset, list, tuple)):
        policies = dict.fromkeys(sorted(policies, key=str) if _is_set(policies) else policies)
    if not isinstance(policies, Mapping) or not all(isinstance(name, str) for name in policies):
        raise ConfigError(
            f"policies={brief(policies)} is not allowed: "
            "it must be names, or a mapping from names to settings."
        )
    if odd := [name for name in policies if not re.fullmatch(r"[\w.-]+", name)]:
        raise ConfigError(
            f"policies: {odd[0]!r} is not allowed: a name has letters, digits, and _ - . only."
        )
    return {name: _settings(name, value) for name, value in policies.items()}


def _is_set(value: Any) -> bool:
    return isinstance(value, (set, frozenset))


def _settings(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, tuple) and len(value) == 4:
        value = value[3]
    value = getattr(value, "config", value)  # of RLlib's PolicySpec
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"policies: {name!r} has {brief(value)}, which must be a mapping of settings."
        )
    return dict(value)


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
    found = _mapped(agents, mapping) if mapping else _by_kind(agents, known)
    for agent, name in found.items():
        if known and name not in known:
            raise ConfigError(
                f"policy_mapping_fn gives the agent {agent!r} the policy {name!r}, which is none "
                f"of the policies: {', '.join(known)}.{nearest(str(name), known)}"
            )
        other = next(each for each, owner in found.items() if owner == name)
        if agents[other] != agents[agent]:
            raise ConfigError(
                f"The agents {other!r} and {agent!r} have different spaces, and share the policy "
                f"{name!r}: give each a policy of its own by policy_mapping_fn."
            )
    if idle := [name for name in known if name not in found.values()]:
        raise ConfigError(f"The policy {idle[0]!r} has no agent: policy_mapping_fn names it never.")
    names = [*found.values()]
    for name in to_train or ():
        if name not in names:
            raise ConfigError(
                f"policies_to_train: there is no policy {name!r}.{nearest(str(name), names)}"
            )
    return found


def _mapped(agents: Iterable[str], mapping: Any) -> dict[str, str]:
    """What a mapping says of each agent."""
    if isinstance(mapping, Mapping):
        named = {str(agent): str(name) for agent, name in mapping.items()}
        if missing := [agent for agent in agents if agent not in named]:
            raise ConfigError(f"policy_mapping_fn has no policy for the agent {missing[0]!r}.")
        return {agent: named[agent] for agent in agents}
    return {agent: _called(mapping, agent) for agent in agents}


def _called(mapping: Callable[..., Any], agent: str) -> str:
    """What a function says of an agent; RLlib's take an episode (and more), which is None here."""
    if not callable(mapping):
        raise ConfigError(
            f"policy_mapping_fn={brief(mapping)} is not allowed: it must be a function of an "
            "agent's id, or a mapping from ids to policies."
        )
    given = inspect.signature(mapping).parameters.values()
    positional = [p for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    more = sum(p.default is p.empty for p in positional[1:])
    own: Any = int(agent) if agent.isdecimal() else agent  # RLlib's ids may be numbers
    try:
        return str(mapping(own, *[None] * more))
    except Exception as error:
        raise ConfigError(
            f"policy_mapping_fn raised {type(error).__name__}: {error}, for the agent {own!r}. "
            "It is called once for each agent, without an episode."
        ) from error


def _by_kind(agents: Mapping[str, Hashable], known: list[str]) -> dict[str, str]:
    """One policy for each kind of agents."""
    first: dict[Hashable, str] = {}
    for agent, kind in agents.items():
        first.setdefault(kind, agent)
    if known and len(known) != len(first):
        raise ConfigError(
            f"There are {len(known)} policies and {len(first)} kinds of agents: say by "
            "policy_mapping_fn which acts for whom."
        )
    names = known or (["default"] if len(first) == 1 else _families([*first.values()]))
    by_kind = dict(zip(first, names, strict=True))
    return {agent: by_kind[kind] for agent, kind in agents.items()}


def _families(agents: list[str]) -> list[str]:
    """Names after the first agent of each kind: `archer` for `archer_0`, if that is one only."""
    short = [re.sub(r"[^\w.-]", "_", re.sub(r"_?\d+$", "", agent)) or agent for agent in agents]
    return short if len({*short}) == len(short) else agents


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
