"""From what a person wrote to a complete configuration.

    defaults  <  preset of (algorithm, environment)  <  what the user set

Aliases are translated and types are checked; then `derive()` fills in the rest and finds
contradictions.
"""

from __future__ import annotations

import dataclasses
import re
import typing
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

from poise.config.algorithms import algorithm_spec
from poise.config.base import AlgorithmConfig, env_name
from poise.config.hints import setting_hint
from poise.config.presets import find_preset
from poise.config.types import PositiveInt, Schedule, brief, coerce
from poise.config.zoo import zoo_preset
from poise.errors import ConfigError, PoiseWarning
from poise.learning.schedules import falling, schedule_value

_FALLING = re.compile(r"(linear|cosine)(?:_(\d+(?:\.\d+)?(?:e-?\d+)?))?")


def resolve(
    algorithm: str,
    env: Any = None,
    settings: dict[str, Any] | None = None,
    *,
    preset: str | None = "auto",
    stop: Any = None,
) -> tuple[AlgorithmConfig, str | None]:
    """Builds the complete configuration of a run.

    Args:
        algorithm: its name, in any case.
        env: environment; may also stand in `settings["env"]`.
        settings: keys by canonical name or alias; nested keys as `{"model": {...}}` or
            `{"model.fcnet_hiddens": ...}`.
        preset: `"auto"` takes the preset tuned for this environment, if there is one; `None` takes
            none; the name of an environment takes that environment's; the name of a file
            (`ppo.yml`) reads one of RL Baselines3 Zoo.
        stop: the run's stop rules. Schedules of the Zoo last for its `timesteps_total`, as with the
            Zoo's option `-n`.

    Returns:
        The configuration and the name of the preset that was used, if any.

    Raises:
        ConfigError: an unknown key, a wrong type or range, an alias beside its canonical name, or a
            contradiction.
    """
    name, spec = algorithm_spec(algorithm)
    chosen = canonical(spec.config, settings or {})
    if env is not None:
        if "env" in chosen and chosen["env"] != env:
            raise ConfigError(
                f"env={env!r} contradicts env={chosen['env']!r} in the config: leave one out."
            )
        chosen["env"] = env
    inside = chosen.get("env_config")
    own = inside.get("wrappers") if isinstance(inside, Mapping) else None
    if own and own != chosen.get("wrappers", own):
        raise ConfigError(
            f"wrappers={chosen['wrappers']!r} and env_config['wrappers']={own!r} are two names of "
            "one setting: give only one of them."
        )
    label = env_name(chosen.get("env"))
    limit = stop.get("timesteps_total") if isinstance(stop, Mapping) else None
    length = chosen.get("total_timesteps") if limit is None else limit
    if preset is not None and preset.endswith((".yml", ".yaml")):
        used: str | None = preset
        tuned = zoo_preset(preset, name, label, partial(_knows, spec.config), length)
    else:
        used, tuned = find_preset(name, label, preset)
    settled = _over(tuned := canonical(spec.config, tuned), chosen)
    _draw_schedules(spec.config, settled, tuned, length or settled.get("total_timesteps"))
    config = build(spec.config, settled)
    config.derive(set(chosen))
    return config, used


def _over(tuned: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """Lays what the user set over a preset; an `env_config` key by key."""
    below, above = tuned.get("env_config"), chosen.get("env_config")
    if isinstance(below, dict) and isinstance(above, dict):
        return {**tuned, **chosen, "env_config": {**below, **above}}
    return {**tuned, **chosen}


def _draw_schedules(
    config: type[AlgorithmConfig], settled: dict[str, Any], tuned: dict[str, Any], length: Any
) -> None:
    """Puts points in the place of schedules that are named: `lr="cosine"`, `lr="linear_0.001"`.

    They begin with the number in the name, else with the preset's value or the default, and fall
    to 0 within the run.

    Raises:
        ConfigError: the run has no length.
    """
    for key, hint in field_types(config).items():
        named = _FALLING.fullmatch(str(settled.get(key)))
        if named and typing.get_args(Schedule)[1] in typing.get_args(hint):
            if length is None:
                raise ConfigError(f"{key}={named[0]!r} needs the run's length: total_timesteps.")
            first = named[2] or schedule_value(tuned.get(key, getattr(config(), key)), 0)
            settled[key] = falling(
                named[1], float(first), coerce(PositiveInt, length, "total_timesteps")
            )


def _knows(config: type[AlgorithmConfig], key: str) -> bool:
    return key in config.spellings or config.aliases.get(key, key) in field_types(config)


def canonical(config: type[AlgorithmConfig], settings: dict[str, Any]) -> dict[str, Any]:
    """Flattens nested settings to dotted keys and translates aliases.

    Raises:
        ConfigError: an unknown key (with the nearest known one), or one setting given under two
            names.
    """
    result: dict[str, Any] = {}
    given: dict[str, str] = {}
    known = field_types(config)
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"config={brief(settings)} is not allowed: it must be a mapping of settings."
        )
    for key, target, value in _towers(config, _flat(config, settings)):
        if target not in known:
            names = [*known, *config.aliases, *config.spellings]
            hint = setting_hint(key, config.untranslatable, names)
            raise ConfigError(f"Unknown config key {brief(key)}.{hint}")
        if target in given:
            raise ConfigError(
                f"{given[target]!r} and {key!r} are two names of one setting: "
                "give only one of them."
            )
        given[target], result[target] = key, value
    return result


