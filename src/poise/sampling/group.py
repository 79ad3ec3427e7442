"""All samplers of a run as one object.

Algorithms, the trainer, its metrics and checkpoints see nothing behind it.

rollout = group.collect()       # T steps of every slot
...                             # learn from it
group.publish(version)          # the next rollout is sampled by the policy as it is now
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from poise.learning.optimizers import Flat
from poise.models.policy import Policy
from poise.sampling.episodes import STAGES, Harvest
from poise.sampling.halt import HaltedError
from poise.sampling.rollout import Rollout, gather
from poise.sampling.sampler import Sampler
from poise.stepping.failures import Failure


class SamplerGroup:
    """Samplers that act side by side in this thread, with the very policy that is being learnt.

    Args:
        members: at least one; their slots are numbered one after the other.

    Attributes:
        halt: stops sampling between two steps.
        slots: of all members.
    """

    def __init__(self, members: Sequence[Sampler]) -> None:
        self.members = tuple(members)
        self.halt = members[0].halt
        self.slots = sum(member.slots for member in members)

    def collect(self) -> Rollout:
        """One rollout of all slots.

        While the environments of one member step, another finds its actions: where environments
        step elsewhere, neither waits for the other.

        Raises:
            EnvError: see `Sampler.stages`.
            HaltedError: it was asked to stop; the next call goes on where they stood.
        """
        try:
            for _ in self.stages():
                pass
        except (
            BaseException
        ):  # their rows are lost, those of the members that were done before, too
            for member in self.members:
                member.abandon()
            raise
        if not self.full:
            raise HaltedError
        return gather([member.finish() for member in self.members])

    def stages(self) -> Iterator[None]:
        """The `stages` of all members in turn, with a pause after each round."""
        running = [member.stages() for member in self.members]
        while running:
            running = [each for each in running if next(each, _DONE) is not _DONE]
            yield

    @property
    def full(self) -> bool:
        """Whether all members have filled their rollouts, and `finish` is due."""
        return all(member.full for member in self.members)

    def publish(self, version: int) -> None:
        """The policy being learnt, as it is now, is what the next rollout begins with: here it acts
        itself, so that only its version is noted."""
        for member in self.members:
            member.version = version

    def harvest(self) -> Harvest:
        """What has come of sampling since the last call."""
        each = [member.harvest() for member in self.members]
        return Harvest(
            episodes=sorted(
                (episode for part in each for episode in part.episodes), key=lambda e: e.row
            ),
            rows=each[0].rows,
            seconds={stage: sum(part.seconds[stage] for part in each) for stage in STAGES},
        )

    def tell(self, sentence: str) -> None:
        """Something odd, for whoever trains."""
        self.members[0].failures.add([Failure("odd", sentence)], ())

    @property
    def underway(self) -> int:
        """Environment steps of the rollout that a halt has left amid it."""
        return sum(member.filled * member.slots for member in self.members)

    def largest(self) -> tuple[float, float]:
        """The largest of the latest observations in floats, and of the latest rewards."""
        rollouts = [member.rollout for member in self.members]
        leaves = [
            leaf
            for rollout in rollouts
            for leaf in rollout.obs.values()
            if leaf.is_floating_point()
        ]
        rewards = [rollout.reward for rollout in rollouts]
        observed, rewarded = (
            max((x.abs().max().item() for x in each), default=0) for each in (leaves, rewards)
        )
        return observed, rewarded

    def follow(self, policy: Policy, flat: Flat, version: int) -> None:
        """Acts from now on with this policy, whose modules or places of parameters are others, and
        drops what was sampled ahead with the one before."""

    def close(self) -> None:
        """Ends sampling; the environments are others' to close."""

    def state_dict(self) -> list[dict[str, Any]]:
        """Each member's."""
        return [member.state_dict() for member in self.members]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> int:
        """Restores what `state_dict` returned; returns how many slots had to start a new episode."""
        return sum(
            len(member.load_state_dict(each))
            for member, each in zip(self.members, states, strict=True)
        )


_DONE = object()
