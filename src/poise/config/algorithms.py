"""The algorithms by name: Poise's own, a script's, and those of installed packages.

An algorithm of Poise is a file here (settings, presets, search space), a file in
`poise.algorithms` (the paper's loop), and its entry in `ALGORITHMS`.
"""

from __future__ import annotations

from poise.config import a2c, appo, dqn, impala, installed, ppo, sac, td3
from poise.config.hints import algorithm_hint
from poise.config.spec import AlgorithmSpec
from poise.config.types import brief
from poise.errors import ConfigError

ALGORITHMS: dict[str, AlgorithmSpec] = {
    "PPO": ppo.SPEC, "A2C": a2c.SPEC, "DQN": dqn.SPEC, "IMPALA": impala.SPEC, "APPO": appo.SPEC,
    "SAC": sac.SPEC, "TQC": sac.TQC, "CrossQ": sac.CROSSQ, "TD3": td3.SPEC, "DDPG": td3.DDPG,
}  # fmt: skip
"""The algorithms that are known without a look at installed packages."""

TAKEN: set[str] = set()
"""Names that no algorithm may have: `poise`, which fills this set, has something else there."""


def known_name(name: object) -> str | None:
    """The name as it was registered, whatever its case here; None if it is not registered (yet)."""
    return next((known for known in ALGORITHMS if known.lower() == str(name).lower()), None)


def algorithm_names() -> list[str]:
    """All names, with those of installed packages, none of which is imported."""
    return [*ALGORITHMS, *(name for name in installed.entries() if known_name(name) is None)]


def algorithm_spec(name: str) -> tuple[str, AlgorithmSpec]:
    """The canonical name and the entry of an algorithm, whatever the case of `name`.

    Raises:
        ConfigError: there is no such algorithm (the sentence names the nearest and all there are),
            or it is in an installed package that cannot be imported.
    """
    failed = installed.bring_in(name) if known_name(name) is None else ""
    known = known_name(name)
    if known is None:
        names = algorithm_names()
        hint = algorithm_hint(str(name), names)
        raise ConfigError(
            failed or f"There is no algorithm {brief(name)}.{hint} Known: {', '.join(names)}."
        )
    return known, ALGORITHMS[known]