def _flat(config: type[AlgorithmConfig], settings: dict[str, Any]) -> list[tuple[str, Any]]:
    """Settings as (key, value), those of the model as `model.KEY`."""
    pairs: list[tuple[str, Any]] = []
    for key, value in settings.items():
        if not isinstance(key, str):
            raise ConfigError(f"Unknown config key {brief(key)}: keys are texts.")
        if config.aliases.get(key, key) == "model":
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                value = dataclasses.asdict(value)
            if not isinstance(value, dict):
                raise ConfigError(
                    f"{key}={brief(value)} is not allowed: it must be a mapping of model settings."
                )
            pairs += [(f"model.{inner}", item) for inner, item in value.items()]
        elif isinstance(value, Mapping) and any(n.startswith(f"{key}.") for n in config.aliases):
            pairs += [(f"{key}.{inner}", item) for inner, item in value.items()]
        else:
            pairs.append((key, value))
    return pairs


def _towers(
    config: type[AlgorithmConfig], settings: list[tuple[str, Any]]
) -> list[tuple[str, str, Any]]:
    """Settings as (key as given, canonical key, value), with layers by tower split up.

    Towers are Stable-Baselines3's `net_arch={"pi": [...], "vf": [...]}` (`qf`, where these are
    critics), and of its first version `[64, {"pi": [...], "vf": [...]}]`, whose first layers are
    shared.

    Raises:
        ConfigError: a tower is neither the policy's nor the value function's.
    """
    found: list[tuple[str, str, Any]] = []
    for key, value in settings:
        if key in config.spellings:
            found += [(key, *pair) for pair in _spelled(config, key, value).items()]
            continue
        target = config.aliases.get(key, key)
        *first, own = value if isinstance(value, (list, tuple)) and value else [value]
        if target != "model.fcnet_hiddens" or not isinstance(own, dict):
            found.append((key, target, value))
            continue
        value_name = "qf" if "qf" in own and hasattr(config, "num_critics") else "vf"
        if unknown := own.keys() - {"pi", value_name}:
            raise ConfigError(
                f"{key}={brief(value)} is not allowed: "
                f"{min(unknown, key=str)!r} is neither 'pi' nor {value_name!r}."
            )
        pi, vf = own.get("pi", []), own.get(value_name, [])
        if first and not (pi or vf):
            found += [(key, target, first), (key, "model.vf_share_layers", True)]
            continue
        if first:
            shown = (
                f"{key}={value!r}: policy and value function have their first layers, "
                f"{first}, each for itself."
            )
            warnings.warn(shown, PoiseWarning, stacklevel=3)
        for name, layers in ((target, pi), ("model.vf_fcnet_hiddens", vf)):
            if isinstance(layers, (list, tuple)):
                layers = [*first, *layers]
            found.append((key, name, layers))
    return found


def _spelled(config: type[AlgorithmConfig], key: str, value: Any) -> dict[str, Any]:
    """The settings that another library's key says.

    Raises:
        ConfigError: it says none.
    """
    try:
        return config.spellings[key](value)
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError):
        hint = setting_hint(key, config.untranslatable, ())
        raise ConfigError(f"{key}={brief(value)} is not allowed.{hint}") from None


def field_types(config: type) -> dict[str, Any]:
    """All keys of a configuration, nested ones dotted, with their types."""
    hints = typing.get_type_hints(config, include_extras=True)
    types: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            nested = field_types(typing.cast(type, hint))
            types.update({f"{field.name}.{key}": inner for key, inner in nested.items()})
        else:
            types[field.name] = hint
    return types


def build(config: type[AlgorithmConfig], flat: dict[str, Any]) -> AlgorithmConfig:
    """Checks each value of dotted keys against its field's type and sets it over the defaults."""
    result = config()
    for key, hint in field_types(config).items():
        if key in flat:
            owner: Any = result
            *parents, leaf = key.split(".")
            for parent in parents:
                owner = getattr(owner, parent)
            setattr(owner, leaf, coerce(hint, flat[key], key))
    return result
