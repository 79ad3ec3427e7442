"""Several agents: each policy learns by an algorithm of its own, side by side in one environment.

repeat:
    sample T steps in each of E environments, in which all policies act
    split the rollout: a rollout for each policy, with a slot for each of its agents
    each policy that learns takes its rollout, and does what its algorithm does with one
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from poise.algorithms.base import Algorithm, learning_mode
from poise.algorithms.on_policy import OnPolicy
from poise.config.agents import for_policy, owners, read_policies
from poise.config.registry import find_algorithm
from poise.errors import ConfigError, DivergedError
from poise.learning.device import CPU
from poise.models.policy import Policy
from poise.models.team import TeamPolicy
from poise.sampling.episodes import Episode
from poise.sampling.group import SamplerGroup
from poise.sampling.rollout import Rollout
from poise.sampling.seats import Split
from poise.spaces.agents import agent_layouts, is_joint
from poise.spaces.layout import Layout


class Team(Algorithm):
    """The algorithms of all policies of a run.

    Args:
        kind: makes the algorithm of a policy.
        config: of the run; which policy acts for whom is resolved in it.
        obs_layout, action_layout: the joint ones.
        seed: of the first policy; the others have streams of their own.

    Attributes:
        policy: acts for all agents.
        members: the algorithm of each policy, by name.
        trained: the names of those that learn.
        agent_timesteps: steps of all agents so far; `timesteps` counts those of environments.
    """

    agent_timesteps: int

    def __init__(
        self,
        kind: Any,
        config: Any,
        obs_layout: Layout,
        action_layout: Layout,
        seed: np.random.SeedSequence,
    ) -> None:
        _refuse(config)
        self.config, self.device = config, CPU
        layouts = agent_layouts(obs_layout, action_layout)
        specs = read_policies(config.policies)
        kinds = {agent: str([own.to_json() for own in both]) for agent, both in layouts.items()}
        self.owners = owners(kinds, specs, config.policy_mapping_fn, config.policies_to_train)
        names = [*specs] or [*dict.fromkeys(self.owners.values())]
        seeds = [seed, *(_other(seed, i) for i in range(1, len(names)))]
        self.members: dict[str, Algorithm] = {}
        for name, own_seed in zip(names, seeds, strict=True):
            agents = [agent for agent, owner in self.owners.items() if owner == name]
            own = for_policy(config, specs.get(name, {}), len(agents))
            self.members[name] = kind(own, *layouts[agents[0]], own_seed)
        self.trained = config.policies_to_train or names
        config.policies = {name: specs.get(name, {}) for name in names}
        config.policy_mapping_fn, config.policies_to_train = self.owners, self.trained
        first = self.members[names[0]]
        config.model.conv_dtype = first.config.model.conv_dtype
        self.policy: Any = TeamPolicy(self.policies, self.owners, obs_layout, action_layout)
        self.learners = {
            f"{name}/{key}": learner
            for name in self.trained
            for key, learner in self.members[name].learners.items()
        }
        self.learner = next(iter(self.learners.values()))
        self.repeatable = all(member.repeatable for member in self.members.values())
        self.split = Split(self.policy, config.num_envs)
        self.timesteps = self.agent_timesteps = 0
        self.start: tuple[int, int] | None = None
        self.waited: float | None = None
        self._told: set[str] = set()
        self._settings = self._adjustable()

    @property
    def policies(self) -> dict[str, Policy]:
        return {name: member.policy for name, member in self.members.items()}

    def announce(self) -> list[str]:
        said = [sentence for member in self.members.values() for sentence in member.announce()]
        if any(member.config.num_gpus for member in self.members.values()):
            said.append("Policies of several agents learn one after the other on the GPU.")
        if hasattr(self.config, "learner_queue_size"):
            said.append("With several agents, sampling and learning take turns.")
        return said

    def place(self, samplers: SamplerGroup) -> SamplerGroup:
        return samplers

    def rebind(self, samplers: SamplerGroup) -> None:
        """Takes up what was changed in the run's settings; members look at their policies."""
        now = self._adjustable()
        for key in now:
            if now[key] != self._settings[key]:
                for member in self.members.values():
                    setattr(member.config, key, now[key])
        self._settings = now

    def _adjustable(self) -> dict[str, Any]:
        """What may change while policies learn, but for what only the run as a whole has."""
        keys = [key for key in sorted(self.config.adjustable) if hasattr(self.config, key)]
        return {key: getattr(self.config, key) for key in keys if key != "timesteps_per_iteration"}

    def advance(self, samplers: SamplerGroup) -> dict[str, float]:
        with learning_mode():
            self.rebind(samplers)
            return self.iteration(samplers)

    def iteration(self, samplers: SamplerGroup) -> dict[str, float]:
        stats: dict[str, float] = {}
        for _ in self.rounds():
            if unready := [name for name in self.trained if _needs_a_look(self.members[name])]:
                parts = self._collect(samplers)
                for name in unready:
                    self.members[name].finish_round(parts[name])
            parts = self._collect(samplers)
            for name in self.trained:
                stats |= self._learn(name, Given(samplers, parts[name]))
            for member in self.members.values():
                member.timesteps = self.timesteps  # also of one that does not learn
            samplers.publish(self.updates)
        return stats

    def _collect(self, samplers: SamplerGroup) -> dict[str, Rollout]:
        """A rollout for each policy; its steps are counted."""
        for member in self.members.values():
            member.explore(sampling=True)
        rollout = samplers.collect()
        parts = self.split(rollout)
        self.timesteps += int(rollout.valid.sum())
        self.agent_timesteps += sum(int(part.valid.sum()) for part in parts.values())
        waits = any(part.waits is not None for part in parts.values())
        if waits and getattr(self.config, "n_step", 1) > 1:
            self.say(samplers, "n_step: sums of rewards end where an agent waits for others.")
        return parts

    def _learn(self, name: str, given: Given) -> dict[str, float]:
        member = self.members[name]
        try:
            stats = member.advance(given)
        except DivergedError as error:
            raise DivergedError(f"The policy {name!r}: {error}") from None
        whose = f"{name}/" if len(self.members) > 1 else ""
        return {f"{whose}{key}": value for key, value in stats.items()}

    def of_episodes(self, episodes: Sequence[Episode]) -> dict[str, float]:
        """The mean return of the agents of each policy, over all episodes that they were in."""
        found = {}
        for name in self.members:
            keys = [f"reward/{agent}" for agent, owner in self.owners.items() if owner == name]
            earned = [each.info[key] for each in episodes for key in keys if key in each.info]
            mean = sum(earned) / len(earned) if earned else math.nan
            found[f"policy/{name}/episode_reward_mean"] = mean
        return found

    def leave_environment(self) -> list[str]:
        self.start = None
        self.split.forget()
        gone = [what for member in self.members.values() for what in member.leave_environment()]
        return [*dict.fromkeys(gone)]

    def state_dict(self) -> dict[str, Any]:
        return {
            "members": {name: member.state_dict() for name, member in self.members.items()},
            "open": self.split.state_dict(),
            "timesteps": self.timesteps,
            "agent_timesteps": self.agent_timesteps,
            "start": self.start,
        }

    def form(self) -> dict[str, Any]:
        members = {name: member.form() for name, member in self.members.items()}
        return {**self.state_dict(), "members": members}

    def load(self, state: dict[str, Any], policies: dict[str, dict[str, Tensor]]) -> None:
        for name, member in self.members.items():
            member.load_state_dict(state["members"][name], policies[name])
        if state.get("open") is not None:
            self.split.load_state_dict(state["open"])
        self.timesteps = int(state["timesteps"])
        self.agent_timesteps = int(state["agent_timesteps"])
        start = state.get("start")
        self.start = (int(start[0]), int(start[1])) if start else None


