"""What is searched where nobody said."""

from __future__ import annotations

from typing import Any

from poise.config.algorithms import algorithm_spec
from poise.config.presets import SPACES
from poise.config.registry import find_algorithm, parents_of
from poise.config.resolve import field_types
from poise.config.shared import NETWORK_SEARCH
from poise.tuning.space import loguniform, parse


def default_space(algorithm: str) -> tuple[dict[str, Any], str]:
    """The searches that come with an algorithm.

    Its own, else those of the algorithm that its class is derived from, else those that suit any.

    Returns:
        Settings with searches in the place of some; and a sentence, where they are not its own.
    """
    name, spec = algorithm_spec(algorithm)
    if SPACES.get(name):
        return parse(SPACES[name]), ""
    known, says = field_types(spec.config), f"{name} says nothing of what to search"
    for parent in parents_of(find_algorithm(name)):
        if space := {key: value for key, value in SPACES.get(parent, {}).items() if key in known}:
            sentence = f"{says}, so that it is what {parent} searches: {', '.join(space)}."
            return parse(space), sentence
    lr = spec.config().lr
    first = lr[0][1] if isinstance(lr, list) else lr
    rates = {"lr": loguniform(first / 10, first * 10)} if first else {}
    space = {**rates, "gamma": "choice([0.98, 0.99, 0.995, 0.999])", **NETWORK_SEARCH}
    return parse(space), f"{says}: {', '.join(space)} are searched."
