"""All samplers of a run as one object.

Algorithms, the trainer, its metrics and checkpoints see this object and nothing behind it:

    rollout = group.collect()       # T steps of every slot
    ...                             # learn from it
    group.publish(version)          # the next rollout is sampled by the policy as it is now
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from poise.learning.optimizers import Flat
from poise.models.policy import Policy
from poise.sampling.episodes import Harvest
from poise.sampling.halt import HaltedError
from poise.sampling.rollout import Rollout, gather
from poise.sampling.sampler import Sampler
from poise.stepping.failures import Failure


class SamplerGroup:
    """Samplers that take turns in this thread and act with the very policy that is being learnt.

    Args:
        members: at least one sampler; their slots are numbered one after the other.

    Attributes:
        halt: the flag that stops sampling between two steps.
        slots: the number of slots of all members together.
    """

    waited: float = 0.0
    """Seconds that the learner has waited for rollouts that were sampled ahead."""

    def __init__(self, members: Sequence[Sampler]) -> None:
        self.members = tuple(members)
        self.halt = members[0].halt
        self.slots = sum(member.slots for member in members)

    def ahead(self, policy: Policy, flat: Flat, waiting: int, version: int) -> SamplerGroup:
        """The same samplers, but they run ahead: while the learner learns, the next rollouts are
        sampled, within `with` blocks.

        Args:
            policy: the policy being learnt, of which they take a copy.
            flat: its parameters.
            waiting: how many full rollouts may wait for the learner.
            version: of the policy.
        """
        from poise.sampling.background import BackgroundGroup

        return BackgroundGroup(self, policy, flat, waiting, version)

    @property
    def ready(self) -> int:
        """How many full rollouts wait for the learner."""
        return 0

    def __enter__(self) -> SamplerGroup:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def collect(self) -> Rollout:
        """Samples one rollout `[T, B]` of all slots.

        While the environments of one member step, another computes its actions. Environments that
        step in worker processes and the policy in this process therefore work at the same time.

        Raises:
            EnvError: see `Sampler.stages`.
            HaltedError: sampling was asked to stop; the next call goes on where it stopped.
        """
        try:
            for _ in self.stages():
                pass
        except BaseException:
            # A rollout needs the rows of all members, so that those of the others are lost, too.
            for member in self.members:
                member.abandon()
            raise
        if not self.full:
            raise HaltedError
        return gather([member.finish() for member in self.members])

    def stages(self) -> Iterator[None]:
        """Runs the `stages` of all members in turn, with a pause after each round."""
        running = [member.stages() for member in self.members]
        while running:
            running = [stages for stages in running if next(stages, _DONE) is not _DONE]
            yield

    @property
    def full(self) -> bool:
        """Whether all members have filled their rollouts."""
        return all(member.full for member in self.members)

    def publish(self, version: int) -> None:
        """Has the next rollout sampled by the policy as it is now.

        Here the policy being learnt acts itself, so that only its version is noted.
        """
        for member in self.members:
            member.version = version

    def harvest(self) -> Harvest:
        """Takes the episodes, rows and seconds of all members since the last call."""
        return Harvest.of([member.harvest() for member in self.members])

    def tell(self, sentence: str) -> None:
        """Reports something odd to whoever trains, with the failures of the environments."""
        self.members[0].failures.add([Failure("odd", sentence)], ())

    @property
    def underway(self) -> int:
        """Environment steps already taken of a rollout that a halt left unfinished."""
        return sum(member.filled * member.slots for member in self.members)

    def largest(self) -> tuple[float, float]:
        """The largest absolute values in the latest float observations and the latest rewards."""
        return largest([member.rollout for member in self.members])

    def follow(self, policy: Policy, flat: Flat, version: int) -> None:
        """Acts from now on with this policy, because its modules were exchanged.

        What was sampled ahead with the policy before is dropped; here nothing ever is ahead.

        Args:
            policy: the policy being learnt.
            flat: its parameters, whose places in the vector may be others than before.
            version: of the policy.
        """

    def close(self) -> None:
        """Ends sampling; closing the environments is left to their owner."""

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of each member, with the steps of its full rollouts, which are not in it."""
        return [
            {**each.state_dict(), "waiting": self.ready * each.steps * each.slots}
            for each in self.members
        ]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> int:
        """Restores what `state_dict` returned.

        Returns:
            How many slots had to start a new episode.
        """
        pairs = zip(self.members, states, strict=True)
        return sum(len(member.load_state_dict(state)) for member, state in pairs)


def largest_of(samplers: SamplerGroup) -> str:
    """How large the latest observations and rewards are, which may be why gradients overflow."""
    observed, rewards = samplers.largest()
    return f"The latest observations reach {observed:.2g}, and rewards {rewards:.2g}."


def largest(rollouts: Sequence[Rollout]) -> tuple[float, float]:
    """The largest absolute values in the float observations of rollouts, and in their rewards."""
    leaves = [leaf for rollout in rollouts for leaf in rollout.obs.values()]
    floats = [leaf for leaf in leaves if leaf.is_floating_point()]
    observed = max((leaf.abs().max().item() for leaf in floats), default=0)
    return observed, max(rollout.reward.abs().max().item() for rollout in rollouts)


_DONE = object()
"""What `next` returns for a member that has nothing left to do."""
