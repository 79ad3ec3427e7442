"""Flags made from dataclasses.

Every config key is a flag, with its docstring as the help and its type as the check.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from poise.cli.complete import complete_env
from poise.config.algorithms import ALGORITHMS
from poise.config.base import AlgorithmConfig
from poise.config.docs import field_docs
from poise.config.resolve import field_types
from poise.config.run import LoggerName
from poise.config.types import coerce, describe, parse_text

KEPT_AS = {"loggers": "log"}
"""The flags of what is kept that are not called as their fields are."""
TRAINED, KEPT, OTHER = "What is trained", "What is kept", "Other"
SHARED, NETWORKS = "Settings of every algorithm", "Settings of the networks"
"""Sections of `poise train --help`, beside the algorithm's own."""

NONE: Mapping[str, str] = {}
_METAVARS = {
    "an int": "INT",
    "a num": "NUMBER",
    "true": "BOOL",
    "a list": "LIST",
    "a map": "JSON",
    "a text": "TEXT",
}
"""How the help calls a value, by how the description of its type begins."""


class Flag(click.Option):
    """An option that knows its section in the help."""

    def __init__(self, *args: Any, section: str = TRAINED, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section


class Value(click.ParamType):
    """A value as the annotation of a field asks for, typed on a command line."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        words = describe(annotation)
        fitting = (name for start, name in _METAVARS.items() if words.startswith(start))
        self.name = next(fitting, "NAME")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or self.annotation is Any:
            return value
        parsed = parse_text(value)
        # `--model.fcnet_hiddens 64` is one layer, and `--log wandb` one logger.
        wants_list = typing.get_origin(self.annotation) is list
        alone = (str,) if self.annotation == list[LoggerName] else (int, float)
        return [parsed] if wants_list and isinstance(parsed, alone) else parsed

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        words = re.findall(r"'(\w+)'", describe(self.annotation))
        words = words or ["true", "false"] * (self.name == "BOOL")
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]


class Setting(Flag):
    """The flag of one config key under one of its names; `given` returns the values.

    Each alias is a flag of its own, hidden in the help, so that a setting under two names is
    noticed.
    """

    def __init__(
        self, spelling: str, annotation: Any, default: Any = None, help: str = "", **attributes: Any
    ) -> None:
        kind = Value(annotation)
        alone: dict[str, Any] = {"is_flag": False, "flag_value": "true"}
        super().__init__(
            [f"--{spelling}", "setting_" + re.sub(r"\W", "__", spelling)],
            type=kind,
            metavar=kind.name,
            help=help,
            callback=_note,
            expose_value=False,
            **(alone if kind.name == "BOOL" else {}),
            **attributes,
        )
        self.spelling, self.annotation, self.shown_default = spelling, annotation, default

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        if self.hidden:
            return None
        name = f"--{self.spelling} {self.metavar}"
        if self.annotation is Any:
            return name, self.help or ""
        return name, f"{self.help} {_facts(self.annotation, self.shown_default)}"


def _note(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    # None may be a value that was given: `--grad_clip null`.
    if param.name and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE:
        assert isinstance(param, Setting)
        note(ctx, param.spelling, value)
    return value


def note(ctx: click.Context, key: str, value: Any) -> None:
    """Remembers a setting that was given, for `given`."""
    ctx.meta.setdefault(__name__, {})[key] = value


def _facts(annotation: Any, default: Any) -> str:
    """What the help says of a flag's value: what is allowed, and the default."""
    return f"[{describe(annotation)}; default: {show(default)}]"


def given(ctx: click.Context) -> dict[str, Any]:
    """The settings given as flags, under the names they were given by."""
    return dict(ctx.meta.get(__name__, {}))


def own_section(algorithm: str) -> str:
    """The section of the settings that only this algorithm has."""
    return f"Settings of {algorithm}"


def setting_flags(algorithm: str | None) -> tuple[Setting, ...]:
    """The flags of an algorithm's settings; of all algorithms' where None, each name once."""
    names = [algorithm] if algorithm else ALGORITHMS
    return _flags_of_all(tuple((ALGORITHMS[name].config, own_section(name)) for name in names))


@functools.cache
def _flags_of_all(configs: tuple[tuple[type[AlgorithmConfig], str], ...]) -> tuple[Setting, ...]:
    flags: dict[str, Setting] = {}
    for config, section in configs:
        for flag in _flags_of(config, section):
            flags.setdefault(flag.spelling, flag)
    return tuple(flags.values())


def visible_flags(algorithm: str) -> list[Setting]:
    """The flags of an algorithm's settings under their own names, without the aliases."""
    return [flag for flag in setting_flags(algorithm) if not flag.hidden]


def _flags_of(config: type[AlgorithmConfig], own_section: str) -> Iterable[Setting]:
    """The flags of a configuration's keys, and of their other names."""
    types, docs, defaults = field_types(config), field_docs(config), default_values(config)
    shared = field_types(AlgorithmConfig)
    for key, annotation in types.items():
        if key in ("env", "seed"):
            section = TRAINED
        elif key.startswith("model."):
            section = NETWORKS
        else:
            section = SHARED if key in shared else own_section
        more = {"shell_complete": complete_env} if key == "env" else {}
        help = docs.get(key, "")
        yield Setting(key, annotation, defaults[key], help, section=section, **more)
    for alias, key in config.aliases.items():
        if key in types:
            yield Setting(alias, types[key], hidden=True)
    said = bool | float | str | list[Any]  # read as JSON, where it is some
    yield from (Setting(name, said, hidden=True) for name in config.spellings)


def default_values(config: type) -> dict[str, Any]:
    """The defaults of a config dataclass by key, nested ones dotted."""
    values: dict[str, Any] = {}
    instance = config()
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            inner = default_values(type(value))
            values.update({f"{field.name}.{key}": item for key, item in inner.items()})
        else:
            values[field.name] = value
    return values


def show(value: Any) -> str:
    """A setting's value as it is written on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def with_options(
    options: type, section: str, names: Mapping[str, str] = NONE, defaults: Mapping[str, str] = NONE
) -> Callable[[click.Command], click.Command]:
    """Gives a command the flags of a dataclass.

    Args:
        options: what a run leaves on disk (`RunOptions`), or how settings are searched (`Search`).
        section: of the help, where the flags stand.
        names: of the flags that are not called as their fields are, by field; with an empty name, a
            field has no flag.
        defaults: what the help calls the default, by field, where the command's own is not that of
            the dataclass.
    """

    def give(command: click.Command) -> click.Command:
        command.params.extend(_option_flags(options, section, names, defaults))
        return command

    return give


def _option_flags(
    options: type, section: str, names: Mapping[str, str], defaults: Mapping[str, str]
) -> Iterable[Flag]:
    docs, made = field_docs(options), {f.name: f for f in dataclasses.fields(options)}
    for key, annotation in field_types(options).items():
        name = names.get(key, key.replace("_", "-"))
        if not name:
            continue
        plain = made[key].default
        default = defaults.get(key, [] if plain is dataclasses.MISSING else plain)
        if describe(annotation).startswith("true"):
            help = f"{docs[key]} [default: {show(default)}]"
            yield Flag([f"--{name}/--no-{name}", key], default=None, section=section, help=help)
        else:
            kind = Value(annotation)
            help = f"{docs[key]} {_facts(annotation, default)}"
            yield Flag([f"--{name}", key], type=kind, metavar=kind.name, section=section, help=help)


def options_given(
    options: type, values: Mapping[str, Any], names: Mapping[str, str] = NONE
) -> dict[str, Any]:
    """The values of a dataclass's flags that were given, among those of other flags.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """
    found = {}
    for key, annotation in field_types(options).items():
        if (name := names.get(key, key)) and values.get(key) is not None:
            found[key] = coerce(annotation, values[key], name)
    return found
