"""Self-play: one policy on all seats, or on one of them against a frozen earlier self.

When an episode begins, it is drawn who plays in it. In a share of the episodes (`latest`), the
present self has all seats of its policy. In the others it has one of them, drawn anew each time,
and an earlier self has the rest:

    who        [E, 2]       the earlier self's number, or `PRESENT`; the seat of the present one
    actors     [E, seats]   who acts for each seat

Who plays is memory, as a recurrent policy has it, and so it is kept and resumed with the episodes;
the actors stand in columns of their own behind the joint action, and so in rollouts.

Earlier selves are drawn by prioritised fictitious self-play (Vinyals et al. 2019, "Grandmaster
level in StarCraft II", methods): one that is beaten with probability p has the weight (1 - p)².
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from poise.config.opponents import OpponentsConfig
from poise.models.policy import Policy, State
from poise.sampling.rollout import Rollout
from poise.sampling.seats import Seats, TeamPolicy
from poise.spaces.agents import ACTS, REWARD, TERMINATED, TRUNCATED
from poise.spaces.layout import Layout

PRESENT, NOBODY = -1, -2
"""In place of an earlier self's number: the policy that learns; nobody, for a seat that waits."""

FIRST_ELO = 1000.0
"""The rating of the first self, which has learnt nothing of games against earlier ones."""

DECAY = 0.99
"""What a game still counts after the next against the same opponent, since the policy changes; as
in AlphaStar's league."""

DRAWN = 4
"""So many earlier selves are drawn for a rollout, from which its episodes draw theirs: each has a
forward pass of its own at every step."""

ACTORS = "actors"
"""Where `SelfPlay.act` puts the actors, among the leaves of an observation."""


class Opponent(NamedTuple):
    """A line of the table of those that play: the present self, then the pool, the latest first."""

    steps: int
    """Environment steps that it has learnt from."""
    elo: float
    win_rate: float
    """How often the present self beats it; a tie is half a game, and games of late count most."""
    games: int
    """Games of the present self against it, in all."""


@dataclass
class Earlier:
    """A frozen earlier self.

    Attributes:
        number: how many joined the pool before.
        steps: environment steps that it has learnt from.
        elo: its rating, which was the present self's when it joined.
        policy: acts.
        games, won: of the present self against it, with `DECAY`; a tie is half a game won.
        played: games without it.
    """

    number: int
    steps: int
    elo: float
    policy: Policy
    games: float = 0.0
    won: float = 0.0
    played: int = 0

    @property
    def win_rate(self) -> float:
        """How often it is beaten; as if one game had been won, and one lost, before the first."""
        return (self.won + 1) / (self.games + 2)


