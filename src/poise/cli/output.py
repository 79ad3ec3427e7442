"""What the command prints: through one door, since names in it may come from files."""

from __future__ import annotations

import click

from poise.errors import shown


def echo(text: object, *, err: bool = False) -> None:
    """Prints lines; what a terminal would obey instead of showing it becomes its code."""
    click.echo(shown(text, lines=True), err=err)
