"""Several agents: each policy learns by an algorithm of its own, side by side in one environment.

repeat:
    sample T steps in each of E environments, in which all policies act
    split the rollout: a rollout for each policy, with a slot for each of its agents
    each policy that learns takes its rollout, and does what its algorithm does with one
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poise.algorithms.base import Algorithm, learning_mode
from poise.algorithms.on_policy import OnPolicy
from poise.config.agents import for_policy, owners, read_policies
from poise.config.opponents import read_opponents
from poise.config.registry import find_algorithm
from poise.config.resolve import canonical
from poise.errors import ConfigError, DivergedError
from poise.learning.device import CPU
from poise.learning.seeding import torch_generator
from poise.models.central import Central
from poise.models.policy import Policy
from poise.models.recurrent import RecurrentQPolicy
from poise.sampling.episodes import Episode
from poise.sampling.group import SamplerGroup
from poise.sampling.opponents import Pool, SelfPlay
from poise.sampling.rollout import Rollout
from poise.sampling.seats import Split, TeamPolicy
from poise.spaces.agents import BESIDE, agent_layouts, is_joint, seen_beside
from poise.spaces.layout import Layout

AGENT_STEPS = "agent_timesteps_total"
"""The key of the steps of all agents, in results and checkpoints."""


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
        agents_counted: steps of all agents so far; `timesteps` counts those of environments.
    """

    def __init__(
        self,
        kind: Any,
        config: Any,
        obs_layout: Layout,
        action_layout: Layout,
        seed: np.random.SeedSequence,
    ) -> None:
        self.config, self.device = config, CPU
        layouts = agent_layouts(obs_layout, action_layout)
        specs = read_policies(config.policies)
        kinds = {agent: str([own.to_json() for own in both]) for agent, both in layouts.items()}
        self.owners = owners(kinds, specs, config.policy_mapping_fn, config.policies_to_train)
        names = [*specs] or [*dict.fromkeys(self.owners.values())]
        seeds = [*seed.spawn(len(names) - 1), seed][::-1]
        self.members: dict[str, Algorithm] = {}
        for name, own_seed in zip(names, seeds, strict=True):
            agents = [agent for agent, owner in self.owners.items() if owner == name]
            own = for_policy(config, specs.get(name, {}), len(agents))
            seen, does = layouts[agents[0]]
            if getattr(config, "central_critic", False):
                beside = seen_beside(obs_layout, agents)
                seen = Layout(seen.space, [leaf for leaf, _ in beside.values()])
            self.members[name] = member = kind(own, seen, does, own_seed)
            if seen.beside and not isinstance(member.policy, Central):
                raise ConfigError(
                    "central_critic=True is not allowed: the policy that "
                    f"{kind.__name__}.make_policy makes has no value function that sees more."
                )
        _refuse(config, self.policies.values())
        self.trained = config.policies_to_train or names
        config.policies = {name: specs.get(name, {}) for name in names}
        config.policy_mapping_fn, config.policies_to_train = self.owners, self.trained
        config.model.conv_dtype = self.members[names[0]].config.model.conv_dtype
        self.policy: Any = TeamPolicy(self.policies, self.owners, obs_layout, action_layout)
        self.learners = {
            f"{name}/{key}": learner
            for name in self.trained
            for key, learner in self.members[name].learners.items()
        }
        self.learner = next(iter(self.learners.values()))
        self.repeatable = all(member.repeatable for member in self.members.values())
        self.dropped: list[str] = []
        self.selfplay = self._selfplay(seed)
        self.opponents = self.selfplay.pool if self.selfplay else None
        self.split = Split(self.behaviour, config.num_envs)
        self.timesteps, self.agents_counted = 0, {AGENT_STEPS: 0}
        self.start = self.waited = None

    def _selfplay(self, seed: np.random.SeedSequence) -> SelfPlay | None:
        """What acts where a policy plays earlier selves; a preset's wish for it gives way.

        Raises:
            ConfigError: there is no such policy, or there are several.
        """
        settings = read_opponents(self.config.opponents)
        shared = [name for name in self.trained if self.policy.seats[name].count > 1]
        if settings is None:
            return None
        if len(shared) != 1 and "opponents" not in self.config.given:
            self.config.opponents = None
            self.dropped = ["No earlier selves are played: not one policy is shared by agents."]
            return None
        if len(shared) != 1:
            found = f"{' and '.join(map(repr, shared))} are such" if shared else "there is none"
            raise ConfigError(
                "opponents is not allowed: self-play takes one policy that learns and that two or "
                f"more agents share, and {found}. See policies and policy_mapping_fn."
            )
        if isinstance(self.policies[shared[0]], RecurrentQPolicy):
            raise ConfigError(
                "opponents with DQN and a memory (model.memory) is not allowed: its replay holds "
                "rows of all. PPO, A2C, IMPALA and APPO can have both."
            )
        agents, generator = self.policy.seats[shared[0]].count, torch_generator(seed.spawn(1)[0])
        pool = Pool(settings, agents, self.config.num_envs, generator)
        layouts = self.policy.obs_layout, self.policy.action_layout
        return SelfPlay(self.policies, self.owners, *layouts, name=shared[0], pool=pool)

    @property
    def behaviour(self) -> Any:
        return self.selfplay or self.policy

    @property
    def policies(self) -> dict[str, Policy]:
        return {name: member.policy for name, member in self.members.items()}

    def announce(self) -> list[str]:
        turns = ["With several agents, sampling and learning take turns."]
        said = turns if hasattr(self.config, "learner_queue_size") else []
        if getattr(self.config, "n_step", 1) > 1:
            said.append("n_step: sums of rewards end where an agent waits for others to act.")
        for name, policy in self.policies.items():
            if beside := policy.obs_layout.beside:
                names = ", ".join(leaf.name.removeprefix(f"{BESIDE}/") for leaf in beside)
                said.append(f"The value function of {name} also sees {names}; its policy does not.")
        return [*said, *self.dropped] + [
            each for member in self.members.values() for each in member.announce()
        ]

    def rebind(self, samplers: SamplerGroup) -> None:
        """Hands on what was changed in the run's settings; members look at their policies."""
        config = self.config
        shared = config.adjustable & vars(config).keys() - {"timesteps_per_iteration"}
        for name, member in self.members.items():
            for key in shared - canonical(type(config), config.policies[name]).keys():
                setattr(member.config, key, getattr(config, key))

    def advance(self, samplers: SamplerGroup) -> dict[str, float]:
        self.rebind(samplers)
        return self.iteration(samplers)

    def iteration(self, samplers: SamplerGroup) -> dict[str, float]:
        stats: dict[str, float] = {}
        for _ in self.rounds():
            learnt = self.timesteps  # from what looks at observations alone, nothing is learnt
            if new := [name for name, member in self.members.items() if _is_new(member)]:
                for name, part in self._collect(samplers).items():
                    if name in new:
                        self.members[name].finish_round(part)
            if self.selfplay:
                self.selfplay.begin(learnt)
            parts = self._collect(samplers)
            for name in self.trained:
                try:
                    own = self.members[name].advance(Given(samplers, parts[name]))
                except DivergedError as error:
                    raise DivergedError(f"The policy {name!r}: {error}") from None
                whose = f"{name}/" if len(self.members) > 1 else ""
                stats |= {f"{whose}{key}": value for key, value in own.items()}
            for member in self.members.values():
                member.timesteps = self.timesteps  # also of one that does not learn
            if self.selfplay:
                self.selfplay.advance(self.timesteps)
            samplers.publish(self.updates)
        return stats

    def _collect(self, samplers: SamplerGroup) -> dict[str, Rollout]:
        """A rollout for each policy; its steps are counted."""
        for member in self.members.values():
            member.explore(sampling=True)
        rollout = samplers.collect()
        parts = self.split(rollout)
        if self.selfplay:
            self.selfplay.follow(rollout)
        self.timesteps += int(rollout.valid.sum())
        self.agents_counted[AGENT_STEPS] += sum(int(p.valid.sum()) for p in parts.values())
        return parts

    def counted(self) -> dict[str, float]:
        return {**self.agents_counted, **(self.opponents.numbers() if self.opponents else {})}

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
        self.split = Split(self.behaviour, self.split.envs)
        if self.opponents:
            self.opponents.returns.zero_()
        gone = [what for member in self.members.values() for what in member.leave_environment()]
        return [*dict.fromkeys(gone)]

    def state_dict(self) -> dict[str, Any]:
        return {
            "members": {name: member.state_dict() for name, member in self.members.items()},
            "open": self.split.open,
            "opponents": self.opponents.state_dict() if self.opponents else None,
            "timesteps": self.timesteps,
            **self.agents_counted,
            "start": self.start,
        }

    def form(self) -> dict[str, Any]:
        members = {name: member.form() for name, member in self.members.items()}
        return {**self.state_dict(), "members": members}

    def load(self, state: dict[str, Any], policies: dict[str, dict[str, Tensor]]) -> None:
        for name, member in self.members.items():
            member.load_state_dict(state["members"][name], policies[name])
        for name, kept in (state.get("open") or {}).items():
            for key, value in kept.items():
                self.split.open[name][key].copy_(torch.as_tensor(value))
        if self.selfplay and state.get("opponents"):
            self.selfplay.pool.load_state_dict(state["opponents"], self.selfplay.own.policy)
        self.timesteps = int(state["timesteps"])
        self.agents_counted[AGENT_STEPS] = int(state[AGENT_STEPS])
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


def _is_new(member: Algorithm) -> bool:
    """Whether its observation normaliser has seen nothing yet; see `OnPolicy.warm_up`."""
    return isinstance(member, OnPolicy) and any(m.count == 0 for m in member.policy.moments)


def _refuse(config: Any, policies: Iterable[Policy]) -> None:
    """Refuses what several agents cannot have yet.

    Raises:
        ConfigError: it names the setting.
    """
    hears = any(policy.hears_rewards for policy in policies)
    keys = {"ray_address": config.on_cluster, "model.lstm_use_prev_reward": hears}
    keys["her"] = getattr(config, "her", None)
    if found := [key for key, value in keys.items() if value]:
        raise ConfigError(
            f"{found[0]} is not allowed with several agents in an environment: not yet."
        )


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
        if config.opponents:
            raise ConfigError(
                "opponents is not allowed: the environment has one agent, "
                "and self-play takes two or more that share a policy."
            )
        made: Algorithm = kind(config, obs_layout, action_layout, seed)
        return made
