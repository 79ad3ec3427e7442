"""From the rollout of an environment of several agents to one rollout for each policy.

A slot is one agent of one environment. An agent that acts at row a, and is to act again at row n,
learns what came of its action only then. Its step stands in the last row of that span:

    row            a          ...        n - 1                   n
    obs            obs_a      obs_a      obs_a                   obs_n
    action                               the one chosen at a
    reward         0          0          all that it got         ...
    valid          False      False      True                    ...
    waits          True       True       False                   ...

So the next observation of a step is that of the next row, as for a single agent; rows in which an
agent waits do not count, and advantages pass through them. A step that is not finished at the end
of a rollout is a step of the next one. Agents that are absent, or whose episode is over, wait, too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from poise.errors import ConfigError
from poise.models.team import Seats, TeamPolicy, to_slots
from poise.sampling.rollout import Rollout
from poise.spaces.agents import ACTS, BEGINS, REWARD, TERMINATED, TRUNCATED


class Split:
    """Splits joint rollouts `[T, E]` into rollouts `[T, n * E]` of each policy's n agents.

    Args:
        team: acted.
        envs: the number of environments.
    """

    def __init__(self, team: TeamPolicy, envs: int) -> None:
        self.team, self.envs = team, envs
        self.forget()

    def forget(self) -> None:
        """Forgets the steps that are not finished."""
        self._open = {name: _nothing(each, self.envs) for name, each in self.team.seats.items()}

    def __call__(self, rollout: Rollout) -> dict[str, Rollout]:
        """The rollouts by policy; what is not finished is kept for the next call."""
        before = list(rollout.state)
        parts = {}
        for name, each in self.team.seats.items():
            size = len(each.policy.initial_state(1)) if before else 0
            state = tuple(part.transpose(0, 1).flatten(0, 1) for part in before[:size])
            del before[:size]
            parts[name] = self._part(each, rollout, self._open[name], state)
        return parts

    def _part(self, each: Seats, rollout: Rollout, kept: dict[str, Tensor], state: Any) -> Rollout:
        n, steps = each.count, rollout.steps
        acts, begins = (each.flags(rollout.obs[key]) > 0 for key in (ACTS, BEGINS))
        ended = [each.flags(rollout.obs[key][1:]) > 0 for key in (TERMINATED, TRUNCATED)]
        earned = each.flags(rollout.obs[REWARD][1:])
        stepped = (rollout.valid > 0).repeat(1, n)
        cut = (rollout.terminated | rollout.truncated).repeat(1, n)
        ids = torch.cat([rollout.ids + k * self.envs for k in range(n)])
        # Of an environment that begins anew here, nothing is left to finish.
        pending = kept["pending"][ids] & ~rollout.first[0].repeat(n)
        reward, source = kept["reward"][ids], torch.full((len(ids),), -1)
        valid, rewards = torch.zeros(steps, len(ids)), torch.zeros(steps, len(ids))
        terminated, truncated = torch.zeros(2, steps, len(ids), dtype=torch.bool)
        sources = torch.empty(steps, len(ids), dtype=torch.int64)
        for t in range(steps):
            fresh = acts[t] & stepped[t]
            source = torch.where(pending & ~fresh, source, t)
            reward = torch.where(fresh, 0.0, reward) + earned[t] * stepped[t]
            pending = pending | fresh
            over = ended[0][t] | ended[1][t] | cut[t]
            done = pending & stepped[t] & (acts[t + 1] | ended[0][t] | ended[1][t])
            sources[t], valid[t], rewards[t] = source, done, reward * done
            terminated[t] = done & ended[0][t]
            truncated[t] = done & over & (ended[1][t] | ~ended[0][t])
            pending, reward = pending & ~(done | over), reward * ~done
        if each.policy.recurrent and (valid * (sources != torch.arange(steps)[:, None])).any():
            raise ConfigError(
                "A policy with a memory cannot learn yet where agents wait for others to act: "
                "leave out model.memory, or give an environment in which all act at once."
            )
        action, log_prob = self._actions(each, rollout, sources, kept, ids)
        kept["pending"][ids], kept["reward"][ids] = pending, reward
        waits = (valid == 0) & ~begins[1:]
        return Rollout(
            obs=each.rows(rollout.obs, 1),
            action=action,
            log_prob=log_prob,
            reward=rewards,
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            first=begins,
            ids=ids,
            state=state,
            version=rollout.version,
            waits=waits if waits.any() else None,
            env_steps=int(rollout.valid.sum()),
        )

    def _actions(
        self, each: Seats, rollout: Rollout, source: Tensor, kept: dict[str, Tensor], ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The actions that led to what stands in each row, and their log probabilities.

        Args:
            each, rollout: as above.
            source: the row in which each was chosen, `[T, n * E]`; -1 in the rollout before.
            kept: what is left of that one; becomes what is left of this one.
            ids: the slots.
        """
        known: dict[str, Tensor] = {"action": each.samples(rollout.action)}
        log_prob = to_slots(rollout.log_prob[..., each.log_prob], each.count)
        known["log_prob"] = log_prob.squeeze(-1)
        found = []
        for key, chosen in known.items():
            both = torch.cat([kept[key][ids].unsqueeze(0), chosen])
            rows = both[source + 1, torch.arange(len(ids))]
            kept[key][ids] = rows[-1]
            found.append(rows)
        return found[0], found[1]

    def state_dict(self) -> dict[str, Any]:
        """The steps that are not finished."""
        return {name: dict(kept) for name, kept in self._open.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        for name, kept in self._open.items():
            for key, own in kept.items():
                own.copy_(torch.as_tensor(state[name][key]))


def _nothing(each: Seats, envs: int) -> dict[str, Tensor]:
    slots, dist = each.count * envs, each.policy.dist
    return {
        "pending": torch.zeros(slots, dtype=torch.bool),
        "reward": torch.zeros(slots),
        "action": torch.zeros(slots, *dist.action_shape, dtype=dist.action_dtype),
        "log_prob": torch.zeros(slots),
    }
