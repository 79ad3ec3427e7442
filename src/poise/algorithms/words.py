"""What algorithms say of parameters, and of what they were learnt from."""

from __future__ import annotations

from poise.learning.optimizers import Change
from poise.sampling.group import SamplerGroup


def largest_of(samplers: SamplerGroup) -> str:
    """How large the latest observations and rewards are, which may be why gradients overflow."""
    observed, rewards = samplers.largest()
    return f"The latest observations reach {observed:.2g}, and rewards {rewards:.2g}."


def replaced(name: str, change: Change) -> str:
    """Says which parameters were replaced, of which learner."""
    sentence = (
        f"Parameters of the {name} were replaced ({listed(change.replaced)}): "
        "training goes on with those that are there now."
    )
    if change.places is not None:
        sentence += " The optimiser remembers nothing of those that are new to it."
    return sentence


def listed(names: list[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