class Pool:
    """The earlier selves of a policy, and how the present one plays against them.

    Args:
        config: see there.
        seats: how many agents share the policy.
        envs: the number of environments.
        generator: draws who is played.

    Attributes:
        members: the earlier selves, in the order in which they joined.
        drawn: the numbers of those that the next episodes draw from.
        joined: how many have ever joined.
        played: games against members, in all.
        returns: of each seat in the episode under way, `[envs, seats]`.
    """

    def __init__(
        self, config: OpponentsConfig, seats: int, envs: int, generator: Generator
    ) -> None:
        self.config, self.generator = config, generator
        self.members: list[Earlier] = []
        self.drawn: list[int] = []
        self.joined = 0
        self.played = 0
        self.returns = torch.zeros(envs, seats, dtype=torch.float64)

    def find(self, number: int) -> Earlier | None:
        """The member of this number; None if it has left."""
        return next((each for each in self.members if each.number == number), None)

    def join(self, policy: Policy, steps: int) -> None:
        """Adds a frozen copy of a policy; of too many members, one leaves.

        It is the one that would be played least, which is beaten most surely; of several, the one
        that has been there longest. If all are played as often, the pool is a window of the latest
        selves (Bansal et al. 2018, arXiv 1710.03748).
        """
        frozen = copy.deepcopy(policy).requires_grad_(False)
        self.members.append(Earlier(self.joined, steps, self.elo, frozen))
        self.joined += 1
        self._shrink()
        self.draw()

    def _shrink(self) -> None:
        while len(self.members) > self.config.pool:
            self.members.remove(min(self.members[:-1], key=self._weight))

    def draw(self) -> None:
        """Draws whom the episodes that begin from now on may have as opponents."""
        weights = torch.tensor([self._weight(each) for each in self.members])
        drawn = torch.multinomial(weights, DRAWN, replacement=True, generator=self.generator)
        self.drawn = [self.members[i].number for i in drawn.tolist()]

    def _weight(self, member: Earlier) -> float:
        """How likely it is to be drawn, up to a factor."""
        return 1.0 if self.config.sampling == "uniform" else (1 - member.win_rate) ** 2

    @property
    def elo(self) -> float:
        """The rating by which the present self would be expected to win as much as it has.

        With 400 points more, ten games are won for each that is lost (Elo 1978).
        """
        ratings = [each.elo for each in self.members] or [FIRST_ELO]
        low, high = min(ratings) - 1000, max(ratings) + 1000
        while high - low > 0.01:
            rating = (low + high) / 2
            surplus = sum(
                (each.games + 2) * (each.win_rate - 1 / (1 + 10 ** ((each.elo - rating) / 400)))
                for each in self.members
            )
            low, high = (rating, high) if surplus > 0 else (low, rating)
        return (low + high) / 2 if self.members else FIRST_ELO

    def follow(self, rollout: Rollout, own: Seats) -> None:
        """Enters the games that ended in a rollout.

        A seat's score against another is 1 if it returned more, a half if as much. Games that were
        cut because an environment failed, and those against a member that has left, do not count.

        Args:
            rollout: a joint one.
            own: the seats of the policy.
        """
        valid, ids = rollout.valid > 0, rollout.ids
        actors = rollout.action[..., -own.count :].long()
        earned = rollout.obs[REWARD][1:, :, own.agents].double() * valid.unsqueeze(-1)
        over = valid & (rollout.terminated | rollout.truncated)
        ended = [rollout.obs[key][1:].any(-1) for key in (TERMINATED, TRUNCATED)]
        over &= ended[0] | ended[1]
        returns = self.returns[ids]
        for t in range(rollout.steps):
            returns = returns.masked_fill(rollout.first[t].unsqueeze(-1), 0.0) + earned[t]
            for e in over[t].nonzero().flatten().tolist():
                number = int(actors[t, e].max())
                if number != PRESENT and (member := self.find(number)) is not None:
                    present = actors[t, e] == PRESENT
                    ahead = returns[e][present] - returns[e][~present]
                    self._enter(member, float((ahead.sign() + 1).mean() / 2))
        self.returns[ids] = returns

    def _enter(self, member: Earlier, score: float) -> None:
        self.played += 1
        member.played += 1
        member.games = DECAY * member.games + 1
        member.won = DECAY * member.won + score

    def numbers(self) -> dict[str, float]:
        """What results say of it."""
        games = sum(each.games for each in self.members)
        return {
            "selfplay/elo": self.elo,
            "selfplay/win_rate": sum(each.won for each in self.members) / games if games else 0.5,
            "selfplay/pool": len(self.members),
            "selfplay/games": self.played,
        }

    def table(self, steps: int) -> list[Opponent]:
        """The present self, which has learnt from `steps`, and the members, the latest first."""
        rows = [Opponent(m.steps, m.elo, m.win_rate, m.played) for m in self.members]
        return [Opponent(steps, self.elo, 0.5, self.played), *reversed(rows)]

    def state_dict(self) -> dict[str, Any]:
        members = [
            {**vars(each), "policy": dict(each.policy.state_dict())} for each in self.members
        ]
        kept = {key: getattr(self, key) for key in ("drawn", "joined", "played", "returns")}
        return {"members": members, "generator": self.generator.get_state(), **kept}

    def load_state_dict(self, state: Mapping[str, Any], policy: Policy) -> None:
        """Restores what `state_dict` returned; its members are of the kind of `policy`."""
        self.members = []
        for kept in state["members"]:
            frozen = copy.deepcopy(policy).requires_grad_(False)
            frozen.load_state_dict(kept["policy"])
            self.members.append(Earlier(**{**kept, "policy": frozen}))
        self.generator.set_state(torch.as_tensor(state["generator"]))
        self.drawn = [int(number) for number in state["drawn"]]
        self.joined, self.played = int(state["joined"]), int(state["played"])
        self.returns.copy_(torch.as_tensor(state["returns"]))
        self._shrink()


