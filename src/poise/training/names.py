"""What the names in a run's configuration stand for, written down beside it and read again.

Names that came in a file import nothing before `poise.envs.trust` has let them pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
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
"""Settings that name code: key, what it names, key of its arguments, look-up of a name."""


def homes(config: AlgorithmConfig) -> dict[str, str]:
    """`module:Name` of what is registered under the names of a configuration.

    Another process finds it by that, where this one has registered it under a name.
    """
    names = [(attrgetter(key)(config), registered) for key, _, _, registered in _PLACES]
    things = {name: registered(name) for name, registered in names if isinstance(name, str)}
    named = {name: env_name(thing) for name, thing in things.items() if thing is not None}
    return {name: home for name, home in named.items() if ":" in home and "<" not in home}


def remember(config: AlgorithmConfig, algorithm: str = "") -> None:
    """Makes known to this machine what the user's own command or script has trained with.

    Args:
        config: what it has trained with.
        algorithm: the home of its algorithm, where it has one.
    """
    trust.remember(*_labels(config), *homes(config).values(), *filter(None, [algorithm]))


def _labels(config: AlgorithmConfig) -> Iterator[str]:
    """What `poise.envs.trust` calls the code that a configuration names."""
    model, env_config = config.model, dict(config.env_config)
    for wrapper, arguments in take_wrappers(env_config):
        yield from trust.labels(_name(wrapper), arguments)
    yield from trust.labels(_name(config.env), env_config)
    yield from trust.labels(model.custom_model, model.custom_model_config)
    yield from trust.labels(model.custom_preprocessor)
    address = config.ray_address
    if trust.is_elsewhere(address) and not isinstance(address, trust.Foreign):
        yield trust.address_label(str(address))


def _name(thing: Any) -> str:
    return thing if isinstance(thing, str) else env_name(thing)


def portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings with `module:Name` in the place of objects and of names of this process alone.

    That needs a module that another process can import; the rest stays as it is.
    """
    result = dict(settings)
    for key, _, _, registered in _PLACES:
        value = settings.get(key)
        thing = registered(value) if isinstance(value, str) else value
        home = env_name(thing) if callable(thing) else ""
        if ":" in home and "<" not in home and not home.startswith("__main__:"):
            result[key] = home
    return result


def admit(settings: Mapping[str, Any], source: object, *, trusted: bool = False) -> None:
    """Lets the names in flat settings that came in a file pass, also those of a search's choices.

    Args:
        settings: by dotted keys.
        source: the file, for the sentence.
        trusted: the user says that they may be used; this machine remembers it.

    Raises:
        TrustError: one of them would run code that nobody has confirmed.
    """
    given = _options(settings.get("wrappers"))
    for own in _options(settings.get("env_config")):
        given += _options(own.get(WRAPPERS)) if isinstance(own, Mapping) else []
    for name, arguments in (pair for each in given for pair in take_wrappers({WRAPPERS: each})):
        if isinstance(name, str) and trusted:
            trust.remember(*trust.labels(name, arguments))
        elif isinstance(name, str):
            trust.admit(trust.Foreign(name, source), "wrapper", config=arguments)
    for key, kind, arguments_key, registered in _PLACES:
        configs = [
            {name: value for name, value in each.items() if name != WRAPPERS}
            for each in _options(settings.get(arguments_key))
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
    """All values that a setting may get: its own, or a search's choices and those inside them."""
    if not hasattr(value, "options"):
        return [value]
    return [each for option in value.options for each in _options(option)]


def bring_algorithm(saved: Mapping[str, Any], source: object, *, trusted: bool = False) -> None:
    """Imports the module that registers a file's algorithm, where this process does not know it.

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
        raise ConfigError(
            f"{source} is of {name!r}, and there is no algorithm of this name. If it is one of "
            "your own, go on in the script that calls poise.register_algorithm, "
            "or import its module."
        )
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
    own: Collection[str] = (),
) -> AlgorithmConfig:
    """Marks the names of a configuration that came in a file.

    Args:
        config: is changed, and returned.
        source: the file, for the sentence.
        homes: what the file says that registered names stand for; taken where this process knows no
            such name.
        trusted: the user says that they may be used; this machine remembers it.
        own: settings that the user gave in place of the file's.
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
    if trust.is_elsewhere(config.ray_address) and "ray_address" not in own:
        address = str(config.ray_address)
        config.ray_address = address if trusted else trust.Foreign(address, source)
    if trusted:
        remember(config)
    return config