class Given(SamplerGroup):
    """One policy's part of a rollout, as the samplers that its algorithm sees.

    Args:
        group: the samplers of the run.
        rollout: the part.
    """

    def __init__(self, group: SamplerGroup, rollout: Rollout) -> None:
        self.members, self.halt, self.slots = group.members, group.halt, rollout.slots
        self._rollout = rollout

    def collect(self) -> Rollout:
        return self._rollout

    def publish(self, version: int) -> None:
        pass  # the policy itself acts


def _needs_a_look(member: Algorithm) -> bool:
    """Whether its observation normaliser has seen nothing yet; see `OnPolicy.warm_up`."""
    unseen = any(moments.count == 0 for moments in member.policy.moments)
    return isinstance(member, OnPolicy) and unseen


def _other(seed: np.random.SeedSequence, number: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, 0, number))


def _refuse(config: Any) -> None:
    """Refuses what several agents cannot have yet.

    Raises:
        ConfigError: it names the setting.
    """
    if config.on_cluster:
        raise ConfigError(
            f"ray_address={config.ray_address!r} is not allowed with several agents, "
            "whose environments step on this machine: num_workers shares them among processes."
        )
    if config.model.lstm_use_prev_reward:
        raise ConfigError(
            "model.lstm_use_prev_reward is not allowed with several agents, of which each is told "
            "its own: put it into the observations."
        )
    if getattr(config, "her", None):
        raise ConfigError("her is not allowed with several agents: goals are those of one.")


def make_algorithm(
    name: str,
    config: Any,
    obs_layout: Layout,
    action_layout: Layout,
    seed: np.random.SeedSequence,
) -> Algorithm:
    """Makes the algorithm registered as `name`, or one for each policy of several agents."""
    kind = find_algorithm(name)
    with learning_mode():
        if is_joint(obs_layout.space):
            return Team(kind, config, obs_layout, action_layout, seed)
        made: Algorithm = kind(config, obs_layout, action_layout, seed)
        return made
