"""`poise algorithms` and `poise config`: what there is, and what every setting means."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from poise.cli.complete import complete_algorithm, complete_env
from poise.cli.flags import NETWORKS, SHARED, TRAINED, own_section, show, visible_flags
from poise.config.algorithms import ALGORITHMS, algorithm_names, algorithm_spec
from poise.config.presets import PRESETS, find_preset
from poise.config.resolve import canonical
from poise.config.types import describe
from poise.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

WIDE = 120
"""Columns from which on a table has room for what is allowed and for other names of a setting."""


@click.command()
def algorithms() -> None:
    """List the algorithms and their presets."""
    from rich.console import Console
    from rich.table import Table

    table = Table("algorithm", "what it is", box=None, pad_edge=False, header_style="bold")
    failed = []
    for name in algorithm_names():
        try:
            table.add_row(name, algorithm_spec(name)[1].summary)
        except ConfigError as error:
            failed.append(str(error))
    console = Console(highlight=False)
    console.print(table)
    for name in ALGORITHMS:
        presets = ", ".join(PRESETS.get(name, {})) or "none"
        console.print(f"\n[bold]presets of {name}[/bold]\n{presets}")
    click.echo("".join(f"\n{sentence}" for sentence in failed))
    click.echo("poise config PPO explains the settings; poise train PPO --env CartPole-v1 begins.")


@click.command()
@click.argument("algorithm", shell_complete=complete_algorithm)
@click.option("--env", metavar="NAME", shell_complete=complete_env,
              help="Show the values that its preset sets.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def config(algorithm: str, env: str | None, as_json: bool) -> None:
    """Explain every setting of an algorithm."""
    name = algorithm_spec(algorithm)[0]
    preset, rows = settings_of(name, env)
    if as_json:
        click.echo(json.dumps({"algorithm": name, "preset": preset, "settings": rows}, indent=2))
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_table(rows, wide=console.width >= WIDE))
    if preset:
        click.echo(f"\n* from the preset {preset}; --preset none trains without it.")
    elif env:
        click.echo(f"\n{name} has no preset for {env}; these are its defaults.")
    click.echo(
        f"\nEach is a flag of `poise train {name}`, and a keyword argument of `poise.{name}`."
    )


def settings_of(
    algorithm: str, env: str | None = None
) -> tuple[str | None, dict[str, dict[str, Any]]]:
    """All that is to be known about the settings of an algorithm.

    Args:
        algorithm: its registered name.
        env: an environment, whose preset gives values.

    Returns:
        The preset's name, if there is one; and for each setting, by its key, what `poise config
        --json` prints.
    """
    config_class = ALGORITHMS[algorithm].config
    preset, tuned = find_preset(algorithm, env, "auto") if env else (None, {})
    tuned = canonical(config_class, tuned)
    order = [TRAINED, own_section(algorithm), SHARED, NETWORKS]
    rows = {}
    for flag in sorted(visible_flags(algorithm), key=lambda flag: order.index(flag.section)):
        key, default = flag.spelling, flag.shown_default
        rows[key] = {
            "value": env if key == "env" else tuned.get(key, default),
            "default": default,
            "from_preset": key in tuned,
            "section": flag.section,
            "help": flag.help,
            "allowed": describe(flag.annotation),
            "aliases": [alias for alias, target in config_class.aliases.items() if target == key],
        }
    return preset, rows


def _table(rows: dict[str, dict[str, Any]], *, wide: bool) -> Table:
    """The settings in sections; in a narrow terminal, details stand below what each means."""
    from rich.table import Table
    from rich.text import Text

    titles = ["setting", "value", "meaning", *(["allowed", "also known as"] if wide else [])]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title, ratio in zip(titles, (None, None, 5, 3, 2), strict=False):
        table.add_column(title, ratio=ratio, no_wrap=title in ("setting", "value"), overflow="fold")
    section = None
    for key, row in rows.items():
        if row["section"] != section:
            section = row["section"]
            table.add_row()
            table.add_row(Text(section, "bold"))
        star, style = ("*", "bold") if row["from_preset"] else ("", "")
        value, meaning = Text(show(row["value"]) + star, style), Text(row["help"])
        names = ", ".join(row["aliases"])
        allowed = "" if row["allowed"] == describe(Any) else row["allowed"]
        if wide:
            table.add_row(Text(key), value, meaning, Text(allowed, "dim"), Text(names, "dim"))
        else:
            details = "; ".join(part for part in (allowed, names and f"also {names}") if part)
            table.add_row(Text(key), value, meaning.append(details and f"\n{details}", "dim"))
    return table