class SelfPlay(TeamPolicy):
    """Acts for all agents while sampling, some of which are played by earlier selves.

    Args:
        policies, owners, obs_layout, action_layout: as for `TeamPolicy`.
        name: of the policy that plays itself.
        pool: its earlier selves.
    """

    def __init__(
        self,
        policies: Mapping[str, Policy],
        owners: Mapping[str, str],
        obs_layout: Layout,
        action_layout: Layout,
        *,
        name: str,
        pool: Pool,
    ) -> None:
        super().__init__(policies, owners, obs_layout, action_layout)
        self.pool, self.own = pool, self.seats[name]
        self.action_shape = (self.action_shape[0] + self.own.count,)
        self._numbers = torch.arange(self.own.count)

    def initial_state(self, batch: int) -> State:
        """What a `TeamPolicy` remembers, and who plays."""
        return *super().initial_state(batch), torch.full((batch, 2), PRESENT)

    @torch.no_grad()
    def act(
        self, obs: Mapping[str, Tensor], state: State, first: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, State]:
        assert noise is not None  # nothing but samplers acts with it
        *memory, who = state
        if first.any():
            who = torch.where(first.unsqueeze(-1), self._drawn(noise[..., -2:]), who)
        rival, seat = who[:, :1], who[:, 1:]
        actors = torch.where(self._numbers == seat, PRESENT, rival)
        action, inputs, rest = super().act({**obs, ACTORS: actors}, tuple(memory), first, noise)
        return torch.cat([action, actors.float()], -1), inputs, (*rest, who)

    def _drawn(self, noise: Tensor) -> Tensor:
        """Who plays in an episode that begins, `[E, 2]`, by normal noise of that shape."""
        against, seat = torch.special.ndtr(noise).clamp(max=1 - 1e-6).unbind(-1)
        latest, drawn = self.pool.config.latest, torch.tensor(self.pool.drawn or [PRESENT])
        earlier = drawn[((against - latest) / (1 - latest + 1e-12) * len(drawn)).long().clamp(0)]
        who = torch.where(against < latest, PRESENT, earlier)
        return torch.stack([who, (seat * self.own.count).long()], -1)

    def begin(self, steps: int) -> None:
        """Has the self that has learnt from so many steps join an empty pool."""
        if not self.pool.members:
            self.pool.join(self.own.policy, steps)

    def follow(self, rollout: Rollout) -> None:
        """Enters the games of a rollout in the pool."""
        self.pool.follow(rollout, self.own)

    def advance(self, steps: int) -> None:
        """Has the present self join the pool if it is time to, and draws whom it plays next."""
        if steps >= self.pool.members[-1].steps + self.pool.config.every:
            self.pool.join(self.own.policy, steps)
        self.pool.draw()

    def noise(self, shape: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        """The noise of all agents, and that by which it is drawn who plays."""
        return torch.cat(
            [super().noise(shape, generator), torch.randn(*shape, 2, generator=generator)], -1
        )

    def ask(
        self,
        each: Seats,
        obs: Mapping[str, Tensor],
        memory: State,
        begins: Tensor,
        noise: Tensor | None,
    ) -> tuple[Tensor, Tensor, State]:
        """Asks each player for the seats whose turn it is; those that wait need no action."""
        if each is not self.own:
            return super().ask(each, obs, memory, begins, noise)
        dist, seen = each.policy.dist, each.rows(obs)
        action = torch.zeros(len(begins), *dist.action_shape, dtype=dist.action_dtype)
        inputs, after = torch.zeros(len(begins), dist.num_inputs), [kept.clone() for kept in memory]
        acts = obs[ACTS][..., each.agents] > 0
        turns = torch.where(acts, obs[ACTORS], NOBODY).t().flatten()
        for number in sorted({*turns.tolist()} - {NOBODY}):
            rows = (turns == number).nonzero().flatten()
            part = {name: leaf[rows] for name, leaf in seen.items()}
            held = tuple(kept[rows] for kept in memory)
            drawn = None if noise is None else noise[rows]
            *own, new = self._player(number).act(part, held, begins[rows], drawn)
            for whole, some in zip((action, inputs, *after), (*own, *new), strict=True):
                whole[rows] = some
        return action, inputs, tuple(after)

    def _player(self, number: int) -> Policy:
        """Who acts; for one that has left since the episode began, the present self does."""
        member = self.pool.find(number)
        return self.own.policy if member is None else member.policy

    def steps(self, each: Seats, rollout: Rollout) -> Tensor:
        """The rows of the present self: earlier ones teach nothing."""
        found = super().steps(each, rollout)
        if each is self.own:
            found &= rollout.action[..., -each.count :].transpose(-2, -1).flatten(-2) == PRESENT
        return found
