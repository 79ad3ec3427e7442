"""Atari games: which names are theirs, and how their pictures are prepared.

Reading either needs no emulator.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

from poise.config.types import Fraction, PositiveInt, Range, coerce
from poise.errors import ConfigError, nearest

FRAMES_PER_SECOND = 60
"""Frames that the console shows in a second."""

LONGEST_EPISODE = 108_000
"""Frames after which an episode is cut, unless a limit is set.

It is half an hour of play (Machado et al. 2018).
"""

GAMES = (  # noqa: SIM905
    "Adventure AirRaid Alien Amidar Assault Asterix Asteroids Atlantis BankHeist BattleZone "
    "BeamRider Berzerk Bowling Boxing Breakout Carnival Centipede ChopperCommand CrazyClimber "
    "Defender DemonAttack DoubleDunk ElevatorAction Enduro FishingDerby Freeway Frostbite Gopher "
    "Gravitar Hero IceHockey Jamesbond JourneyEscape Kangaroo Krull KungFuMaster MontezumaRevenge "
    "MsPacman NameThisGame Phoenix Pitfall Pong Pooyan PrivateEye Qbert Riverraid RoadRunner "
    "Robotank Seaquest Skiing Solaris SpaceInvaders StarGunner Tennis TimePilot Tutankham UpNDown "
    "Venture VideoPinball WizardOfWor YarsRevenge Zaxxon"
).split()
"""The games of Gym's old names: a plain `Pong-v4` is Atari's if it is one of these.

The emulator has more of them.
"""

_NAME = re.compile(r"(?:ale_py:)?(?:(ALE/)(\w+)-v5|(\w+?)(NoFrameskip|Deterministic)?-v([04]))")


class AtariName(NamedTuple):
    """What the name of an Atari environment says."""

    game: str
    """`Pong`; whether the emulator has it is not known here."""

    sticky_actions: float
    """Probability that goes with the name: 0.25 for `ALE/Pong-v5` and every `-v0`, 0 for `-v4`."""


def atari_name(env_id: str) -> AtariName | None:
    """Reads the name of an Atari environment; None for names of other environments.

    They are `PongNoFrameskip-v4`, `PongDeterministic-v4`, `Pong-v4` (each also `-v0`) and
    `ALE/Pong-v5`.
    """
    found = _NAME.fullmatch(env_id)
    if found is None:
        return None
    ale, modern, game, suffix, version = found.groups()
    if not ale and not suffix and game not in GAMES:
        return None
    return AtariName(modern or game, 0.0 if version == "4" else 0.25)


@dataclass
class AtariConfig:
    """The `env_config` of Atari games.

    The defaults are the preprocessing of Mnih et al. 2015 and Machado et al. 2018, except that an
    episode ends with the game, not with a life.
    """

    frame_skip: Annotated[int, Range(1, 1000)] = 4
    """Frames that each action lasts; the picture is the maximum of the last two."""

    grayscale: bool = True
    """Grey pictures; otherwise each has three channels."""

    size: Annotated[int, Range(16, 256)] = 84
    """Side of the pictures, which are square."""

    stack: Annotated[int, Range(1, 64)] = 4
    """Pictures in one observation, the latest last; black ones fill up an episode's start."""

    sticky_actions: Fraction | None = None
    """Probability, at each frame, that the console repeats the action before.

    null: as the environment's name says.
    """

    episodic_life: bool = False
    """Whether learning takes the loss of a life for the end of an episode.

    Episodes and scores remain those of whole games.
    """

    full_action_space: bool = False
    """All 18 actions of the joystick, instead of those that do something in this game."""

    noop_max: Annotated[int, Range(0, 10_000)] = 30
    """Episodes begin after a random number of idle frames below this one."""

    fire_reset: bool = True
    """Whether FIRE is pressed once at the start, in games that know it."""

    max_episode_steps: PositiveInt | None = None
    """Steps of the agent after which an episode is cut.

    null: 108,000 frames, which are 27,000 steps of four.
    """

    num_threads: Annotated[int, Range(0, 1024)] = 0
    """Threads of the emulator. 0: one for each environment, but no more than there are cores."""

    aliases: ClassVar[dict[str, str]] = {
        "dim": "size",
        "screen_size": "size",
        "img_size": "size",
        "frameskip": "frame_skip",
        "framestack": "stack",
        "frame_stack": "stack",
        "stack_num": "stack",
        "gray_scale": "grayscale",
        "grayscale_obs": "grayscale",
        "repeat_action_probability": "sticky_actions",
        "terminal_on_life_loss": "episodic_life",
        "use_fire_reset": "fire_reset",
    }
    """Other names of the options above, from Gymnasium, ALE, EnvPool and RLlib."""


def atari_config(name: AtariName, options: dict[str, Any]) -> AtariConfig:
    """The complete options of a game.

    Args:
        name: decides about sticky actions where the options do not.
        options: keys of `AtariConfig`, or aliases of them.

    Raises:
        ConfigError: an unknown option (with the nearest known one), one given under two names, or a
            value that is not allowed.
    """
    hints = typing.get_type_hints(AtariConfig, include_extras=True)
    known = [field.name for field in dataclasses.fields(AtariConfig)]
    given: dict[str, str] = {}
    config = AtariConfig()
    for key, value in options.items():
        if key == "wrappers":  # no option of the emulator: they are put around the game
            continue
        target = AtariConfig.aliases.get(key, key)
        if target not in known:
            raise ConfigError(
                f"Unknown option {key!r} in the env_config of an Atari game."
                f"{nearest(key, [*known, *config.aliases])}"
            )
        if target in given:
            raise ConfigError(
                f"{given[target]!r} and {key!r} are two names of one option: give only one of them."
            )
        given[target] = key
        setattr(config, target, coerce(hints[target], value, f"env_config.{key}"))
    if config.sticky_actions is None:
        config.sticky_actions = name.sticky_actions
    if config.max_episode_steps is None:
        config.max_episode_steps = max(1, LONGEST_EPISODE // config.frame_skip)
    return config
