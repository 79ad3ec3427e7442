"""What the names in a run's configuration stand for: written down beside it, and read again through
the door of `poise.envs.trust`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from operator import attrgetter
from typing import Any

from poise.config.algorithms import algorithm_names
from poise.config.base import WRAPPERS, AlgorithmConfig, env_name
from poise.envs import trust
from poise.envs.make import admit_env, registered_env
from poise.envs.wrap import take_wrappers
from poise.errors import ConfigError
from poise.models.catalog import registered_model, registered_preprocessor

_PLACES: list[tuple[str, str, str, Callable[[Any], Any]]] = [
    ("env", "environment", "env_config", registered_env),
    ("model.custom_model", "model", "model.custom_model_config", registered_model),
    ("model.custom_preprocessor", "preprocessor", "", registered_preprocessor),
]
"""Settings that name code: the key, what it names, the key of its arguments, and what is registered
under a name."""


def homes(config: AlgorithmConfig) -> dict[str, str]:
    """`module:Name` of what this process has registered under the names of a configuration, so that
    another process finds it."""
    names = [(attrgetter(key)(config), registered) for key, _, _, registered in _PLACES]
    things = {name: registered(name) for name, registered in names if isinstance(name, str)}
    named = {name: env_name(thing) for name, thing in things.items() if thing is not None}
    return {name: home for name, home in named.items() if ":" in home and "<" not in home}


def remember(config: AlgorithmConfig, algorithm: str = "") -> None:
    """Makes known to this machine what the user's own command or script has trained with, and the
    home of its algorithm."""
    trust.remember(*_labels(config), *homes(config).values(), *filter(None, [algorithm]))


def _labels(config: AlgorithmConfig) -> Iterator[str]:
    model, env = config.model, config.env if isinstance(config.env, str) else env_name(config.env)
    env_config = dict(config.env_config)
    for wrapper, arguments in take_wrappers(env_config):
        yield from trust.labels(
            wrapper if isinstance(wrapper, str) else env_name(wrapper), arguments
        )
    yield from trust.labels(env, env_config)
    yield from trust.labels(model.custom_model, model.custom_model_config)
    yield from trust.labels(model.custom_preprocessor)


def portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings with `module:Name` where they have an object, or a name that only this process
    knows, of a module that another process can import."""
    result = dict(settings)
    for key, _, _, registered in _PLACES:
        value = settings.get(key)
        thing = registered(value) if isinstance(value, str) else value
        home = env_name(thing) if callable(thing) else ""
        if ":" in home and "<" not in home and not home.startswith("__main__:"):
            result[key] = home
    return result


def admit(settings: Mapping[str, Any], source: object, *, trusted: bool = False) -> None:
    """Lets the names in flat settings that came in a file pass, also those that a search chooses
    from.

    Args:
        settings: by dotted keys.
        source: the file, for the sentence.
        trusted: the user says that they may be used; this machine remembers it.

    Raises:
        TrustError: one of them would run code that nobody has confirmed.
    """
    inside = [own for own in _options(settings.get("env_config")) if isinstance(own, Mapping)]
    given = [
        *_options(settings.get("wrappers")),
        *(each for own in inside for each in _options(own.get(WRAPPERS))),
    ]
    for name, arguments in (pair for each in given for pair in take_wrappers({WRAPPERS: each})):
        if isinstance(name, str) and trusted:
            trust.remember(*trust.labels(name, arguments))
        elif isinstance(name, str):
            trust.admit(trust.Foreign(name, source), "wrapper", config=arguments)
    for key, kind, own, registered in _PLACES:
        configs = [
            {name: value for name, value in each.items() if name != WRAPPERS}
            for each in _options(settings.get(own))
            if isinstance(each, Mapping)
        ]
        for name, config in product(_options(settings.get(key)), configs or [{}]):
            if not isinstance(name, str) or registered(name) is not None:
                continue
            if trusted:
                trust.remember(*trust.labels(name, config))
            elif key == "env":
                admit_env(trust.Foreign(name, source), config)
            else:
                trust.admit(trust.Foreign(name, source), kind, config=config)


def _options(value: Any) -> list[Any]:
    """What a search chooses from, itself perhaps among searches; a value that is settled is the
    only one."""
    return (
        [each for option in value.options for each in _options(option)]
        if hasattr(value, "options")
        else [value]
    )


def bring_algorithm(saved: Mapping[str, Any], source: object, *, trusted: bool = False) -> None:
    """Imports the module that registers an algorithm, where a file has one that this process does
    not know.

    Args:
        saved: its name (`algorithm`), and what `home_of` said of it (`home`).
        source: the file, for the sentence.
        trusted: the user says that it may be used; this machine remembers it.

    Raises:
        TrustError: that would run code which nobody has confirmed.
        ConfigError: there is no such module, or no algorithm of this name.
    """
    name, home = saved.get("algorithm"), saved.get("home")
    if not isinstance(name, str) or name in algorithm_names():
        return
    if not isinstance(home, str) or not home:
        own = (
            "If it is one of your own, go on in the script that calls poise.register_algorithm, or"
            " import its module."
        )
        raise ConfigError(f"{source} is of {name!r}, and there is no algorithm of this name. {own}")
    if trusted:
        trust.remember(home)
    trust.admit(trust.Foreign(home, source), "algorithm")
    trust.load_module(home, "algorithm", ConfigError)


def from_file(
    config: AlgorithmConfig,
    source: object,
    homes: Mapping[str, str] | None = None,
    *,
    trusted: bool = False,
) -> AlgorithmConfig:
    """Marks the names of a configuration that came in a file.

    Args:
        config: is changed, and returned.
        source: the file, for the sentence.
        homes: what the file says that registered names stand for; taken where this process knows no
            such name.
        trusted: the user says that they may be used; this machine remembers it.
    """
    homes = homes if isinstance(homes, Mapping) else {}
    for key, _, _, registered in _PLACES:
        owner, name = (config.model, key.removeprefix("model.")) if key != "env" else (config, key)
        value = getattr(owner, name)
        if trusted and isinstance(value, trust.Foreign):
            setattr(owner, name, str(value))
        elif isinstance(value, str) and value and registered(value) is None:
            found = str(homes.get(value, value))
            setattr(owner, name, found if trusted else trust.Foreign(found, source))
    env_config = dict(config.env_config)
    if wrappers := take_wrappers(env_config):
        marked = [(trust.Foreign(name, source), arguments) for name, arguments in wrappers]
        config.env_config = {**env_config, WRAPPERS: wrappers if trusted else marked}
    if trusted:
        remember(config)
    return config
